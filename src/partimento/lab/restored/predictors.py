"""Hook for learned predictors of quality: any function (wave_CN float32, sample_rate) -> float of the user's own."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.lab.restored.metrics import Metric, Wave


@dataclass(frozen=True)
class Predictor:
    """One more figure, of a wave alone; higher is better, as predictors of quality have it."""

    name: str
    function: Callable[[Wave, int], Any]

    @property
    def metric(self) -> Metric:
        return Metric(self.name, self.name, "", "higher", False, f"predicted by {self.name} from the wave alone")

    def __call__(self, wave_CN: Wave, sample_rate: int) -> float | None:
        """None where it gives None or no finite number. Raises LAB032 where it fails."""
        try:
            found = self.function(wave_CN, sample_rate)
            value = None if found is None else float(found)
        # Foreign code may raise anything; all of it is told in the one shape, with its cause.
        except Exception as err:
            raise PartimentoError(
                "LAB032",
                f"the predictor {self.name} failed",
                where=f"a wave of shape {wave_CN.shape} at {sample_rate} Hz",
                why=f"{type(err).__name__}: {err}",
                next="call it on such a wave by itself; it is given float32 [C, N] and the rate, and returns a number",
            ) from err
        return value if value is not None and math.isfinite(value) else None


def load(named: Sequence[str]) -> list[Predictor]:
    """Predictors by "module:function"; modules of the working folder are found, too. Raises LAB031."""
    return [_load(name) for name in named]


def _load(name: str) -> Predictor:
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    try:
        if not module or not function:
            raise ValueError("it is not of the form module:function")
        sys.path.insert(0, here)
        try:
            found = getattr(importlib.import_module(module), function)
        finally:
            sys.path.remove(here)
        if not callable(found):
            raise TypeError(f"{function} is no function")
    # Importing runs foreign code, which may raise anything.
    except Exception as err:
        raise PartimentoError(
            "LAB031",
            f"the predictor {name!r} cannot be loaded",
            why=f"{type(err).__name__}: {err}",
            next=f"try it: python -c 'import {module or 'MODULE'}'; then give --predictor module:function",
        ) from err
    return Predictor(name, found)
