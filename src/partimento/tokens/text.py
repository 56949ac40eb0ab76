"""Words: what an item is told besides its codes, and how they become the ids that a text encoder reads.

The ids of a text are its UTF-8 bytes, as in Dia; a few of the control codes that no text needs stand for speakers and
languages, and a model trained with `tag_tokens` has one more id for each tag.
Shapes: B items, M ids of a text (padded to the coder's length, always: shapes do not depend on what is said).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.tokens import tags as tagging

BYTES = 256
PAD = 0
MARKS = {
    "[S1]": 1,
    "[S2]": 2,
    "[en]": 3,
    "[de]": 4,
    "[fr]": 5,
    "[es]": 6,
    "[it]": 7,
    "[nl]": 14,
    "[pl]": 15,
    "[pt]": 16,
    "[tr]": 17,
    "[hu]": 18,
}
"""Speakers (Dia) and languages (its multilingual fine-tunes): what is written so in a text is one id."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MARK = re.compile("(" + "|".join(re.escape(mark) for mark in MARKS) + ")")


@dataclass(frozen=True)
class Words:
    """Tags, and free text. Without either nothing is asked: the null condition."""

    tags: tuple[str, ...] = ()
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.tags or self.text)

    def __str__(self) -> str:
        return " | ".join(part for part in (", ".join(self.tags), self.text) if part)

    @classmethod
    def parse(cls, line: str) -> Words:
        """From tags separated by commas, then, after a bar, text: "techno, A minor | a dark pulse", "| a waltz"."""
        tags, _, text = line.partition("|")
        return cls(tagging.clean(tags.split(",")), text.strip())

    def to_json(self) -> dict[str, Any]:
        return {"tags": list(self.tags), "text": self.text}


NO_WORDS = Words()


class TextCoder(Protocol):
    """Words to ids and back to nothing else: one for each kind of text encoder."""

    @property
    def length(self) -> int:
        """M."""

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that can be asked for; () if any can, because they are spelled."""

    def require(self, words: Words) -> Words:
        """The words, cleaned, once it is sure that the model can be told them whole. Raises TEXT001, TEXT002,
        TOKEN003."""

    def cut(self, words: Words) -> bool:
        """Whether `batch` leaves a part of them out."""

    def batch(self, words_B: Sequence[Words]) -> tuple[Tensor, Tensor]:
        """text_BM int64 and mask_BM bool (True: an id, False: padding) on the host. What is too long is cut, and tags
        without an id are left out: clips are as they are, and who asks goes through `require`."""

    def to_json(self) -> dict[str, Any]:
        """From which `training.building.coder` makes it again."""


@dataclass(frozen=True)
class ByteText:
    """Dia's text: bytes, with `MARKS`; tag number i of `tags` is id 256 + i. Tags come first, then the text.

    `reads`: whether bytes meant anything in the training. Beside tags that have ids of their own, nothing is spelled
    where no clip has a caption, and what a text would do then is chance.
    """

    length: int
    tags: tuple[str, ...] = ()
    reads: bool = True

    @property
    def vocabulary(self) -> int:
        return BYTES + len(self.tags)

    def require(self, words: Words) -> Words:
        tags = tagging.require(words.tags, self.tags) if self.tags else tagging.clean(words.tags)
        words = Words(tags, words.text.strip())
        if words.text and not self.reads:
            raise _no_reader("no clip that it learned from had a caption", self.tags)
        check_text(str(words))
        if len(self.ids(words)) > self.length:
            raise PartimentoError(
                "TEXT001",
                f"the prompt is {len(self.ids(words))} ids long, and the model reads {self.length}",
                why="a byte of UTF-8 is one id" + (", a tag is one, too" if self.tags else ""),
                next="shorten the text",
                ids=len(self.ids(words)),
                length=self.length,
            )
        return words

    def ids(self, words: Words) -> list[int]:
        """Of the whole words, however many."""
        if not self.tags:
            return _bytes(", ".join(words.tags) + (". " if words.tags and words.text else "") + words.text)
        columns = {tag: BYTES + number for number, tag in enumerate(self.tags)}
        return [columns[tag] for tag in words.tags if tag in columns] + _bytes(words.text)

    def cut(self, words: Words) -> bool:
        return len(self.ids(words)) > self.length

    def batch(self, words_B: Sequence[Words]) -> tuple[Tensor, Tensor]:
        text_BM = np.full((len(words_B), self.length), PAD, dtype=np.int64)
        mask_BM = np.zeros((len(words_B), self.length), dtype=bool)
        for row, words in enumerate(words_B):
            ids = self.ids(words)[: self.length]
            text_BM[row, : len(ids)] = ids
            mask_BM[row, : len(ids)] = True
        return torch.from_numpy(text_BM), torch.from_numpy(mask_BM)

    def to_json(self) -> dict[str, Any]:
        known = {"kind": "bytes", "length": self.length, "tags": list(self.tags)}
        return known if self.reads else {**known, "reads": False}


def _bytes(text: str) -> list[int]:
    """Control characters, which a clip's caption may hold, are left out: their ids are those of the marks."""
    ids: list[int] = []
    for part in _MARK.split(_CONTROL.sub("", text)):
        ids += [MARKS[part]] if part in MARKS else part.encode()
    return ids


def check_text(text: str) -> None:
    """Raises TEXT002 for what is no text: half of a surrogate pair (of bytes that are not UTF-8), control characters
    (their ids mean speakers and languages)."""
    for place, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            raise PartimentoError(
                "TEXT002",
                f"the prompt is not plain text: character {place} is {character.encode('unicode_escape').decode()}",
                why="it is a control character, or bytes that are not UTF-8",
                next="write speakers as [S1] and [S2], languages as [en]; save the prompt as UTF-8",
            )


def _no_reader(why: str, tags: Sequence[str]) -> PartimentoError:
    return PartimentoError(
        "TEXT003",
        "this model reads tags, not text",
        why=why,
        next=f"choose tags from: {', '.join(tags[:20])}" if tags else "leave the prompt out",
    )


@dataclass(frozen=True)
class TagWords:
    """For models that know tags and no text: their condition is a multi-hot row."""

    tags: tuple[str, ...]

    def require(self, words: Words) -> Words:
        """The words, cleaned. Raises TOKEN003 (unknown tag), TEXT003 (there is text)."""
        if words.text:
            raise _no_reader("its family has no text encoder", self.tags)
        return Words(tagging.require(words.tags, self.tags))

    def batch(self, words_B: Sequence[Words]) -> tuple[Tensor, ...]:
        """(tags_BG,) float32."""
        return (torch.from_numpy(np.stack([tagging.multi_hot(words.tags, self.tags) for words in words_B])),)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "tags", "tags": list(self.tags)}
