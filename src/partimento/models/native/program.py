"""A code decoder as one C++ call a step on a CPU, for inference: `step.cpp` with the weights of a `CodeDecoder`.

A small model's step is hundreds of operators, and most of its time is calling them; a large one's is reading weights.
Here a step is one call, whatever the shapes (compiled once a machine, in about a second, and kept in torch's folder of
compiled kernels), and weights may be read as bfloat16 or int8. Sums, norms and what is added up between layers stay in
float32, and with int8 all else does. With bfloat16 both factors of every product are in it (activations, queries, keys,
attention weights and values, too): its dot product does twice the arithmetic, and a cache of half the bytes is read.
Where the processor has no such instruction, the same rounded numbers are multiplied in float32.
torch's own compiler was measured first: forward alone, with weights frozen into the code, 777 steps/s for 6 layers of
width 256 on two cores against 700 of the operators one by one, after 12 to 23 s of compilation for each batch size.

Shapes: B items, S rows of each, M memory places, D width, G key-value heads, E head width, P positions, O outputs.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import resources
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.models.conditions import Told
from partimento.models.decoder import Block, CodeDecoder
from partimento.models.layers import LayerNorm, RMSNorm, check_positions
from partimento.models.linear import Linear
from partimento.models.quantized import Weights, narrow, narrowed

# As in step.cpp: outputs of a panel, what a row of values is padded to, and most queries or rows at a time.
_PANEL, _LANES, _TALL = 64, 16, 8
# Rows of each item in one call: more would need more memory for what lies between layers, and save nothing.
_ROWS = 32
# Pairs of bfloat16 are handled as one int32.
_KINDS = {torch.float32: 0, torch.int32: 1, torch.int8: 2}
# Sums of products as one instruction, and nothing else that changes a result.
_FLAGS = ("-ffp-contract=fast", "-fno-math-errno")

_Pointer, _Int, _Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Matrix(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("weight", "scale", "bias")),
        *((n, _Int) for n in ("in_", "out", "kind")),
    ]


class _Norm(ctypes.Structure):
    _fields_ = [("gain", _Pointer), ("bias", _Pointer)]


class _Block(ctypes.Structure):
    _fields_ = [
        *((n, _Norm) for n in ("attention_norm", "cross_norm", "feedforward_norm", "query_norm", "key_norm")),
        *((n, _Matrix) for n in ("qkv", "attention_out", "cross_query", "cross_out", "gate", "up", "down")),
        *((n, _Pointer) for n in ("keys", "values", "memory_keys", "memory_values")),
    ]


class _Program(ctypes.Structure):
    _fields_ = [
        *((n, _Int) for n in ("width", "codebooks", "rows", "heads", "kv_heads", "head")),
        *((n, _Int) for n in ("cross_heads", "cross_kv_heads", "cross_head", "feedforward", "layers", "layer_norm")),
        *((n, _Int) for n in ("gated", "positions", "memory_places", "threads", "paired")),
        *((n, _Float) for n in ("eps", "scale", "cross_scale", "unused")),
        *((n, _Pointer) for n in ("embedding", "condition", "added", "cosine", "sine", "cross_cosine", "cross_sine")),
        ("memory_lengths", _Pointer),
        ("norm", _Norm),
        ("head_matrix", _Matrix),
        *((n, _Pointer) for n in ("blocks", "x", "h", "heads_out", "wide", "own")),
        *((n, _Int) for n in ("scores_size", "sums_size", "pairs_size")),
    ]


@cache
def library() -> ctypes.CDLL:
    """The compiled step. Raises what torch's compiler raises without a C++ compiler (torch._inductor.exc)."""
    code_cache: Any = __import__("torch._inductor.codecache", fromlist=["CppCodeCache"]).CppCodeCache
    source = resources.files(__package__).joinpath("step.cpp").read_text()
    found: ctypes.CDLL = code_cache.load(source, extra_flags=_FLAGS)
    found.partimento_step.restype = None
    found.partimento_step.argtypes = [_Pointer, _Pointer, _Int, _Int, _Int, _Pointer]
    return found


# Of every layer the last packing: its mark, and by the first output what `_packed` gave.
_PACKINGS: WeakKeyDictionary[Linear, tuple[object, dict[int, tuple[Tensor, Tensor | None]]]] = WeakKeyDictionary()


