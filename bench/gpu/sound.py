"""Two players on one device: a generator of waves and its adversary, in the engine's own step, on waves that are made.

How fast each precision is, that the same step is repeated bit for bit from what was stored, and what bf16 costs.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gpu.report import Bench, main, row, same, timed
from partimento.config import Adversary, GeneratorModel, Guard, RestoreConfig, SoundLoss, SoundOptim, Train
from partimento.keyed import torch_generator
from partimento.training import devices
from partimento.training.opponent import Opponent
from partimento.training.parallel import Parallel
from partimento.training.ranks import Place
from partimento.training.state import State
from partimento.training.tasks.sound import SoundObjective, SoundTask, judges, rival

RATE = 44100


def check(bench: Bench) -> None:
    from partimento.training.tasks.restore import RestoreObjective, generator

    nets = ("spectral",) if bench.quick else ("spectral", "dac")
    precisions = ("fp32", "tf32", "bf16") if bench.cuda else ("fp32", "bf16")
    for net in nets:
        for precision in precisions:
            config = _config(net, precision, bench.quick)
            with devices.precise(bench.device, precision), devices.reproducible(bench.device, deterministic=True):
                training = _Training(bench, config, RestoreObjective, generator(config.model))
                batches = [_batch(config, step) for step in range(4)]
                training.steps(batches[:2], 0)
                stored = {name: value.clone() for name, value in training.tensors().items()}
                training.steps(batches[2:], 2)
                after = {name: value.clone() for name, value in training.tensors().items()}
                for name, value in training.tensors().items():
                    value.copy_(stored[name])
                training.steps(batches[2:], 2)
                same(f"{net} {precision}: both players after 2 steps again", training.tensors(), after)
            with devices.precise(bench.device, precision):
                step = partial(training.steps, batches[:1], 4)
                spent = timed(bench, step, 0.1 if bench.quick else 3.0, 20)
            row(f"{net} {precision}: two-player steps", 1 / spent, "steps/s", note=f"{training.note}")


class _Training:
    """`engine.train_step` on a task that has no files."""

    def __init__(self, bench: Bench, config: RestoreConfig, objective: type[SoundObjective], module: Any) -> None:
        torch.manual_seed(0)
        base = SoundTask(config, bench.device, 0, 1, RATE)
        discriminators = judges(config)
        base.identity, base.description = {}, {}  # type: ignore[attr-defined]
        base.module = module  # type: ignore[attr-defined]
        base.objective = objective(module, RATE, config.loss, discriminators)
        base.rival = rival(config, base.objective, discriminators)
        base.inputs = lambda batch: (*(wave.to(bench.device) for wave in batch.waves), *base.weighted(batch.step))  # type: ignore[attr-defined]
        base.objective.to(bench.device).train()
        assert base.rival is not None
        base.rival.objective.to(bench.device).train()
        parallel = Parallel(Place(0, 1, 0, 1, "", 0), bench.device)
        self.state = State(config, base, parallel)  # type: ignore[arg-type]
        counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (module, base.rival.module)]
        crop = config.data.crop
        self.note = f"{counts[0]:.1f} + {counts[1]:.1f} M weights, {config.optim.batch} x {crop} samples"

    def steps(self, batches: list[SimpleNamespace], first: int) -> None:
        from partimento.training.engine import train_step

        for place, batch in enumerate(batches):
            batch.step = first + place
            train_step(self.state, [batch], first + place, 1.0)

    def tensors(self) -> dict[str, Tensor]:
        opponent = self.state.opponent
        assert isinstance(opponent, Opponent)
        parts, _ = self.state.save(None, {}, good=True)
        return {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}


def _config(net: str, precision: str, quick: bool) -> RestoreConfig:
    from partimento.config import PairData

    small: dict[str, Any] = {"periods": [2, 3], "windows": [512], "period_width": 4, "window_width": 4} if quick else {}
    return RestoreConfig(
        family="restore",
        data=PairData(band_loops=1, crop=4096 if quick else 16384),
        model=GeneratorModel(net=net, **({"width": 16, "blocks": 1} if quick else {})),  # type: ignore[arg-type]
        loss=SoundLoss(),
        adversary=Adversary(start=0, **small),
        optim=SoundOptim(batch=2 if quick else 16, ema=0.0),
        guard=Guard(),
        train=Train(steps=100, precision=precision),  # type: ignore[arg-type]
    )


def _batch(config: RestoreConfig, number: int) -> SimpleNamespace:
    generator = torch_generator("waves", number)
    target = 0.1 * torch.randn(config.optim.batch, config.data.crop, generator=generator)
    damaged = target + 0.02 * torch.randn(target.shape, generator=generator)
    return SimpleNamespace(waves=(damaged, target), step=number)


if __name__ == "__main__":
    main(check)
