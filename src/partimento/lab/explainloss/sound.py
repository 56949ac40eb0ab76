"""The loss of a run that makes sound (codec, restore), explained: what is summed, who is heard, and what to read."""

from __future__ import annotations

from dataclasses import asdict

from partimento.lab.explainloss import trained
from partimento.lab.explainloss.composed import NAMES, UNHEARD, Composed, compose, listed, unheard
from partimento.lab.explainloss.explained import Cell, Explained, Part, percent
from partimento.lab.explainloss.record import Record, gaps
from partimento.lab.verdict import SoundVerdict, judge_sound, latest
from partimento.runs.events import Event, curve

REST = 0.01  # share of the loss that may be left over: a line of the log is a mean over steps with other weights
GUESS = 0.5  # accuracy of a discriminator that guesses, and its loss: (1 - 1/2)^2 + (1/2)^2
WON = 0.1
HARDLY = 0.02  # share of the input's distance under which a restorer has hardly begun
# Of docs/codec.md: 78 recordings of seven kinds at 44.1 kHz, through things that everybody has heard.
YARDSTICKS: tuple[tuple[str, float], ...] = (
    ("Opus at 16 kbit/s", 1.02),
    ("MP3 at 32 kbit/s", 1.93),
    ("nothing above 2 kHz", 4.43),
)


def explain(record: Record) -> Explained:
    line = latest(record.events, "train") or {}
    composed = compose(record, line) if line else None
    verdict, restorer = judge_sound(record.events), record.run.record["family"] == "restore"
    young = _young(record, verdict, line)
    good = None
    if young is None and restorer and (gain := _gain(verdict)) is not None:
        good = None if 0 < gain < HARDLY else gain > 0
    parts = [
        Part("What the number is", _number(record, composed)),
        *_terms(record, composed),
        _distances(record, verdict, restorer),
        *_adversary(record, line),
        Part("Training and held-out sound", _gap(record, verdict, line)),
        *trained.parts(record),
    ]
    return Explained(
        run=record.run.id,
        family=record.run.record["family"],
        step=record.step,
        verdict=(
            _first(line, verdict),
            _second(verdict, restorer),
            _third(record, verdict, composed, restorer, young),
        ),
        good=good,
        young=young,
        parts=parts,
        figures={
            "loss": line.get("loss"),
            "composed": None if composed is None else asdict(composed),
            **asdict(verdict),
            **trained.figures(record),
        },
        missing=[*record.missing, *_missing(line, verdict, restorer, composed), *trained.missing(record)],
    )


def _young(record: Record, verdict: SoundVerdict, line: Event) -> str | None:
    if not line and verdict.mel7 is None:
        return "no step has been logged yet"
    step, warmup = record.step or 0, record.section("optim").get("warmup") or 0
    if step < warmup:
        return f"step {step:,} is within the warm-up of {warmup:,} steps"
    begins = record.section("model").get("start_step")
    if begins is not None and step <= begins:
        return f"step {step:,} is before codes are used (from step {begins:,} on)"
    return "no validation has been made yet" if verdict.mel7 is None else None


def _first(line: Event, verdict: SoundVerdict) -> str:
    said = []
    if line.get("loss") is not None:
        said.append(
            f"The training loss of step {line['step']:,} is {line['loss']:.2f}: a weighted sum of distances, which is "
            "good or bad only beside runs of the same weights"
        )
    if verdict.mel7 is not None:
        lead = "what to read is" if said else "What to read is"
        said.append(
            f"{lead} the held-out mel distance, {verdict.mel7:.3f} at step {verdict.step:,} ({verdict.weights})"
        )
    return "; ".join(said) + "." if said else "No loss was logged."


def _second(verdict: SoundVerdict, restorer: bool) -> str:
    value, before = verdict.mel7, verdict.input_mel7
    if value is None:
        return "No held-out distance was measured, so there is nothing to place on a scale."
    if not restorer:
        near = ", ".join(f"{name} {figure:.2f}" for name, figure in YARDSTICKS)
        return f"0 is the recording itself. For orientation, on other recordings: {near}."
    if before is None:
        return "0 is the recording as it should be. What the input as it is has was not recorded, so there is no scale."
    return (
        f"On a scale where 0 % is the input left as it is ({before:.3f}) and 100 % the recording as it should be (0), "
        f"it stands at {percent(_gain(verdict), 1)}."
    )


def _gain(verdict: SoundVerdict) -> float | None:
    """Share of the input's distance that a restorer takes away."""
    value, before = verdict.mel7, verdict.input_mel7
    return None if value is None or not before else (before - value) / before


