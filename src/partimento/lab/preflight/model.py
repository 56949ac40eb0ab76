"""Checks of the untrained model: its shape, its weights, its attention, what it sees and what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some, warned
from partimento.models.attention import SelfAttention
from partimento.models.decoder import CodeDecoder, DecoderConfig

LOSS_TOLERANCE = 0.05  # share of ln V by which the loss of random weights may be off
STD = 0.02
SIGMAS = 5.0  # of the standard error of a standard deviation
STD_TOLERANCE = 0.02  # share of it that a deviation may be off beside
SPREAD_FACTOR = 2.0
QUERIES = 64  # the last rows, whose scores are looked at
NARROW = 1 / 16  # keys and values as a share of the width
LEAK = 1e-4  # of the largest logit: other shapes may round differently, a leak is far above it
MOVED = 1e-7  # of the largest logit: what a perturbed row must change at least


def decoder_of(bench: Bench) -> CodeDecoder | None:
    module = bench.task.module
    return module if isinstance(module, CodeDecoder) else None


def shape_sound(bench: Bench) -> Check:
    """No part of a block is so narrow that it holds back the rest."""
    decoder = decoder_of(bench)
    if decoder is None:
        return skipped("shape", "looked for in decoders")
    shape = decoder.config
    narrow = list(_bottlenecks(shape))
    if narrow:
        return warned("shape", "; ".join(what for what, _ in narrow), "; ".join(help_ for _, help_ in narrow))
    heads = f"{shape.heads} heads of {shape.head}"
    return passed("shape", f"width {shape.width}, {heads}, feedforward {shape.feedforward}, {shape.layers} layers")


def _bottlenecks(shape: DecoderConfig) -> list[tuple[str, str]]:
    found = []
    queries, keys = shape.heads * shape.head, (shape.kv_heads or shape.heads) * shape.head
    if queries < shape.width:
        found.append((f"{shape.heads} heads of {shape.head} are {queries} wide, the model {shape.width}", "more heads"))
    if keys < NARROW * shape.width:
        found.append((f"keys and values are {keys} wide, the model {shape.width}", "more model.kv_heads"))
    if (shape.feedforward or shape.width) < shape.width:
        help_ = f"model.feedforward={4 * shape.width} (or leave it away)"
        found.append((f"the feedforward block is {shape.feedforward} wide, the model {shape.width}", help_))
    return found


def init_documented(bench: Bench) -> Check:
    """Every kind of weight has the spread that the decoder's initialisation documents."""
    decoder = decoder_of(bench)
    if decoder is None:
        return skipped("init", "known for decoders")
    kinds: dict[str, list[Tensor]] = {}
    for name, parameter in decoder.named_parameters():
        kinds.setdefault(".".join(part for part in name.split(".") if not part.isdigit()), []).append(
            parameter.detach()
        )
    wrong, worst = [], 0.0
    for kind, tensors in kinds.items():
        expected, mean = _expected(kind, decoder.config.layers)
        values = torch.cat([tensor.flatten() for tensor in tensors]).double()
        if expected == 0:
            off = float((values - mean).abs().max())
            if off > 0:
                wrong.append(f"{kind} is not all {mean:g} (off by up to {off:.2g})")
            continue
        actual = float((values - mean).square().mean().sqrt())
        ratio = actual / expected
        worst = max(worst, abs(ratio - 1))
        if abs(ratio - 1) > STD_TOLERANCE + SIGMAS / math.sqrt(2 * values.numel()):
            wrong.append(f"{kind} has std {actual:.2g}, {expected:.2g} expected")
    if wrong:
        remedy = "draw weights by CodeDecoder.initialise, which knows which axis is the fan-in"
        return failed("init", some(wrong), remedy)
    return passed("init", f"{len(kinds)} kinds of weights, at most {100 * worst:.1f} % off their std")


def _expected(kind: str, layers: int) -> tuple[float, float]:
    """(std, mean) as `CodeDecoder` documents them."""
    if kind.endswith("bias"):
        return 0.0, 0.0
    if "norm" in kind:
        return 0.0, 1.0
    return (STD / math.sqrt(2 * layers) if kind.endswith(("out.weight", "down.weight")) else STD), 0.0


