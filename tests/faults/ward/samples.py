"""Faults of what is played: a trained run plays its demos by the trainer's own code, with one thing spoilt.

What is trained wrong (by heart, without the null condition) is trained so; else all copies are of one base run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from partimento.codecs import codec as codecs
from partimento.config import CodesConfig, parse
from partimento.keyed import torch_generator
from partimento.models.conditions import Told
from partimento.runs import checkpoint
from partimento.runs.run import Run
from partimento.sampling.generate import Played
from partimento.sampling.rules import Noise, Rules
from partimento.tokens.pack import Pack
from partimento.tokens.text import Words
from partimento.training.ema import copy_into, named_state
from partimento.training.player import Player
from partimento.training.tasks.codes import CodesTask
from ward import Planted, toys

DEMOS = {"temperatures": [0.0, 1.0], "seconds": 4.0, "seeds": [0, 1], "prompts": ["rising"], "guidance": [1.0, 3.0]}
PLAIN = DEMOS | {"prompts": [""], "guidance": [1.0]}
LATER = {"temperatures": [], "seconds": 4.0}
PIECE = 25  # frames
Spoil = Callable[[pytest.MonkeyPatch], None]


class Rests(toys.ToyCodec):
    """The toy's codec, in which the first code of the second book is a rest."""

    def decode(self, codes_BTK: Tensor) -> Tensor:
        heard_BN = (codes_BTK[..., 1] > 0).repeat_interleave(toys.HOP, dim=-1)
        return super().decode(codes_BTK) * heard_BN[:, None]


class Levels(toys.ToyCodec):
    """A codec that can hear what it plays: each book is the level of a third of the frame."""

    def encode(self, wave_BCN: Tensor) -> Tensor:
        wave_BN = nn.functional.pad(wave_BCN[:, 0], (0, -wave_BCN.shape[-1] % toys.HOP))
        thirds_BTKH = wave_BN.unfold(-1, toys.HOP, toys.HOP)[..., : 53 * toys.K].unflatten(-1, (toys.K, 53))
        return (thirds_BTKH.mean(-1) * toys.V).long().clamp(0, toys.V - 1)

    def decode(self, codes_BTK: Tensor) -> Tensor:
        level_BTK = (codes_BTK.float() + 0.5) / toys.V
        return nn.functional.pad(level_BTK.repeat_interleave(53, -1), (0, toys.HOP - 53 * toys.K)).flatten(1)[:, None]


def play(
    run: Path,
    spoil: Spoil = lambda patch: None,
    *,
    codec: Callable[[], toys.ToyCodec] = Rests,
    demo: dict[str, Any] | None = None,
) -> Path:
    """The demos of the newest checkpoint, made while `spoil` holds; `demo` is laid over what the run asked for."""
    found = Run.open(run)
    tree = found.record["config"]
    config = parse(tree | {"demo": tree["demo"] | (demo or {})})
    assert isinstance(config, CodesConfig)
    newest = checkpoint.visible(found.checkpoints_path)[-1]
    shutil.rmtree(found.demos_path, ignore_errors=True)
    with toys.playing() as patch:
        patch.setattr(codecs, "open_codec", lambda *_, **__: codec())
        spoil(patch)
        task = CodesTask(config, torch.device("cpu"))
        step = checkpoint.load(newest, ()).state["step"]

        @contextlib.contextmanager
        def using(weights: str) -> Iterator[nn.Module]:
            part = {"ema": "ema", "raw": "model"}[weights]
            copy_into(named_state(task.module), checkpoint.load(newest, (part,)).parts[part])
            task.module.eval()
            yield task.module

        task.demos(found.demos_path, step, using)
    return run


# -- the sampler is spoilt ---------------------------------------------------------------------------------------------


def the_noise_is_zero(folder: Path) -> Path:
    """So that the first code is drawn, whatever the model says; it is a rest."""

    def spoil(patch: pytest.MonkeyPatch) -> None:
        at = Noise.at
        patch.setattr(Noise, "at", lambda self, step: torch.zeros_like(at(self, step)))

    return play(toys.base(folder, steps=60, demo=LATER), spoil, demo=DEMOS)


def the_noise_is_one(folder: Path) -> Path:
    """So that the last id is drawn, whatever the model says: the end."""

    def spoil(patch: pytest.MonkeyPatch) -> None:
        at = Noise.at
        patch.setattr(Noise, "at", lambda self, step: torch.full_like(at(self, step), 1 - 2**-23))

    return play(toys.base(folder, steps=60, demo=LATER), spoil, demo=DEMOS)


