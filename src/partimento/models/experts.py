"""What rows of audio pass in a block of a frozen Llama: its own layers, and what stands beside or instead of them.

feedforward       narrow D -> W, feed-forward W -> F -> W (MusicGen's: `transplant`), widen W -> D
bottleneck        D -> rank, GELU, rank -> D beside attention and beside feed-forward: each reads what its neighbour
                  reads (adapters, Houlsby et al. 2019, arXiv 1902.00751; in parallel, He et al. 2021, arXiv 2110.04366)
lora              (alpha / rank) B A beside every matrix of the block (Hu et al. 2021, arXiv 2106.09685)
feedforward_copy  a feed-forward of their own, which begins as Llama's
full              a whole block of their own, which begins as Llama's: queries, keys, values, out, norms, feed-forward
                  (mixture of transformers, Liang et al. 2024, arXiv 2411.04996)
none              nothing

At the first step all of them are the frozen block, bit for bit but for rounding, with one exception: a `feedforward`
that stands "instead" (system D). There Llama's own feed-forward is left out from the start, and a random one, as small
as what a GPT-2 begins with, adds a little noise in its place.
Shapes: B batch, S audio rows, P places that they see, G key-value heads, E head width, D width, W expert width, F inner
width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.errors import PartimentoError
from partimento.models.linear import Linear, linear
from partimento.models.llama import LlamaBlock, LlamaConfig, Turn, attend

Kind = Literal["feedforward", "bottleneck", "lora", "full", "feedforward_copy", "none"]
Place = Literal["beside", "instead"]
MATRICES = ("query", "key", "value", "out", "gate", "up", "down")
"""The linear layers of a LlamaBlock."""
_FEEDFORWARD = MATRICES[4:]
Sight = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]
"""From keys and values [B, G, S, E] of rows to those [B, G, P, E] that the rows attend to in this layer, and a mask."""


@dataclass(frozen=True)
class ExpertConfig:
    """place, width and inner are of `feedforward`; rank of `bottleneck` and `lora`, and alpha (None: the
    rank) of `lora`. `dropout` is in training, on what an expert adds (lora: on what it reads). Copies stand instead of
    what they copy, always. Raises MODEL043."""

    kind: Kind = "feedforward"
    place: Place = "beside"
    width: int = 1024
    inner: int = 4096
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise invalid(f"kind {self.kind!r} is not one of {', '.join(get_args(Kind))}")
        if self.place not in get_args(Place):
            raise invalid(f"place {self.place!r} is neither beside nor instead")
        if self.place == "instead" and self.kind not in ("feedforward", "feedforward_copy"):
            raise invalid(f"{self.kind} does not stand instead of a feed-forward")
        if min(self.width, self.inner, self.rank) < 1:
            raise invalid(f"width {self.width}, inner {self.inner} and rank {self.rank} must be at least 1")
        if not 0 <= self.dropout < 1 or not (self.alpha is None or self.alpha > 0):
            raise invalid(f"dropout {self.dropout} must be in [0, 1), and alpha {self.alpha} above 0")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ExpertConfig:
        """Raises MODEL043 for a key that this version does not know."""
        stored = dict(stored)
        if stored.get("activation") == "gelu":  # was stored while there was another
            del stored["activation"]
        try:
            return cls(**stored)
        except TypeError as error:
            raise invalid(str(error)) from error


class Expert(nn.Module):
    """The way of audio rows through one block. This one is `none`: Llama's own layers.

    The block is no part of it but is given to it: its weights are the Llama's, under the Llama's names.
    """

    def __init__(self, config: ExpertConfig, llama: LlamaConfig) -> None:
        super().__init__()
        self.config, self.dropout = config, config.dropout

    def forward(self, x_BSD: Tensor, block: LlamaBlock, turn: Turn, sight: Sight) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, keys, values) behind the block, the keys and values [B, G, S, E] of these rows alone."""
        source = self.source(block)
        normed_BSD = source.attention_norm(x_BSD)
        query = turn(self._heads(block, "query", normed_BSD))
        key, value = self.keys_values(block, normed_BSD, turn)
        mixed = self.product(block, "out", attend(query, *sight(key, value)))
        beside = self.beside_attention(normed_BSD)
        x_BSD = x_BSD + (mixed if beside is None else mixed + beside)
        return x_BSD + self.feedforward(block, source.feedforward_norm(x_BSD)), key, value

    def keys_values(self, block: LlamaBlock, normed_BSD: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """[B, G, S, E] each, the keys turned."""
        return turn(self._heads(block, "key", normed_BSD)), self._heads(block, "value", normed_BSD)

    def _heads(self, block: LlamaBlock, name: str, normed_BSD: Tensor) -> Tensor:
        return self.product(block, name, normed_BSD).unflatten(-1, (-1, block.head_width)).transpose(1, 2)

    @torch.no_grad()
    def initialise(self, block: LlamaBlock) -> None:
        """Draws what is drawn from torch's default generator, and copies from the block what is copied."""

    def source(self, block: LlamaBlock) -> LlamaBlock:
        """Whose norms and matrices the rows pass."""
        return block

    def product(self, block: LlamaBlock, name: str, x: Tensor) -> Tensor:
        """x through the matrix of that name (MATRICES)."""
        layer: Linear = getattr(self.source(block), name)
        return layer(x)

    def matrix(self, block: LlamaBlock, name: str) -> Tensor:
        """[out, in]: what `product` multiplies by, for who multiplies by itself (without dropout)."""
        return getattr(self.source(block), name).weight

    def beside_attention(self, normed_BSD: Tensor) -> Tensor | None:
        """What is added to the attention's output."""
        return None

    def feedforward(self, block: LlamaBlock, normed_BSD: Tensor) -> Tensor:
        """What is added to the rows behind attention: from Llama's own feed-forward, the expert, or both."""
        hidden = functional.silu(self.product(block, "gate", normed_BSD)) * self.product(block, "up", normed_BSD)
        return self.product(block, "down", hidden)

    def drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout) if self.training and self.dropout else x


