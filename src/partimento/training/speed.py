"""How fast a training is, and how fast it could be: floating-point operations, peak rates, step times, recompiles.

Model FLOPs utilisation (MFU) is the share of the device's dense matrix rate that the model's own arithmetic takes:
items per second x FLOPs of an item / peak. Operations that are made twice (recompute) count once. The convention is
that of PaLM (Chowdhery et al., 2022, appendix B) as nanochat counts it: 6 a weight that multiplies the token stream
and 12 L H Q T a token for attention, which is not halved for causality.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections import deque
from typing import Any

import torch
from torch import nn

from partimento.models.attention import CrossAttention, SelfAttention, TextAttention
from partimento.models.dia import TextModel
from partimento.models.experts import MATRICES, Expert, LowRank
from partimento.models.llama import LlamaBlock
from partimento.models.mixture import MixtureModel
from partimento.models.text import TextEncoder
from partimento.training import devices

_TERA = 1e12
# Vendors' dense rates without sparsity, in TFLOP/s: bf16 with float32 accumulation, TF32, float32 (None: the device has
# no such mode). A device has the first of these that is in its name, as whole words.
PEAKS: dict[str, tuple[float | None, float | None, float | None]] = {
    "B200": (2250.0, 1100.0, 75.0),
    "GH200": (989.4, 494.7, 66.9),
    "H200": (989.4, 494.7, 66.9),
    "H100 PCIe": (756.0, 378.0, 51.2),
    "H100 NVL": (835.0, 417.5, 60.0),
    "H100": (989.4, 494.7, 66.9),
    "A100": (312.0, 156.0, 19.5),
    "A10G": (70.0, 35.0, 31.2),
    "A10": (125.0, 62.5, 31.2),
    "L40S": (362.0, 183.0, 91.6),
    "L40": (181.0, 90.5, 90.5),
    "L4": (121.0, 60.0, 30.3),
    "RTX 4090": (165.2, 82.6, 82.6),
    "V100": (None, None, 15.7),
    "TPU v6e": (918.0, None, None),
    "TPU v5p": (459.0, None, None),
    "TPU v5e": (197.0, None, None),
    "TPU v5 lite": (197.0, None, None),
    "TPU v4": (275.0, None, None),
}


def flops_per_item(module: nn.Module, window: int, memory: int = 0, *, both_ways: bool = False) -> float:
    """FLOPs of one item of `window` tokens in training (forward and backward).

    6 a token for each weight of a linear or convolutional layer (heads included; embeddings that are looked up are
    not), and 12 H E T a token for each self attention of H heads of width E. Cross attention looks at `memory` tokens,
    and so many has the text of a text encoder (by default as many as it can read; T5 counts with those that are given,
    and without its scores). A frozen weight makes 4 a token, or 2 where nothing before it is trained.
    Convolutions are taken to step one position a token, as in our codec, whose tokens are frames.
    A mixture reads `memory` tokens of text; `both_ways`: it learns from sound to words beside (`_mixture`).
    """
    if isinstance(module, MixtureModel):
        return _mixture(module, window, memory, both_ways)
    if not isinstance(module, TextModel):
        return _flops(module, window, memory, reads=True)
    if isinstance(module.encoder, TextEncoder):
        memory = memory or module.encoder.config.length
    learns = any(weight.requires_grad for weight in module.encoder.parameters())
    encoder = _flops(module.encoder, memory, 0, reads=learns)
    return encoder + _flops(module.decoder, window, memory, reads=learns)


def _flops(module: nn.Module, window: int, memory: int, reads: bool) -> float:
    """`reads`: a gradient reaches what the text encoder computes, inside of it or behind."""
    passes = reads or any(weight.requires_grad for weight in module.parameters())
    total = 0.0
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv1d):
            total += _products(part, passes) * window
        elif isinstance(part, SelfAttention | TextAttention):
            total += (12.0 if passes else 4.0) * part.heads * part.head_width * window * window
        elif isinstance(part, CrossAttention):
            total += 12.0 * part.heads * part.head_width * memory * window
            total += _products(part.key_value, reads) * memory - _products(part.key_value, passes) * window
    return total


def _mixture(model: MixtureModel, window: int, text: int, both_ways: bool) -> float:
    """Rows of audio pass the blocks by way of their experts, with a gradient that passes what is frozen (4 a weight, 6
    if it is trained), and look at the text and at each other. The text passes the Llama's own blocks, forward only (2 a
    weight) unless they are trained, of the last block only its keys and values. From sound to words, rows that have
    read nothing but BOS come first, of the last block only their keys and values, and the text behind them passes all
    blocks, and the Llama's head, with a gradient.
    """
    decoder, blocks = model.decoder, _blocks(model)
    total = _read(model, text) + sum(_rows(model, *pair, window, text) for pair in blocks)
    total += _products(decoder.head, True) * window
    if not both_ways:
        return total
    total += _read(model, 1) + sum(_rows(model, *pair, window, 1) for pair in blocks[:-1])
    total += sum(_weight(weight, True) for weight in _listened(*blocks[-1])) * window
    moved = any(weight.requires_grad for weight in model.llama.embedding.parameters())
    for block, _ in blocks:  # the first reads no audio but by its attention: its queries have no gradient
        total += sum(_products(getattr(block, name), moved or name not in MATRICES[:3]) for name in MATRICES) * text
        total += (12.0 if moved else 10.0) * _heads(model) * (1 + window + text) * text
        moved = True
    return total + _products(model.llama.head, True) * text


def _blocks(model: MixtureModel) -> list[tuple[LlamaBlock, Expert]]:
    pairs = list(zip(model.llama.blocks, model.decoder.experts, strict=True))
    return pairs  # type: ignore[return-value]


def _heads(model: MixtureModel) -> int:
    return model.llama.config.heads * model.llama.config.head_width


def _read(model: MixtureModel, text: int) -> float:
    """Of a text that rows are told."""
    *first, (last, _) = _blocks(model)
    reads = any(weight.requires_grad for weight in model.llama.blocks.parameters())
    passed = [getattr(block, name) for block, _ in first for name in MATRICES]
    scores = (12.0 if reads else 4.0) * _heads(model) * text * len(first)
    return (sum(_products(part, reads) for part in (*passed, last.key, last.value)) + scores) * text


def _rows(model: MixtureModel, block: LlamaBlock, expert: Expert, window: int, text: int) -> float:
    """Of rows of audio behind a text, in one block."""
    weights = sum(_weight(weight, True) for weight in _passed(block, expert))
    return (weights + 12.0 * _heads(model) * (window + text)) * window


def _listened(block: LlamaBlock, expert: Expert) -> list[nn.Parameter]:
    """The matrices that make keys and values of rows of audio."""
    source = expert.source(block)
    beside = [expert.lora_A, expert.lora_B] if isinstance(expert, LowRank) else []
    return [_matrix(source.key), _matrix(source.value), *(part[name] for part in beside for name in ("key", "value"))]


def _passed(block: LlamaBlock, expert: Expert) -> list[nn.Parameter]:
    """The matrices that rows of audio are multiplied by."""
    mine = [weight for weight in expert.parameters() if weight.ndim > 1]
    left: tuple[str, ...] = () if expert.config.kind == "full" else MATRICES
    if expert.config.kind == "feedforward_copy" or expert.config.place == "instead":
        left = tuple(name for name in left if name not in ("gate", "up", "down"))
    return [*mine, *(_matrix(getattr(block, name)) for name in left)]


def _matrix(layer: nn.Module) -> nn.Parameter:
    """As it is kept: `weight` may be a wider copy."""
    return next(weight for weight in layer.parameters(recurse=False) if weight.ndim > 1)


def _products(layer: nn.Module, passes: bool) -> float:
    """FLOPs a token of a layer's matrices (its own, and those of an adapter beside them)."""
    return sum(_weight(weight, passes) for weight in layer.parameters(recurse=False) if weight.ndim > 1)


