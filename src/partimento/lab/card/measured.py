"""What the exported checkpoint came to on held-out data, as it was logged and kept, and what is held beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partimento.errors import PartimentoError
from partimento.lab.compared.figures import HIGHER_IS_BETTER, NAME, UNIT
from partimento.lab.compared.pairs import by_source
from partimento.lab.restored.intervals import Interval, paired_bootstrap
from partimento.lab.verdict import SOUND, latest
from partimento.runs import judged
from partimento.runs.events import Event
from partimento.runs.run import Run

CODES_FIGURES, SOUND_FIGURES = ("bits_per_second",), ("mel7", "si_sdr")


@dataclass(frozen=True)
class Metric:
    """`value` over all held-out items. `mean` is that over their sources, each counted once, with its 95 % interval;
    None where single items were not kept."""

    type: str
    value: float
    mean: Interval | None

    @property
    def name(self) -> str:
        return NAME[self.type]

    @property
    def unit(self) -> str:
        return UNIT[self.type]

    @property
    def better(self) -> str:
        return "higher" if self.type in HIGHER_IS_BETTER else "lower"

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, "value": self.value, "mean": self.mean and self.mean.to_json(), "unit": self.unit}


@dataclass(frozen=True)
class Measured:
    """`baselines` are (name, the figure of `metrics[0]`'s type). `missing` says why there is no metric, or what is not
    known of it."""

    metrics: tuple[Metric, ...]
    baselines: tuple[tuple[str, float], ...]
    items: int | None
    missing: tuple[str, ...]


def measured(run: Run, events: Sequence[Event], step: int, weights: str) -> Measured:
    """Of the `weights` ("ema", "raw") at this step."""
    sound = run.record["family"] in SOUND
    baselines = _baselines(latest(events, "baseline") or {}, sound)
    valid = latest(events, "valid", weights=weights, step=step)
    if valid is None:
        others = latest(events, "valid")
        why = f"; step {others['step']:,} was, with the {others.get('weights')} weights" if others else ""
        text = f"These weights (step {step:,}, {weights}) were not measured on held-out data{why}."
        return Measured((), baselines, None, (text,))
    kept, missing = _kept(run, step, weights)
    metrics = []
    for name in SOUND_FIGURES if sound else CODES_FIGURES:
        if not isinstance(valid.get(name), int | float):
            missing.append(f"The {NAME[name]} was not logged.")
            continue
        sources = by_source(kept.items, name) if kept is not None and name in kept.items.values else {}
        metrics.append(Metric(name, float(valid[name]), paired_bootstrap(sources) if sources else None))
    return Measured(tuple(metrics), baselines, None if kept is None else len(kept.items.clips), tuple(missing))


def _kept(run: Run, step: int, weights: str) -> tuple[judged.Judged | None, list[str]]:
    """What was kept of single items at this step, or why there is nothing."""
    file = judged.steps(run.path).get(step)
    if file is None:
        return None, ["No interval can be given: figures of single held-out items were not kept."]
    try:
        found = judged.read(file)
    except PartimentoError as err:
        return None, [f"No interval can be given: {err.message} ({err.code})."]
    if found.weights != weights:
        return None, [f"No interval can be given: single items were judged with the {found.weights} weights."]
    return found, []


def _baselines(baseline: Mapping[str, Any], sound: bool) -> tuple[tuple[str, float], ...]:
    if sound:
        named = [("the input as it is", baseline.get("input_mel7"))]
    else:
        named = [
            ("bigram: pairs of codes, counted", baseline.get("bigram_bits_per_second")),
            ("unigram: codes, counted", baseline.get("unigram_bits_per_second")),
        ]
    return tuple((name, float(value)) for name, value in named if isinstance(value, int | float))
