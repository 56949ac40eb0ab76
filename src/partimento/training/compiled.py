"""Faster or smaller blocks: compiled, or with activations that are computed again; and a rehearsal of the largest step.

Both change what `forward` of a block does and nothing else: modules, parameters and names of the state stay, so that a
checkpoint does not tell how it was trained. Only training passes (train mode, with gradients) take the changed way:
validation and demos, with their other shapes, run as written and compile nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._inductor.runtime import cache_dir_utils
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from partimento import commit
from partimento.errors import PartimentoError
from partimento.training import devices

if TYPE_CHECKING:
    from partimento.config import Train

Forward = Callable[..., Any]

# What `selective` keeps: results of matrix products and attention, which cost the most to make again.
_KEPT = (
    "aten.mm.default",
    "aten.addmm.default",
    "aten.bmm.default",
    "aten.convolution.default",
    "aten._scaled_dot_product_flash_attention.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_efficient_attention.default",
    "aten._scaled_dot_product_cudnn_attention.default",
    "mkldnn._linear_pointwise.default",
    "partimento.onednn_product.default",  # models/linear.py and models/causal.py, on a CPU
    "partimento.causal_attention.default",
)


# Of one code. A stage of the curriculum takes one; of a mixture that learns both ways up to five: its rows stand behind
# texts of two lengths, and the first block of a frozen Llama reads what has no gradient. Torch's own limit is 8.
_GRAPHS = 64


def prepare(module: nn.Module, train: Train, device: torch.device) -> bool:
    """Change the blocks of `module` in place as `train.recompute` and `train.compile` say; whether it is compiled.

    See `blocks` for which they are. Compiled one by one they share their code (one graph for all that are alike),
    compile fast and leave the rest of the step to itself; `fullgraph` and `dynamic=False` make an unforeseen shape a
    new graph, which `speed.Recompiles` counts, never a silent fall back. Texts are of one length always (`TextCoder`
    pads them to it), so that no batch is of a shape of its own. A text that a frozen Llama reads has no gradient, and
    passes its blocks as written. To be called before the module is wrapped for several devices.
    Raises TRAIN041 (compiling asked for without a C++ compiler).
    """
    compiling = device.type in ("cuda", "tpu") if train.compile is None else train.compile
    if compiling:
        _prepare_compiler(device)
    for block in blocks(module):
        forward: Forward = type(block).forward
        changed = _recomputed(forward, train)
        if compiling:
            changed = torch.compile(changed, fullgraph=True, dynamic=False, recompile_limit=_GRAPHS)  # type: ignore[call-overload]
        if changed is not forward:
            # A bound method, so that a copy of the block is bound to itself.
            block.forward = types.MethodType(_in_training(changed, forward), block)
    return compiling


def blocks(module: nn.Module) -> list[nn.Module]:
    """The members of every ModuleList that is called `blocks`, or `experts`, in order. Those of a mixture's Llama are
    the blocks of text, its experts those of audio (`models.experts`)."""
    return [
        block
        for name, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and name.rpartition(".")[2] in ("blocks", "experts")
        for block in part
    ]


def _in_training(changed: Forward, forward: Forward) -> Forward:
    def choose(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        chosen = changed if block.training and torch.is_grad_enabled() else forward
        return chosen(block, *args, **kwargs)

    return choose


def _recomputed(forward: Forward, train: Train) -> Forward:
    """`forward` that keeps less for its backward pass; the dropout of both passes is the same."""
    if train.recompute == "none":
        return forward
    # The dropout stream's state cannot be read while a CUDA graph is recorded; `graphs.check` refuses dropout then.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": not train.cuda_graphs}
    if train.recompute == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _kept_operators())

    def twice(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, block, *args, **options, **kwargs)

    return twice


def _kept_operators() -> list[Any]:
    """The operators of `_KEPT` that this build of torch has."""
    found = []
    for name in _KEPT:
        space, packet, overload = name.split(".")
        with contextlib.suppress(AttributeError):
            found.append(getattr(getattr(getattr(torch.ops, space), packet), overload))
    return found


def draws(module: nn.Module) -> bool:
    """Whether a training pass of `module` drops anything at random."""
    rates = (part.p if isinstance(part, nn.Dropout) else getattr(part, "dropout", 0) for part in module.modules())
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)


def cache_folder() -> Path:
    """Where compiled kernels are kept between starts: $TORCHINDUCTOR_CACHE_DIR, or below the user's cache.

    Never a folder that others can write to: what lies in it is executed.
    """
    # Importing the compiler sets the variable itself, to a folder below the system's temporary one.
    named, theirs = os.environ.get("TORCHINDUCTOR_CACHE_DIR"), cache_dir_utils.default_cache_dir()
    if named and named != theirs:
        return Path(named)
    return commit.cache_home() / "compiled" / f"torch-{torch.__version__}"


def use_cache() -> None:
    """Point torch's compiler to the cache, before it is first used."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _prepare_compiler(device: torch.device) -> None:
    """Point the compiler to the cache; TRAIN041 where it has no C++ compiler to work with."""
    use_cache()
    if device.type != "cpu":
        return
    cpp_builder: Any = __import__("torch._inductor.cpp_builder", fromlist=["get_cpp_compiler"])
    errors: Any = __import__("torch._inductor.exc", fromlist=["InvalidCxxCompiler"])
    try:
        cpp_builder.get_cpp_compiler()
    except errors.InvalidCxxCompiler as err:
        raise PartimentoError(
            "TRAIN041",
            "the blocks cannot be compiled: there is no C++ compiler",
            why="torch.compile makes C++ for a CPU",
            next="install g++, or set train.compile=false",
        ) from err


