"""Causal attention of whole windows on a CPU, as matrix products of oneDNN.

torch's own kernel for CPUs makes its products in small tiles, in float32 through MKL, and is the largest single cost
of a training step there after the linear layers. Here a block of queries meets all keys up to it in one product, so
that the upper triangle is left out but for half a block, and the backward pass makes the probabilities again, as flash
attention does (Dao et al. 2022): memory stays linear in the window but for one block. One layer of 4 x 512 rows, 4
heads of 64, forward and backward, one Zen 5 core: 31 ms instead of 48 in float32, 16 instead of 44 in bfloat16.

In bfloat16 the scores are rounded to bfloat16 before the softmax (torch's kernel keeps them in float32): the result is
off by 0.4 % instead of 0.2 % where scores have a deviation of 1, which is what the linear layers around it do, too, and
by 1 % at a deviation of 8, which QK norm keeps away.

Shapes: B batch, S steps, H heads, E head width, G = B * H, R rows of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from partimento.models.linear import HAS_ONEDNN, onednn_product

# A block is as large as the cache bears: float32 goes head by head, bfloat16 through all heads at once.
_FLOAT_ROWS, _BF16_ROWS = 256, 128
# Products of one head are small: beyond so many threads torch's kernel, which splits heads among them, is better.
_FLOAT_THREADS = 4
_SHORTEST = 64


def suits(query_BSHE: Tensor, key_BSGE: Tensor) -> bool:
    """Whether `causal_attention` is the fastest there is: on a CPU, as many key heads as query heads, many steps."""
    if not query_BSHE.is_cpu or query_BSHE.shape != key_BSGE.shape or query_BSHE.shape[1] < _SHORTEST:
        return False
    if query_BSHE.dtype == torch.bfloat16:
        return _HAS_BF16
    return query_BSHE.dtype == torch.float32 and HAS_ONEDNN and _few_threads()


_HAS_BF16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@torch.compiler.assume_constant_result
def _few_threads() -> bool:
    return torch.get_num_threads() <= _FLOAT_THREADS


# An operator of its own, so that a compiled block calls it as it is.
@torch.library.custom_op("partimento::causal_attention", mutates_args=())
def causal_attention(query_BSHE: Tensor, key_BSHE: Tensor, value_BSHE: Tensor, scale: float) -> Tensor:
    """softmax(scale * query @ key.T, lower triangle) @ value -> [B, S, H, E], float32 or bfloat16."""
    batch, steps, heads, width = query_BSHE.shape
    with torch.autocast("cpu", enabled=False):
        query, key, value = (_heads_first(x) for x in (query_BSHE * scale, key_BSHE, value_BSHE))
        out_GSE = torch.empty_like(query)
        forward = _forward_heads if query.dtype == torch.float32 else _forward_all
        forward(query, key, value, out_GSE)
    return out_GSE.view(batch, heads, steps, width).transpose(1, 2).contiguous()


@torch.library.custom_op("partimento::causal_attention_backward", mutates_args=())
def _backward(
    upstream_BSHE: Tensor, query_BSHE: Tensor, key_BSHE: Tensor, value_BSHE: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, heads, width = query_BSHE.shape
    with torch.autocast("cpu", enabled=False):
        given = [_heads_first(x) for x in (query_BSHE * scale, key_BSHE, value_BSHE, upstream_BSHE)]
        backward = _backward_heads if given[0].dtype == torch.float32 else _backward_all
        gradients = backward(*given)
        gradients[0].mul_(scale)
    query, key, value = (x.view(batch, heads, steps, width).transpose(1, 2).contiguous() for x in gradients)
    return query, key, value


def _forward_heads(query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    value_GES, later = value.transpose(1, 2), _later(query, _FLOAT_ROWS)
    for head in range(len(query)):
        for first, end in _blocks(query, _FLOAT_ROWS):
            p = _probabilities(onednn_product(query[head, first:end], key[head, :end]), later)
            out[head, first:end] = onednn_product(p, value_GES[head, :, :end])


def _backward_heads(query: Tensor, key: Tensor, value: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Keys and values are summed up transposed: so the large factor of each product is the one that need not be copied.
    query_GES, upstream_GES = query.transpose(1, 2).contiguous(), upstream.transpose(1, 2).contiguous()
    key_GES, later = key.transpose(1, 2), _later(query, _FLOAT_ROWS)
    d_query, d_key_GES, d_value_GES = torch.empty_like(query), torch.zeros_like(query_GES), torch.zeros_like(query_GES)
    for head in range(len(query)):
        for first, end in _blocks(query, _FLOAT_ROWS):
            p = _probabilities(onednn_product(query[head, first:end], key[head, :end]), later)
            d_p = onednn_product(upstream[head, first:end], value[head, :end])
            d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
            d_query[head, first:end] = onednn_product(d_scores, key_GES[head, :, :end])
            d_key_GES[head, :, :end] += onednn_product(query_GES[head, :, first:end], d_scores.t())
            d_value_GES[head, :, :end] += onednn_product(upstream_GES[head, :, first:end], p.t())
    return d_query, d_key_GES.transpose(1, 2), d_value_GES.transpose(1, 2)


def _forward_all(query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    key_GES, later = key.transpose(1, 2), _later(query, _BF16_ROWS)
    for first, end in _blocks(query, _BF16_ROWS):
        p = _probabilities(torch.bmm(query[:, first:end], key_GES[:, :, :end]), later)
        out[:, first:end] = torch.bmm(p, value[:, :end])


def _backward_all(query: Tensor, key: Tensor, value: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    key_GES, value_GES = key.transpose(1, 2), value.transpose(1, 2)
    d_query, later = torch.empty_like(query), _later(query, _BF16_ROWS)
    # Summed up over blocks in float32: a key is met by every later block.
    d_key, d_value = (torch.zeros_like(query, dtype=torch.float32) for _ in range(2))
    for first, end in _blocks(query, _BF16_ROWS):
        p = _probabilities(torch.bmm(query[:, first:end], key_GES[:, :, :end]), later)
        d_p = torch.bmm(upstream[:, first:end], value_GES[:, :, :end])
        d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
        d_query[:, first:end] = torch.bmm(d_scores, key[:, :end])
        d_key[:, :end] += torch.bmm(d_scores.transpose(1, 2), query[:, first:end])
        d_value[:, :end] += torch.bmm(p.transpose(1, 2), upstream[:, first:end])
    return d_query, d_key.to(query.dtype), d_value.to(query.dtype)


def _probabilities(scores: Tensor, later: Tensor) -> Tensor:
    """Softmax of [..., R, end], in which row r is that of query end - R + r. Changes the scores."""
    rows = scores.shape[-2]
    scores[..., -rows:].add_(later[:rows, :rows])
    return torch.softmax(scores, dim=-1)


def _later(query: Tensor, rows: int) -> Tensor:
    """[rows, rows]: -inf where a key is later than the query, else 0."""
    return torch.full((rows, rows), -torch.inf, dtype=query.dtype).triu_(1)


def _blocks(query_GSE: Tensor, rows: int) -> list[tuple[int, int]]:
    steps = query_GSE.shape[1]
    return [(first, min(first + rows, steps)) for first in range(0, steps, rows)]


def _heads_first(x_BSHE: Tensor) -> Tensor:
    """[B * H, S, E], contiguous: oneDNN falls back to slow loops for some strides."""
    return x_BSHE.transpose(1, 2).flatten(0, 1).contiguous()


@causal_attention.register_fake
def _(query_BSHE: Tensor, key_BSHE: Tensor, value_BSHE: Tensor, scale: float) -> Tensor:
    return torch.empty_like(query_BSHE, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(
    upstream_BSHE: Tensor, query_BSHE: Tensor, key_BSHE: Tensor, value_BSHE: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    made = [torch.empty_like(query_BSHE, memory_format=torch.contiguous_format) for _ in range(3)]
    return made[0], made[1], made[2]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, upstream_BSHE: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(upstream_BSHE, *ctx.saved_tensors, ctx.scale), None)


causal_attention.register_autograd(_gradients, setup_context=_keep)
