"""What can be known of a run, or of a checkpoint alone, from its files. No model is built, and nothing is changed.

Everything is read when it is first asked for, and once. What is not there is None, with a reason in `missing`.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partimento.config import Config, parse
from partimento.errors import PartimentoError
from partimento.lab.doctor.log import Log
from partimento.lab.explainloss import record
from partimento.runs import checkpoint, demos, migrations, tensorfiles
from partimento.runs.events import Event, read_events
from partimento.runs.run import Run
from partimento.tokens.pack import Pack

if TYPE_CHECKING:
    from torch import Tensor

    from partimento.lab.doctor.data.seen import Seen

HASHED = 6_000_000_000
"""Bytes of one checkpoint that are hashed at most: about five seconds' worth."""


class Tensors(Mapping[str, "Tensor"]):
    """The tensors of one part by name; each is read when it is asked for, and not kept.

    Parts of one file and of the present schema are read tensor by tensor; others (shares of several devices, older
    schemas) are put together whole at the first use.
    """

    def __init__(self, where: Snapshot, part: str, files: list[Path]) -> None:
        self._where, self._part, self._files = where, part, files
        self._whole: dict[str, Tensor] | None = None

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By name, from the header where that is enough. Raises CKPT001."""
        if not self._lazy:
            return {name: tuple(tensor.shape) for name, tensor in self._all().items()}
        with self._opened() as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        if not self._lazy:
            return self._all()[name]
        with self._opened() as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def _lazy(self) -> bool:
        return len(self._files) == 1 and self._where.schema == migrations.SCHEMA

    def _opened(self) -> Any:
        import safetensors

        try:
            return safetensors.safe_open(self._files[0], framework="pt")
        except (safetensors.SafetensorError, OSError) as err:
            raise _unreadable(self._where.path, self._part, err) from err

    def _all(self) -> dict[str, Tensor]:
        if self._whole is None:
            shapes = checkpoint.described(self._where.path, self._part) if len(self._files) > 1 else None
            sizes = None if shapes is None else {name: list(one.size) for name, one in shapes.items()}
            try:
                tensors = tensorfiles.read(self._files, sizes)
            except (ValueError, OSError) as err:
                raise _unreadable(self._where.path, self._part, err) from err
            family = (self._where.state or {}).get("family")
            self._whole = migrations.migrate_tensors(family, self._where.schema or migrations.SCHEMA, tensors)
        return self._whole


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint. `state` is its state.json in its newest form, after its hash matched, or None and `why`."""

    path: Path
    state: dict[str, Any] | None
    schema: int | None = None
    why: str | None = None

    @classmethod
    def read(cls, path: Path) -> Snapshot:
        try:
            found = checkpoint.load(path, ())
        except PartimentoError as err:
            return cls(path, None, why=err.why or err.message)
        return cls(path, found.state, found.schema)

    @property
    def step(self) -> int | None:
        return None if self.state is None else int(self.state["step"])

    @functools.cached_property
    def files(self) -> dict[str, list[Path]]:
        """The files of each part; {} where the manifest is damaged."""
        try:
            return checkpoint.contents(self.path)
        except PartimentoError:
            return {}

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for files in self.files.values() for file in files if file.is_file())

    @functools.cached_property
    def damage(self) -> str | None:
        """Why it does not verify, after every file was hashed (all of it is read); None if it is whole."""
        try:
            checkpoint.verify(self.path)
        except PartimentoError as err:
            return err.why or err.message
        return None

    def part(self, name: str) -> Tensors | None:
        """Of "model", "ema", "optimizer", "guard", "adversary", "adversary_optimizer"; None if it has no such part, or
        its file is gone. Not verified: ask `damage` first."""
        files = self.files.get(name)
        return Tensors(self, name, files) if files and all(file.is_file() for file in files) else None