def dry_run(
    module: nn.Module,
    forward_backward: Callable[[tuple[Tensor | None, ...]], object],
    largest: Mapping[str, tuple[Tensor | None, ...]],
    device: torch.device,
    reserve: int = 0,
) -> dict[str, int]:
    """One forward and backward pass for each of `largest` (inputs by name, e.g. of every stage), without a trace.

    Compiles and records what there is to, and meets the peak of memory before step 1. Gradients are zero afterwards;
    buffers, the random streams and what modules note in training are as before. `reserve` bytes of the device are taken
    meanwhile: what will be there in the training and is not yet. Returns `devices.memory` after it.

    Raises TRAIN040 when the device has not enough memory, with the remedies.
    """
    with _without_trace(module, device):
        for stage, inputs in largest.items():
            devices.reset_peak(device)
            try:
                held = torch.empty(reserve, dtype=torch.uint8, device=device)
                forward_backward(inputs)
                devices.synchronise(device)
                del held
            except (torch.OutOfMemoryError, RuntimeError) as err:
                if not _is_memory(err):
                    raise
                raise _too_large(stage, inputs, device, reserve, err) from err
            finally:
                # In place: a recorded graph knows their addresses.
                for gradient in (parameter.grad for parameter in module.parameters()):
                    if gradient is not None:
                        gradient.zero_()
    return devices.memory(device)


@contextlib.contextmanager
def _without_trace(module: nn.Module, device: torch.device) -> Iterator[None]:
    parts = list(module.modules())
    notes = [dict(vars(part)) for part in parts]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    forked = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked, device_type="cuda"):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for part, noted in zip(parts, notes, strict=True):
                vars(part).clear()
                vars(part).update(noted)


def _is_memory(err: RuntimeError) -> bool:
    """CUDA has an error of its own for it; the allocators of the CPU and of MPS only say so."""
    text = str(err).lower()
    return isinstance(err, torch.OutOfMemoryError) or "can't allocate memory" in text or "out of memory" in text


def _too_large(
    stage: str, inputs: Sequence[Tensor | None], device: torch.device, reserve: int, err: RuntimeError
) -> PartimentoError:
    shape = list(next(tensor.shape for tensor in inputs if tensor is not None))
    peak = devices.memory(device).get("peak_bytes", 0)
    reached = f"{peak / 2**30:.1f} GiB were in use ({reserve / 2**30:.1f} of them kept free)"
    return PartimentoError(
        "TRAIN040",
        f"the largest step ({stage}, a micro-batch of {shape}) does not fit the memory of {devices.name(device)}",
        why=f"{reached} when the device had no more: {str(err).splitlines()[0]}",
        next="halve optim.batch and double optim.accumulate (the same step), or set train.recompute=full",
        peak_bytes=peak,
        reserve_bytes=reserve,
    )
