"""Overlap inference: a wave-to-wave network over a stream of any length, in constant memory and without a seam.

The stream is cut into cores. Each goes through the network with the samples around it that can reach it (its context),
and only the core is kept (overlap-discard), so that what comes out is what the whole at once would have given. Where
the stream begins and ends nothing is cut: there the network sees the true edge, and pads it as it pads the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WaveCN = NDArray[np.float32]

CORE = 1 << 16  # samples that one window is to yield at least
CONTEXTS = 4  # and as many contexts, so that at most a third of the work is discarded
WINDOWS = {"cpu": 1 << 17}  # samples of all windows that are computed together; more is of no use to a CPU's caches
WINDOWS_ELSEWHERE = 1 << 21


class WaveToWave(Protocol):
    """What is asked of a network (`waveform.generators`): [B, N] to [B, N], each sample made of inputs at most
    `context` samples away, and the same for any cut at a multiple of `multiple` samples."""

    @property
    def context(self) -> int: ...

    @property
    def multiple(self) -> int: ...

    def __call__(self, damaged_BN: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Cuts:
    """Where a stream is cut, in samples: every core begins at a multiple of `core`; a window begins `left` before its
    core, which is a multiple too, and ends `right` behind it."""

    core: int
    left: int
    right: int

    @classmethod
    def of(cls, generator: WaveToWave, core: int = CORE) -> Cuts:
        context, multiple = generator.context, generator.multiple
        return cls(_up(max(core, CONTEXTS * context), multiple), _up(context, multiple), context)

    @property
    def window(self) -> int:
        return self.left + self.core + self.right


@torch.no_grad()
def restore_stream(
    generator: WaveToWave,
    blocks: Iterable[WaveCN],
    *,
    device: torch.device | str = "cpu",
    core: int = CORE,
) -> Iterator[WaveCN]:
    """What the network makes of blocks float32 [C, n], in other blocks of the same length in all; channels are items.

    The network is on `device`. Differs from `generator(whole)` by rounding alone (convolutions of other lengths), but
    for silence: where all inputs that can reach a sample are exactly 0, it is exactly 0.
    """
    cuts = Cuts.of(generator, core)
    most = WINDOWS.get(torch.device(device).type, WINDOWS_ELSEWHERE)
    held = _Held()
    done = 0  # samples given

    def make(window_CN: WaveCN, lead: int, windows: int, cores: int) -> WaveCN:
        """`cores` samples behind `lead`, computed as this many overlapping windows."""
        return _make(generator, window_CN, cuts, lead, windows, cores, torch.device(device))

    for block_CN in blocks:
        held.put(block_CN)
        while True:
            lead = min(done, cuts.left)
            ready = (held.end - done - cuts.right) // cuts.core
            windows = 1 if done < cuts.left else max(1, most // (cuts.window * block_CN.shape[0]))
            if ready < windows:
                break
            cores = windows * cuts.core
            yield make(held.part(done - lead, done + cores + cuts.right), lead, windows, cores)
            done += cores
            held.forget(done - cuts.left)
    while done < held.end:
        lead, cores = min(done, cuts.left), min(cuts.core, held.end - done)
        yield make(held.part(done - lead, min(held.end, done + cores + cuts.right)), lead, 1, cores)
        done += cores


def _make(
    generator: WaveToWave, part_CN: WaveCN, cuts: Cuts, lead: int, windows: int, cores: int, device: torch.device
) -> WaveCN:
    silent_CN = _silent(part_CN, cuts.right)[:, lead : lead + cores]
    if silent_CN.all():
        return np.zeros(silent_CN.shape, np.float32)
    starts = range(0, windows * cuts.core, cuts.core)
    length = part_CN.shape[1] - (windows - 1) * cuts.core
    # Windows first, channels second: [windows * C, length].
    damaged_BN = torch.from_numpy(np.concatenate([part_CN[:, start : start + length] for start in starts]))
    made_BN = generator(damaged_BN.to(device))[:, lead : lead + cores // windows].float().cpu().numpy()
    made_CN = np.concatenate(np.split(made_BN, windows), axis=1)
    made_CN[silent_CN] = 0  # a bias somewhere would be heard as a tone in a pause
    return made_CN


def _silent(part_CN: WaveCN, context: int) -> NDArray[np.bool_]:
    """Where nothing but zeros lies within `context` samples. Beyond the ends of the part counts as nothing."""
    length = part_CN.shape[1]
    sounding_CN = np.zeros((part_CN.shape[0], length + 1), np.int64)
    np.cumsum(part_CN != 0, axis=1, out=sounding_CN[:, 1:])
    at_N = np.arange(length)
    after_N, before_N = np.minimum(at_N + context + 1, length), np.maximum(at_N - context, 0)
    found: NDArray[np.bool_] = sounding_CN[:, after_N] == sounding_CN[:, before_N]
    return found


class _Held:
    """The samples that are still needed, by their place in the stream."""

    def __init__(self) -> None:
        self._parts: list[WaveCN] = []
        self._begin = self.end = 0

    def put(self, block_CN: WaveCN) -> None:
        self._parts.append(block_CN)
        self.end += block_CN.shape[1]

    def part(self, start: int, stop: int) -> WaveCN:
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts, axis=1)]
        return np.ascontiguousarray(self._parts[0][:, start - self._begin : stop - self._begin], np.float32)

    def forget(self, before: int) -> None:
        """Drop what lies before this place; the rest is copied, or a view would keep all of it."""
        if before > self._begin:
            self._parts = [self._parts[0][:, before - self._begin :].copy()]
            self._begin = before


def beside(
    blocks: Iterable[WaveCN], through: Callable[[Iterator[WaveCN]], Iterable[WaveCN]]
) -> Iterator[tuple[WaveCN, WaveCN]]:
    """(blocks as they were, what `through` made of them), cut alike, in as much memory as `through` lags behind.

    What `through` gives is cut, or filled with zeros, to the length that went in.
    """
    waiting, ready = _Held(), _Held()
    given = 0

    def kept() -> Iterator[WaveCN]:
        for block_CN in blocks:
            waiting.put(block_CN)
            yield block_CN

    for made_CN in through(kept()):
        ready.put(made_CN)
        stop = min(ready.end, waiting.end)
        if stop > given:
            yield waiting.part(given, stop), ready.part(given, stop)
            given = stop
            waiting.forget(given)
            ready.forget(given)
    if given < waiting.end:
        left_CN = waiting.part(given, waiting.end)
        yield left_CN, np.zeros_like(left_CN)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