@dataclass
class Patient:
    """A run (`run` is not None) or a checkpoint alone. Make it with `open`."""

    path: Path
    run: Run | None
    snapshots: list[Snapshot] = field(default_factory=list)
    """From the oldest to the newest; of a checkpoint alone it is the only one, with OTHER's if that is one, too."""
    other: Patient | None = None
    """What it is compared with, if the doctor was given two."""

    @classmethod
    def open(cls, path: str | Path) -> Patient:
        """Raises DOC001 (neither a run nor a checkpoint), RUN002 (the record of the run is damaged)."""
        path = Path(path)
        if (path / "run.json").exists():
            run = Run.open(path)
            return cls(path, run, [Snapshot.read(one) for one in checkpoint.visible(run.checkpoints_path)])
        if (path / "manifest.json").exists() or (path / "state.json").exists():
            return cls(path, None, [Snapshot.read(path)])
        raise PartimentoError(
            "DOC001",
            f"{path} is neither a run nor a checkpoint",
            why="a run holds run.json, a checkpoint manifest.json and state.json",
            next=f"ls {shlex.quote(str(path if path.is_dir() else path.parent))}",
        )

    @property
    def newest(self) -> Snapshot | None:
        """The newest one whose state can be read."""
        return next((one for one in reversed(self.snapshots) if one.state is not None), None)

    @property
    def previous(self) -> Snapshot | None:
        """The one before `newest`."""
        readable = [one for one in self.snapshots if one.state is not None]
        return readable[-2] if len(readable) > 1 else None

    @property
    def best(self) -> Snapshot | None:
        """The one with the lowest score."""
        scored = [(score, -number) for number, one in enumerate(self.snapshots) if (score := _score(one)) is not None]
        return self.snapshots[-min(scored)[1]] if scored else None

    @functools.cached_property
    def raw(self) -> dict[str, Any]:
        """The configuration as it was recorded: plain nested data; {} where nobody knows it."""
        if self.run is not None:
            return dict(self.run.record["config"])
        found = (self.newest.state or {}).get("config") if self.newest is not None else None
        return dict(found) if isinstance(found, Mapping) else {}

    @functools.cached_property
    def _parsed(self) -> tuple[Config | None, str | None]:
        if not self.raw:
            return None, "no configuration is recorded"
        try:
            return parse(self.raw, name="the recorded configuration"), None
        except PartimentoError as err:
            return None, f"the recorded configuration cannot be read by this version: {err.message}"

    @property
    def config(self) -> Config | None:
        return self._parsed[0]

    @property
    def config_missing(self) -> str | None:
        """Why there is no configuration."""
        return self._parsed[1]

    @property
    def family(self) -> str | None:
        return self.raw.get("family")

    @property
    def from_scratch(self) -> bool:
        """Whether nothing in it was trained before: no imported weights, no adapters, no other run."""
        model = self.raw.get("model", {})
        return not any(model.get(name) for name in ("weights", "backbone", "experts_from"))

    @functools.cached_property
    def events(self) -> list[Event]:
        """The log, in the order of writing; [] for a checkpoint alone."""
        return read_events(self.run.events_path) if self.run is not None else []

    @functools.cached_property
    def log(self) -> Log:
        """The log as curves."""
        return Log(self.events, self.config)

    @functools.cached_property
    def record(self) -> record.Record | None:
        """The run as `explain-loss` reads it: cardinalities, frames, epochs."""
        return record.read(self.run, self.events) if self.run is not None else None

    @functools.cached_property
    def _pack(self) -> tuple[Pack | None, str | None]:
        place = self.raw.get("data", {}).get("pack")
        if place is None:
            return None, "this family has no pack"
        try:
            pack = Pack.open(place)
        except PartimentoError as err:
            return None, f"the pack at {place} cannot be read: {err.message} ({err.code})"
        identity = self.run.record.get("identity") if self.run is not None else (self._state or {}).get("identity")
        if identity and pack.fingerprint not in identity.values():
            return None, f"the pack at {place} is not the one that this was trained on"
        return pack, None

    @property
    def _state(self) -> dict[str, Any] | None:
        return self.newest.state if self.newest is not None else None

    @property
    def pack(self) -> Pack | None:
        """The pack of the training, if it is still there and the same."""
        return self._pack[0]

    @property
    def pack_missing(self) -> str | None:
        """Why there is no pack."""
        return self._pack[1]

    @functools.cached_property
    def seen(self) -> Seen:
        """One reading of the pack for all examiners."""
        from partimento.lab.doctor.data.seen import Seen

        return Seen(self)

    @functools.cached_property
    def sheets(self) -> list[tuple[Path, demos.Sheet]]:
        """(folder, demos.json) of the demos from the oldest to the newest; those that cannot be read are in
        `sheets_missing`."""
        return [entry for entry in self._sheets if isinstance(entry[1], demos.Sheet)]  # type: ignore[misc]

    @property
    def sheets_missing(self) -> list[str]:
        return [entry[1] for entry in self._sheets if isinstance(entry[1], str)]

    @functools.cached_property
    def _sheets(self) -> list[tuple[Path, demos.Sheet | str]]:
        found: list[tuple[Path, demos.Sheet | str]] = []
        folders = sorted(self.run.demos_path.glob("step-*")) if self.run is not None else []
        for folder in folders:
            if folder.name.endswith(".tmp"):
                continue
            try:
                found.append((folder, demos.read(folder)))
            except PartimentoError as err:
                found.append((folder, f"{err.message}: {err.why}"))
        return found


def _score(one: Snapshot) -> float | None:
    score = None if one.state is None else one.state.get("score")
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None


def _unreadable(path: Path, part: str, err: Exception) -> PartimentoError:
    return PartimentoError(
        "DOC002",
        f"the part {part} of {path.name} cannot be read",
        where=str(path),
        why=str(err),
        next="partimento doctor RUN, without this checkpoint: training falls back to the one before by itself",
    )
