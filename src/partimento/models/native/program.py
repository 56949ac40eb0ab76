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

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.models.conditions import Told
from partimento.models.decoder import Block, CodeDecoder
from partimento.models.layers import LayerNorm, RMSNorm, check_positions
from partimento.models.linear import Linear
from partimento.models.native import structures
from partimento.models.native.packing import LANES, PANEL, Packing, bits, packing, pairs
from partimento.models.native.structures import INT, POINTER
from partimento.models.quantized import Weights, narrowed

# As in step.cpp: most queries or rows at a time.
_TALL = 8
# Rows of each item in one call: more would need more memory for what lies between layers, and save nothing.
_ROWS = 32
# Pairs of bfloat16 are handled as one int32.
_KINDS = {torch.float32: 0, torch.int32: 1, torch.int8: 2}
# Sums of products as one instruction, and nothing else that changes a result.
_FLAGS = ("-ffp-contract=fast", "-fno-math-errno")


@cache
def library() -> ctypes.CDLL:
    """The compiled step. Raises what torch's compiler raises without a C++ compiler (torch._inductor.exc)."""
    code_cache: Any = __import__("torch._inductor.codecache", fromlist=["CppCodeCache"]).CppCodeCache
    source = resources.files(__package__).joinpath("step.cpp").read_text()
    found: ctypes.CDLL = code_cache.load(source, extra_flags=_FLAGS)
    found.partimento_step.restype = None
    found.partimento_step.argtypes = [POINTER, POINTER, INT, INT, INT, POINTER]
    return found


