"""What a training put beside a frozen model, as a folder: the tensors that were trained, and what they belong to.

    adapter.json         schema, what the model is (from which a player is made), where it is from, bytes and sha256
    model.safetensors    the tensors that were trained, and no others

The model that they stand beside is named by its folder and its hash, and is never repeated.
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
from partimento.runs import exported, published
from partimento.runs.published import WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "adapter.json"
SCHEMA = 1
_MOST_RECORD_BYTES = 16 << 20


@dataclass(frozen=True)
class Adapter:
    """A folder that was read and verified. `description` is that of a player, `source` says which run it is from."""

    folder: Path
    description: dict[str, Any]
    source: dict[str, Any]
    sha256: str

    def tensors(self) -> dict[str, Tensor]:
        """Raises WEIGHTS002."""
        return published.read_tensors(self.folder / WEIGHTS)


def save(
    to: str | Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any], source: Mapping[str, Any]
) -> Adapter:
    """Commit the folder. Raises WEIGHTS008 (`to` exists), SYS002."""
    from partimento.runs import tensorfiles

    to = Path(to)
    published.require_absent(to)
    with commit.folder(to) as tmp:
        tensorfiles.write(tmp / WEIGHTS, tensors)
        file = {"bytes": (tmp / WEIGHTS).stat().st_size, "sha256": commit.sha256(tmp / WEIGHTS)}
        told = {"description": dict(description), "source": dict(source), "files": {WEIGHTS: file}}
        commit.record(tmp / RECORD, {**told, "schema": SCHEMA, "partimento": partimento.__version__})
    return Adapter(to, dict(description), dict(source), str(file["sha256"]))


def read(folder: str | Path) -> Adapter:
    """Raises TRAIN072 (no such folder, or of another version) WEIGHTS002 (its tensors are not what was written), PUB001
    and PUB002 (an export that was changed). `folder` may be the name of an export on the hub, in its local cache."""
    folder = exported.located(folder)
    file = folder / RECORD
    try:
        if file.stat().st_size > _MOST_RECORD_BYTES:
            raise _unknown(folder, f"{RECORD} has {file.stat().st_size} bytes")
        tree = json.loads(file.read_text(encoding="utf-8"))
    except OSError as err:
        raise _unknown(folder, f"{RECORD}: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise _unknown(folder, f"{RECORD} is not JSON: {err}") from err
    if not isinstance(tree, dict) or tree.get("schema") != SCHEMA:
        raise _unknown(folder, f"its schema is not {SCHEMA}, which this version reads")
    parts = (tree.get("description"), tree.get("source"), tree.get("files"))
    if not all(isinstance(part, dict) for part in parts) or not isinstance(parts[2].get(WEIGHTS), dict):  # type: ignore[union-attr]
        raise _unknown(folder, f"{RECORD} does not say what its tensors are")
    written = parts[2][WEIGHTS]  # type: ignore[index]
    try:
        digest = commit.sha256(folder / WEIGHTS)
    except OSError as err:
        raise _damaged(folder, f"{WEIGHTS}: {err.strerror}") from err
    if digest != written.get("sha256"):
        raise _damaged(folder, f"{WEIGHTS} does not match its recorded sha256")
    return Adapter(folder, parts[0], parts[1], digest)  # type: ignore[arg-type]


def _unknown(folder: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "TRAIN072",
        f"{folder} is not a folder of what was trained beside a backbone",
        where=str(folder / RECORD),
        why=why,
        next="partimento weights export RUN --to FOLDER makes one of a run of the family mot",
    )


def _damaged(folder: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS002",
        f"the weights in {folder} are damaged",
        where=str(folder),
        why=why,
        next="partimento weights export RUN --to FOLDER again, into a new folder",
    )
