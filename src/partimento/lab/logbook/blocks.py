"""Pages that a machine and a hand write together: blocks of the machine between marks, everything else by hand.

    <!-- partimento:begin run:20260315_rvq_004 3f2a... -->
    what the machine wrote
    <!-- partimento:end run:20260315_rvq_004 -->

The mark holds the hash of what was written, so an edit is seen. One rule: what is not an unedited block is never
changed. A block that was edited is kept, and the new one is put behind it; a block that was emptied stays empty, and
nothing is put behind it: so a page is rid of what it should not show.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_MARK = re.compile(r"<!-- partimento:(begin|end) ([\w:.-]+)(?: ([0-9a-f]{16}))? -->")
_ANY = re.compile(r"<!--\s*partimento:(begin|end)\b", re.I)
_BLANK = "\ufeff \t\r\n"  # also the byte order mark that some editors put first
BESIDE = "*Written again by the machine: the block above was edited by hand and is kept.*"


@dataclass(frozen=True)
class Block:
    """What the machine has to say; `body` without marks, lines ended by \\n."""

    name: str
    body: str


@dataclass(frozen=True)
class Hand:
    """A place that is made once, with a page: a heading, and a question to be answered by hand."""

    heading: str
    question: str


@dataclass(frozen=True)
class Merged:
    """The page, and what is to be told: names of blocks that were edited and kept, and of those left empty."""

    text: str
    kept: tuple[str, ...]
    emptied: tuple[str, ...]


class Broken(Exception):
    """The marks of a page are not in order, at this line (1-based); or it has none (line 0)."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(line, why)
        self.line, self.why = line, why


@dataclass
class _Piece:
    """Lines of a page with their ends. `name` is that of a block, marks included; None: by hand."""

    lines: list[str]
    name: str | None = None
    hash: str = ""

    @property
    def body(self) -> str:
        return _plain("".join(self.lines[1:-1]))

    @property
    def edited(self) -> bool:
        return self.hash != _hash(self.body)


def new_page(parts: Sequence[Block | Hand]) -> str:
    """A page that there was not before, with its places for writing by hand."""
    texts = []
    for part in parts:
        if isinstance(part, Block):
            texts.append(_marked(part.name, part.body))
        else:
            texts.append(f"## {part.heading}\n\n*{part.question}*\n\n\n")
    return "\n".join(texts)


def merge(page: str, blocks: Sequence[Block]) -> Merged:
    """`page` with these blocks in place of its unedited ones of the same names. A block that it lacks is put where its
    neighbours in `blocks` are; blocks of other names stay as they are. Raises Broken.
    """
    pieces = _parse(page)
    end = "\r\n" if page.count("\r\n") * 2 > page.count("\n") else "\n"
    kept, emptied = [], []
    for number, block in enumerate(blocks):
        own = [piece for piece in pieces if piece.name == block.name]
        if not own:
            place = _place(pieces, [b.name for b in blocks[:number]], [b.name for b in blocks[number + 1 :]])
            pieces[place:place] = [
                _Piece([end]),
                _piece(block, end),
                _Piece([end]),
            ]
            continue
        untouched = [piece for piece in own if not piece.edited or piece.body == _plain(block.body)]
        touched = [piece for piece in own if piece not in untouched]
        if any(not piece.body.strip() for piece in touched):
            emptied.append(block.name)
            touched = [piece for piece in touched if piece.body.strip()]
            if not untouched:
                continue
        if touched:
            kept.append(block.name)
        body = f"{BESIDE}\n\n{block.body}" if touched else block.body
        fresh = _piece(Block(block.name, body), end)
        if untouched:
            for piece in untouched:
                piece.lines, piece.hash = fresh.lines, fresh.hash
        else:
            at = max(i for i, piece in enumerate(pieces) if piece in touched)
            pieces[at + 1 : at + 1] = [_Piece([end]), fresh]
    text = "".join(line for piece in pieces for line in piece.lines)
    return Merged(text, tuple(kept), tuple(emptied))


def without_marks(page: str) -> str:
    """As it is read: lines that are marks left out."""
    return "".join(line for line in _lines(page) if not _MARK.fullmatch(line.strip(_BLANK)))


def _parse(page: str) -> list[_Piece]:
    pieces: list[_Piece] = [_Piece([])]
    for number, line in enumerate(_lines(page), 1):
        mark = _MARK.fullmatch(line.strip(_BLANK))
        if mark is None:
            if _ANY.search(line):
                raise Broken(number, "it looks like a mark and is none")
            pieces[-1].lines.append(line)
            continue
        kind, name, digest = mark.groups()
        inside = pieces[-1].name
        if kind == "begin":
            if inside is not None:
                raise Broken(number, f"the block {name} begins inside {inside}")
            if digest is None:
                raise Broken(number, f"the block {name} begins without a hash")
            pieces.append(_Piece([line], name, digest))
        else:
            if inside != name:
                raise Broken(number, f"the block {name} ends, and {inside or 'no block'} was open")
            pieces[-1].lines.append(line)
            pieces.append(_Piece([]))
    if pieces[-1].name is not None:
        raise Broken(len(_lines(page)), f"the block {pieces[-1].name} has no end")
    if len(pieces) == 1:
        raise Broken(0, "it has no marks: it was written by hand")
    return pieces


def _place(pieces: list[_Piece], before: Sequence[str], after: Sequence[str]) -> int:
    """Where in `pieces` a new block goes, splitting a hand-written piece if it has to: behind the nearest block before
    it and what was written by hand under that, up to the next block or heading of the page."""
    names = [piece.name for piece in pieces]
    for name in reversed(before):
        if name in names:
            at = len(names) - 1 - names[::-1].index(name)
            return _behind(pieces, at)
    for name in after:
        if name in names:
            return names.index(name)
    return len(pieces)


def _behind(pieces: list[_Piece], at: int) -> int:
    if at + 1 >= len(pieces) or pieces[at + 1].name is not None:
        return at + 1
    hand = pieces[at + 1]
    fence = ""
    for number, line in enumerate(hand.lines):
        opened = re.match(r"\s{0,3}(```+|~~~+)", line)
        if opened and not fence:
            fence = opened[1]
        elif fence and line.strip().startswith(fence):
            fence = ""
        elif not fence and re.match(r"#{1,2} ", line):
            rest = _Piece(hand.lines[number:])
            hand.lines = hand.lines[:number]
            pieces.insert(at + 2, rest)
            break
    return at + 2


def _piece(block: Block, end: str) -> _Piece:
    lines = _lines(_marked(block.name, block.body))
    return _Piece([line[:-1] + end for line in lines], block.name, _hash(_plain(block.body)))


def _marked(name: str, body: str) -> str:
    body = _plain(body)
    return f"<!-- partimento:begin {name} {_hash(body)} -->\n{body}<!-- partimento:end {name} -->\n"


def _plain(body: str) -> str:
    """As it is hashed: \\n ends every line, the last one too, and no blanks before it (editors cut them)."""
    lines = [line.rstrip() for line in body.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return "".join(f"{line}\n" for line in lines)


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _lines(page: str) -> list[str]:
    """With their ends; only \\n ends a line, whatever else Unicode thinks."""
    return re.findall(r"[^\n]*\n|[^\n]+", page)
