"""Ready for TPUs? Training, validation and playing under XLA on the CPU, against the same on the CPU alone.

    bash bench/xla/run.sh FOLDER        makes an environment in FOLDER (torch 2.9 and torch_xla 2.9) and runs this in it

torch_xla records what is asked of its device and compiles it where a value is needed. A shape, or a number of the host,
that changes from step to step is compiled again every time, which on a TPU costs more than the training. So here the
engine's own steps run on an XLA device (PJRT on the CPU) and it is checked that

  losses, gradient norms, validation figures, weights and averages are those of the CPU (1e-4; weights 1e-3),
  codes are those of the CPU, greedy and drawn, with prompts, guidance and windows that slide,
  programs are compiled in the first two steps of each kind and never after,
  nothing falls back to the host (torch_xla runs what it does not know on the CPU, silently).

Prints a table and one line of JSON; the exit status is 1 if a check fails. Dropout is off: its stream is the device's.
torch_xla 2.9 is the last one; it stands for what comes after it (torch_tpu), which has the same needs.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from partimento.config import Config, parse
from partimento.keyed import key
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.sampling.static import StaticSteps
from partimento.tokens.spec import CodecSpec
from partimento.tokens.text import Words
from partimento.tokens.writer import PackWriter
from partimento.training import devices
from partimento.training.engine import train_step
from partimento.training.parallel import Parallel
from partimento.training.ranks import Place
from partimento.training.schedule import shape
from partimento.training.speed import Recompiles
from partimento.training.state import State
from partimento.training.tasks import make_task

TOLERANCE = 1e-4  # of losses, norms and figures, relative
WEIGHTS = (
    1e-3  # of weights after all steps, absolute: Adam's first steps have the size of the rate, not of the gradient
)
SPEC = CodecSpec("toy", "ab" * 32, 8000, Fraction(50), (24, 24, 24))
LOG_EVERY = 2


def pack_in(folder: Path) -> str:
    rng = np.random.default_rng(0)
    writer = PackWriter(folder / "pack", SPEC)
    for clip in range(12):
        walk = (np.arange(int(rng.integers(150, 320))) * (1 + clip % 2) + rng.integers(0, 12)) % 20
        codes_TK = np.stack([walk, (walk + 3) % 24, (walk * 5) % 24], axis=1)
        tags, caption = ["fast" if clip % 2 else "slow"], f"walk number {clip}" if clip % 3 else None
        writer.add(codes_TK, clip=f"clip{clip}.wav", tags=tags, caption=caption)
    writer.finish()
    return str(folder / "pack")


def settings(family: str, folder: Path, model: dict[str, Any]) -> Config:
    """Everything that changes the step: grouped queries, words, Muon, averages, a ragged last batch of the validation,
    several micro-batches, and a curriculum."""
    return parse(
        {
            "family": family,
            "data": {"pack": pack_in(folder), "window": 24, "null_share": 0.2},
            "model": {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, **model},
            "optim": {"name": "muon", "batch": 4, "accumulate": 2, "lr": 1e-3, "warmup": 3, "ema": 0.9},
            "loss": {"codebook_weights": "learned", "label_smoothing": 0.1, "z_loss": 1e-4},
            "guard": {"window": 16},
            "train": {"steps": 14, "valid_items": 6, "device": "cpu", "stages": [{"start": 8, "window": 48}]},
            "demo": {"temperatures": []},
        }
    )


def rvq(folder: Path) -> Config:
    return settings("rvq", folder, {})


def dia(folder: Path) -> Config:
    """Texts of many lengths, of one shape; rotated cross attention."""
    text = {"text_width": 32, "text_layers": 2, "text_heads": 4, "text_length": 24, "cross_attention_rope": True}
    return settings("dia", folder, text)


FAMILIES: dict[str, Callable[[Path], Config]] = {"rvq": rvq, "dia": dia}
FAST = Words(("fast",))
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"rules": Rules(temperature=0.0), "seeds": [0, 1]},
    "drawn": {"rules": Rules(temperature=0.9, top_k=12, top_p=0.95), "seeds": [0, 1]},
    "guided": {"rules": Rules(), "seeds": [0, 1], "words": FAST, "guidance": Guidance(2.0)},
    "filtered": {"rules": Rules(), "seeds": [0, 1], "words": FAST, "guidance": Guidance(2.0, rule="filter", top_k=8)},
}


class Side:
    """The same training on one of the two devices; counts the programs that are compiled."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(key(0, "weights"))
        self.task = make_task(config, device)
        self.task.objective.to(device).train()
        self.state = State(config, self.task, Parallel(Place(0, 1, 0, 1, "", 0), device))
        devices.synchronise(device)  # the weights' own making is no part of the first step
        self.recompiles = Recompiles()

    def train(self) -> tuple[list[float], list[int]]:
        """Losses and norms as they are logged, and how many programs each step compiled."""
        logged, programs = [], []
        for step in range(self.config.train.steps):
            before = self.recompiles.count
            batches = [self.task.batch(step, micro) for micro in range(self.config.optim.accumulate)]
            train_step(self.state, batches, step, shape(step, self.config.optim, self.config.train.steps))
            devices.synchronise(self.device)
            if (step + 1) % LOG_EVERY == 0:
                sums, _ = self.state.meter.read(self.state.guard.figures())
                logged += [sums["loss"] / sums["tokens"], sums["norm"] / sums["steps"]]
            programs.append(self.recompiles.count - before)
        return logged, programs

    def validate(self) -> tuple[list[float], list[int]]:
        """The figures of the averaged weights, three times over."""
        programs: list[int] = []
        for _ in range(3):
            before = self.recompiles.count
            with self.state.using("ema"):
                found = self.task.evaluate()
            devices.synchronise(self.device)
            programs.append(self.recompiles.count - before)
        return [*found["ce_K"], *found["entropy_K"], found["bits_per_second"], found["eos_ce"] or 0.0], programs

    def play(self, request: dict[str, Any]) -> tuple[list[torch.Tensor], dict[str, list[int]]]:
        """Codes after a prompt and over several windows; programs that each prefill and each step compiled."""
        programs: dict[str, list[int]] = {"start_window": [], "step": []}

        def synchronised(name: str) -> Callable[..., None]:
            method = getattr(StaticSteps, name)

            def run(*args: Any) -> None:
                devices.synchronise(self.device)  # what is pending belongs to what came before
                before = self.recompiles.count
                method(*args)
                devices.synchronise(self.device)
                programs[name].append(self.recompiles.count - before)

            return run

        prompt_BTK = torch.arange(30).view(1, 10, 3) % 24
        with (
            self.state.using("ema"),
            mock.patch.object(StaticSteps, "step", synchronised("step")),
            mock.patch.object(StaticSteps, "start_window", synchronised("start_window")),
        ):
            played = self.task.player.play(frames=120, prompt_BTK=prompt_BTK, **request)  # type: ignore[attr-defined]
        return [item.codes_TK for item in played], programs


