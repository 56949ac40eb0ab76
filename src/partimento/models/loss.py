"""The one loss of training, evaluation and reports: cross entropy of the codes, plain and per codebook.

Valid targets are the codes (ids below the cardinality) and, where the model has a logit for it, EOS (the id equal to
the cardinality). BOS and PAD have no logit and are not counted. Everything is a sum, never a mean: over micro-batches
and devices sums add up, and a mean of means would weigh short windows more.

`code_loss` takes logits. `head_loss` takes what the heads read and never holds the logits of more than one codebook:
it is what training runs on. Both are the same function of their inputs.

Shapes: B batch, S grid steps, K codebooks, V outputs, D width, N = B * S (head_loss) or B * S * K (code_loss), R rows
of logits at a time, T targets that a row of logits has: one, or K where all books have one head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from partimento.models.linear import product, weight_product

# Rows of logits at a time on a CPU: what is computed from a chunk stays in cache and is never written to memory.
_CPU_ROWS = 256


@dataclass(frozen=True)
class CodeLoss:
    """Sums in nats, as float32 tensors on the device of the logits (reading one waits for the device).

    total         what training minimises: the sum over valid targets of weight * (cross entropy against the smoothed
                  target + z_loss * logsumexp**2)
    count         sum over valid targets of weight (without weights: how many there are)
    code_sum_K    per codebook, sum of the plain cross entropy of real codes (no EOS, no weight, no smoothing, no z)
    code_count_K  per codebook, number of real codes
    eos_sum       sum of the plain cross entropy of EOS targets, all codebooks together
    eos_count     number of EOS targets
    code_sum_B    per item, sum of the plain cross entropy of real codes
    code_count_B  per item, number of real codes
    """

    total: Tensor
    count: Tensor
    code_sum_K: Tensor
    code_count_K: Tensor
    eos_sum: Tensor
    eos_count: Tensor
    code_sum_B: Tensor
    code_count_B: Tensor


def code_loss(
    logits_BSKV: Tensor,
    targets_BSK: Tensor,
    cardinality: int,
    *,
    weights_K: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> CodeLoss:
    """The loss of every target, summed in the ways that training and reports need.

    The softmax runs over all V outputs (V = cardinality, or cardinality + 1 with EOS). Only `total` carries a gradient,
    and only `total` knows the three options: `label_smoothing` (share of the target's mass that is spread over all V
    outputs, as in functional.cross_entropy), `z_loss` (PaLM, Chowdhery et al. 2022, section 5) and `weights_K`.
    """
    outputs = logits_BSKV.shape[-1]
    masks = _Masks(targets_BSK, cardinality, outputs, weights_K)
    logits_NV, targets_N = logits_BSKV.reshape(-1, outputs), targets_BSK.reshape(-1)
    if _chunked(logits_BSKV):
        total, ce_N = _TokenLoss.apply(logits_NV, targets_N, masks.weight_BSK.reshape(-1), label_smoothing, z_loss)
    else:
        loss_N, ce_N = _token_loss(logits_NV, targets_N, label_smoothing, z_loss)
        total = (loss_N * masks.weight_BSK.reshape(-1)).sum()
    return masks.sums(total, ce_N.detach().view(targets_BSK.shape))


def head_loss(
    x_BSD: Tensor,
    weight: Tensor,
    targets_BSK: Tensor,
    cardinality: int,
    *,
    shared: bool = False,
    weights_K: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> CodeLoss:
    """`code_loss` of the logits x @ weight.T, where `weight` [K * V, D] holds the K heads one after the other; or, with
    `shared`, [V, D] one head for all K: then the logits of a row are computed once, however many targets it has.

    The gradient is computed in the forward pass, one codebook at a time, so that of B * S * K * V logits only a K-th
    ever exists, and that in cache on a CPU (the idea of Liger's fused linear cross entropy, Hsu et al. 2024, with
    codebooks as chunks: the gradient of a head is complete after one product). Under autocast the products are in its
    type, as those of a linear layer, and the softmax in float32. Differentiable once.
    """
    codebooks = targets_BSK.shape[-1]
    heads = 1 if shared else codebooks
    outputs = len(weight) // heads
    if not _chunked(x_BSD):
        logits = functional.linear(x_BSD, weight).float().unflatten(-1, (heads, outputs))
        return code_loss(
            logits.expand(-1, -1, codebooks, -1),
            targets_BSK,
            cardinality,
            weights_K=weights_K,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )
    masks = _Masks(targets_BSK, cardinality, outputs, weights_K)
    total, ce_NK = _HeadLoss.apply(
        x_BSD.flatten(0, 1),
        weight,
        targets_BSK.flatten(0, 1),
        masks.weight_BSK.flatten(0, 1),
        heads,
        label_smoothing,
        z_loss,
        torch.is_grad_enabled() and (x_BSD.requires_grad or weight.requires_grad),
    )
    return masks.sums(total, ce_NK.detach().view(targets_BSK.shape))


def code_entropy(logits: Tensor, cardinality: int) -> Tensor:
    """Entropy in nats of the predicted distribution over codes (EOS left out and the rest normalised): [...]."""
    log_p = functional.log_softmax(logits[..., :cardinality].float(), dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


class _Masks:
    """Which targets are codes and which EOS, as float32, and what each weighs."""

    def __init__(self, targets_BSK: Tensor, cardinality: int, outputs: int, weights_K: Tensor | None) -> None:
        self.code_BSK = (targets_BSK < cardinality).float()
        self.eos_BSK = ((targets_BSK >= cardinality) & (targets_BSK < outputs)).float()
        self.weight_BSK = self.code_BSK + self.eos_BSK
        if weights_K is not None:
            self.weight_BSK = self.weight_BSK * weights_K.detach().to(self.weight_BSK)

    def sums(self, total: Tensor, ce_BSK: Tensor) -> CodeLoss:
        return CodeLoss(
            total=total,
            count=self.weight_BSK.sum(),
            code_sum_K=(ce_BSK * self.code_BSK).sum((0, 1)),
            code_count_K=self.code_BSK.sum((0, 1)),
            eos_sum=(ce_BSK * self.eos_BSK).sum(),
            eos_count=self.eos_BSK.sum(),
            code_sum_B=(ce_BSK * self.code_BSK).sum((1, 2)),
            code_count_B=self.code_BSK.sum((1, 2)),
        )


def _chunked(x: Tensor) -> bool:
    """Whether our own backward pass serves: not where a compiler sees the whole and fuses it (inductor, XLA)."""
    return x.device.type in ("cpu", "cuda", "mps") and not torch.compiler.is_compiling()


def _token_loss(logits_NV: Tensor, targets_N: Tensor, smoothing: float, z_loss: float) -> tuple[Tensor, Tensor]:
    """(what is minimised, plain cross entropy), both [N]; 0 where target >= V. Ordinary differentiable operations."""
    outputs = logits_NV.shape[-1]
    valid_N = targets_N < outputs
    index_N1 = targets_N.clamp(max=outputs - 1)[:, None]
    logits_NV = logits_NV.double() if logits_NV.dtype == torch.float64 else logits_NV.float()
    log_p = functional.log_softmax(logits_NV, dim=-1)
    ce_N = -log_p.gather(1, index_N1)[:, 0]
    loss_N = ce_N
    if smoothing:
        loss_N = (1 - smoothing) * ce_N - smoothing * log_p.mean(-1)
    if z_loss:
        loss_N = loss_N + z_loss * torch.logsumexp(logits_NV, -1).square()
    return loss_N.where(valid_N, 0.0), ce_N.where(valid_N, 0.0)


def _chunk_loss(
    logits_RV: Tensor,
    targets_RT: Tensor,
    weight_RT: Tensor,
    smoothing: float,
    z_loss: float,
    gradient_RV: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(weighted loss [R], plain cross entropy [R, T]) of a chunk; d(sum of the loss) / d(logits) into `gradient_RV`.

    One exponential per logit: with m the largest logit, the largest probability is 1 / sum(exp(l - m)), so that
    logsumexp = m - log(max p). `gradient_RV` may be `logits_RV` itself.
    """
    outputs = logits_RV.shape[-1]
    weight_RT = weight_RT.to(torch.promote_types(logits_RV.dtype, torch.float32))
    wide_RV = logits_RV.to(weight_RT.dtype)
    p_RV = torch.softmax(wide_RV, dim=-1)
    top_R1, log_sum_R1 = wide_RV.amax(-1, keepdim=True), p_RV.amax(-1, keepdim=True).log().neg()
    index_RT = targets_RT.clamp(max=outputs - 1)  # a negative target fails in gather
    ce_RT = (top_R1 - wide_RV.gather(1, index_RT) + log_sum_R1).where(targets_RT < outputs, 0.0)
    loss_RT = ce_RT
    if smoothing:
        loss_RT = (1 - smoothing) * ce_RT + smoothing * (top_R1 - wide_RV.mean(-1, keepdim=True) + log_sum_R1)
    if z_loss:
        loss_RT = loss_RT + z_loss * (top_R1 + log_sum_R1).square()
    # Where the target is not valid the weight is 0, which silences what smoothing and z-loss say there.
    if gradient_RV is not None:
        made_RV = p_RV if gradient_RV.dtype != p_RV.dtype else gradient_RV
        weight_R1 = weight_RT.sum(-1, keepdim=True)
        torch.mul(p_RV, weight_R1 * (1 + 2 * z_loss * (top_R1 + log_sum_R1)), out=made_RV)
        made_RV.scatter_add_(1, index_RT, weight_RT * (smoothing - 1.0))
        if smoothing:
            made_RV.sub_(weight_R1 * (smoothing / outputs))
        if made_RV is not gradient_RV:
            gradient_RV.copy_(made_RV)
    return (loss_RT * weight_RT).sum(-1), ce_RT


