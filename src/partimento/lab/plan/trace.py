"""What one training step keeps in memory and computes, read off the model itself on the meta device.

The objective runs with tensors that have shapes but no contents, so neither memory nor a device is needed, and a change
of the model changes the estimate. Two things are replaced by what a GPU does: attention keeps what FlashAttention keeps
(Dao et al. 2022: queries, keys, values, output, and one log-sum-exp a query and head) in place of the table of scores,
and under bf16 the inputs of matrix products are cast as autocast casts them. Where there is a mask, a GPU keeps it as
numbers too, and keys and values of every head (`models.llama.attend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from partimento.models.decoder import CodeDecoder
from partimento.models.mixture import MixtureDecoder
from partimento.training.built import Decoder
from partimento.training.compiled import blocks

_PRODUCTS = (functional.linear, functional.conv1d, torch.conv1d, torch.matmul, Tensor.matmul, Tensor.__matmul__)


@dataclass
class Kept:
    """Bytes that a forward pass over `items` items keeps for its backward pass.

    blocks     inside the repeated blocks, and block, the largest of them alone
    inputs     the inputs of the blocks: all that full recomputation keeps of them
    products   outputs of matrix products and attention inside the blocks: what selective recomputation keeps beside
    rest       outside the blocks: embedding, head, logits and loss
    largest    the largest tensor of all (the logits, mostly), whose gradient lies beside it once
    copies     weights in bfloat16 and the gradient of a fused head, whatever the number of items. Autocast keeps the
               copy of a weight that is trained; that of a frozen one stays where a gradient must pass it
    """

    items: float
    blocks: int = 0
    block: int = 0
    inputs: int = 0
    products: int = 0
    rest: int = 0
    largest: int = 0
    copies: int = 0

    def activations(self, recompute: str = "none") -> float:
        """Bytes an item at the highest point, the beginning of the backward pass."""
        blocks = {
            "none": self.blocks,
            "selective": min(self.blocks, self.inputs + self.products + self.block),
            "full": min(self.blocks, self.inputs + self.block),
        }[recompute]
        return (blocks + self.rest + self.largest) / self.items


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        batch, heads, steps, _ = query.shape
        mixed = query.new_zeros(batch, steps, heads, value.shape[3]).transpose(1, 2)
        sums = query.new_zeros((batch, heads, steps), dtype=torch.float32)
        if mask is None:
            ctx.save_for_backward(query, key, value, mixed, sums)
        else:
            repeat, numbers = heads // key.shape[1], query.new_zeros(mask.shape)
            kept = (x if repeat == 1 else x.repeat_interleave(repeat, dim=1) for x in (key, value))
            ctx.save_for_backward(query, *kept, mixed, sums, numbers)
        return mixed

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None, None, None]:
        raise RuntimeError("a trace has no backward pass")


@dataclass
class _Tracer(TorchFunctionMode):
    """Looks at every function of torch that the objective calls, and at every tensor that autograd keeps."""

    kept: Kept
    weights: set[int]
    frozen: dict[int, Tensor] = field(default_factory=dict)
    """casts of frozen weights that nothing keeps yet"""
    seen: dict[int, Tensor] = field(default_factory=dict)
    outside: list[int] = field(default_factory=list)
    per_block: dict[int, int] = field(default_factory=dict)
    block: int | None = None
    fused: Decoder | None = None
    """the decoder whose head and loss are one, as they are unless its logits were asked for"""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        attention = function is functional.scaled_dot_product_attention
        if attention:
            made = _Flash.apply(*args[:3], kwargs.get("attn_mask"))
        else:
            if function in _PRODUCTS and torch.is_autocast_enabled("cpu"):
                args = tuple(self._cast(value) for value in args)
            made = function(*args, **kwargs)
        if self.block is not None and torch.is_grad_enabled() and (attention or function in _PRODUCTS):
            self.kept.products += made.numel() * made.element_size()
        return made

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_meta or not value.is_floating_point():
            return value  # on a device, autocast does it
        cast = value.to(torch.bfloat16)
        if _storage(value) in self.weights and _storage(cast) not in self.weights:
            if value.requires_grad:
                self._copy(cast)
            else:
                self.frozen[_storage(cast)] = cast
        return cast

    def _copy(self, cast: Tensor) -> None:
        self.kept.copies += cast.numel() * cast.element_size()
        self.weights.add(_storage(cast))
        self.seen[_storage(cast)] = cast  # so that the storage lives, and its number stays its own

    def keep(self, tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage in self.weights or storage in self.seen:
            return tensor
        if storage in self.frozen:
            self._copy(self.frozen.pop(storage))
            return tensor
        self.seen[storage] = tensor
        size = tensor.untyped_storage().nbytes()
        if self.block is None:
            self.outside.append(size)
        else:
            self.per_block[self.block] = self.per_block.get(self.block, 0) + size
            self.kept.largest = max(self.kept.largest, size)
        return tensor


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def trace(
    objective: nn.Module,
    inputs: tuple[Tensor | None, ...],
    items: float,
    precision: str,
    *,
    beside: Sequence[nn.Module] = (),
    backward: bool = False,
) -> Kept:
    """What `objective(*inputs)`, in training, keeps for its backward pass. `items` is how many items the inputs hold
    (a part of one, where they are shorter).

    On the meta device nothing is computed; on a CPU it is, with the same answer. There the `backward` pass can be made,
    too, for who counts operations. `beside` are modules whose weights it uses that are not its own.
    """
    kept = Kept(items)
    state = [tensor for module in (objective, *beside) for tensor in (*module.parameters(), *module.buffers())]
    tracer = _Tracer(kept, {_storage(tensor) for tensor in state})
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    hooks = torch.autograd.graph.saved_tensors_hooks(tracer.keep, lambda tensor: tensor)
    with _watched(objective, tracer), hooks, tracer, autocast, torch.random.fork_rng(devices=[]):
        made = objective(*inputs)
    if backward:
        made[0].backward()
    if tracer.fused is not None and inputs[0] is not None and inputs[0].is_meta:
        _fuse_head(tracer, tracer.fused, inputs[0])
    kept.blocks = sum(tracer.per_block.values())
    kept.block = max(tracer.per_block.values(), default=0)
    kept.rest = sum(tracer.outside)
    kept.largest = max(kept.largest, *tracer.outside, 0)
    return kept


def _fuse_head(tracer: _Tracer, decoder: Decoder, grid_BSK: Tensor) -> None:
    """`models.loss.head_loss` never holds all logits where it runs, on a device; on the meta device it does.

    There it keeps the two gradients of the head instead, that of its input and, until it is added, that of its weight,
    beside the logits of one book at a time.
    """
    rows, shape = grid_BSK.shape[0] * (grid_BSK.shape[1] - 1), decoder.config
    logits = rows * shape.codebooks * shape.outputs
    width = decoder.head.in_features
    tracer.outside = [size for size in tracer.outside if size not in (2 * logits, 4 * logits)]
    tracer.outside += [4 * rows * width, 4 * rows * shape.outputs]
    tracer.kept.copies += 4 * decoder.head.out_features * width  # made for a frozen head too


@contextmanager
def _watched(objective: nn.Module, tracer: _Tracer) -> Iterator[None]:
    def enter(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            tracer.block = number
            first = next(value for value in args if isinstance(value, Tensor))
            if torch.is_grad_enabled():
                tracer.kept.inputs += first.numel() * first.element_size()

        return hook

    def leave(module: nn.Module, args: Any, made: Any) -> None:
        tracer.block = None

    def unfuse(module: nn.Module, args: Any) -> None:
        tracer.fused = None

    handles = []
    for part in objective.modules():
        if isinstance(part, CodeDecoder | MixtureDecoder):
            tracer.fused = part
            handles.append(part.register_forward_pre_hook(unfuse))
    for number, block in enumerate(blocks(objective)):
        handles += [block.register_forward_pre_hook(enter(number)), block.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
