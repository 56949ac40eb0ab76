"""Check of a mixture's ids: text and audio as one vocabulary, and where the model keeps the rows of its codes."""

from __future__ import annotations

import numpy as np
import torch

from partimento.errors import PartimentoError
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped
from partimento.tokens.vocabulary import AudioVocabulary

FRAMES = 256  # of a clip that is drawn

_REMEDY = "offsets and interleaving have one owner (tokens.vocabulary); undo the change"


def ids_return(bench: Bench) -> Check:
    """Codes of the pack as ids beside those of the text, each legal at its place, and back; the rows of a codebook in
    the model begin where its block does."""
    task, model = bench.codes, bench.mixture
    if task is None or model is None:
        return skipped("vocabulary", "there are no ids of text beside those of codes")
    config = model.decoder.config
    vocabulary = AudioVocabulary(
        config.llama.vocabulary, config.codebooks, task.pack.spec.cardinality, config.vocabulary
    )
    clip = task.train.items(range(1))[0].clip
    frames = min(FRAMES, int(task.pack.clips.frames[clip]))
    codes_TK = torch.from_numpy(task.pack.read(clip, 0, frames).astype(np.int64))
    ids = vocabulary.ids(codes_TK)
    where = f"{task.pack.clips.clip[clip]}, {frames} frames"
    illegal = [place for place, one in enumerate(ids.tolist()) if one not in vocabulary.legal(place)]
    if illegal:
        found = f"id {int(ids[illegal[0]])} at place {illegal[0]} of {where} is none of the codebook that stands there"
        return failed("vocabulary", found, _REMEDY)
    try:
        back_TK = vocabulary.codes(ids)
    except PartimentoError as err:
        return failed("vocabulary", f"ids of {where} are refused: {err.message}", _REMEDY, err.code)
    if not torch.equal(back_TK, codes_TK):
        wrong = int((back_TK != codes_TK).sum()) if back_TK.shape == codes_TK.shape else codes_TK.numel()
        found = f"{wrong} of {codes_TK.numel()} codes of {where} are others when they come back from their ids"
        return failed("vocabulary", found, _REMEDY)
    # A table of the model has rows for specials too, behind the codes of each book.
    apart = config.rows - vocabulary.cardinality if config.vocabulary == "own" else 0
    right = [vocabulary.block(k).start - vocabulary.text + k * apart for k in range(config.codebooks)]
    there = model.decoder.offsets_K.tolist()
    if there != right:
        found = f"the rows of the codebooks begin at {there}, and by their ids at {right}"
        return failed("vocabulary", found, _REMEDY)
    return passed("vocabulary", f"{vocabulary.size:,} ids; {where} come back from theirs")
