"""NPQ: golden bytes of each layout written by hand, round trips, and every kind of damage as a coded error."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.errors import PartimentoError, explanations
from partimento.tokens import npq
from partimento.tokens.npq import NpqFile

CODES = np.array([[1, 2], [300, 1023], [0, 511]])
VOCAB = (1024, 1024)
FPS = 86.1328125
U16 = CODES.astype("<u2").tobytes()


def v1(codes=U16, *, version=1, books=2, fps=FPS, kbps=128.0, frames=3, vocab=VOCAB, dtype=1):
    head = b"NPQ1" + struct.pack("<HHffI", version, books, fps, kbps, frames)
    return head + struct.pack(f"<{len(vocab)}I", *vocab) + bytes([dtype]) + codes


def v2(codes=U16, *, version=1, mode=1, k_mid=1, k_side=1, fps=FPS, frames=3, vocab=VOCAB, dtype=1):
    head = b"NPQ2" + struct.pack("<HBHHffI", version, mode, k_mid, k_side, fps, 320.0, frames)
    return head + struct.pack(f"<{len(vocab)}I", *vocab) + bytes([dtype]) + codes


def v0_i(codes=U16, *, books=2, fps=FPS, kbps=128.0, frames=3, vocab=VOCAB):
    return b"NPQ1" + struct.pack(f"<iffi{len(vocab)}i", books, fps, kbps, frames, *vocab) + codes


def v0_ii(codes=U16, *, books=2, fps=FPS, frames=3, vocab=VOCAB):
    return b"NPQ1" + struct.pack(f"<if{len(vocab)}ii", books, fps, *vocab, frames) + codes


def parse(content):
    return npq.parse(content, where="x.npq")


def raises(code):
    assert code in explanations()
    return pytest.raises(PartimentoError, match=code)


GOLDEN = [
    (v1(), "npq1", 128.0),
    (v1(CODES.astype("<u4").tobytes(), dtype=2), "npq1", 128.0),
    (v1((CODES % 256).astype("<u1").tobytes(), dtype=0, vocab=(256, 256)), "npq1", 128.0),
    (v2(), "npq2", 320.0),
    (v2(mode=0, k_mid=2, k_side=0), "npq2", 320.0),
    (v0_i(), "npq0-i", 128.0),
    (v0_i(kbps=0.0), "npq0-i", 0.0),
    (v0_ii(), "npq0-ii", 0.0),
]


@pytest.mark.parametrize(("content", "version", "kbps"), GOLDEN)
def test_each_layout_is_read(tmp_path, content, version, kbps):
    (tmp_path / "x").write_bytes(content)
    file = npq.read(tmp_path / "x")
    expected = CODES % 256 if file.vocab == (256, 256) else CODES
    np.testing.assert_array_equal(file.codes_TK, expected)
    assert (file.version, file.kbps, file.fps, file.notes) == (version, kbps, FPS, ())
    side = content[:4] == b"NPQ2" and content[6] == 1
    assert (file.k_mid, file.k_side, file.channel_mode) == ((1, 1, "mid-side") if side else (2, 0, "mono"))
    told = npq.describe(tmp_path / "x")
    assert told["frames"] == 3 and told["format"] == version and told["bytes"] == len(content)
    assert told["header_bytes"] == len(content) - file.codes_TK.nbytes


def test_header_sizes_are_the_documented_ones():
    assert len(v1(b"")) == 21 + 4 * 2 and len(v2(b"")) == 24 + 4 * 2


@pytest.mark.parametrize("index", range(len(GOLDEN)))
def test_what_is_written_is_what_was_read(index):
    content, version, _ = GOLDEN[index]
    if version not in ("npq1", "npq2") or content[28:29] == b"\x02":
        return
    file = parse(content)
    assert npq.serialise(file, version=version, where="x") == content


def test_trailing_bytes_are_counted():
    file = parse(v1() + b"tail!")
    assert file.notes == ("5 trailing byte(s) were passed over",)
    np.testing.assert_array_equal(file.codes_TK, CODES)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "NPQ001"),
        (b"RIFF" + U16, "NPQ001"),
        (v1(version=2), "NPQ002"),
        (v1(books=0, vocab=()), "NPQ002"),
        (v1(books=513, vocab=(2,) * 513), "NPQ002"),
        (v1(fps=float("nan")), "NPQ002"),
        (v1(fps=float("inf")), "NPQ002"),
        (v1(fps=0.0), "NPQ002"),
        (v1(fps=-86.0), "NPQ002"),
        (v1(kbps=float("nan")), "NPQ002"),
        (v1(vocab=(1024, 0)), "NPQ002"),
        (v1(dtype=3), "NPQ002"),
        (v2(mode=2), "NPQ002"),
        (v2(mode=0), "NPQ002"),
        (v2(mode=1, k_mid=2, k_side=0), "NPQ002"),
        (v2(mode=1, k_mid=0, k_side=2), "NPQ002"),
        (v2(version=7), "NPQ002"),
        (v0_i(books=-2), "NPQ002"),
        (v0_i(frames=-1), "NPQ002"),
        (v0_ii(frames=-1), "NPQ002"),
        (v0_ii(fps=float("nan")), "NPQ002"),
        (v1()[:-1], "NPQ003"),
        (v2()[:-3], "NPQ003"),
        (v0_i()[:-1], "NPQ003"),
        (v0_ii()[:-1], "NPQ003"),
        (v1()[:10], "NPQ003"),
        (v1()[:23], "NPQ003"),
        (v1(frames=2**32 - 1), "NPQ003"),
        (v2(frames=2**32 - 1), "NPQ003"),
        (v0_i(frames=2**31 - 1), "NPQ003"),
        (v0_ii(frames=2**31 - 1), "NPQ003"),
        (v1(vocab=(1024, 1023)), "NPQ004"),
        (v2(vocab=(300, 1024)), "NPQ004"),
        (v0_i(vocab=(300, 1024)), "NPQ004"),
        (v0_ii(vocab=(300, 1024)), "NPQ004"),
    ],
)
def test_what_cannot_be_is_a_coded_error(content, code):
    with raises(code):
        parse(content)


def test_a_claim_of_four_thousand_million_frames_allocates_nothing():
    content = v1(frames=2**32 - 1, books=512, vocab=(2,) * 512)
    tracemalloc.start()
    with raises("NPQ003"):
        parse(content)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@given(
    books=st.integers(1, 12),
    frames=st.integers(0, 40),
    fps=st.floats(1, 1000, width=32),
    kbps=st.floats(0.0625, 2000, width=32) | st.just(0.0),
    vocab=st.integers(2, 65536),
)
def test_no_file_of_version_0_is_taken_for_another_layout(books, frames, fps, kbps, vocab):
    codes = np.full((frames, books), vocab - 1, dtype="<u2").tobytes()
    kind = {"books": books, "fps": fps, "frames": frames, "vocab": (vocab,) * books}
    assert parse(v0_i(codes, kbps=kbps, **kind)).version == "npq0-i"
    assert parse(v0_ii(codes, **kind)).version == "npq0-ii"


@st.composite
def files(draw):
    k_mid, k_side = draw(st.integers(1, 10)), draw(st.integers(0, 4))
    vocab = tuple(draw(st.lists(st.integers(1, 2**20), min_size=k_mid + k_side, max_size=k_mid + k_side)))
    frames = draw(st.integers(0, 30))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    codes = np.stack([rng.integers(0, v, frames) for v in vocab], axis=1)
    dtype = npq.DTYPES[npq.dtype_code(vocab)]
    fps, kbps = draw(st.floats(0.5, 1000, width=32)), draw(st.floats(0, 2000, width=32))
    mode = "mid-side" if k_side else "mono"
    return NpqFile(codes.astype(dtype), vocab, fps, kbps, k_mid, k_side, mode, "npq2")


@given(files())
def test_round_trip_is_exact(file):
    for version in ("npq2",) if file.k_side else ("npq1", "npq2"):
        content = npq.serialise(file, version=version, where="x")
        again = parse(content)
        np.testing.assert_array_equal(again.codes_TK, file.codes_TK)
        assert again.codes_TK.dtype == file.codes_TK.dtype
        for name in ("vocab", "fps", "kbps", "k_mid", "k_side", "channel_mode", "notes"):
            assert getattr(again, name) == getattr(file, name)
        assert again.version == version
        assert npq.serialise(again, version=version, where="x") == content


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_files_end_in_a_coded_error_or_a_file_of_codes_in_range(data):
    content = bytearray(data.draw(st.sampled_from([golden for golden, _, _ in GOLDEN])))
    for _ in range(data.draw(st.integers(1, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        file = parse(content)
    except PartimentoError as err:
        assert err.code in ("NPQ001", "NPQ002", "NPQ003", "NPQ004")
        return
    assert len(file.vocab) == file.k_mid + file.k_side == file.codes_TK.shape[1]
    assert (file.codes_TK < np.asarray(file.vocab)).all() and file.codes_TK.nbytes <= len(content)


def test_what_npq1_cannot_say_is_refused(tmp_path):
    with raises("NPQ005"):
        npq.write(tmp_path / "x", parse(v2()), version="npq1")
    with raises("NPQ005"):
        npq.write(tmp_path / "x", NpqFile(CODES, VOCAB, float("nan"), 0, 2, 0, "mono", "npq1"), version="npq1")
    with raises("NPQ004"):
        npq.write(tmp_path / "x", NpqFile(CODES, (300, 1024), 50, 0, 2, 0, "mono", "npq1"), version="npq1")
    with raises("NPQ004"):
        npq.write(tmp_path / "x", NpqFile(CODES - 1, VOCAB, 50, 0, 2, 0, "mono", "npq1"), version="npq1")
    assert not (tmp_path / "x").exists()
    with raises("SYS004"):
        npq.read(tmp_path / "nowhere")
