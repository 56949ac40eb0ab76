"""What the events of a run say of it: the held-out verdict against its baselines, in numbers and in one sentence.

Plain data in, plain data out; used by the report and by `score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from partimento.runs.events import Event, curve

SOUND = ("codec", "restore")
"""Families that are judged by the distance of what they make to what it should be."""


@dataclass(frozen=True)
class Verdict:
    """Held-out bits per second of audio of the last validation, beside the baselines; None where nothing was logged."""

    sentence: str
    beats_bigram: bool | None
    weights: str | None = None
    step: int | None = None
    bits_per_second: float | None = None
    unigram_bits_per_second: float | None = None
    bigram_bits_per_second: float | None = None
    best_step: int | None = None
    best_bits_per_second: float | None = None
    validations: int = 0
    remark: str | None = None

    @property
    def good(self) -> bool | None:
        return self.beats_bigram

    @property
    def badge(self) -> str:
        if self.beats_bigram is None:
            return "no verdict"
        return "beats the bigram baseline" if self.beats_bigram else "does not beat the bigram baseline"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SoundVerdict:
    """Held-out mel distance of the last validation of a family that makes sound. `better` than its input as it is says
    what a restorer is for, and None of a codec, whose input is the target."""

    sentence: str
    better: bool | None = None
    weights: str | None = None
    step: int | None = None
    mel7: float | None = None
    input_mel7: float | None = None
    best_step: int | None = None
    best_mel7: float | None = None
    validations: int = 0
    remark: str | None = None

    @property
    def good(self) -> bool | None:
        return self.better

    @property
    def badge(self) -> str:
        if self.mel7 is None:
            return "no verdict"
        if self.better is None:
            return f"mel distance {self.mel7:.3f}"
        return "better than its input" if self.better else "not better than its input"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verdict_of(family: str, events: Sequence[Event]) -> Verdict | SoundVerdict:
    return judge_sound(events) if family in SOUND else judge(events)


def latest(events: Sequence[Event], kind: str, **where: Any) -> Event | None:
    """The event of this kind with the highest step; of equals the one logged last (a resumed run logs again)."""
    found: Event | None = None
    for event in events:
        if event["kind"] == kind and all(event.get(name) == want for name, want in where.items()):
            found = event if found is None or event["step"] >= found["step"] else found
    return found


def judge(events: Sequence[Event]) -> Verdict:
    """The verdict on the averaged (EMA) weights if they were scored, else on the raw ones, and it says which."""
    weights = next((w for w in ("ema", "raw") if latest(events, "valid", weights=w)), None)
    scored = [
        (step, float(bits))
        for step, bits in curve(events, "valid", "bits_per_second", weights=weights)
        if bits is not None
    ]
    baseline = latest(events, "baseline") or {}
    unigram, bigram = baseline.get("unigram_bits_per_second"), baseline.get("bigram_bits_per_second")
    if not scored:
        return Verdict(
            "No held-out measurement was logged, so there is no verdict.",
            None,
            unigram_bits_per_second=unigram,
            bigram_bits_per_second=bigram,
        )
    step, bits = scored[-1]
    best_step, best = min(scored, key=lambda point: point[1])
    name = "averaged (EMA) weights" if weights == "ema" else "raw weights"
    measured = f"At step {step:,} the {name} need {bits:,.1f} bits for one second of held-out audio"
    return Verdict(
        sentence=f"{measured}; {_compared(bits, unigram, bigram)}",
        beats_bigram=None if bigram is None else bits < bigram,
        weights=weights,
        step=step,
        bits_per_second=bits,
        unigram_bits_per_second=unigram,
        bigram_bits_per_second=bigram,
        best_step=best_step,
        best_bits_per_second=best,
        validations=len(scored),
        remark=_remark(scored, bits, bigram),
    )


def judge_sound(events: Sequence[Event]) -> SoundVerdict:
    """As `judge`, by the 7-scale mel distance."""
    weights = next((w for w in ("ema", "raw") if latest(events, "valid", weights=w)), None)
    scored = [
        (step, float(value)) for step, value in curve(events, "valid", "mel7", weights=weights) if value is not None
    ]
    before = (latest(events, "baseline") or {}).get("input_mel7")
    if not scored:
        return SoundVerdict("No held-out measurement was logged, so there is no verdict.", input_mel7=before)
    step, value = scored[-1]
    best_step, best = min(scored, key=lambda point: point[1])
    name = "averaged (EMA) weights" if weights == "ema" else "raw weights"
    sentence = f"At step {step:,} what the {name} make of held-out audio has a mel distance of {value:.3f}"
    if before is None:
        sentence += "."
    else:
        change = "nearer" if value < before else "further off"
        sentence += f"; the input as it is has {before:.3f}, so it is {abs(1 - value / before):.1%} {change}."
    remark = None
    if best_step != step:
        remark = f"The best of {len(scored)} validations was at step {best_step:,}: {best:.3f}"
        remark += ". Held-out audio has been getting worse since." if value / best > 1.01 else "."
    return SoundVerdict(
        sentence=sentence.replace("%", " %"),
        better=None if before is None else value < before,
        weights=weights,
        step=step,
        mel7=value,
        input_mel7=before,
        best_step=best_step,
        best_mel7=best,
        validations=len(scored),
        remark=remark,
    )


def _remark(scored: Sequence[tuple[int, float]], bits: float, bigram: float | None) -> str | None:
    """What the best validation adds to the last one: None if they are the same, or nearly."""
    best_step, best = min(scored, key=lambda point: point[1])
    if best_step == scored[-1][0]:
        return None
    remark = f"The best of {len(scored)} validations was at step {best_step:,}: {best:,.1f} bits per second"
    if bigram is not None and best < bigram <= bits:
        remark += ", under the bigram baseline"
    if bits / best > 1.005:
        remark += ". Held-out audio has been getting worse since: the model learns its training data by heart"
    return remark + "."


def _compared(bits: float, unigram: float | None, bigram: float | None) -> str:
    if bigram is None:
        return "no baseline was logged, so it cannot be said whether that is good."
    floors = f"the bigram baseline needs {bigram:,.1f}"
    if unigram is not None:
        floors += f" and the unigram {unigram:,.1f}"
    change = abs(bits / bigram - 1)
    amount = "by less than 0.1 %" if change < 0.001 else f"by {change:.1%}".replace("%", " %")
    if bits < bigram:
        return f"{floors}. The model beats the bigram {amount}."
    if unigram is not None and bits < unigram:
        return f"{floors}. The model beats the unigram, but not the bigram: it is behind {amount}."
    return f"{floors}. The model beats neither: it is behind the bigram {amount}."
