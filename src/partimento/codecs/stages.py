"""Codecs with memory without end (an LSTM, a transformer) run on a stream, stage by stage.

A stage of convolutions sees a fixed reach, so it runs on overlapping segments whose edges are thrown away. Between
such stages stands the one that remembers, and it carries its state. At the true start and end of a recording the stage
meets the edge itself and pads as it does for a whole file; at the borders between, its padding falls in what is thrown
away. So the result is that of one pass, to float rounding, with a chunk and its context in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

MOST_SAMPLES = 1 << 24


def full_precision() -> AbstractContextManager[None]:
    """Without TF32, which PyTorch allows in cuDNN's layers: codes would change with it, by machine and shape."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def one_pass(samples: int) -> AbstractContextManager[None]:
    """`full_precision`, for as many samples as transformers can pad at once; ValueError beyond.

    It computes an integer's padding in float32, which from 2^24 on (11.7 minutes at 24 kHz) is off by a sample or more.
    """
    if samples > MOST_SAMPLES:
        raise ValueError(f"{samples} samples in one pass, at most {MOST_SAMPLES}: longer ones are for the streams")
    return full_precision()


def overlapped(
    blocks: Iterable[Tensor],
    stage: Callable[[Tensor], Tensor],
    rates: tuple[int, int],
    reach: tuple[int, int],
    chunk: int,
) -> Iterator[Tensor]:
    """The stage's output for a stream, in pieces of `chunk` steps [1, D, chunk * rates[1]]; the last may be shorter.

    `blocks` are [1, C, n] of any lengths. A step is rates[0] input positions (the last one perhaps fewer) and rates[1]
    output positions; `reach` is how many steps left and right of a step can influence it, as `conv_reach` tells. Where
    the pieces are cut depends on `chunk` alone, never on the blocks.
    """
    step_in, step_out = rates
    left, right = reach
    chunk = max(chunk, left + 1)  # the first piece must hold all that the padding at the start reflects
    held: list[Tensor] = []
    first = done = length = 0  # steps: what is held begins at, what was put out; positions: what is held

    def piece() -> Tensor:
        nonlocal held, first, done, length
        joined = torch.cat(held, dim=-1)
        with full_precision():
            output = stage(joined[..., : (done - first + chunk + right) * step_in])
        output = output[..., (done - first) * step_out : (done - first + chunk) * step_out]
        keep_from = max(0, done + chunk - left)
        # A copy: a view would keep the whole piece in memory.
        held = [joined[..., (keep_from - first) * step_in :].clone()]
        first, done, length = keep_from, done + chunk, held[0].shape[-1]
        return output

    for block in blocks:
        held.append(block)
        length += block.shape[-1]
        while length >= (done - first + chunk + right) * step_in:
            yield piece()
    while length > (done - first) * step_in:
        yield piece()


def conv_reach(stage: nn.Module, rates: tuple[int, int]) -> tuple[int, int]:
    """How many steps left and right of a step can influence it in a chain of SEANet's convolutions; see `overlapped`.

    Reads kernel, stride, dilation and padding from the EncodecConv1d, MimiConv1d and their transposed layers of
    transformers, in order. A residual block's shortcut has a kernel of 1 and adds nothing to its branch.
    """
    low, high = 0, rates[1] - 1  # the output positions of one step; then what they need of each layer's input
    layers: list[Any] = [module for module in stage.modules() if hasattr(module, "conv")]
    for layer in reversed(layers):
        conv = layer.conv
        stride = conv.stride[0]
        extent = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1
        if isinstance(conv, nn.ConvTranspose1d):
            spare = extent - stride
            cut_left = spare - (math.ceil(spare * layer.trim_right_ratio) if layer.causal else spare // 2)
            low, high = (low + cut_left - extent + stride) // stride, (high + cut_left) // stride
        else:
            pad_right = 0 if layer.causal else (extent - stride) // 2
            pad_left = extent - stride - pad_right
            # At the end up to stride - 1 more positions are padded, and reflection reads as far back.
            low, high = low * stride - max(pad_left, pad_right + stride - 1), high * stride + extent - 1 - pad_left
    return -(low // rates[0]), max(0, high // rates[0])
