"""A mixture as one C++ call a step on a CPU: `step.cpp` with the way of audio rows through a `MixtureDecoder`.

The text lies in front of each item's rows in its cache, without pads: row s of item b is place count_b + s, which is
its position, too. Adapters of low rank are added to the matrices beside them, which only rows of audio pass here;
queries, keys and values are one matrix. What is played is the same up to the rounding of float32.
"""

from __future__ import annotations

import ctypes

import torch
from torch.nn import functional

from partimento.models.conditions import Prefix, Told
from partimento.models.experts import Bottleneck, Expert, FeedforwardExpert
from partimento.models.layers import check_positions
from partimento.models.linear import Linear
from partimento.models.llama import LlamaBlock
from partimento.models.mixture_decoder import MixtureDecoder
from partimento.models.native import structures
from partimento.models.native.packing import bits, packing
from partimento.models.native.program import NativeSteps
from partimento.models.quantized import Weights


class NativeMixture(NativeSteps):
    """The steps of a `MixtureDecoder`. Raises MODEL004 (too many positions) and MODEL044 (no text)."""

    def __init__(self, decoder: MixtureDecoder, items: int, positions: int, told: Told, weights: Weights) -> None:
        super().__init__(decoder.config, items, positions, weights)
        prefix = decoder.require_prefix(told.prefix)
        check_positions(0, prefix.mask_BM.shape[1] + positions, decoder.config.llama.max_positions)
        with torch.no_grad():
            self._program = self._make(decoder, prefix)

    def _make(self, decoder: MixtureDecoder, prefix: Prefix) -> structures.Program:
        config, llama, experts = self.config, self.config.llama, self.config.experts
        program = structures.Program(
            **{n: getattr(llama, n) for n in ("width", "heads", "kv_heads", "layers")},
            codebooks=config.codebooks,
            rows=config.rows if config.vocabulary == "own" else 0,  # from one book's table to the next
            head=llama.head_width,
            eps=llama.norm_eps,
            scale=llama.head_width**-0.5,
        )
        text = int(prefix.count_B.max())
        self._size(program, text + self.positions)
        program.before = self._keep(prefix.count_B.long().contiguous()).data_ptr()
        turn = decoder.llama.turn(torch.arange(program.positions)[None])
        half = llama.head_width // 2
        sine_PE = torch.cat([-turn.sine[..., :half], turn.sine[..., half:]], dim=-1)
        program.cosine, program.sine = self._floats(turn.cosine[0, 0]), self._floats(sine_PE[0, 0])
        table = decoder.embedding.detach().unflatten(0, (config.blocks, config.rows)).clone()
        table[:, config.pad_row] = 0.0
        program.embedding = self._floats(table)
        program.norm = structures.Norm(self._floats(decoder.llama.norm.weight))
        program.head_matrix = self._heads(decoder.head, config.blocks)
        blocks = []
        for layer, (block, expert) in enumerate(zip(decoder.llama.blocks, decoder.experts, strict=True)):
            assert isinstance(block, LlamaBlock) and isinstance(expert, Expert)
            made = self._block(block, expert)
            behind = (0, 0, 0, program.positions - text)
            seen = (
                functional.pad(x[:, :, :text].float(), behind) for x in (prefix.keys_L[layer], prefix.values_L[layer])
            )
            made.keys, made.values = self._places(*seen)
            blocks.append(made)
        program.blocks = ctypes.addressof(self._keep((structures.Block * llama.layers)(*blocks)))
        wide, narrow = max(llama.feedforward, experts.inner, experts.rank), max(experts.width, experts.rank)
        self._work(program, (llama.heads + 2 * llama.kv_heads) * llama.head_width, wide, narrow)
        return program

    def _block(self, block: LlamaBlock, expert: Expert) -> structures.Block:
        mark = tuple(bits(weight) for module in (block, expert) for weight in module.parameters())

        def matrix(*names: str) -> structures.Matrix:
            """Those of these names, one below the other."""
            return self._matrix(
                packing(
                    expert,
                    mark,
                    names,
                    self._weights,
                    lambda: torch.cat([expert.matrix(block, n).float() for n in names]),
                )
            )

        source = expert.source(block)
        made = structures.Block(
            attention_norm=structures.Norm(self._floats(source.attention_norm.weight)),
            feedforward_norm=structures.Norm(self._floats(source.feedforward_norm.weight)),
            qkv=matrix("query", "key", "value"),
            attention_out=matrix("out"),
        )
        if not (isinstance(expert, FeedforwardExpert) and expert.config.place == "instead"):
            made.gate, made.up, made.down = matrix("gate"), matrix("up"), matrix("down")
        if isinstance(expert, FeedforwardExpert):
            made.expert = self._expert(expert.narrow, expert.up, expert.down, expert.widen)
        elif isinstance(expert, Bottleneck):
            made.attention_expert = self._expert(None, expert.attention_narrow, expert.attention_widen, None)
            made.expert = self._expert(None, expert.narrow, expert.widen, None)
        return made

    def _expert(self, *layers: Linear | None) -> structures.Expert:
        """Of the matrices that are there."""
        return structures.Expert(*(structures.Matrix() if part is None else self._linear(part) for part in layers))
