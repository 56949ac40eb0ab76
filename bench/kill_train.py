"""kill -9 at random moments during training, then compare with a run that nobody disturbed.

    python bench/kill_train.py [--kills 50] [--seed 0] [--dir DIR]

A small code model trains on a small pack on the CPU in float32, with all that a training can carry from step to step:
Muon and AdamW, per-tensor clipping, averages, learned weights of the codebooks, dropout, accumulation, two further
stages of a curriculum, validations, demos, archives, and checkpoints that are written beside the steps.

Each time the process is killed at a random moment. Every checkpoint that is visible then must verify. Of the ends, one
in eight is a SIGTERM instead, after which no step may be lost; after one in eight the newest checkpoint is damaged,
which the next start must notice and fall back from. In the end model, averages, moments and the guard's memory must
equal the undisturbed run's in every bit, and logged losses and demos too. The last line is one JSON object. Exit status
1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
data = {{ pack = "{pack}", window = 24, codec = "kill_train:codec" }}
model = {{ width = 32, layers = 2, heads = 2, dropout = 0.1 }}
optim = {{ batch = 4, lr = 0.003, warmup = 5, accumulate = 2, name = "muon", adagc = true }}
loss = {{ codebook_weights = "learned", label_smoothing = 0.05, z_loss = 1e-4 }}
train = {{ steps = {steps}, log_every = 1, valid_every = 5, valid_items = 8, save_every = 3, device = "cpu", \
archive_every = 48, keep_archives = 3, \
stages = [{{ start = {third}, window = 32, batch = 6 }}, {{ start = {two_thirds}, accumulate = 1, lr = 0.5 }}] }}
demo = {{ every = 8, seconds = 0.2, temperatures = [1.0] }}
"""
STEPS_A_KILL = 16  # so that the run is never over before the last kill
SPEC = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (32, 32))
PHASES = ("start-up", "step", "validation", "demos", "saving")


class Toy:
    """A codec for demos that need no sound: its samples are its codes."""

    spec = SPEC
    context_frames = 0

    def encode(self, wave_BCN: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def decode(self, codes_BTK: torch.Tensor) -> torch.Tensor:
        return (codes_BTK.sum(-1, keepdim=True) / 64 - 0.5).expand(-1, -1, int(SPEC.hop)).flatten(1)[:, None].float()


def codec(device: str = "cpu") -> Toy:
    return Toy()


@dataclass(frozen=True)
class Result:
    kills: int
    terms: int
    damaged: int
    steps: int
    torn_checkpoints_visible: int
    steps_lost_by_sigterm: int
    kills_during_a_save: int
    steps_repeated: int
    weights_identical: bool
    losses_identical: bool
    demos_identical: bool
    tensors_compared: int
    seconds: float
    phases: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        whole = not self.torn_checkpoints_visible and not self.steps_lost_by_sigterm
        return self.weights_identical and self.losses_identical and self.demos_identical and whole


def write_pack(folder: Path) -> None:
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, SPEC)
    for clip in range(10):
        writer.add(rng.integers(0, 32, (200, 2)), tags=["odd" if clip % 2 else "even"])
    writer.finish()


