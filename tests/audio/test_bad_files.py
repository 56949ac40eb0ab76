"""One test a row of the table of what decoders do with bad files: each ends in a coded error, never in wrong audio."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from partimento.audio import files
from partimento.errors import PartimentoError, explanations

from .conftest import RATE, fmt, riff, tone

Bad = Callable[..., set[str]]


@pytest.fixture
def codes(tmp_path: Path) -> Bad:
    """The codes with which a file of these bytes is refused, in this process and in the child."""

    def refused(content: bytes, name: str) -> set[str]:
        path = tmp_path / name
        path.write_bytes(content)
        found = set()
        for read in (files.read, files.read_isolated):
            with pytest.raises(PartimentoError) as caught:
                read(path)
            assert caught.value.code in explanations()
            assert caught.value.next
            assert str(path) in str(caught.value)
            found.add(caught.value.code)
        return found

    return refused


def flipped(content: bytes, count: int, seed: int, start: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    out = bytearray(content)
    for place in rng.integers(start, len(out), count):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def test_wav_cut_in_half(good: dict[str, Path], codes: Bad) -> None:
    for kind in ("wav", "wav24", "float", "aiff"):
        content = good[kind].read_bytes()
        assert codes(content[: len(content) // 2], f"cut.{kind}") == {"AUDIO004"}


def test_wav_cut_by_one_frame(good: dict[str, Path], codes: Bad) -> None:
    assert codes(good["wav"].read_bytes()[:-4], "cut.wav") == {"AUDIO004"}


def test_wav_whose_header_was_never_finished(codes: Bad) -> None:
    samples = b"\1\0" * 1000
    content = bytearray(riff([fmt(), (b"data", samples)], size=0))
    assert codes(bytes(content), "unfinished.wav") == {"AUDIO004"}


def test_every_bit_of_a_wav_header(good: dict[str, Path], tmp_path: Path) -> None:
    """A flip is either noticed or harmless: the samples and the rate are those of the file before it."""
    content = good["wav"].read_bytes()
    whole = files.read(good["wav"])
    path = tmp_path / "flipped.wav"
    noticed = 0
    for bit in range(44 * 8):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            found = files.read(path)
        except PartimentoError as err:
            noticed += err.code in explanations()
            continue
        assert found.sample_rate == whole.sample_rate, bit
        np.testing.assert_array_equal(found.wave_CN, whole.wave_CN, err_msg=str(bit))
    assert noticed > 300


def test_mp3_cut_in_half(good: dict[str, Path], codes: Bad) -> None:
    content = good["mp3"].read_bytes()
    assert codes(content[: len(content) // 2], "cut.mp3") == {"AUDIO004"}


def test_mp3_cut_between_two_frames(good: dict[str, Path], codes: Bad) -> None:
    content = good["mp3"].read_bytes()
    middle = content.index(content[0:2], len(content) // 2)  # the next frame's sync
    assert codes(content[:middle], "cut.mp3") == {"AUDIO004"}


@pytest.mark.parametrize("seed", range(6))
def test_mp3_with_50_flipped_bytes(good: dict[str, Path], codes: Bad, seed: int) -> None:
    content = good["mp3"].read_bytes()
    assert codes(flipped(content, 50, seed, start=400), "flipped.mp3") <= {"AUDIO004", "AUDIO005", "AUDIO006"}


def test_mp3_with_a_part_overwritten(good: dict[str, Path], codes: Bad) -> None:
    content = bytearray(good["mp3"].read_bytes())
    content[3000:3600] = np.random.default_rng(0).bytes(600)
    assert codes(bytes(content), "holed.mp3") == {"AUDIO005"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 4.5, -1e30])
def test_float_wav_with_impossible_samples(tmp_path: Path, codes: Bad, value: float) -> None:
    wave = tone()
    wave[20000, 1] = value
    soundfile.write(tmp_path / "made.wav", wave, RATE, subtype="FLOAT")
    assert codes((tmp_path / "made.wav").read_bytes(), "nan.wav") == {"AUDIO006"}


@pytest.mark.parametrize("kind", ["flac", "flac24", "ogg", "opus"])
def test_flac_ogg_opus_cut(good: dict[str, Path], codes: Bad, kind: str) -> None:
    content = good[kind].read_bytes()
    for share in (0.3, 0.5, 0.95):
        assert codes(content[: int(len(content) * share)], f"cut.{kind}") <= {"AUDIO004", "AUDIO005"}


@pytest.mark.parametrize("kind", ["flac", "flac24", "ogg", "opus"])
def test_flac_ogg_opus_flipped(good: dict[str, Path], codes: Bad, kind: str) -> None:
    content = good[kind].read_bytes()
    start = 9000 if kind.startswith("flac") else 0  # past the padding, which holds nothing
    for count in (1, 20):
        assert codes(flipped(content, count, count, start), f"flipped.{kind}") <= {"AUDIO004", "AUDIO005"}


def test_ogg_cut_between_two_pages(good: dict[str, Path], codes: Bad) -> None:
    content = good["ogg"].read_bytes()
    assert codes(content[: content.rindex(b"OggS")], "cut.ogg") == {"AUDIO004"}


def test_ogg_without_a_page_in_the_middle(good: dict[str, Path], codes: Bad) -> None:
    content = good["opus"].read_bytes()
    pages = [at for at in range(len(content)) if content.startswith(b"OggS", at)]
    assert len(pages) >= 4
    assert codes(content[: pages[2]] + content[pages[3] :], "hole.opus") == {"AUDIO005"}


def test_flac_with_another_rate_in_its_header(good: dict[str, Path], codes: Bad) -> None:
    content = bytearray(good["flac"].read_bytes())
    content[8 + 10] ^= 0x01  # the top bits of the 20-bit rate
    assert codes(bytes(content), "rate.flac") == {"AUDIO005"}


def test_text_named_mp3(codes: Bad) -> None:
    assert codes(b"<html><body>404 not found</body></html>", "page.mp3") == {"AUDIO002"}


def test_noise_named_wav(codes: Bad) -> None:
    assert codes(np.random.default_rng(3).bytes(5000), "noise.wav") == {"AUDIO002"}


@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "ogg", "m4a"])
def test_0_bytes(codes: Bad, suffix: str) -> None:
    assert codes(b"", f"empty.{suffix}") == {"AUDIO003"}


def test_sample_rate_0(codes: Bad) -> None:
    assert codes(riff([fmt(rate=0), (b"data", b"\0\0" * 100)]), "still.wav") == {"AUDIO008"}


def test_sample_rate_of_a_million(codes: Bad) -> None:
    assert codes(riff([fmt(rate=1_000_000), (b"data", b"\0\0" * 100)]), "fast.wav") == {"AUDIO008"}


@pytest.mark.parametrize("channels", [0, 17, 60000])
def test_too_many_or_no_channels(codes: Bad, channels: int) -> None:
    content = riff([fmt(channels=channels), (b"data", bytes(240000))])
    assert codes(content, "wide.wav") == {"AUDIO008"}


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "OGG"])
def test_zero_frames(tmp_path: Path, codes: Bad, kind: str) -> None:
    soundfile.write(tmp_path / "made", np.zeros((0, 2), np.float32), RATE, format=kind)
    assert codes((tmp_path / "made").read_bytes(), f"none.{kind.lower()}") <= {"AUDIO007", "AUDIO005", "AUDIO004"}


def test_zero_frames_of_wav_says_so(codes: Bad) -> None:
    assert codes(riff([fmt(), (b"data", b"")]), "none.wav") == {"AUDIO007"}


def test_longer_than_allowed(good: dict[str, Path]) -> None:
    for kind in ("wav", "mp3", "flac", "opus"):
        for read in (files.read, files.read_isolated):
            with pytest.raises(PartimentoError, match="longer than") as caught:
                read(good[kind], max_seconds=0.5)
            assert caught.value.code == "AUDIO008"


def test_flac_that_declares_a_day(good: dict[str, Path], codes: Bad) -> None:
    content = bytearray(good["flac"].read_bytes())
    content[8 + 13] |= 0x0F  # the top of the 36-bit frame count
    assert codes(bytes(content), "day.flac") <= {"AUDIO004", "AUDIO008"}


def test_one_byte_and_a_bare_header(good: dict[str, Path], codes: Bad) -> None:
    for kind in ("wav", "aiff", "flac", "ogg", "mp3"):
        content = good[kind].read_bytes()
        for length in (1, 4, 12, 20, 30):
            assert codes(content[:length], f"stub.{kind}") <= {"AUDIO002", "AUDIO004", "AUDIO005"}


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.wav", tmp_path):
        for read in (files.read, files.read_isolated):
            with pytest.raises(PartimentoError) as caught:
                read(path)
            assert caught.value.code == "SYS004"


# ---- sizes that a writer could not know, which are no fault ------------------------------------------------------


def test_streamed_wav_is_read_to_its_end(tmp_path: Path) -> None:
    samples = (tone()[:, 0] * 32767).astype("<i2").tobytes()
    for unknown in (0xFFFFFFFF, 0x7FFFF024):
        content = bytearray(riff([fmt(), (b"data", samples)], size=unknown))
        content[40:44] = struct.pack("<I", min(unknown, 0xFFFFFFFF) - (0 if unknown == 0xFFFFFFFF else 36))
        path = tmp_path / "streamed.wav"
        path.write_bytes(content)
        assert files.read(path).wave_CN.shape == (1, len(samples) // 2)


def test_rf64(tmp_path: Path, codes: Bad) -> None:
    samples = (tone()[:, 0] * 32767).astype("<i2").tobytes()

    def rf64(data_size: int) -> bytes:
        plain = riff([(b"ds64", bytes(28)), fmt(), (b"data", samples)], size=0xFFFFFFFF, name=b"RF64")
        sizes = struct.pack("<QQQI", len(plain) - 8, data_size, data_size // 2, 0)
        at = plain.index(b"data") + 4
        return plain[:20] + sizes + plain[48:at] + b"\xff" * 4 + plain[at + 4 :]

    path = tmp_path / "long.wav"
    path.write_bytes(rf64(len(samples)))
    assert files.read(path).wave_CN.shape == (1, len(samples) // 2)
    assert codes(rf64(len(samples))[:-1000], "cut.wav") == {"AUDIO004"}
    assert codes(rf64(1 << 40), "lie.wav") == {"AUDIO004"}


def test_tags_after_the_sound_are_no_fault(good: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("wav", "mp3"):
        path = tmp_path / f"tagged.{kind}"
        path.write_bytes(good[kind].read_bytes() + b"TAG" + b"name".ljust(125, b"\0"))
        np.testing.assert_array_equal(files.read(path).wave_CN, files.read(good[kind]).wave_CN)