class FeedforwardExpert(Expert):
    """narrow, up, down, widen: linear layers without bias, GELU behind `up`. `up` and `down` are MusicGen's fc1 and
    fc2. Drawn so that a normed row keeps a deviation of about 1 through `narrow` and `up`; `widen` is zero beside
    Llama's feed-forward, and that of a residual writer instead of it."""

    def __init__(self, config: ExpertConfig, llama: LlamaConfig) -> None:
        super().__init__(config, llama)
        self.layers = llama.layers
        self.narrow = Linear(llama.width, config.width, bias=False)
        self.up = Linear(config.width, config.inner, bias=False)
        self.down = Linear(config.inner, config.width, bias=False)
        self.widen = Linear(config.width, llama.width, bias=False)

    @torch.no_grad()
    def initialise(self, block: LlamaBlock) -> None:
        for layer in (self.narrow, self.up, self.down):
            layer.weight.normal_(0.0, layer.in_features**-0.5)
        if self.config.place == "beside":
            self.widen.weight.zero_()
        else:
            self.widen.weight.normal_(0.0, 0.02 / math.sqrt(2 * self.layers))

    def expert(self, normed_BSD: Tensor) -> Tensor:
        hidden_BSF = functional.gelu(self.up(self.narrow(normed_BSD)))
        return self.drop(self.widen(self.down(hidden_BSF)))

    def feedforward(self, block: LlamaBlock, normed_BSD: Tensor) -> Tensor:
        mine_BSD = self.expert(normed_BSD)
        return mine_BSD if self.config.place == "instead" else super().feedforward(block, normed_BSD) + mine_BSD


class Bottleneck(Expert):
    """Two matrices beside attention (attention_narrow, attention_widen), two beside feed-forward (narrow, widen)."""

    def __init__(self, config: ExpertConfig, llama: LlamaConfig) -> None:
        super().__init__(config, llama)
        self.attention_narrow, self.narrow = (Linear(llama.width, config.rank, bias=False) for _ in range(2))
        self.attention_widen, self.widen = (Linear(config.rank, llama.width, bias=False) for _ in range(2))

    @torch.no_grad()
    def initialise(self, block: LlamaBlock) -> None:
        for narrow, widen in ((self.attention_narrow, self.attention_widen), (self.narrow, self.widen)):
            narrow.weight.normal_(0.0, narrow.in_features**-0.5)
            widen.weight.zero_()

    def beside_attention(self, normed_BSD: Tensor) -> Tensor:
        return self.drop(self.attention_widen(functional.gelu(self.attention_narrow(normed_BSD))))

    def feedforward(self, block: LlamaBlock, normed_BSD: Tensor) -> Tensor:
        mine_BSD = self.drop(self.widen(functional.gelu(self.narrow(normed_BSD))))
        return super().feedforward(block, normed_BSD) + mine_BSD


