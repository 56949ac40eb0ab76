"""One file to another: NPQ of every version, its text form, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.tokens import npq, npqtext
from partimento.tokens.convert.npq import read

SUFFIXES = (".npq", ".npq1", ".npq2", ".txt")


def convert(source: str | Path, to: str | Path) -> dict[str, Any]:
    """Write the NPQ or text file `source` as `to`, whose suffix says how: .npq1, .npq2, .npq (NPQ2 for mid and side,
    else NPQ1) or .txt; gives what was written, in words.

    Raises CONVERT013 (no such conversion), CONVERT010 (`to` exists), NPQ001 to NPQ006, SYS002, SYS004.
    """
    source, to = Path(source), Path(to)
    suffix = to.suffix.lower()
    if suffix not in SUFFIXES:
        raise PartimentoError(
            "CONVERT013",
            f"there is no format with the suffix {suffix or 'none'!r}",
            where=str(to),
            why=f"known are {', '.join(SUFFIXES)}",
            next="partimento pack import SRC --to PACK, for everything else",
        )
    if to.exists():
        raise PartimentoError("CONVERT010", f"{to} exists", where=str(to), next=f"choose another name, or delete {to}")
    file = read(source)
    if suffix == ".txt":
        npqtext.write(to, file, src_file=source.name)
        written = "text"
    else:
        version = {".npq1": "npq1", ".npq2": "npq2"}.get(suffix, "npq2" if file.k_side else "npq1")
        npq.write(to, file, version="npq2" if version == "npq2" else "npq1")
        written = version
    lost = []
    if suffix == ".txt":
        lost += ["the bitrate"] if file.kbps else []
        lost += ["the frame rate beyond four decimals"] if round(file.fps, 4) != file.fps else []
    return {
        "file": str(to),
        "format": written,
        "from": file.version,
        "frames": len(file.codes_TK),
        "books": len(file.vocab),
        "fps": file.fps,
        "lost": lost or None,
        "notes": list(file.notes),
    }