def child(config: str, runs: str, marks: str) -> None:
    """What is killed. It notes in a file that outlives it what it is doing."""
    torch.set_num_threads(1)
    from partimento.training import engine
    from partimento.training.judging import Judging
    from partimento.training.session import Session

    with Path(marks).open("r+b") as file:
        marked = mmap.mmap(file.fileno(), len(PHASES))

    def noting(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        place = PHASES.index(phase)

        def noted(*args: Any, **kwargs: Any) -> Any:
            marked[place] = 1
            try:
                return call(*args, **kwargs)
            finally:
                marked[place] = 0

        return noted

    engine.train_step = noting("step", engine.train_step)
    Judging.validate = noting("validation", Judging.validate)  # type: ignore[method-assign]
    Session.demo = noting("demos", Session.demo)  # type: ignore[method-assign]
    checkpoint.save = noting("saving", checkpoint.save)
    try:
        engine.train(load(config), runs=runs, run="run")
    except PartimentoError as err:
        if err.code != "SYS003":  # stopped, as asked
            raise


def run_bench(folder: Path, kills: int, seed: int) -> Result:
    """Kill `kills` times, then let the run finish."""
    began = time.monotonic()
    steps = STEPS_A_KILL * kills
    write_pack(folder / "pack")
    config, marks = folder / "config.toml", folder / "marks"
    pack = (folder / "pack").as_posix()
    commit.text(config, CONFIG.format(pack=pack, steps=steps, third=steps // 3, two_thirds=2 * steps // 3))
    marks.write_bytes(bytes(len(PHASES)))
    modules = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": modules}

    def command(runs: str) -> list[str]:
        call = "import sys, kill_train; kill_train.child(*sys.argv[1:])"
        return [sys.executable, "-c", call, str(config), str(folder / runs), str(marks)]

    subprocess.run(command("whole"), env=environment, check=True, stdout=subprocess.DEVNULL)
    pace = _seconds_training(folder / "whole" / "run") / steps
    print(f"{steps} steps of {1000 * pace:.0f} ms\n\nkill  during       after ms  at step  visible  torn  save cut")

    rng, run, phases = random.Random(seed), folder / "killed" / "run", Counter[str]()
    torn = cut = lost = terms = damaged = 0
    planted: set[Path] = set()
    start_up = 1.0
    for number in range(1, kills + 1):
        marks.write_bytes(bytes(len(PHASES)))
        process = subprocess.Popen(command("killed"), env=environment, stderr=subprocess.PIPE)
        started = time.monotonic()
        while_starting = number > 1 and rng.random() < 0.1
        if not while_starting:
            _wait_until_it_trains(process, run)
            start_up = time.monotonic() - started
        after = rng.uniform(0, start_up if while_starting else STEPS_A_KILL * pace)
        time.sleep(after)
        if process.poll() is not None:
            raise SystemExit(f"it ended before kill {number}: {process.communicate()[1].decode()[-800:]}")
        gently = not while_starting and rng.random() < 1 / 8
        process.send_signal(signal.SIGTERM if gently else signal.SIGKILL)
        process.communicate()
        doing = [phase for phase, flag in zip(PHASES, marks.read_bytes(), strict=True) if flag]
        phase = "sigterm" if gently else "+".join(doing) or ("start-up" if while_starting else "between")
        phases[phase] += 1
        found = _look(run / "checkpoints", planted, since=time.time() - (time.monotonic() - started))
        torn += found["torn"]
        cut += found["cut"]
        if gently:
            terms += 1
            lost += max(0, _made(run) - found["reached"])
        elif rng.random() < 1 / 8 and found["visible"] > 1:
            damaged += 1
            planted.add(_damage(checkpoint.visible(run / "checkpoints")[-1], rng))
            phase += ", damaged"
        columns = f"{found['reached']:>8} {found['visible']:>8} {found['torn']:>5} {found['cut']:>9}"
        print(f"{number:>4}  {phase:<16}{1000 * after:>5.0f} {columns}", flush=True)
    subprocess.run(command("killed"), env=environment, check=True, stdout=subprocess.DEVNULL)

    same, compared = _compare(folder / "whole" / "run", run)
    events, whole = read_events(run / "events.jsonl"), read_events(folder / "whole" / "run" / "events.jsonl")
    losses = [curve(log, "train", "loss") for log in (whole, events)]
    return Result(
        kills=kills - terms,
        terms=terms,
        damaged=damaged,
        steps=steps,
        torn_checkpoints_visible=torn,
        steps_lost_by_sigterm=lost,
        kills_during_a_save=cut,
        steps_repeated=sum(event["kind"] == "train" for event in events) - steps,
        weights_identical=same,
        losses_identical=losses[0] == losses[1] and len(losses[0]) == steps,
        demos_identical=_demos(folder / "whole" / "run") == _demos(run),
        tensors_compared=compared,
        seconds=round(time.monotonic() - began, 1),
        phases=dict(phases.most_common()),
    )


def _seconds_training(run: Path) -> float:
    events = read_events(run / "events.jsonl")
    return float(events[-1]["time"] - events[0]["time"])


def _wait_until_it_trains(process: subprocess.Popen[bytes], run: Path) -> None:
    """Until the log says that this process has begun: a start or resume event more than before."""
    begun = _begun(run)
    while _begun(run) == begun and process.poll() is None:
        time.sleep(0.01)


def _begun(run: Path) -> int:
    return sum(event["kind"] in ("start", "resume") for event in read_events(run / "events.jsonl"))


def _made(run: Path) -> int:
    """The last step that the last process made."""
    steps = 0
    for event in read_events(run / "events.jsonl"):
        if event["kind"] in ("start", "resume", "train"):
            steps = event["step"]
    return steps


def _damage(path: Path, rng: random.Random) -> Path:
    """One bit of one file, somewhere. Visible until the next start has looked."""
    file = rng.choice(sorted(path.glob("*.safetensors")))
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(content))
    return file


def _look(checkpoints: Path, planted: set[Path], since: float) -> dict[str, int]:
    """Verify every visible checkpoint right after a kill, but for the `planted` damage that no start has seen yet;
    `cut` is 1 if a save of this process was left unfinished."""
    visible = checkpoint.visible(checkpoints)
    torn = 0
    for path in visible:
        own = {file for file in planted if file.parent == path}
        try:
            checkpoint.verify(path)
            planted -= own  # it was set aside, and the step written again
        except PartimentoError:
            torn += not own
    leftovers = list(checkpoints.glob(f"*{commit.TMP}*")) if checkpoints.exists() else []
    cut = int(any(path.stat().st_mtime >= since for path in leftovers))
    reached = int(visible[-1].name.removeprefix("step-")) if visible else 0
    return {"torn": torn, "visible": len(visible), "reached": reached, "cut": cut}


def _demos(run: Path) -> dict[str, str]:
    """{file: sha256} of everything that was played."""
    return {str(file.relative_to(run)): commit.sha256(file) for file in sorted((run / "demos").rglob("*.flac"))}


def _compare(whole: Path, killed: Path) -> tuple[bool, int]:
    """Are all bits of the last checkpoints equal, and how many tensors were compared."""
    ends: list[dict[str, torch.Tensor]] = []
    for path in (whole, killed):
        newest = checkpoint.newest(Run.open(path).checkpoints_path)
        assert newest is not None
        found = checkpoint.load(newest)
        ends.append({f"{part}/{name}": tensor for part, named in found.parts.items() for name, tensor in named.items()})
        ends[-1]["step"] = torch.tensor(found.step)
    same = ends[0].keys() == ends[1].keys() and all(_bits(ends[0][name]) == _bits(ends[1][name]) for name in ends[0])
    return same, len(ends[0])


def _bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().numpy().tobytes()


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
