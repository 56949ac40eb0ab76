"""kill -9 at random moments during training, then compare with a run that nobody disturbed.

    python bench/kill_train.py [--kills 50] [--seed 0] [--dir DIR]

A small code model trains on a small pack on the CPU in float32, saving every three steps. Each time the process is
killed at a random moment, from its start-up to the middle of a save; every checkpoint that is visible then must verify;
and it is started again with the same command. In the end model, averages and moments must equal the undisturbed run's
in every bit, and the logged losses too. The last line is one JSON object. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from partimento import commit
from partimento.config import config_hash, load
from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs.events import curve, read_events
from partimento.runs.run import Run
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter

CONFIG = """
family = "rvq"
data = {{ pack = "{pack}", window = 32 }}
model = {{ width = 32, layers = 2, heads = 2, dropout = 0.1 }}
optim = {{ batch = 4, lr = 0.01, warmup = 5, accumulate = 2 }}
train = {{ steps = {steps}, log_every = 1, valid_every = 5, valid_items = 8, save_every = 3, device = "cpu" }}
demo = {{ temperatures = [] }}
"""
STEPS_A_KILL = 24  # so that the run is never over before the last kill
# The child of the command line, without its imports of the command line.
CHILD = (
    "import sys, torch; torch.set_num_threads(1); "
    "from partimento.config import load; from partimento.training.engine import train; "
    "train(load(sys.argv[1]), runs=sys.argv[2], run='run')"
)


@dataclass(frozen=True)
class Result:
    kills: int
    steps: int
    torn_checkpoints_visible: int
    kills_during_a_save: int
    steps_repeated: int
    weights_identical: bool
    losses_identical: bool
    tensors_compared: int
    seconds: float

    @property
    def passed(self) -> bool:
        return self.weights_identical and self.losses_identical and not self.torn_checkpoints_visible


def write_pack(folder: Path) -> None:
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, CodecSpec("toy", "0" * 64, 8000, Fraction(50), (32, 32)))
    for clip in range(10):
        writer.add(rng.integers(0, 32, (200, 2)), tags=["odd" if clip % 2 else "even"])
    writer.finish()


def run_bench(folder: Path, kills: int, seed: int) -> Result:
    """Kill `kills` times, then let the run finish."""
    began = time.monotonic()
    steps = STEPS_A_KILL * kills
    write_pack(folder / "pack")
    config = folder / "config.toml"
    commit.text(config, CONFIG.format(pack=(folder / "pack").as_posix(), steps=steps))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    command = [sys.executable, "-c", CHILD, str(config)]
    subprocess.run([*command, str(folder / "whole")], env=environment, check=True, stdout=subprocess.DEVNULL)
    pace = _seconds_training(folder / "whole" / "run") / steps
    print(f"{steps} steps of {1000 * pace:.0f} ms\n\nkill  during    after ms  at step  visible  torn  save cut")

    rng = random.Random(seed)
    run, torn, cut = folder / "killed" / "run", 0, 0
    start_up = 1.0
    for number in range(1, kills + 1):
        child = subprocess.Popen([*command, str(folder / "killed")], env=environment, stderr=subprocess.PIPE)
        started = time.monotonic()
        while_starting = number > 1 and rng.random() < 0.1
        if not while_starting:
            _wait_until_it_trains(child, run)
            start_up = time.monotonic() - started
        after = rng.uniform(0, start_up if while_starting else STEPS_A_KILL * pace)
        time.sleep(after)
        if child.poll() is not None:
            raise SystemExit(f"it ended before kill {number}: {child.communicate()[1].decode()[-800:]}")
        child.send_signal(signal.SIGKILL)
        child.communicate()
        found = _look(run / "checkpoints", since=time.time() - (time.monotonic() - started))
        torn += found["torn"]
        cut += found["cut"]
        phase = "start-up" if while_starting else "training"
        columns = f"{found['reached']:>8} {found['visible']:>8} {found['torn']:>5} {found['cut']:>9}"
        print(f"{number:>4}  {phase} {1000 * after:>9.0f} {columns}", flush=True)
    subprocess.run([*command, str(folder / "killed")], env=environment, check=True, stdout=subprocess.DEVNULL)

    same, compared = _compare(folder / "whole" / "run", folder / "killed" / "run")
    events = read_events(run / "events.jsonl")
    repeated = sum(event["kind"] == "train" for event in events) - steps
    whole = read_events(folder / "whole" / "run" / "events.jsonl")
    losses = [curve(log, "train", "loss") for log in (whole, events)]
    return Result(
        kills=kills,
        steps=steps,
        torn_checkpoints_visible=torn,
        kills_during_a_save=cut,
        steps_repeated=repeated,
        weights_identical=same,
        losses_identical=losses[0] == losses[1] and len(losses[0]) == steps,
        tensors_compared=compared,
        seconds=round(time.monotonic() - began, 1),
    )


def _seconds_training(run: Path) -> float:
    events = read_events(run / "events.jsonl")
    return float(events[-1]["time"] - events[0]["time"])


def _wait_until_it_trains(child: subprocess.Popen[bytes], run: Path) -> None:
    """Until the log says that this process has begun: a start or resume event more than before."""
    begun = _begun(run)
    while _begun(run) == begun and child.poll() is None:
        time.sleep(0.01)


def _begun(run: Path) -> int:
    return sum(event["kind"] in ("start", "resume") for event in read_events(run / "events.jsonl"))


def _look(checkpoints: Path, since: float) -> dict[str, int]:
    """Verify every visible checkpoint right after a kill; `cut` is 1 if a save of this process was left unfinished."""
    visible = checkpoint.visible(checkpoints)
    torn = 0
    for path in visible:
        try:
            checkpoint.verify(path)
        except PartimentoError:
            torn += 1
    leftovers = list(checkpoints.glob(f"*{commit.TMP}*")) if checkpoints.exists() else []
    cut = int(any(path.stat().st_mtime >= since for path in leftovers))
    reached = int(visible[-1].name.removeprefix("step-")) if visible else 0
    return {"torn": torn, "visible": len(visible), "reached": reached, "cut": cut}


def _compare(whole: Path, killed: Path) -> tuple[bool, int]:
    """Are all tensors of the last checkpoints equal, and how many were compared."""
    ends: list[dict[str, torch.Tensor]] = []
    for path in (whole, killed):
        newest = checkpoint.newest(Run.open(path).checkpoints_path)
        assert newest is not None
        parts: dict[str, Any] = checkpoint.load(newest).parts
        ends.append({f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()})
        ends[-1]["step"] = torch.tensor(checkpoint.load(newest, ()).step)
    same = ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    return same, len(ends[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="kept for inspection; a temporary folder otherwise")
    options = parser.parse_args()
    folder = options.dir or Path(tempfile.mkdtemp(prefix="kill_train_"))
    folder.mkdir(parents=True, exist_ok=True)
    result = run_bench(folder, options.kills, options.seed)
    print(f"\nconfiguration {config_hash(load(folder / 'config.toml'))[:12]}, {torch.__version__}, one thread")
    print(json.dumps(asdict(result) | {"passed": result.passed}))
    if options.dir is None:
        shutil.rmtree(folder)
    raise SystemExit(0 if result.passed else 1)


if __name__ == "__main__":
    main()
