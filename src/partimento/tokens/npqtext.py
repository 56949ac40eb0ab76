"""The text form of NPQ, version 0.1: codes that people and text models can read, write and continue.

    # npq2txt v0.1
    # src_file: song.npq
    # magic: NPQ1
    # version: 1
    # num_codebooks: 2
    # token_rate_hz: 86.1328
    # seq_len_frames: 2
    # vocab_sizes: 1024,1024
    # dtype: u16

    a6X b0
    aZZ b10

A frame is a line; a code is the letter of its book (a, b, c, ...) and its number in Crockford's base 32 (digits, then
capital letters without I, L, O and U; no leading zeros), so that each line has one meaning and each frame one line.
Codes are set apart by one blank; when read, blanks may be missing, since each code begins at its small letter. NPQ2
adds `# channel_mode: mid-side`, `# k_mid` and `# k_side`. The form holds 26 books at most, four decimals of the frame
rate, and no bitrate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens.npq import DTYPES, NpqFile, check_range, dtype_code

DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # pragma: allowlist secret
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TITLE = "# npq2txt v0.1"
_VALUE = {digit: value for value, digit in enumerate(DIGITS)}
_CODE = re.compile(rf"([a-z])(0|[{DIGITS[1:]}][{DIGITS}]{{0,6}})(?= *[a-z]|$) *")
_KEY = re.compile(r"# ([a-z_]+): (.*)")
_NEEDED = ("magic", "version", "num_codebooks", "token_rate_hz", "seq_len_frames", "vocab_sizes", "dtype")
_STEREO = ("channel_mode", "k_mid", "k_side")


def is_text(head: bytes) -> bool:
    """Whether a file that begins with these bytes says that it is the text form."""
    return head.startswith(b"# npq2txt")


def read(path: str | Path) -> NpqFile:
    """Read the text form. Raises NPQ006, naming the line, NPQ004 (a code that its book does not have) and SYS004."""
    try:
        with open(path, "rb", opener=commit.regular) as stream:
            content = stream.read()
    except OSError as err:
        raise PartimentoError("SYS004", f"{path} cannot be read", where=str(path), why=err.strerror) from err
    return parse(content, where=str(path))


def parse(content: bytes, *, where: str) -> NpqFile:
    """As `read`, of the bytes of a file."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        _wrong(where, content[: err.start].count(b"\n") + 1, "it is not UTF-8")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines and lines[-1] == "":
        lines.pop()  # what follows the last newline
    if not lines or lines[0] not in (TITLE, TITLE.replace("txt ", "txt: ")):
        _wrong(where, 1, f"the first line must be {TITLE!r}")
    fields: dict[str, tuple[str, int]] = {}
    number = 2
    for line in lines[1:]:
        if line == "":
            break
        found = _KEY.fullmatch(line)
        if not found or found[1] in fields or found[1] not in ("src_file", *_NEEDED, *_STEREO):
            _wrong(where, number, f"{line[:60]!r} is not '# key: value' with a known key, each once")
        fields[found[1]] = (found[2], number)
        number += 1
    else:
        _wrong(where, number, "an empty line must follow the header")
    header = _Fields(fields, where, number)
    books, vocab = header.whole("num_codebooks", 1, len(LETTERS)), header.vocab()
    if len(vocab) != books:
        header.refuse("vocab_sizes", f"{len(vocab)} sizes for {books} books")
    k_mid, k_side = header.channels(books)
    frames = header.whole("seq_len_frames", 0, 2**32 - 1)
    if len(lines) - number != frames:
        _wrong(where, number, f"{len(lines) - number} frames follow where {frames} are declared")
    dtype: np.dtype[Any] = DTYPES[header.dtype()]
    rows = [_frame(line, books, vocab, where, at) for at, line in enumerate(lines[number:], number + 1)]
    codes_TK: NDArray[Any] = np.asarray(rows, dtype=dtype).reshape(frames, books)
    return NpqFile(
        codes_TK, vocab, header.rate(), 0.0, k_mid, k_side, "mid-side" if k_side else "mono", header.version()
    )


def write(path: str | Path, file: NpqFile, *, src_file: str) -> None:
    """Write the text form. Raises NPQ005 (more than 26 books), NPQ004, SYS002."""
    commit.data(Path(path), serialise(file, src_file=src_file, where=str(path)))


