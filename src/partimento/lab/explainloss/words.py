"""The words that a mixture learns to tell from sound: what they cost, held against who hears nothing."""

from __future__ import annotations

import math

from partimento.lab.explainloss.explained import Cell, Part
from partimento.lab.explainloss.floors import bits, perplexity
from partimento.lab.explainloss.record import Record
from partimento.lab.explainloss.yardstick import text_ids
from partimento.lab.verdict import latest
from partimento.runs.events import Event

ALIKE = 0.02  # nats an id under which two figures are one


def parts(record: Record, valid: Event, baseline: Event) -> list[Part]:
    """One part where the run learns captions, else none."""
    if not record.section("model").get("caption_share"):
        return []
    ids, unigram, alone = text_ids(record), baseline.get("unigram_caption_ce"), baseline.get("llama_caption_ce")
    heard, line = valid.get("caption_ce"), latest(record.events, "train") or {}
    named = [
        ("guessing among all ids (ln V)", math.log(ids) if ids else None),
        ("unigram: how often each id occurs", unigram),
        ("the Llama as it came, without the sound", alone),
        ("the model, in training (last line)", line.get("caption_ce")),
        ("the model, held-out, from the sound", heard),
    ]
    rows: list[list[Cell]] = [[name, value, bits(value), perplexity(value)] for name, value in named]
    prose = [
        "Held-out words (tags, captions, the end) but for the line of the training; the unigram is counted on those of "
        "the training. The Llama reads each text alone: what it costs there is grammar, and names no sound."
    ]
    floors = [value for value in (unigram, alone) if value is not None]
    if heard is not None and floors:
        prose.append(_told(heard, min(floors), math.isclose(min(floors), unigram or -1.0)))
    return [Part("The words, told from the sound", prose, ["", "nats an id", "bits an id", "perplexity"], rows)]


def _told(heard: float, floor: float, counted: bool) -> str:
    by = "counting how often each id occurs" if counted else "the Llama without the sound"
    if heard < floor - ALIKE:
        return (
            f"They cost {floor - heard:.2f} nats an id less than {by}. That is not all hearing: how these captions are "
            "worded is learned too. Captions of the right and of another sound tell the two apart."
        )
    if heard > floor + ALIKE:
        return f"They still cost {heard - floor:.2f} nats an id more than {by}: nothing says yet that it listens."
    return f"They cost as much as {by}: nothing says yet that it listens."


def missing(record: Record, valid: Event, baseline: Event) -> list[str]:
    if not record.section("model").get("caption_share"):
        return []
    found = []
    if baseline and baseline.get("unigram_caption_ce") is None:
        found.append("What words cost by counting: this run did not log it, or no held-out item has words.")
    elif baseline and baseline.get("llama_caption_ce") is None:
        found.append("What words cost the Llama without the sound: not looked at where weights are in shares.")
    if valid and valid.get("caption_ce") is None:
        found.append("What held-out words cost: no held-out item has any, or it was not logged.")
    return found
