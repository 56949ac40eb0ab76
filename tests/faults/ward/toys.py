"""What the faults are planted in: packs of made-up music, configurations of every family, and quick trainings.

    toys.pack()                             a pack (read only: it is shared by the whole process), kept until its end
    toys.write_pack(folder, ...)            one of one's own, with other music
    toys.config("rvq", steps=80, model={"width": 16})
    toys.train(folder, "rvq", ...)          trains with the engine below `folder`, and returns the run
    toys.base(folder, "rvq", ...)           the same, trained once in a process, and copied from then on

A training of the defaults takes two to six seconds on one core. The codec of the packs is a toy; `playing()` puts it
where the engine opens codecs, and `train` does so itself.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from partimento.config import Config, parse
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training import engine
from partimento.training.task import Task

sys.path.append(str(Path(__file__).parents[2] / "training"))
import mot_toy
import players

V, K, RATE, HOP = 32, 3, 8000, 160
SPEC = CodecSpec("toy", "ab" * 32, RATE, Fraction(RATE, HOP), (V,) * K)
CLIPS = 150
CODES, SOUND = ("rvq", "dia", "mot"), ("codec", "restore")
Codes = NDArray[np.int64]  # [T, K]
Music = Callable[[np.random.Generator, int], Codes]
MakeTask = Callable[..., Task]


@cache
def home() -> Path:
    """A folder that is gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="ward-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


# -- music -------------------------------------------------------------------------------------------------------------