class LowRank(Expert):
    """lora_A [rank, in] and lora_B [out, rank] for every matrix, B zero. They act on rows of audio alone, so that they
    cannot be merged into a Llama that also reads text."""

    def __init__(self, config: ExpertConfig, llama: LlamaConfig) -> None:
        super().__init__(config, llama)
        self.scale = (config.rank if config.alpha is None else config.alpha) / config.rank
        shapes = _shapes(llama)
        self.lora_A = nn.ParameterDict({name: torch.empty(config.rank, shapes[name][1]) for name in MATRICES})
        self.lora_B = nn.ParameterDict({name: torch.empty(shapes[name][0], config.rank) for name in MATRICES})

    @torch.no_grad()
    def initialise(self, block: LlamaBlock) -> None:
        for name in MATRICES:
            nn.init.kaiming_uniform_(self.lora_A[name], a=math.sqrt(5))
            self.lora_B[name].zero_()

    def product(self, block: LlamaBlock, name: str, x: Tensor) -> Tensor:
        low = linear(linear(self.drop(x), self.lora_A[name]), self.lora_B[name])
        return super().product(block, name, x) + low * self.scale

    def matrix(self, block: LlamaBlock, name: str) -> Tensor:
        return torch.addmm(super().matrix(block, name), self.lora_B[name], self.lora_A[name], alpha=self.scale)


class FeedforwardCopy(Expert):
    """gate, up and down of their own."""

    def __init__(self, config: ExpertConfig, llama: LlamaConfig) -> None:
        super().__init__(config, llama)
        self.gate = Linear(llama.width, llama.feedforward, bias=False)
        self.up = Linear(llama.width, llama.feedforward, bias=False)
        self.down = Linear(llama.feedforward, llama.width, bias=False)

    @torch.no_grad()
    def initialise(self, block: LlamaBlock) -> None:
        for name in _FEEDFORWARD:
            getattr(self, name).weight.copy_(getattr(block, name).weight)

    def product(self, block: LlamaBlock, name: str, x: Tensor) -> Tensor:
        return getattr(self, name)(x) if name in _FEEDFORWARD else super().product(block, name, x)

    def matrix(self, block: LlamaBlock, name: str) -> Tensor:
        return getattr(self, name).weight if name in _FEEDFORWARD else super().matrix(block, name)

    def feedforward(self, block: LlamaBlock, normed_BSD: Tensor) -> Tensor:
        return self.drop(super().feedforward(block, normed_BSD))


class BlockCopy(Expert):
    """A block of their own."""

    def __init__(self, config: ExpertConfig, llama: LlamaConfig) -> None:
        super().__init__(config, llama)
        self.block = LlamaBlock(llama)

    @torch.no_grad()
    def initialise(self, block: LlamaBlock) -> None:
        self.block.load_state_dict(block.state_dict())

    def source(self, block: LlamaBlock) -> LlamaBlock:
        return self.block

    def feedforward(self, block: LlamaBlock, normed_BSD: Tensor) -> Tensor:
        return self.drop(super().feedforward(block, normed_BSD))


_EXPERTS: dict[str, type[Expert]] = {
    "feedforward": FeedforwardExpert,
    "bottleneck": Bottleneck,
    "lora": LowRank,
    "full": BlockCopy,
    "feedforward_copy": FeedforwardCopy,
    "none": Expert,
}


def make_expert(config: ExpertConfig, llama: LlamaConfig) -> Expert:
    """Of the configured kind, not initialised."""
    return _EXPERTS[config.kind](config, llama)


def _shapes(llama: LlamaConfig) -> dict[str, tuple[int, int]]:
    """[out, in] of every matrix of a block."""
    wide, queries, keys = llama.feedforward, llama.heads * llama.head_width, llama.kv_heads * llama.head_width
    shapes = {"query": (queries, llama.width), "out": (llama.width, queries), "down": (llama.width, wide)}
    shapes |= dict.fromkeys(("key", "value"), (keys, llama.width))
    return shapes | dict.fromkeys(("gate", "up"), (wide, llama.width))


def invalid(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL043",
        "the mixture cannot be built from this configuration",
        why=why,
        next="correct the [model] section, or the description that is stored with the weights",
    )