def _third(record: Record, verdict: SoundVerdict, composed: Composed | None, restorer: bool, young: str | None) -> str:
    if young:
        return f"Too young to say whether that is good: {young}."
    value, best = verdict.mel7 or 0.0, verdict.best_mel7
    if best is not None and value > 1.01 * best:
        return f"It was better before, {best:.3f} at step {verdict.best_step:,}: held-out sound has been getting worse."
    quiet = [term.name for term in unheard(composed)]
    deaf = f" Hardly heard of the loss: {listed(quiet)}." if quiet else ""
    if not restorer:
        return f"Whether that is good, the demos beside their originals tell.{_trend(record, verdict)}{deaf}"
    gain = _gain(verdict)
    if gain is None:
        return f"Whether that is good cannot be said without the input's own distance.{deaf}"
    if gain <= 0:
        return f"Not good: leaving the input alone would be better.{deaf}"
    harmed = [name for name, made, before in _by_shift(record, verdict) if before is not None and made > before]
    but = f" But at {', '.join(harmed)} semitones leaving it alone is better." if harmed else ""
    if gain < HARDLY:
        return f"Hardly begun: next to no difference to the input.{but}{deaf}"
    return f"Good as far as it goes: nearer than what came in; whether it sounds so, listen.{but}{deaf}"


def _trend(record: Record, verdict: SoundVerdict) -> str:
    points = [(s, v) for s, v in curve(record.events, "valid", "mel7", weights=verdict.weights) if v is not None]
    if len(points) < 2:
        return ""
    (step, before), (_, now) = points[-2], points[-1]
    way = "Still getting better" if now < before else "No longer getting better"
    return f" {way}: {before:.3f} at step {step:,}, {now:.3f} now."


def _by_shift(record: Record, verdict: SoundVerdict) -> list[tuple[str, float, float | None]]:
    """(semitones, what was made, the input as it is) of the last validation."""
    valid = latest(record.events, "valid", weights=verdict.weights or "raw") or {}
    inputs = (latest(record.events, "baseline") or {}).get("input_mel7_by_semitones") or {}
    rows = (valid.get("mel7_by_semitones") or {}).items()
    return [(name, made, inputs.get(name)) for name, made in rows if made is not None]


def _number(record: Record, composed: Composed | None) -> list[str]:
    codec = record.run.record["family"] == "codec"
    prose = [
        "Each part is measured between what was made of a crop and what it should be, times its weight, added up; the "
        "loss is the mean over the crops of a step. No part is a probability: there are no nats here, and no ln V.",
        (
            "A codec's target is its input, so 0 would be a codec that changes nothing. "
            if codec
            else "The target is the clean recording, so 0 would be a perfect restorer; doing nothing is not 0. "
        )
        + "How low it can get is not known; it depends on the sound, and on the weights.",
    ]
    loss = record.section("loss")
    moving = [name for name in ("mel", "stft", "wave", "si_sdr") if isinstance(loss.get(name), list)]
    if moving:
        told = "; ".join(f"{NAMES[name]} from {loss[name][0]:g} to {loss[name][1]:g}" for name in moving)
        prose.append(
            f"Weights change over the training ({told}). So the loss falls, or rises, without anything being learned: "
            "it compares with nothing at another step."
        )
    if loss.get("balance"):
        prose.append(
            "loss.balance is on: each part's gradient has its weight's share whatever its size, so the shares of the "
            "number say nothing of who is heard; the weights do."
        )
    if record.section("adversary").get("start") is not None:
        prose.append(
            "An adversary plays. Its part of the loss rises as that learns, which is no sign of a network that forgets."
        )
    return prose


def _terms(record: Record, composed: Composed | None) -> list[Part]:
    if composed is None:
        return [Part("What it is made of", ["No training line has a loss yet, so it cannot be taken apart."])]
    rows: list[list[Cell]] = [
        [
            NAMES[term.name],
            term.value,
            None if term.weight is None else f"{term.weight:.4g}",
            term.product,
            percent(term.share, 1),
            term.pull,
            percent(term.pull_share, 1),
        ]
        for term in composed.terms
    ]
    prose = [
        f"The line of step {composed.step:,}. The pull is the norm of a part's gradient at the wave, with its weight: "
        "it, and not its share of the number, says who decides where the network goes."
    ]
    if composed.rest is not None and abs(composed.rest) > REST * abs(composed.loss):
        prose.append(
            f"The parts leave {composed.rest:+.3f} of the loss: the line is a mean over steps whose weights moved, "
            "or in which the adversary began."
        )
    elif composed.rest is None:
        prose.append("The adversary is being taken in, so its weight at this line is not one number.")
    if quiet := unheard(composed):
        prose.append(
            f"Under {percent(UNHEARD)} of all pulls: {listed([t.name for t in quiet])}. As far as the network can "
            "tell, not there; raise its weight, or leave it out and save its cost."
        )
    head = ["part", "distance", "weight", "in the loss", "share", "pull", "share of pulls"]
    return [Part("What it is made of", prose, head, rows)]