class NativeSteps:
    """A decoder with an empty cache of `positions` rows for `items` items, all told the same; float32, on a CPU.

    Calling it appends rows and gives the logits after the last. The weights are copied: later changes do not reach it.
    The call holds no lock of Python's. What a kind of decoder adds is the program that it makes of its weights.
    """

    _program: structures.Program

    def __init__(self, config: Any, items: int, positions: int, weights: Weights) -> None:
        check_positions(0, positions, config.max_positions)
        self.config, self.items, self.positions, self.length = config, items, positions, 0
        self.step = library().partimento_step
        self._kept: list[Any] = []  # what the structures point to
        self._weights, self._paired = weights, weights == "bf16"

    def reset(self) -> None:
        """Forgets the rows."""
        self.length = 0

    def __call__(self, rows_BSK: Tensor, books: slice = slice(None)) -> Tensor:
        """ids [B, S, K] int64 -> logits_BKV of `books` of the row after them. Raises MODEL004 if they do not fit.

        Ids are those of a grid that was made for the model: they are not looked at.
        """
        items, steps, codebooks = rows_BSK.shape
        assert (items, codebooks) == (self.items, self.config.codebooks) and steps > 0
        check_positions(self.length, steps, self.positions)
        first, last, _ = books.indices(codebooks)
        shared = self._blocks < codebooks
        logits_BKV = self._room(*((0, 1) if shared else (first, last)))
        for rows in (rows_BSK,) if steps <= _ROWS else rows_BSK.split(_ROWS, dim=1):
            rows = rows.contiguous()
            self.step(
                ctypes.addressof(self._program),
                rows.data_ptr(),
                items,
                rows.shape[1],
                self.length,
                logits_BKV.data_ptr(),
            )
            self.length += rows.shape[1]
        logits_BKV = logits_BKV[..., : self.config.outputs]
        return logits_BKV.repeat(1, last - first, 1) if shared else logits_BKV

    def _room(self, first: int, last: int) -> Tensor:
        """Where a step puts the logits of blocks [first, last), which are the only panels of the head that it reads."""
        head, outputs = self._program.head_matrix, self._head.out // self._blocks
        skipped = first * outputs
        head.weight = self._head.panels[skipped // PANEL].data_ptr()
        head.out = (last - first) * outputs
        if self._scale is not None:
            head.scale = self._scale + 4 * skipped
        return torch.empty(self.items, last - first, outputs)

    def _heads(self, layer: Linear, blocks: int) -> structures.Matrix:
        """Output rows: a block for each book, in panels of its own, or one block for all."""

        def padded() -> Tensor:
            rows_KVD = layer.weight.unflatten(0, (blocks, -1))
            return functional.pad(rows_KVD, (0, 0, 0, -rows_KVD.shape[1] % PANEL)).flatten(0, 1)

        self._blocks = blocks
        self._head = packing(layer, bits(layer.weight), "by book", self._weights, padded)
        made = self._matrix(self._head)
        self._scale: int | None = made.scale
        return made

    def _size(self, program: structures.Program, positions: int) -> None:
        """For `positions` places of the cache of each item."""
        program.positions = -(-positions // PANEL) * PANEL
        program.threads, program.paired = torch.get_num_threads(), self._paired

    def _work(self, program: structures.Program, heads_out: int, wide: int, narrow: int) -> None:
        """Memory for what lies between products, of so many numbers a row."""
        rows = self.items * min(_ROWS, self.positions)
        program.x, program.h = (self._floats(torch.zeros(rows, program.width)) for _ in range(2))
        program.heads_out = self._floats(torch.zeros(rows, heads_out))
        program.wide, program.narrow = (self._floats(torch.zeros(rows, most)) for most in (wide, narrow))
        # Of every thread: scores of a few queries, sums of two panels, and rows or scores in bfloat16.
        places = max(program.positions, program.memory_places)
        inputs = max(program.width, heads_out, wide, narrow)
        program.scores_size = _TALL * places
        program.sums_size = 2 * rows * PANEL
        program.pairs_size = max(rows, _TALL) * (max(places, inputs) // 2 + LANES) if self._paired else 0
        own = program.scores_size + program.sums_size + program.pairs_size
        program.own = self._floats(torch.zeros(program.threads, own))

    def _places(self, key_BGPE: Tensor, value_BGPE: Tensor) -> tuple[int, int]:
        """Keys in panels of places and values, as step.cpp wants them (`Block`)."""
        key, value = key_BGPE.unflatten(2, (-1, PANEL)), functional.pad(value_BGPE, (0, -value_BGPE.shape[3] % LANES))
        if self._paired:
            key, value = pairs(key), pairs(value.transpose(2, 3)).transpose(2, 3)
        key, value = (self._keep(x.contiguous()) for x in (key.transpose(-1, -2), value))
        return key.data_ptr(), value.data_ptr()

    def _linear(self, layer: Linear, outputs: slice = slice(None)) -> structures.Matrix:
        found = packing(layer, bits(layer.weight), outputs.start or 0, self._weights, lambda: layer.weight[outputs])
        return self._matrix(found, None if layer.bias is None else layer.bias[outputs])

    def _matrix(self, packed: Packing, bias_O: Tensor | None = None) -> structures.Matrix:
        panels = self._keep(packed.panels)
        made = structures.Matrix(weight=panels.data_ptr(), in_=packed.inputs, out=packed.out, kind=_KINDS[panels.dtype])
        for name, row_O in (("scale", packed.scale_O), ("bias", bias_O)):
            if row_O is not None:
                setattr(made, name, self._floats(functional.pad(row_O.float(), (0, -packed.out % PANEL))))
        return made

    def _norm(self, norm: LayerNorm | RMSNorm | None) -> structures.Norm:
        if norm is None:
            return structures.Norm()
        return structures.Norm(
            self._floats(norm.weight), self._floats(norm.bias) if isinstance(norm, LayerNorm) else None
        )

    def _floats(self, values: Tensor) -> int:
        return self._keep(values.detach().float().contiguous()).data_ptr()

    def _keep(self, value: Any) -> Any:
        self._kept.append(value)
        return value


class NativeDecoder(NativeSteps):
    """The steps of a `CodeDecoder`."""

    def __init__(self, decoder: CodeDecoder, items: int, positions: int, told: Told, weights: Weights) -> None:
        nothing_BSK = torch.zeros(items, 1, decoder.config.codebooks, dtype=torch.int64)
        decoder._check(nothing_BSK, 0, told.condition_BD, told.memory_BMD)
        super().__init__(decoder.config, items, positions, weights)
        with torch.no_grad():
            self._program = self._make(decoder, told)

    def _make(self, decoder: CodeDecoder, told: Told) -> structures.Program:
        config = self.config
        program = structures.Program(
            **{n: getattr(config, n) for n in ("width", "codebooks", "rows", "heads", "kv_heads")},
            **{n: getattr(config, n) for n in ("cross_heads", "cross_kv_heads", "layers")},
        )
        assert config.cross_head_width and config.feedforward and config.kv_heads and config.cross_heads
        program.head, program.cross_head = config.head, config.cross_head_width
        program.layer_norm = config.norm == "layer"
        self._size(program, self.positions)
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
        program.head_matrix = self._heads(decoder.head, config.codebooks)
        memory = self._remember(decoder, told, program)
        blocks = [self._block(block, program, memory[layer]) for layer, block in enumerate(decoder.blocks)]  # type: ignore[arg-type]
        program.blocks = ctypes.addressof(self._keep((structures.Block * config.layers)(*blocks)))
        widest = max((config.heads + 2 * config.kv_heads) * config.head, config.cross_heads * config.cross_head_width)
        self._work(program, widest, config.feedforward, 0)
        return program

    def _block(self, block: Block, program: structures.Program, memory: tuple[int, int]) -> structures.Block:
        attention, feedforward = block.attention, block.feedforward
        made = structures.Block(
            attention_norm=self._norm(block.attention_norm),
            feedforward_norm=self._norm(block.feedforward_norm),
            query_norm=self._norm(attention.query_norm),
            key_norm=self._norm(attention.key_norm),
            qkv=self._linear(attention.qkv),
            attention_out=self._linear(attention.out),
            down=self._linear(feedforward.down),
        )
        up = feedforward.up
        made.gate = self._linear(up, slice(0, feedforward.down.in_features))
        if feedforward.gated:
            made.up = self._linear(up, slice(feedforward.down.in_features, None))
        if program.memory_lengths and block.cross is not None:
            made.cross_norm = self._norm(block.cross_norm)
            made.cross_query, made.cross_out = self._linear(block.cross.query), self._linear(block.cross.out)
            made.memory_keys, made.memory_values = memory
        empty = torch.zeros(self.items, program.kv_heads, program.positions, program.head)
        made.keys, made.values = self._places(empty, empty)
        return made

    def _remember(self, decoder: CodeDecoder, told: Told, program: structures.Program) -> list[tuple[int, int]]:
        """Keys and values of the memory of every layer: only the places that may be read, each item's in front."""
        if told.memory_BMD is None:
            return [(0, 0)] * self.config.layers
        full_BM = told.memory_BMD.new_ones(told.memory_BMD.shape[:2], dtype=torch.bool)
        mask_BM = full_BM if told.mask_BM is None else told.mask_BM.bool()
        lengths_B = mask_BM.sum(dim=1)
        most = int(lengths_B.max())
        order_BM = mask_BM.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        program.memory_places = max(1, -(-most // PANEL)) * PANEL
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
