"""What a codec is, and how audio of any length goes through one in constant memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.codecs.windows import alike, reblocked, windows
from partimento.errors import PartimentoError
from partimento.tokens.spec import CodecSpec

WaveCN = NDArray[np.float32]
CodesTK = NDArray[np.int64]

CHUNK_SECONDS = 10.0  # DAC 44.1 kHz takes about 1 GB for it while it decodes
GPU_BATCH = 8


class Codec(Protocol):
    """Audio to codes and back, at `spec.sample_rate`, with C = `spec.channels` channels (two: left and right).

    `context_frames` is how many frames on each side can influence a frame, in either direction. It is None for a codec
    whose memory has no end (an LSTM, a transformer); such a codec is a `RecurrentCodec`.
    """

    @property
    def spec(self) -> CodecSpec: ...

    @property
    def context_frames(self) -> int | None: ...

    def encode(self, wave_BCN: Tensor) -> Tensor:
        """codes [B, T, K] int64 of T = ceil(N / hop) frames. The codes of an item do not depend on its batch mates."""

    def decode(self, codes_BTK: Tensor) -> Tensor:
        """wave [B, C, T * hop] float32. K may be smaller than spec.codebooks if the codec has coarser rates."""


class RecurrentCodec(Codec, Protocol):
    """A codec that carries its memory from block to block itself: what it yields, joined, is what one pass gives."""

    def encode_stream(self, blocks: Iterable[WaveCN], chunk_seconds: float) -> Iterator[CodesTK]:
        """Blocks [C, n] of `chunk_seconds`, whole frames (but for the last) -> codes [t, K]."""

    def decode_stream(self, blocks: Iterable[CodesTK], chunk_seconds: float) -> Iterator[WaveCN]:
        """Blocks [t, K] of `chunk_seconds` -> wave [C, n], T * hop samples in all."""


def open_codec(
    name: str = "resident-44k",
    device: torch.device | str = "cpu",
    *,
    layout: str = "mono",
    books: tuple[int, ...] | None = None,
) -> Codec:
    """The codec of this name, in this channel layout, with the first `books` books of each coded channel.

    `books` None is all books of the codec, and for EnCodec and Mimi the number that they are commonly used with.
    `name` is one of: resident-44k (`codecs.resident.RESIDENTS`); a folder that `partimento codec export` or `weights
    export` wrote (card.json), or the name of such an export on the hub, in its cache; a folder of a transformers
    checkpoint (config.json of dac, encodec or mimi); a short name (dac-44k, `codecs.pretrained.SHORT`) or hub name
    (org/name), both opened from the hub cache and never downloaded; module:function, a codec of your own.

    Raises CODEC001 (unknown name), CODEC002, PUB001, PUB002 (an exported codec is damaged), CODEC003 and CODEC012
    (layout or books that cannot be), CODEC010 (no such device), CODEC013 to CODEC017 (pretrained checkpoints), PACK020
    (module:function).
    """
    from partimento.codecs import pretrained
    from partimento.codecs.layout import lay_out
    from partimento.codecs.resident import CARD, RESIDENTS, folder_of, load_resident
    from partimento.runs import hub

    device, folder = _device(device), folder_of(name)
    if name in RESIDENTS:
        codec: Codec = load_resident(folder, device=device)
    elif (folder / CARD).is_file():
        codec = load_resident(folder, device=device)
    elif (name and folder.exists()) or name in pretrained.SHORT or hub.is_name(name):
        codec = pretrained.open_pretrained(name, device, books=max(books) if books else None)
    elif ":" in name:
        codec = _own(name)
    else:
        known = ", ".join([*RESIDENTS, *pretrained.SHORT])
        raise PartimentoError(
            "CODEC001",
            f"there is no codec {name!r}",
            why=f"known are {known}, folders that hold a codec, org/name on the hub",
            next="partimento codec list",
        )
    return lay_out(codec, layout, books)


UNKNOWN = "unknown"  # the codec of imported codes whose files do not name it


def open_like(spec: CodecSpec, device: torch.device | str = "cpu", *, name: str | None = None) -> Codec:
    """The codec that codes of `spec` are of: opened by its name (or `name`, say a folder), in its layout and books.

    Codes that were imported without a codec's hash are held against rates, books and layout alone, and need a `name`.
    Raises PACK009 where it is another codec than that of the codes, and what `open_codec` raises.
    """
    if name is None and spec.codec == UNKNOWN:
        raise PartimentoError(
            "PACK009",
            "these codes were imported and do not say what their codec is",
            why=f"{spec.codebooks} books, {float(spec.frame_rate):g} frames a second, {spec.sample_rate} Hz",
            next="name it: --codec NAME or FOLDER (data.codec in a configuration); `partimento codec list`",
        )
    opened = open_codec(name or spec.codec, device, layout=spec.layout, books=spec.books or (spec.codebooks,))
    ours, theirs = opened.spec.to_json(), spec.to_json()
    ignored = {"codec", "weights"} if not spec.weights else {"codec"} if name else set()
    differs = [key for key in {**theirs, **ours} if key not in ignored and ours.get(key) != theirs.get(key)]
    if differs:
        raise PartimentoError(
            "PACK009",
            f"the codes are of {spec.codec}, and this codec is another",
            why=f"they differ in {', '.join(differs)}",
            next=f"name the {spec.codec} of the weights {spec.weights[:12]} (--codec, data.codec), or encode again"
            if spec.weights
            else "name the codec that made these codes (--codec, data.codec)",
        )
    return opened


def encode_stream(
    codec: Codec, blocks: Iterable[WaveCN], chunk_seconds: float = CHUNK_SECONDS, batch: int | None = None
) -> Iterator[CodesTK]:
    """Codes [t, K] of a recording that arrives in blocks [C, n] of any sizes; T = ceil(N / hop) in all.

    The codec sees windows of one fixed length, cut from the recording at places that do not depend on the blocks; the
    context on both sides is coded and thrown away. So the codes are those of one pass, whatever the blocks and however
    long the recording. `batch` windows go together (by default 8 on a GPU, else 1). Memory: `batch` windows.

    Raises CODEC004 (no samples at all), CODEC011 (channels that are not the layout's), CODEC018 (miscounting).
    """
    hop, chunk = _pieces(codec, chunk_seconds)
    blocks = _channels_checked(codec.spec, blocks)
    if codec.context_frames is None:
        waves = _nonempty(reblocked(blocks, chunk * hop))
        stream = cast(RecurrentCodec, codec).encode_stream
        yield from _by_itself(codec, stream, waves, chunk_seconds, (1, 0), lambda samples: -(-samples // hop))
        return
    cut = windows(blocks, hop, chunk + 2 * codec.context_frames, codec.context_frames)
    for group in alike(_nonempty(cut), _batch(codec) if batch is None else batch):
        wave_BCN = torch.from_numpy(np.stack([window.part for window in group]).astype(np.float32, copy=False))
        with torch.no_grad():
            codes_BTK = codec.encode(wave_BCN).cpu().numpy()
        _count(codec, codes_BTK.shape, (len(group), -(-wave_BCN.shape[-1] // hop), codec.spec.codebooks))
        for window, codes_TK in zip(group, codes_BTK, strict=True):
            yield codes_TK[window.first : window.last]


def decode_stream(
    codec: Codec,
    blocks: Iterable[NDArray[np.integer]],
    samples: int | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
    batch: int | None = None,
) -> Iterator[WaveCN]:
    """Wave [C, n] of codes that arrive in blocks [t, K] of any sizes; N is `samples`, or all that the frames hold.

    Windows as in `encode_stream`. Raises CODEC004 (no frames, or fewer than `samples` needs), CODEC005 (an id that is
    not a code), CODEC018 (a codec that miscounts).
    """
    left = samples
    for wave_CN in _decoded(codec, _codes_checked(codec.spec, blocks), chunk_seconds, batch):
        if left is not None:
            wave_CN = wave_CN[:, :left]
            left -= wave_CN.shape[1]
        if wave_CN.shape[1]:
            yield wave_CN
    if left:
        raise _too_few(f"the frames end {left} samples too early")


def encode_whole(codec: Codec, wave_CN: WaveCN, chunk_seconds: float = CHUNK_SECONDS) -> CodesTK:
    """Codes [T, K] of a recording [C, N] in memory; see `encode_stream`."""
    return np.concatenate(list(encode_stream(codec, [wave_CN], chunk_seconds)))


def decode_whole(
    codec: Codec, codes_TK: NDArray[np.integer], samples: int | None = None, chunk_seconds: float = CHUNK_SECONDS
) -> WaveCN:
    """Wave [C, N] of codes [T, K] in memory; see `decode_stream`. Its errors come before anything is decoded."""
    if samples is not None and not 0 < samples <= codec.spec.samples(len(codes_TK)):
        raise _too_few(f"{len(codes_TK)} frames do not hold {samples} samples")
    return np.concatenate(list(decode_stream(codec, [codes_TK], samples, chunk_seconds)), axis=1)


def _decoded(codec: Codec, codes: Iterator[NDArray[Any]], chunk_seconds: float, batch: int | None) -> Iterator[WaveCN]:
    """Wave [C, n] of blocks [K, t]."""
    hop, chunk = _pieces(codec, chunk_seconds)
    if codec.context_frames is None:
        blocks = (np.ascontiguousarray(part_KT.T) for part_KT in _nonempty(reblocked(codes, chunk), "frames"))
        stream = cast(RecurrentCodec, codec).decode_stream
        yield from _by_itself(codec, stream, blocks, chunk_seconds, (0, 1), lambda frames: frames * hop)
        return
    cut = windows(codes, 1, chunk + 2 * codec.context_frames, codec.context_frames)
    for group in alike(_nonempty(cut, "frames"), _batch(codec) if batch is None else batch):
        codes_BTK = torch.from_numpy(np.stack([window.part.T for window in group]))
        with torch.no_grad():
            wave_BCN = codec.decode(codes_BTK).cpu().numpy()
        _count(codec, wave_BCN.shape, (len(group), codec.spec.channels, codes_BTK.shape[1] * hop))
        for window, wave_CN in zip(group, wave_BCN, strict=True):
            yield wave_CN[:, window.first * hop : window.last * hop]


def _by_itself(
    codec: Codec,
    stream: Callable[[Iterable[NDArray[Any]], float], Iterator[NDArray[Any]]],
    blocks: Iterable[NDArray[Any]],
    chunk_seconds: float,
    axes: tuple[int, int],
    expected: Callable[[int], int],
) -> Iterator[NDArray[Any]]:
    """What a recurrent codec's stream gives, its length along time (`axes` of blocks and of pieces) checked."""
    given = found = 0

    def counted() -> Iterator[NDArray[Any]]:
        nonlocal given
        for block in blocks:
            given += block.shape[axes[0]]
            yield block

    for piece in stream(counted(), chunk_seconds):
        found += piece.shape[axes[1]]
        yield piece
    _count(codec, (found,), (expected(given),))


def _nonempty(pieces: Iterable[Any], what: str = "samples") -> Iterator[Any]:
    """Raises CODEC004 if there is not one piece."""
    empty = True
    for piece in pieces:
        empty = False
        yield piece
    if empty:
        raise _too_few(f"there are no {what}")


def _channels_checked(spec: CodecSpec, blocks: Iterable[WaveCN]) -> Iterator[WaveCN]:
    for block in blocks:
        if block.ndim != 2 or block.shape[0] != spec.channels:
            raise PartimentoError(
                "CODEC011",
                f"samples of shape {block.shape} are not what {spec.codec} in the layout {spec.layout} codes",
                why=f"it takes [{spec.channels}, samples]",
                next="partimento.codecs.layout.arrange brings a recording into a layout",
            )
        yield block


def _codes_checked(spec: CodecSpec, blocks: Iterable[NDArray[np.integer]]) -> Iterator[NDArray[np.int64]]:
    """Blocks [t, K] as [K, t] int64."""
    limits_K = np.asarray(spec.cardinalities)
    for block in blocks:
        shaped = block.ndim == 2 and block.shape[1] == spec.codebooks
        if not shaped or (block < 0).any() or (block >= limits_K).any():
            found = f", {block.min()} to {block.max()}," if block.size else ""
            raise PartimentoError(
                "CODEC005",
                f"codes of shape {block.shape}{found} do not belong to this codec",
                why=f"{spec.codec} has {spec.codebooks} codebooks of {limits_K.tolist()} codes",
                next="decode with the codec that the pack names",
            )
        yield block.astype(np.int64).T


def _count(codec: Codec, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != expected:
        raise PartimentoError(
            "CODEC018",
            f"{codec.spec.codec} gave an array of shape {tuple(found)} where {expected} is right",
            why="N samples are ceil(N / hop) frames, and T frames are T * hop samples",
            next="partimento codec check FILE with another codec; this one is at fault",
        )


def _too_few(message: str) -> PartimentoError:
    return PartimentoError("CODEC004", message, next="leave the file out; for a pack: partimento pack verify PACK")


def _pieces(codec: Codec, chunk_seconds: float) -> tuple[int, int]:
    """hop in samples, frames in a chunk."""
    hop = codec.spec.hop
    if hop.denominator != 1:
        raise ValueError(f"chunks can only be cut at whole samples; {codec.spec.codec} has {hop} samples a frame")
    return int(hop), max(1, round(chunk_seconds * codec.spec.frame_rate))


def _batch(codec: Codec) -> int:
    device = getattr(codec, "device", None)  # only codecs that can be elsewhere than on the CPU have one
    return 1 if device is None or device.type == "cpu" else GPU_BATCH


def _device(wanted: torch.device | str) -> torch.device:
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(wanted)
        there = (device.index or 0) < count.get(device.type, 0)
    except RuntimeError:
        there = False
    if not there:
        raise PartimentoError(
            "CODEC010",
            f"there is no device {str(wanted)!r} here",
            why="codecs run on cpu, cuda, cuda:N and mps, where PyTorch finds them",
            next="use --device cpu",
        )
    return device


def _own(name: str) -> Codec:
    module, _, function = name.partition(":")
    try:
        codec: Codec = getattr(importlib.import_module(module), function)()
        if not isinstance(codec.spec, CodecSpec):
            raise AttributeError(f"its spec is {type(codec.spec).__name__}")
    except (ImportError, AttributeError, ValueError, TypeError) as err:
        raise PartimentoError(
            "PACK020",
            f"the codec {name!r} cannot be opened",
            why=str(err),
            next="name it module:function, where the module can be imported",
        ) from err
    return codec
