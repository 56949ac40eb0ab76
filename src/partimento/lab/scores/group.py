"""What is said of a set of scored files: its distances from the reference, and whether it follows what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from partimento.errors import PartimentoError
from partimento.lab.scores.against import Cut, Reference, Sets, compare, cut_all, piece_seconds, read_all
from partimento.lab.scores.codes import PackCodes
from partimento.lab.scores.embeddings import Embedding
from partimento.lab.scores.following import Following, Similarity, follow, similarity
from partimento.progress import Progress

if TYPE_CHECKING:
    from partimento.lab.score import Scored


class Judge:
    """Embeds the reference once for each length of pieces, for all groups."""

    def __init__(
        self, reference: Reference | None, codes: PackCodes | None, embeddings: Sequence[Embedding], progress: Progress
    ) -> None:
        self._reference, self._codes, self._embeddings, self._progress = reference, codes, embeddings, progress
        self._cuts: dict[tuple[int, float], Cut] = {}

    def of(self, members: Sequence[Scored]) -> tuple[Sets | None, Following | None]:
        told = [one for one in members if one.item.asked is not None]
        following = follow([one.item.asked for one in told if one.item.asked], [one.heard for one in told])
        texts = {str(one.item.path): one.item.asked.words for one in told if one.item.asked and one.item.asked.words}
        chosen = [
            embedding
            for embedding in self._embeddings
            if self._reference is not None or (texts and hasattr(embedding, "texts"))
        ]
        if not chosen:
            return None, following
        lengths = [one.score.measures.seconds for one in members if one.score.measures]
        seconds = [piece_seconds(embedding, lengths) for embedding in chosen]
        self._progress.stage("embed", f"pieces of {len(members)} files in {', '.join(e.name for e in chosen)}")
        paths = [one.item.path for one in members]
        cuts = cut_all(read_all(paths), chosen, seconds, len(paths), self._progress)
        for one in members:
            for embedding, cut in zip(chosen, cuts, strict=True):
                if err := cut.failures.get(str(one.item.path)):
                    one.score.missing[embedding.name] = f"{err.code} {err.message}: {err.why}"
        if following is not None:
            similar = [_similar(*pair, texts) for pair in zip(chosen, cuts, strict=True)]
            following.clap = [one for one in similar if one is not None]
        return self._sets(members, chosen, seconds, cuts), following

    def _sets(
        self, members: Sequence[Scored], chosen: Sequence[Embedding], seconds: Sequence[float], cuts: Sequence[Cut]
    ) -> Sets | None:
        if self._reference is None:
            return None
        counted = [one.counts_KV for one in members if one.counts_KV is not None]
        pooled = self._codes.pooled(np.sum(counted, axis=0)) if self._codes is not None and counted else None
        if len(members) < 2:
            return Sets(self._reference.what, [], pooled)
        wanted = [(number, length) for number, length in enumerate(seconds) if (number, length) not in self._cuts]
        if wanted:
            self._progress.stage("reference", self._reference.what)
            parts = [chosen[number] for number, _ in wanted]
            sounds = self._reference.sounds(max(seconds))
            found = cut_all(sounds, parts, [length for _, length in wanted], len(self._reference), self._progress)
            self._cuts.update(zip(wanted, found, strict=True))
        compared = [
            compare(embedding, length, cut, self._cuts[number, length])
            for number, (embedding, length, cut) in enumerate(zip(chosen, seconds, cuts, strict=True))
        ]
        return Sets(self._reference.what, compared, pooled)


def _similar(embedding: Any, cut: Cut, texts: dict[str, str]) -> Similarity | None:
    """None for an embedding that knows no texts. Raises LAB051 for a checkpoint without a tokenizer."""
    named = [item for item in cut.means if item in texts]
    if not named or not hasattr(embedding, "texts"):
        return None
    audio_ND = np.stack([cut.means[item] for item in named])
    texts_ND = np.asarray(embedding.texts([texts[item] for item in named]), dtype=np.float64)
    if texts_ND.shape != audio_ND.shape or not np.isfinite(texts_ND).all():
        raise PartimentoError(
            "LAB052",
            f"the embedding {embedding.name} failed on the texts",
            why=f"it gave {texts_ND.shape} for {len(named)} texts, or numbers that are not finite",
            next="check the checkpoint: its texts and sounds must lie in one space",
        )
    return similarity(embedding.name, str(getattr(embedding, "sha256", "")), audio_ND, texts_ND)
