"""Operations and hours of a run, on devices by name or as they were measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partimento.config import Config, MotConfig
from partimento.lab.plan.memory import USABLE
from partimento.lab.plan.sketch import Sketch
from partimento.training import speed
from partimento.training.groups import Claim
from partimento.training.muon import ROUNDS

MFU = 0.35
"""Share of the matrix rate that a compiled training of this size reaches; small models on large devices reach less."""
DEVICES = {"L4": 24, "RTX 4090": 24, "L40S": 48, "A100": 80, "H100": 80, "H200": 141, "B200": 192, "TPU v5e": 16}
"""GB of memory of the devices that are listed; their rates are in `training.speed`."""


@dataclass(frozen=True)
class Hours:
    """`gigabytes` None: measured, or given as a rate. `fits`: the configuration does as it is."""

    device: str
    teraflops: float
    hours: float
    gigabytes: float | None
    fits: bool | None


def item_flops(drawn: Sketch) -> list[float]:
    """FLOPs of one item in every stage, forward and backward; what is recomputed is not counted."""
    if drawn.sounding is not None:
        starts = [stage.start for stage in drawn.stages]
        ends = [*starts[1:], drawn.config.train.steps]
        return [drawn.sounding.item_flops(stage, end) for stage, end in zip(drawn.stages, ends, strict=True)]
    both = isinstance(drawn.config, MotConfig) and drawn.config.model.caption_share > 0
    return [speed.flops_per_item(drawn.module, stage.window, drawn.text, both_ways=both) for stage in drawn.stages]


def optimizer_flops(claims: Sequence[Claim]) -> float:
    """FLOPs of Muon in one step: a round on an R x C matrix with R <= C is 4 R R C + 2 R R R. AdamW's are nothing."""
    total = 0.0
    for one in claims:
        if one.optimizer != "muon":
            continue
        columns = one.parameter.numel() // one.parameter.shape[0]
        for rows in one.parts:
            small, large = sorted((rows, columns))
            total += ROUNDS * (4.0 * small**2 * large + 2.0 * small**3)
    return total


def run_flops(drawn: Sketch, claims: Sequence[Claim], rivals: Sequence[Claim] = ()) -> float:
    """FLOPs of the whole run, of both players."""
    steps = drawn.config.train.steps
    model = sum(items * flops for items, flops in zip(stage_items(drawn), item_flops(drawn), strict=True))
    second = drawn.sounding.rival if drawn.sounding is not None else None
    played = 0 if second is None else sum(second.plays(step) for step in range(steps))
    return model + steps * optimizer_flops(claims) + played * optimizer_flops(rivals)


def stage_items(drawn: Sketch) -> list[int]:
    """Items that every stage draws."""
    starts = [stage.start for stage in drawn.stages]
    ends = [*starts[1:], drawn.config.train.steps]
    return [(end - stage.start) * stage.batch * stage.accumulate for stage, end in zip(drawn.stages, ends, strict=True)]


def hours(flops: float, config: Config, devices: int, needed: float, rate: float | None) -> list[Hours]:
    """For every known device of which there is a rate in the run's precision; `rate` (FLOP/s) is one more by number.

    `needed` bytes on a device say whether the configuration fits.
    """
    found = []
    if rate is not None:
        found.append(Hours("given", rate / 1e12, flops / (rate * MFU * devices) / 3600, None, None))
    for name, gigabytes in DEVICES.items():
        known = _rate(name, config.train.precision)
        if known is not None:
            spent = flops / (known * MFU * devices) / 3600
            found.append(Hours(name, known / 1e12, spent, gigabytes, needed <= USABLE * 1e9 * gigabytes))
    return found


def _rate(name: str, precision: str) -> float | None:
    """FLOP/s of the vendor's sheet."""
    rate = speed.PEAKS[name][("bf16", "tf32", "fp32").index(precision)]
    return None if rate is None else rate * 1e12
