"""Faults of the data: a real training on a pack that was spoilt, or whose windows were drawn wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from partimento import keyed
from partimento.tokens import shards
from partimento.tokens.clips import ClipRow
from partimento.tokens.draw import Draw, Item
from partimento.tokens.pack import Pack
from partimento.tokens.places import Places
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import finish, shard_file
from ward import Planted, toys

Rng = np.random.Generator
STEPS = 40
SIDES = CodecSpec("toy", "ab" * 32, toys.RATE, toys.SPEC.frame_rate, (toys.V,) * 4, "left-right", (2, 2))
MID_SIDE = replace(SIDES, layout="mid-side")


def on(
    folder: Path,
    change: Callable[[toys.Codes, Rng, int], toys.Codes],
    *,
    spec: CodecSpec = toys.SPEC,
    rate: float = 5e-3,
) -> Path:
    """A short training on a pack whose clips were changed."""
    pack = toys.write_pack(folder / "pack", clips=60, change=change, spec=spec)
    return toys.train(folder, steps=STEPS, data={"pack": str(pack)}, optim={"lr": rate})


def held_out(clip: int) -> bool:
    """As the hash of its source says."""
    return keyed.uniform("split", f"clip{clip:03d}.wav") < 0.1


# -- noise -------------------------------------------------------------------------------------------------------------


def chance(codes_TK: toys.Codes, rng: Rng, clip: int) -> toys.Codes:
    return rng.integers(0, toys.V, codes_TK.shape)


def all_chance(folder: Path) -> Path:
    return on(folder, chance)


def frames_shuffled(folder: Path) -> Path:
    return on(folder, lambda codes_TK, rng, clip: rng.permutation(codes_TK))


def clips_of_chance(folder: Path) -> Path:
    return on(folder, lambda codes_TK, rng, clip: chance(codes_TK, rng, clip) if clip % 4 == 0 else codes_TK)


# -- windows -----------------------------------------------------------------------------------------------------------


def always_from_the_beginning(folder: Path) -> Path:
    return toys.train(folder, steps=STEPS, data={"begin_share": 1.0})


def starts_forgotten(folder: Path) -> Path:
    """The program is right again when the doctor comes: only the log still knows."""
    right = Places.define
    with toys.playing() as patch:

        def zero(self: Places, index_B: Any, attempt: int = 0) -> Any:
            clip_B, start_B = right(self, index_B, attempt)
            return clip_B, np.zeros_like(start_B)

        patch.setattr(Places, "define", zero)
        return toys.train(folder, steps=STEPS)


# -- the split ---------------------------------------------------------------------------------------------------------


def copies_held_out(folder: Path) -> Path:
    """Held-out clips are passages of training clips with a twentieth of their codes changed, under other names."""
    known = [clip for clip in range(60) if not held_out(clip)]
    music = {clip: toys.music(np.random.default_rng([7, clip]), 400) for clip in range(60)}

    def copied(codes_TK: toys.Codes, rng: Rng, clip: int) -> toys.Codes:
        if not held_out(clip):
            return music[clip]
        codes_TK = music[known[clip % len(known)]][30:390].copy()
        spoilt = rng.random(codes_TK.shape) < 0.05
        codes_TK[spoilt] = rng.integers(0, toys.V, int(spoilt.sum()))
        return codes_TK

    return on(folder, copied)


def split_by_piece(folder: Path) -> Path:
    """Pieces of recordings were split by chance, not recordings."""
    rng = np.random.default_rng(0)
    rows: list[ClipRow] = []
    pieces: list[toys.Codes] = []
    for number in range(30):
        whole = toys.music(rng, 800)
        for piece in range(4):
            side = "valid" if rng.random() < 0.1 else "train"
            name, source = f"take{number}_{piece}.wav", f"take{number}.wav"
            rows.append(ClipRow(name, source, 0, 200 * len(rows), 200, toys.SPEC.samples(200), side))
            pieces.append(whole[200 * piece : 200 * (piece + 1)])
    shard = shards.write(folder / "pack", shard_file(0), pieces, toys.SPEC.cardinalities)
    pack: Pack = finish(folder / "pack", toys.SPEC, rows, [shard], keep_splits=True)
    return toys.train(folder, steps=STEPS, data={"pack": str(pack.path)})


def other_music_held_out(folder: Path) -> Path:
    """Training clips keep to three quarters of the codes, held-out ones do not."""
    return on(folder, lambda codes_TK, rng, clip: codes_TK if held_out(clip) else codes_TK % (3 * toys.V // 4))


# -- amount and content ------------------------------------------------------------------------------------------------


def forty_seconds(folder: Path) -> Path:
    """40 s of music for a million weights."""
    pack = toys.write_pack(folder / "pack", clips=10, frames=(220, 221), seed=4)
    large = {"width": 160, "layers": 4, "heads": 4}
    return toys.train(folder, steps=STEPS, data={"pack": str(pack)}, model=large, optim={"lr": 2e-3})


def one_frame(codes_TK: toys.Codes) -> None:
    codes_TK[:] = [3, 1, 4]


def half_silent(folder: Path) -> Path:
    def leads(codes_TK: toys.Codes, rng: Rng, clip: int) -> toys.Codes:
        one_frame(codes_TK[: len(codes_TK) // 2])
        return codes_TK

    return on(folder, leads)


def silent_clips(folder: Path) -> Path:
    def every_third(codes_TK: toys.Codes, rng: Rng, clip: int) -> toys.Codes:
        if clip % 3 == 0:
            one_frame(codes_TK)
        return codes_TK

    return on(folder, every_third)


def left_is_right(folder: Path) -> Path:
    return on(folder, lambda codes_TK, rng, clip: np.tile(codes_TK[:, :2], 2), spec=SIDES)


def side_stands_still(folder: Path) -> Path:
    def mono(codes_TK: toys.Codes, rng: Rng, clip: int) -> toys.Codes:
        return np.concatenate([codes_TK[:, :2], np.full((len(codes_TK), 2), 5)], axis=1)

    return on(folder, mono, spec=MID_SIDE, rate=2e-3)


# -- conditions --------------------------------------------------------------------------------------------------------


def conditions_lost(folder: Path) -> Path:
    """Nine of ten items lose their tags, where one was asked for."""
    right = Draw.items
    with toys.playing() as patch:

        def lost(self: Draw, indices: Any) -> list[Item]:
            return [item._replace(keep=item.keep and item.start % 10 == 0) for item in right(self, indices)]

        patch.setattr(Draw, "items", lost)
        return toys.train(folder, steps=STEPS)


planted = partial(Planted, level="data")
PLANTED = (
    planted("noise_data", how="All codes are chance.", make=all_chance),
    planted("noise_data", how="The frames of each clip are shuffled.", make=frames_shuffled, slow=True),
    planted("noise_data", how="Every fourth clip is chance.", make=clips_of_chance, slow=True),
    planted("fixed_crops", how="data.begin_share = 1.", make=always_from_the_beginning, slow=True),
    planted("fixed_crops", how="Training lost the starts of its windows; mended since.", make=starts_forgotten),
    planted("leaking_split", how="Held-out clips are near-copies of training clips.", make=copies_held_out),
    planted("leaking_split", how="Pieces of recordings were split by chance.", make=split_by_piece, slow=True),
    planted(
        "unseen_codes",
        how="Training clips keep to three quarters of the codes, held-out clips do not.",
        make=other_music_held_out,
        slow=True,
        also=("dead_codes",),
    ),
    planted("tiny_data", how="40 s of music for a model of 1.2 million weights.", make=forty_seconds, slow=True),
    planted("silent_share", how="Every clip begins with silence, for half of its length.", make=half_silent, slow=True),
    planted("silent_share", how="Every third clip is silent.", make=silent_clips, slow=True),
    planted("copied_channels", how="Left is right.", make=left_is_right),
    planted("copied_channels", how="Mid and side, of one channel.", make=side_stands_still, slow=True),
    planted(
        "null_share_off",
        how="Nine of ten items lose their tags, data.null_share says one.",
        make=conditions_lost,
        slow=True,
    ),
)
