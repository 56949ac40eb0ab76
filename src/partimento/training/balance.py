"""How much each codebook counts in the training loss. Validation and reports know nothing of it: they are plain.

Whatever the rule, the mean of the weights is 1, so that changing it does not change the rate.
Shapes: K codebooks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from partimento import config
from partimento.errors import PartimentoError
from partimento.training.optim import misfit

DECAY = 0.99  # of the running loss: it remembers some hundred steps
MOST = 10.0  # by how much a book that is learned by heart can count more than one of which nothing is known


class Balance:
    """The weights of one run, by `loss.codebook_weights`:

    equal    1
    ramp     1 + a k / (K - 1), a = `loss.codebook_ramp`: later books count more
    first    1 + a for book 0, 1 for the others
    a list   as given, one number a book
    learned  1 / r_k, r_k = running mean of the cross entropy of book k / ln V

    (each scaled to a mean of 1.) The learned rule makes every book contribute the same to the loss: where the weights
    rest, w_k CE_k is equal for all k. Its gradient is that of the sum of log CE_k, so a book that improves by one
    percent is worth as much as any other that does. That is what uncertainty weighting (Kendall, Gal and Cipolla 2018,
    arXiv 1705.07115: min over s of L / s + log(s) / 2, at s = 2 L) comes to, without its parameters. Coarse books,
    which music determines best, count more than late ones, which are close to noise. At the start all are equal.
    """

    def __init__(self, loss: config.Loss, codebooks: int, cardinality: int, device: torch.device) -> None:
        """Raises TRAIN020 if a list does not fit the codebooks."""
        rule = loss.codebook_weights
        self.learned = rule == "learned"
        self._uniform = torch.log(torch.tensor(float(cardinality), device=device))
        self._running_K = torch.ones(codebooks, device=device)
        self._weights_K = _scaled(_fixed(loss, codebooks).to(device))

    def weights_K(self) -> Tensor:
        """float32 [K] with a mean of 1, on the device; always the same tensor, which `update` changes in place."""
        return self._weights_K

    @torch.no_grad()
    def update(self, ce_sum_K: Tensor, count_K: Tensor, bad: Tensor) -> None:
        """Learn from one step: summed plain cross entropy (nats) and number of the codes of each book, over all
        devices. Nothing changes if the step is `bad` (0-D bool), nor for a book without a code in it. Never waits."""
        if not self.learned:
            return
        share_K = ce_sum_K.float() / count_K.clamp(min=1) / self._uniform
        known_K = (count_K > 0) & torch.isfinite(share_K) & ~bad
        running_K = torch.lerp(self._running_K, share_K, 1 - DECAY)
        self._running_K.copy_(torch.where(known_K, running_K, self._running_K))
        self._weights_K.copy_(self._of_running())

    def _of_running(self) -> Tensor:
        return _scaled(1 / self._running_K.clamp(min=1 / MOST))

    def state(self) -> dict[str, Tensor]:
        """{} unless the weights are learned; not copied."""
        return {"running": self._running_K} if self.learned else {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`; raises TRAIN003 if it does not fit."""
        own = self.state()
        if own.keys() != tensors.keys() or any(tensors[name].shape != own[name].shape for name in own):
            raise misfit("the running losses of the codebooks")
        if self.learned:
            self._running_K.copy_(tensors["running"])
            self._weights_K.copy_(self._of_running())


def _fixed(loss: config.Loss, codebooks: int) -> Tensor:
    rule = loss.codebook_weights
    ones_K = torch.ones(codebooks)
    if rule == "ramp":
        return ones_K + loss.codebook_ramp * torch.arange(codebooks) / max(1, codebooks - 1)
    if rule == "first":
        ones_K[0] += loss.codebook_ramp
        return ones_K
    if isinstance(rule, list):
        if len(rule) != codebooks or sum(rule) <= 0:
            raise PartimentoError(
                "TRAIN020",
                f"loss.codebook_weights has {len(rule)} numbers that sum to {sum(rule):g}, for {codebooks} codebooks",
                where="loss.codebook_weights",
                why="it takes one number for each codebook, and at least one above 0",
                next=f"set loss.codebook_weights={[1.0] * codebooks}, or one of equal, ramp, first, learned",
            )
        return torch.tensor(rule)
    return ones_K


def _scaled(weights_K: Tensor) -> Tensor:
    return weights_K / weights_K.mean()
