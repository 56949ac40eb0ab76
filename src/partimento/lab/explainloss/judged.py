"""The verdict on a run that learns codes: where its loss stands, in three lines, and whether that is good."""

from __future__ import annotations

import math

from partimento.lab.explainloss.explained import percent
from partimento.lab.explainloss.floors import SLIGHT, Standing, mean, perplexity, stand
from partimento.lab.explainloss.record import Record
from partimento.lab.explainloss.yardstick import outputs_of
from partimento.lab.verdict import latest
from partimento.runs.events import Event, curve

WORSE = 1.01  # by what factor the last validation may be above the best
LEVEL = 0.005  # nats by which a loss must be under counting to be under it


def standing_of(record: Record) -> Standing:
    """Of the last validation (averaged weights, if they were judged), the last line of the log, and the baseline."""
    valid, line, baseline = (
        valid_of(record),
        latest(record.events, "train") or {},
        latest(record.events, "baseline") or {},
    )
    return stand(
        record.cardinalities,
        unigram_K=baseline.get("unigram_ce_K") or (),
        bigram_K=baseline.get("bigram_ce_K") or (),
        entropy_K=baseline.get("data_entropy_K") or (),
        valid_K=valid.get("ce_K") or (),
        train_K=line.get("ce_K") or (),
    )


def valid_of(record: Record) -> Event:
    return latest(record.events, "valid", weights="ema") or latest(record.events, "valid", weights="raw") or {}


def young_of(record: Record, standing: Standing, line: Event) -> str | None:
    """Why it is too early to say anything."""
    warmup = record.section("optim").get("warmup") or 0
    if not line and standing.value is None:
        return "no step has been logged yet"
    step = record.step or 0
    if step < warmup:
        return f"step {step:,} is within the warm-up of {warmup:,} steps"
    if standing.valid is None:
        return "no validation has been made yet, and a training loss alone cannot tell learning from memory"
    return None


def good_of(record: Record, standing: Standing, young: str | None) -> bool | None:
    if young or standing.value is None or standing.noise is None:
        return None
    if standing.noise:
        return False
    if standing.mean.blind:
        return True if standing.finds else None
    if (standing.mean.beyond(standing.value) or 0.0) < LEVEL or getting_worse(record):
        return False
    return None if behind(standing) else True


def behind(standing: Standing) -> list[int]:
    """The coarse books (of the first half) in which counting is still ahead of the model, from 1."""
    coarse = list(zip(standing.books, standing.values_K, strict=True))[: -(-len(standing.books) // 2)]
    shares = [floors.share(value) for floors, value in coarse]
    return [number for number, share in enumerate(shares, 1) if share is not None and share < 1]


def scored(record: Record) -> list[tuple[int, float]]:
    weights = "ema" if latest(record.events, "valid", weights="ema") else "raw"
    points = [(step, mean(ce_K or ())) for step, ce_K in curve(record.events, "valid", "ce_K", weights=weights)]
    return [(step, value) for step, value in points if value is not None]


def getting_worse(record: Record) -> bool:
    points = scored(record)
    return bool(points) and points[-1][1] > WORSE * min(value for _, value in points)


def lines(record: Record, standing: Standing, young: str | None) -> tuple[str, str, str]:
    """What the figure is, where it stands between the floors, and whether that is good."""
    return _first(record, standing), _second(standing), _third(record, standing, young)


def _first(record: Record, standing: Standing) -> str:
    valid, line = valid_of(record), latest(record.events, "train") or {}
    parts = []
    if standing.valid is not None:
        weights = {"ema": "averaged weights", "raw": "raw weights"}.get(valid.get("weights", ""), "weights")
        parts.append(f"at step {valid['step']:,} held-out music costs {standing.valid:.2f} nats a code ({weights})")
    if line.get("loss") is not None:
        parts.append(f"the training loss of step {line['step']:,} is {line['loss']:.2f}")
    if not parts:
        return "No loss was logged."
    said = "; ".join(parts)
    value = standing.value
    if value is not None and record.cardinalities:
        least, most = min(record.cardinalities), max(record.cardinalities)
        of = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        sides = perplexity(value) or 0.0
        said += f". It is as unsure of a code as a throw of a die with {sides:,.0f} sides is; a book has {of} codes"
    return f"{said[0].upper()}{said[1:]}."


def _second(standing: Standing) -> str:
    floors, value = standing.mean, standing.value
    if floors.random is None:
        return (
            "Where that stands is not known: how many codes a book has was not recorded (no readable checkpoint, and "
            "the pack is not there)."
        )
    guess = f"guessing costs {floors.random:.2f}"
    if floors.counted is None:
        return f"For comparison {guess}; what counting reaches was not recorded, so there is no scale to place it on."
    named = "which code follows which" if floors.bigram == floors.counted else "how often each code occurs"
    share = floors.share(value)
    if floors.blind or share is None or value is None:
        return f"For comparison {guess}, and counting {named} {floors.counted:.2f}: hardly a way between the two."
    scale = f"On a scale where 0 % is guessing ({floors.random:.2f}) and 100 % what counting {named} reaches "
    scale += f"({floors.counted:.2f}), it stands at {percent(share)}"
    beyond = floors.beyond(value) or 0.0
    if abs(beyond) < LEVEL:
        return f"{scale}: level with counting."
    if beyond > 0:
        return f"{scale}: {beyond:.3f} nats a code beyond counting."
    return f"{scale}: {-beyond:.3f} nats a code are missing to it." if share > 0 else f"{scale}: worse than a guess."


def _third(record: Record, standing: Standing, young: str | None) -> str:
    if young:
        return f"Too young to say whether that is good: {young}."
    if standing.noise:
        return (
            "The data looks like noise: nothing in it can be told from a throw of dice, so no loss of this run can be "
            "good, and a training loss that falls under guessing is memory."
        )
    floors, value = standing.mean, standing.value
    if floors.counted is None or floors.random is None or value is None:
        return "Whether that is good cannot be said from what was recorded; compare runs on the same pack."
    if floors.blind:
        if standing.finds:
            return "Good: counting finds nothing in these codes, and the model does."
        return "Not good yet: neither counting nor the model tells held-out codes from a guess."
    untrained = max(floors.random, math.log(outputs_of(record) or 1))  # EOS is one more to guess among
    if (1 - SLIGHT) * floors.random < value < (1 + SLIGHT) * untrained:
        return (
            "Not good yet: it still guesses. If that stays, the gradient does not arrive or the rate is too low "
            "(partimento preflight tells which)."
        )
    if value >= floors.random:
        return (
            "Not good: it is worse than guessing, so the model is surer than it is right. At the beginning that is a "
            "rate too high; later, training music that is known by heart."
        )
    if getting_worse(record):
        step, best = min(scored(record), key=lambda point: point[1])
        return (
            f"It was better before ({best:.2f} at step {step:,}): held-out music has been getting "
            "worse since, which is learning by heart."
        )
    if floors.unigram is not None and value >= floors.unigram:
        return "Not good yet: the model does not even know how often each code occurs."
    if value > floors.counted - LEVEL:
        return "Not good yet: a table of which code follows which does as well, or better. No music is in it so far."
    if late := behind(standing):
        which = f"book{'s' * (len(late) > 1)} {', '.join(map(str, late))}"
        return (
            f"Good in the mean, not where it is heard: in {which}, the coarsest being 1, a table of which code follows "
            "which still does better, and the gain is in finer ones."
        )
    return (
        "Good as far as it goes: it knows what no table of pairs knows. Whether that is music, the demos tell; whether "
        "it is better than another run, bits per second on the same pack."
    )
