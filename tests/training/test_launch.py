"""Ranks on one machine: they find their places, get every signal, and fail or stop as one, told once."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from partimento.errors import PartimentoError
from partimento.training import launch
from partimento.training.ranks import Place, first_host, place_here, rendezvous_port

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
}


def test_places():
    assert place_here({}) is None
    assert place_here(TORCHRUN) == Place(3, 4, 1, 2)
    assert place_here(TORCHRUN | {"LOCAL_WORLD_SIZE": "2"} | SRUN) == Place(3, 4, 1, 2)  # torchrun inside of srun
    assert place_here(SRUN) == Place(11, 16, 3, 8, "gpu07", 24711)
    assert place_here(SRUN | {"SLURM_GPUS_PER_TASK": "1"}) == Place(11, 16, 0, 1, "gpu07", 24711)
    assert place_here({"SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}) is None  # a script without srun
    assert place_here(SRUN | {"SLURM_STEP_NUM_TASKS": "1"}) is None  # a shell on a node


def test_the_first_host_of_a_list():
    assert [first_host(text) for text in ("a", "a,b", "n[3-5,9],m1", "r[01-02]c[4,6]-ib,x")] == [
        "a",
        "a",
        "n3",
        "r01c4-ib",
    ]
    assert rendezvous_port("123456_7") == 20000 + 1234567 % 20000 and rendezvous_port("") == 20000


@pytest.mark.parametrize("name", TORCHRUN)
def test_half_of_torchruns_environment_is_refused(name):
    with pytest.raises(PartimentoError, match="TRAIN030") as caught:
        place_here({key: value for key, value in TORCHRUN.items() if key != name})
    assert name in caught.value.why


@pytest.mark.parametrize(
    "environment",
    [
        TORCHRUN | {"RANK": "4"},
        TORCHRUN | {"RANK": "-1"},
        TORCHRUN | {"WORLD_SIZE": "x"},
        TORCHRUN | {"LOCAL_WORLD_SIZE": "1"},
        {name: value for name, value in SRUN.items() if name != "SLURM_PROCID"},
        SRUN | {"SLURM_LOCALID": "8"},
    ],
)
def test_an_environment_that_cannot_be_is_refused(environment):
    with pytest.raises(PartimentoError, match="TRAIN030"):
        place_here(environment)


RANK = """
    import os, signal, sys, time
    from pathlib import Path
    from partimento.errors import PartimentoError
    from partimento.training.launch import reported
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])

    def until(test):
        for _ in range(600):
            if test():
                return
            time.sleep(0.05)

    seen = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: seen.append(signal.Signals(number).name))
    with reported():
        (folder / f"ready-{rank}").touch()
