"""What the items of a task of codes are told, what of it is lost, and what words cost who hears nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.tensor import DTensor
from torch.nn import functional

from partimento.config import CodesConfig, DiaModel, MotModel, RvqConfig
from partimento.models.mixture import MixtureModel
from partimento.tokens import counting
from partimento.tokens.draw import Draw
from partimento.tokens.pack import Pack
from partimento.tokens.tagtable import tag_table
from partimento.tokens.text import TagWords, TextCoder, Words
from partimento.training.built import Coder

MOST_TEXTS = 100_000  # of the training that are looked through
_AT_ONCE = 4  # texts of which all logits are held

Told = Literal["tags", "caption", "both"] | None


def told_of(config: CodesConfig) -> Told:
    """Of what an item's text is made; None for a model that reads none."""
    return None if isinstance(config, RvqConfig) else config.data.text


def tags_of(config: CodesConfig, pack: Pack, clips: NDArray[np.integer]) -> tuple[str, ...]:
    """The tags that the model has a place for: those of the clips that are trained on."""
    model = config.model
    if isinstance(model, MotModel) or not (model.tag_tokens if isinstance(model, DiaModel) else model.tags):
        return ()
    if told_of(config) == "caption":
        return ()
    return tuple(tag_table(pack.clips).vocabulary(clips))


def has_captions(config: CodesConfig, pack: Pack, clips: NDArray[np.integer]) -> bool:
    """Whether any of these clips has a caption to be told."""
    if told_of(config) not in ("caption", "both"):
        return False
    captions = pack.clips.caption.arrow.take(clips).to_pylist()
    return any((caption or "").strip() for caption in captions)


def lost(coder: Coder, draw: Draw) -> list[str]:
    """Notes on the tags that weights which were trained with others have no id for, and on texts that are too long."""
    notes = []
    if draw.words not in (None, "caption") and coder.tags:
        theirs = tag_table(draw.pack.clips).vocabulary(draw.clips)
        if unknown := [tag for tag in theirs if tag not in coder.tags]:
            named = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
            notes.append(f"{len(unknown)} of {len(theirs)} tags have no id in the weights, and are not told: {named}")
    if not isinstance(coder, TagWords):
        texts = texts_of(draw)
        if not any(texts):
            notes.append("no clip has tags or a caption: what encodes them learns nothing (docs/labels.md)")
        if long := sum(coder.cut(words) for words in texts):
            notes.append(f"{long} of {len(texts)} texts are longer than {coder.length} ids, and are cut there")
    return notes


def texts_of(draw: Draw) -> list[Words]:
    """All that there is to tell of the clips of a draw, MOST_TEXTS of them at most."""
    return [draw.words_of(clip) for clip in draw.clips[:MOST_TEXTS].tolist()]


def said(coder: TextCoder, words: Words, bos: int) -> list[int]:
    """The ids that who has heard an item predicts: of its text those behind the first, then BOS, which ends it."""
    text_1M, mask_1M = coder.batch([words])
    return [*text_1M[0, : int(mask_1M.sum())].tolist()[1:], bos]


def floors(module: MixtureModel, coder: TextCoder, seen: Sequence[Words], held: Sequence[Words]) -> dict[str, float]:
    """What the words of the held-out items cost, nats an id, without any sound: by how often each id occurs in those
    `seen` in training (unigram_caption_ce, smoothed as that of the codes: `tokens.counting`), and by the Llama as it
    is (llama_caption_ce; not where its weights are in shares). {} where nothing is held out."""
    if not held:
        return {}
    seen_V, held_V = (_counts(module, coder, texts) for texts in (seen, held))
    found = {"unigram_caption_ce": counting.unigram_ce(seen_V, held_V)}
    if not any(isinstance(weight, DTensor) for weight in module.llama.parameters()):
        found["llama_caption_ce"] = _unheard(module, coder, held)
    return found


def _counts(module: MixtureModel, coder: TextCoder, texts: Sequence[Words]) -> counting.Counts:
    bos, size = module.llama.config.bos, module.llama.config.vocabulary
    ids = np.fromiter((number for words in texts if words for number in said(coder, words, bos)), dtype=np.int64)
    return counting.Counts(np.bincount(ids, minlength=size), np.zeros((0, 0), dtype=np.int64))


@torch.no_grad()
def _unheard(module: MixtureModel, coder: TextCoder, held: Sequence[Words]) -> float:
    llama, total, count = module.llama, 0.0, 0
    for texts in _parts(held):
        text_BM, mask_BM = coder.batch(texts)
        steps = int(mask_BM.sum(1).max())
        logits_BMV = llama(text_BM[:, :steps].to(llama.embedding.weight.device)).float().cpu()
        for words, logits_MV in zip(texts, logits_BMV, strict=True):
            ids_M = torch.tensor(said(coder, words, llama.config.bos))
            total += float(functional.cross_entropy(logits_MV[: len(ids_M)], ids_M, reduction="sum"))
            count += len(ids_M)
    return total / count


def _parts(held: Sequence[Words]) -> Iterator[Sequence[Words]]:
    for first in range(0, len(held), _AT_ONCE):
        yield held[first : first + _AT_ONCE]
