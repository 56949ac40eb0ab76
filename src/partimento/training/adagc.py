"""AdaGC: every tensor's gradient is clipped to the running mean of its own clipped norms (Wang et al., ICML 2026,
arXiv 2502.11034). A burst in one layer is cut there before it reaches the moments, and does not shrink all others.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from partimento.config import Optim
from partimento.training.optim import clip_factor, local, misfit, put, tensor_norms

# The paper's settings: accepted steps of warm-up, how far a norm may lie above its mean, decay of that mean.
WARMUP = 100
RELATIVE = 1.05
DECAY = 0.98


class AdaGC:
    """Per-tensor clipping in place of the global one.

    For WARMUP accepted steps the global clip holds and the mean of a tensor is the smallest clipped norm so far; then a
    norm above RELATIVE means is scaled down to that, and mean <- DECAY mean + (1 - DECAY) clipped norm.
    Differing from the paper, a norm of 0 is not remembered: a tensor that no item of a batch needed (the null condition
    when none was dropped) would get a mean of 0 and never move again. One that was never needed is clipped globally.
    """

    def __init__(self, named: Mapping[str, Tensor], optim: Optim) -> None:
        self.named = dict(named)
        self.limit = optim.clip
        device = next(iter(self.named.values())).device
        self.accepted = torch.zeros((), dtype=torch.int64, device=device)
        self.means_N = torch.full((len(self.named),), torch.inf, device=device)

    @torch.no_grad()
    def clip_(self, scale: Tensor, norm: Tensor, bad: Tensor) -> None:
        """Multiply the gradients by `scale` and clip the result, whose global norm is `norm` (all 0-D on the device).

        If `bad` is true nothing of it is remembered, and what the gradients then hold is not to be used. Nothing is
        waited for. A parameter without a gradient is left alone.
        """
        gradients = [weight.grad for weight in self.named.values() if weight.grad is not None]
        present = [weight.grad is not None for weight in self.named.values()]
        measured = iter((tensor_norms(gradients) * scale).unbind() if gradients else ())
        zero = torch.zeros_like(norm)
        norms_N = torch.stack([next(measured) if there else zero for there in present])

        warming_N = (self.accepted < WARMUP) | self.means_N.isinf()
        relative_N = torch.clamp(RELATIVE * self.means_N / norms_N, max=1.0)
        factors_N = torch.where(warming_N, clip_factor(norm, self.limit), relative_N)
        clipped_N = norms_N * factors_N
        smallest_N = torch.minimum(self.means_N, clipped_N)
        means_N = torch.where(warming_N, smallest_N, torch.lerp(clipped_N, self.means_N, DECAY))
        self.means_N.copy_(torch.where(bad | (norms_N == 0), self.means_N, means_N))
        self.accepted += (~bad).to(self.accepted)

        factors = [factor for factor, there in zip((factors_N * scale).unbind(), present, strict=True) if there]
        for gradient, factor in zip(gradients, factors, strict=True):
            local(gradient).mul_(factor)

    def state(self) -> dict[str, Tensor]:
        """{"accepted": 0-D, "NAME.mean_norm": 0-D, ...}, live; infinite where a tensor had no gradient yet."""
        means = {f"{name}.mean_norm": mean for name, mean in zip(self.named, self.means_N.unbind(), strict=True)}
        return {"accepted": self.accepted, **means}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `state` gave. Raises TRAIN003, with nothing changed, if a name, shape or type does not fit."""
        mine = self.state()
        if different := sorted(mine.keys() ^ tensors.keys()):
            raise misfit(f"{different[0]} is only on one side of the clipping state")
        for name, tensor in mine.items():
            if tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
                raise misfit(f"{name} in the clipping state is {tensors[name].dtype} of {list(tensors[name].shape)}")
        for name, tensor in mine.items():
            put(tensors[name], tensor)
