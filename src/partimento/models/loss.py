"""The one loss of training, evaluation and reports: cross entropy of the codes, plain and per codebook.

Valid targets are the codes (ids below the cardinality) and, where the model has a logit for it, EOS (the id equal to
the cardinality). BOS and PAD have no logit and are not counted. Everything is a sum, never a mean: over micro-batches
and devices sums add up, and a mean of means would weigh short windows more.

Shapes: B batch, S grid steps, K codebooks, V outputs, N = B * S * K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Rows of logits at a time on a CPU: the log-probabilities of a chunk stay in cache and are never written to memory,
# which halves the time of the loss. Larger chunks cost less in thread barriers, smaller ones stay nearer.
_CPU_ROWS = 2048


@dataclass(frozen=True)
class CodeLoss:
    """Sums in nats, as float32 tensors on the device of the logits (reading one waits for the device).

    total         sum over valid targets of weight * cross entropy; `total / count` is the loss to differentiate
    count         sum over valid targets of weight (without weights: how many there are)
    code_sum_K    per codebook, sum of the unweighted cross entropy of real codes (no EOS)
    code_count_K  per codebook, number of real codes
    eos_sum       sum of the unweighted cross entropy of EOS targets, all codebooks together
    eos_count     number of EOS targets
    """

    total: Tensor
    count: Tensor
    code_sum_K: Tensor
    code_count_K: Tensor
    eos_sum: Tensor
    eos_count: Tensor


def code_loss(
    logits_BSKV: Tensor, targets_BSK: Tensor, cardinality: int, *, weights_K: Tensor | None = None
) -> CodeLoss:
    """The loss of every target, summed in the ways that training and reports need.

    The softmax runs over all V outputs (V = cardinality, or cardinality + 1 with EOS). Only `total` carries a gradient.
    """
    outputs = logits_BSKV.shape[-1]
    ce_BSK = TokenCrossEntropy.apply(logits_BSKV.reshape(-1, outputs), targets_BSK.reshape(-1)).view(targets_BSK.shape)
    plain_BSK = ce_BSK.detach()
    code_BSK = (targets_BSK < cardinality).float()
    eos_BSK = ((targets_BSK >= cardinality) & (targets_BSK < outputs)).float()
    weight_BSK = code_BSK + eos_BSK
    if weights_K is not None:
        weight_BSK = weight_BSK * weights_K.to(weight_BSK)
    return CodeLoss(
        total=(ce_BSK * weight_BSK).sum(),
        count=weight_BSK.sum(),
        code_sum_K=(plain_BSK * code_BSK).sum((0, 1)),
        code_count_K=code_BSK.sum((0, 1)),
        eos_sum=(plain_BSK * eos_BSK).sum(),
        eos_count=eos_BSK.sum(),
    )


def code_entropy(logits: Tensor, cardinality: int) -> Tensor:
    """Entropy in nats of the predicted distribution over codes (EOS left out and the rest normalised): [...]."""
    log_p = functional.log_softmax(logits[..., :cardinality].float(), dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


class TokenCrossEntropy(torch.autograd.Function):
    """Cross entropy [N] in nats of logits [N, V] for targets [N]; 0 with no gradient where target >= V.

    Equal to functional.cross_entropy(reduction="none"), without its [N, V] intermediates: the backward pass computes
    the softmax again, chunk by chunk, straight into the gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        ctx.save_for_backward(logits_NV, targets_N)
        outputs = logits_NV.shape[-1]
        ce_N = logits_NV.new_empty(len(logits_NV))
        for rows in _chunks(logits_NV):
            log_p = functional.log_softmax(logits_NV[rows], dim=-1)
            index = targets_N[rows, None].clamp(max=outputs - 1)  # a negative target fails in gather
            ce_N[rows] = log_p.gather(1, index)[:, 0]
        return ce_N.neg_().masked_fill_(targets_N >= outputs, 0.0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        logits_NV, targets_N = ctx.saved_tensors
        outputs = logits_NV.shape[-1]
        scale_N = upstream[0].masked_fill(targets_N >= outputs, 0.0)
        gradient_NV = torch.empty_like(logits_NV)
        for rows in _chunks(logits_NV):
            part = gradient_NV[rows]
            torch.softmax(logits_NV[rows], dim=-1, out=part)
            index = targets_N[rows, None].clamp(max=outputs - 1)
            part.scatter_add_(1, index, part.new_full((1, 1), -1.0).expand(len(part), 1))
            part.mul_(scale_N[rows, None])
        return gradient_NV, None


def _chunks(logits_NV: Tensor) -> list[slice]:
    total = len(logits_NV)
    size = _CPU_ROWS if logits_NV.is_cpu else max(1, total)
    return [slice(first, first + size) for first in range(0, total, size)]