class _Scores(TorchFunctionMode):
    """Standard deviations of the scores of every self attention that passes, in either of the forms that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.spreads: list[float] = []

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            self._note(args[0], args[1], kwargs.get("scale"))
        elif function is torch.ops.partimento.causal_attention.default:
            self._note(args[0].transpose(1, 2), args[1].transpose(1, 2), args[3])
        return function(*args, **kwargs)

    def _note(self, query_BHSE: Tensor, key_BGSE: Tensor, scale: float | None) -> None:
        """Of the last queries of the first item with all keys before them."""
        heads, steps, width = query_BHSE.shape[1:]
        last = min(QUERIES, steps // 2)
        query_HQE = query_BHSE[0, :, -last:].detach().float()
        key_HPE = key_BGSE[0, :, : steps - last].detach().float().repeat_interleave(heads // key_BGSE.shape[1], dim=0)
        self.spreads.append(float((query_HQE @ key_HPE.mT).std()) * (width**-0.5 if scale is None else scale))


def attention_spread(bench: Bench) -> Check:
    """Attention scores spread as they should before the first step; too wide, and the training explodes."""
    decoder = decoder_of(bench)
    if decoder is None:
        return skipped("attention", "this family has none")
    layers = [part for part in decoder.modules() if isinstance(part, SelfAttention)]
    with torch.no_grad(), _Scores() as scores:
        bench.loss(bench.task.batch(0, 0))
    if len(scores.spreads) != len(layers):
        return skipped("attention", f"{len(scores.spreads)} of {len(layers)} attentions could be looked into")
    ratios = []
    for layer, spread in zip(layers, scores.spreads, strict=True):
        # Of normalized heads E products of size 1, over sqrt(E). Else what the matrices make of inputs of size 1.
        rows = layer.qkv.weight.detach()[: (layer.heads + layer.kv_heads) * layer.head_width]
        expected = 1.0 if layer.query_norm is not None else float(rows.square().mean()) * rows.shape[1]
        ratios.append(spread / expected)
    low, high = min(scores.spreads), max(scores.spreads)
    found = f"std of the scores {low:.2g} to {high:.2g}, {max(ratios):.2f} times what is expected at most"
    if max(ratios) > SPREAD_FACTOR or min(ratios) < 1 / SPREAD_FACTOR:
        usual = 1 / math.sqrt(decoder.config.head)
        given = decoder.config.attention_scale
        scale = f"; the scale is {given:g}, 1/sqrt(head width) is {usual:.3g}" if given is not None else ""
        return failed("attention", found + scale, "leave model.attention_scale away, unless the weights come with it")
    return passed("attention", found)


def initial_loss(bench: Bench) -> Check:
    """Before the first step all codes should be about equally likely: the loss is ln V."""
    decoder = decoder_of(bench)
    if decoder is None:
        return skipped("initial loss", "there is no closed form for this family")
    bench.task.objective.eval()  # the plain cross entropy
    with torch.no_grad():
        loss = float(bench.loss(bench.task.batch(0, 0)))
    bench.task.objective.train()
    outputs = decoder.config.outputs
    expected = math.log(outputs)
    found = f"{loss:.3f} nats, ln {outputs} = {expected:.3f}"
    if abs(loss / expected - 1) <= LOSS_TOLERANCE:
        return passed("initial loss", found)
    return failed("initial loss", found, "the initial weights are too large: look at the head, model.norm and the data")


def mask_is_causal(bench: Bench) -> Check:
    """What comes later in the grid must not change what is predicted earlier, not by one bit of its meaning."""
    decoder = decoder_of(bench)
    if decoder is None:
        return skipped("causality", "only a model that plays step by step must be causal")
    rows_BSK = _rows(bench)
    middle = rows_BSK.shape[1] // 2
    changed_BSK = rows_BSK.clone()
    changed_BSK[:, middle:] = (changed_BSK[:, middle:] + 1) % decoder.config.outputs
    before, after = (_logits(decoder, rows)[:, :middle] for rows in (rows_BSK, changed_BSK))
    difference = float((before - after).abs().max())
    found = f"earlier logits differ by {difference:.2g} when later rows change"
    if difference <= LEAK * float(before.abs().max()):
        return passed("causality", found)
    remedy = "the attention mask lets the future through: its loss is worth nothing; undo the change of the model"
    return failed("causality", found, remedy)


def field_reaches(bench: Bench) -> Check:
    """What was played long before moves what is predicted now: a row is changed, and the last logits must move."""
    decoder = decoder_of(bench)
    if decoder is None:
        return skipped("receptive field", "looked for in decoders")
    row_1SK = _rows(bench)[:1]
    last = row_1SK.shape[1] - 1
    back = sorted({min(2**power, last) for power in range(last.bit_length() + 1)})
    changed_BSK = row_1SK.repeat(len(back) + 1, 1, 1)
    for item, steps in enumerate(back, 1):
        changed_BSK[item, last - steps] = (changed_BSK[item, last - steps] + 1) % decoder.config.outputs
    logits_BKV = _logits(decoder, changed_BSK)[:, -1]
    moved_B = (logits_BKV[1:] - logits_BKV[:1]).abs().amax(dim=(1, 2)) / logits_BKV.abs().max()
    blind = [steps for steps, moved in zip(back, moved_B.tolist(), strict=True) if moved <= MOVED]
    if blind:
        remedy = "the model does not mix over time: look at its attention and positions"
        return failed("receptive field", f"rows {some([str(n) for n in blind])} steps back change nothing", remedy)
    return passed(
        "receptive field", f"rows up to {last} steps back move the last logits (by {moved_B.min():.1g} at least)"
    )


def _rows(bench: Bench) -> Tensor:
    """Inputs rows_BSK of a batch."""
    grid_BSK: Tensor = bench.task.batch(0, 0).grid_BSK
    return grid_BSK[:, :-1].to(bench.device).long()


def _logits(decoder: CodeDecoder, rows_BSK: Tensor) -> Tensor:
    """In eval mode, under the null condition."""
    condition_BD = None if decoder.condition is None else decoder.condition.null(len(rows_BSK))
    decoder.eval()
    with torch.no_grad():
        logits_BSKV = decoder(rows_BSK, condition_BD=condition_BD)
    decoder.train()
    return logits_BSKV