def _packed(layer: Linear, outputs: slice, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """The weights in panels (`_pack`), and the factor of each output if it has one.

    Kept for as long as the layer lives and its weights hold the same bits: packing takes as long as tens of steps.
    """
    weight = layer.weight.detach()
    mark = (weights, weight.data_ptr(), int(torch.hash_tensor(weight).view(torch.int64)))
    kept = _PACKINGS.get(layer)
    if kept is None or kept[0] != mark:
        kept = _PACKINGS[layer] = (mark, {})
    if (first := outputs.start or 0) not in kept[1]:
        kept[1][first] = _pack(weight[outputs], weights)
    return kept[1][first]


def _pack(weight_OI: Tensor, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """Panels [O / 64, inputs, 64], of bfloat16 [O / 64, inputs / 2, 64] with two inputs in an int32; and factors."""
    weight_OI, scale_O = narrow(weight_OI, weights)
    out, inputs = weight_OI.shape
    if out % _PANEL:  # (not by `pad`, which knows no int8)
        weight_OI = torch.cat([weight_OI, weight_OI.new_zeros(-out % _PANEL, inputs)])
    if weights == "bf16":
        weight_OI = _pairs(weight_OI)
    elif weights == "int8":  # the same lane of 4 vectors of 16 side by side (`column` in step.cpp)
        weight_OI = weight_OI[torch.arange(len(weight_OI)).view(-1, 4, _LANES).transpose(1, 2).flatten()]
    # In two steps, which torch does faster than in one.
    columns_IO = weight_OI.t().contiguous()
    return columns_IO.view(len(columns_IO), -1, _PANEL).transpose(0, 1).contiguous(), scale_O


def _pairs(values: Tensor) -> Tensor:
    """[..., n] -> int32 [..., ceil(n / 2)]: neighbours in bfloat16, the first in the lower half."""
    return functional.pad(values.bfloat16(), (0, values.shape[-1] % 2)).contiguous().view(torch.int32)


class NativeDecoder:
    """`decoder` with an empty cache of `positions` rows for `items` items, all told `told`; float32, on a CPU.

    Calling it appends rows and gives the logits after the last. The weights are copied: later changes do not reach it.
    The call holds no lock of Python's.
    """

    def __init__(self, decoder: CodeDecoder, items: int, positions: int, told: Told, weights: Weights) -> None:
        check_positions(0, positions, decoder.config.max_positions)
        self.config, self.items, self.positions, self.length = decoder.config, items, positions, 0
        self.step = library().partimento_step
        self._kept: list[Any] = []  # what the structures point to
        self._weights = weights
        self._paired = weights == "bf16"
        with torch.no_grad():
            nothing_BSK = torch.zeros(items, 1, decoder.config.codebooks, dtype=torch.int64)
            decoder._check(nothing_BSK, 0, told.condition_BD, told.memory_BMD)
            self._program = self._make(decoder, told)
            self._at = ctypes.addressof(self._program)

    def reset(self) -> None:
        """Forgets the rows."""
        self.length = 0

    def __call__(self, rows_BSK: Tensor) -> Tensor:
        """ids [B, S, K] int64 -> logits_BKV of the row after them. Raises MODEL004 if they do not fit.

        Ids are those of a grid that was made for the model: they are not looked at.
        """
        items, steps, books = rows_BSK.shape
        assert (items, books) == (self.items, self.config.codebooks) and steps > 0
        check_positions(self.length, steps, self.positions)
        logits_BKV = torch.empty(items, books, self.config.outputs)
        for rows in (rows_BSK,) if steps <= _ROWS else rows_BSK.split(_ROWS, dim=1):
            rows = rows.contiguous()
            self.step(self._at, rows.data_ptr(), items, rows.shape[1], self.length, logits_BKV.data_ptr())
            self.length += rows.shape[1]
        return logits_BKV

    def _make(self, decoder: CodeDecoder, told: Told) -> _Program:
        config, threads = self.config, torch.get_num_threads()
        program = _Program(
            **{n: getattr(config, n) for n in ("width", "codebooks", "rows", "heads", "kv_heads", "feedforward")},
            **{n: getattr(config, n) for n in ("cross_heads", "cross_kv_heads", "layers")},
        )
        assert config.cross_head_width and config.feedforward and config.kv_heads and config.cross_heads
        program.head, program.cross_head = config.head, config.cross_head_width
        program.layer_norm, program.gated = config.norm == "layer", config.activation == "swiglu"
        program.positions, program.threads = -(-self.positions // _PANEL) * _PANEL, threads
        program.paired = self._paired
        program.eps = config.norm_eps
        program.scale = config.attention_scale or config.head**-0.5
        program.cross_scale = config.attention_scale or config.cross_head_width**-0.5
        program.embedding = self._floats(decoder.embedding)
        if told.condition_BD is not None:
            program.condition = self._floats(told.condition_BD)
        if decoder.added is not None:
            program.added = self._floats(decoder.added.table_PD)
        if decoder.rotary is not None:
            program.cosine, program.sine = map(self._floats, (decoder.rotary.cosine_PE, decoder.rotary.sine_PE))
        if decoder.cross_rotary is not None:
            tables = decoder.cross_rotary.cosine_PE, decoder.cross_rotary.sine_PE
            program.cross_cosine, program.cross_sine = map(self._floats, tables)
        program.norm = self._norm(decoder.norm)
        program.head_matrix = self._linear(decoder.head)
        memory = self._remember(decoder, told, program)
        blocks = [self._block(block, program, memory[layer]) for layer, block in enumerate(decoder.blocks)]  # type: ignore[arg-type]
        program.blocks = ctypes.addressof(self._keep((_Block * config.layers)(*blocks)))
        rows = self.items * min(_ROWS, self.positions)
        widest = max((config.heads + 2 * config.kv_heads) * config.head, config.cross_heads * config.cross_head_width)
        program.x, program.h = (self._floats(torch.zeros(rows, config.width)) for _ in range(2))
        program.heads_out = self._floats(torch.zeros(rows, widest))
        program.wide = self._floats(torch.zeros(rows, config.feedforward))
        # Of every thread: scores of a few queries, sums of two panels, and rows or scores in bfloat16.
        places = max(program.positions, program.memory_places)
        inputs = max(config.width, widest, program.feedforward)
        program.scores_size = _TALL * places
        program.sums_size = 2 * rows * _PANEL
        program.pairs_size = max(rows, _TALL) * (max(places, inputs) // 2 + _LANES) if self._paired else 0
        own = program.scores_size + program.sums_size + program.pairs_size
        program.own = self._floats(torch.zeros(threads, own))
        return program

    def _block(self, block: Block, program: _Program, memory: tuple[int, int]) -> _Block:
        attention, feedforward = block.attention, block.feedforward
        made = _Block(
            attention_norm=self._norm(block.attention_norm),
            feedforward_norm=self._norm(block.feedforward_norm),
            query_norm=self._norm(attention.query_norm),
            key_norm=self._norm(attention.key_norm),
            qkv=self._linear(attention.qkv),
            attention_out=self._linear(attention.out),
            down=self._linear(feedforward.down),
        )
        up = feedforward.up
        made.gate = self._linear(up, slice(0, program.feedforward))
        if feedforward.gated:
            made.up = self._linear(up, slice(program.feedforward, None))
        if program.memory_lengths and block.cross is not None:
            made.cross_norm = self._norm(block.cross_norm)
            made.cross_query, made.cross_out = self._linear(block.cross.query), self._linear(block.cross.out)
            made.memory_keys, made.memory_values = memory
        empty = torch.zeros(self.items, program.kv_heads, program.positions, program.head)
        made.keys, made.values = self._places(empty, empty)
        return made

    def _remember(self, decoder: CodeDecoder, told: Told, program: _Program) -> list[tuple[int, int]]:
        """Keys and values of the memory of every layer: only the places that may be read, each item's in front."""
        if told.memory_BMD is None:
            return [(0, 0)] * self.config.layers
        full_BM = told.memory_BMD.new_ones(told.memory_BMD.shape[:2], dtype=torch.bool)
        mask_BM = full_BM if told.mask_BM is None else told.mask_BM.bool()
        lengths_B = mask_BM.sum(dim=1)
        most = int(lengths_B.max())
        order_BM = mask_BM.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        program.memory_places = max(1, -(-most // _PANEL)) * _PANEL
        program.memory_lengths = self._keep(lengths_B.contiguous()).data_ptr()
        filled = decoder.make_cache(self.items, 1, static=False)
        crossed = nn.ModuleList(block.cross.key_value for block in decoder.blocks)  # type: ignore[union-attr,misc]
        with narrowed(crossed, self._weights):
            decoder.remember(filled, told.memory_BMD)
        found = []
        for known in filled.memory:
            assert known is not None
            front = [x.take_along_dim(order_BM[:, None, :, None], dim=2).float() for x in known]
            found.append(self._places(*(functional.pad(x, (0, 0, 0, program.memory_places - most)) for x in front)))
        return found

    def _places(self, key_BGPE: Tensor, value_BGPE: Tensor) -> tuple[int, int]:
        """Keys in panels of places and values, as step.cpp wants them (`Block`)."""
        key, value = key_BGPE.unflatten(2, (-1, _PANEL)), functional.pad(value_BGPE, (0, -value_BGPE.shape[3] % _LANES))
        if self._paired:
            key, value = _pairs(key), _pairs(value.transpose(2, 3)).transpose(2, 3)
        key, value = (self._keep(x.contiguous()) for x in (key.transpose(-1, -2), value))
        return key.data_ptr(), value.data_ptr()

    def _linear(self, layer: Linear, outputs: slice = slice(None)) -> _Matrix:
        """The matrix in panels."""
        packed, scale_O = _packed(layer, outputs, self._weights)
        self._kept.append(packed)
        weight, bias = layer.weight[outputs], None if layer.bias is None else layer.bias[outputs]
        out, inputs = weight.shape
        made = _Matrix(weight=packed.data_ptr(), in_=inputs, out=out, kind=_KINDS[packed.dtype])
        for name, row_O in (("scale", scale_O), ("bias", bias)):
            if row_O is not None:
                setattr(made, name, self._floats(functional.pad(row_O.float(), (0, -out % _PANEL))))
        return made

    def _norm(self, norm: LayerNorm | RMSNorm | None) -> _Norm:
        if norm is None:
            return _Norm()
        return _Norm(self._floats(norm.weight), self._floats(norm.bias) if isinstance(norm, LayerNorm) else None)

    def _floats(self, values: Tensor) -> int:
        return self._keep(values.detach().float().contiguous()).data_ptr()

    def _keep(self, value: Any) -> Any:
        self._kept.append(value)
        return value
