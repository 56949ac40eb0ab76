"""Training a codec: keyed crops, the split, a killed run that resumes bit for bit, and its way out of the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from partimento.codecs.codec import decode_whole, encode_whole, open_codec
from partimento.codecs.resident import CARD
from partimento.config import CodecConfig, parse
from partimento.errors import PartimentoError
from partimento.runs.checkpoint import newest
from partimento.training import speed
from partimento.training.engine import train
from partimento.training.export import export_resident
from partimento.training.tasks.codec import Batch, CodecTask
from partimento.training.tasks.crops import is_held_out
from partimento.training.tasks.sound import DISTANCES
from partimento.waveform.autoencoder import Reconstruction

NAMES = [f"take{number}.wav" for number in range(24)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four short recordings, some stereo, one at another rate."""
    root = tmp_path_factory.mktemp("sound") / "takes"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        time = np.arange(6000 + 400 * number) / 44100
        tone = 0.3 * np.sin(2 * np.pi * (200 + 90 * number) * time) + 0.01 * rng.standard_normal(len(time))
        wave = np.stack([tone, 0.5 * tone], 1) if number % 3 == 0 else tone
        soundfile.write(root / name, wave, 22050 if number == 1 else 44100)
    return root


def configuration(folder: Path, **train_keys: object) -> CodecConfig:
    config = parse(
        {
            "family": "codec",
            "data": {"folders": [str(folder)], "band_loops": 0, "crop": 4096, "credits": ["tones of the tests"]},
            "model": {
                "width": 16,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "latent": 4,
                "codebooks": 3,
                "cardinality": 16,
                "start_step": 2,
            },
            "optim": {"batch": 2, "accumulate": 2, "warmup": 1, "lr": 1e-3, "ema": 0.9},
            "train": {"steps": 8, "save_every": 3, "valid_every": 4, "valid_items": 2, "device": "cpu", **train_keys},
        }
    )
    assert isinstance(config, CodecConfig)
    return config


class Killed(RuntimeError):
    pass


class Dies(CodecTask):
    """Dies in step 5, after the checkpoint of step 3."""

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        if batch.step == 5:
            raise Killed
        return super().inputs(batch)


def weights(runs: Path, run: str) -> dict[str, torch.Tensor]:
    path = newest(runs / run / "checkpoints")
    assert path is not None and path.name == "step-000000008"
    return {
        f"{part} {name}": tensor
        for part in ("model", "ema")
        for name, tensor in load_file(path / f"{part}.safetensors").items()
    }


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    train(configuration(folder), runs=runs, run="whole")
    return runs


def test_a_killed_run_resumes_bit_for_bit(folder: Path, trained: Path) -> None:
    config = configuration(folder)
    with pytest.raises(Killed):
        train(config, runs=trained, run="killed", make_task=Dies)  # type: ignore[arg-type]
    train(config, runs=trained, run="killed")
    one, two = weights(trained, "whole"), weights(trained, "killed")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert bool(one["model quantizer.started"]) and float(one["model quantizer.books_KVD"].abs().max()) > 0


def test_changed_recordings_are_refused(folder: Path, trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "takes"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    soundfile.write(other / "take0.wav", np.zeros(5000), 44100)
    task = CodecTask(configuration(other), CPU)
    recorded = json.loads((trained / "whole" / "run.json").read_text())["identity"]
    assert task.identity != recorded
    assert CodecTask(configuration(folder), CPU).identity == recorded


def test_export_is_a_codec(trained: Path, tmp_path: Path) -> None:
    card = export_resident(trained / "whole", tmp_path / "mine", name="mine")
    assert json.loads((tmp_path / "mine" / CARD).read_text()) == json.loads(json.dumps(card))
    assert card["data"]["held_out"]["takes"]["recordings"] == sum(is_held_out(name) for name in NAMES)
    assert card["recipe"]["config"]["data"]["folders"] == ["takes"]
    codec = open_codec(str(tmp_path / "mine"))
    assert codec.spec.codec == "mine" and codec.spec.cardinalities == (16,) * 3
    wave_1N = 0.1 * np.random.default_rng(1).standard_normal((1, 3000)).astype(np.float32)
    codes_TK = encode_whole(codec, wave_1N)
    assert codes_TK.shape == (6, 3)
    assert decode_whole(codec, codes_TK, samples=3000).shape == (1, 3000)


def test_nothing_to_export(folder: Path, tmp_path: Path) -> None:
    def never(config: object, device: torch.device, *_: int) -> CodecTask:
        task = CodecTask(config, device)  # type: ignore[arg-type]
        task.batch = lambda *_: (_ for _ in ()).throw(Killed())  # type: ignore[method-assign]
        return task

    with pytest.raises(Killed):
        train(configuration(folder), runs=tmp_path, run="empty", make_task=never)  # type: ignore[arg-type]
    with pytest.raises(PartimentoError) as caught:
        export_resident(tmp_path / "empty", tmp_path / "out")
    assert caught.value.code == "CODEC007"


def test_fewer_books_for_about_the_share_that_is_asked(folder: Path) -> None:
    task = CodecTask(configuration(folder), CPU)
    books = torch.cat([task.batch(step, 0).books_B for step in range(100)])
    whole = float((books == 3).float().mean())
    assert 0.7 < whole < 0.95  # a quarter drop, and a third of those draw all three
    assert {1, 2, 3} == set(books.tolist())


def test_wave_weight_falls_geometrically(folder: Path) -> None:
    task = CodecTask(configuration(folder), CPU)
    first, middle, last = (float(task.weighted(step)[0][DISTANCES.index("wave")]) for step in (0, 3, 7))  # type: ignore[index]
    assert (first, last) == (pytest.approx(3000.0), pytest.approx(750.0))
    assert middle == pytest.approx(3000.0 * 0.25 ** (3 / 7))


def test_silent_recordings_are_an_error_with_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "silence"
    folder.mkdir()
    for number, name in enumerate(NAMES):  # of different lengths: equal files would all be on one side
        soundfile.write(folder / name, np.zeros(6000 + number), 44100)
    with pytest.raises(PartimentoError) as caught:
        train(configuration(folder), runs=tmp_path, run="silent")
    assert caught.value.code == "CODEC021"


def test_the_share_of_the_peak_is_known_of_one_network_between_frames(folder: Path) -> None:
    task = CodecTask(configuration(folder), CPU)
    assert task.flops(4096) == speed.flops_per_item(task.module, 8) > 0
    tree = configuration(folder).model_dump(mode="json")
    small = {"start": 0, "period_width": 2, "window_width": 2, "windows": [256]}
    for name, values in {"adversary": small, "model": {"encoder": "dac", "decoder": "dac"}}.items():
        other = parse({**tree, name: {**tree[name], **values}})
        assert isinstance(other, CodecConfig)
        assert CodecTask(other, CPU).flops(4096) is None


def test_the_commitment_has_its_weight(folder: Path) -> None:
    task = CodecTask(configuration(folder), CPU)
    wave_BN, books_B, *_ = task.inputs(task.batch(0, 0))
    assert wave_BN is not None
    task.module.forward = lambda wave, books: Reconstruction(wave, torch.zeros(2, 8, 3), torch.tensor(2.0))  # type: ignore[method-assign]
    made = task.objective.make(wave_BN, books_B)
    assert (float(made.inner), float(made.inner_figures["commitment"])) == (7.5, 2.0)
