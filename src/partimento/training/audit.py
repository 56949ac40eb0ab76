"""Which types a training computes in and which it keeps: looked at before step 1, because a wrong one shows late.

What is learned is kept in float32: weights that are trained, their gradients, moments and averages. bfloat16 has 8 bits
of mantissa, so an update below 1/256 of a weight is lost, and a moment with decay 0.999 never moves. Products may run
in less, and `products` tells in what they did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from partimento.errors import PartimentoError


@dataclass(frozen=True)
class Kept:
    """One tensor of the state: `role` is parameter, frozen, buffer, gradient, moment or average."""

    name: str
    role: str
    dtype: torch.dtype

    @property
    def allowed(self) -> bool:
        """float32 for all that is learned or summed; frozen weights, and what is no floating-point number, are free."""
        return self.role == "frozen" or not self.dtype.is_floating_point or self.dtype in (torch.float32, torch.float64)


def kept(module: nn.Module, moments: Mapping[str, Tensor], averages: Mapping[str, Tensor]) -> list[Kept]:
    """Every tensor that a training of `module` keeps; moments and averages by name, those that there are."""
    rows = []
    for name, parameter in module.named_parameters():
        rows.append(Kept(name, "parameter" if parameter.requires_grad else "frozen", parameter.dtype))
        if parameter.grad is not None:
            rows.append(Kept(name, "gradient", parameter.grad.dtype))
    rows += [Kept(name, "buffer", buffer.dtype) for name, buffer in module.named_buffers()]
    rows += [Kept(name, "moment", moment.dtype) for name, moment in moments.items()]
    frozen = {row.name for row in rows if row.role == "frozen"}
    rows += [Kept(name, "average", value.dtype) for name, value in averages.items() if name not in frozen]
    return rows


def check(rows: Iterable[Kept]) -> dict[str, int]:
    """{"ROLE TYPE": how many}, for the events. Raises TRAIN045, with the names, where the rule is broken."""
    rows = list(rows)
    wrong = [row for row in rows if not row.allowed]
    if wrong:
        first = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise PartimentoError(
            "TRAIN045",
            f"the {first.role} of {first.name} is {_short(first.dtype)}{more}; a training keeps float32",
            where=", ".join(f"{row.role} {row.name}" for row in wrong[:5]),
            why="an update that is smaller than the rounding is lost, step after step",
            next="leave weights and moments in float32; train.precision=bf16 makes the products fast",
            names=[row.name for row in wrong],
        )
    return dict(sorted(Counter(f"{row.role} {_short(row.dtype)}" for row in rows).items()))


_PRODUCTS = {
    "mm": "product",
    "addmm": "product",
    "bmm": "product",
    "baddbmm": "product",
    "onednn_product": "product",  # models/linear.py, models/causal.py
    "causal_attention": "attention",
    "causal_attention_backward": "attention",
    "convolution": "convolution",
    "convolution_backward": "convolution",
}


def products(forward_backward: Callable[[], object]) -> dict[str, int]:
    """{"product bfloat16": 84, "attention bfloat16": 12, ...}: how many products of a pass ran on which factors.

    A pass under autocast that shows float32 products has a layer that autocast does not reach. Compiled blocks run as
    they are written for this pass (their operators would not be seen). Gradients are added to, as in any pass.
    """
    counts: Counter[str] = Counter()
    with torch.compiler.set_stance("force_eager"), _Count(counts):
        forward_backward()
    return dict(sorted(counts.items()))


class _Count(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        kind = "attention" if name.startswith("_scaled_dot_product") else _PRODUCTS.get(name)
        if kind is not None:
            # addmm and baddbmm begin with what is added; the factors come last.
            factor = args[1] if name in ("addmm", "baddbmm") else args[0]
            self.counts[f"{kind} {_short(factor.dtype)}"] += 1
        return func(*args, **(kwargs or {}))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
