"""A training in a queue: what is asked of Slurm, and that a job that is told to leave goes on where it was."""

import datetime
import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from partimento.errors import PartimentoError
from partimento.training import slurm

submitit = pytest.importorskip("submitit")

# In place of the ranks: each start does three steps of a training that has seven, and is then told to leave.
WORK = """
    import json, os, signal, sys, time
    from pathlib import Path
    from partimento.errors import PartimentoError
    from partimento.training.launch import reported

    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    kept = folder / f"rank-{rank}"
    seen = []
    signal.signal(signal.SIGUSR2, lambda *_: seen.append(1))
    with reported():
        steps = json.loads(kept.read_text()) if kept.exists() else []
        while len(steps) < 7:
            steps.append(len(steps))
            (folder / "at").write_text(str(len(steps))) if rank == 0 else None
            for _ in range(400):
                if seen or len(steps) % 3:
                    break
                time.sleep(0.05)
            if seen:
                kept.write_text(json.dumps(steps))
                raise PartimentoError("SYS003", f"saved up to step {len(steps)}")
        kept.write_text(json.dumps(steps))
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The tasks start this in place of `partimento`, in whatever process they run."""
    script = tmp_path / "work.py"
    script.write_text(textwrap.dedent(WORK))
    site = tmp_path / "site"
    site.mkdir()
    hook = f"from partimento.training import launch\nlaunch.COMMAND = ({sys.executable!r}, {str(script)!r})\n"
    (site / "sitecustomize.py").write_text(hook)
    monkeypatch.setenv("PYTHONPATH", str(site))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return script


def wait_for(test, seconds=60):
    for _ in range(20 * seconds):
        if test():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_a_job_that_is_told_to_leave_saves_comes_back_and_goes_on(work, tmp_path):
    done = slurm.submit([str(tmp_path)], "r", folder=tmp_path / "logs", cluster="local", nproc=2, gpus=False, hours=0.1)
    for step in (3, 6):
        wait_for(lambda step=step: (tmp_path / "at").exists() and (tmp_path / "at").read_text() == str(step))
        for task in children(done.job._process.pid):  # as Slurm does: to the task of each node
            os.kill(task, signal.SIGUSR2)
    assert done.job.result() == 0
    assert [json.loads((tmp_path / f"rank-{rank}").read_text()) for rank in range(2)] == [[*range(7)]] * 2
    assert done.run == "r" and "Requeued job" in "".join(path.read_text() for path in done.logs.glob("*.out"))


def children(parent):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_an_error_of_the_training_is_the_jobs(work, tmp_path):
    work.write_text(
        textwrap.dedent("""
            from partimento.errors import PartimentoError
            from partimento.training.launch import reported
            with reported():
                raise PartimentoError("PACK004", "shard 3 is damaged", where="shards/3")
        """)
    )
    done = slurm.submit(["train"], "r", folder=tmp_path / "logs", cluster="local", gpus=False, hours=0.1)
    with pytest.raises(submitit.core.utils.FailedJobError, match="shard 3 is damaged"):
        done.job.result()


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A Slurm that only takes jobs; returns what it was given."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, text in {"sbatch": f"cp $1 {tmp_path}/given; echo Submitted batch job 17", "srun": "exit 1"}.items():
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return lambda: (tmp_path / "given").read_text().splitlines()


def test_what_is_asked_of_slurm(sbatch, tmp_path):
    done = slurm.submit(
        ["train", "a.toml", "--run", "r"], "r",
        folder=tmp_path / "logs", nodes=4, nproc=8, partition="gpu", hours=12.5, sbatch=["account=abc", "exclusive"],
    )  # fmt: skip
    assert done.job.job_id == "17" and done.logs == tmp_path / "logs"
    lines = sbatch()
    for wanted in (
        "--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--partition=gpu", "--time=750", "--requeue",
        "--signal=USR2@300", "--account=abc", "--exclusive", "--open-mode=append", "--job-name=partimento-train",
        f"--cpus-per-task={8 * slurm.CORES}",
    ):  # fmt: skip
        assert f"#SBATCH {wanted}" in lines
    assert any(line.startswith("srun") and "--kill-on-bad-exit=1" in line for line in lines)
    submission = done.job.submission()
    assert submission.function == slurm.TrainTask(("train", "a.toml", "--run", "r"), 8)
    again = submission.function.checkpoint()
    assert again.function == submission.function


def test_without_a_gpu_none_is_asked_for(sbatch, tmp_path):
    slurm.submit(["train"], "r", folder=tmp_path / "logs", gpus=False)
    assert not any("gpus" in line or "partition" in line for line in sbatch())


@pytest.mark.parametrize(("node", "called"), [(0, "node0"), (1, "node0")])
def test_nodes_meet_on_the_first(monkeypatch, node, called):
    def spawn(nproc, argv, **place):
        return nproc, argv, place

    monkeypatch.setattr(slurm, "spawn", spawn)
    for name, value in {
        "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": str(node),
        "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_PROCID": str(node), "SLURM_NTASKS": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    place = {"nodes": 2, "node": node, "address": called, "port": 24711}
    assert slurm.TrainTask(("train",), 8)() == (8, ("train",), place)


def test_what_cannot_be_submitted(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PartimentoError, match="TRAIN037"):
        slurm.submit(["train"], "r", folder=tmp_path / "logs")
    with pytest.raises(PartimentoError, match="TRAIN037"):
        slurm.submit(["train"], "r", folder=tmp_path / "logs", cluster="local", nodes=2)
    with pytest.raises(PartimentoError, match="SYS006"):
        slurm.submit(["train"], "r", folder=tmp_path / "logs", sbatch=["=x"])
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(PartimentoError, match="TRAIN036"):
        slurm.submit(["train"], "r", folder=tmp_path / "logs")


def test_the_id_of_a_run_that_does_not_exist_yet():
    assert slurm.new_run_id("rvq", datetime.datetime(2026, 3, 15, 14, 25, 1)) == "20260315_rvq_job142501"