def _weight(weight: nn.Parameter, passes: bool) -> float:
    return 2.0 * (1 + passes + weight.requires_grad) * weight.numel()


def peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s that the vendor names for dense products in "bf16", "tf32" or "fp32"; None where none is known (a CPU)."""
    name = devices.name(device)
    rates = next((rates for known, rates in PEAKS.items() if re.search(rf"\b{known}\b", name)), None)
    rate = None if rates is None else rates[("bf16", "tf32", "fp32").index(precision)]
    return None if rate is None else rate * _TERA


def mfu(items_per_second: float, item_flops: float, rate: float | None) -> float | None:
    """Share in 0..1 of `rate` (FLOP/s: `peak`, or `matmul_rate` for what can really be reached); None without one."""
    return None if rate is None else items_per_second * item_flops / rate


def matmul_rate(device: torch.device, precision: str, size: int = 8192, seconds: float = 1.0) -> float:
    """FLOP/s of one product of two `size` x `size` matrices, repeated for about so long: the peak that is really there.

    On normally distributed numbers: zeros draw less power and would be faster than any training.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    with devices.precise(device, precision), torch.no_grad():
        repeats, spent = 1, 0.0
        while True:
            devices.synchronise(device)
            began = time.perf_counter()
            for _ in range(repeats):
                torch.mm(left, right, out=out)
            devices.synchronise(device)
            spent = time.perf_counter() - began
            if spent >= seconds / 2:  # the repetitions before were the warm-up
                return 2.0 * size**3 * repeats / spent
            repeats = max(repeats * 2, int(repeats * 0.8 * seconds / max(spent, 1e-6)))


