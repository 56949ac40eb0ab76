"""What the planted faults of the mixture share: who refuses, which checks fail, a module changed as it is made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from partimento.config import MotConfig
from partimento.errors import PartimentoError
from partimento.lab.preflight import Check, preflight
from partimento.runs import checkpoint
from partimento.runs.run import Run
from partimento.training import mixing

sys.path.append(str(Path(__file__).parents[1] / "training"))
import codes_toy
from mot_toy import config, task, write_llama, write_musicgen, write_pack

__all__ = ["codes_toy", "config", "task", "write_llama", "write_musicgen", "write_pack"]

LONG = {"steps": 20, "log_every": 20, "valid_every": 1000, "save_every": 1000}
STOPPED = {"max_minutes": 1e-9}  # ends after its first step


def refused(code: str, work: Callable[[], Any]) -> PartimentoError:
    with pytest.raises(PartimentoError) as caught:
        work()
    assert caught.value.code == code, str(caught.value)
    return caught.value


def failing(made: MotConfig, runs: Path) -> dict[str, Check]:
    """The checks of preflight that fail."""
    return {check.name: check for check in preflight(made, runs=runs) if check.status == "failed"}


def newest(run: Run) -> Path:
    found = checkpoint.newest(run.checkpoints_path, note=print)
    assert found is not None
    return found


def after_making(patch: pytest.MonkeyPatch, owner: type[nn.Module], change: Callable[..., None]) -> None:
    """`change(module)` at the end of every construction of `owner`."""
    init = owner.__init__

    def changed(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        change(self)

    patch.setattr(owner, "__init__", changed)


def unchecked(patch: pytest.MonkeyPatch) -> None:
    """Without the check that what is frozen can be read again: what the next guard says."""
    patch.setattr(mixing, "_check_frozen", lambda *_, **__: None)
