"""What is asked of a run: prompts x temperatures x guidance x seeds, one item for each combination.

An item with the frames asked for, the prompt audio and the weights decides what is played; nothing else does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from partimento.errors import PartimentoError
from partimento.sampling.guidance import UNGUIDED, Guidance
from partimento.sampling.rules import Rules
from partimento.tokens.text import NO_WORDS, Words

MOST_SECONDS = 24 * 3600.0
MOST_ITEMS = 100_000
PLAIN = Rules()


@dataclass(frozen=True)
class Item:
    """One thing to play."""

    words: Words
    rules: Rules
    guidance: Guidance
    seed: int

    def to_json(self) -> dict[str, Any]:
        return {
            **self.words.to_json(),
            "temperature": self.rules.temperature,
            "top_k": self.rules.top_k,
            "top_p": self.rules.top_p,
            "min_p": self.rules.min_p,
            "guidance": self.guidance.scale,
            "guidance_rule": self.guidance.rule,
            "guidance_top_k": self.guidance.top_k,
            "guidance_fade": self.guidance.fade,
            "guidance_from": self.guidance.begin,
            "guidance_to": self.guidance.end,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Item:
        """Raises KeyError, TypeError or SAMPLE... where `tree` is not what `to_json` gives."""
        if not isinstance(tree["text"], str) or not all(isinstance(tag, str) for tag in tree["tags"]):
            raise TypeError("tags and text are not words")
        return cls(
            words=Words(tuple(tree["tags"]), tree["text"]),
            rules=Rules(
                temperature=float(tree["temperature"]),
                top_k=int(tree["top_k"]),
                top_p=float(tree["top_p"]),
                min_p=float(tree["min_p"]),
            ),
            guidance=Guidance(
                scale=float(tree["guidance"]),
                rule=tree["guidance_rule"],
                top_k=int(tree["guidance_top_k"]),
                fade=tree["guidance_fade"],
                begin=float(tree["guidance_from"]),
                end=float(tree["guidance_to"]),
            ),
            seed=int(tree["seed"]),
        )


@dataclass(frozen=True)
class Asked:
    """A whole request. `guidance` with rule None takes the rule that the checkpoint was made for.

    Raises SAMPLE030 (seconds, counts), SAMPLE001 and SAMPLE010 (rules and guidance out of range) before anything is
    loaded.
    """

    words: tuple[Words, ...] = (NO_WORDS,)
    seconds: float = 10.0
    temperatures: tuple[float, ...] = (1.0,)
    scales: tuple[float, ...] = (1.0,)
    rules: Rules = PLAIN
    guidance: Guidance = UNGUIDED
    guidance_rule: Literal["mix", "filter"] | None = None
    seed: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        for value in self.temperatures:
            replace(self.rules, temperature=value)
        for scale in self.scales:
            replace(self.guidance, scale=scale)
        items = len(self.words) * len(self.temperatures) * len(self.scales) * self.count
        for fits, what, remedy in (
            (0 < self.seconds <= MOST_SECONDS, f"{self.seconds:g} seconds", f"0 to {MOST_SECONDS:g} s, more than 0"),
            (self.count >= 1, f"{self.count} samples", "--count 1 or more"),
            (items > 0, "no prompt, temperature or guidance", "at least one of each"),
            (items <= MOST_ITEMS, f"{items} items", f"at most {MOST_ITEMS} at once, in one folder"),
        ):
            if not fits:
                raise impossible(f"{what} cannot be played", remedy)

    def items(self, rule: Literal["mix", "filter"] = "mix") -> list[Item]:
        """Every combination once: prompts outermost, seeds innermost. At temperature 0 all seeds play the same, so
        there is one; an empty prompt beside others has nothing to guide to, and is played once, without. `rule` is the
        checkpoint's, for where none was asked for."""
        found: list[Item] = []
        guided = replace(self.guidance, rule=self.guidance_rule or rule)
        for words, temperature, scale in itertools.product(self.words, self.temperatures, self.scales):
            rules = replace(self.rules, temperature=temperature)
            nothing = not words and any(self.words)
            guidance = UNGUIDED if scale == 1 or nothing else replace(guided, scale=scale)
            seeds = range(self.seed, self.seed + (self.count if temperature > 0 else 1))
            found += [Item(words, rules, guidance, seed) for seed in seeds]
        return list(dict.fromkeys(found))


def impossible(message: str, remedy: str) -> PartimentoError:
    return PartimentoError("SAMPLE030", message, next=f"ask for {remedy}")


def numbers(given: float | Iterable[float]) -> tuple[float, ...]:
    """One number or several as a tuple of different ones."""
    several = [given] if isinstance(given, int | float) else list(given)
    return tuple(dict.fromkeys(map(float, several)))