class Clock:
    """Durations of the steps since the last reading, as the host sees them; at most the newest 4096 are kept.

    On a device that works on its own a step's duration is the time to ask for it, until the queue is full or a reading
    waits for it: the mean over a line of the log is true, the median may be too short and the longest holds the wait.
    """

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=4096)
        self._waited = 0.0
        self._spent = 0.0

    def add(self, seconds: float, waited: float = 0.0) -> None:
        """One step; `waited` are the seconds of it in which the host stood still for its data."""
        self._seconds.append(seconds)
        self._spent += seconds
        self._waited += waited

    def read(self) -> dict[str, float]:
        """{"step_seconds", "step_p50", "step_p99", "data_wait_share"} since the last reading; {} without a step."""
        if not self._seconds:
            return {}
        seconds = sorted(self._seconds)
        figures = {
            "step_seconds": sum(seconds) / len(seconds),
            "step_p50": seconds[math.ceil(0.50 * len(seconds)) - 1],
            "step_p99": seconds[math.ceil(0.99 * len(seconds)) - 1],
            "data_wait_share": self._waited / self._spent if self._spent else 0.0,
        }
        self._seconds.clear()
        self._waited = self._spent = 0.0
        return figures


class Recompiles:
    """`count`: graphs that torch.compile (and XLA, where it is used) have made since this object was; 0 without them.

    In a healthy run it stops growing after the second step. Asking imports nothing.
    """

    def __init__(self) -> None:
        self._before = self._all()

    @property
    def count(self) -> int:
        return self._all() - self._before

    @staticmethod
    def _all() -> int:
        dynamo: Any = sys.modules.get("torch._dynamo.utils")
        graphs = dynamo.counters["stats"]["unique_graphs"] if dynamo is not None else 0
        if "torch_xla" in sys.modules:
            metrics: Any = __import__("torch_xla.debug.metrics", fromlist=["metric_data"])
            compiled = metrics.metric_data("CompileTime")  # (how often, total, samples), None before the first
            graphs += compiled[0] if compiled else 0
        return int(graphs)
