"""Forward and backward as one CUDA graph: recorded once, then replayed without Python and without launching kernels.

A small model is bound by the host that launches its kernels; a replay is one launch. The form is torchtitan's
(`distributed/cudagraph.py`): fixed addresses for inputs and gradients, a warm-up on a side stream, forward and backward
alone recorded; clipping, the optimizer and everything that looks at a number stay outside.

What a caller must know:

- Everything has one shape. Other shapes are refused; a stage of the curriculum makes a new `Graphed`.
- Gradients live at fixed addresses, and every replay adds to them: accumulation works. Zero them in place
  (`zero_grad(set_to_none=False)`); dropped ones would be put back, filled with zeros.
- Dropout follows the device's generator as it is when a call begins: seed it before each call, outside of
  `forward_backward` (a seed inside would be recorded as a constant). Then the stream is that of the same seed without a
  graph.
- The recording holds its activations for as long as it lives; other passes (validation) need memory beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from partimento.errors import PartimentoError
from partimento.training.compiled import draws

if TYPE_CHECKING:
    from partimento.config import Train

Inputs: TypeAlias = tuple[Tensor | None, ...]
Result: TypeAlias = tuple[Tensor, dict[str, Tensor]]
ForwardBackward: TypeAlias = Callable[[Inputs], Result]

# Before recording, all that happens once must have happened: compiling, choosing kernels, making workspaces.
_WARM_UP = 3


def check(train: Train, device: torch.device, world: int, module: nn.Module) -> None:
    """Raises TRAIN042 if `train.cuda_graphs` cannot be had: no CUDA, several devices, or recompute with dropout."""
    why = None
    if device.type != "cuda" or torch.version.hip is not None:
        why = f"a CUDA graph needs an NVIDIA GPU, and the device is {device.type}"
    elif world > 1:
        why = f"with {world} devices the backward pass also sends gradients, which are not recorded"
    elif train.recompute != "none" and draws(module):
        why = "recompute must read the state of the dropout stream, which is not possible while recording"
    if why is not None:
        raise PartimentoError(
            "TRAIN042",
            "forward and backward cannot be recorded as a CUDA graph",
            why=why,
            next="set train.cuda_graphs=false" + (" or model.dropout=0" if "dropout" in why else ""),
        )


class Graphed:
    """`forward_backward(inputs) -> (total, facts)` as a graph, with the same meaning: gradients are added to.

    Recorded at the first call, with its inputs (CUDA tensors, or None where the call has nothing). `parameters` are
    those whose gradients it makes. Raises TRAIN042 (not on a CUDA device), TRAIN043 (inputs of another shape, type or
    number), TRAIN044 (something in it cannot be recorded).
    """

    def __init__(self, forward_backward: ForwardBackward, parameters: Iterable[nn.Parameter]) -> None:
        self.forward_backward = forward_backward
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.device = self.parameters[0].device
        if self.device.type != "cuda":
            raise PartimentoError(
                "TRAIN042",
                "forward and backward cannot be recorded as a CUDA graph",
                why=f"a CUDA graph needs an NVIDIA GPU, and the device is {self.device.type}",
                next="set train.cuda_graphs=false",
            )
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Inputs = ()
        self._result: Result | None = None
        self._gradients: list[Tensor | None] = []

    def __call__(self, inputs: Inputs) -> Result:
        """The total and the facts, as new tensors that no later call overwrites."""
        if self._graph is None:
            self._record(inputs)
        check_same(self._inputs, inputs)
        self._attach()
        for static, given in zip(self._inputs, inputs, strict=True):
            if static is not None and given is not None:
                static.copy_(given, non_blocking=True)
        assert self._graph is not None and self._result is not None
        self._graph.replay()
        total, facts = self._result
        return total.clone(), {name: value.clone() for name, value in facts.items()}

    @torch.no_grad()
    def _attach(self) -> None:
        """Gradients that were dropped, or are those of another recording, to where this one adds to them."""
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            if parameter.grad is gradient or gradient is None:
                continue
            if parameter.grad is None:
                gradient.zero_()
            else:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient

    def _record(self, inputs: Inputs) -> None:
        """Warm up, record, and leave gradients and generators as they were: the replay that follows is the step."""
        for tensor in inputs:
            if tensor is not None and tensor.device != self.device:
                raise ValueError(f"an input is on {tensor.device}, the parameters on {self.device}")
        before = [None if parameter.grad is None else parameter.grad.clone() for parameter in self.parameters]
        self._inputs = tuple(None if tensor is None else tensor.detach().clone() for tensor in inputs)
        stream = torch.cuda.Stream(self.device)
        with torch.random.fork_rng(devices=[self.device], device_type="cuda"):
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self.forward_backward(self._inputs)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            # From here on these are the addresses. A gradient that were missing while recording would be made in the
            # graph's own memory, and every replay would overwrite it instead of adding to it.
            self._gradients = [parameter.grad for parameter in self.parameters]
            graph = torch.cuda.CUDAGraph()
            with _recording(), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                total, facts = self.forward_backward(self._inputs)
                # Detached, so that the autograd graph and the streams that it remembers end with the recording.
                self._result = total.detach(), {name: value.detach() for name, value in facts.items()}
        with torch.no_grad():
            for gradient, value in zip(self._gradients, before, strict=True):
                if gradient is not None:
                    gradient.zero_() if value is None else gradient.copy_(value)
        self._graph = graph


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """An error of the recording as TRAIN044, and no weights in bfloat16 from or for autocast's cache.

    A cached copy from before would be recorded as a constant and would never follow the weights; one from within lies
    in the graph's memory.
    """
    torch.clear_autocast_cache()
    try:
        yield
    except RuntimeError as err:
        first = err.__context__ or err  # ending a recording that broke raises once more
        if isinstance(first, torch.OutOfMemoryError):
            raise first from None
        raise PartimentoError(
            "TRAIN044",
            "the step cannot be recorded as a CUDA graph",
            why=str(first).splitlines()[0],
            next="set train.cuda_graphs=false",
        ) from err
    finally:
        torch.clear_autocast_cache()


def check_same(recorded: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> None:
    """Raises TRAIN043 unless `given` has the number, shapes, types and devices of what was recorded."""
    was, now = ([_kind(tensor) for tensor in tensors] for tensors in (recorded, given))
    if was != now:
        number = next((n for n, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
        a, b = (kinds[number] if number < len(kinds) else "nothing" for kinds in (was, now))
        raise PartimentoError(
            "TRAIN043",
            f"input {number} of the step is {b}; the CUDA graph was recorded with {a}",
            why="a graph replays fixed addresses and shapes",
            next="give every batch of a stage the same shape, or set train.cuda_graphs=false",
        )


def _kind(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{list(tensor.shape)} {str(tensor.dtype)[6:]} on {tensor.device}"
