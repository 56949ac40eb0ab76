"""What a licence asks for, read from its URI, SPDX id or name; and which licences one may use.

Nothing is guessed: every word of the text must be understood and all of it must agree, else it cannot be parsed. A text
such as "CC BY 4.0, personal use only" therefore is no CC BY.

A licence says what is asked for, never what a law allows without one: that is for its reader to judge.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import dataclass, fields
from functools import lru_cache

from partimento.errors import PartimentoError
from partimento.tokens.licence_names import OBLIGATIONS, URL, Licence, by_url, by_words, unparsed

__all__ = ["OBLIGATIONS", "Allowed", "Licence", "parse", "read"]

LONGEST = 2000  # characters of a licence text; a whole licence is not its name


def read(text: str | None) -> Licence | None:
    """The licence that `text` names, None where there is no text or it cannot be parsed."""
    if text is None or not text.strip():
        return None
    try:
        return parse(text)
    except PartimentoError:
        return None


@lru_cache(maxsize=4096)  # collections have few licences and many recordings
def parse(text: str) -> Licence:
    """The licence that `text` names.

    Raises LICENCE001 where any part of it is not understood, or where its parts contradict one another.
    """
    if len(text) > LONGEST:
        raise unparsed(text, f"it is longer than {LONGEST} characters")
    plain = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    embedded = _EMBEDDED.fullmatch(plain)
    if embedded:  # who holds the rights stands before the licence and says nothing about it
        if _RESTRICTS.search(embedded["holder"]):
            raise unparsed(text, f"{embedded['holder'].strip()!r} restricts what follows")
        plain = embedded["licence"]
    found: list[Licence] = []
    for part in URL.split(plain):
        found += [by_url(part, text)] if URL.fullmatch(part) else by_words(part, text)
    if not found:
        raise unparsed(text, "it names no licence")
    first = next((licence for licence in found if licence.uri), found[0])
    for licence in found:
        versions = {version for version in (_version(first), _version(licence)) if version}
        if licence.obligations != first.obligations or len(versions) > 1:
            raise unparsed(text, f"it names two different licences, {first.name} and {licence.name}")
    return first


@dataclass(frozen=True)
class Allowed:
    """The obligations that are acceptable. By default attribution and share-alike; non-commercial and no-derivatives
    only if asked for."""

    attribution: bool = True
    non_commercial: bool = False
    no_derivatives: bool = False
    share_alike: bool = True

    @classmethod
    def parse(cls, text: str) -> Allowed:
        """From names separated by commas, such as "attribution,share-alike"; "none" allows no obligation at all.

        Raises LICENCE004 for an unknown name.
        """
        names = [name.strip().lower().replace("-", "_").replace(" ", "_") for name in text.split(",")]
        names = [_SHORT.get(name, name) for name in names]
        for name in names:
            if name not in OBLIGATIONS and not (name == "none" and len(names) == 1):
                near = difflib.get_close_matches(name, OBLIGATIONS, n=1)
                raise PartimentoError(
                    "LICENCE004",
                    f"{name.replace('_', '-') or 'an empty name'!r} is no obligation of a licence"
                    + (f"; did you mean {near[0].replace('_', '-')!r}?" if near else ""),
                    next="name some of attribution, share-alike, non-commercial, no-derivatives; or none",
                )
        return cls(**{field.name: field.name in names for field in fields(cls)})

    def check(self, text: str | None) -> Licence:
        """The licence that `text` names.

        Raises LICENCE003 (no text), LICENCE001 (cannot be parsed) and LICENCE002 (asks for more than is acceptable).
        """
        if text is None or not text.strip():
            raise PartimentoError(
                "LICENCE003",
                "there is no licence",
                why="what may be done with the recording is not known",
                next="give its licence in tags.jsonl, or in a pack with `partimento pack edit`",
            )
        licence = parse(text)
        refused = [name.replace("_", "-") for name in licence.obligations if not getattr(self, name)]
        if refused:
            raise PartimentoError(
                "LICENCE002",
                f"{licence.name} is not among the licences allowed",
                where=text,
                why=f"it asks for {' and '.join(refused)}",
                next="leave the recording out, or allow that obligation",
            )
        return licence

    def __str__(self) -> str:
        return ",".join(name.replace("_", "-") for name in OBLIGATIONS if getattr(self, name)) or "none"


# Copyright notices as Creative Commons tells to embed them in files: "2004 A Band. Licensed to the public under URI
# verify at URL".
_EMBEDDED = re.compile(r"(?P<holder>.*)\blicensed to the public under (?P<licence>\S+?)[.,;]?(?: verify at \S+)?")
_RESTRICTS = re.compile(r"all rights reserved|\bnon\b|\bnon-?commerc|\bno\b|\bnot\b|\bonly\b|\bexcept\b|\bwithout\b")
_SHORT = {"by": "attribution", "nc": "non_commercial", "nd": "no_derivatives", "sa": "share_alike"}


def _version(licence: Licence) -> str:
    found = re.search(r"\d\.\d", licence.name)
    return found[0] if found else ""
