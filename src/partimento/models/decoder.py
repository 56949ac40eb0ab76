"""One code decoder: the plain RVQ transformer, MusicGen's decoder and Dia's, by configuration.

grid_BSK of ids -> sum of K embeddings (+ condition + positions) -> pre-norm blocks -> norm -> K heads -> logits_BSKV.
Shapes: B batch, S grid steps, K codebooks, V outputs, D width, M memory steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.errors import PartimentoError
from partimento.models.attention import CrossAttention, Memory, SelfAttention
from partimento.models.cache import GrowingCache, KVCache, StaticCache
from partimento.models.conditions import NOTHING, TagCondition, Told
from partimento.models.layers import AddedPositions, FeedForward, Rotary, check_positions, make_norm, sum_of_rows
from partimento.models.linear import Linear
from partimento.models.loss import CodeLoss, head_loss
from partimento.models.shape import DecoderConfig

__all__ = ["Block", "CodeDecoder", "DecoderConfig"]

# Steps that a memory may have where its positions count (cross_attention_rope): Dia's texts have 1024.
_MEMORY_POSITIONS = 4096


class Block(nn.Module):
    """x + attention(norm(x)), x + cross attention(norm(x)) if there is a memory, x + feedforward(norm(x))."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        assert config.kv_heads and config.feedforward  # resolved by the config, as those of the cross attention
        self.layer = layer
        self.attention_norm = make_norm(config.norm, config.width, config.norm_eps)
        self.attention = SelfAttention(
            config.width,
            config.heads,
            config.kv_heads,
            config.head,
            bias=config.bias,
            scale=config.attention_scale,
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
        )
        self.cross_norm = self.cross = None
        if config.cross_width is not None:
            assert config.cross_heads and config.cross_kv_heads and config.cross_head_width
            self.cross_norm = make_norm(config.norm, config.width, config.norm_eps)
            self.cross = CrossAttention(
                config.width,
                config.cross_width,
                config.cross_heads,
                config.cross_kv_heads,
                config.cross_head_width,
                bias=config.bias,
                scale=config.attention_scale,
            )
        self.feedforward_norm = make_norm(config.norm, config.width, config.norm_eps)
        self.feedforward = FeedForward(config.width, config.feedforward, config.activation, config.bias)
        self.dropout = config.dropout

    def forward(
        self, x_BSD: Tensor, rotary: Rotary | None, start: int | Tensor, cache: KVCache | None, memory: Memory | None
    ) -> Tensor:
        x_BSD = x_BSD + self._drop(self.attention(self.attention_norm(x_BSD), rotary, start, cache, self.layer))
        if memory is not None and self.cross is not None and self.cross_norm is not None:
            x_BSD = x_BSD + self._drop(memory.read(self.layer, self.cross, self.cross_norm(x_BSD), start, cache))
        return x_BSD + self._drop(self.feedforward(self.feedforward_norm(x_BSD)))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout) if self.training and self.dropout else x


