"""Written pairs: a folder of WAV files in floating point, and pairs.jsonl, which lists them.

    pairs.jsonl   first a line of what holds for all (`Header`), then a line for each pair (`Row`). Written last.
    audio/        originals and shifted recordings, one channel, all samples of a recording in each
    journal/      what is done, by recording: from it a writer goes on that was killed

Floating point, because a shifted wave exceeds 1 where its original was at full scale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import soundfile
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from partimento import commit
from partimento.errors import PartimentoError
from partimento.sound_settings import PairData
from partimento.training.damage import Wave
from partimento.training.tasks.crops import Recording

MANIFEST = "pairs.jsonl"


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class Header(_Line):
    """`sha256` is of all bytes after this line, `rejected` what could not be read (file, code, why)."""

    schema_: Literal["partimento.pairs/1"] = Field("partimento.pairs/1", alias="schema")
    task: Literal["clean", "unshift"]
    semitones: list[float] = Field(min_length=1)
    full_band: bool
    sample_rate: int = Field(ge=1)
    group: Literal["file", "folder"]
    engine: str
    recordings: int
    pairs: int
    seconds: float
    rejected: list[dict[str, str]]
    sha256: str


class Row(_Line):
    """One pair. `recording` is its original's name here; `sha256` is of the file that it was; files are relative."""

    recording: str
    source: str
    kind: str
    group: str
    split: Literal["train", "held_out"]
    sha256: str
    samples: int = Field(ge=1)
    semitones: float
    damaged: str
    damaged_sha256: str
    target: str
    target_sha256: str

    @field_validator("damaged", "target")
    @classmethod
    def _is_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{value} leads out of the folder")
        return value


def manifest(header: dict[str, Any], rows: Sequence[Row]) -> bytes:
    """The bytes of pairs.jsonl: `header` lacks only what the rows say."""
    lines = b"".join(_line(row) for row in rows)
    first = Header(
        **header,
        recordings=len({row.recording for row in rows}),
        pairs=len(rows),
        seconds=round(sum({row.recording: row.samples for row in rows}.values()) / header["sample_rate"], 2),
        sha256=hashlib.sha256(lines).hexdigest(),
    )
    return _line(first) + lines


def _line(line: _Line) -> bytes:
    return (json.dumps(line.model_dump(by_alias=True), sort_keys=True, ensure_ascii=False) + "\n").encode()


class Written:
    """A folder of written pairs as a source of training (`tasks.pairs.Source`). Each file is hashed before it is used
    for the first time."""

    def __init__(self, folder: Path, header: Header, rows: Sequence[Row], sha256: str) -> None:
        self.folder, self.header = folder, header
        self.semitones, self.full_band = list(header.semitones), header.full_band
        self._sha256 = sha256
        self._verified: set[str] = set()
        self._rows: dict[str, list[dict[float, Row]]] = {"train": [], "held_out": []}
        by_recording: dict[str, dict[float, Row]] = {}
        for row in rows:
            by_recording.setdefault(row.recording, {})[row.semitones] = row
        for shifts in by_recording.values():
            first = next(iter(shifts.values()))
            alike = {(row.split, row.samples, row.source, row.kind) for row in shifts.values()}
            if set(shifts) != set(self.semitones) or len(alike) != 1:
                raise _damaged(folder / MANIFEST, f"the rows of {first.source} do not belong together")
            self._rows[first.split].append(shifts)
        for side, found in self._rows.items():
            if not found:
                raise empty_side(str(folder), side, header.group)

    @classmethod
    def open(cls, folder: Path, data: PairData) -> Written:
        """Raises PAIRS001 (nothing on one side), PAIRS003 (pairs.jsonl is missing or damaged) and PAIRS005 (made for
        another rate or task than the configuration's)."""
        header, rows, sha256 = read(folder)
        for name, made, wanted in (
            ("sample_rate", header.sample_rate, data.sample_rate),
            ("task", header.task, data.task),
        ):
            if made != wanted:
                raise PartimentoError(
                    "PAIRS005",
                    f"these pairs were made for data.{name}={made}, and the configuration says {wanted}",
                    where=str(folder),
                    next=f"set data.{name}={made}, or write pairs for {wanted}",
                )
        return cls(folder, header, rows, sha256)

    def recordings(self, side: str) -> list[Recording]:
        found = []
        for shifts in self._rows[side]:
            row = next(iter(shifts.values()))
            silent_N = np.broadcast_to(np.float32(0), (row.samples,))  # of its length; the samples stay on disk
            found.append(Recording(row.source, row.kind, silent_N, row.sha256, row.group))
        return found

    def excerpt(self, side: str, recording: int, semitones: float, start: int, stop: int) -> tuple[Wave, Wave]:
        """(damaged, target) of samples start..stop. Raises PAIRS004 for a file that is not what the manifest says."""
        row = self._rows[side][recording][semitones]
        return (
            self._read(row.damaged, row.damaged_sha256, start, stop),
            self._read(row.target, row.target_sha256, start, stop),
        )

    def identity(self) -> dict[str, Any]:
        return {"pairs": self._sha256, "engine": self.header.engine}

    def _read(self, name: str, sha256: str, start: int, stop: int) -> Wave:
        path = self.folder / name
        try:
            if name not in self._verified:
                if commit.sha256(path) != sha256:
                    raise _changed(path, "its sha256 is not that of the manifest")
                self._verified.add(name)
            with soundfile.SoundFile(path) as file:
                file.seek(start)
                wave_N: Wave = file.read(stop - start, dtype="float32")
        except (OSError, soundfile.SoundFileError) as err:
            raise _changed(path, str(err)) from err
        if wave_N.shape != (stop - start,):
            raise _changed(path, f"samples {start} to {stop} are not there")
        return wave_N


def read(folder: Path) -> tuple[Header, list[Row], str]:
    """What pairs.jsonl says, and its sha256. Raises PAIRS003."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as err:
        raise _damaged(path, err.strerror or str(err)) from err
    first, _, lines = content.partition(b"\n")
    try:
        header = Header.model_validate_json(first)
        rows = [Row.model_validate_json(line) for line in lines.splitlines()]
    except ValidationError as err:
        problem = err.errors(include_url=False)[0]
        raise _damaged(path, f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from err
    if hashlib.sha256(lines).hexdigest() != header.sha256:
        raise _damaged(path, "its lines are not those that were written")
    return header, rows, hashlib.sha256(content).hexdigest()


def empty_side(where: str, side: str, group: str) -> PartimentoError:
    return PartimentoError(
        "PAIRS001",
        f"no recording is {'to train on' if side == 'train' else 'held out'}",
        where=where,
        why=f"about 15 % of the {group}s are held out, by the hash of their names: it takes two",
        next="add recordings" if group == "file" else "add folders, or split by --group file",
    )


def _damaged(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "PAIRS003",
        "this list of pairs cannot be used",
        where=str(path),
        why=why,
        next="run the `partimento pairs` command that wrote it again; it keeps what is whole",
    )


def _changed(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "PAIRS004",
        "a file of the pairs is missing, cut or changed",
        where=str(path),
        why=why,
        next="remove it and run the `partimento pairs` command that wrote it again",
    )
