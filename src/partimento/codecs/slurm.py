"""Encode on a cluster: an array of Slurm tasks that share one pack, submitted through submitit.

Each task is the encode command with --claim, so any of them may be preempted, requeued, or never start.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.codecs.encode import EncodeReport, encode
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens.store import local

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class EncodeTask:
    """What a task of the array runs. submitit keeps it between preemption and requeue."""

    sources: tuple[str, ...]
    to: str
    options: Mapping[str, Any]

    def __call__(self) -> dict[str, Any]:
        return encode(self.sources, self.to, claim=True, **self.options).to_json()

    def checkpoint(self) -> Any:
        """Called by submitit before a preemption: the requeued task does the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    sources: Sequence[str | Path],
    to: str | Path,
    *,
    cluster: str = "slurm",
    tasks: int = 1,
    partition: str | None = None,
    hours: float = 24.0,
    progress: Progress | None = None,
    **options: Any,
) -> EncodeReport:
    """Encode with `tasks` tasks of a Slurm array (or, `cluster` "local", processes here), wait, and report.

    `options` are those of `encode`. A task gets `jobs` cores (by default 1), or a GPU with device "cuda". The logs
    are in the folder TO.submit beside the pack. Interrupted here, the tasks go on; the same call goes on too.

    Raises PACK036 (submitit is not installed), PACK037 (Slurm is not there, tasks failed and units are left), and what
    `encode` raises.
    """
    progress, started = progress or Quiet(), time.monotonic()
    given, to = [str(Path(source).absolute()) for source in sources], local(to).absolute()
    found = encode(given, to, dry_run=True, **options)  # what cannot be encoded must show before it is submitted
    logs = to.with_name(to.name + ".submit")
    executor = _executor(cluster, logs)
    jobs = options.get("jobs") or 1
    resources: dict[str, Any] = {"timeout_min": max(1, round(60 * hours)), "cpus_per_task": jobs}
    if options.get("device") == "cuda":
        resources["gpus_per_node"] = 1
    if partition:
        resources["slurm_partition"] = partition
    executor.update_parameters(name="partimento-encode", **resources)
    progress.stage("submit", f"{tasks} task(s); their logs are in {logs}")
    task = EncodeTask(tuple(given), str(to), {**options, "jobs": jobs})
    with executor.batch():
        running = [executor.submit(task) for _ in range(tasks)]
    _wait(to, found.shards, running, progress)
    report = _conclude(given, to, logs, running, options)
    return replace(report, made=found.waiting, elapsed=round(time.monotonic() - started, 2))


def _executor(cluster: str, logs: Path) -> Any:
    try:
        import submitit
    except ImportError as err:
        raise PartimentoError(
            "PACK036", "submitting needs submitit, which is not installed", next="pip install 'partimento[slurm]'"
        ) from err
    with commit.disk_errors(logs):
        logs.mkdir(parents=True, exist_ok=True)
    try:
        return submitit.AutoExecutor(folder=logs, cluster=cluster)
    except (RuntimeError, ValueError) as err:
        raise PartimentoError(
            "PACK037",
            f"nothing can be submitted to {cluster}",
            why=str(err),
            next="run this where sbatch is, or `partimento encode ... --claim` on each machine",
        ) from err


def _wait(to: Path, shards: int, running: list[Any], progress: Progress) -> None:
    """Until all tasks have ended, tell how much the journal holds."""
    progress.stage("encode", "the tasks turn audio into codes")
    started = time.monotonic()
    at_first, told = _records(to), (-1, -1)
    while True:
        ended, done = sum(job.done() for job in running), _records(to)
        elapsed = time.monotonic() - started
        facts: dict[str, str | float | int] = {"shards": f"{done} of {shards}", "tasks_ended": ended}
        if done > at_first:
            facts["eta_seconds"] = round(elapsed * (shards - done) / (done - at_first))
        if (done, ended) != told:
            progress.update(done, shards, **facts)
        told = done, ended
        if ended == len(running):
            return
        time.sleep(POLL_SECONDS)


def _records(to: Path) -> int:
    return sum(1 for path in (to / "journal").glob("[0-9]*.json") if commit.TMP not in path.name)


def _conclude(sources: list[str], to: Path, logs: Path, running: list[Any], options: Mapping[str, Any]) -> EncodeReport:
    """The pack was committed by the task that came last. Were all of them killed, what is left is named."""
    left = encode(sources, to, dry_run=True, **options).waiting
    failed = [job for job in running if job.exception() is not None]
    if left or (failed and not (to / "pack.json").is_file()):
        why = str(failed[0].exception()).strip().splitlines()[-1] if failed else "tasks ended before their work did"
        raise PartimentoError(
            "PACK037",
            f"{len(failed)} of {len(running)} tasks failed, and {left} shards are not made",
            where=str(logs),
            why=why,
            next="run the same command again; it continues",
        )
    return encode(sources, to, claim=True, **options)
