"""Channel layouts: how the channels of a recording become what a codec codes, and a mono codec coding two channels.

mono        one channel, the mean of all
left-right  two channels, each coded by itself
mid-side    two channels, coded as mid = (L + R) / 2 and side = (L - R) / 2; L = mid + side, R = mid - side
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.audio.files import to_mono
from partimento.codecs.codec import Codec, CodesTK, RecurrentCodec, WaveCN
from partimento.errors import PartimentoError
from partimento.tokens.spec import LAYOUTS, CodecSpec


@dataclass(frozen=True)
class Arranged:
    """Samples with the channels of a layout, how many channels there were, and what was done to them."""

    wave_CN: WaveCN
    layout: str
    channels: int
    done: Literal["", "downmixed", "upmixed"]


def arrange(wave_CN: WaveCN, layout: str = "mono", *, upmix: bool = False) -> Arranged:
    """Samples [C, n] with the channels of the layout: one (the mean), or left and right. Works block by block.

    A single channel becomes two equal ones only with `upmix`: it costs twice the codes and teaches nothing of stereo.
    Raises CODEC003 (unknown layout), CODEC011 (one channel without `upmix`, or more than two, for a layout of two).
    """
    if layout not in LAYOUTS:
        raise _unknown(layout)
    channels = wave_CN.shape[0]
    if layout == "mono":
        return Arranged(to_mono(wave_CN), layout, channels, "downmixed" if channels > 1 else "")
    if channels == 2:
        return Arranged(np.asarray(wave_CN, np.float32), layout, channels, "")
    if channels == 1 and upmix:
        return Arranged(np.repeat(np.asarray(wave_CN, np.float32), 2, axis=0), layout, channels, "upmixed")
    raise PartimentoError(
        "CODEC011",
        f"a recording of {channels} channel{'s' * (channels != 1)} does not fit the layout {layout}",
        why="it codes a left and a right channel",
        next="use --layout mono, or --upmix to code a single channel twice"
        if channels == 1
        else "use --layout mono, or mix the recording to two channels first",
    )


def lay_out(codec: Codec, layout: str = "mono", books: Sequence[int] | None = None) -> Codec:
    """The codec in a layout, with the first `books` books of each coded channel (None: all); itself if that is so.

    Raises CODEC003 (unknown layout, or a codec that is not mono), CODEC012 (books that the codec does not have).
    """
    if layout not in LAYOUTS:
        raise _unknown(layout)
    wanted = tuple(books) if books is not None else None
    if layout == codec.spec.layout and wanted in (None, channel_books(codec.spec)):
        return codec
    if codec.spec.layout != "mono":
        raise PartimentoError(
            "CODEC003",
            f"{codec.spec.codec} codes {codec.spec.layout} and cannot be laid out as {layout} {wanted or ''}".rstrip(),
            why="only a mono codec can",
            next=f"use --layout {codec.spec.layout} and no --books",
        )
    channels = 1 if layout == "mono" else 2
    wanted = (codec.spec.codebooks,) * channels if wanted is None else wanted
    if len(wanted) != channels or not all(1 <= b <= codec.spec.codebooks for b in wanted):
        raise PartimentoError(
            "CODEC012",
            f"{codec.spec.codec} cannot code {layout} with {', '.join(map(str, wanted)) or 'no'} books",
            why=f"it takes {channels} number{'s' * (channels > 1)} of 1 to {codec.spec.codebooks}",
            next=f"use --books {','.join([str(codec.spec.codebooks)] * channels)}",
        )
    return LaidOut(codec, layout, wanted)


def channel_books(spec: CodecSpec) -> tuple[int, ...]:
    """How many books each coded channel has."""
    return spec.books or (spec.codebooks,)


def coarser(codec: Codec, most: int) -> tuple[Codec, list[int]]:
    """The codec with at most the first `most` books of each channel, and the columns of its codes that remain."""
    books = channel_books(codec.spec)
    starts = [0, *itertools.accumulate(books)]
    columns = [start + k for start, b in zip(starts, books, strict=False) for k in range(min(b, most))]
    base = codec.base if isinstance(codec, LaidOut) else codec
    return LaidOut(base, codec.spec.layout, tuple(min(b, most) for b in books)), columns


class LaidOut:
    """A mono codec that codes two channels, or with fewer books, or both.

    Waves are left and right whatever the layout; mid and side exist only between the codec and this. The two channels
    are coded one after the other, so that the codes of one cannot depend on the other in any rounding.
    """

    def __init__(self, base: Codec, layout: str, books: tuple[int, ...]):
        self.base = base
        self.context_frames = base.context_frames
        self.device: torch.device = getattr(base, "device", torch.device("cpu"))
        kept = [base.spec.cardinalities[:b] for b in books]
        self.spec = replace(
            base.spec,
            cardinalities=tuple(itertools.chain.from_iterable(kept)),
            layout=layout,
            books=() if layout == "mono" else books,
        )
        self._books = books

    def encode(self, wave_BCN: Tensor) -> Tensor:
        """codes [B, T, K], the columns of the first channel before those of the second."""
        coded = self._to_coded(wave_BCN)
        parts = [self.base.encode(coded[:, c : c + 1])[..., :b] for c, b in enumerate(self._books)]
        return torch.cat(parts, dim=-1)

    def decode(self, codes_BTK: Tensor) -> Tensor:
        """wave [B, C, T * hop]; a two-channel layout needs all its columns."""
        parts = [self.base.decode(columns_BTK) for columns_BTK in codes_BTK.split(self._split(codes_BTK), dim=-1)]
        return self._to_heard(torch.cat(parts, dim=1))

    def encode_stream(self, blocks: Iterable[WaveCN], chunk_seconds: float) -> Iterator[CodesTK]:
        """For a base without finite context: its streams of all channels side by side."""
        base = cast(RecurrentCodec, self.base)
        coded = (self._to_coded(torch.from_numpy(np.asarray(block))[None])[0].numpy() for block in blocks)
        shared = itertools.tee(coded, len(self._books))
        streams = [base.encode_stream(_rows(mine, c), chunk_seconds) for c, mine in enumerate(shared)]
        for parts in zip(*streams, strict=True):
            yield np.concatenate([part[:, :b] for part, b in zip(parts, self._books, strict=True)], axis=1)

    def decode_stream(self, blocks: Iterable[CodesTK], chunk_seconds: float) -> Iterator[WaveCN]:
        """As `encode_stream`."""
        base = cast(RecurrentCodec, self.base)
        ends = list(itertools.accumulate(self._books))
        shared = itertools.tee(blocks, len(self._books))
        streams = [
            base.decode_stream(_columns(mine, end - b, end), chunk_seconds)
            for mine, end, b in zip(shared, ends, self._books, strict=True)
        ]
        for parts in zip(*streams, strict=True):
            yield self._to_heard(torch.from_numpy(np.concatenate(parts))[None])[0].numpy()

    def _split(self, codes_BTK: Tensor) -> list[int]:
        return [codes_BTK.shape[-1]] if self.spec.layout == "mono" else list(self._books)

    def _to_coded(self, wave_BCN: Tensor) -> Tensor:
        if self.spec.layout != "mid-side":
            return wave_BCN
        left, right = wave_BCN.unbind(1)
        return torch.stack([(left + right) / 2, (left - right) / 2], dim=1)

    def _to_heard(self, coded_BCN: Tensor) -> Tensor:
        if self.spec.layout != "mid-side":
            return coded_BCN
        mid, side = coded_BCN.unbind(1)
        return torch.stack([mid + side, mid - side], dim=1)


def _rows(blocks: Iterator[NDArray[np.float32]], channel: int) -> Iterator[NDArray[np.float32]]:
    return (block[channel : channel + 1] for block in blocks)


def _columns(blocks: Iterator[CodesTK], begin: int, end: int) -> Iterator[CodesTK]:
    return (np.ascontiguousarray(block[:, begin:end]) for block in blocks)


def _unknown(layout: str) -> PartimentoError:
    return PartimentoError(
        "CODEC003",
        f"there is no channel layout {layout!r}",
        why=f"there are {', '.join(LAYOUTS)}",
        next="use --layout mono",
    )
