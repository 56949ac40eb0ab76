"""Random weights by declared fan-in, for the networks of a TextModel, and a report of what was drawn.

The fan-in of a matrix is the width of what it reads, whatever other matrices lie in the same tensor: a general
initialiser that takes a fused kernel for a convolution is off by 8 to 40 times.

linear     N(0, 0.5 / sqrt(fan-in)): behind a norm, outputs of deviation 0.5. With the scale 1 / sqrt(head width)
           attention scores then have a deviation of 0.25, or of 1 with QK norm, and never more; with published Dia's
           scale of 1.0 they have sqrt(head width) times as much, and a training from scratch explodes.
writer     what writes into the residual stream (attention out, cross out, feedforward down):
           N(0, 0.1 / sqrt(fan-in) / sqrt(2 * layers)), so that a block begins as almost the identity at any depth
embedding  N(0, 0.05 / sqrt(K)) where the rows of K codebooks are summed: inputs of deviation 0.05
head       N(0, 0.2 / sqrt(fan-in)): logits of deviation 0.2, a loss of ln(outputs) + 0.02
gain, bias 1 and 0

The factors are small because Adam's steps do not know how large a weight is: at one rate, small weights are learned
sooner. (Width 128, 4 layers, 200 steps at a rate of 1e-3: a loss of 1.03 nats; with all factors 1 but 0.1 for the head
1.25 or more; at 3e-3 there is no difference.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.linear import Linear
from partimento.models.text import TextConfig, TextEncoder

_FACTORS = {"linear": 0.5, "writer": 0.1, "head": 0.2}
_EMBEDDED = 0.05  # deviation of what enters the first block


@dataclass(frozen=True)
class _Rule:
    """One matrix, table or vector (a view into its parameter), and the normal distribution that it is drawn from."""

    name: str
    kind: str
    values: Tensor
    fan_in: int
    std: float
    mean: float = 0.0


@torch.no_grad()
def by_fan_in(module: nn.Module) -> None:
    """Draws all weights of the text encoder and the code decoder in `module` from torch's default generator.

    An encoder that is neither (T5) keeps its own.
    """
    for rule in _rules(module):
        if rule.std:
            rule.values.normal_(rule.mean, rule.std)
        else:
            rule.values.fill_(rule.mean)


@torch.no_grad()
def report(module: nn.Module) -> list[dict[str, Any]]:
    """Rows {"name", "kind", "fan_in", "entries" (how many), "expected" (std), "actual" (root mean square about the
    expected mean), "ratio"}.

    One for each matrix: those that are fused in a tensor have one each ("....qkv.weight[0]" are the queries). Where the
    expected deviation is 0 (gains, biases) the ratio is 1 if the actual one is 0 too, else infinite.
    """
    rows = []
    for rule in _rules(module):
        actual = float((rule.values.double() - rule.mean).square().mean().sqrt())
        ratio = actual / rule.std if rule.std else 1.0 if actual == 0 else math.inf
        rows.append(
            {
                "name": rule.name,
                "kind": rule.kind,
                "fan_in": rule.fan_in,
                "entries": rule.values.numel(),
                "expected": rule.std,
                "actual": actual,
                "ratio": ratio,
            }
        )
    return rows


def notes(config: DecoderConfig | TextConfig) -> list[str]:
    """What is unusual about a shape, in words: heads that are narrower or wider together than the model, and a scale
    that is made for other weights. For a training from scratch; published weights may be as they are."""
    attentions = [("", config.heads, config.head)]
    if isinstance(config, DecoderConfig) and config.cross_width is not None:
        attentions.append(("cross ", config.cross_heads or config.heads, config.cross_head_width or config.head))
    found = []
    for prefix, heads, head in attentions:
        if heads * head != config.width:
            effect = "a bottleneck" if heads * head < config.width else "wider than it need be"
            found.append(
                f"{heads} {prefix}heads of {head} are {heads * head} wide in a model of width {config.width}: {effect}"
            )
        scale, usual = config.attention_scale, head**-0.5
        if scale is not None and not math.isclose(scale, usual, rel_tol=0.01):
            found.append(
                f"attention_scale {scale:g} is not 1/sqrt({head}) = {usual:.3g}: "
                f"{prefix}attention scores begin {scale / usual:.3g} times as wide as they should"
            )
    return found


def _rules(module: nn.Module) -> Iterator[_Rule]:
    """Every parameter of every encoder and decoder in the module, once."""
    for path, network in module.named_modules():
        if isinstance(network, CodeDecoder | TextEncoder):
            for name, owner in network.named_modules():
                prefix = ".".join(part for part in (path, name) if part)
                yield from _rules_of(prefix, owner, network)


def _rules_of(path: str, owner: nn.Module, network: CodeDecoder | TextEncoder) -> Iterator[_Rule]:
    """Rules for the parameters that the owner holds itself. An adapter beside a weight has none: its owner draws it."""
    last = path.rpartition(".")[2]
    for name, parameter in owner.named_parameters(recurse=False):
        full = f"{path}.{name}" if path else name
        if name == "bias":
            yield _Rule(full, "bias", parameter, 0, 0.0)
        elif isinstance(owner, Linear) and name == "weight":
            yield from _linear(full, last, owner, network.config.layers)
        elif name == "weight":
            yield _Rule(full, "gain", parameter, 0, 0.0, mean=1.0)
        elif name == "table_PD":
            yield _Rule(full, "positions", parameter, 0, _EMBEDDED)
        elif name in ("embedding", "embedding_GD", "null_D"):
            summed = network.config.codebooks if isinstance(network, CodeDecoder) and name == "embedding" else 1
            yield _Rule(full, "embedding", parameter, summed, _EMBEDDED * summed**-0.5)


def _linear(name: str, last: str, owner: Linear, layers: int) -> Iterator[_Rule]:
    fan_in = owner.weight.shape[1]
    kind = "writer" if last in ("out", "down") else "head" if last == "head" else "linear"
    std = _FACTORS[kind] * fan_in**-0.5 * ((2 * layers) ** -0.5 if kind == "writer" else 1.0)
    matrices = owner.weight.split(owner.parts or (len(owner.weight),))
    for number, matrix in enumerate(matrices):
        yield _Rule(f"{name}[{number}]" if len(matrices) > 1 else name, kind, matrix, fan_in, std)
