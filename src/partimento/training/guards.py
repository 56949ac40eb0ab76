"""What keeps one bad step from spoiling a training: judged on the device, before the optimizer steps.

A step is bad if its loss or gradient norm is not finite, or stands out from those of the last accepted steps. Skipped
values never enter the window, and its centre and width are a median and a median deviation, which single values that
did enter cannot move: a guard with a mean that has absorbed the spike judges the next one by it.

Nothing here waits for the device or branches on a value, so that it compiles, records and traces with fixed shapes.
Shapes: R the two judged values (loss, gradient norm), W the window.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from partimento import config
from partimento.training.optim import misfit

# A median absolute deviation times this is the standard deviation of a normal distribution.
NORMAL = 1.4826
# A window that happens to be quiet would call healthy steps outliers, and so would one of a model that has learned a
# small pack by heart, whose loss and norm are next to nothing and jump by factors. So the deviation is at least
# LOSS_FLOOR times the loss that the training began with, or NORM_FLOOR in the logarithm of the norm, to which
# NORM_REST of the norm that the training began with is added first. Chosen on healthy trainings; see docs/guards.md.
LOSS_FLOOR = 0.03
NORM_FLOOR = 0.4
NORM_REST = 0.1
_SMALLEST = 1e-12  # of which the logarithm is taken, where a norm and its rest are 0


class Guard:
    """`judge` every step; read `figures` now and then; save `state`.

    Ranks that are given the same reduced loss and norm decide alike, bit for bit.
    """

    FIGURES = (
        "skipped",  # steps since the training began
        "skipped_in_a_row",  # up to now
        "skipped_in_window",  # of the last W steps
        "skipped_not_finite",  # of `skipped`, those whose loss or norm was NaN or infinite
        "skip_loss",  # of the last skipped step, and what it was held against; NaN before the first one
        "skip_norm",
        "skip_loss_limit",  # infinite where there was none yet
        "skip_norm_limit",
    )

    def __init__(self, guard: config.Guard, device: torch.device) -> None:
        self.sigma = guard.sigma
        self.window = guard.window
        self._slots_W = torch.arange(self.window, device=device)
        self._seen_RW = torch.zeros(2, self.window, device=device)
        self._skips_W = torch.zeros(self.window, dtype=torch.bool, device=device)
        self._accepted, self._attempted, self._skipped, self._in_a_row, self._not_finite = (
            torch.zeros((), dtype=torch.int64, device=device) for _ in range(5)
        )
        self._last_skip_2R = torch.full((2, 2), float("nan"), device=device)  # values, limits
        self._start_R = torch.full((2,), float("nan"), device=device)  # median of the first half window of the training

    @torch.no_grad()
    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether the step is to be skipped, a 0-D bool on the device; its values are remembered if it is not.

        `loss` (mean per token) and `norm` (of the gradient before it is clipped) are 0-D, reduced over all devices.
        """
        value_R = torch.stack((loss.float(), norm.float()))
        limit_R = self._limit_R()
        infinite = ~torch.isfinite(value_R).all()
        bad = infinite | (value_R > limit_R).any()

        # Masks instead of indexing: a value that is not selected leaves no trace, not even as NaN.
        slot_W = (self._slots_W == self._accepted % self.window) & ~bad
        self._seen_RW.copy_(torch.where(slot_W, value_R[:, None], self._seen_RW))
        self._accepted.add_(~bad)
        self._skips_W.copy_(torch.where(self._slots_W == self._attempted % self.window, bad, self._skips_W))
        self._attempted.add_(1)
        self._skipped.add_(bad)
        self._not_finite.add_(infinite)
        self._in_a_row.copy_(torch.where(bad, self._in_a_row + 1, 0))
        self._last_skip_2R.copy_(torch.where(bad, torch.stack((value_R, limit_R)), self._last_skip_2R))
        return bad

    def _limit_R(self) -> Tensor:
        """Above which a step is an outlier: median + sigma * max(1.4826 MAD, floor), for the norm in logarithms.

        Infinite until half of the window is filled.
        """
        if self.sigma is None:
            return torch.full_like(self._start_R, float("inf"))
        count = self._accepted.clamp(max=self.window)
        ready = 2 * count >= self.window
        ordered_RW = torch.where(self._slots_W < count, self._seen_RW, float("inf")).sort(dim=1).values
        first = ready & self._start_R.isnan()
        self._start_R.copy_(torch.where(first, _middle(ordered_RW, count), self._start_R))

        start_loss, rest = self._start_R[0], NORM_REST * self._start_R[1]
        scaled_RW = torch.stack((ordered_RW[0], (ordered_RW[1] + rest).clamp(min=_SMALLEST).log()))
        median_R = _middle(scaled_RW, count)
        deviation_R = NORMAL * _middle((scaled_RW - median_R[:, None]).abs().sort(dim=1).values, count)
        floor_R = torch.stack((LOSS_FLOOR * start_loss.abs(), torch.full_like(rest, NORM_FLOOR)))
        loss_limit, norm_limit = median_R + self.sigma * torch.maximum(deviation_R, floor_R)
        return torch.where(ready, torch.stack((loss_limit, norm_limit.exp() - rest)), float("inf"))

    def reset(self) -> None:
        """Empty the window, where the loss is known to move to another level: a stage of the curriculum. Where the
        training began stays known: it is the scale of the floors."""
        self._seen_RW.zero_()
        self._accepted.zero_()
        self.forgive()

    def forgive(self) -> None:
        """Forget the recent skips, not their total, so that patience begins anew; after a rollback."""
        self._skips_W.zero_()
        self._in_a_row.zero_()

    def figures(self) -> Tensor:
        """The values of FIGURES, float32, still on the device."""
        counts = (self._skipped, self._in_a_row, self._skips_W.sum(), self._not_finite)
        return torch.cat((torch.stack(counts).float(), self._last_skip_2R.flatten()))

    def state(self) -> dict[str, Tensor]:
        """All that the next decision depends on, and the counts; not copied."""
        return {
            "seen": self._seen_RW,
            "skips": self._skips_W,
            "accepted": self._accepted,
            "attempted": self._attempted,
            "skipped": self._skipped,
            "in_a_row": self._in_a_row,
            "not_finite": self._not_finite,
            "last_skip": self._last_skip_2R,
            "start": self._start_R,
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`; raises TRAIN003 if names, shapes or types differ, and then changes nothing."""
        own = self.state()
        if different := sorted(own.keys() ^ tensors.keys()):
            raise misfit(f"{different[0]} in the state of the guard")
        for name, tensor in own.items():
            if (tensors[name].shape, tensors[name].dtype) != (tensor.shape, tensor.dtype):
                raise misfit(f"{name} in the state of the guard")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _middle(ordered_RW: Tensor, count: Tensor) -> Tensor:
    """Median [R] of the first `count` (0-D) values of each row, which ascend: of an even count the mean of two."""
    last = ordered_RW.shape[1] - 1
    middle_2 = torch.stack((count - 1, count)).div(2, rounding_mode="floor").clamp(0, last)
    return ordered_RW.index_select(1, middle_2).mean(dim=1)
