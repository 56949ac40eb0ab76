"""How a frame becomes fast: what predicts the next row on a CPU, and the whole frame as one recording on a GPU.

On a CPU the decoder is one call of C++ (`models.native`), for any shapes, and guidance, rules and draw run as written:
they are 50 of 700 microseconds for one item. On a GPU everything between two rows (sum of embeddings, decoder, heads,
guidance, rules, draw of K codes, writing) is compiled by torch and recorded as a CUDA graph, so that a frame is one
launch; nothing waits for the device but the looks (`looks`), one every 16 frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from partimento.errors import PartimentoError
from partimento.models.conditions import Told
from partimento.models.decoder import CodeDecoder
from partimento.models.linear import Linear
from partimento.models.mixture_decoder import MixtureDecoder
from partimento.models.quantized import Weights
from partimento.sampling.static import StaticSteps

Decoder = CodeDecoder | MixtureDecoder
"""What is played: rows of a grid in, logits of the next row out."""

# Frames played before one is recorded: compiling, choosing kernels and making workspaces must have happened.
_WARM_UP = 3
# Programs of different shapes (batches, lengths, rules) in one process, before torch refuses to make another.
_SHAPES = 256


class Rows(Protocol):
    """A decoder with its cache: appends rows_BSK, and gives the logits_BKV of `books` of the row after them."""

    def __call__(self, rows_BSK: Tensor, books: slice) -> Tensor: ...

    def reset(self) -> None: ...


class EagerRows:
    """Operator by operator, with a cache that gives attention its filled part only."""

    def __init__(self, decoder: Decoder, items: int, positions: int, told: Told) -> None:
        self.decoder, self.told = decoder, told.arguments()
        self.cache = decoder.make_cache(items, positions, static=False)

    def __call__(self, rows_BSK: Tensor, books: slice) -> Tensor:
        logits_BSKV: Tensor = self.decoder(rows_BSK, cache=self.cache, last=True, **self.told)
        return logits_BSKV[:, -1, books]

    def reset(self) -> None:
        self.cache.reset()


def make_rows(decoder: Decoder, items: int, positions: int, told: Told, *, compile: bool, weights: Weights) -> Rows:
    """Raises SAMPLE020 when compiling is asked for and there is no C++ compiler."""
    if not compile:
        return EagerRows(decoder, items, positions, told)
    # Imported here: it takes a second, and only this way of playing needs torch's compiler.
    from partimento.models.native.mixture import NativeMixture
    from partimento.models.native.program import NativeDecoder

    errors: Any = __import__("torch._inductor.exc", fromlist=["InvalidCxxCompiler"])
    try:
        if isinstance(decoder, MixtureDecoder):
            return NativeMixture(decoder, items, positions, told, weights)
        return NativeDecoder(decoder, items, positions, told, weights)
    except (errors.InvalidCxxCompiler, errors.CppCompileError) as err:
        raise PartimentoError(
            "SAMPLE020",
            "the steps cannot be compiled on this CPU",
            why="there is no C++ compiler"
            if isinstance(err, errors.InvalidCxxCompiler)
            else f"the C++ compiler fails: {str(err).strip().splitlines()[-1]}",
            next="install g++ (or clang), or play with compile=False",
        ) from err


def played(decoder: Decoder) -> nn.Module:
    """The layers that rows of the grid pass: of a mixture neither the Llama's head nor blocks that only text passes."""
    if isinstance(decoder, MixtureDecoder):
        pairs = zip(decoder.llama.blocks, decoder.experts, strict=True)
        blocks = [expert.source(block) for block, expert in pairs]  # type: ignore[operator]
        return nn.ModuleList([*blocks, decoder.experts, decoder.head])
    return decoder


def check_compile(decoder: Decoder, compile: bool, weights: Weights) -> None:
    """Raises SAMPLE021 (this device or model cannot be compiled), SAMPLE022 (narrow weights and not compiled)."""
    if weights != "full" and not compile:
        raise PartimentoError(
            "SAMPLE022",
            f"weights={weights} need compiled steps",
            why="only those read narrow weights as they are; operator by operator they would be widened at every step",
            next="play with compile=True, or with weights=full",
        )
    if not compile:
        return
    weight = decoder.embedding
    others = [name for name, part in decoder.named_modules() if isinstance(part, Linear) and type(part) is not Linear]
    why = None
    if weight.device.type not in ("cpu", "cuda"):
        why = f"steps are compiled for CPUs and NVIDIA GPUs, and the model is on {weight.device.type}"
    elif weight.device.type == "cpu" and weight.dtype != torch.float32:
        why = f"on a CPU the model must be in float32, and is in {str(weight.dtype).removeprefix('torch.')}"
    elif others:
        why = f"{others[0]} is no plain matrix: adapters must be merged first"
    if why is not None:
        raise PartimentoError(
            "SAMPLE021",
            "the steps of this model cannot be compiled",
            why=why,
            next="play with compile=False, or move, convert or merge the model",
        )


def _step(steps: StaticSteps) -> None:
    steps.step()


class CompiledSteps:
    """`steps.step` through torch's compiler, and on a GPU recorded as a CUDA graph: called once for each row.

    The first rows are the warm-up and are played like all others. One program for each set of shapes and rules, shared
    by all playings of a process. Raises SAMPLE023 when it cannot be recorded.
    """

    def __init__(self, steps: StaticSteps) -> None:
        self.steps, self.device = steps, steps.step_1.device
        self.graph: torch.cuda.CUDAGraph | None = None
        self._played = 0
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def __call__(self) -> None:
        if self._stream is None:
            self._compiled()
        elif self.graph is not None:
            self.graph.replay()
        elif self._played < _WARM_UP:
            self._aside(self._compiled)
        else:
            self.graph = self._record(self._stream)
            self.graph.replay()
        self._played += 1

    def _compiled(self) -> None:
        dynamo: Any = torch._dynamo
        with dynamo.config.patch(recompile_limit=_SHAPES):
            _compiled_step(self.steps)

    def _aside(self, run: Callable[[], None]) -> None:
        """On the stream that will be recorded, as if on the current one."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            run()
        torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def _record(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._compiled()
        except RuntimeError as err:
            first = err.__context__ or err  # ending a recording that broke raises once more
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None
            raise PartimentoError(
                "SAMPLE023",
                "the frame cannot be recorded as a CUDA graph",
                why=str(first).splitlines()[0],
                next="play with compile=False",
            ) from err
        return graph


_compiled_step: Callable[[StaticSteps], None] = torch.compile(_step, fullgraph=True, dynamic=False)
