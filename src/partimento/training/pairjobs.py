"""One recording of written pairs: its files, made by worker processes, and its rows, from which a writer goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from partimento import commit
from partimento.errors import PartimentoError
from partimento.training.damage import Damage, Wave
from partimento.training.pairfiles import Row
from partimento.training.tasks.crops import is_held_out, read


@dataclass(frozen=True)
class Job:
    """One recording: its file, below the folder that was given, and what is to be made of it in the folder `to`."""

    path: Path
    folder: Path
    to: Path
    group: Literal["file", "folder"]
    semitones: tuple[float, ...]
    damage: Damage

    @property
    def file(self) -> str:
        """Where it was, from the name of the folder that was given on."""
        inside = self.path.relative_to(self.folder).as_posix() if self.path != self.folder else ""
        return plain(f"{self.folder.name}/{inside}")

    @property
    def name(self) -> str:
        """What it is called in the folder of pairs: its own name, and a hash of where it was."""
        stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in self.path.stem)
        return f"{stem[:60]}-{hashlib.sha256(self.file.encode()).hexdigest()[:12]}"


def plain(name: str) -> str:
    """A file's name as text, even if it is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def outcomes(work: Sequence[Job], jobs: int) -> Iterator[tuple[Job, list[Row] | PartimentoError]]:
    """Each job with its rows or why there are none, as they come. The engine holds Python's lock: processes, then."""
    if min(jobs, len(work)) <= 1:
        for job in work:
            yield job, _shifted(job)
        return
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(jobs, len(work)), context, _begin) as pool:
        waiting: dict[Future[list[Row] | PartimentoError], Job] = {pool.submit(_shifted, job): job for job in work}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as err:
            raise PartimentoError(
                "PAIRS006",
                "a process that makes pairs died",
                why="it ended without an answer; most often memory ran out",
                next="run the same command again with --jobs 1; what was finished is kept",
            ) from err
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin() -> None:
    """In a worker: Ctrl-C is the writer's, and when the writer dies, this one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_writer, daemon=True).start()


def _end_with_the_writer() -> None:
    writer = multiprocessing.parent_process()
    assert writer is not None
    connection.wait([writer.sentinel])
    os._exit(1)


def _shifted(job: Job) -> list[Row] | PartimentoError:
    """In a worker: the files of one recording. Only what is wrong with the recording is an answer."""
    try:
        original = read(job.path, job.folder, job.group, job.damage.sample_rate, isolated=True)
    except PartimentoError as err:
        if err.code.startswith("AUDIO"):
            return err
        raise
    wave_N = original.wave_N
    if len(wave_N) == 0:
        return PartimentoError("PACK017", f"{job.file} holds no sample at {job.damage.sample_rate} Hz")
    source, group = plain(original.source), plain(original.group)
    whole = _write(job, "original", wave_N)
    rows = []
    for semitones in job.semitones:
        target = whole
        if job.damage.limits(semitones):
            target = _write(job, f"original{semitones:+g}", job.damage.target(wave_N, semitones))
        damaged = _write(job, f"{semitones:+g}", job.damage.damaged(wave_N, semitones)) if semitones else whole
        rows.append(
            Row(
                recording=job.name,
                source=source,
                kind=plain(original.kind),
                group=group,
                split="held_out" if is_held_out(group) else "train",
                sha256=original.sha256,
                samples=len(wave_N),
                semitones=semitones,
                damaged=damaged[0],
                damaged_sha256=damaged[1],
                target=target[0],
                target_sha256=target[1],
            )
        )
    return rows


def _write(job: Job, what: str, wave_N: Wave) -> tuple[str, str]:
    file = f"audio/{job.name}_{what}.wav"
    commit.data(job.to / file, [_wav_head(len(wave_N), job.damage.sample_rate), wave_N.astype("<f4").tobytes()])
    return file, commit.sha256(job.to / file)


def _wav_head(samples: int, rate: int) -> bytes:
    """Of one channel in floating point. libsndfile's has the time of writing in it: no file would be made twice."""
    fmt = struct.pack("<4sIHHIIHHH", b"fmt ", 18, 3, 1, rate, 4 * rate, 4, 32, 0)
    fact = struct.pack("<4sII", b"fact", 4, samples)
    size = 4 * samples
    return (
        struct.pack("<4sI4s", b"RIFF", 4 + len(fmt) + len(fact) + 8 + size, b"WAVE")
        + fmt
        + fact
        + struct.pack("<4sI", b"data", size)
    )


def done(job: Job) -> list[Row] | None:
    """The rows of a recording that is finished: nothing of it was edited, and all its files are what was written."""
    try:
        rows = [Row.model_validate(row) for row in json.loads(_journal(job).read_bytes())]
        if {row.semitones for row in rows} != set(job.semitones) or rows[0].sha256 != commit.sha256(job.path):
            return None
        written = {row.damaged: row.damaged_sha256 for row in rows} | {row.target: row.target_sha256 for row in rows}
        whole = all(commit.sha256(job.to / file) == sha256 for file, sha256 in written.items())
    except (OSError, ValueError, ValidationError):
        return None
    return rows if whole else None


def keep(job: Job, rows: Sequence[Row]) -> None:
    """Note that a recording is finished."""
    commit.record(_journal(job), [row.model_dump() for row in rows])


def _journal(job: Job) -> Path:
    return job.to / "journal" / f"{job.name}.json"
