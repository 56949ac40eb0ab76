"""A directory that is ready for a model hub: what was exported, and its way back in.

    partimento.json      what it is (family, layout, run, checkpoint), the main facts of its card, size and sha256 of
                         every file; written last
    README.md            the card; report.html, training.json, ATTRIBUTION.tsv, .gitattributes beside it: documents
    everything else      what a program loads: weights, configuration, tokenizer

Documents may be edited and removed by whoever has the directory, and it still loads. A file that is loaded must be the
one that was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import partimento
from partimento import commit
from partimento.errors import PartimentoError
from partimento.runs import hub

RECORD = "partimento.json"
SCHEMA = 1
DOCUMENTS = (
    *("README.md", "README.generated.md", "report.html", "training.json", "ATTRIBUTION.tsv", ".gitattributes"),
)
HASHED_BY_READERS = ".safetensors"
_MOST_RECORD_BYTES = 16 << 20

Listed = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Exported:
    """What partimento.json says. `source` names run, checkpoint and weights; `card` are the facts that `weights
    inspect` shows; `files` are loaded, `documents` are read by people: {name: {"bytes", "sha256"}}."""

    folder: Path
    family: str
    layout: str
    source: dict[str, Any]
    card: dict[str, Any]
    files: Listed
    documents: Listed


def seal(folder: Path, family: str, layout: str, source: Mapping[str, Any], card: Mapping[str, Any]) -> Exported:
    """Write partimento.json over all files that are in `folder`. Raises SYS002."""
    present = sorted(file for file in folder.rglob("*") if file.is_file())
    names = [file.relative_to(folder).as_posix() for file in present]
    told = {name: listed(folder / name) for name in names if name != RECORD and not _of_the_hub(name)}
    return write(
        Exported(
            folder,
            family,
            layout,
            dict(source),
            dict(card),
            {name: one for name, one in told.items() if name not in DOCUMENTS},
            {name: one for name, one in told.items() if name in DOCUMENTS},
        )
    )


def write(found: Exported) -> Exported:
    """Put its partimento.json into its folder. Raises SYS002."""
    told = {name: getattr(found, name) for name in ("family", "layout", "source", "card", "files", "documents")}
    commit.record(found.folder / RECORD, {"schema": SCHEMA, "partimento": partimento.__version__, **told})
    return found


def listed(file: Path) -> dict[str, Any]:
    """Size and hash of a file, as the record has them."""
    return {"bytes": file.stat().st_size, "sha256": commit.sha256(file)}


def located(source: str | Path) -> Path:
    """The folder of what a user names: a folder is itself, a name of the hub is where the local cache has an export of
    that name. Of an export, what is loaded is verified first (weights by size alone here: their readers hash them).

    Raises PUB001 (partimento.json is damaged, or of another version), PUB002 (a file was changed, or is missing).
    """
    folder = Path(source)
    if not folder.exists():
        folder = hub.cached(source, RECORD) or folder
    if (folder / RECORD).is_file():
        verify(read(folder), whole=False)
    return folder


def read(folder: str | Path) -> Exported:
    """What its partimento.json says; the files are not looked at. Raises PUB001."""
    folder = Path(folder)
    file = folder / RECORD
    try:
        if file.stat().st_size > _MOST_RECORD_BYTES:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        tree = json.loads(file.read_text(encoding="utf-8"))
        if tree["schema"] != SCHEMA:
            raise ValueError(f"its schema is {tree['schema']!r}, and this version reads {SCHEMA}")
        texts, trees = (
            [tree["family"], tree["layout"]],
            [tree["source"], tree["card"], tree["files"], tree["documents"]],
        )
        if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, dict) for one in trees):
            raise ValueError("a part of it is of the wrong kind")
        for name, one in [*trees[2].items(), *trees[3].items()]:
            if Path(name).is_absolute() or ".." in Path(name).parts or not name:
                raise ValueError(f"it lists {name!r}, which is not in the folder")
            if not isinstance(one["bytes"], int) or not isinstance(one["sha256"], str):
                raise ValueError(f"it does not say what {name} is")
        return Exported(folder, *texts, *trees)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise PartimentoError(
            "PUB001",
            f"{RECORD} of {folder} cannot be read",
            where=str(file),
            why=getattr(err, "strerror", None) or f"{type(err).__name__}: {err}",
            next="download the directory again, or partimento weights export RUN --to ANOTHER_FOLDER",
        ) from err


def verify(found: Exported, *, whole: bool = True) -> None:
    """Hold every file that is loaded against its size and hash; unless `whole`, tensors against their size. Raises
    PUB002, which names the file."""
    for name, written in found.files.items():
        file = found.folder / name
        try:
            size = file.stat().st_size
            hashed = whole or not name.endswith(HASHED_BY_READERS)
            digest = commit.sha256(file) if hashed and size == written["bytes"] else None
        except OSError as err:
            raise _changed(found, name, "it is missing" if not file.exists() else str(err.strerror)) from err
        if size != written["bytes"]:
            raise _changed(found, name, f"it has {size} bytes, and {written['bytes']} were exported")
        if digest is not None and digest != written["sha256"]:
            raise _changed(found, name, f"its sha256 begins with {digest[:12]}, not with {written['sha256'][:12]}")


def edited(found: Exported) -> dict[str, str]:
    """{document: "changed" or "missing"} of those that are not as they were written."""
    state = {}
    for name, written in found.documents.items():
        file = found.folder / name
        if not file.is_file():
            state[name] = "missing"
        elif file.stat().st_size != written["bytes"] or commit.sha256(file) != written["sha256"]:
            state[name] = "changed"
    return state


def _of_the_hub(name: str) -> bool:
    """What git and the hub's client keep in a folder."""
    return Path(name).parts[0] in (".git", ".cache")


def _changed(found: Exported, name: str, why: str) -> PartimentoError:
    return PartimentoError(
        "PUB002",
        f"{name} is not the file that was exported",
        where=str(found.folder / name),
        why=why,
        next="download the directory again, or partimento weights export RUN --to ANOTHER_FOLDER",
    )
