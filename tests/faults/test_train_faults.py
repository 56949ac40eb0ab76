"""What a training survives: damaged checkpoints, signals, a full disk, kill -9. Real processes where it matters."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from partimento.config import Config, parse
from partimento.errors import PartimentoError
from partimento.progress import Quiet
from partimento.runs import checkpoint
from partimento.runs.events import curve, read_events
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training.engine import train

HERE = Path(__file__).parent
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pack"
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, CodecSpec("toy", "0" * 64, 8000, Fraction(50), (32, 32)))
    for _ in range(8):
        writer.add(rng.integers(0, 32, (120, 2)))
    writer.finish()
    return folder


def config(pack: Path, **train_section: Any) -> Config:
    settings = {"steps": 12, "save_every": 4, "valid_every": 4, "valid_items": 4, "log_every": 1, "device": "cpu"}
    return parse(
        {
            "family": "rvq",
            "data": {"pack": str(pack), "window": 32},
            "model": {"width": 32, "layers": 1, "heads": 2, "dropout": 0.1},
            "optim": {"batch": 2, "warmup": 2},
            "train": settings | train_section,
            "demo": {"temperatures": []},
        }
    )


def final(runs: Path, run: str = "run") -> dict[str, torch.Tensor]:
    found = checkpoint.load(checkpoint.visible(runs / run / "checkpoints")[-1])
    named = {f"{part}/{name}": tensor for part, tensors in found.parts.items() for name, tensor in tensors.items()}
    return named | {"step": torch.tensor(found.step)}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Of bytes: the guard's memory holds NaN until there is something to remember."""
    return a.keys() == b.keys() and all(a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a)


class Listener(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def test_a_damaged_newest_checkpoint_falls_back_says_so_and_ends_the_same(pack: Path, tmp_path: Path) -> None:
    train(config(pack), runs=tmp_path / "whole", run="run")
    run = train(config(pack), runs=tmp_path / "hurt", run="run")
    damage(run.checkpoints_path / "step-000000012" / "model.safetensors")
    (run.checkpoints_path / "step-000000008" / "ema.safetensors").unlink()
    listener = Listener()
    train(config(pack), runs=tmp_path / "hurt", run="run", progress=listener)
    events = read_events(run.events_path)
    assert [event["step"] for event in events if event["kind"] == "resume"] == [4]
    for notes in (listener.notes, [event["text"] for event in events if event["kind"] == "note"]):
        assert len(notes) == 2 and "step-000000012 is damaged" in notes[0] and "ema.safetensors is missing" in notes[1]
    assert same_bits(final(tmp_path / "whole"), final(tmp_path / "hurt"))
    # Nothing was thrown away, and nothing damaged is visible.
    assert len(list(run.checkpoints_path.glob("damaged-*"))) == 2
    for path in checkpoint.visible(run.checkpoints_path):
        checkpoint.verify(path)


def test_a_run_without_a_whole_checkpoint_does_not_start_over(pack: Path, tmp_path: Path) -> None:
    run = train(config(pack), runs=tmp_path, run="run")
    for path in checkpoint.visible(run.checkpoints_path):
        damage(path / "optimizer.safetensors")
    with pytest.raises(PartimentoError, match="CKPT002") as caught:
        train(config(pack), runs=tmp_path, run="run")
    assert caught.value.exit_status == 4 and caught.value.next


def test_a_disk_that_fills_during_a_save_costs_that_save_only(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(pack), runs=tmp_path / "whole", run="run")
    write = safetensors.torch.save_file
    calls = []

    def fills(tensors: Any, file: Any, metadata: Any = None) -> None:
        calls.append(file)
        if len(calls) == 5:  # in the middle of the second checkpoint
            Path(file).write_bytes(b"half")
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        write(tensors, file, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", fills)
    with pytest.raises(PartimentoError, match="SYS002") as caught:
        train(config(pack), runs=tmp_path / "full", run="run")
    monkeypatch.undo()
    assert f"partimento train {tmp_path}/full/run/config.json --run run" in caught.value.next
    folder = tmp_path / "full" / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-000000004"]
    train(config(pack), runs=tmp_path / "full", run="run")
    assert same_bits(final(tmp_path / "whole"), final(tmp_path / "full"))


FULL_DISK = """
import sys, torch; torch.set_num_threads(1)
from partimento.config import load; from partimento.errors import PartimentoError
from partimento.runs import checkpoint; from partimento.training.engine import train
try: train(load(sys.argv[1]), runs=sys.argv[2], run="run")
except PartimentoError as err: print(err.code)
else: print("ended")
for path in checkpoint.visible(sys.argv[2] + "/run/checkpoints"): checkpoint.verify(path); print(path.name)
"""


def test_a_disk_that_is_really_full(pack: Path, tmp_path: Path) -> None:
    """On a small file system of its own, which only a user namespace (or root) can mount."""
    small = tmp_path / "small"
    small.mkdir()
    settings = tmp_path / "config.json"
    settings.write_text(config(pack).model_dump_json())
    train(config(pack), runs=tmp_path / "whole", run="run")
    size = sum(f.stat().st_size for f in (tmp_path / "whole/run/checkpoints/step-000000004").iterdir())
    (tmp_path / "child.py").write_text(FULL_DISK)
    run = f"{shlex.quote(sys.executable)} {tmp_path}/child.py {settings} {small}"
    script = (
        f"mount -t tmpfs -o size={int(1.6 * size)} none {small} || exit 99\n{run} || exit 1\n"
        f"mount -o remount,size={8 * size} {small}\n{run}; cp -r {small}/. {tmp_path}/kept"
    )
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], env=ONE_THREAD, capture_output=True, text=True)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("no file system can be mounted here")
    lines = done.stdout.split()
    assert lines[:3] == ["SYS002", "step-000000004", "ended"], done
    assert same_bits(final(tmp_path / "whole"), final(tmp_path / "kept"))


