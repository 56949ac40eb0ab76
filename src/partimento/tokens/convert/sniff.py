"""What foreign files are, by their first bytes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from partimento.errors import PartimentoError
from partimento.tokens import npq, npqtext

KINDS = ("npq", "pt", "npy", "rows")
_SUFFIXES = {".npq": "npq", ".pt": "pt", ".npy": "npy", ".parquet": "rows"}
_HEAD = 512


def sniff(source: str | Path) -> str:
    """The kind (KINDS) of a file, or of the files of a folder. Raises SYS004 (no such path), CONVERT001 (none known, or
    several kinds in one folder)."""
    source = Path(source)
    if (source / "pack.json").is_file():
        raise PartimentoError(
            "CONVERT001",
            f"{source} is a pack already",
            where=str(source),
            next=f"partimento pack copy {source} --to NEW",
        )
    found = kinds(source)
    if len(found) == 1:
        return next(iter(found))
    raise PartimentoError(
        "CONVERT001",
        "several kinds of codes are in one folder" if found else "there are no codes here",
        where=str(source),
        why=", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        if found
        else "no file is NPQ, NPQ text, a torch tensor, a numpy array or Parquet by its first bytes or its suffix",
        next=f"choose one with --kind {'|'.join(sorted(found) or KINDS)}",
    )


def kinds(source: Path) -> Counter[str]:
    """How many files of each kind there are. Raises SYS004."""
    return Counter(kind for path in _files(source) if (kind := kind_of(path)))


def members(source: str | Path, kind: str) -> list[Path]:
    """The files of this kind below `source`, sorted; a file given by name counts whatever it is."""
    source = Path(source)
    files = _files(source)
    found = files if source.is_file() else [path for path in files if kind_of(path) == kind]
    if not found:
        raise PartimentoError(
            "CONVERT001", f"there is no file of the kind {kind}", where=str(source), next="leave --kind away"
        )
    return found


def kind_of(path: Path) -> str | None:
    """By content; a file whose content says nothing is of the kind of its suffix, so that a damaged one is a reject."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        head = b""  # it is met again, and then rejected with the system's reason
    if npq.is_npq(head) or npqtext.is_text(head):
        return "npq"
    if head.startswith(b"PAR1"):
        return "rows"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK\x03\x04") and b"/data.pkl" in head:
        return "pt"
    return _SUFFIXES.get(path.suffix.lower())


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise PartimentoError("SYS004", f"{source} does not exist", where=str(source), next="check the path")
    found = []
    for folder, inside, names in os.walk(source):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.relative_to(source).as_posix())
