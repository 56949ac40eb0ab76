"""How codes are laid out over the positions of a mixture: how many seconds fit, and what a second costs.

Every code of a flat grid is a position; of a delayed one, every frame is.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from partimento.config import MotConfig
from partimento.lab.plan.memory import USABLE, Memory
from partimento.lab.plan.trace import trace
from partimento.models.mixture import MixtureModel
from partimento.runs import backbones
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import CodecSpec
from partimento.training import building, speed
from partimento.training.objective import CodesObjective

SECONDS = (10.0, 30.0)
PATTERNS = ("delay", "flat")
FAR = 4  # times the longest of SECONDS: so far items are looked at, from which longer ones are told


@dataclass(frozen=True)
class Layout:
    """One pattern, and an item of each of `SECONDS` in it.

    window_seconds   of audio in the configured window (`data.window` positions)
    positions        rows of an item
    activations      bytes that an item keeps for its backward pass (None: longer than the backbone has positions)
    flops            of an item, forward and backward (None as there)
    fits             seconds of the longest item of which one fits the device, with all that does not grow (None where
                     its memory is not told)
    """

    pattern: str
    positions_per_second: float
    window_seconds: float
    positions: list[int]
    activations: list[float | None]
    flops: list[float | None]
    fits: float | None


def layouts(config: MotConfig, spec: CodecSpec, memory: Memory, room: float | None) -> list[Layout]:
    """The pattern of the configuration first, then those of PATTERNS that it is not."""
    named, chosen = config.model.pattern, _pattern(config, spec)
    name = named if isinstance(named, str) else " ".join(str(delay) for delay in named)
    others = [other for other in PATTERNS if Pattern.named(other, spec.codebooks, spec.books) != chosen]
    return [
        _layout(name, config, spec, memory, room),
        *(_layout(other, _laid_out(config, other), spec, memory, room) for other in others),
    ]


def _pattern(config: MotConfig, spec: CodecSpec) -> Pattern:
    return Pattern.named(config.model.pattern, spec.codebooks, spec.books)


def _laid_out(config: MotConfig, pattern: str) -> MotConfig:
    """A shared block of ids goes with a flat grid only."""
    changed = config.model.model_copy(update={"pattern": pattern, "vocabulary": "own"})
    return config.model_copy(update={"model": changed})


def _layout(name: str, config: MotConfig, spec: CodecSpec, memory: Memory, room: float | None) -> Layout:
    pattern, rate = _pattern(config, spec), float(spec.frame_rate)
    positions = [pattern.steps(max(1, round(seconds * rate)), ends=False) - 1 for seconds in SECONDS]
    items = _Items(config, spec, FAR * positions[-1])
    fits = None
    if room is not None:
        fits = _seconds(items.longest(USABLE * room - memory.fixed), pattern, rate)
    return Layout(
        pattern=name,
        positions_per_second=pattern.stride * rate,
        window_seconds=_seconds(config.data.window, pattern, rate),
        positions=positions,
        activations=[items.activations(rows) if rows <= items.most else None for rows in positions],
        flops=[items.flops(rows) if rows <= items.most else None for rows in positions],
        fits=fits,
    )


def _seconds(rows: int, pattern: Pattern, rate: float) -> float:
    """Of the frames of which every code is in so many rows (the first row is BOS, and is not counted)."""
    return max(0, (rows - 1 - pattern.max_delay) // pattern.stride + 1) / rate


class _Items:
    """Training items of any number of rows, up to the `most` that the backbone has positions for behind a text.

    A text keeps the same always, each row as much as another, and the mask of attention a number for each pair: three
    items, of `far` rows and of shares of it, tell of all.
    """

    def __init__(self, config: MotConfig, spec: CodecSpec, far: int) -> None:
        self.both_ways, self.length = config.model.caption_share > 0, config.model.text_length
        with torch.device("meta"):
            places = backbones.read_llama(config.model.backbone).config.max_positions
            self.most = places - self.length - 1  # as `mixing.build` has it
            built = building.build(config, spec, (), min(far, self.most))
            assert isinstance(built.module, MixtureModel)
            self.module = built.module
            objective = CodesObjective(self.module, spec.cardinality, config.loss, both_ways=self.both_ways).train()
            rows = [max(1, min(far, self.most) // part) for part in (4, 2, 1)]
            precision = "bf16" if config.train.precision == "bf16" else "fp32"
            kept = [trace(objective, self._inputs(count, spec.codebooks), 1, precision) for count in rows]
        activations = [one.activations(config.train.recompute) for one in kept]
        self._curve = np.polynomial.Polynomial.fit(rows, activations, 2)

    def _inputs(self, rows: int, codebooks: int) -> tuple[Tensor | None, ...]:
        text_1M = torch.zeros(1, self.length, dtype=torch.int64)
        keep_1, mask_1M = torch.ones(1, dtype=torch.bool), torch.ones_like(text_1M, dtype=torch.bool)
        grid_1SK = torch.zeros(1, rows + 1, codebooks, dtype=torch.int16)
        return (grid_1SK, keep_1, None, text_1M, mask_1M, *([keep_1] if self.both_ways else []))

    def activations(self, rows: int) -> float:
        return float(self._curve(rows))

    def flops(self, rows: int) -> float:
        return speed.flops_per_item(self.module, rows, self.length, both_ways=self.both_ways)

    def longest(self, free: float) -> int:
        """Rows of the longest item that keeps no more than `free` bytes; 0 if none does."""
        return bisect.bisect_right(range(1, self.most + 1), free, key=self.activations)
