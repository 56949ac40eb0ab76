"""What became of recordings, and the record of it that a folder of outputs keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from partimento import commit

RECORD = "made.jsonl"


@dataclass(frozen=True)
class Made:
    """What became of one recording. `state`: made, there (made by the same means before), or failed (`error` says why).

    `bits` are libsndfile's name for the samples of `file`; `clipped` of them lay above full scale and were cut to it.
    `done` is one sentence of what was done.
    """

    input: str
    state: Literal["made", "there", "failed"]
    file: str | None = None
    input_sha256: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    samples: int | None = None
    bits: str | None = None
    clipped: int | None = None
    done: str | None = None
    x_real_time: float | None = None
    error: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Record:
    """made.jsonl of a folder: what was made of what, one line each, the last one of a file counting."""

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self._folder, self._identity = folder, json.loads(json.dumps(identity))
        self._rows: dict[str, dict[str, Any]] = {}  # by the name of the input below its folder
        self.written: set[Path] = set()  # by this process
        try:
            text = (folder / RECORD).read_text(encoding="utf-8", errors="replace") if folder else ""
        except (FileNotFoundError, NotADirectoryError):
            text = ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # torn by a loss of power: the file that it told of counts as unknown
            if (
                isinstance(row, dict)
                and isinstance(row.get("made"), dict)
                and {"name", "identity", "bytes"} <= row.keys()
            ):
                self._rows[str(row["name"])] = row

    def there(self, name: str, sha256: str) -> Made | None:
        """What was made of this recording by the same means, if it is still there."""
        row = self._rows.get(name)
        if self._folder is None or row is None or row["identity"] != self._identity:
            return None
        try:
            file = self._folder / row["made"]["file"]
            made = Made(**{**row["made"], "state": "there", "file": str(file)})
        except (TypeError, KeyError):
            return None  # written by another version
        if made.input_sha256 != sha256 or not file.is_file() or file.stat().st_size != row["bytes"]:
            return None
        return made

    def knows(self, path: Path) -> bool:
        rows = self._rows.values()
        return self._folder is not None and any(self._folder / str(row["made"].get("file")) == path for row in rows)

    def add(self, name: str, made: Made) -> None:
        file = Path(str(made.file))
        self.written.add(file)
        if self._folder is None:
            return
        # Names within the folders: the line stays true where the folder is moved to.
        told = {**made.to_json(), "input": name, "file": file.relative_to(self._folder).as_posix()}
        self._rows[name] = {"name": name, "identity": self._identity, "bytes": file.stat().st_size, "made": told}
        commit.append_line(self._folder / RECORD, json.dumps(self._rows[name], sort_keys=True))
