"""A text model once more, in float64, one query of one head at a time, rotations as complex numbers.

Of the model it takes the weights by name and the configuration, and none of its code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from partimento.models.dia import TextModel


def logits(model: TextModel, text_M: Tensor, mask_M: Tensor, grid_SK: Tensor) -> Tensor:
    """[S, K, V] of one item."""
    weights = {name: value.detach().double() for name, value in model.state_dict().items()}
    shape = model.decoder.config
    memory_MD = encode(model, text_M)
    x_SD = torch.stack(
        [sum(weights["decoder.embedding"][k * shape.rows + int(i)] for k, i in enumerate(row)) for row in grid_SK]
    )
    own = (shape.heads, shape.kv_heads, shape.head_width)
    crossed = (shape.cross_heads, shape.cross_kv_heads, shape.cross_head_width)
    for layer in range(shape.layers):
        at = {
            name.removeprefix(f"decoder.blocks.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"decoder.blocks.{layer}.")
        }
        h = normed(x_SD, at["attention_norm.weight"], shape.norm_eps)
        qkv = (h @ at["attention.qkv.weight"].T).split([n * own[2] for n in (own[0], own[1], own[1])], 1)
        gains = (at.get("attention.query_norm.weight"), at.get("attention.key_norm.weight"))
        sees = [list(range(s + 1)) for s in range(len(h))]
        mixed = attend(qkv, own, shape.attention_scale, sees, gains, shape.rope_theta, shape.norm_eps)
        x_SD = x_SD + mixed @ at["attention.out.weight"].T
        h = normed(x_SD, at["cross_norm.weight"], shape.norm_eps)
        kv = (memory_MD @ at["cross.key_value.weight"].T).chunk(2, 1)
        sees = [[m for m in range(len(text_M)) if mask_M[m]]] * len(h)
        theta = shape.rope_theta if shape.cross_attention_rope else None
        mixed = attend((h @ at["cross.query.weight"].T, *kv), crossed, shape.attention_scale, sees, (None, None), theta)
        x_SD = x_SD + mixed @ at["cross.out.weight"].T
        x_SD = x_SD + swiglu(normed(x_SD, at["feedforward_norm.weight"], shape.norm_eps), at)
    x_SD = normed(x_SD, weights["decoder.norm.weight"], shape.norm_eps)
    return (x_SD @ weights["decoder.head.weight"].T).view(len(x_SD), shape.codebooks, shape.outputs)


def encode(model: TextModel, text_M: Tensor) -> Tensor:
    """The memory [M, D] of a text without padding."""
    weights = {name: value.detach().double() for name, value in model.encoder.state_dict().items()}
    shape = model.encoder.config
    x_MD = weights["embedding"][text_M]
    sizes = (shape.heads, shape.kv_heads, shape.head_width)
    for layer in range(shape.layers):
        prefix = f"blocks.{layer}."
        at = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        h = normed(x_MD, at["attention_norm.weight"], shape.norm_eps)
        qkv = (h @ at["attention.qkv.weight"].T).split([n * sizes[2] for n in (sizes[0], sizes[1], sizes[1])], 1)
        gains = (at.get("attention.query_norm.weight"), at.get("attention.key_norm.weight"))
        sees = [list(range(len(h)))] * len(h)
        mixed = attend(qkv, sizes, shape.attention_scale, sees, gains, shape.rope_theta, shape.norm_eps)
        x_MD = x_MD + mixed @ at["attention.out.weight"].T
        x_MD = x_MD + swiglu(normed(x_MD, at["feedforward_norm.weight"], shape.norm_eps), at)
    return normed(x_MD, weights["norm.weight"], shape.norm_eps)


def attend(
    qkv: tuple[Tensor, ...],
    sizes: tuple[int, int, int],
    scale: float | None,
    sees: list[list[int]],
    gains: tuple[Tensor | None, Tensor | None],
    theta: float | None,
    eps: float = 0.0,
) -> Tensor:
    """Query s attends to the keys `sees[s]`; with a theta both turn, every row by its own index."""
    heads, groups, width = sizes
    queries, keys, values = qkv
    mixed = torch.zeros(len(queries), heads * width, dtype=torch.float64)
    for h in range(heads):
        g = h // (heads // groups)
        query, key = queries[:, h * width : (h + 1) * width], keys[:, g * width : (g + 1) * width]
        query, key = (x if w is None else normed(x, w, eps) for x, w in zip((query, key), gains, strict=True))
        if theta is not None:
            query, key = turned(query, 0, theta), turned(key, 0, theta)
        for s, seen in enumerate(sees):
            scores = torch.stack([query[s] @ key[m] for m in seen]) * (width**-0.5 if scale is None else scale)
            for p, m in zip(scores.softmax(0), seen, strict=True):
                mixed[s, h * width : (h + 1) * width] += p * values[m, g * width : (g + 1) * width]
    return mixed


def swiglu(x: Tensor, at: dict[str, Tensor]) -> Tensor:
    gate, up = (x @ at["feedforward.up.weight"].T).chunk(2, 1)
    return (gate / (1 + torch.exp(-gate)) * up) @ at["feedforward.down.weight"].T


def normed(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def turned(x: Tensor, start: int, theta: float) -> Tensor:
    """Each pair (x_i, x_{i + half}) as a complex number times exp(i p theta^(-2i/E))."""
    half = x.shape[-1] // 2
    position = torch.arange(start, start + len(x), dtype=torch.float64)[:, None]
    frequency = theta ** (-2 * torch.arange(half, dtype=torch.float64) / x.shape[-1])
    turn = torch.polar(torch.ones(1, dtype=torch.float64), position * frequency)
    number = torch.complex(x[:, :half], x[:, half:]) * turn
    return torch.cat([number.real, number.imag], -1)
