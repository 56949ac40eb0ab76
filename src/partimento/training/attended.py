"""Whether keys and values take part in what is learned: looked at where attention is called.

A layer that reads its keys and values out of something detached (a cache, most often) trains on its queries alone. The
loss still falls, every weight may still have a gradient by other ways, and no number says that half of attention does
not learn. What says it is the call itself: queries with a gradient, keys or values without one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from partimento.models.attention import CrossAttention

QUERIES = ("query", "qkv")  # names of the projections to queries
LOOKED_AT = (functional.scaled_dot_product_attention, torch.ops.partimento.causal_attention.default)
Call: TypeAlias = tuple[str, nn.Module, bool]  # (name, module, whether its input has a gradient)


@dataclass
class Attended:
    """`calls` of self attention that were seen where gradients are kept (not those that a backward pass makes again),
    and the modules whose keys or values are `cut` off: {name: "keys", "values" or "keys and values"}."""

    calls: int = 0
    cut: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def attended(module: nn.Module) -> Iterator[Attended]:
    """Look at every self attention of `module` while it runs.

    Where the input of a layer has a gradient, so have its keys and values, whatever is frozen. The input is that of the
    last projection to queries, if there was one since the attention before, or of the module around. Cross attention
    is left out, whose keys and values may come from a frozen encoder by frozen matrices.
    """
    found = Attended()
    inside: list[Call] = []
    asked: list[Call] = []
    handles = []
    for name, part in module.named_modules():
        owner, _, last = name.rpartition(".")
        if last in QUERIES:
            place = owner, module.get_submodule(owner)
            handles.append(part.register_forward_pre_hook(_entering(*place, asked), with_kwargs=True))
        elif next(part.children(), None) is not None and not isinstance(part, nn.ModuleList):
            handles.append(part.register_forward_pre_hook(_entering(name, part, inside), with_kwargs=True))
            handles.append(part.register_forward_hook(_leaving(inside), always_call=True))
    try:
        with _Calls(found, inside, asked):
            yield found
    finally:
        for handle in handles:
            handle.remove()


def _entering(name: str, owner: nn.Module, calls: list[Call]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        calls.append((name, owner, any(value.requires_grad for value in given)))

    return hook


def _leaving(inside: list[Call]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        while inside and inside.pop()[1] is not module:  # what was left by an exception (of recomputing, e.g.)
            pass

    return hook


class _Calls(TorchFunctionMode):
    def __init__(self, found: Attended, inside: list[Call], asked: list[Call]) -> None:
        super().__init__()
        self.found, self.inside, self.asked = found, inside, asked

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in LOOKED_AT:
            self._look(*(args[:3] if len(args) > 2 else (kwargs["query"], kwargs["key"], kwargs["value"])))
        return function(*args, **kwargs)

    def _look(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        name, module, learning = (*self.inside, *self.asked)[-1] if self.inside or self.asked else ("", None, True)
        self.asked.clear()
        again = torch._C._current_graph_task_id() != -1  # in a backward pass, for activations that were not kept
        if again or not torch.is_grad_enabled() or isinstance(module, CrossAttention):
            return
        self.found.calls += 1
        if not (learning and query.requires_grad):
            return
        without = [what for what, tensor in (("keys", key), ("values", value)) if not tensor.requires_grad]
        if without:
            self.found.cut[name] = " and ".join(without)