def music(rng: np.random.Generator, frames: int, sign: int = 1) -> Codes:
    """Codes [T, K] of a walk that keeps its stride (1 to 3, up or down by `sign`) for ten frames or so, round and round
    in one half of the codes: each clip has its own.

    Book 1 needs two frames of the past, book 2 the book before it, book 3 both; a fortieth of all codes is chance.
    """
    strides = rng.integers(1, 4, frames)
    for frame in range(1, frames):
        if rng.random() < 0.9:
            strides[frame] = strides[frame - 1]
    first = (rng.integers(V) + sign * np.cumsum(strides) % (V // 2)) % V
    second = (5 * first + 7 + rng.integers(0, 3, frames)) % V
    third = (second + np.roll(first, 1) + rng.integers(0, 2, frames)) % V
    codes_TK = np.stack([first, second, third], axis=1)
    chance = rng.random(codes_TK.shape) < 1 / 40
    codes_TK[chance] = rng.integers(0, V, int(chance.sum()))
    return codes_TK


def write_pack(
    folder: Path,
    *,
    clips: int = CLIPS,
    frames: tuple[int, int] = (200, 400),
    seed: int = 0,
    tags: bool = True,
    captions: bool = False,
    spec: CodecSpec = SPEC,
    change: Callable[[Codes, np.random.Generator, int], Codes] | None = None,
    source: Callable[[int], str] | None = None,
) -> Path:
    """A pack of `clips` clips of `music`; odd ones fall ("falling"), even ones rise ("rising").

    `change(codes_TK, rng, clip)` returns other codes of a clip, `source(clip)` its source (each is its own by default).
    Of every clip a tenth goes to the held-out side, by the hash of its source.
    """
    rng = np.random.default_rng(seed)
    writer = PackWriter(folder, spec)
    for clip in range(clips):
        way = "falling" if clip % 2 else "rising"
        codes_TK = music(rng, int(rng.integers(*frames)), -1 if clip % 2 else 1)
        if change is not None:
            codes_TK = change(codes_TK, rng, clip)
        more = {} if source is None else {"source": source(clip)}
        caption = f"a {way} walk" if captions else None
        writer.add(codes_TK, clip=f"clip{clip:03d}.wav", tags=[way] if tags else [], caption=caption, **more)
    writer.finish()
    return folder


@cache
def pack(captions: bool = False) -> Path:
    """The music of everything here. Do not change it: `write_pack` makes one of your own."""
    return write_pack(home() / f"pack-{captions}", captions=captions)


@cache
def llama() -> Path:
    folder = home() / "llama"
    folder.mkdir()
    mot_toy.write_llama(folder)
    return folder


@cache
def takes() -> Path:
    """Recordings of plucked tones for the families of sound."""
    return players.write_takes(home() / "takes")


class ToyCodec:
    """Each frame sounds as a tone whose pitch is its first code, and its loudness the second; the phase goes on."""

    context_frames = 0

    def __init__(self, spec: CodecSpec = SPEC) -> None:
        self.spec = spec

    def encode(self, wave_BCN: torch.Tensor) -> torch.Tensor:
        raise AssertionError("demos decode only")

    def decode(self, codes_BTK: torch.Tensor) -> torch.Tensor:
        books = codes_BTK.float()
        hertz_BN = (110 * 2 ** (books[..., 0] / 12)).repeat_interleave(HOP, dim=-1)
        loud_BN = (0.1 + 0.3 * books[..., 1] / V).repeat_interleave(HOP, dim=-1)
        return (loud_BN * torch.sin(2 * torch.pi * torch.cumsum(hertz_BN, dim=-1) / RATE))[:, None]


# -- trainings ---------------------------------------------------------------------------------------------------------


def config(family: str = "rvq", *, steps: int | None = None, **sections: dict[str, Any]) -> Config:
    """`sections` are laid over the defaults here; of the families of codes `data={"pack": ...}` is another pack.

    Demos are off; `demo={"temperatures": [1.0]}` plays some at the end.
    """
    if family in SOUND:
        plan = {"steps": steps or 40, "log_every": 1, "valid_every": 10, "save_every": 20} | sections.pop("train", {})
        return players.config(takes(), family, train=plan, **sections)
    tree: dict[str, Any] = {
        "family": family,
        "data": {"pack": str(pack()), "window": 64},
        "model": {"width": 32, "layers": 2, "heads": 2},
        "optim": {"batch": 8, "lr": 5e-3, "warmup": 20, "ema": 0.95},
        "guard": {"window": 32},
        "train": {
            "steps": steps or 200, "log_every": 5, "valid_every": 25, "save_every": 50, "valid_items": 24,
            "device": "cpu",
        },
        "demo": {"temperatures": [], "seconds": 2.0, "seeds": [0, 1]},
    }  # fmt: skip
    if family == "mot":
        tree["model"] = {"backbone": str(llama()), "expert_width": 16, "expert_inner": 32, "text_length": 24}
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    return parse(tree)


@contextlib.contextmanager
def playing() -> Iterator[pytest.MonkeyPatch]:
    """One thread, and the toy's codec wherever one is opened. What is patched with what it gives is undone after."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())
        torch.set_num_threads(1)
        try:
            yield patch
        finally:
            torch.set_num_threads(threads)


def train(
    folder: Path,
    family: str = "rvq",
    *,
    run: str = "run",
    task: MakeTask | None = None,
    hypothesis: str | None = None,
    steps: int | None = None,
    **sections: dict[str, Any],
) -> Path:
    """The folder of the run, trained below `folder` by the engine. Raises what the engine raises."""
    made = config(family, steps=steps, **sections)
    more: dict[str, Any] = {} if task is None else {"make_task": task}
    with playing():
        return engine.train(made, runs=folder, run=run, hypothesis=hypothesis, **more).path


def base(folder: Path, family: str = "rvq", *, run: str = "run", steps: int | None = None, **sections: Any) -> Path:
    """A run of these settings in `folder`: the first one in a process is trained, others are copies."""
    kept = _base(family, steps, json.dumps(sections, sort_keys=True))
    return Path(shutil.copytree(kept, folder / run))


@cache
def _base(family: str, steps: int | None, sections: str) -> Path:
    place = Path(tempfile.mkdtemp(prefix="base-", dir=home()))
    return train(place, family, steps=steps, **json.loads(sections))
