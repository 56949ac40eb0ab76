"""The text form: one grammar, each line one meaning, errors that name the line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.errors import PartimentoError, explanations
from partimento.tokens import npqtext
from partimento.tokens.npq import NpqFile

GOLDEN = """\
# npq2txt v0.1
# src_file: song.npq
# magic: NPQ1
# version: 1
# num_codebooks: 3
# token_rate_hz: 86.1328
# seq_len_frames: 2
# vocab_sizes: 1024,1024,512
# dtype: u16

a6X b0 cFZ
aZZ b10 c1
"""
CODES = np.array([[6 * 32 + 29, 0, 15 * 32 + 31], [1023, 32, 1]])


def parse(text):
    return npqtext.parse(text.encode() if isinstance(text, str) else text, where="x.txt")


def refuses(code, text, line=None):
    assert code in explanations()
    with pytest.raises(PartimentoError, match=code) as caught:
        parse(text)
    if line is not None:
        assert f"line {line}" in str(caught.value.where)


def test_the_golden_text_and_the_file_that_it_is():
    file = parse(GOLDEN)
    np.testing.assert_array_equal(file.codes_TK, CODES)
    assert (file.vocab, file.fps, file.kbps, file.version) == ((1024, 1024, 512), 86.1328, 0.0, "npq1")
    assert npqtext.serialise(file, src_file="song.npq", where="x").decode() == GOLDEN


def test_crockford_has_no_letters_that_look_like_digits():
    assert [npqtext.base32(n) for n in (0, 31, 32, 221, 1023, 2**32 - 1)] == ["0", "Z", "10", "6X", "ZZ", "3ZZZZZZ"]
    assert not set("ILOU") & set(npqtext.DIGITS)
    assert [int("0123456789ABCDEFGHIJKLMNOPQRSTUV"[npqtext.DIGITS.index(c)], 32) for c in "AJMPTVZ"] == [
        10, 18, 20, 22, 26, 27, 31,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", [GOLDEN.replace("\n", "\r\n"), GOLDEN.removesuffix("\n"), GOLDEN.replace("X b0 c", "Xb0c")]
)
def test_line_ends_and_missing_blanks_do_not_matter(text):
    np.testing.assert_array_equal(parse(text).codes_TK, CODES)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("v0.1", "v0.2", 1),
        ("# magic: NPQ1", "# magic: NPQ9", 3),
        ("# version: 1", "# versoin: 1", 4),
        ("# version: 1", "# magic: NPQ1", 4),
        ("# num_codebooks: 3", "# num_codebooks: 2", 8),
        ("# num_codebooks: 3", "# num_codebooks: 27", 5),
        ("# num_codebooks: 3", "# num_codebooks: three", 5),
        ("86.1328", "nan", 6),
        ("86.1328", "0.0000", 6),
        ("frames: 2", "frames: 3", 10),
        ("frames: 2", "frames: 4294967295", 10),
        ("frames: 2", "frames: 99999999999", 7),
        ("1024,1024,512", "1024,0,512", 8),
        ("1024,1024,512", "1024,,512", 8),
        ("u16", "u8", 9),
        ("u16", "f4", 9),
        ("u16\n\n", "u16\n", 10),
        ("# dtype: u16\n", "", 9),
        ("a6X b0 cFZ", "a6X b0", 11),
        ("a6X b0 cFZ", "a6X b0 cFZ d0", 11),
        ("a6X b0 cFZ", "b0 a6X cFZ", 11),
        ("a6X b0 cFZ", "a6x b0 cFZ", 11),
        ("a6X b0 cFZ", "a6X b0 cFZ ", 11),
        ("a6X b0 cFZ", " a6X b0 cFZ", 11),
        ("a6X b0 cFZ", "a06X b0 cFZ", 11),
        ("a6X b0 cFZ", "aIL b0 cFZ", 11),
        ("a6X b0 cFZ", "a6X b cFZ", 11),
        ("a6X b0 cFZ", "a6X b11111111 cFZ", 11),
        ("aZZ b10 c1", "", 12),
        ("b10 c1\n", "b10 c1\n\n", 10),
    ],
)
def test_errors_name_the_line(old, new, line):
    assert old in GOLDEN
    refuses("NPQ006", GOLDEN.replace(old, new), line)


def test_a_code_that_its_book_does_not_have_and_bytes_that_are_no_text():
    refuses("NPQ004", GOLDEN.replace("cFZ", "cG0"), 11)
    refuses("NPQ006", GOLDEN.encode().replace(b"aZZ", b"a\xff"), 12)
    refuses("NPQ006", "")
    refuses("NPQ006", GOLDEN.replace("# dtype", "# k_mid: 2\n# dtype"))


@st.composite
def files(draw):
    k_mid, k_side = draw(st.integers(1, 16)), draw(st.integers(0, 10))
    vocab = tuple(draw(st.lists(st.integers(1, 2**32 - 1), min_size=k_mid + k_side, max_size=k_mid + k_side)))
    frames = draw(st.integers(0, 20))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    codes = np.stack([rng.integers(0, v, frames) for v in vocab], axis=1)
    fps = draw(st.integers(10, 10**7)) / 10**4
    return NpqFile(codes, vocab, fps, 0.0, k_mid, k_side, "mid-side" if k_side else "mono", "npq1")


@given(files(), st.text(max_size=20))
def test_round_trip(file, name):
    content = npqtext.serialise(file, src_file=name, where="x")
    again = parse(content)
    np.testing.assert_array_equal(again.codes_TK, file.codes_TK)
    for field in ("vocab", "fps", "k_mid", "k_side", "channel_mode"):
        assert getattr(again, field) == getattr(file, field)
    assert npqtext.serialise(again, src_file=name, where="x") == content


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_text_ends_in_a_coded_error_or_in_codes_in_range(data):
    content = bytearray(GOLDEN.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        file = parse(bytes(content))
    except PartimentoError as err:
        assert err.code in ("NPQ006", "NPQ004")
        return
    assert (file.codes_TK < np.asarray(file.vocab)).all()


def test_more_books_than_letters_are_refused(tmp_path):
    codes = np.zeros((2, 27), dtype=np.int64)
    file = NpqFile(codes, (2,) * 27, 50.0, 0.0, 27, 0, "mono", "npq1")
    with pytest.raises(PartimentoError, match="NPQ005"):
        npqtext.write(tmp_path / "x.txt", file, src_file="x")
