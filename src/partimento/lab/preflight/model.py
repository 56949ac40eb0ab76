"""Checks of the untrained model: its shape, its size, its weights, its attention, what it says at first.

Weights that were trained elsewhere are as they are: what holds for random ones is not asked of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from partimento.config import MotConfig
from partimento.keyed import torch_generator
from partimento.lab.plan.advice import UNDERSIZED
from partimento.lab.preflight import backbone
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some, warned
from partimento.models import initialise
from partimento.models.attention import CrossAttention, SelfAttention, TextAttention
from partimento.models.conditions import Told
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.dia import TextModel
from partimento.models.mixture import MixtureDecoder
from partimento.models.text import TextConfig, TextEncoder
from partimento.training import devices
from partimento.training.objective import tell

LOSS_TOLERANCE = 0.05  # share of ln V by which the loss of random weights may be off
STD = 0.02
SIGMAS = 5.0  # of the standard error of a standard deviation
STD_TOLERANCE = 0.02  # share of it that a deviation may be off beside
SPREAD_FACTOR = 2.0
QUERIES = 64  # the last rows, whose scores are looked at
NARROW = 1 / 16  # keys and values as a share of the width


def shape_sound(bench: Bench) -> Check:
    """No part of a block is so narrow that it holds back the rest."""
    decoder = bench.decoder
    if decoder is None:
        return skipped("shape", "looked for in decoders")
    if isinstance(decoder, MixtureDecoder):
        return passed("shape", backbone.shape_told(decoder))
    shape = decoder.config
    narrow = [] if bench.weights else list(_bottlenecks(shape, ""))
    text = _text_config(bench)
    if text is not None and not bench.weights:
        narrow += _bottlenecks(text, "text_")
    if narrow:
        return warned("shape", "; ".join(what for what, _ in narrow), "; ".join(help_ for _, help_ in narrow))
    heads = f"{shape.heads} heads of {shape.head}"
    reads = f"; text {text.width}, {text.layers} layers" if text is not None else ""
    found = f"width {shape.width}, {heads}, feedforward {shape.feedforward}, {shape.layers} layers{reads}"
    return passed("shape", found + (f"; the shape of {bench.weights}" if bench.weights else ""))


def _text_config(bench: Bench) -> TextConfig | None:
    module = bench.task.module
    text = isinstance(module, TextModel) and isinstance(module.encoder, TextEncoder)
    return module.encoder.config if text else None  # type: ignore[union-attr,return-value]


def _bottlenecks(shape: DecoderConfig | TextConfig, section: str) -> Iterator[tuple[str, str]]:
    """(what, what helps); `section` begins the names of its keys in [model]."""
    whose = "the text encoder" if section else "the model"
    attentions = [("", shape.heads, shape.kv_heads, shape.head)]
    if isinstance(shape, DecoderConfig) and shape.cross_width is not None:
        cross = shape.cross_heads or shape.heads, shape.cross_kv_heads, shape.cross_head_width or shape.head
        if (cross[0], cross[2]) != (shape.heads, shape.head):
            attentions.append(("cross ", *cross))
    for kind, heads, groups, head in attentions:
        keys = (groups or heads) * head
        if heads * head < shape.width:
            wide = f"{heads} {kind}heads of {head} are {heads * head} wide, {whose} {shape.width}"
            yield wide, f"more model.{section}heads, or leave model.head_width away"
        if keys < NARROW * shape.width:
            yield f"{kind}keys and values are {keys} wide, {whose} {shape.width}", "more model.kv_heads"
    if (shape.feedforward or shape.width) < shape.width:
        help_ = f"model.{section}feedforward={4 * shape.width} (or leave it away)"
        yield f"the feedforward block is {shape.feedforward} wide, {whose} {shape.width}", help_


def capacity_fits(bench: Bench) -> Check:
    """The model is large enough for its data: undersized ones have good curves and poor sound."""
    task = bench.codes
    if task is None:
        return skipped("capacity", "known for models of codes")
    if bench.weights:
        return skipped("capacity", "the weights have learned other music before")
    if bench.mixture is not None:
        return skipped("capacity", "not asked of a model whose backbone was made, and trained, for other data")
    trainable = sum(weight.numel() for weight in task.module.parameters() if weight.requires_grad)
    codes = int(task.pack.clips.frames[task.train.clips].sum()) * task.pack.spec.codebooks
    share = codes / max(1, trainable)
    found = f"{codes:,} codes for {trainable:,} parameters: {share:.2g} for each"
    if share > UNDERSIZED:
        return warned("capacity", f"{found}, more than {UNDERSIZED:g}", "a larger model.width or model.layers")
    return passed("capacity", found)


def init_documented(bench: Bench) -> Check:
    """Every kind of weight has the spread that the initialisation of its family documents."""
    decoder = bench.decoder
    if decoder is None:
        return skipped("init", "known for decoders")
    if bench.weights:
        return skipped("init", f"the weights are those of {bench.weights}")
    module = bench.task.module
    if isinstance(decoder, MixtureDecoder):
        transplanted = isinstance(bench.config, MotConfig) and bench.config.model.experts_from is not None
        kinds = list(backbone.kinds(decoder, transplanted))
    else:
        kinds = list(_by_fan_in(module) if isinstance(module, TextModel) else _by_kind(decoder))
    wrong, worst = [], 0.0
    for name, expected, actual, count in kinds:
        if expected == 0:
            if actual > 0:
                wrong.append(f"{name} is not constant (off by {actual:.2g})")
            continue
        ratio = actual / expected
        worst = max(worst, abs(ratio - 1))
        if abs(ratio - 1) > STD_TOLERANCE + SIGMAS / math.sqrt(2 * count):
            wrong.append(f"{name} has std {actual:.2g}, {expected:.2g} expected")
    if wrong:
        remedy = "draw weights by the model's own initialisation, which knows which axis is the fan-in"
        return failed("init", some(wrong), remedy)
    return passed("init", f"{len(kinds)} kinds of weights, at most {100 * worst:.1f} % off their std")


def _by_fan_in(module: nn.Module) -> Iterator[tuple[str, float, float, int]]:
    """(name, expected std, actual, numbers) of every matrix, as `models.initialise` documents them."""
    for row in initialise.report(module):
        name = row["name"].partition("[")[0]
        owner, _, last = name.rpartition(".")
        weight = module.get_parameter(name)
        fused = len(getattr(module.get_submodule(owner), "parts", None) or (0,)) if last == "weight" else 1
        yield row["name"], row["expected"], row["actual"], weight.numel() // fused


def _by_kind(decoder: CodeDecoder) -> Iterator[tuple[str, float, float, int]]:
    """The same by kind, over all layers together, as `CodeDecoder` documents them."""
    kinds: dict[str, list[Tensor]] = {}
    for name, parameter in decoder.named_parameters():
        kind = ".".join(part for part in name.split(".") if not part.isdigit())
        kinds.setdefault(kind, []).append(parameter.detach())
    for kind, tensors in kinds.items():
        expected, mean = _expected(kind, decoder.config.layers)
        values = torch.cat([tensor.flatten() for tensor in tensors]).double()
        yield kind, expected, float((values - mean).square().mean().sqrt()), values.numel()


def _expected(kind: str, layers: int) -> tuple[float, float]:
    """(std, mean)."""
    if kind.endswith("bias"):
        return 0.0, 0.0
    if "norm" in kind:
        return 0.0, 1.0
    return (STD / math.sqrt(2 * layers) if kind.endswith(("out.weight", "down.weight")) else STD), 0.0


Attention = SelfAttention | TextAttention | CrossAttention


class _Scores(TorchFunctionMode):
    """Standard deviations of the scores of every attention that passes, in either of the forms that there are."""

    def __init__(self, layers: dict[str, Attention]) -> None:
        super().__init__()
        self.spreads: dict[str, float] = {}
        self._now = ""
        self._handles = [layer.register_forward_pre_hook(self._entering(name)) for name, layer in layers.items()]

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._now = name

        return hook

    def __exit__(self, *raised: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*raised)

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            self._note(args[0], args[1], kwargs.get("scale"), causal=kwargs.get("attn_mask") is None)
        elif function is torch.ops.partimento.causal_attention.default:
            self._note(args[0].transpose(1, 2), args[1].transpose(1, 2), args[3], causal=True)
        return function(*args, **kwargs)

    def _note(self, query_BHSE: Tensor, key_BGPE: Tensor, scale: float | None, causal: bool) -> None:
        """Of the last queries of the first item, with all keys (before them, where it is causal)."""
        heads, steps, width = query_BHSE.shape[1:]
        last = min(QUERIES, steps // 2) if causal else min(QUERIES, steps)
        query_HQE = query_BHSE[0, :, -last:].detach().float()
        keys_GPE = key_BGPE[0, :, : steps - last] if causal else key_BGPE[0]
        keys_HPE = keys_GPE.detach().float().repeat_interleave(heads // keys_GPE.shape[0], dim=0)
        self.spreads[self._now] = float((query_HQE @ keys_HPE.mT).std()) * (width**-0.5 if scale is None else scale)


def attention_spread(bench: Bench) -> Check:
    """Attention scores spread as they should before the first step; too wide, and the training explodes."""
    decoder = bench.decoder
    if decoder is None:
        return skipped("attention", "this family has none")
    if isinstance(decoder, MixtureDecoder):
        return skipped("attention", "not asked of a model whose attention is that of its backbone")
    layers = {name: part for name, part in bench.task.module.named_modules() if isinstance(part, Attention)}
    with torch.no_grad(), _Scores(layers) as scores:
        bench.task.module.eval()
        decoder(
            bench.batch_where(kept=True).grid_BSK[:, :-1].to(bench.device).long(), **_any_condition(bench).arguments()
        )
        bench.task.module.train()
    if scores.spreads.keys() != layers.keys():
        return skipped("attention", f"{len(scores.spreads)} of {len(layers)} attentions could be looked into")
    ratios = {name: spread / _unit_spread(layers[name]) for name, spread in scores.spreads.items()}
    low, high = min(scores.spreads.values()), max(scores.spreads.values())
    found = f"std of the scores {low:.2g} to {high:.2g}"
    if bench.weights:
        return passed("attention", f"{found}; the scale is that of {bench.weights}")
    worst = max(ratios, key=lambda name: abs(math.log(ratios[name])))
    found += f", {ratios[worst]:.2f} times what is expected in {worst}"
    if not 1 / SPREAD_FACTOR <= ratios[worst] <= SPREAD_FACTOR:
        usual = 1 / math.sqrt(decoder.config.head)
        given = decoder.config.attention_scale
        scale = f"; the scale is {given:g}, 1/sqrt(head width) is {usual:.3g}" if given is not None else ""
        return failed("attention", found + scale, "leave model.attention_scale away, unless the weights come with it")
    return passed("attention", found)


def _any_condition(bench: Bench) -> Told:
    """Of a text encoder that reads bytes, a text of its full length: short texts say little of its attention."""
    task = bench.codes
    assert task is not None
    batch = bench.batch_where(kept=True)
    condition, keep_B = task.condition(batch)
    config = _text_config(bench)
    if config is not None:
        generator = torch_generator("preflight", "text")
        text_BM = torch.randint(config.vocabulary, (len(keep_B), config.length), generator=generator)
        condition, keep_B = [text_BM, torch.ones_like(text_BM, dtype=torch.bool)], torch.ones_like(keep_B)
    return tell(task.module, [tensor.to(bench.device) for tensor in condition], keep_B.to(bench.device))


def _unit_spread(layer: Attention) -> float:
    """The spread with the scale 1 / sqrt(E): 1 for normalized heads, else what the matrices make of unit inputs."""
    if isinstance(layer, CrossAttention):
        keys = layer.key_value.weight.detach()[: layer.kv_heads * layer.head_width]
        return _gain(layer.query.weight.detach()) * _gain(keys)
    if layer.query_norm is not None:
        return 1.0
    return _gain(layer.qkv.weight.detach()[: (layer.heads + layer.kv_heads) * layer.head_width]) ** 2


def _gain(weight_OI: Tensor) -> float:
    """Deviation of what a matrix makes of numbers of deviation 1."""
    return math.sqrt(float(weight_OI.square().mean()) * weight_OI.shape[1])


def initial_loss(bench: Bench) -> Check:
    """Before the first step all codes should be about equally likely (the loss is ln V); trained weights know more."""
    decoder = bench.decoder
    if decoder is None:
        return skipped("initial loss", "there is no closed form for this family")
    bench.task.objective.eval()  # the plain cross entropy
    with torch.no_grad(), devices.autocast(bench.device, bench.config.train.precision):
        _, sums = bench.task.objective(*bench.task.inputs(bench.task.batch(0, 0)))
    bench.task.objective.train()
    # Of codes alone: a model may learn words of sound beside.
    loss = float((sums["ce_K"].sum() + sums["eos"]) / (sums["count_K"].sum() + sums["eos_count"]))
    outputs = decoder.config.outputs
    expected = math.log(outputs)
    found = f"{loss:.3f} nats, ln {outputs} = {expected:.3f}"
    if loss <= expected * (1 + LOSS_TOLERANCE) and (bench.weights or loss >= expected * (1 - LOSS_TOLERANCE)):
        return passed("initial loss", found)
    if bench.weights:
        remedy = "these weights do not know these codes: another codec, pattern or generation (weights inspect FOLDER)"
        return failed("initial loss", found, remedy)
    return failed("initial loss", found, "the initial weights are too large: look at the head, model.norm and the data")