def cli(*words: str) -> list[str]:
    return [sys.executable, "-c", "from partimento.cli.main import main; main()", *words]


def test_a_signal_saves_and_the_command_it_names_goes_on(pack: Path, tmp_path: Path) -> None:
    """With the real command line: exit status 130, the step that was begun is kept, the printed command resumes."""
    runs, settings = tmp_path / "runs", tmp_path / "config.json"
    long = config(pack, steps=150, save_every=10_000, valid_every=10_000)
    settings.write_text(long.model_dump_json())
    child = subprocess.Popen(
        cli("train", str(settings), "--run", "run", "--runs", str(runs)),
        env=ONE_THREAD,
        stderr=subprocess.PIPE,
        text=True,
    )
    events_path = runs / "run" / "events.jsonl"
    while len(curve(read_events(events_path), "train", "loss")) < 5 and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    told = child.communicate()[1]
    assert child.returncode == 130 and "SYS003" in told, told
    events = read_events(events_path)
    assert events[-1]["reason"] == "interrupted"
    saved = checkpoint.newest(runs / "run" / "checkpoints")
    steps = [step for step, _ in curve(events, "train", "loss")]
    assert saved is not None and checkpoint.load(saved, ()).step == steps[-1] == events[-1]["step"] >= 5

    command = next(line.partition("next:")[2] for line in told.splitlines() if "next:" in line)
    words = shlex.split(command)
    assert words[0] == "partimento"
    done = subprocess.run(cli(*words[1:]), env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    events = read_events(events_path)
    assert [event["step"] for event in events if event["kind"] == "resume"] == [steps[-1]]
    assert [step for step, _ in curve(events, "train", "loss")] == list(range(1, 151))
    whole = train(long, runs=tmp_path / "whole", run="run")
    assert same_bits(final(runs), final(whole.path.parent))


def kill(kills: int) -> dict[str, Any]:
    bench = HERE.parents[1] / "bench" / "kill_train.py"
    done = subprocess.run([sys.executable, str(bench), "--kills", str(kills)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check(result: dict[str, Any], kills: int) -> None:
    assert result["kills"] + result["terms"] == kills and result["passed"]
    assert result["weights_identical"] and result["losses_identical"] and result["torn_checkpoints_visible"] == 0
    assert result["tensors_compared"] > 30


def test_three_kills_end_in_the_same_bits() -> None:
    check(kill(3), 3)


@pytest.mark.slow
def test_fifty_kills_end_in_the_same_bits() -> None:
    check(kill(50), 50)
