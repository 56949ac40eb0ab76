"""One vocabulary of text and audio: which id each code of a clip has beside the ids of a language model's text.

The codes of a clip are interleaved frame by frame, c[0,0] c[0,1] .. c[0,K-1] c[1,0] .., so that place p of the audio is
frame p // K of book p % K. After the ids of the text stands

    own      a block for every book:            id = text + book * cardinality + code
    shared   one block, which all books share:  id = text + code; the book of an id is told by its place alone

Offsets and interleaving are here and nowhere else, with their exact inverse.
Shapes: T frames, K codebooks; a batch in front of either is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from partimento.errors import PartimentoError

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["own", "shared"]


@dataclass(frozen=True)
class AudioVocabulary:
    """`text` ids of text, then the audio's. Raises TOKEN020 for numbers that no vocabulary has.

    >>> AudioVocabulary(128256, 1, 2048, "shared").size  # Llama 3 and one block of EnCodec's codes
    130304
    """

    text: int
    codebooks: int
    cardinality: int
    kind: Kind = "own"

    def __post_init__(self) -> None:
        numbers = (self.text, self.codebooks, self.cardinality)
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        if not whole or self.text < 0 or min(numbers[1:]) < 1 or self.kind not in ("own", "shared"):
            raise PartimentoError(
                "TOKEN020",
                f"not a vocabulary: {self.text} ids of text, {self.codebooks} codebooks of {self.cardinality}, "
                f"{self.kind!r}",
                next="set model.vocabulary to own or shared, for a codec of at least one codebook",
            )

    @property
    def audio(self) -> int:
        """Ids of audio."""
        return self.cardinality * (self.codebooks if self.kind == "own" else 1)

    @property
    def size(self) -> int:
        return self.text + self.audio

    def block(self, book: int) -> range:
        """The ids that codes of this book have."""
        if not 0 <= book < self.codebooks:
            raise IndexError(f"book {book} of {self.codebooks}")
        first = self.text + (book * self.cardinality if self.kind == "own" else 0)
        return range(first, first + self.cardinality)

    def legal(self, position: int) -> range:
        """The ids that may stand at this place of the audio, counted from its first code."""
        if position < 0:
            raise IndexError(f"place {position} of the audio")
        return self.block(position % self.codebooks)

    def ids(self, codes_TK: Tensor) -> Tensor:
        """codes [.., T, K] -> ids [.., T * K], int64. Raises TOKEN021: not K books (T and K changed places, perhaps),
        or a code that its book does not have (a special of a grid)."""
        if codes_TK.ndim < 2 or codes_TK.shape[-1] != self.codebooks:
            raise PartimentoError(
                "TOKEN021",
                f"codes of shape {list(codes_TK.shape)} are not frames of {self.codebooks} codebooks",
                next="give them frame by frame: [T, K]",
            )
        codes_TK = codes_TK.long()
        wrong = (codes_TK < 0) | (codes_TK >= self.cardinality)
        if wrong.any():
            *_, t, k = (int(i) for i in wrong.nonzero()[0])
            raise PartimentoError(
                "TOKEN021",
                f"{int(codes_TK[wrong][0])} is no code: a codebook has {self.cardinality}",
                where=f"frame {t}, codebook {k}",
                next="give codes alone: a grid's specials have no id here",
            )
        return (codes_TK + self._first(codes_TK)).flatten(-2)

    def codes(self, ids: Tensor) -> Tensor:
        """ids [.., T * K] -> codes [.., T, K], int64: the exact inverse of `ids`.

        Raises TOKEN022 for an id that is not legal at its place, or a last frame that is not whole.
        """
        if ids.ndim < 1 or ids.shape[-1] % self.codebooks:
            raise PartimentoError(
                "TOKEN022",
                f"ids of shape {list(ids.shape)} are not whole frames of {self.codebooks} codes",
                next="cut them to a multiple of the codebooks",
            )
        ids_TK = ids.long().unflatten(-1, (-1, self.codebooks))
        codes_TK = ids_TK - self._first(ids_TK)
        wrong = (codes_TK < 0) | (codes_TK >= self.cardinality)
        if wrong.any():
            *_, t, k = (int(i) for i in wrong.nonzero()[0])
            place, legal = t * self.codebooks + k, self.block(k)
            raise PartimentoError(
                "TOKEN022",
                f"id {int(ids_TK[wrong][0])} stands where one of {legal.start} to {legal.stop - 1} must",
                where=f"place {place} of the audio (frame {t}, codebook {k})",
                next="draw from the legal ids of each place only, and give the audio from its first code on",
            )
        return codes_TK

    def _first(self, like: Tensor) -> Tensor:
        """[K]: the first id of each book."""
        import torch  # here: a report counts ids, and never needs it

        return torch.tensor([self.block(book).start for book in range(self.codebooks)], device=like.device)
