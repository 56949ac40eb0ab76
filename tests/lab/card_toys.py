"""Small runs of every family, trained by the engine, for what is exported of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

sys.path += [str(Path(__file__).parents[1] / room) for room in ("training", "play", "runs")]
import mot_toy
from codes_toy import SPEC, ToyCodec
from codes_toy import config as codes_config
from restorable import make_run as make_restorer

from partimento.config import parse
from partimento.runs.run import Run
from partimento.tokens.writer import PackWriter
from partimento.training.engine import train

FAMILIES = ("rvq", "dia", "mot", "restore", "codec")
LICENCES = ("CC BY-SA 4.0", "CC0-1.0", None, "ask Joe | nicely")
RATE = 24000


def write_pack(folder: Path, *, clips: int = 12, licences: tuple[str | None, ...] = LICENCES) -> Path:
    """A noisy cycle; licences go round over the clips."""
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, SPEC)
    for clip in range(clips):
        walk = (np.arange(60 + clip) + rng.integers(0, 12)) % 12
        codes_TK = np.stack([walk, (walk + 3) % 12, rng.integers(0, 12, len(walk))], axis=1)
        origin = f"https://example.org/{clip}" if clip % 2 else None
        licence = licences[clip % len(licences)]
        tags = ["slow", "fast"] if clip % 3 else ["slow"]
        writer.add(codes_TK, clip=f"clip{clip:02d}.wav", tags=tags, licence=licence, origin=origin)
    writer.finish()
    return folder


def code_run(root: Path, family: str, name: str = "r", pack: Path | None = None, **train_: Any) -> Run:
    pack = pack or write_pack(root / f"pack-{name}")
    model: dict[str, Any] = {"width": 16, "layers": 1}
    if family == "dia":
        model |= {"text_width": 16, "text_layers": 1, "text_heads": 2}
    steps = {"steps": 4, "valid_every": 4, "save_every": 4, "valid_items": 100, **train_}
    made = codes_config(pack, family, model=model, data={"window": 24}, demo={"temperatures": []}, train=steps)
    return train(made, runs=root / "runs", run=name)


def mot_run(root: Path, **model: Any) -> Run:
    pack, llama = mot_toy.write_pack(root / "mot-pack"), root / "llama"
    mot_toy.write_llama(llama)
    steps = {"steps": 4}
    return train(mot_toy.config(pack, llama, train=steps, model=model), runs=root / "runs", run="mot")


def codec_run(root: Path) -> Run:
    (root / "takes").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        time = np.arange(5000 + 300 * number) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (200 + 90 * number) * time) + 0.01 * rng.standard_normal(len(time))
        soundfile.write(root / "takes" / f"take{number}.wav", tone, RATE)
    sizes = {"width": 16, "encoder_layers": 1, "decoder_layers": 1, "latent": 4, "codebooks": 3, "cardinality": 16}
    config = parse(
        {
            "family": "codec",
            "data": {"folders": [str(root / "takes")], "band_loops": 0, "crop": 1920},
            "model": {"sample_rate": RATE, "hop": 480, "start_step": 2, **sizes},
            "optim": {"batch": 4, "warmup": 1, "lr": 1e-3, "ema": 0.9},
            "train": {"steps": 4, "save_every": 4, "valid_every": 4, "valid_items": 2, "device": "cpu"},
        }
    )
    return train(config, runs=root / "runs", run="codec")


class Toys:
    """Runs by family, each made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, Run] = {}

    def run(self, family: str) -> Run:
        if family not in self.made:
            torch.manual_seed(0)
            here = self.root / family
            here.mkdir()
            if family == "mot":
                self.made[family] = mot_run(here)
            elif family == "codec":
                self.made[family] = codec_run(here)
            elif family == "restore":
                self.made[family] = make_restorer(here / "runs", "restore")
            else:
                self.made[family] = code_run(here, family)
        return self.made[family]


def recording(folder: Path) -> None:
    time = np.arange(4000) / 8000
    soundfile.write(folder / "recording.wav", 0.2 * np.sin(2 * np.pi * 220 * time), 8000)


def with_toy_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codec of the packs is nowhere to be opened but here; and nothing is compiled."""
    from partimento.codecs import codec

    monkeypatch.setattr("partimento.play.source._compiler", lambda: None)
    real = codec.open_codec
    monkeypatch.setattr(
        codec, "open_codec", lambda name="toy", *args, **of: ToyCodec() if name == "toy" else real(name, *args, **of)
    )
