"""Train on a cluster: one Slurm job on one or many nodes, submitted through submitit, that goes on by itself.

On each node one task starts the node's ranks (`launch.spawn`). Before the time limit, or a preemption that warns, Slurm
sends SIGUSR2: the ranks save and end, and the job puts itself back into the queue; when it starts again, the same
command resumes the same run, whose id was settled at submission.
"""

from __future__ import annotations

import datetime
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.training.launch import spawn
from partimento.training.ranks import rendezvous_port

CORES = 6  # for each rank: one computes, one draws the next batch, one saves, and the libraries' own
WARNING_SECONDS = 300  # before the time limit: a step, a save, and what is on the way of one
REQUEUES = 1000  # a long training meets the time limit as often as it takes


@dataclass(frozen=True)
class TrainTask:
    """What runs on each node. submitit keeps it between the job's end and its next start."""

    argv: tuple[str, ...]
    nproc: int

    def __call__(self) -> int:
        import submitit

        job = submitit.JobEnvironment()
        try:
            return spawn(
                self.nproc,
                self.argv,
                nodes=job.num_nodes,
                node=job.node,
                address=job.hostnames[0] if job.num_nodes > 1 else "",
                port=rendezvous_port(job.job_id) if job.num_nodes > 1 else 0,
            )
        except PartimentoError as err:
            # The ranks have saved. submitit's handler of this signal, back in its place now, requeues the job (on the
            # first node; on the others it does nothing) and ends this process. SIGTERM does not come here: it is what
            # scancel sends too, and after a preemption by SIGTERM Slurm requeues by itself.
            if err.code == "SYS003" and "SIGUSR2" in err.context["signals"]:
                signal.raise_signal(signal.SIGUSR2)
                return 0
            raise

    def checkpoint(self) -> Any:
        """Called by submitit before it requeues: the next start does the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Submission:
    """A job in the queue. `job` is submitit's, for those who wait for it."""

    job: Any
    run: str
    logs: Path


def submit(
    argv: Sequence[str],
    run: str,
    *,
    folder: str | Path,
    cluster: str = "slurm",
    nodes: int = 1,
    nproc: int = 1,
    gpus: bool = True,
    partition: str | None = None,
    hours: float = 24.0,
    sbatch: Sequence[str] = (),
) -> Submission:
    """Put `partimento ARGV` into the queue, with `nproc` ranks on each of `nodes`, and return at once.

    ARGV names the run (`--run`, the id `run`; `new_run_id` makes one), so that the job resumes what it began. `folder`,
    for logs, must be seen by all nodes. `hours` is the limit of one start, not of the training. `sbatch` are further
    options of sbatch, "account=x". `cluster` "local" runs it here, to try things.

    Raises TRAIN036 (submitit is not installed), TRAIN037 (nothing can be submitted), SYS002, SYS006 (an option of
    sbatch that is not name=value).
    """
    return submit_all(
        [(argv, run)],
        folder=folder,
        cluster=cluster,
        nodes=nodes,
        nproc=nproc,
        gpus=gpus,
        partition=partition,
        hours=hours,
        sbatch=sbatch,
    )[0]


def submit_all(
    work: Sequence[tuple[Sequence[str], str]],
    *,
    folder: str | Path,
    cluster: str = "slurm",
    nodes: int = 1,
    nproc: int = 1,
    gpus: bool = True,
    partition: str | None = None,
    hours: float = 24.0,
    sbatch: Sequence[str] = (),
    at_once: int | None = None,
) -> list[Submission]:
    """As `submit`, for several (ARGV, id of its run): one array of jobs, of which `at_once` run at a time (all)."""
    try:
        import submitit
    except ImportError as err:
        raise PartimentoError(
            "TRAIN036", "submitting needs submitit, which is not installed", next="pip install 'partimento[slurm]'"
        ) from err
    options = dict(_option(text) for text in sbatch)
    logs = Path(folder).absolute()
    with commit.disk_errors(logs):
        logs.mkdir(parents=True, exist_ok=True)
    resources: dict[str, Any] = {
        "name": "partimento-train",
        "nodes": nodes,
        "tasks_per_node": 1,
        "cpus_per_task": CORES * nproc,
        "timeout_min": max(1, round(60 * hours)),
        "slurm_signal_delay_s": WARNING_SECONDS,
        # One node that fails ends the others, which would wait for it. The job's own output follows the requeues.
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
        "slurm_additional_parameters": {"requeue": True, **options},
    }
    if gpus:
        resources["gpus_per_node"] = nproc
    if partition:
        resources["slurm_partition"] = partition
    if len(work) > 1:
        resources["slurm_array_parallelism"] = at_once or len(work)
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster, slurm_max_num_timeout=REQUEUES)
        executor.update_parameters(**resources)
        tasks = [TrainTask(tuple(argv), nproc) for argv, _ in work]
        jobs = executor.submit_array(tasks) if len(tasks) > 1 else [executor.submit(tasks[0])]
    except (RuntimeError, ValueError) as err:
        raise PartimentoError(
            "TRAIN037",
            f"nothing can be submitted to {cluster}",
            why=str(err).strip().splitlines()[-1],
            next="run this where sbatch is, or start the ranks yourself: srun partimento train CONFIG --run ID",
        ) from err
    return [Submission(job, run, logs) for job, (_, run) in zip(jobs, work, strict=True)]


def new_run_id(family: str, now: datetime.datetime | None = None) -> str:
    """An id for a run whose folder is made later, by the job: 20260315_rvq_job142501."""
    return f"{now or datetime.datetime.now():%Y%m%d}_{family}_job{now or datetime.datetime.now():%H%M%S}"


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name:
        raise PartimentoError("SYS006", f"{text!r} is not an option of sbatch", next="--sbatch account=NAME")
    return name.lstrip("-"), value if equals else True
