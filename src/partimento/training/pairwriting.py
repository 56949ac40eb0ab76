"""Writing pairs: every recording shifted once, by as many processes as there are cores, and a list of what was made.

A recording's files are committed one by one, then its rows (journal/), and pairs.jsonl last; whoever is killed goes on
from there. What is written does not depend on how often that happened, nor on how many processes there were.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from partimento import commit
from partimento.audio import containers, files, shift
from partimento.audio.declared import Fault
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.training.damage import Damage
from partimento.training.pairfiles import MANIFEST, Row, empty_side, manifest
from partimento.training.pairjobs import Job, done, keep, outcomes, plain
from partimento.training.tasks.crops import group_of, held_out_of

_BYTES = 4  # of a sample
_WAV_HEADER = 58


@dataclass(frozen=True)
class PairReport:
    """What was written (or, after a dry run, would be). `reused` recordings were there already; `rejected` say why."""

    to: str
    recordings: int
    train: int
    held_out: int
    pairs: int
    hours: float
    bytes: int
    reused: int
    rejected: list[dict[str, str]]
    dry_run: bool


def write_pairs(
    folders: Sequence[Path],
    to: Path,
    *,
    task: Literal["clean", "unshift"] = "clean",
    semitones: Sequence[float] = (-12, -7, -3, 3, 7, 12),
    sample_rate: int = 44100,
    full_band: bool = True,
    group: Literal["file", "folder"] = "file",
    jobs: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PairReport:
    """Shift every recording below `folders` by every one of `semitones`, and list the pairs in to/pairs.jsonl.

    Recordings that cannot be read are listed with their reason. Raises PAIRS001 (a side is empty), PAIRS002 (other
    settings there), PAIRS006 (a worker died), PAIRS007 (another writer), AUDIO001, 041 and 042, SYS002 and SYS004.
    """
    to, progress = Path(to), progress or Quiet()
    shifts = tuple(dict.fromkeys(float(n) for n in semitones))
    for n in shifts:
        shift.checked_semitones(n)
    damage = Damage(task, sample_rate, full_band)
    settings: dict[str, Any] = {
        "task": task,
        "semitones": list(shifts),
        "full_band": full_band,
        "sample_rate": sample_rate,
        "group": group,
        "engine": shift.engine_version(),
    }
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        for path in files.discover(folder):
            found.setdefault(path.absolute(), folder.absolute())  # where folders overlap, the first wins
    work = [Job(path, folder, to, group, shifts, damage) for path, folder in sorted(found.items())]
    _check_settings(to, settings)
    if dry_run:
        return _estimate(to, work)
    with _alone(to):
        _check_settings(to, settings, begin=True)
        rows, rejected, reused = _make(work, jobs or _cores(), progress)
        rows = _split(rows)
        for side in ("train", "held_out"):
            if not any(row.split == side for row in rows):
                raise empty_side(", ".join(map(str, folders)), side, group)
        commit.data(to / MANIFEST, manifest({**settings, "rejected": rejected}, rows))
    return _report(to, sample_rate, rows, rejected, reused)


def _make(work: Sequence[Job], jobs: int, progress: Progress) -> tuple[list[Row], list[dict[str, str]], int]:
    """(rows, rejected, how many recordings were there already), in the order of `work`."""
    progress.stage("shifting", f"{len(work)} recordings, each by {len(work[0].semitones)} shifts")
    rows: dict[str, list[Row]] = {}
    rejected: dict[str, dict[str, str]] = {}
    for job in work:
        if (kept := done(job)) is not None:
            rows[job.name] = kept
    reused = len(rows)
    for job, outcome in outcomes([job for job in work if job.name not in rows], jobs):
        if isinstance(outcome, PartimentoError):
            rejected[job.name] = _reject(job, outcome)
            progress.note("left out: {file}: {code} {why}".format(**rejected[job.name]))
        else:
            rows[job.name] = outcome
            keep(job, outcome)
        progress.update(len(rows) + len(rejected), len(work), rejected=len(rejected))
    in_order = [row for job in work for row in rows.get(job.name, ())]
    return in_order, [rejected[job.name] for job in work if job.name in rejected], reused


def _split(rows: Sequence[Row]) -> list[Row]:
    """A worker sees one recording, and splits by its name; where that leaves a side empty, all of them decide."""
    chosen = held_out_of({row.group for row in rows})
    copies = {row.sha256 for row in rows if row.group in chosen}  # as `crops.gather` splits
    return [row.model_copy(update={"split": "held_out" if row.sha256 in copies else "train"}) for row in rows]


def _reject(job: Job, err: PartimentoError) -> dict[str, str]:
    why = f"{err.message}: {err.why}" if err.why else err.message
    return {"file": job.file, "code": err.code, "why": why}


def _check_settings(to: Path, settings: dict[str, Any], begin: bool = False) -> None:
    path = to / "settings.json"
    try:
        there = json.loads(path.read_bytes())
    except FileNotFoundError:
        if begin:
            commit.record(path, settings)
        return
    except (OSError, ValueError) as err:
        raise _other(to, f"its settings.json cannot be read: {err}") from err
    changed = [key for key in settings if not isinstance(there, dict) or there.get(key) != settings[key]]
    if changed:
        raise _other(to, f"they differ in {', '.join(changed)}")


def _other(to: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "PAIRS002",
        "this folder holds pairs of other settings",
        where=str(to),
        why=why,
        next="write into another folder with --to, or remove this one",
    )


@contextlib.contextmanager
def _alone(to: Path) -> Iterator[None]:
    with commit.disk_errors(to):
        (to / "audio").mkdir(parents=True, exist_ok=True)
        (to / "journal").mkdir(exist_ok=True)
    try:
        with commit.lock(to / "lock"):
            for folder in (to, to / "audio", to / "journal"):
                commit.sweep(folder)
            yield
    except BlockingIOError as err:
        raise PartimentoError(
            "PAIRS007", "another process is writing pairs here", where=str(to), next="wait for it, or end it"
        ) from err


def _estimate(to: Path, work: Sequence[Job]) -> PairReport:
    """From what the files declare; those that do not say how long they are count as rejected here."""
    rejected: list[dict[str, str]] = []
    groups: list[tuple[str, float]] = []
    for job in work:
        try:
            declared = containers.inspect(job.path)
        except Fault as fault:
            rejected.append(_reject(job, fault.at(job.path)))
            continue
        length = declared.frames or declared.least
        if not length or not declared.sample_rate:
            rejected.append({"file": job.file, "code": "", "why": "it does not say how long it is"})
            continue
        groups.append((plain(group_of(job.path, job.folder, job.group)), length / declared.sample_rate))
    shifts, damage = work[0].semitones, work[0].damage
    copies = 1 + sum(bool(n) + damage.limits(n) for n in shifts)
    seconds = sum(seconds for _, seconds in groups)
    chosen = held_out_of({group for group, _ in groups})
    held = sum(group in chosen for group, _ in groups)
    size = round(seconds * damage.sample_rate * _BYTES + _WAV_HEADER * len(groups)) * copies
    pairs = len(groups) * len(shifts)
    return PairReport(
        str(to), len(groups), len(groups) - held, held, pairs, round(seconds / 3600, 4), size, 0, rejected, True
    )


def _report(to: Path, sample_rate: int, rows: Sequence[Row], rejected: list[dict[str, str]], reused: int) -> PairReport:
    by_recording = {row.recording: row for row in rows}
    held = sum(row.split == "held_out" for row in by_recording.values())
    named = {file for row in rows for file in (row.damaged, row.target)}
    return PairReport(
        to=str(to),
        recordings=len(by_recording),
        train=len(by_recording) - held,
        held_out=held,
        pairs=len(rows),
        hours=round(sum(row.samples for row in by_recording.values()) / sample_rate / 3600, 4),
        bytes=sum((to / file).stat().st_size for file in named),
        reused=reused,
        rejected=rejected,
        dry_run=False,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