class CodeDecoder(nn.Module):
    """The decoder. Tags enter through `condition` (a TagCondition, or None when config.tags is 0).

    Initialisation, as in GPT-2: every matrix and embedding N(0, 0.02), but the matrices that write into the residual
    stream (attention out, cross out, feedforward down) N(0, 0.02 / sqrt(2 * layers)); biases 0, gains 1; the null
    condition N(0, 0.02). At the start all codes are about equally likely: the loss is ln(outputs). (A TextModel draws
    the weights of its decoder anew, by fan-in: `initialise`.)
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        # K tables in one, so that the sum of K embeddings is one lookup: id i of book k is row k * rows + i.
        self.embedding = nn.Parameter(torch.empty(config.codebooks * config.rows, config.width))
        self.register_buffer("offsets_K", torch.arange(config.codebooks) * config.rows, persistent=False)
        self.condition = TagCondition(config.tags, config.width) if config.tags else None
        rotary = config.positions == "rotary"
        self.rotary = Rotary(config.max_positions, config.head, config.rope_theta) if rotary else None
        self.cross_rotary = None
        if config.cross_attention_rope and config.cross_width is not None and config.cross_head_width:
            positions = max(config.max_positions, _MEMORY_POSITIONS)
            self.cross_rotary = Rotary(positions, config.cross_head_width, config.rope_theta)
        self.added = None if rotary else AddedPositions(config.positions, config.max_positions, config.width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = make_norm(config.norm, config.width, config.norm_eps)
        # K heads in one matrix: the logits of book k are rows k * outputs .. (k + 1) * outputs - 1.
        self.head = Linear(config.width, config.codebooks * config.outputs, bias=False)
        self.initialise()

    offsets_K: Tensor

    @torch.no_grad()
    def initialise(self) -> None:
        """Draws all weights from torch's default generator (seed it first)."""
        residual = 0.02 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            elif name.endswith(("out.weight", "down.weight")):
                parameter.normal_(0.0, residual)
            else:
                parameter.normal_(0.0, 0.02)

    def told(self, tags_BG: Tensor, keep_B: Tensor) -> Told:
        """The condition of items with these tags (multi-hot), of those with keep_B False the null condition; nothing
        for a decoder without tags."""
        return NOTHING if self.condition is None else Told(self.condition(tags_BG, keep_B))

    def forward(
        self,
        grid_BSK: Tensor,
        *,
        condition_BD: Tensor | None = None,
        memory_BMD: Tensor | None = None,
        memory_mask_BM: Tensor | None = None,
        cache: KVCache | None = None,
        start: int = 0,
        last: bool = False,
    ) -> Tensor:
        """ids [B, S, K] -> logits [B, S, K, V] in float32, row s predicting grid row s + 1.

        With a `cache` the rows are appended to what it holds (`start` is then its length, and is not given); without
        one, `start` is the position of the first row. `last` computes the logits of the last row only: [B, 1, K, V].
        A decoder with cross attention but without a memory skips it (MusicGen without text).
        Raises MODEL003 (id outside the table, checked on a CPU), MODEL004 (too many positions), MODEL005 (condition or
        memory given to a model without, or the reverse).
        """
        x_BSD = self._blocks(grid_BSK, condition_BD, memory_BMD, memory_mask_BM, cache, start)
        if last:
            x_BSD = x_BSD[:, -1:]
        return self.head(self.norm(x_BSD)).float().unflatten(-1, (self.config.codebooks, self.config.outputs))

    def loss(
        self,
        grid_BSK: Tensor,
        targets_BSK: Tensor,
        cardinality: int,
        *,
        condition_BD: Tensor | None = None,
        memory_BMD: Tensor | None = None,
        memory_mask_BM: Tensor | None = None,
        weights_K: Tensor | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> CodeLoss:
        """`code_loss` of what forward gives for the grid, without ever holding all logits: what training runs on.

        Row s of `targets_BSK` is what row s of the logits predicts: grid row s + 1. Raises as forward does.
        """
        x_BSD = self.norm(self._blocks(grid_BSK, condition_BD, memory_BMD, memory_mask_BM, None, 0))
        return head_loss(
            x_BSD,
            self.head.matrix(),
            targets_BSK,
            cardinality,
            weights_K=weights_K,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )

    def _blocks(
        self,
        grid_BSK: Tensor,
        condition_BD: Tensor | None,
        memory_BMD: Tensor | None,
        memory_mask_BM: Tensor | None,
        cache: KVCache | None,
        start: int,
    ) -> Tensor:
        """From ids to what the last norm reads, [B, S, D]."""
        batch, steps, codebooks = grid_BSK.shape
        place = start if cache is None else cache.place(steps)
        self._check(grid_BSK, place, condition_BD, memory_BMD)
        ids = (grid_BSK + self.offsets_K).view(-1, codebooks)
        x_BSD = sum_of_rows(self.embedding, ids).view(batch, steps, -1)
        if condition_BD is not None:
            x_BSD = x_BSD + condition_BD[:, None]
        if self.added is not None:
            x_BSD = self.added(x_BSD, place)
        if self.training and self.config.dropout:
            x_BSD = functional.dropout(x_BSD, self.config.dropout)
        memory = None if memory_BMD is None else Memory(memory_BMD, memory_mask_BM, self.cross_rotary)
        for block in self.blocks:
            x_BSD = block(x_BSD, self.rotary, place, cache, memory)
        if cache is not None:
            cache.advance(steps)
        return x_BSD

    def make_cache(self, batch: int, positions: int, *, static: bool | None = None) -> KVCache:
        """An empty cache for `positions` rows, on the device and in the type of the weights.

        `static`: every step in one shape (see `cache`); by default everywhere but on a CPU.
        """
        check_positions(0, positions, self.config.max_positions)
        device = self.embedding.device
        kind = StaticCache if (device.type != "cpu" if static is None else static) else GrowingCache
        return kind(
            layers=self.config.layers,
            batch=batch,
            kv_heads=self.config.kv_heads or self.config.heads,
            positions=positions,
            head_width=self.config.head,
            dtype=self.embedding.dtype,
            device=device,
        )

    def remember(self, cache: KVCache, memory_BMD: Tensor) -> None:
        """Projects a memory into the cache before the first step, which would do it else (and be unlike the others)."""
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block) and block.cross is not None  # else a memory is refused (MODEL005)
            cache.memory[layer] = block.cross.project(memory_BMD, self.cross_rotary)

    def _check(
        self, grid_BSK: Tensor, place: int | Tensor, condition_BD: Tensor | None, memory_BMD: Tensor | None
    ) -> None:
        if isinstance(place, int):
            check_positions(place, grid_BSK.shape[1], self.config.max_positions)
        # In one table an id too large would read the next codebook's row, silently. (Elsewhere than on a CPU the look
        # would wait for the device, and compiled code cannot look; there the batch is checked before it is sent.)
        if grid_BSK.is_cpu and not torch.compiler.is_compiling():
            lowest, highest = grid_BSK.aminmax()
            if lowest < 0 or highest >= self.config.rows:
                raise PartimentoError(
                    "MODEL003",
                    f"the grid holds ids {int(lowest)}..{int(highest)}, the model knows 0..{self.config.rows - 1}",
                    next="check that the pack and the model have the same cardinality and specials",
                )
        if (self.condition is None) != (condition_BD is None):
            raise PartimentoError(
                "MODEL005",
                "the model has tags but no condition was given"
                if condition_BD is None
                else "a condition was given to a model without tags",
                next="give condition.null(batch) to a model with tags when nothing is known, and None to one without",
            )
        if memory_BMD is not None and self.config.cross_width is None:
            raise PartimentoError(
                "MODEL005",
                "a memory was given to a model without cross attention",
                next="set cross_width in the model's configuration",
            )
        if memory_BMD is not None and self.cross_rotary is not None:
            check_positions(0, memory_BMD.shape[1], len(self.cross_rotary.cosine_PE))
