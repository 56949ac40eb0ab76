"""Playing in steps that are all the same program: what compilers, CUDA graphs and TPUs need.

A step has one row, takes no argument and asks nothing of the host: where it stands, the grid, the noise and the cache
are tensors on the device, changed in place. Before the first step, and where the window starts again, the rows behind
it are fed at once, padded to one length. So a playing is two programs, compiled once each.
Shapes: B items, S grid steps, K codebooks, V outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from partimento.models.cache import StaticCache
from partimento.models.conditions import Told
from partimento.models.decoder import CodeDecoder
from partimento.models.mixture_cache import StaticMixtureCache
from partimento.models.mixture_decoder import MixtureDecoder
from partimento.sampling.guidance import UNGUIDED, Guidance
from partimento.sampling.row import write_row
from partimento.sampling.rules import Noise, Rules
from partimento.sampling.sheet import Sheet


class StaticSteps:
    """The state of one playing on the device. `told` has the items twice when there is guidance (under null second).

    `starts` maps every step at which a window starts (the first step too) to the first row of that window.
    """

    def __init__(
        self,
        decoder: CodeDecoder | MixtureDecoder,
        sheet: Sheet,
        rules: Rules,
        noise: Noise,
        told: Told,
        *,
        starts: dict[int, int],
        context: int,
        guidance: Guidance = UNGUIDED,
    ) -> None:
        self.decoder, self.sheet, self.rules, self.guidance = decoder, sheet, rules, guidance
        self.copies = 1 if guidance.neutral else 2
        items, device = len(sheet.end_B), sheet.grid_BSK.device
        cache = decoder.make_cache(items * self.copies, min(context, sheet.steps), static=True)
        assert isinstance(cache, StaticCache)
        self.cache, self.told = cache, told.arguments()
        if isinstance(decoder, MixtureDecoder):
            assert isinstance(cache, StaticMixtureCache) and told.prefix is not None
            decoder.remember(cache, told.prefix)
        elif told.memory_BMD is not None:
            decoder.remember(cache, told.memory_BMD)
        self.starts = starts
        # The last row before a window's first step is fed by that step.
        self.prefill_rows = max(step - begin for step, begin in starts.items()) - 1
        self.step_1 = torch.tensor([sheet.first], device=device)
        self.uniform_SBK = noise.table(sheet.steps)
        self.entropy_SBK = torch.zeros(self.uniform_SBK.shape, device=device)

    def start_window(self, step: int) -> None:
        """Where a window starts, before `step`: forgets all rows and feeds those of the window but the last."""
        begin = self.starts[step]
        rows = step - 1 - begin
        if rows:
            self.cache.reset()
            # Rows not written yet are the padding; past the end of the grid it is the last row again.
            row_S = (begin + torch.arange(self.prefill_rows)).clamp(max=self.sheet.steps - 1)
            self._predict(row_S.to(self.step_1.device))
        self.cache.move_to(rows)

    def step(self) -> None:
        """Draws the next row."""
        logits_BKV = self._predict(self.step_1 - 1)
        uniform_BK = self.uniform_SBK[self.step_1][0]
        entropy_BK = write_row(self.sheet, self.step_1, logits_BKV, self.rules, uniform_BK, self.guidance)
        self.entropy_SBK[self.step_1] = entropy_BK
        self.step_1.add_(1)

    def _predict(self, row_S: Tensor) -> Tensor:
        rows_BSK = self.sheet.grid_BSK[:, row_S].repeat(self.copies, 1, 1)
        return self.decoder(rows_BSK, cache=self.cache, last=True, **self.told)[:, -1]


def write_static(steps: StaticSteps, look: Callable[[int], bool], draw_next: Callable[[], None]) -> Tensor:
    """Draws the rows of the sheet in turn until `look`, asked after each, says that it is enough; entropies_SBK.

    `draw_next` is `steps.step`, or a faster way of doing the same (`frame`).
    """
    for step in range(steps.sheet.first, steps.sheet.steps):
        if step in steps.starts:
            steps.start_window(step)
        draw_next()
        if look(step):
            break
    return steps.entropy_SBK
