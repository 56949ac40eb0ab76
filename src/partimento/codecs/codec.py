"""What a codec is, and how long audio goes through one in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.tokens.spec import CodecSpec


class Codec(Protocol):
    """Audio to codes and back, at `spec.sample_rate`, with C channels as `spec.layout` says (mono: 1).

    `context_frames` is how many frames on each side can influence a frame, in either direction.
    """

    spec: CodecSpec
    context_frames: int

    def encode(self, wave_BCN: Tensor) -> Tensor:
        """codes [B, T, K] int64 of T = ceil(N / hop) frames. The codes of an item do not depend on its batch mates."""

    def decode(self, codes_BTK: Tensor) -> Tensor:
        """wave [B, C, T * hop] float32. K may be smaller than spec.codebooks if the codec has coarser rates."""


def open_codec(name: str = "resident-44k", device: torch.device | str = "cpu") -> Codec:
    """The codec of this name, or the one that `partimento codec export` wrote into the folder of this name.

    Raises CODEC001 (unknown name), CODEC002 (its weights do not match their recorded hash).
    """
    from partimento.codecs.resident import RESIDENT, load_resident

    if name == RESIDENT:
        return load_resident(device=device)
    if (Path(name) / "card.json").is_file():
        return load_resident(Path(name), device=device)
    raise PartimentoError(
        "CODEC001",
        f"there is no codec {name!r}",
        why=f"known are {RESIDENT} and folders that hold an exported codec (card.json, weights.safetensors)",
        next=f"use --codec {RESIDENT}",
    )


@torch.no_grad()
def encode_whole(codec: Codec, wave_CN: NDArray[np.float32], chunk_seconds: float = 30.0) -> NDArray[np.int64]:
    """codes [T, K] of a recording of any length, in chunks with context that is coded and thrown away.

    Every frame sees the samples that it would see in one pass, so the codes are the same. Raises CODEC004 if there
    are no samples.
    """
    hop, chunk, context = _pieces(codec, chunk_seconds)
    samples = wave_CN.shape[-1]
    if samples == 0:
        raise PartimentoError("CODEC004", "there are no samples to encode", next="leave the file out")
    frames = codec.spec.frames(samples)
    parts = []
    for start in range(0, frames, chunk):
        first, last = max(0, start - context), min(frames, start + chunk + context)
        wave_1CN = torch.from_numpy(np.ascontiguousarray(wave_CN[:, first * hop : last * hop], dtype=np.float32))[None]
        codes_TK = codec.encode(wave_1CN)[0].cpu().numpy()
        parts.append(codes_TK[start - first : start - first + chunk])
    return np.concatenate(parts)


@torch.no_grad()
def decode_whole(
    codec: Codec, codes_TK: NDArray[np.integer], samples: int | None = None, chunk_seconds: float = 30.0
) -> NDArray[np.float32]:
    """wave [C, N] of codes of any length, in chunks as `encode_whole`; N is `samples`, or all that the frames hold.

    Raises CODEC004 if there are no frames or fewer than `samples` needs, CODEC005 if an id is not a code.
    """
    hop, chunk, context = _pieces(codec, chunk_seconds)
    frames = codes_TK.shape[0]
    if frames == 0 or (samples is not None and not 0 < samples <= frames * hop):
        raise PartimentoError(
            "CODEC004",
            f"{frames} frames do not hold {samples if samples is not None else 'any'} samples",
            next="partimento pack verify PACK",
        )
    books = codec.spec.codebooks
    limits_K = np.asarray(codec.spec.cardinalities)
    if codes_TK.shape[1] != books or (codes_TK < 0).any() or (codes_TK >= limits_K).any():
        raise PartimentoError(
            "CODEC005",
            f"codes of shape {codes_TK.shape}, {codes_TK.min()} to {codes_TK.max()}, do not belong to this codec",
            why=f"{codec.spec.codec} has {books} codebooks of {limits_K.tolist()} codes",
            next="decode with the codec that the pack names",
        )
    parts = []
    for start in range(0, frames, chunk):
        first, last = max(0, start - context), min(frames, start + chunk + context)
        codes_1TK = torch.from_numpy(codes_TK[first:last].astype(np.int64))[None]
        wave_CN = codec.decode(codes_1TK)[0].cpu().numpy()
        parts.append(wave_CN[:, (start - first) * hop : (start - first + chunk) * hop])
    return np.concatenate(parts, axis=1)[:, :samples]


def _pieces(codec: Codec, chunk_seconds: float) -> tuple[int, int, int]:
    """hop in samples, frames in a chunk, frames of context."""
    hop = codec.spec.hop
    if hop.denominator != 1:
        raise ValueError(f"chunks can only be cut at whole samples; {codec.spec.codec} has {hop} samples a frame")
    return int(hop), max(1, round(chunk_seconds * codec.spec.frame_rate)), codec.context_frames