def _distances(record: Record, verdict: SoundVerdict, restorer: bool) -> Part:
    title = "Mel distances to hold it against"
    rows: list[list[Cell]] = [["the recording itself", 0.0, "by definition"]]
    if verdict.mel7 is not None:
        rows.append([f"this run, held-out ({verdict.weights})", verdict.mel7, f"step {verdict.step:,}"])
        if verdict.best_step != verdict.step:
            rows.append(["this run at its best", verdict.best_mel7, f"step {verdict.best_step:,}"])
    if restorer:
        rows.append(["the input as it is (identity)", verdict.input_mel7, "the same held-out pairs"])
    else:
        rows += [[name, figure, "other recordings"] for name, figure in YARDSTICKS]
        rows.append(["guessing", None, "there is no such thing: silence depends on how loud the music is"])
    prose = [
        "mel7 adds up, over seven resolutions, how far the mel magnitudes are apart, in powers of ten. It does not "
        "hear phase. It depends on the recordings, so it compares runs on the same held-out ones."
    ]
    for name, made, before in _by_shift(record, verdict):
        rows.append([f"shift of {name}: made", made, None if before is None else f"input {before:.3f}"])
    valid = latest(record.events, "valid", weights=verdict.weights or "raw") or {}
    for name, value in (valid.get("mel7_by_kind") or {}).items():
        rows.append([f"held-out kind: {name}", value, "this run"])
    return Part(title, prose, ["of", "mel7", ""], rows)


def _adversary(record: Record, line: Event) -> list[Part]:
    start = record.section("adversary").get("start")
    if start is None:
        return []
    title = "The adversary, and what guessing is for it"
    real, fake = line.get("score_real_S") or [], line.get("score_fake_S") or []
    if not real or len(real) != len(fake):
        return [Part(title, [f"It plays from step {start:,} on; nothing of it was logged so far."])]
    members, total = len(real), line.get("adversary_loss")
    each = None if total is None else total / members
    rows: list[list[Cell]] = [
        ["loss, each of its discriminators", each, GUESS, "0"],
        ["loss, as logged (their sum)", total, GUESS * members, "0"],
        ["recordings taken for recordings", line.get("accuracy_real"), GUESS, "1"],
        ["what was made taken for made", line.get("accuracy_fake"), GUESS, "1"],
        ["mean score of recordings", sum(real) / members, GUESS, "1"],
        ["mean score of what was made", sum(fake) / members, GUESS, "0"],
        ["the network's adversarial part", line.get("adversarial"), GUESS**2 * members, f"{members} (it has lost)"],
    ]
    prose = [
        f"{members} discriminators give 1 to recordings and 0 to what was made, by least squares. One that cannot tell "
        "them apart does best to say 1/2 to all, and has a loss of 1/2: that is chance."
    ]
    if each is not None:
        if each < WON:
            prose.append(f"Now {each:.2f} each: it has won, and teaches little.")
        elif each > GUESS * 1.02:
            prose.append(f"Now {each:.2f} each: worse than chance. It is young, or its rate is too high.")
        elif each > GUESS * 0.9:
            prose.append(
                f"Now {each:.2f} each: it guesses. It is young, or what is made cannot be told from recordings."
            )
        else:
            prose.append(f"Now {each:.2f} each: a game that goes on.")
    return [Part(title, prose, ["", "now", "guessing", "its aim"], rows)]


def _gap(record: Record, verdict: SoundVerdict, line: Event) -> list[str]:
    if verdict.mel7 is None or line.get("mel7") is None:
        return ["Both are needed, and one was not logged."]
    prose = [
        f"The mel distance of the last training steps is {line['mel7']:.3f}, held-out {verdict.mel7:.3f} "
        f"({verdict.mel7 - line['mel7']:+.3f}). They are of other sound, crops here and longer excerpts there, so a "
        "gap alone says nothing; that it grows says memory."
    ]
    trained_on, held_out = (
        [(step, value) for step, value in curve(record.events, kind, "mel7", **where) if value is not None]
        for kind, where in (("train", {}), ("valid", {"weights": verdict.weights}))
    )
    found = gaps(held_out, trained_on)
    if len(found) > 1:
        (first, begun), (last, ended) = found[0], found[-1]
        prose.append(f"It was {begun:+.3f} at step {first:,} and is {ended:+.3f} at step {last:,}.")
    return prose


def _missing(line: Event, verdict: SoundVerdict, restorer: bool, composed: Composed | None) -> list[str]:
    found = []
    if verdict.mel7 is None:
        found.append("The held-out mel distance: no validation measured it.")
    if restorer and verdict.input_mel7 is None:
        found.append("The distance of the input as it is: the run logged no baseline.")
    for term in composed.terms if composed else ():
        if term.pull is None and term.name != "commitment":
            found.append(f"How hard “{NAMES[term.name]}” pulls: not logged.")
    if line and line.get("loss") is None:
        found.append("The loss of the last line: it was not finite, or every step was skipped.")
    return found
