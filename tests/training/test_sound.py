"""Training a codec: keyed crops, the split, a killed run that resumes bit for bit, and its way out of the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from partimento.codecs.codec import decode_whole, encode_whole, open_codec
from partimento.codecs.resident import CARD
from partimento.config import CodecConfig, SoundData, parse
from partimento.errors import PartimentoError
from partimento.runs.checkpoint import newest
from partimento.training.engine import train
from partimento.training.export import export_resident
from partimento.training.tasks import crops
from partimento.training.tasks.crops import Crops, Recording, gather, is_held_out
from partimento.training.tasks.sound import Batch, SoundTask

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


class Dies(SoundTask):
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
    task = SoundTask(configuration(other), CPU)
    recorded = json.loads((trained / "whole" / "run.json").read_text())["identity"]
    assert task.identity != recorded
    assert SoundTask(configuration(folder), CPU).identity == recorded


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
    def never(config: object, device: torch.device, *_: int) -> SoundTask:
        task = SoundTask(config, device)  # type: ignore[arg-type]
        task.batch = lambda *_: (_ for _ in ()).throw(Killed())  # type: ignore[method-assign]
        return task

    with pytest.raises(Killed):
        train(configuration(folder), runs=tmp_path, run="empty", make_task=never)  # type: ignore[arg-type]
    with pytest.raises(PartimentoError) as caught:
        export_resident(tmp_path / "empty", tmp_path / "out")
    assert caught.value.code == "CODEC007"


def test_the_split_goes_by_name_alone(folder: Path) -> None:
    sound = gather(SoundData(folders=[str(folder)], band_loops=0), 44100)
    assert {r.source for r in sound.held_out} == {name for name in NAMES if is_held_out(name)}
    assert len(sound.train) + len(sound.held_out) == len(NAMES)
    share = np.mean([is_held_out(f"name {number}") for number in range(2000)])
    assert 0.12 < share < 0.18
    resampled = next(r for side in (sound.train, sound.held_out) for r in side if r.source == "take1.wav")
    assert abs(len(resampled.wave_N) - 2 * 6400) <= 2


def test_songs_of_the_band_are_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = crops.band(1, 0, seconds=1.0)
    monkeypatch.setattr(crops, "band", lambda seed, index: replace(loop, source=f"band-{seed}-song-{index // 2:05d}"))
    sound = gather(SoundData(folders=[], band_loops=60), 44100)
    songs = [{r.source for r in side} for side in (sound.train, sound.held_out)]
    assert songs[0] and songs[1] and not songs[0] & songs[1]


def test_one_side_empty_is_an_error(tmp_path: Path) -> None:
    name = next(name for name in NAMES if not is_held_out(name))
    soundfile.write(tmp_path / name, np.zeros(1000), 44100)
    with pytest.raises(PartimentoError, match="held out") as caught:
        gather(SoundData(folders=[str(tmp_path)], band_loops=0), 44100)
    assert caught.value.code == "CODEC006"


def test_crops_are_functions_of_their_key() -> None:
    rng = np.random.default_rng(0)
    recordings = [
        Recording(str(n), kind, rng.standard_normal(samples).astype(np.float32), "")
        for n, (kind, samples) in enumerate([("band", 5000), ("real", 300), ("real", 90000)])
    ]
    first = Crops(recordings, 2048, band_share=0.5)
    drawn = [first.draw(1, step, item) for step in range(20) for item in range(4)]
    assert all(wave.shape == (2048,) and wave.dtype == np.float32 for wave in drawn)
    assert all(np.isfinite(wave).all() and np.abs(wave).max() <= 1 for wave in drawn)
    again = Crops(recordings, 2048, band_share=0.5)
    assert np.array_equal(again.draw(1, 7, 3), drawn[7 * 4 + 3])
    assert not np.array_equal(again.draw(2, 7, 3), drawn[7 * 4 + 3])
    assert sum(float(np.abs(wave).max()) > 0 for wave in drawn) > 70


def test_band_share_is_a_share() -> None:
    ones = np.ones(4000, np.float32)
    recordings = [Recording("a", "band", -ones, ""), Recording("b", "real", ones, ""), Recording("c", "real", ones, "")]
    for share in (0.0, 0.25, 1.0):
        cumulative = Crops(recordings, 512, share)._cumulative
        assert cumulative[0] == pytest.approx(share) and cumulative[-1] == pytest.approx(1.0)


def test_fewer_books_for_about_the_share_that_is_asked(folder: Path) -> None:
    task = SoundTask(configuration(folder), CPU)
    books = torch.cat([task.batch(step, 0).books_B for step in range(100)])
    whole = float((books == 3).float().mean())
    assert 0.7 < whole < 0.95  # a quarter drop, and a third of those draw all three
    assert {1, 2, 3} == set(books.tolist())


def test_wave_weight_falls_geometrically(folder: Path) -> None:
    task = SoundTask(configuration(folder), CPU)
    assert task._wave_weight(0) == pytest.approx(200.0)
    assert task._wave_weight(7) == pytest.approx(50.0)
    assert task._wave_weight(3) ** 2 < task._wave_weight(0) * task._wave_weight(7) * 2
