"""Where a loss of codes stands between guessing and counting, as numbers.

Nats a code throughout. Of a book of V codes, guessing among the codes that are legal at its place costs ln V; counting
how often each occurs, the unigram; which follows which, the bigram (`tokens.counting`, event "baseline"). Means over
the books count every book alike, as the figures of a validation do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SLIGHT = 0.01
"""Share of ln V under which a gain is none: what sampling alone does to held-out figures of a small pack."""

Values = Sequence[float | None]


@dataclass(frozen=True)
class Floors:
    """Of one book, or the mean of all; None was not recorded."""

    random: float | None = None
    unigram: float | None = None
    bigram: float | None = None
    entropy: float | None = None  # of the codes that were counted

    @property
    def counted(self) -> float | None:
        """The better of the two counting models on held-out codes."""
        known = [value for value in (self.unigram, self.bigram) if value is not None]
        return min(known) if known else None

    @property
    def explained(self) -> float | None:
        """How far counting comes from guessing; below 0 where it is worse."""
        if self.random is None or self.counted is None:
            return None
        return self.random - self.counted

    @property
    def blind(self) -> bool | None:
        """Whether counting explains next to nothing (`SLIGHT`). A book of one code has nothing to explain: False."""
        if self.random is None or self.explained is None:
            return None
        return self.random > 0 and self.explained < SLIGHT * self.random

    def share(self, value: float | None) -> float | None:
        """0 at guessing, 1 at the better counting model, above 1 beyond it. None where there is no way between them."""
        if value is None or self.blind is not False or not self.explained or self.random is None:
            return None
        return (self.random - value) / self.explained

    def beyond(self, value: float | None) -> float | None:
        """Nats under the better counting model; negative above it."""
        return None if value is None or self.counted is None else self.counted - value


@dataclass(frozen=True)
class Standing:
    """Floors and figures of all books (means) and of each. `valid` is of held-out codes, `train` of the last line."""

    mean: Floors
    books: Sequence[Floors]
    valid: float | None
    valid_K: Values
    train: float | None
    train_K: Values

    @property
    def value(self) -> float | None:
        """The figure that is judged: held-out, or of the training where there is no validation yet."""
        return self.train if self.valid is None else self.valid

    @property
    def share(self) -> float | None:
        return self.mean.share(self.value)

    @property
    def finds(self) -> bool:
        """Whether held-out codes cost the model noticeably less than a guess."""
        return self.valid is not None and bool(self.mean.random) and self.valid < (1 - SLIGHT) * (self.mean.random or 0)

    @property
    def noise(self) -> bool | None:
        """Frequencies are even, counting finds nothing, and neither does the model. None: not known."""
        if self.mean.blind is None:
            return None
        return self.mean.blind and not self.finds and not self.uneven

    @property
    def uneven(self) -> bool:
        """Some codes of the training data are much more frequent than others, whether or not that carries over."""
        entropy, random = self.mean.entropy, self.mean.random
        return entropy is not None and random is not None and entropy < (1 - 10 * SLIGHT) * random

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "share": self.share,
            "share_K": [floors.share(one) for floors, one in zip(self.books, self.values_K, strict=True)],
            "beyond": self.mean.beyond(self.value),
            "noise": self.noise,
        }

    @property
    def values_K(self) -> Values:
        known = self.valid_K if any(value is not None for value in self.valid_K) else self.train_K
        return known or [None] * len(self.books)


def stand(
    cardinalities: Sequence[int],
    *,
    unigram_K: Values = (),
    bigram_K: Values = (),
    entropy_K: Values = (),
    valid_K: Values = (),
    train_K: Values = (),
) -> Standing:
    """From lists of one figure a book; an empty list was not recorded. `cardinalities` of one code cost ln 1 = 0."""
    books = max(map(len, (cardinalities, unigram_K, bigram_K, valid_K, train_K)))
    random_K: Values = [math.log(v) for v in cardinalities]
    columns = [_padded(values, books) for values in (random_K, unigram_K, bigram_K, entropy_K)]
    each = [Floors(*row) for row in zip(*columns, strict=True)]
    return Standing(
        Floors(*map(mean, columns)),
        each,
        mean(valid_K),
        _padded(valid_K, books),
        mean(train_K),
        _padded(train_K, books),
    )


def mean(values: Values) -> float | None:
    """Of all books, or None: a mean over those that happen to be known would be of other codes."""
    if not values or any(value is None for value in values):
        return None
    return sum(value for value in values if value is not None) / len(values)


def _padded(values: Values, books: int) -> list[float | None]:
    return [*values, *[None] * (books - len(values))]


def bits(nats: float | None) -> float | None:
    return None if nats is None else nats / math.log(2)


def perplexity(nats: float | None) -> float | None:
    return None if nats is None else math.exp(min(nats, 700.0))


def smoothed_floor(smoothing: float, outputs: int) -> float:
    """The least that a cross entropy against smoothed targets can be: the entropy of such a target, in nats."""
    if not smoothing:
        return 0.0
    rest = smoothing / outputs
    top = 1 - smoothing + rest
    return -top * math.log(top) - (outputs - 1) * rest * math.log(rest)
