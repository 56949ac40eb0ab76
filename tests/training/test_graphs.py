"""CUDA graphs without a GPU: everything that is refused, and why. What they compute is checked by bench/gpu.sh."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from partimento.config import Train
from partimento.errors import PartimentoError
from partimento.training import graphs

Policy = Literal["none", "selective", "full"]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PLAIN, DROPPING = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))


@pytest.mark.parametrize(
    ("device", "world", "recompute", "module", "why"),
    [
        (CPU, 1, "none", PLAIN, "the device is cpu"),
        (torch.device("mps"), 1, "none", PLAIN, "the device is mps"),
        (CUDA, 2, "none", PLAIN, "with 2 devices"),
        (CUDA, 1, "full", DROPPING, "dropout"),
        (CUDA, 1, "selective", DROPPING, "dropout"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    device: torch.device, world: int, recompute: Policy, module: nn.Module, why: str
) -> None:
    train = Train(cuda_graphs=True, recompute=recompute)
    with pytest.raises(PartimentoError, match=f"TRAIN042(.|\n)*{why}"):
        graphs.check(train, device, world, module)


@pytest.mark.parametrize(("recompute", "module"), [("none", DROPPING), ("full", PLAIN)])
def test_what_can_be_recorded_is_not(recompute: Policy, module: nn.Module) -> None:
    graphs.check(Train(cuda_graphs=True, recompute=recompute), CUDA, 1, module)


def test_a_graph_of_a_cpu_is_refused_before_anything_runs() -> None:
    def forward_backward(inputs: graphs.Inputs) -> graphs.Result:
        raise AssertionError("it ran")

    with pytest.raises(PartimentoError, match=r"TRAIN042.*\n.*the device is cpu"):
        graphs.Graphed(forward_backward, PLAIN.parameters())


GRID, KEEP = torch.zeros(2, 9, 3, dtype=torch.int16), torch.ones(2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("given", "number", "found"),
    [
        ((GRID[:, :8], KEEP, None), 0, r"\[2, 8, 3\] int16"),
        ((GRID.long(), KEEP, None), 0, r"\[2, 9, 3\] int64"),
        ((GRID, KEEP, KEEP), 2, r"\[2\] bool"),
        ((GRID, None, None), 1, "nothing"),
        ((GRID, KEEP), 2, "nothing"),
        ((GRID, KEEP.to("meta"), None), 1, "on meta"),
    ],
)
def test_other_inputs_than_the_recorded_ones_are_refused(
    given: tuple[Tensor | None, ...], number: int, found: str
) -> None:
    with pytest.raises(PartimentoError, match=f"TRAIN043.*input {number} of the step is .*{found}"):
        graphs.check_same((GRID, KEEP, None), given)


def test_the_same_inputs_pass() -> None:
    graphs.check_same((GRID, KEEP, None), (GRID + 1, ~KEEP, None))


def test_an_error_of_the_recording_is_told_by_its_first_cause() -> None:
    with pytest.raises(PartimentoError, match=r"TRAIN044(.|\n)*operation not permitted"), graphs._recording():
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        finally:
            raise RuntimeError("capture was invalidated")  # as the end of a broken recording does
    with pytest.raises(torch.OutOfMemoryError), graphs._recording():
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("capture was invalidated")


class Pretended(graphs.Graphed):
    """The bookkeeping of a recording, without one."""

    def __init__(self, gradients: list[Tensor]) -> None:
        self.parameters = list(PLAIN.parameters())
        self._gradients = list(gradients)


def test_gradients_return_to_the_addresses_of_the_recording_with_their_values() -> None:
    kept = [torch.full_like(parameter, 7.0) for parameter in PLAIN.parameters()]
    other = torch.full_like(PLAIN.bias, 3.0)
    PLAIN.weight.grad, PLAIN.bias.grad = None, other
    Pretended(kept)._attach()
    assert PLAIN.weight.grad is kept[0] and not kept[0].any()
    assert PLAIN.bias.grad is kept[1] and torch.equal(kept[1], other)
    Pretended(kept)._attach()
    assert torch.equal(kept[1], other)
    PLAIN.zero_grad(set_to_none=True)
