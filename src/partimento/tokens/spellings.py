"""Tags that may be one: spelt alike, for a person to look at and write aliases of. Nothing is merged here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MOST_OF_ONE_KIND = 200  # tags that are compared with one another; the rarer ones of a bigger group are not
ALIKE = 0.54  # of difflib's ratio between the words that differ ("voice", "vocals": 0.55; "harp", "harpsichord": 0.53)


@dataclass(frozen=True)
class Pair:
    """Two tags and how often each occurs, the commoner first: `tag` is what `other` may be an alias for."""

    tag: str
    count: int
    other: str
    other_count: int
    why: str


def alike(counts: Mapping[str, int]) -> list[Pair]:
    """Pairs of tags that may mean the same, surest first: equal but for case or signs, singular and plural, alike in
    one word. Tags that differ in a number ("112 bpm", "120 bpm") or a negation are never a pair."""
    order = sorted(counts, key=lambda tag: (-counts[tag], tag))
    found: dict[tuple[str, str], tuple[float, str]] = {}
    for key, why, sure in ((_letters, "case or signs", 3.0), (_singular, "singular and plural", 2.0)):
        groups: dict[str, list[str]] = {}
        for tag in order:
            if key(tag):
                groups.setdefault(key(tag), []).append(tag)
        for first, *others in groups.values():
            for other in others:
                found.setdefault((first, other), (sure, why))
    for first, other, ratio in _words_alike(order):
        found.setdefault((first, other), (ratio, "spelt alike"))
    ranked = sorted(found.items(), key=lambda item: (-item[1][0], -counts[item[0][1]], item[0]))
    return [Pair(a, counts[a], b, counts[b], why) for (a, b), (_, why) in ranked]


def _letters(tag: str) -> str:
    return re.sub(r"[\W_]+", "", tag.casefold())


def _singular(tag: str) -> str:
    return " ".join(re.sub(r"(?<=\w\w)(?:(?<=s|x|z)es|(?<!s)s)$", "", word) for word in tag.casefold().split())


def _words_alike(order: list[str]) -> Iterator[tuple[str, str, float]]:
    """Pairs that differ in one word, both forms of which begin with the same two letters and are alike."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for tag in order:
        words = tag.casefold().split()
        for place, word in enumerate(words):
            if len(word) > 3 and word.isalpha():
                group = groups.setdefault((*words[:place], word[:2] + "*", *words[place + 1 :]), [])
                if len(group) < MOST_OF_ONE_KIND:
                    group.append(tag)
    for key, group in groups.items():
        place = next(i for i, word in enumerate(key) if word.endswith("*"))
        words = [tag.casefold().split()[place] for tag in group]
        for i, first in enumerate(group):
            for j in range(i + 1, len(group)):
                ratio = difflib.SequenceMatcher(None, words[i], words[j]).ratio()
                if ratio >= ALIKE and words[i] != words[j]:
                    yield first, group[j], ratio
