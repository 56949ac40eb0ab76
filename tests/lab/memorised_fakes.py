"""Small packs with known copies, and a codec that gives codes back as they were."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from partimento import keyed
from partimento.tokens import shards
from partimento.tokens.clips import ClipRow
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import finish, shard_file

RATE = 100  # frames a second
SPEC = CodecSpec("fake", "0" * 64, 8000, Fraction(RATE), (64, 64, 64))


class Levels:
    """A codec of 100 frames/s: each book is the mean level of a third of the frame."""

    spec = SPEC
    context_frames = 0

    def encode(self, wave_BCN):
        wave_BN = torch.nn.functional.pad(wave_BCN[:, 0], (0, -wave_BCN.shape[-1] % 80))
        frames_BTH = wave_BN.unfold(-1, 80, 80)[..., :78].reshape(wave_BN.shape[0], -1, 3, 26)
        return (frames_BTH.mean(-1) * 64).long().clamp(0, 63)

    def decode(self, codes_BTK):
        level_BTK = (codes_BTK.float() + 0.5) / 64
        frames_BTH = torch.cat([level_BTK.repeat_interleave(26, -1), torch.zeros(*level_BTK.shape[:2], 2)], -1)
        return frames_BTH.reshape(codes_BTK.shape[0], 1, -1)


def music(seed: int, frames: int, spec: CodecSpec = SPEC) -> np.ndarray:
    """Uneven use of the codes, a fifth of the frames held."""
    rng = np.random.default_rng(seed)
    weights = np.exp(-np.arange(64) / 20)
    codes_TK = rng.choice(64, (frames, spec.codebooks), p=weights / weights.sum())
    place = np.where(rng.random(frames) < 0.2, 0, np.arange(frames))
    return codes_TK[np.maximum.accumulate(place)].astype(np.uint16)


def write_pack(path: Path, train: list[np.ndarray], valid: list[np.ndarray], *, shared: bool = False) -> Pack:
    """Clips t0, t1, ... and v0, v1, ..., four a shard, those of both splits between one another; `shared`: the first
    held-out clip is of the source of t0."""
    named = [(f"t{number}", "train", codes_TK) for number, codes_TK in enumerate(train)]
    named += [(f"v{number}", "valid", codes_TK) for number, codes_TK in enumerate(valid)]
    named.sort(key=lambda one: keyed.key("order", one[0]))
    rows, made = [], []
    for number in range(0, len(named), 4):
        part, at = named[number : number + 4], 0
        for clip, split, codes_TK in part:
            source = "t0" if shared and clip == "v0" else clip
            rows.append(ClipRow(clip, source, len(made), at, len(codes_TK), SPEC.samples(len(codes_TK)), split))
            at += len(codes_TK)
        made.append(shards.write(path, shard_file(len(made)), [one[2] for one in part], SPEC.cardinalities))
    return finish(path, SPEC, rows, made, keep_splits=True)


def changed(codes_TK: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(codes_TK.shape) < share, rng.integers(0, 64, codes_TK.shape), codes_TK).astype(np.uint16)
