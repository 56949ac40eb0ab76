"""Streams: the samples and files do not depend on how they are cut, and are those of the one-shot libraries."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.audio import child, files, stream
from partimento.errors import PartimentoError

RATES = [(44100, 16000), (48000, 44100), (8000, 44100), (44100, 48000), (11025, 24000), (44099, 44100), (96000, 16000)]


def noise(samples: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(samples).uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


def cut(wave_CN: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    at = turn = 0
    while at < wave_CN.shape[1]:
        size = sizes[turn % len(sizes)]
        yield wave_CN[:, at : at + size]
        at, turn = at + size, turn + 1


@pytest.mark.parametrize(("old", "new"), RATES)
def test_resampled_in_blocks_equals_soxr_at_once(old: int, new: int) -> None:
    wave_CN = noise(60_001)
    expected_CN = soxr.resample(wave_CN.T, old, new, quality="VHQ").T
    for sizes in ([60_001], [4096], [1, 7000, 333], [50_000]):
        got_CN = np.concatenate(list(stream.resample(cut(wave_CN, sizes), old, new)), axis=1)
        assert got_CN.shape[1] == (2 * 60_001 * new + old) // (2 * old)
        shared = min(got_CN.shape[1], expected_CN.shape[1])
        np.testing.assert_array_equal(got_CN[:, :shared], expected_CN[:, :shared])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.sampled_from(RATES), st.lists(st.integers(1, 900), min_size=1, max_size=4))
def test_lengths_are_exact(samples: int, rates: tuple[int, int], sizes: list[int]) -> None:
    old, new = rates
    parts = list(stream.resample(cut(noise(samples, 1), sizes), old, new))
    assert sum(part.shape[1] for part in parts) == (2 * samples * new + old) // (2 * old)


def test_equal_rates_change_nothing_and_no_blocks_are_none() -> None:
    blocks = [noise(10), noise(20)]
    assert list(stream.resample(blocks, 8000, 8000)) == blocks
    assert list(stream.resample([], 8000, 16000)) == []


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", None), ("a.wav", "PCM_24"), ("a.flac", None), ("a.flac", "PCM_24"), ("a.mp3", None)]
)
def test_files_do_not_depend_on_the_blocks(tmp_path: Path, name: str, subtype: str | None) -> None:
    wave_CN = noise(300_000)
    wave_CN[0, 5] = 1.5
    (tmp_path / "x").mkdir()
    assert stream.write(tmp_path / name, [wave_CN], 44100, subtype) == 1
    assert stream.write(tmp_path / "x" / name, cut(wave_CN, [999, 70_000]), 44100, subtype) == 1
    assert (tmp_path / name).read_bytes() == (tmp_path / "x" / name).read_bytes()


def test_a_flac_is_the_one_that_soundfile_writes(tmp_path: Path) -> None:
    whole_CN = np.random.default_rng(0).integers(-(2**15), 2**15, (2, 200_000), dtype=np.int16)
    stream.write(tmp_path / "a.flac", cut(whole_CN.astype(np.float32) / 2**15, [777]), 44100)
    there = io.BytesIO()
    soundfile.write(there, whole_CN.T, 44100, subtype="PCM_16", format="FLAC")
    assert (tmp_path / "a.flac").read_bytes() == there.getvalue()


def test_what_goes_wrong_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def late_nan() -> Iterator[np.ndarray]:
        yield noise(200_000)
        yield np.full((2, 10), np.nan, np.float32)

    def fails() -> Iterator[np.ndarray]:
        yield noise(200_000)
        raise ValueError("the codec is at fault")

    def turns() -> Iterator[np.ndarray]:
        yield noise(10)
        yield noise(10, 1)

    for blocks in (late_nan(), turns(), iter([])):
        with pytest.raises(PartimentoError, match="AUDIO011"):
            stream.write(tmp_path / "a.wav", blocks, 44100)
    with pytest.raises(ValueError, match="at fault"):  # not taken for a fault of the format
        stream.write(tmp_path / "a.wav", fails(), 44100)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    real = stream._Disk.write

    def write(self: stream._Disk, content: bytes) -> int:
        class Full:
            def write(self, content: bytes) -> int:
                raise OSError(28, "No space left on device")

        if self._raw.tell() > 300_000 and not isinstance(self._raw, Full):
            raw, self._raw = self._raw, Full()  # type: ignore[assignment]
            try:
                return real(self, content)
            finally:
                self._raw = raw
        return real(self, content)

    monkeypatch.setattr(stream._Disk, "write", write)
    with pytest.raises(PartimentoError, match="SYS002") as caught:
        stream.write(tmp_path / "a.wav", cut(noise(400_000), [10_000]), 44100)
    assert "space" in (caught.value.why or "")
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ""


def test_what_is_too_long_to_be_held_can_go_by(tmp_path: Path) -> None:
    second = np.zeros((1, 4000), np.float32)
    second[0, 7] = 0.5
    stream.write(tmp_path / "long.flac", (second for _ in range(3700)), 4000)
    for read in (files.read, files.read_isolated):
        with pytest.raises(PartimentoError, match="AUDIO008"):
            read(tmp_path / "long.flac")
    with child.Decoder().stream(tmp_path / "long.flac") as (facts, parts):
        assert facts.frames == 3700 * 4000 == sum(len(part) for part in parts)


def test_a_file_larger_than_the_childs_memory_can_be_read(tmp_path: Path) -> None:
    """Its container is mapped, which takes addresses, not memory."""
    path = tmp_path / "big.wav"
    size = 3 << 30
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 44100, 176400, 4, 16)
    head = struct.pack("<4sI4s", b"RIFF", size - 8, b"WAVE") + fmt + struct.pack("<4sI", b"data", size - 44)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    with child.Decoder().stream(path) as (facts, parts):
        assert facts.frames == (size - 44) // 4 and not next(parts).any()