def serialise(file: NpqFile, *, src_file: str, where: str) -> bytes:
    """The bytes that `write` writes."""
    frames, books = file.codes_TK.shape
    if not 1 <= books <= len(LETTERS) or not float(f"{file.fps:.4f}"):
        raise PartimentoError(
            "NPQ005",
            f"the text form cannot say {books} books at {file.fps} frames per second",
            where=where,
            why="a book is one of 26 letters, and the frame rate has four decimals",
            next="write NPQ1 or NPQ2 instead (a name that ends in .npq)",
        )
    check_range(file.codes_TK, file.vocab, where)
    head = {
        "src_file": " ".join(src_file.split()),
        "magic": "NPQ2" if file.k_side else "NPQ1",
        "version": 1,
        "num_codebooks": books,
        "token_rate_hz": f"{file.fps:.4f}",
        "seq_len_frames": frames,
        "vocab_sizes": ",".join(map(str, file.vocab)),
        "dtype": f"u{DTYPES[dtype_code(file.vocab)].itemsize * 8}",
    }
    if file.k_side:
        head |= {"channel_mode": "mid-side", "k_mid": file.k_mid, "k_side": file.k_side}
    lines = [TITLE, *(f"# {key}: {value}" for key, value in head.items()), ""]
    for row in file.codes_TK.tolist():
        lines.append(" ".join(letter + base32(code) for letter, code in zip(LETTERS, row, strict=False)))
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def base32(number: int) -> str:
    """Crockford's base 32, without padding."""
    text = ""
    while number or not text:
        text = DIGITS[number % 32] + text
        number //= 32
    return text


def _frame(line: str, books: int, vocab: Sequence[int], where: str, number: int) -> list[int]:
    codes: list[int] = []
    at = 0
    while at < len(line):
        found = _CODE.match(line, at)
        if not found or len(codes) == books or found[1] != LETTERS[len(codes)]:
            expected = f"a code of book {LETTERS[len(codes)]!r}" if len(codes) < books else "the end of the line"
            _wrong(where, number, f"{line[at : at + 12]!r} stands where {expected} must")
        value = 0
        for digit in found[2]:
            value = value * 32 + _VALUE[digit]
        if value >= vocab[len(codes)]:
            raise PartimentoError(
                "NPQ004",
                f"code {value} in book {found[1]!r}, which has {vocab[len(codes)]} codes",
                where=f"{where}, line {number}",
                next="mend that line",
            )
        codes.append(value)
        at = found.end()
    if len(codes) != books:
        _wrong(where, number, f"it has {len(codes)} codes where there are {books} books")
    return codes


class _Fields:
    """The header's values, each checked when it is asked for."""

    def __init__(self, fields: dict[str, tuple[str, int]], where: str, end: int) -> None:
        self._fields = fields
        self._where = where
        for key in _NEEDED:
            if key not in fields:
                _wrong(where, end, f"the header has no {key!r}")

    def refuse(self, key: str, why: str) -> NoReturn:
        _wrong(self._where, self._fields[key][1], why)

    def text(self, key: str) -> str:
        return self._fields[key][0]

    def whole(self, key: str, least: int, most: int) -> int:
        return self._whole(key, self.text(key), least, most)

    def vocab(self) -> tuple[int, ...]:
        sizes = self.text("vocab_sizes").split(",")
        return tuple(self._whole("vocab_sizes", size.strip(" "), 1, 2**32 - 1) for size in sizes)

    def channels(self, books: int) -> tuple[int, int]:
        """k_mid, k_side."""
        magic = self.text("magic")
        given = [key for key in _STEREO if key in self._fields]
        if magic not in ("NPQ1", "NPQ2") or (given and (magic == "NPQ1" or len(given) < 3)):
            self.refuse("magic", f"{magic!r} with {', '.join(given) or 'no channel keys'}")
        if self.whole("version", 0, 1) != 1 and magic == "NPQ2":
            self.refuse("version", "NPQ2 has no version 0")
        if not given:
            return books, 0
        if self.text("channel_mode") != "mid-side":
            self.refuse("channel_mode", f"{self.text('channel_mode')!r} is not 'mid-side'")
        k_mid, k_side = self.whole("k_mid", 1, books), self.whole("k_side", 1, books)
        if k_mid + k_side != books:
            self.refuse("k_side", f"{k_mid} + {k_side} are not {books} books")
        return k_mid, k_side

    def dtype(self) -> int:
        name = self.text("dtype")
        if name not in ("u8", "u16", "u32") or ("u8", "u16", "u32").index(name) < dtype_code(self.vocab()):
            self.refuse("dtype", f"{name!r} does not hold codes of the books {self.text('vocab_sizes')!r}")
        return ("u8", "u16", "u32").index(name)

    def version(self) -> Any:
        return "npq2" if self.text("magic") == "NPQ2" else "npq1"

    def rate(self) -> float:
        text = self.text("token_rate_hz")
        if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,12})?", text) or not 1e-3 <= float(text) <= 1e6:
            self.refuse("token_rate_hz", f"{text[:40]!r} is not a frame rate")
        return float(text)

    def _whole(self, key: str, text: str, least: int, most: int) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
            self.refuse(key, f"{text[:40]!r} is not a whole number of {least} to {most}")
        return int(text)


def _wrong(where: str, line: int, why: str) -> NoReturn:
    raise PartimentoError(
        "NPQ006",
        f"line {line} is not NPQ text",
        where=f"{where}, line {line}",
        why=why,
        next="mend that line; docs/convert.md has the grammar",
    )
