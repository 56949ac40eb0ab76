"""What the demos of a configuration are: which words are played how, in which batches, under which names."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from partimento.config import Demo
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.tokens.text import Words
from partimento.training.player import Player

MOST_ITEMS = 16
"""in one batch, so that many prompts and seeds need no more memory than the training left"""
LONGEST_SLUG = 40
NOTHING_ASKED = "null"


@dataclass(frozen=True)
class Asked:
    """One item: its words, their name in file names, and the seed of its noise."""

    words: Words
    slug: str
    seed: int


@dataclass(frozen=True)
class Round:
    """Items that are played in one batch, by one set of weights."""

    weights: str
    temperature: float
    guidance: float
    items: tuple[Asked, ...]

    def stem(self, item: Asked) -> str:
        """Name of the item's file, without its ending."""
        return f"{self.weights}_{item.slug}_t{self.temperature:g}_g{self.guidance:g}_seed{item.seed}"


def usual_temperature(temperatures: Sequence[float]) -> float:
    """1, as the model learned, or else the highest."""
    return 1.0 if 1.0 in temperatures else max(temperatures)


def rules(demo: Demo, temperature: float) -> Rules:
    return Rules(temperature=temperature, top_k=demo.top_k, top_p=demo.top_p)


def prompts(demo: Demo, player: Player) -> list[Words]:
    """The words of the prompts, cleaned, each once. Raises what `Player.require` does where this model cannot be asked
    for them or guided so (also where all are empty, and guidance has nothing to guide to), SAMPLE001 for an impossible
    temperature, SAMPLE010 for an impossible guidance."""
    for temperature in demo.temperatures:
        rules(demo, temperature)
    for scale in demo.guidance:
        Guidance(scale)
    given = [Words.parse(prompt) for prompt in demo.prompts]
    words_P = [player.require(words, scale) for words in given for scale in (demo.guidance if words else [1.0])]
    if not any(given):
        for scale in demo.guidance:
            player.require(words_P[0], scale)
    return list(dict.fromkeys(words_P))


def rounds(demo: Demo, player: Player, *, averaged: bool) -> list[Round]:
    """All that is played from nothing: every prompt at every temperature, guidance and seed with the averaged weights,
    and at the usual temperature with the raw ones (which play all of it where nothing is averaged).

    Greedy is the same for every seed and is played for the first one; an empty prompt has nothing to be guided to, and
    is played without guidance. Raises what `prompts` does.
    """
    words_P = prompts(demo, player)
    names = dict(zip(words_P, slugs(words_P), strict=True))
    temperatures, seeds = list(dict.fromkeys(demo.temperatures)), list(dict.fromkeys(demo.seeds))
    plan = [("ema" if averaged else "raw", temperature) for temperature in temperatures]
    if averaged:
        plan.append(("raw", usual_temperature(temperatures)))
    found = []
    for weights, temperature in plan:
        for scale in dict.fromkeys([1.0, *demo.guidance]):
            items = [
                Asked(words, names[words], seed)
                for words in words_P
                if (scale in demo.guidance if words else scale == 1)
                for seed in (seeds if temperature > 0 else seeds[:1])
            ]
            for first in range(0, len(items), MOST_ITEMS):
                found.append(Round(weights, temperature, scale, tuple(items[first : first + MOST_ITEMS])))
    return found


def slugs(words_P: Sequence[Words]) -> list[str]:
    """A short name for each of these words, of a-z, 0-9 and dashes, all different.

    Where it cannot say the words whole (another alphabet, a long text) or would be two's, a few digits of their hash
    follow, so that the same words have the same name next to others wherever they have one.
    """
    plain = [_plain(words) for words in words_P]
    shared = Counter(plain)
    return [
        name if words and whole and shared[name, whole] == 1 and name != NOTHING_ASKED else _hashed(name, words)
        for words, (name, whole) in zip(words_P, plain, strict=True)
    ]


def _plain(words: Words) -> tuple[str, bool]:
    """The slug, and whether nothing but case, accents and punctuation was lost."""
    text = unicodedata.normalize("NFKD", str(words)).casefold()
    letters = "".join(character for character in text if not unicodedata.combining(character))
    name = re.sub("[^a-z0-9]+", "-", letters).strip("-")
    known = all(character.isascii() or not character.isalnum() for character in letters)
    return name[:LONGEST_SLUG].strip("-"), known and 0 < len(name) <= LONGEST_SLUG


def _hashed(name: str, words: Words) -> str:
    if not words:
        return NOTHING_ASKED
    digits = hashlib.sha256(json.dumps(words.to_json(), sort_keys=True).encode()).hexdigest()[:6]
    return f"{name}-{digits}".strip("-")