def apart(one: list[float], other: list[float]) -> float:
    """Largest relative difference."""
    return max(abs(a - b) / max(abs(a), 1e-8) for a, b in zip(one, other, strict=True))


def weights_apart(cpu: State, xla: State) -> float:
    """Largest absolute difference of weights and averages."""
    assert cpu.ema is not None and xla.ema is not None
    ours = [*cpu.task.module.parameters(), *cpu.ema.weights.values()]
    theirs = [*xla.task.module.parameters(), *xla.ema.weights.values()]
    return max(float((a - b.cpu()).detach().abs().max()) for a, b in zip(ours, theirs, strict=True))


def fallbacks(metrics: Any) -> dict[str, int]:
    """Operators that ran on the host. (Reading a number is one of torch's own, and is what readings do.)"""
    names = [name for name in metrics.counter_names() if name.startswith("aten::")]
    return {name: metrics.counter_value(name) for name in names if name != "aten::_local_scalar_dense"}


def check(family: str) -> dict[str, Any]:
    """All facts and `checks`, name -> whether it holds."""
    metrics = importlib.import_module("torch_xla.debug.metrics")
    with tempfile.TemporaryDirectory() as folder:
        config = FAMILIES[family](Path(folder))
        cpu, xla = Side(config, torch.device("cpu")), Side(config, devices.pick("xla"))
        (losses, _), (xla_losses, programs) = cpu.train(), xla.train()
        stages = [0, *(stage.start for stage in config.train.stages), config.train.steps]
        late = [n for first, end in itertools.pairwise(stages) for n in programs[first + LOG_EVERY : end]]
        facts: dict[str, Any] = {
            "family": family,
            "torch": torch.__version__,
            "training": {
                "steps": config.train.steps,
                "apart": apart(losses, xla_losses),
                "weights_apart": weights_apart(cpu.state, xla.state),
                "programs": programs,
            },
        }
        checks = {
            "training: losses and norms": facts["training"]["apart"] <= TOLERANCE,
            "training: weights and averages": facts["training"]["weights_apart"] <= WEIGHTS,
            "training: nothing compiled after the second step of a stage": not any(late),
        }
        # From here on the very same weights on both sides.
        for name, weight in cpu.state.ema.weights.items():  # type: ignore[union-attr]
            xla.state.ema.weights[name].copy_(weight)  # type: ignore[union-attr]
        (figures, _), (xla_figures, programs) = cpu.validate(), xla.validate()
        facts["validation"] = {"apart": apart(figures, xla_figures), "programs": programs}
        checks["validation: figures"] = facts["validation"]["apart"] <= TOLERANCE
        checks["validation: nothing compiled after the second"] = not any(programs[2:])
        for name, request in REQUESTS.items():
            (codes, _), (xla_codes, made) = cpu.play(request), xla.play(request)
            same = [bool(torch.equal(a, b)) for a, b in zip(codes, xla_codes, strict=True)]
            facts[name] = {"items": len(codes), "same": sum(same), "steps": len(made["step"]), "programs": made}
            checks[f"playing {name}: codes"] = all(same)
            checks[f"playing {name}: nothing compiled after the second step"] = not any(
                [*made["step"][2:], *made["start_window"][2:]]
            )
        facts["on_the_host"] = fallbacks(metrics)
        checks["nothing runs on the host"] = not facts["on_the_host"]
    return {**facts, "checks": checks}


def show(facts: dict[str, Any]) -> None:
    training, validation = facts["training"], facts["validation"]
    print(f"{facts['family']}, torch {facts['torch']}")
    print(f"training    {training['steps']} steps, losses and norms within {training['apart']:.1e}, ", end="")
    print(f"weights within {training['weights_apart']:.1e}; programs a step {training['programs']}")
    print(f"validation  within {validation['apart']:.1e}; programs {validation['programs']}")
    for name in REQUESTS:
        made = facts[name]["programs"]
        print(
            f"{name:11} {facts[name]['same']} of {facts[name]['items']} equal, {facts[name]['steps']} steps; ", end=""
        )
        print(f"programs {sum(made['step'])} by steps {made['step'][:4]}..., windows {made['start_window']}")
    print(f"on the host {facts['on_the_host'] or 'nothing'}")
    for name, holds in facts["checks"].items():
        print(f"{'ok  ' if holds else 'FAIL'} {name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="rvq")
    family = parser.parse_args().family
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    facts = check(family)
    show(facts)
    print(json.dumps(facts))
    return 0 if all(facts["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