def pieces_of_one_seed(folder: Path) -> Path:
    """Half a second at a time, each from nothing and with the same noise."""

    def spoil(patch: pytest.MonkeyPatch) -> None:
        whole = Player.play

        def play(self: Player, *, frames: int, prompt_BTK: Tensor | None = None, **asked: Any) -> list[Played]:
            if prompt_BTK is not None:
                return whole(self, frames=frames, prompt_BTK=prompt_BTK, **asked)
            parts = [whole(self, frames=PIECE, **asked) for _ in range(frames // PIECE)]
            return [
                dataclasses.replace(items[0], codes_TK=torch.cat([item.codes_TK for item in items]))
                for items in zip(*parts, strict=True)
            ]

        patch.setattr(Player, "play", play)

    return play(toys.base(folder, steps=60, demo=LATER), spoil, demo=DEMOS)


# -- music that holds its tones ----------------------------------------------------------------------------------------


def held_tones(codes_TK: toys.Codes, rng: np.random.Generator, clip: int) -> toys.Codes:
    """Each frame is the one before it in seven of ten cases, so that is always the likeliest to come."""
    place_T = np.where(rng.random(len(codes_TK)) < 0.7, 0, np.arange(len(codes_TK)))
    return rng.permutation(codes_TK)[np.maximum.accumulate(place_T)]


def held(folder: Path) -> Path:
    pack = held_pack(toys.home())
    return toys.base(folder, steps=150, demo=LATER, data={"pack": str(pack)})


def held_pack(home: Path) -> Path:
    path = home / "held-tones"
    return path if path.exists() else toys.write_pack(path, change=held_tones)


def greedy_holds_one_tone(folder: Path) -> Path:
    return play(held(folder), demo=PLAIN)


def the_temperature_is_lost(folder: Path) -> Path:
    """Whatever is asked for, a twentieth of it is played at."""

    def spoil(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("partimento.training.demos.rules", lambda demo, temperature: Rules(temperature=0.05))

    return play(held(folder), spoil, demo=PLAIN)


def the_null_is_drawn_anew(folder: Path) -> Path:
    """As if the checkpoint had none, and an embedding of torch's were made."""

    def spoil(patch: pytest.MonkeyPatch) -> None:
        told = Player.told
        fresh_D = torch.randn(32, generator=torch_generator(0, "null"))

        def other(self: Player, words_B: Sequence[Words]) -> tuple[Told, Told]:
            ours, null = told(self, words_B)
            return ours, dataclasses.replace(null, condition_BD=fresh_D.expand(len(words_B), -1))

        patch.setattr(Player, "told", other)

    return play(held(folder), spoil, demo=DEMOS)


# -- trained so --------------------------------------------------------------------------------------------------------


def guided_without_a_null(folder: Path) -> Path:
    """The player's own refusal is put aside."""
    run = toys.train(folder, steps=30, data={"null_share": 0.0}, demo=LATER)

    def spoil(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Player, "knows_null", True)

    return play(run, spoil, demo=DEMOS)


def two_clips_by_heart(folder: Path) -> Path:
    known = Pack.open(toys.pack()).clips
    valid = [str(known.source[clip]) for clip in Pack.open(toys.pack()).split("valid")]
    train = [str(known.source[clip]) for clip in Pack.open(toys.pack()).split("train")[:2]]
    sources = [*train, *valid]
    pack = toys.write_pack(folder / "pack", clips=len(sources), source=lambda clip: sources[clip])
    run = toys.train(
        folder,
        steps=120,
        data={"pack": str(pack), "window": 96, "codec": "ward.samples:Levels", "begin_share": 0.5},
        model={"width": 48, "dropout": 0.0},
        demo=LATER,
    )
    return play(run, codec=Levels, demo=PLAIN)


PLANTED = (
    Planted(
        "silent_samples", "samples", "the noise of drawing is 0, so that every code is the first one, which is a rest",
        the_noise_is_zero, also=("entropy_collapse", "repetition"),
    ),
    Planted("wrong_ends", "samples", "the noise of drawing is 1: always the last id", the_noise_is_one),
    Planted("repetition", "samples", "played in pieces of half a second, each with the same seed", pieces_of_one_seed),
    Planted(
        "greedy_fails", "samples", "music in which to hold the tone is always likeliest, played greedily",
        greedy_holds_one_tone, slow=True,
    ),
    Planted(
        "entropy_collapse", "samples", "a temperature of 0.05 where 1 was asked for, of held tones",
        the_temperature_is_lost, slow=True,
    ),
    Planted(
        "null_mismatch", "samples", "the sampler's null is drawn anew, and is not the one of the training",
        the_null_is_drawn_anew, slow=True,
    ),
    Planted(
        "guidance_without_null", "samples", "demos with guidance 3 of a model that never saw its null condition",
        guided_without_a_null,
    ),
    Planted(
        "memorised", "samples", "two clips learned by heart", two_clips_by_heart,
        also=("overfitting", "tiny_data", "loss_of_other_targets"), slow=True,
    ),
)  # fmt: skip
