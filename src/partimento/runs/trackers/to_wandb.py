"""Weights & Biases, offline: files below RUN/trackers/wandb; `wandb sync` sends them. WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.runs.trackers.tracker import PROJECT, Facts


class Wandb:
    """Its own step only grows, so rollbacks would be lost; ours is a figure beside the others, and the x axis."""

    def open(self, facts: Facts) -> None:
        import wandb

        facts.folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=facts.unique,
            name=facts.id,
            notes=facts.hypothesis,
            config=dict(facts.config),
            dir=str(facts.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type, unused-ignore]
            resume="allow",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def figures(self, step: int, time: float, figures: Mapping[str, float]) -> None:
        self._run.log({**figures, "step": step, "time": time})

    def text(self, step: int, time: float, name: str, text: str) -> None:
        import html

        import wandb

        self._run.log({name: wandb.Html(html.escape(text), inject=False), "step": step, "time": time})

    def sound(self, step: int, time: float, name: str, wave_NC: NDArray[np.int16], rate: int) -> None:
        import wandb

        self._run.log({name: wandb.Audio(wave_NC, sample_rate=rate), "step": step, "time": time})

    def close(self) -> None:
        self._run.finish()
