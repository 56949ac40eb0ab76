"""What the files of a run say of its loss: events, configuration, the description in a checkpoint, and the pack if it
is still there. Every source may be missing, and then says so; no model is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.lab.verdict import latest
from partimento.runs import checkpoint
from partimento.runs.events import Event, curve
from partimento.runs.run import Run
from partimento.tokens.pack import Pack
from partimento.training.stages import Settings, stages


@dataclass
class Record:
    """`description` is that of the newest readable checkpoint ({} without). `spec` are the facts of the codes, from it
    or from the pack: {"cardinalities", "frame_rate", ...}. `missing` are sentences."""

    run: Run
    events: list[Event]
    description: dict[str, Any]
    spec: dict[str, Any]
    train_frames: int | None
    stages: list[Settings]
    missing: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run.record["config"]
        return found

    def section(self, name: str) -> dict[str, Any]:
        return dict(self.config.get(name) or {})

    @property
    def step(self) -> int | None:
        """The last step that the log knows of."""
        return max((event["step"] for event in self.events if event["kind"] in ("train", "valid")), default=None)

    @property
    def steps(self) -> int | None:
        return self.section("train").get("steps")

    @property
    def items(self) -> int | None:
        """Items that were drawn up to the last logged step, by the stages of the configuration."""
        if not self.stages or self.step is None:
            return None
        return sum(stage.batch * stage.accumulate * count for stage, count in self._steps_of_stages())

    def extent(self) -> int | None:
        """Grid steps (codes) or samples (sound) that these items had room for."""
        if not self.stages or self.step is None:
            return None
        return sum(stage.window * stage.batch * stage.accumulate * count for stage, count in self._steps_of_stages())

    def _steps_of_stages(self) -> list[tuple[Settings, int]]:
        reached = self.step or 0
        ends = [stage.start for stage in self.stages[1:]] + [max(reached, self.stages[-1].start)]
        return [(s, max(0, min(end, reached) - s.start)) for s, end in zip(self.stages, ends, strict=True)]

    @property
    def targets(self) -> float | None:
        """What the training loss was a mean of, over all steps that are in the weights. None: not logged."""
        counts = [value for _, value in curve(self.events, "train", "tokens") if value is not None]
        return sum(counts) if counts else None

    @property
    def cardinalities(self) -> list[int]:
        return list(self.spec.get("cardinalities") or [])

    @property
    def frame_rate(self) -> float | None:
        """Frames per second; of a run that only logged bits per second, from these."""
        if rate := self.spec.get("frame_rate"):
            return float(Fraction(*rate)) if isinstance(rate, list) else float(rate)
        for event in reversed(self.events):
            ce_K = event.get("ce_K") or []
            if event.get("bits_per_second") and ce_K and None not in ce_K and sum(ce_K):
                return float(event["bits_per_second"]) * math.log(2) / sum(ce_K)
        return None


def gaps(held_out: Sequence[tuple[int, float]], trained_on: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """(step, held-out minus training) at each validation, by the last line of the log up to it."""
    found = []
    for step, value in held_out:
        lines = [line for at, line in trained_on if at <= step]
        if lines:
            found.append((step, value - lines[-1]))
    return found


def read(run: Run, events: Sequence[Event]) -> Record:
    missing: list[str] = []
    description = _description(run, missing)
    pack = _pack(run) if "pack" in run.record["config"].get("data", {}) else None
    spec = dict(description.get("spec") or {}) or (pack.spec.to_json() if pack is not None else {})
    baseline = latest(events, "baseline") or {}
    frames = baseline.get("train_frames")
    if frames is None and pack is not None and "selection" not in (run.record.get("identity") or {}):
        frames = pack.content["splits"]["train"]["frames"]
    return Record(run, list(events), description, spec, frames, _stages(run.record["config"]), missing)


def _description(run: Run, missing: list[str]) -> dict[str, Any]:
    found = checkpoint.visible(run.checkpoints_path)
    for path in reversed(found):
        try:
            described = checkpoint.load(path, ()).state.get("description")
        except PartimentoError as err:
            missing.append(f"{path.name} cannot be read ({err.code}), so what it says of the model is not used.")
            continue
        if isinstance(described, dict):
            return described
    return {}


def _pack(run: Run) -> Pack | None:
    """The pack of the run, if what is there now is the one that it learned from."""
    try:
        pack = Pack.open(run.record["config"]["data"]["pack"])
    except PartimentoError:
        return None
    return pack if pack.fingerprint in (run.record.get("identity") or {}).values() else None


def _stages(config: Mapping[str, Any]) -> list[Settings]:
    """[] for a configuration that this version does not read."""
    try:
        return stages(parse(dict(config)))
    except PartimentoError:
        return []
