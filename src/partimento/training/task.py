"""What the engine needs to know of a family: where its batches come from, its loss, how it is judged and heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

Facts: TypeAlias = Mapping[str, "Tensor | float"]
Using: TypeAlias = Callable[[str], AbstractContextManager[None]]


class Task(Protocol):
    """One family's side of a training.

    Everything random is a function of (seed, step, micro, item), through `keyed`, so that a resumed run repeats the
    very same batches; nothing is drawn from the global generators except inside `loss` (dropout), where the engine
    seeds them. A task is made with them seeded too, so initial weights may be drawn as PyTorch does.
    """

    identity: dict[str, Any]
    """JSON facts of the data (fingerprint of the pack, hashes of the files). A resume with other values is refused."""
    history: list[dict[str, Any]]
    """What was done to the data after it was made (`Pack.history`; empty where nothing can be), for that refusal."""
    description: dict[str, Any]
    """JSON that a reader needs to rebuild the module from a checkpoint without the data; stored in `state.json`."""
    score: str
    """Name of the value of `evaluate` by which checkpoints are compared; lower is better."""
    item_frames: int
    """Frames in one item, for the frames per second that are logged."""

    @property
    def module(self) -> nn.Module:
        """Everything that is trained or saved, as one module. The engine moves it to the device and owns its mode."""

    def start(self) -> None:
        """Before the first step of a new training, never on a resume: initialisation from data, e.g. by k-means."""

    def batch(self, step: int, micro: int) -> Any:
        """Micro-batch `micro` (0-based) of optimizer step `step` (0-based), on the device of the module."""

    def count(self, batch: Any) -> float:
        """Valid tokens of the batch: what its loss sums over."""

    def loss(self, batch: Any) -> tuple[Tensor, Facts]:
        """Sum of the loss over the valid tokens (0-D, float32), and facts to log.

        The engine divides by the valid tokens of the whole optimizer step. Facts are means over the micro-batch; the
        engine logs their mean over the steps since the last line.
        """

    def after_step(self, step: int) -> None:
        """After optimizer step `step` (0-based) changed the weights, before they are averaged: codebooks, restarts.

        Not called for a step that was skipped because its loss or gradient was not finite.
        """

    def evaluate(self) -> dict[str, Any]:
        """Figures of the held-out items with the weights that are in the module, in eval mode without gradients."""

    def baselines(self) -> dict[str, Any]:
        """Figures that need no training, logged once a run as event "baseline"; {} if there are none."""

    def demos(self, root: Path, step: int, using: Using) -> Path | None:
        """Play into `root/step-N` (not there yet; committed by rename) and return it, or None if nothing is played.

        `with using("ema")` or `using("raw")` puts those weights into the module, in eval mode without gradients.
        """
