"""A folder of weights that plays without its run: what a checkpoint says of its player, beside the tensors.

    player.json          the description of a player (`training.player`), the run that it is from, sha256 of the tensors
    model.safetensors    all of its weights

Of the family mot adapter.json says the same (`adapters`), of the tensors that stand beside a backbone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import partimento
from partimento import commit
from partimento.errors import PartimentoError
from partimento.runs import adapters, published
from partimento.runs.published import TOKENIZER, WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "player.json"
SCHEMA = 1
_MOST_RECORD_BYTES = 16 << 20


@dataclass(frozen=True)
class Playable:
    """A folder that was read and verified. `source` says which run, checkpoint and weights it is from."""

    folder: Path
    description: dict[str, Any]
    source: dict[str, Any]
    sha256: str

    def tensors(self) -> dict[str, Tensor]:
        """Raises WEIGHTS002."""
        return published.read_tensors(self.folder / WEIGHTS)


def write(tmp: Path, description: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Put player.json beside the tensors that are in `tmp` already. Raises SYS002."""
    told = {"description": dict(description), "source": dict(source), "sha256": commit.sha256(tmp / WEIGHTS)}
    commit.record(tmp / RECORD, {"schema": SCHEMA, "partimento": partimento.__version__, **told})


def is_one(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RECORD, adapters.RECORD))


def read(folder: Path) -> Playable:
    """Raises PUB003 (player.json cannot be read), WEIGHTS002 (other tensors), TRAIN072 (of the family mot)."""
    if not (folder / RECORD).is_file():
        found = adapters.read(folder)
        return Playable(found.folder, found.description, found.source, found.sha256)
    try:
        if (folder / RECORD).stat().st_size > _MOST_RECORD_BYTES:
            raise ValueError("it is too large")
        tree = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if tree["schema"] != SCHEMA:
            raise ValueError(f"its schema is {tree['schema']!r}, and this version reads {SCHEMA}")
        told, source, sha256 = dict(tree["description"]), dict(tree["source"]), str(tree["sha256"])
        needed = {"spec", "pattern", "specials", "window", "null_share", "words"}
        if not needed <= told.keys() or not {"run", "checkpoint", "weights"} <= source.keys():
            raise ValueError("it does not say what plays")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise PartimentoError(
            "PUB003",
            f"{RECORD} of {folder} cannot be read",
            where=str(folder / RECORD),
            why=f"{type(err).__name__}: {err}",
            next="download the directory again, or partimento weights export RUN --to ANOTHER_FOLDER",
        ) from err
    published.check(folder, WEIGHTS, sha256)
    if told["words"].get("kind") == "subwords":
        told["words"] = {**told["words"], "folder": str(folder / TOKENIZER)}
    return Playable(folder, told, source, sha256)
