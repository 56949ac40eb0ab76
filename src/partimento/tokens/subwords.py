"""Text as the subwords of a published tokenizer (T5's, for MusicGen; Llama's): the `TextCoder` of who reads them.

Shapes: B items, M ids of a text (padded to the coder's length, always).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import tags as tagging
from partimento.tokens.text import PAD, Words, check_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"


@dataclass(frozen=True)
class SubwordText:
    """`folder` holds a tokenizer.json. Tags are spelled, before the text and separated by commas: all can be asked for.

    `bos`: the id that a language model (Llama) reads first, once, whatever the tokenizer would put there itself: every
    prompt begins with it, no words are this id alone, and what looks like a mark in a text is spelled as text. None:
    the marks are the tokenizer's own (T5: one at the end), and no words are no ids.
    `sha256` of the tokenizer.json, where it is kept: with another one the same words are other ids.
    Raises WEIGHTS007 (with `bos`: WEIGHTS023), when first used, where there is no tokenizer in the folder.
    """

    folder: str
    length: int
    bos: int | None = None
    sha256: str | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        return ()

    def require(self, words: Words) -> Words:
        words = Words(tagging.clean(words.tags), words.text.strip())
        check_text(str(words))
        count = len(self.ids(words))
        if count > self.length:
            raise PartimentoError(
                "TEXT001",
                f"the prompt is {count} subwords long, and the model reads {self.length}",
                next="shorten the text",
                ids=count,
                length=self.length,
            )
        return words

    def ids(self, words: Words) -> list[int]:
        """Of the whole words, however many, with BOS or the mark that the tokenizer puts at an end."""
        text = ", ".join(words.tags) + (". " if words.tags and words.text else "") + words.text
        if self.bos is not None:
            return [self.bos, *tokenizer(self.folder, marks=False).encode(text, add_special_tokens=False).ids]
        return list(tokenizer(self.folder).encode(text).ids) if words else []

    def cut(self, words: Words) -> bool:
        return len(self.ids(words)) > self.length

    def batch(self, words_B: Sequence[Words]) -> tuple[Tensor, Tensor]:
        text_BM = np.full((len(words_B), self.length), PAD, dtype=np.int64)
        mask_BM = np.zeros((len(words_B), self.length), dtype=bool)
        for row, words in enumerate(words_B):
            ids = self.ids(words)
            if len(ids) > self.length:  # the mark of the end stays, where there is one
                last = ids[-1] if self.bos is None else ids[self.length - 1]
                ids = [*ids[: self.length - 1], last]
            text_BM[row, : len(ids)] = ids
            mask_BM[row, : len(ids)] = True
        return torch.from_numpy(text_BM), torch.from_numpy(mask_BM)

    def to_json(self) -> dict[str, Any]:
        known = {"kind": "subwords", "folder": self.folder, "length": self.length}
        known |= {} if self.bos is None else {"bos": self.bos}
        return known if self.sha256 is None else {**known, "sha256": self.sha256}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SubwordText:
        """Raises WEIGHTS022, WEIGHTS023 where the hash is kept, and the tokenizer there is another one, or gone."""
        made = cls(stored["folder"], stored["length"], stored.get("bos"), stored.get("sha256"))
        if made.sha256 is not None:
            _verify(Path(made.folder) / FILE, made.sha256)
        return made


@functools.lru_cache(maxsize=4)
def tokenizer(folder: str, *, marks: bool = True) -> Tokenizer:
    """`marks`: whether `<|begin_of_text|>` and the like, written in a text, are read as the ids of marks. Raises
    WEIGHTS007, of a language model (which is read without marks) WEIGHTS023."""
    from tokenizers import Tokenizer

    file = Path(folder) / FILE
    try:
        found = Tokenizer.from_file(str(file))
    except Exception as err:
        if type(err) is not Exception:  # the library raises the bare type, whatever is wrong with a file
            raise
        if not marks:
            raise _unreadable(file, str(err)) from err
        raise PartimentoError(
            "WEIGHTS007",
            "the tokenizer of the weights cannot be read",
            where=str(file),
            why=str(err),
            next="import the weights again: partimento weights import PATH --to FOLDER",
        ) from err
    found.no_truncation()
    found.no_padding()
    found.encode_special_tokens = not marks
    return found


def _verify(file: Path, sha256: str) -> None:
    try:
        now = commit.sha256(file)
    except OSError as err:
        raise _unreadable(file, str(err.strerror)) from err
    if now != sha256:
        raise PartimentoError(
            "WEIGHTS022",
            "the backbone has another tokenizer than the run was built upon",
            where=str(file),
            why=f"its sha256 begins with {now[:12]}, not with {sha256[:12]}: the same words would be other ids",
            next="put the tokenizer.json back that the run was started with",
        )


def _unreadable(file: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS023",
        "the tokenizer of the backbone cannot be read",
        where=str(file),
        why=why,
        next="put the tokenizer.json beside the weights that was published with them",
    )
