"""Pages on the disk: written so that a person who edits them never loses a word, whatever is done to the file.

Where a page cannot be merged (no marks, broken marks, not UTF-8, read-only, open in an editor) it is left as it is and
the new one is written beside it, under NAME.new.md. That one is a page too, and kept in the same way.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from partimento import commit
from partimento.errors import PartimentoError
from partimento.lab.logbook.blocks import Block, Broken, Hand, merge, new_page

TRIES = 5


@dataclass(frozen=True)
class Written:
    """`path` is the file that has the new text; `notes` say what was kept, and why it is not the page itself."""

    path: Path
    text: str
    notes: tuple[str, ...] = field(default=())


def write(path: Path, parts: Sequence[Block | Hand]) -> Written:
    """Write the page at `path`: all parts where there is none, else the blocks merged into it.

    Raises LAB092 (no place for a page is left), SYS002.
    """

    def text_of(page: bytes | None) -> tuple[str, tuple[str, ...]]:
        if page is None:
            return new_page(parts), ()
        merged = merge(page.decode("utf-8"), [part for part in parts if isinstance(part, Block)])
        notes = [f"{name} was edited by hand and is kept; the new one is behind it" for name in merged.kept]
        notes += [f"{name} was emptied by hand and stays empty" for name in merged.emptied]
        return merged.text, tuple(notes)

    return _write(path, text_of)


def write_whole(path: Path, text: str) -> Written:
    """Write a page that no hand is expected in (HTML): the second line holds the hash of the rest, and a file that does
    not match its own was edited and is kept. Raises LAB092, SYS002."""
    import hashlib

    def seal(rest: str) -> str:
        return f"<!-- partimento {hashlib.sha256(rest.encode()).hexdigest()[:16]}: written by the machine -->"

    def text_of(page: bytes | None) -> tuple[str, tuple[str, ...]]:
        if page is not None:
            head, _, rest = page.decode("utf-8").partition("\n")
            sealed, _, rest = rest.partition("\n")
            if sealed != seal(f"{head}\n{rest}"):
                raise Broken(0, "it was edited by hand, or is none of ours")
        head, _, rest = text.partition("\n")
        return f"{head}\n{seal(text)}\n{rest}", ()

    return _write(path, text_of)


def _write(path: Path, text_of: Callable[[bytes | None], tuple[str, tuple[str, ...]]]) -> Written:
    why: list[str] = []
    for number in range(TRIES):
        target = path if number == 0 else path.with_name(f"{path.stem}.new{number if number > 1 else ''}{path.suffix}")
        found = _try(target, text_of)
        if isinstance(found, Written):
            beside = f"the new page is {target.name}"
            return Written(found.path, found.text, (*(f"{line}; {beside}" for line in why), *found.notes))
        why.append(f"{target.name} is left as it is: {found}")
    raise PartimentoError(
        "LAB092",
        f"there is no place left to write {path.name} to",
        where=str(path),
        why="; ".join(why),
        next=f"mend or remove the pages beside it: ls {path.parent}",
    )


def _try(path: Path, text_of: Callable[[bytes | None], tuple[str, tuple[str, ...]]]) -> Written | str:
    """The page written; or why it must be left as it is."""
    with commit.lock(path.with_name(f".{path.name}.lock"), wait=True), commit.disk_errors(path):
        path = path.resolve()  # a link stays a link
        if editor := _editor(path):
            return f"it is open in an editor ({editor})"
        for _ in range(TRIES):
            before = path.read_bytes() if path.exists() else None
            if before is not None and not path.stat().st_mode & stat.S_IWUSR:
                return "it is read-only"
            try:
                text, notes = text_of(before)
            except UnicodeDecodeError:
                return "it is not UTF-8"
            except Broken as err:
                return f"{err.why} (line {err.line})" if err.line else err.why
            content = text.encode("utf-8")
            if content == before:
                return Written(path, text, notes)
            with commit.scratch(path) as tmp:
                tmp.write_bytes(content)
                if before is not None:
                    tmp.chmod(stat.S_IMODE(path.stat().st_mode))
                if (path.read_bytes() if path.exists() else None) == before:  # nobody saved in the meantime
                    commit.place(tmp, path)
                    return Written(path, text, notes)
    return "it changes again and again while it is being written"


def _editor(path: Path) -> str | None:
    """The file by which an editor says that it has `path` open: vim and nano, Emacs, LibreOffice, Kate."""
    name = path.name
    signs = [f".{name}.swp", f".{name}.swo", f".#{name}", f".~lock.{name}#", f".{name}.kate-swp"]
    return next((sign for sign in signs if os.path.lexists(path.with_name(sign))), None)


def slug(text: str) -> str:
    """A name for a file or a mark."""
    return re.sub(r"[^\w.-]+", "_", text)
