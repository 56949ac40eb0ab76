"""What is tried before step 1, without a trace: in which types a training computes, and whether its steps fit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from partimento.training import audit as types
from partimento.training import compiled
from partimento.training.stages import settings_at, stages
from partimento.training.state import State


def audit(state: State) -> dict[str, Any]:
    """{"kept": how many tensors in which type} and, where precision matters, {"products": how many ran in which}.

    Raises TRAIN045 where something is kept in a type that a training must not have.
    """
    found: dict[str, Any] = {"kept": state.audit()}
    if state.config.train.precision != "fp32" and not state.config.train.cuda_graphs:
        inputs = state.task.inputs(state.task.batch(state.counters.step, 0))
        products: dict[str, int] = {}

        def counted(inputs: tuple[Tensor | None, ...]) -> None:
            products.update(types.products(lambda: state.forward_backward(inputs)))

        compiled.dry_run(state.task.module, counted, {"audit": inputs}, state.device)
        found["products"] = products
    return found


def rehearse(state: State) -> None:
    """Forward and backward of each player at every shape that is to come: memory ends now or not at all.

    Raises TRAIN040.
    """
    step, task, device, opponent = state.counters.step, state.task, state.device, state.opponent
    now = settings_at(state.config, step).start
    to_come = [stage for stage in stages(state.config) if stage.start >= now]
    if device.type == "cpu" and len(to_come) == 1:
        return  # its first step tells as much
    last = state.config.train.steps - 1
    ends = [stage.start - 1 for stage in to_come[1:]] + [last]  # whose last step has all that plays in it
    largest = {
        f"from step {stage.start}": task.inputs(task.batch(max(end, step), 0))
        for stage, end in zip(to_come, ends, strict=True)
    }

    def of_all(inputs: tuple[Tensor | None, ...]) -> None:
        if opponent is not None:
            opponent.forward_backward(inputs)
        state.forward_backward(inputs)

    compiled.dry_run(task.module, of_all, largest, device)
    if opponent is not None:
        opponent.optimizer.zero_grad()
    state.forget_graphs()  # each holds its activations: only that of the stage at hand is to be there

    def judged(inputs: tuple[Tensor | None, ...]) -> None:
        with state.using("raw"):
            task.objective(*inputs)

    if device.type != "cpu":  # a validation holds all logits, and as many items as the smallest stage
        compiled.dry_run(task.module, judged, {"validation": min(largest.values(), key=_items)}, device)


def _items(inputs: tuple[Tensor | None, ...]) -> int:
    return len(next(tensor for tensor in inputs if tensor is not None))
