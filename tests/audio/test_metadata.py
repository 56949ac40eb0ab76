"""Metadata of audio files, and the hash of what is heard."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from partimento.audio import files, stream
from partimento.errors import PartimentoError

TAGS = {"title": "für Elise, 日本", "software": "partimento", "comment": '{"a":"' + "x" * 30_000 + '"}'}


def noise(channels: int = 2, samples: int = 5000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.1, 1.1, (channels, samples)).astype(np.float32)


def test_metadata_comes_back(tmp_path: Path) -> None:
    stream.write(tmp_path / "a.flac", [noise()], 44100, tags=TAGS)
    found = files.tags(tmp_path / "a.flac")
    assert found["title"] == TAGS["title"] and found["comment"] == TAGS["comment"]
    assert found["software"].startswith("partimento")
    stream.write(tmp_path / "b.flac", [noise()], 44100)
    assert not {"title", "comment"} & files.tags(tmp_path / "b.flac").keys()
    with pytest.raises(PartimentoError, match="AUDIO011"):
        stream.write(tmp_path / "c.wav", [noise()], 44100, tags=TAGS)
    assert not (tmp_path / "c.wav").exists()


def test_metadata_of_what_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_text("no audio")
    with pytest.raises(PartimentoError, match="AUDIO002"):
        files.tags(tmp_path / "a.flac")
    with pytest.raises(PartimentoError, match="SYS004"):
        files.tags(tmp_path / "b.flac")


def test_the_hash_is_of_the_samples_alone(tmp_path: Path) -> None:
    wave_CN = noise()
    clipped = stream.write(tmp_path / "a.flac", [wave_CN], 44100, tags=TAGS)
    stream.write(tmp_path / "b.wav", [wave_CN[:, :3000], wave_CN[:, 3000:]], 44100)
    samples = soundfile.read(tmp_path / "a.flac", dtype="int16")[0].astype("<i2")
    expected = (hashlib.sha256(samples.tobytes()).hexdigest(), 5000)
    assert files.samples_sha256(tmp_path / "a.flac") == files.samples_sha256(tmp_path / "b.wav") == expected
    first = (hashlib.sha256(samples[:1234].tobytes()).hexdigest(), 1234)
    assert files.samples_sha256(tmp_path / "a.flac", most=1234) == first
    pieces = list(stream.pcm16(Path("out"), [wave_CN[:, :10], wave_CN[:, 10:]]))
    assert b"".join(samples for samples, _ in pieces) == samples.tobytes()
    assert sum(count for _, count in pieces) == clipped > 0


def test_a_diverged_model_is_not_piped() -> None:
    with pytest.raises(PartimentoError, match="AUDIO011"):
        list(stream.pcm16(Path("out"), [np.full((1, 4), np.nan)]))