"""


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """ranks(body, count=2): run two processes of that body; its names: folder, rank, seen (signals), until(test)."""
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.4)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)

    def run(body, count=2):
        script = tmp_path / "rank.py"
        script.write_text(textwrap.dedent(RANK) + textwrap.indent(textwrap.dedent(body), "    "))
        monkeypatch.setattr(launch, "COMMAND", (sys.executable, str(script)))
        return launch.spawn(count, [str(tmp_path)])

    return run


def later(tmp_path, *signals, count=2):
    """Send the signals to this process, one by one, once all ranks are at work."""

    def send():
        while len(list(tmp_path.glob("ready-*"))) < count:
            time.sleep(0.02)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_ranks_get_their_environment_and_only_the_first_is_heard(ranks, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    body = """
        import json
        from partimento.training.ranks import place_here
        place = place_here()
        print("I am", rank)
        (folder / f"place-{rank}").write_text(json.dumps([*place.__dict__.values(), os.environ["OMP_NUM_THREADS"]]))
    """
    assert ranks(body) == 0
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    places = [json.loads((tmp_path / f"place-{rank}").read_text()) for rank in range(2)]
    assert places == [[0, 2, 0, 2, "", 0, threads], [1, 2, 1, 2, "", 0, threads]]
    assert capfd.readouterr() == ("I am 0\n", "")
    assert not list(tmp_path.glob("partimento-*"))


def test_the_error_of_one_rank_ends_all_and_is_told_once(ranks, tmp_path, capfd):
    body = """
        if rank == 0:
            until(lambda: False)  # as if it hung in a collective
        raise PartimentoError("PACK004", "shard 3 is damaged", where="shards/3", why="its hash", next="repair it")
    """
    began = time.monotonic()
    with pytest.raises(PartimentoError) as caught:
        ranks(body)
    assert time.monotonic() - began < 10  # the grace, and two interpreters' start
    found = caught.value
    assert (found.code, found.message, found.where, found.why, found.next) == (
        "PACK004", "shard 3 is damaged", "shards/3", "its hash", "repair it",
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")


def test_a_cause_comes_before_its_consequences(ranks, tmp_path):
    body = """
        if rank == 0:
            raise PartimentoError("TRAIN038", "lost the others")
        until(lambda: False) if rank == 2 else time.sleep(0.2)
        raise PartimentoError("PACK004", "damaged")
    """
    with pytest.raises(PartimentoError, match="PACK004"):
        ranks(body, count=3)


def test_a_defect_leaves_its_trace_and_a_killed_rank_is_named(ranks, tmp_path):
    with pytest.raises(PartimentoError, match="SYS001") as caught:
        ranks("{}[rank]")
    assert "KeyError" in caught.value.message
    assert "{}[rank]" in Path(caught.value.where).read_text()
    with pytest.raises(PartimentoError, match="rank 1 was killed by SIGKILL") as caught:
        ranks("os.kill(os.getpid(), signal.SIGKILL) if rank else until(lambda: False)")
    assert caught.value.code == "TRAIN034" and "memory" in caught.value.why
    with pytest.raises(PartimentoError, match="rank 1 ended with status 3") as caught:
        ranks("if rank:\n    print('no space', file=sys.stderr)\n    sys.exit(3)")
    assert caught.value.why == "no space"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_request_to_stop_reaches_all_ranks_and_their_saves_are_waited_for(ranks, tmp_path, number):
    body = """
        until(lambda: set(seen) & {"SIGINT", "SIGTERM", "SIGUSR2"})
        if rank == 0:
            time.sleep(1.5)  # longer than a failure's grace
        (folder / f"saved-{rank}").write_text(" ".join(seen))
        raise PartimentoError("SYS003", "saved up to step 7", next="the command", signal=seen[-1])
    """
    thread = later(tmp_path, signal.SIGUSR1, number)
    with pytest.raises(PartimentoError, match="saved up to step 7") as caught:
        ranks(body)
    thread.join()
    assert caught.value.exit_status == 130 and caught.value.next == "the command"
    assert caught.value.context["signals"] == ["SIGUSR1", number.name]
    assert [(tmp_path / f"saved-{rank}").read_text() for rank in range(2)] == [f"SIGUSR1 {number.name}"] * 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was before


def test_the_third_ctrl_c_does_not_wait(ranks, tmp_path):
    thread = later(tmp_path, signal.SIGINT, signal.SIGINT, signal.SIGINT)
    began = time.monotonic()
    with pytest.raises(PartimentoError):
        ranks("until(lambda: False)")
    thread.join()
    assert time.monotonic() - began < 15


def test_ranks_end_when_their_launcher_is_killed(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent(RANK) + "    until(lambda: seen)\n    (folder / f'saved-{rank}').write_text(seen[0])\n"
    )
    code = f"""
from partimento.training import launch
launch.COMMAND = ({sys.executable!r}, {str(script)!r})
launch.spawn(2, [{str(tmp_path)!r}])
"""
    environment = {name: value for name, value in os.environ.items() if name not in TORCHRUN}
    launcher = subprocess.Popen([sys.executable, "-c", code], env=environment)
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: len(list(tmp_path.glob("saved-*"))) == 2)
    assert {path.read_text() for path in tmp_path.glob("saved-*")} == {"SIGTERM"}


def wait_for(test, seconds=30):
    for _ in range(20 * seconds):
        if test():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_ranks_do_not_start_ranks(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PartimentoError, match="TRAIN030"):
        launch.spawn(2, [])


def test_the_arguments_of_a_rank():
    argv = launch.arguments(
        "a.toml", ["optim.lr=1"], runs="r", run="x", hypothesis="so be it", quiet=True, as_json=True
    )
    assert argv == [
        *("train", "a.toml", "optim.lr=1", "--runs", "r", "--run", "x"),
        *("--hypothesis", "so be it", "--quiet", "--json"),
    ]


def test_after_a_stop_the_first_rank_is_believed_and_the_command_that_goes_on_has_the_ranks(ranks, tmp_path):
    body = """
        if rank == 0:
            time.sleep(0.5)
        command = "partimento train c.json --run r"
        raise PartimentoError("SYS003", f"saved up to step {0 if rank else 7}", next=command)
    """
    with pytest.raises(PartimentoError, match="saved up to step 7") as caught:
        ranks(body)
    assert caught.value.next == "partimento train c.json --run r --nproc 2"
