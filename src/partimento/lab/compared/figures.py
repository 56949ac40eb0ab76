"""The figures of one run, from its log and its demos: what the table of a comparison has in its columns.

None is what was not logged. "The end" is the last tenth of the log's lines of training (at least three); spread of the
loss is what remains there beside a straight line, so that a loss that still falls is not called restless.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from partimento.audio.files import read
from partimento.errors import PartimentoError
from partimento.lab.measures import measure
from partimento.lab.verdict import SOUND, latest
from partimento.runs import demos
from partimento.runs.events import Event, curve
from partimento.runs.run import Run

SPREAD_LINES = 0.2  # share of the lines, at the end, in which the restlessness of the loss is looked at
SCORE = {True: "mel7", False: "bits_per_second"}
UNIT = {"mel7": "", "bits_per_second": "bits/s", "si_sdr": "dB"}
NAME = {"mel7": "mel distance", "bits_per_second": "bits per second", "si_sdr": "SI-SDR"}
HIGHER_IS_BETTER = {"si_sdr"}


@dataclass(frozen=True)
class Column:
    """A figure of the table. `apart`: it may stand beside that of another codec, cardinality or pattern."""

    title: str
    form: str
    what: str
    apart: bool = True


CODES = {
    "score": Column("held-out bits/s", ".1f", "bits for a second of held-out audio, at the last validation"),
    "best": Column("best", ".1f", "the lowest of all validations"),
    "trained": Column("training bits/s", ".1f", "the same of the windows that were trained on, at the end"),
    "gap": Column("gap", "+.1f", "held out minus training"),
    "bigram": Column("bigram", ".1f", "what counting pairs of codes reaches on the held-out windows"),
    "entropy": Column("entropy, nats", ".3f", "of the model's output on held-out windows, mean over the books", False),
    "loss": Column("loss, last", ".4f", "training loss of the last line of the log", False),
}
SOUNDS = {
    "score": Column("held-out mel7", ".4f", "multi-scale mel distance of held-out items, at the last validation"),
    "best": Column("best", ".4f", "the lowest of all validations"),
    "input": Column("input", ".4f", "the distance of the input as it is"),
    "gain": Column("gain", "+.4f", "output minus input; below 0 the input was improved"),
    "si_sdr": Column("SI-SDR, dB", ".2f", "median over the held-out items"),
    "loss": Column("loss, last", ".4f", "training loss of the last line of the log", False),
}
COMMON = {
    "spread": Column("loss spread", ".4f", "standard deviation of the logged loss about its line, last fifth", False),
    "grad_norm": Column("gradient norm", ".3f", "median of the log's lines, before clipping"),
    "clipped": Column("clipped", ".0%", "share of the log's lines whose mean norm is above optim.clip"),
    "skipped": Column("skipped", ".0f", "steps that were not taken: not finite, or far out"),
    "frames_per_second": Column("frames/s", ".0f", "learned from in a second, median"),
    "step_ms": Column("step, ms", ".0f", "median of a step"),
    "minutes": Column("minutes", ".1f", "training, validation and demos together"),
    "alarms": Column("alarms", ".0f", "raised while training"),
}
PLAYED = {
    "demo_entropy": Column("played: entropy", ".3f", "of what was played at the highest temperature, nats", False),
    "demo_coverage": Column("coverage", ".3f", "share of the codes that were played", False),
    "demo_repetition": Column("repetition", ".3f", "share of played frames that repeat"),
    "demo_silence": Column("silent", ".1%", "share of 50 ms frames of the played sound that are silent"),
    "demo_clipping": Column("clipping", ".2%", "share of the played samples at full scale"),
    "demo_loudness": Column("LUFS", ".1f", "loudness of the played sound"),
    "demo_onsets": Column("onsets/s", ".2f", "in the played sound"),
    "demo_pulse": Column("pulse", ".2f", "how steady the beat of the played sound is, 0 to 1"),
}


@dataclass(frozen=True)
class Figures:
    """`values` by the names of the columns; `books` are lists over the codebooks; `scores` is the held-out curve."""

    score: str
    weights: str | None
    step: int | None
    values: dict[str, float | None]
    books: dict[str, list[float | None]]
    scores: list[tuple[int, float | None]]
    losses: list[tuple[int, float | None]]
    ended: str | None
    notes: list[str] = field(default_factory=list)


def columns(sound: bool) -> dict[str, Column]:
    return {**(SOUNDS if sound else CODES), **COMMON, **PLAYED}


def figures(run: Run, events: Sequence[Event]) -> Figures:
    """All of it, without the audio of the demos being kept."""
    sound = run.record["family"] in SOUND
    score = SCORE[sound]
    weights = next((w for w in ("ema", "raw") if latest(events, "valid", weights=w)), None)
    valid = (latest(events, "valid", weights=weights) if weights else None) or {}
    scores = curve(events, "valid", score, weights=weights) if weights else []
    lines = [event for event in _kept(events) if event["kind"] == "train"]
    known = [value for _, value in scores if value is not None]
    values: dict[str, float | None] = {
        "score": valid.get(score),
        "best": min(known) if known else None,
        "loss": lines[-1].get("loss") if lines else None,
        **_pace(events, lines),
        **_steadiness(lines, run.record["config"].get("optim", {}).get("clip")),
    }
    books: dict[str, list[float | None]] = {}
    if sound:
        values |= _sound(valid, latest(events, "baseline") or {})
    else:
        own, books = _codes(valid, lines, latest(events, "baseline") or {})
        values |= own
    played, notes = _played(run, events, weights)
    end = _last(events, "end", "start", "resume")
    return Figures(
        score=score,
        weights=weights,
        step=valid.get("step"),
        values={**values, **played},
        books=books,
        scores=scores,
        losses=[(event["step"], event.get("loss")) for event in lines],
        ended=str(end.get("reason")) if end is not None and end["kind"] == "end" else None,
        notes=notes,
    )


def _kept(events: Sequence[Event]) -> list[Event]:
    """One event a kind and step, the later one: what a killed process logged and its successor logged again."""
    found: dict[tuple[Any, ...], Event] = {}
    for event in events:
        found[(event["kind"], event["step"])] = event
    return sorted(found.values(), key=lambda event: int(event["step"]))


def _last(events: Sequence[Event], *kinds: str) -> Event | None:
    return next((event for event in reversed(events) if event["kind"] in kinds), None)


def _end(lines: Sequence[Event]) -> Sequence[Event]:
    return lines[-max(3, len(lines) // 10) :]


def _codes(
    valid: Event, lines: Sequence[Event], baseline: Event
) -> tuple[dict[str, float | None], dict[str, list[float | None]]]:
    """The log has nats a book; bits per second over their sum, of any validation, is what turns them into bits."""
    ce_K, entropy_K, bits = valid.get("ce_K"), valid.get("entropy_K"), valid.get("bits_per_second")
    trained = None
    if ce_K and bits is not None and sum(ce_K):
        sums = [sum(line["ce_K"]) for line in _end(lines) if line.get("ce_K") and None not in line["ce_K"]]
        trained = bits / sum(ce_K) * statistics.fmean(sums) if sums else None
    known = [value for value in entropy_K or [] if value is not None]
    return {
        "trained": trained,
        "gap": None if trained is None or bits is None else bits - trained,
        "bigram": baseline.get("bigram_bits_per_second"),
        "entropy": statistics.fmean(known) if known else None,
    }, {name: row for name, row in (("ce", ce_K), ("entropy", entropy_K)) if row}


def _sound(valid: Event, baseline: Event) -> dict[str, float | None]:
    given, made = baseline.get("input_mel7"), valid.get("mel7")
    gain = None if given is None or made is None else made - given
    return {"input": given, "gain": gain, "si_sdr": valid.get("si_sdr")}


def _steadiness(lines: Sequence[Event], clip: float | None) -> dict[str, float | None]:
    norms = [line["grad_norm"] for line in lines if line.get("grad_norm") is not None]
    part = lines[-max(4, round(SPREAD_LINES * len(lines))) :]
    points = [(line["step"], line["loss"]) for line in part if line.get("loss") is not None]
    spread = None
    if len(points) >= 4:
        x, y = np.array(points, dtype=np.float64).T
        rest = y - np.polyval(np.polyfit(x - x.mean(), y, 1), x - x.mean())
        spread = math.sqrt(float(np.square(rest).sum()) / (len(points) - 2))
    return {
        "spread": spread,
        "grad_norm": statistics.median(norms) if norms else None,
        "clipped": statistics.fmean(norm > clip for norm in norms) if norms and clip is not None else None,
        "skipped": lines[-1].get("skipped") if lines else None,
    }


def _pace(events: Sequence[Event], lines: Sequence[Event]) -> dict[str, float | None]:
    speed = [line["frames_per_second"] for line in lines if line.get("frames_per_second")]
    steps = [line["seconds_p50"] for line in lines if line.get("seconds_p50")]
    spent, before = 0.0, None
    for event in events:
        if event.get("time") is None:
            continue
        if before is not None and event["kind"] not in ("start", "resume"):
            spent += max(0.0, event["time"] - before)
        before = event["time"]
    return {
        "frames_per_second": statistics.median(speed) if speed else None,
        "step_ms": 1000 * statistics.median(steps) if steps else None,
        "minutes": None if before is None else spent / 60,
        "alarms": float(sum(event["kind"] == "alarm" for event in events)) if events else None,
    }


def _played(run: Run, events: Sequence[Event], weights: str | None) -> tuple[dict[str, float | None], list[str]]:
    """Of the newest demos, of the judged weights, at the highest temperature and the first guidance of it."""
    found: dict[str, float | None] = dict.fromkeys(PLAYED)
    rows = [event for event in events if event["kind"] == "demo_figures" and event.get("weights") == weights]
    rows = [row for row in rows if row["step"] == max(one["step"] for one in rows)]
    if rows:
        row = max(rows, key=lambda one: (one.get("temperature") or 0.0, -(one.get("guidance") or 0.0)))
        found |= {f"demo_{name}": row.get(name) for name in ("entropy", "coverage", "repetition")}
    folders = sorted(path for path in run.demos_path.glob("step-*/") if (path / demos.NAME).is_file())
    if not folders:
        return found, []
    heard, notes = [], []
    try:
        items = played_of(demos.read(folders[-1]).items, weights)
    except PartimentoError as err:
        return found, [f"{run.id}: {err.message} ({err.code})"]
    for item in items:
        try:
            sound = read(folders[-1] / item["file"])
            heard.append(measure(sound.wave_CN, sound.sample_rate))
        except (PartimentoError, ValueError) as err:
            notes.append(f"{run.id}: {item['file']} cannot be measured: {err}")
    names = {"silence": "silent_share", "clipping": "clipped_share", "loudness": "loudness_lufs"}
    names |= {"onsets": "onsets_per_second", "pulse": "pulse"}
    for name, attribute in names.items():
        known = [value for one in heard if (value := getattr(one, attribute)) is not None]
        found[f"demo_{name}"] = statistics.fmean(known) if known else None
    return found, notes


def played_of(items: Sequence[dict[str, Any]], weights: str | None) -> list[dict[str, Any]]:
    """What was played at the highest temperature, or what a restorer or codec made."""
    own = [item for item in items if item.get("weights") == weights]
    if made := [item for item in own if item.get("kind") in ("output", "reconstruction")]:
        return made
    played = [item for item in own if item.get("kind", "played") == "played"]
    highest = max((item.get("temperature") or 0.0 for item in played), default=None)
    return [item for item in played if (item.get("temperature") or 0.0) == highest]
