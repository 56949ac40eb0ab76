"""What a codec's codes are (CodecSpec) and which ids beside them are not codes (Specials)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

LAYOUTS = ("mono", "left-right", "mid-side")


@dataclass(frozen=True)
class CodecSpec:
    """The facts that make codes comparable: two packs of equal specs hold the same kind of codes.

    `codec` is the name by which the codec is opened, `weights` the sha256 (hex) of its weights, `sample_rate` in Hz,
    `frame_rate` in frames per second (a fraction: 44100/512 has no exact decimal), `cardinalities` the number of codes
    of each book, and `layout` how the channels of the audio became the books (LAYOUTS). In a two-channel layout `books`
    says how many books each coded channel has, say (9, 4); the columns of the codes are the first channel's books,
    coarse to fine, then the second's. In mono `books` is ().
    """

    codec: str
    weights: str
    sample_rate: int
    frame_rate: Fraction
    cardinalities: tuple[int, ...]
    layout: str = "mono"
    books: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.cardinalities or not all(2 <= v <= 65536 for v in self.cardinalities):
            raise ValueError(f"cardinalities must be 2..65536 (codes are kept as uint16): {self.cardinalities}")
        if self.sample_rate < 1 or self.frame_rate <= 0:
            raise ValueError(f"rates must be positive: {self.sample_rate} Hz, {self.frame_rate} frames/s")
        if self.layout not in LAYOUTS:
            raise ValueError(f"there is no layout {self.layout!r}; there are {', '.join(LAYOUTS)}")
        if self.layout == "mono":
            if self.books:
                raise ValueError(f"mono codes have no books of channels: {self.books}")
        elif len(self.books) != 2 or min(self.books) < 1 or sum(self.books) != len(self.cardinalities):
            raise ValueError(f"books of two channels must be two and sum to {len(self.cardinalities)}: {self.books}")

    @property
    def codebooks(self) -> int:
        """K."""
        return len(self.cardinalities)

    @property
    def channels(self) -> int:
        """C, of the audio that is coded."""
        return 1 if self.layout == "mono" else 2

    @property
    def cardinality(self) -> int:
        """V, the largest cardinality: the ids from V on are free for specials."""
        return max(self.cardinalities)

    @property
    def hop(self) -> Fraction:
        """Samples per frame."""
        return self.sample_rate / self.frame_rate

    def frames(self, samples: int) -> int:
        """Frames that hold `samples` samples, the last one perhaps in part."""
        return math.ceil(samples / self.hop)

    def samples(self, frames: int) -> int:
        """Samples that `frames` whole frames decode to."""
        return math.floor(frames * self.hop)

    def seconds(self, frames: int) -> float:
        return float(frames / self.frame_rate)

    def to_json(self) -> dict[str, Any]:
        tree: dict[str, Any] = {
            "codec": self.codec,
            "weights": self.weights,
            "sample_rate": self.sample_rate,
            "frame_rate": [self.frame_rate.numerator, self.frame_rate.denominator],
            "cardinalities": list(self.cardinalities),
            "layout": self.layout,
        }
        if self.books:
            tree["books"] = list(self.books)
        return tree

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> CodecSpec:
        return cls(
            codec=tree["codec"],
            weights=tree["weights"],
            sample_rate=tree["sample_rate"],
            frame_rate=Fraction(*tree["frame_rate"]),
            cardinalities=tuple(tree["cardinalities"]),
            layout=tree["layout"],
            books=tuple(tree.get("books", ())),
        )


@dataclass(frozen=True)
class Specials:
    """Ids that are never codes. A family without a learned end has eos None."""

    eos: int | None
    pad: int
    bos: int

    @classmethod
    def after(cls, cardinality: int) -> Specials:
        """eos V, pad V+1, bos V+2: Dia's order, and ours."""
        return cls(eos=cardinality, pad=cardinality + 1, bos=cardinality + 2)

    @classmethod
    def musicgen(cls, cardinality: int) -> Specials:
        """MusicGen's one special token, V, for everything that is not a code; it has no end."""
        return cls(eos=None, pad=cardinality, bos=cardinality)

    @property
    def rows(self) -> int:
        """Rows that an embedding table needs (V+3, or V+1 with MusicGen's)."""
        return max(self.pad, self.bos, -1 if self.eos is None else self.eos) + 1
