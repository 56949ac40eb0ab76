"""Models that a run was built upon, where they lie now: a run keeps their folder, and their name on the hub."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.runs import hub
from partimento.runs.sources import CONFIG


def kept(folder: Path, sha256: str, name: str) -> dict[str, str]:
    """What a run keeps of the model that its configuration names so: `name` only where it is one of the hub, whose
    cache lies elsewhere on other machines."""
    told = {"folder": str(folder.resolve()), "sha256": sha256}
    return told if Path(name).exists() or not hub.is_name(name) else {**told, "name": name}


def lies(told: Mapping[str, Any]) -> str:
    """The folder of what `kept` told: as it was, or where the local cache of the hub has it. Raises WEIGHTS020. (That
    it is the same model, its hash must tell.)"""
    folder, name = str(told["folder"]), told.get("name")
    if Path(folder).is_dir() or hub.is_name(folder):  # a name that is looked up when it is opened
        return folder
    found = None if name is None else hub.cached(name, CONFIG)
    if found is not None:
        return str(found)
    make = "" if Path(folder).parent.is_dir() else f"mkdir -p {shlex.quote(str(Path(folder).parent))} && "
    raise PartimentoError(
        "WEIGHTS020",
        f"{folder}, which the run was built upon, is not there",
        where=folder,
        why="no such folder" if name is None else f"no such folder, and {name} is not in the hub's cache",
        next=f"{make}ln -s NEW_FOLDER {shlex.quote(folder)}" if name is None else f"hf download {name}",
    )


def found(told: Mapping[str, Any]) -> dict[str, Any]:
    """A player's description with its backbone, and the tokenizer beside it, where they lie now; another family's as it
    is. Raises WEIGHTS020."""
    if "mixture" not in told:
        return dict(told)
    was, words = told["base"]["folder"], told["words"]
    now = lies(told["base"])
    moved = words.get("folder") == was
    return {
        **told,
        "base": {**told["base"], "folder": now},
        "words": {**words, "folder": now} if moved else words,
    }