def _counted(targets_NT: Tensor, outputs: int) -> Tensor | slice:
    """Rows that have a target for this head: in a flat grid one in K. All where that is most of them, or where looking
    would wait for the device."""
    if not targets_NT.is_cpu:
        return slice(None)
    rows_C = (targets_NT < outputs).any(-1).nonzero()[:, 0]
    return rows_C if 4 * len(rows_C) < 3 * len(targets_NT) else slice(None)


def _chunks(rows: int, is_cpu: bool) -> list[slice]:
    size = _CPU_ROWS if is_cpu else max(1, rows)
    return [slice(first, first + size) for first in range(0, rows, size)]


class _TokenLoss(torch.autograd.Function):
    """(weighted sum of the loss, plain cross entropy [N]) of logits [N, V], without further [N, V] intermediates.

    The backward pass computes the softmax again, chunk by chunk, straight into the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, targets_N: Tensor, weight_N: Tensor, smoothing: float, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits_NV, targets_N, weight_N)
        ctx.options = smoothing, z_loss
        parts = [
            _chunk_loss(logits_NV[rows], targets_N[rows, None], weight_N[rows, None], smoothing, z_loss, None)
            for rows in _chunks(len(logits_NV), logits_NV.is_cpu)
        ]
        loss_N, ce_N = (torch.cat(part).flatten() for part in zip(*parts, strict=True))
        ctx.mark_non_differentiable(ce_N)
        return loss_N.sum(), ce_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits_NV, targets_N, weight_N = ctx.saved_tensors
        gradient_NV = torch.empty_like(logits_NV)
        scaled_N = weight_N * upstream[0]
        smoothing, z_loss = ctx.options
        for rows in _chunks(len(logits_NV), logits_NV.is_cpu):
            parts = logits_NV[rows], targets_N[rows, None], scaled_N[rows, None]
            _chunk_loss(*parts, smoothing, z_loss, gradient_NV[rows])
        return gradient_NV, None, None, None, None


class _HeadLoss(torch.autograd.Function):
    """(weighted sum of the loss, plain cross entropy [N, K]) of x [N, D] and of `heads` heads [heads * V, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight: Tensor,
        targets_NK: Tensor,
        weight_NK: Tensor,
        heads: int,
        smoothing: float,
        z_loss: float,
        training: bool,
    ) -> tuple[Tensor, Tensor]:
        device = x_ND.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_ND.dtype
        x, heads_HVD = x_ND.to(narrow), weight.to(narrow).unflatten(0, (heads, -1))
        wide = torch.promote_types(narrow, torch.float32)
        d_x = torch.zeros_like(x_ND, dtype=wide) if training else None
        d_heads = torch.empty_like(heads_HVD, dtype=weight.dtype) if training else None
        losses, ce_NK = [], torch.zeros(targets_NK.shape, dtype=wide, device=x.device)
        books = targets_NK.shape[1] // heads  # that a head has
        with torch.autocast(device, enabled=False):
            for number, head_VD in enumerate(heads_HVD):
                mine = slice(number * books, (number + 1) * books)
                of_head = _counted(targets_NK[:, mine], len(head_VD))
                x_CD, targets_CT, weight_CT = x[of_head], targets_NK[of_head, mine], weight_NK[of_head, mine]
                logits_CV, ces = product(x_CD, head_VD), []
                for part in _chunks(len(x_CD), x.is_cpu):
                    chunk_RV = logits_CV[part]
                    gradient_RV = chunk_RV if training else None
                    loss_R, ce_RT = _chunk_loss(
                        chunk_RV, targets_CT[part], weight_CT[part], smoothing, z_loss, gradient_RV
                    )
                    losses.append(loss_R)
                    ces.append(ce_RT)
                if ces:
                    ce_NK[of_head, mine] = torch.cat(ces)
                if d_x is not None and d_heads is not None:
                    d_x[of_head] += product(logits_CV, head_VD.t())
                    d_heads[number] = weight_product(logits_CV, x_CD)
        if d_x is not None and d_heads is not None:
            ctx.save_for_backward(d_x.to(x_ND.dtype), d_heads.flatten(0, 1))
        ctx.mark_non_differentiable(ce_NK)
        return torch.cat([*losses, weight_NK.new_zeros(0)]).sum(), ce_NK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_x, d_weight = ctx.saved_tensors
        return d_x * upstream[0], d_weight * upstream[0], *[None] * 6
