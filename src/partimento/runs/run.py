"""A run: one training and all that it left, in one folder.

    runs/20260315_rvq_004_delay/
      run.json      what was asked and with what: never changed after it was created
      config.json   the resolved configuration alone, so that `partimento train runs/ID/config.json --run ID` resumes
                    exactly this run, whatever became of the file and the overrides it was started with
      events.jsonl  checkpoints/  demos/  validation/  notes.md

This module and `events` read and write without torch.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from pydantic import ValidationError

from partimento import commit
from partimento.config import FAMILIES, Config, config_hash
from partimento.errors import PartimentoError
from partimento.runs.provenance import provenance

SCHEMA = 1
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "family", "created", "config_hash", "resume", "partimento", "platform", "python"), (str,)),
    **dict.fromkeys(("config", "seeds", "identity", "environment", "packages"), (dict,)),
    **dict.fromkeys(("hypothesis", "commit"), (str, type(None))),
    "schema": (int,),
    "parameters": (int, type(None)),
}
"""What the entries of a record are, where they are there."""


@dataclass(frozen=True)
class Run:
    """The folder of a run and its record (`run.json`)."""

    path: Path
    record: dict[str, Any]

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def demos_path(self) -> Path:
        return self.path / "demos"

    @classmethod
    def create(
        cls,
        root: str | Path,
        config: Config,
        *,
        name: str | None = None,
        run_id: str | None = None,
        hypothesis: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Run:
        """Make the folder of a new run, whole or not at all.

        The id is `run_id`, or date_family_number_name, e.g. 20260315_rvq_004_delay; the number counts the runs of
        `root`. `extra` (JSON) is added to the record: identity of the data, device, threads.

        Raises RUN004 (an id that cannot be a folder), RUN005 (it exists), SYS002.
        """
        root = Path(root)
        with commit.disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        with _locked(root / ".lock", wait=True):
            run_id = _checked(run_id) if run_id is not None else _next_id(root, config.family, name)
            path = root / run_id
            if path.exists():
                raise PartimentoError(
                    "RUN005", f"{path} exists already", next=f"partimento train CONFIG --run {shlex.quote(run_id)}"
                )
            record = {
                "schema": SCHEMA,
                "id": run_id,
                "family": config.family,
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "hypothesis": hypothesis,
                "config": config.model_dump(mode="json"),
                "config_hash": config_hash(config),
                "seeds": {"train": config.train.seed, "demo": config.demo.seeds},
                "resume": resume_command(path),
                **provenance(),
                **(extra or {}),
            }
            with commit.folder(path) as folder:
                commit.record(folder / "run.json", record)
                commit.record(folder / "config.json", record["config"])
                commit.text(folder / "notes.md", f"# {run_id}\n\n{hypothesis or ''}\n")
        return cls(path, record)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Raises RUN001 (not a run), RUN002 (its record is damaged: no JSON, or an entry is of another kind)."""
        path = Path(path)
        try:
            record = json.loads((path / "run.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as err:
            raise PartimentoError(
                "RUN001", f"{path} is not a run", why="it holds no run.json", next=f"ls {shlex.quote(str(path.parent))}"
            ) from err
        except ValueError as err:
            raise PartimentoError(
                "RUN002", "the record of a run is damaged", where=f"{path / 'run.json'}", why=str(err)
            ) from err
        if not isinstance(record, dict) or not {"id", "config", "family"} <= record.keys():
            raise PartimentoError(
                "RUN002", "the record of a run lacks its id or configuration", where=f"{path / 'run.json'}"
            )
        if (wrong := _of_another_kind(record)) is not None:
            raise PartimentoError("RUN002", "the record of a run is damaged", where=f"{path / 'run.json'}", why=wrong)
        return cls(path, record)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Be the only process that trains this run; a killed process lets go by itself. Raises RUN003."""
        with _locked(self.path / ".lock", wait=False):
            yield


def _of_another_kind(record: dict[str, Any]) -> str | None:
    """The first entry of a record whose kind no version has written. Settings that this version does not know, values
    that it does not take and what is missing are no damage: another version may have written them."""
    for key, kinds in KINDS.items():
        if key in record and (not isinstance(record[key], kinds) or isinstance(record[key], bool)):
            return _said(key, record[key])
    for key in ("fingerprint", "codec", "codec_weights"):
        if not isinstance(value := record.get("identity", {}).get(key), str | None):
            return _said(f"identity.{key}", value)
    if record["family"] not in FAMILIES:
        return None
    try:
        FAMILIES[record["family"]].model_validate_json(json.dumps(record["config"]), strict=True)
    except ValidationError as err:
        found = err.errors(include_url=False, include_context=False)
        other = {one["loc"][:2] for one in found if not one["type"].endswith("_type")}
        for one in found:
            if one["loc"][:2] not in other:
                return _said(".".join(str(key) for key in ("config", *one["loc"][:2])), one["input"])
    return None


def _said(key: str, value: Any) -> str:
    return f"{key} cannot be {shorten(json.dumps(value), 60, placeholder='...')}"


def resume_command(path: Path) -> str:
    """The exact command that goes on with the run at `path`, from the same working directory."""
    command = ["partimento", "train", str(path / "config.json"), "--run", path.name]
    return shlex.join(command if path.parent == Path("runs") else [*command, "--runs", str(path.parent)])


def _checked(run_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", run_id) or run_id.endswith(commit.TMP):
        raise PartimentoError(
            "RUN004",
            f"{run_id!r} cannot name a run",
            why="an id is the name of a folder: letters, digits, _ . and -, beginning with a letter or digit",
            next="choose another id, or leave --run away to get one",
        )
    return run_id


def _next_id(root: Path, family: str, name: str | None) -> str:
    numbers = [
        int(found[1]) for path in root.iterdir() if (found := re.match(r"\d{8}_[a-z]+_(\d{3,})(_|$)", path.name))
    ]
    slug = re.sub(r"[^a-z0-9]+", "_", (name or "").lower()).strip("_")[:40]
    date = datetime.date.today().strftime("%Y%m%d")
    return "_".join(part for part in (date, family, f"{max(numbers, default=0) + 1:03d}", slug) if part)


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    with commit.disk_errors(path):
        handle = path.open("a")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise PartimentoError(
                "RUN003",
                f"the run {path.parent.name} is being trained by another process",
                where=str(path.parent),
                next="wait for it, or stop it first (Ctrl-C lets it save)",
            ) from err
        yield
