"""trackio: a project in its own store on this machine (TRACKIO_DIR), shown by `trackio show --project partimento`."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.runs.trackers.tracker import PROJECT, Facts


class Trackio:
    """`again`: what the project has of this run is removed first."""

    def __init__(self, again: bool = False) -> None:
        self._again = again

    def open(self, facts: Facts) -> None:
        import trackio

        _say_on_stderr()
        if self._again:
            for known in _known(trackio):
                if known.name == facts.unique:
                    known.delete()
        self._run: Any = trackio.init(
            project=PROJECT,
            name=facts.unique,
            config={**facts.config, "hypothesis": facts.hypothesis},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def figures(self, step: int, time: float, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def text(self, step: int, time: float, name: str, text: str) -> None:
        import trackio

        self._run.log({name: trackio.Markdown(text)}, step=step)

    def sound(self, step: int, time: float, name: str, wave_NC: NDArray[np.int16], rate: int) -> None:
        import trackio

        wave = wave_NC[:, 0] if wave_NC.shape[1] == 1 else wave_NC
        self._run.log({name: trackio.Audio(wave, sample_rate=rate, format="wav")}, step=step)

    def close(self) -> None:
        import trackio

        trackio.finish()  # not the run's own: at exit the run would be finished once more


def _known(trackio: Any) -> list[Any]:
    try:
        return list(trackio.Api().runs(PROJECT))
    except ValueError as err:
        if "does not exist" not in str(err):  # the project; it has no other error for that
            raise
        return []


def _say_on_stderr() -> None:
    """It prints to stdout, which is for results; to redirect that would take it from the other threads too."""
    for name in ("trackio", "trackio.run", "trackio.utils"):
        vars(importlib.import_module(name))["print"] = functools.partial(print, file=sys.stderr)
