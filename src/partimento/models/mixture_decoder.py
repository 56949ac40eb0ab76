"""Rows of audio behind a text, through the blocks of a Llama and the experts beside them: a code decoder.

Audio row s of item b stands at position count_b + s, attends to the text and to rows <= s, and passes each block by way
of an expert. Codes have input rows and output rows of their own, apart from those of the text.
Shapes: B batch, S grid rows, K codebooks, V outputs, D width, M text steps, P keys before, G key-value heads, E head
width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.errors import PartimentoError
from partimento.models.conditions import Prefix
from partimento.models.experts import Expert, Sight, make_expert
from partimento.models.layers import check_positions
from partimento.models.linear import Linear
from partimento.models.llama import Llama, LlamaBlock, Turn
from partimento.models.loss import CodeLoss, head_loss
from partimento.models.mixture_cache import GrowingMixtureCache, StaticMixtureCache
from partimento.models.mixture_config import MixtureConfig

MixtureCache = GrowingMixtureCache | StaticMixtureCache
_ENOUGH = 4096  # rows of an embedding that its deviation is measured of


class MixtureDecoder(nn.Module):
    """The code decoder. Weights: `llama`, `experts` (one a block), `embedding`, `head`; all but those of the Llama are
    drawn by `initialise`, which is to be called again once the Llama's are loaded."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__()
        self.config = config
        self.llama = Llama(config.llama)
        self.experts = nn.ModuleList(make_expert(config.experts, config.llama) for _ in range(config.llama.layers))
        # As of a CodeDecoder: id i of book k is row k * rows + i.
        self.embedding = nn.Parameter(torch.empty(config.blocks * config.rows, config.llama.width))
        self.head = Linear(config.llama.width, config.blocks * config.outputs, bias=False)
        offsets_K = torch.arange(config.codebooks) * (config.rows if config.vocabulary == "own" else 0)
        self.register_buffer("offsets_K", offsets_K, persistent=False)
        self.initialise()

    offsets_K: Tensor

    @torch.no_grad()
    def initialise(self) -> None:
        """Draws experts and rows of the codes from torch's default generator (seed it first), and copies what is copied
        of the Llama.

        Input rows have the deviation of the Llama's own, over sqrt(K) where those of K codebooks are summed; those of
        PAD are zero. Output rows are such that logits deviate by 0.2 behind the Llama's norm: the loss begins at
        ln(outputs) + 0.02.
        """
        llama, std, gain = self.llama, 0.02, 1.0
        if not self.embedding.is_meta:
            std = float(llama.embedding.weight[:_ENOUGH].float().std())
            gain = float(llama.norm.weight.float().square().mean().sqrt())
        self.embedding.normal_(0.0, std / self.config.blocks**0.5)
        self.embedding.view(self.config.blocks, self.config.rows, -1)[:, self.config.pad_row] = 0.0
        self.head.weight.normal_(0.0, 0.2 / (gain * self.config.llama.width**0.5))
        for expert, block in zip(self.experts, llama.blocks, strict=True):
            expert.initialise(block)  # type: ignore[operator]

    def forward(
        self,
        grid_BSK: Tensor,
        *,
        prefix: Prefix | None = None,
        cache: MixtureCache | None = None,
        start: int = 0,
        last: bool = False,
    ) -> Tensor:
        """ids [B, S, K] -> logits [B, S, K, V] in float32, row s predicting grid row s + 1.

        `cache`, `start` and `last` as of a CodeDecoder; a cache keeps the prefix that it was given first, or told
        (`remember`). With the shared vocabulary the logits of all K are the same numbers.
        Raises MODEL003 (id outside the table, checked on a CPU), MODEL004 (too many positions), MODEL042 (a cache where
        gradients are kept), MODEL044 (no text: the null condition is a text, too).
        """
        x_BSD = self._rows(grid_BSK, prefix, cache, start)
        if last:
            x_BSD = x_BSD[:, -1:]
        logits = self.head(self.llama.norm(x_BSD)).float().unflatten(-1, (self.config.blocks, self.config.outputs))
        return logits.expand(-1, -1, self.config.codebooks, -1)

    def loss(
        self,
        grid_BSK: Tensor,
        targets_BSK: Tensor,
        cardinality: int,
        *,
        prefix: Prefix | None = None,
        weights_K: Tensor | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> CodeLoss:
        """`code_loss` of what forward gives for the grid, as of a CodeDecoder. Raises as forward does."""
        x_BSD = self.llama.norm(self._rows(grid_BSK, prefix, None, 0))
        return head_loss(
            x_BSD,
            self.head.matrix(),
            targets_BSK,
            cardinality,
            shared=self.config.vocabulary == "shared",
            weights_K=weights_K,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )

    def make_cache(self, batch: int, positions: int, *, static: bool | None = None) -> MixtureCache:
        """An empty cache for `positions` rows behind a text, on the device and in the type of the embedding.

        `static`: every step in one shape (see `cache`); by default everywhere but on a CPU.
        """
        check_positions(0, positions, self.config.max_positions)
        device, llama = self.embedding.device, self.config.llama
        kind = StaticMixtureCache if (device.type != "cpu" if static is None else static) else GrowingMixtureCache
        return kind(
            layers=llama.layers,
            batch=batch,
            kv_heads=llama.kv_heads,
            positions=positions,
            head_width=llama.head_width,
            dtype=self.embedding.dtype,
            device=device,
        )

    def remember(self, cache: MixtureCache, prefix: Prefix) -> None:
        """Writes a text into the cache before the first step, which would do it else (and be unlike the others)."""
        check_positions(0, prefix.mask_BM.shape[1] + cache.positions, self.config.llama.max_positions)
        cache.tell(prefix)

    def listen(self, grid_BSK: Tensor, prefix: Prefix) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values [B, G, S, E] of the rows, in every layer: what a text behind them reads."""
        x_BSD, turn, sights = self._begin(grid_BSK, prefix, None, 0)
        keys_L: list[Tensor] = []
        values_L: list[Tensor] = []
        for (block, expert), sight in zip(self._blocks(), sights, strict=True):
            if len(keys_L) < len(sights) - 1:
                x_BSD, key, value = expert(x_BSD, block, turn, sight)
            else:
                key, value = expert.keys_values(block, expert.source(block).attention_norm(x_BSD), turn)
            keys_L.append(key)
            values_L.append(value)
        return keys_L, values_L

    def require_prefix(self, prefix: Prefix | None, cache: MixtureCache | None = None) -> Prefix:
        """The text in front of the rows: this one, or that of the cache, which is told this one where there is one.

        Raises MODEL042 (a cache where gradients are kept), MODEL044 (no text).
        """
        if cache is not None:
            if torch.is_grad_enabled():
                raise PartimentoError(
                    "MODEL042",
                    "a cache was given where gradients are kept",
                    why="keys and values that lie in a cache have no gradient: half of attention would not learn",
                    next="train without a cache, and play under torch.inference_mode()",
                )
            if prefix is not None:
                self.remember(cache, prefix)
            prefix = cache.prefix
        if prefix is None:
            raise PartimentoError(
                "MODEL044",
                "the mixture was told no text",
                next="give it the prefix that MixtureModel.told makes; that of keep_B False where there is none",
            )
        return prefix

    def _rows(self, grid_BSK: Tensor, prefix: Prefix | None, cache: MixtureCache | None, start: int) -> Tensor:
        """From ids to what the last norm reads, [B, S, D]."""
        x_BSD, turn, sights = self._begin(grid_BSK, prefix, cache, start)
        for (block, expert), sight in zip(self._blocks(), sights, strict=True):
            x_BSD, _, _ = expert(x_BSD, block, turn, sight)
        if cache is not None:
            cache.advance(grid_BSK.shape[1])
        return x_BSD

    def _begin(
        self, grid_BSK: Tensor, prefix: Prefix | None, cache: MixtureCache | None, start: int
    ) -> tuple[Tensor, Turn, list[Sight]]:
        """What the first block reads; how all of them turn; what each of them sees."""
        steps = grid_BSK.shape[1]
        prefix = self.require_prefix(prefix, cache)
        place = start if cache is None else cache.place(steps)
        self._check(grid_BSK, place, prefix)
        row_S = place if isinstance(place, Tensor) else torch.arange(place, place + steps, device=grid_BSK.device)
        turn = self.llama.turn(prefix.count_B[:, None] + row_S)
        sights: list[Sight]
        if cache is None:
            mask_B1SP = behind(prefix.mask_BM, steps)
            texts = zip(prefix.keys_L, prefix.values_L, strict=True)
            sights = [BehindText(key, value, mask_B1SP) for key, value in texts]
        else:
            sights = [partial(cache.write, layer, place=place) for layer in range(self.config.llama.layers)]
        return self._embed(grid_BSK), turn, sights

    def _blocks(self) -> Iterator[tuple[LlamaBlock, Expert]]:
        for block, expert in zip(self.llama.blocks, self.experts, strict=True):
            assert isinstance(block, LlamaBlock) and isinstance(expert, Expert)
            yield block, expert

    def _embed(self, grid_BSK: Tensor) -> Tensor:
        """The sum of the rows of K ids; PAD adds nothing, and learns nothing."""
        pad = self.config.pad_row
        ids_NK = torch.where(grid_BSK == pad, pad, grid_BSK + self.offsets_K).flatten(0, 1)
        x_ND = functional.embedding_bag(ids_NK, self.embedding, mode="sum", padding_idx=pad)
        return x_ND.unflatten(0, grid_BSK.shape[:2])

    def _check(self, grid_BSK: Tensor, place: int | Tensor, prefix: Prefix) -> None:
        if isinstance(place, int):
            check_positions(place, grid_BSK.shape[1], self.config.max_positions)
            check_positions(prefix.mask_BM.shape[1] + place, grid_BSK.shape[1], self.config.llama.max_positions)
        # In one table an id too large would read the next codebook's row, silently. (See CodeDecoder.)
        if grid_BSK.is_cpu and not torch.compiler.is_compiling():
            lowest, highest = grid_BSK.aminmax()
            if lowest < 0 or highest >= self.config.rows:
                raise PartimentoError(
                    "MODEL003",
                    f"the grid holds ids {int(lowest)}..{int(highest)}, the model knows 0..{self.config.rows - 1}",
                    next="check that the pack and the model have the same cardinality and specials",
                )


def behind(mask_BP: Tensor, steps: int) -> Tensor:
    """[B, 1, S, P + S]: what S steps see, of P keys before them (those of the mask) and of each other."""
    past_BSS = torch.ones(steps, steps, dtype=torch.bool, device=mask_BP.device).tril().expand(len(mask_BP), -1, -1)
    return torch.cat([mask_BP[:, None].expand(-1, steps, -1), past_BSS], dim=2)[:, None]


@dataclass(frozen=True, eq=False)
class BehindText:
    """The `Sight` of rows that are computed at once, behind the keys and values [B, G, M, E] of a text. All of it are
    tensors: a number of the layer would be a graph of its own for every layer where blocks are compiled."""

    key_BGME: Tensor
    value_BGME: Tensor
    mask_B1SP: Tensor

    def __call__(self, key_BGSE: Tensor, value_BGSE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key_BGPE = torch.cat([self.key_BGME.to(key_BGSE.dtype), key_BGSE], dim=2)
        value_BGPE = torch.cat([self.value_BGME.to(value_BGSE.dtype), value_BGSE], dim=2)
        return key_BGPE, value_BGPE, self.mask_B1SP
