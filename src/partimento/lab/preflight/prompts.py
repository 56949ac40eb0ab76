"""The check of a prompt: what is given is laid out, played on, and must come back as it was given."""

from __future__ import annotations

import contextlib

import numpy as np
import torch

from partimento.errors import PartimentoError
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped
from partimento.sampling.rules import Rules
from partimento.tokens.text import NO_WORDS, Words
from partimento.training.tasks.codes import CodesTask

MOST_FRAMES = 16
MOST_CLIPS = 1000  # among which words are looked for
REMEDY = "codes become a grid and a grid codes in tokens.patterns alone, for training and playing: undo the change"


def prompt_comes_back(bench: Bench) -> Check:
    """A prompt and one frame more are played as `sample` plays them: the frames of the prompt are those of the pack."""
    task = bench.codes
    if task is None:
        return skipped("prompt", "asked of models of codes")
    words = _words(task)
    if words is None:
        return skipped("prompt", "no clip has words that can be asked for, and playing without them is not trained")
    pattern, clip = task.pattern, bench.batch_where(kept=True).items[0][0]
    room = (task.window - pattern.max_delay) // pattern.stride - 1
    frames = min(MOST_FRAMES, room, int(task.pack.clips.frames[clip]))
    if frames < 1:
        return skipped("prompt", "a window has no room for a frame and one more")
    prompt_TK = torch.from_numpy(np.asarray(task.pack.read(clip, 0, frames)).astype(np.int64))
    task.module.eval()
    try:
        (played,) = task.player.play(
            frames=frames + 1,
            seeds=[0],
            rules=Rules(temperature=0.0),
            words=words,
            prompt_BTK=prompt_TK[None],
        )
    finally:
        task.module.train()
    back_TK = played.codes_TK[:frames].cpu()
    if len(back_TK) < frames:
        return failed("prompt", f"{frames} frames were given, and {len(back_TK)} came back", REMEDY)
    wrong_TK = back_TK != prompt_TK
    if bool(wrong_TK.any()):
        frame, book = (int(place) for place in wrong_TK.nonzero()[0])
        found = (
            f"{int(wrong_TK.sum())} of {wrong_TK.numel()} codes of a prompt came back as others, the first in frame "
        )
        found += f"{frame}, book {book + 1}: {int(back_TK[frame, book])} for {int(prompt_TK[frame, book])}"
        return failed("prompt", found, REMEDY)
    return passed("prompt", f"{frames} frames of {task.pack.clips.clip[clip]} came back, with one more")


def _words(task: CodesTask) -> Words | None:
    """Of the first clip whose words can be asked for; or none, where that can be played."""
    told = (task.train.words_of(clip) for clip in task.train.clips[:MOST_CLIPS].tolist())
    for words in (*told, NO_WORDS):
        with contextlib.suppress(PartimentoError):  # too long, or tags that the weights do not know
            return task.player.require(words)
    return None
