"""The adversarial losses: least squares (LSGAN) and feature matching, for each item, summed over discriminators.

A discriminator is to say 1 of recordings and 0 of what was made (Mao et al., 2017). Sums are DAC's plain ones
(descript-audio-codec, dac/nn/loss.py): not divided by the number of discriminators or maps, so a loss says little
across set-ups; the scores and accuracies of each discriminator do. Reductions are in float32 whatever the maps are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from partimento.waveform.discriminators import Seen

BORDER = 0.5  # between what is taken for made and for real


def discriminator_loss(real: Sequence[Seen], fake: Sequence[Seen]) -> Tensor:
    """[B]: the sum over discriminators of mean (1 - score of the real)^2 + mean (score of the made)^2.

    `fake` is to be seen of a detached wave.
    """
    total_B = real[0].score.new_zeros(())
    for one, other in _pairs(real, fake):
        total_B = total_B + _mean_B((1 - _full(one.score)).square()) + _mean_B(_full(other.score).square())
    return total_B


def generator_loss(fake: Sequence[Seen]) -> Tensor:
    """[B]: the sum over discriminators of mean (1 - score of the made)^2."""
    return torch.stack([_mean_B((1 - _full(one.score)).square()) for one in fake]).sum(0)


def feature_loss(real: Sequence[Seen], fake: Sequence[Seen]) -> Tensor:
    """[B]: the sum over discriminators and their inner maps (not the scores) of mean |made - real|, real detached."""
    terms = [
        _mean_B(_full(made) - _full(target.detach()), absolute=True)
        for one, other in _pairs(real, fake)
        for target, made in zip(one.maps, other.maps, strict=True)
    ]
    return torch.stack(terms).sum(0)


def mean_scores(seen: Sequence[Seen]) -> Tensor:
    """[S, B], detached: the mean score that each discriminator gives each item."""
    return torch.stack([_mean_B(_full(one.score.detach())) for one in seen])


class Accuracy(NamedTuple):
    """For each item [B] the share of the discriminators that are right about it: of the real, and of the made."""

    real_B: Tensor
    fake_B: Tensor


def accuracy(real_SB: Tensor, fake_SB: Tensor) -> Accuracy:
    """Of `mean_scores`: above 0.5 is right of what is real, under it of what was made; 0.5 itself is wrong of both."""
    right = real_SB > BORDER, fake_SB < BORDER
    return Accuracy(*(one.to(real_SB.dtype).mean(0) for one in right))


def _pairs(real: Sequence[Seen], fake: Sequence[Seen]) -> list[tuple[Seen, Seen]]:
    pairs = list(zip(real, fake, strict=True))
    if any(one.name != other.name for one, other in pairs):
        raise ValueError("real and made were seen by different discriminators")
    return pairs


def _mean_B(x: Tensor, absolute: bool = False) -> Tensor:
    x = x.flatten(1)
    return (x.abs() if absolute else x).mean(1)


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
