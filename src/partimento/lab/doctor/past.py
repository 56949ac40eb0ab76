"""Whether a model of codes uses what came before: a loss that stays at what a table of neighbouring codes reaches."""

from __future__ import annotations

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import series
from partimento.lab.doctor.patient import Patient
from partimento.lab.explainloss import trained
from partimento.lab.verdict import latest

STEPS = 150  # optimizer steps, under which nobody knows
LEARNED = 0.98  # share of the unigram that it must have come under: else it has learned nothing yet, of anything
TABLE = 0.97  # share of the bigram, on held-out codes, over which it is no better than that table
# Held-out codes that cost more than this share of the table's: it has not learned the table either, for which a row
# alone is enough. It is young, or learned too much by heart, and says nothing of the past.
NEAR = 1.1
STANDS = 0.03  # share by which the last third of the curve may still fall
APART = 0.1  # of the training loss, over which held-out codes cost more where a model knows its clips by heart
AGAIN = 5.0  # epochs: a model that sees the past knows the clips better than any table by then, if only by heart


def examine(patient: Patient) -> Examined:
    """By book 1, whose past says the most. The table is judged on held-out codes, and so is the model, as long as both
    losses are alike; one that knows its clips by heart is judged by its training loss, which sinks by memory alone
    where the past is seen."""
    baseline = latest(patient.events, "baseline") or {}
    unigram, bigram = (((baseline.get(f"{name}_ce_K") or [None])[0]) for name in ("unigram", "bigram"))
    train = patient.log.series("ce_K.0")
    if unigram is None or bigram is None or not len(train):
        if patient.family in ("rvq", "dia", "mot"):
            return Examined(missing=("Whether the past is used: the log has no counts, or no loss of book 1.",))
        return Examined()
    if bigram > TABLE * unigram or patient.log.step < STEPS or len(train) < 6:
        why = "neighbouring codes say little in this data" if bigram > TABLE * unigram else "the run is too short"
        return Examined(missing=(f"Whether the past is used: {why}.",))
    held = series(patient.log.valid(patient.log.weights), "ce_K.0")
    third = train.y[-max(3, len(train) // 3) :]
    ends = [float(np.median(part)) for part in (third[: len(third) // 2 + 1], third[len(third) // 2 :])]
    now = ends[1]
    alike = len(held) > 0 and held.y[-1] <= (1 + APART) * now  # clips differ, and the training ones may be easier
    best = float(held.y.min()) if alike else min(now, *held.y.tolist())
    if best < TABLE * bigram:
        said = f"Book 1 costs {best:.3g} nats, under the {bigram:.3g} of a table of pairs: the model uses more."
        return Examined(fine=(said,))
    falling = ends[0] - ends[1] > STANDS * ends[0]
    least = float(held.y.min()) if len(held) else now
    if now > LEARNED * unigram or falling or least > NEAR * bigram:
        why = f"its {least:.3g} nats are far from the {bigram:.3g} of a table of pairs, so it is young, or has learned "
        why += "by heart instead"
        why = (
            "book 1 still falls"
            if falling
            else "it has learned next to nothing yet"
            if now > LEARNED * unigram
            else why
        )
        return Examined(missing=(f"Whether the past is used: {why}.",))
    epochs = trained.epochs(patient.record) if patient.record is not None else None
    if epochs is None or epochs < AGAIN:
        seen = "an unknown number of" if epochs is None else f"{epochs:.1f}"
        said = f"Whether the past is used: book 1 is not under a table of pairs, but {seen} epochs are too few."
        return Examined(missing=(said,))
    stands = f"the training loss of book 1 stands at {now:.3g} nats"
    never = f"never under the {bigram:.3g} of a table of neighbouring codes (how often codes occur costs {unigram:.3g})"
    text = f"T{stands[1:]}, {never}."
    if alike:
        text = f"Held-out codes of book 1 cost {best:.3g} nats at best, {never}; {stands}."
    text += f" Each clip was gone through {epochs:,.1f} times."
    floors = [("bigram", bigram), ("unigram", unigram)]
    chart = pictures.curve("past", "loss of book 1", train, levels=floors, others=[("held-out", held)])
    return Examined((Finding("no_time_mixing", 0.6, (Evidence(text, chart),), "book 1"),))
