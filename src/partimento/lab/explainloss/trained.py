"""What of a model is trained, and what it has seen: the same for every family."""

from __future__ import annotations

from typing import Any

from partimento.lab.explainloss.explained import Cell, Part, amount, percent
from partimento.lab.explainloss.record import Record
from partimento.lab.verdict import SOUND, latest


def parts(record: Record) -> list[Part]:
    return [_modules(record), Part("What it has seen", _seen(record))]


def counts(record: Record) -> tuple[int | None, int | None]:
    """Parameters that are trained, and frozen ones."""
    rows = (latest(record.events, "start") or {}).get("modules")
    if rows:
        return sum(row["trained"] for row in rows), sum(row["frozen"] for row in rows)
    return record.run.record.get("parameters"), None


def figures(record: Record) -> dict[str, Any]:
    trained, frozen = counts(record)
    return {
        "trained": trained,
        "frozen": frozen,
        "modules": (latest(record.events, "start") or {}).get("modules"),
        "targets": record.targets,
        "items": record.items,
        "epochs": epochs(record),
    }


def epochs(record: Record) -> float | None:
    """How often the training music was gone through: by targets where they were logged, else by the windows' room."""
    if not record.train_frames or record.run.record["family"] in SOUND:
        return None
    books = len(record.cardinalities)
    turned = record.section("model").get("caption_share")  # words are among its targets
    if record.targets is not None and books and not turned:
        return record.targets / books / record.train_frames
    frames = _frames(record)
    return None if frames is None else frames / record.train_frames


def _frames(record: Record) -> float | None:
    """Frames that the windows had room for."""
    extent = record.extent()
    if extent is None:
        return None
    pattern = record.description.get("pattern") or {}
    stride = pattern.get("stride") or (
        len(record.cardinalities) if record.section("model").get("pattern") == "flat" else 1
    )
    return extent / max(1, stride)


def _modules(record: Record) -> Part:
    title, begun = "What is trained", latest(record.events, "start") or {}
    trained, frozen = counts(record)
    if rows := begun.get("modules"):
        total = (trained or 0) + (frozen or 0)
        table: list[list[Cell]] = [
            [
                row["module"],
                row["trained"],
                row["frozen"],
                percent(row["trained"] / trained, 1) if trained else None,
            ]
            for row in rows
        ]
        share = percent((trained or 0) / max(1, total), 1)
        said = f"{amount(trained or 0)} of {amount(total)} parameters are trained ({share})"
        if frozen:
            said += "; the rest is as it came, and no checkpoint holds it"
        prose = [f"{said}. Blocks of a stack are one row; the share is of what is trained.", *_flow(record)]
        return Part(title, prose, ["part", "trained", "frozen", "share"], table)
    if rows := begun.get("optimizer"):
        table = [[row["group"], row["optimizer"], row["parameters"], f"{row['rate']:g}"] for row in rows]
        prose = ["The parts of the model were not recorded (an older run); this is who trains what. " + _kept(record)]
        return Part(title, prose, ["group", "optimizer", "trained", "peak rate"], table)
    if trained is not None:
        return Part(title, [f"{amount(trained)} parameters are trained. Of which parts they are was not recorded."])
    return Part(title, ["Not recorded."])


def _flow(record: Record) -> list[str]:
    """What the audit of the gradients found, which looks before step 1 and after the first steps."""
    after = latest(record.events, "flow", when="after")
    if after is not None:
        said = f"Looked at after the first steps: {after['moved']:,} tensors had a gradient and have moved"
        return [
            said + (f", {after['kept']:,} frozen ones are what they were to the bit." if after.get("kept") else ".")
        ]
    if latest(record.events, "flow", when="before") is not None:
        return [
            "Every trained tensor had a gradient before step 1; whether all move is looked at after the first steps."
        ]
    return []


def _kept(record: Record) -> str:
    """Of older runs the audit at least counts the tensors that are frozen."""
    kept = (latest(record.events, "audit") or {}).get("kept")
    if not kept:
        return "Whether anything was frozen is not known."
    frozen = sum(number for name, number in kept.items() if name.startswith("frozen "))
    whole = frozen + sum(number for name, number in kept.items() if name.startswith("parameter "))
    return f"Of {whole} tensors {frozen} were frozen." if frozen else "Nothing was frozen."


def _seen(record: Record) -> list[str]:
    if record.step is None:
        return ["Nothing yet."]
    items = record.items
    said = f"{record.step:,} steps" + (f" of {record.steps:,}" if record.steps else "")
    if items is not None:
        said += f", {items:,} items"
    if record.run.record["family"] in SOUND:
        extent = record.extent()
        rate = record.section("model").get("sample_rate") or record.section("data").get("sample_rate")
        if extent is not None and rate:
            said += f", {extent / rate / 3600:.2f} hours of sound"
        return [f"{said}. How much sound there was to train on is not in the record, so epochs are not known."]
    if record.targets is not None:
        words = ", words" if record.section("model").get("caption_share") else ""
        said += f", {amount(record.targets)} targets (codes, ends{words})"
    elif (frames := _frames(record)) is not None and record.cardinalities:
        room = frames * len(record.cardinalities)
        said += f", at most {amount(room)} codes (the windows' room; padding was not counted in this run)"
    prose = [f"{said}."]
    seen = epochs(record)
    if seen is not None and record.train_frames:
        rate = record.frame_rate
        length = f" ({record.train_frames / rate / 60:,.1f} minutes)" if rate else ""
        often = f"{seen:.2f} times" if seen < 10 else f"{seen:,.0f} times"
        prose.append(
            f"The training music has {record.train_frames:,} frames{length}: it was gone through {often} (epochs), by "
            "windows that are drawn anew each time."
        )
        if seen < 1:
            prose.append("Most of it was met once or never: the training loss is of music that was new to the model.")
    return prose


def missing(record: Record) -> list[str]:
    found = []
    if not (latest(record.events, "start") or {}).get("modules"):
        found.append("Which parts are trained and which frozen: this run did not log them.")
    if latest(record.events, "flow") is None:
        found.append("Whether every trained part gets a gradient and moves: this run did not audit it.")
    if record.targets is None:
        found.append("How many codes (or items) were learned from: this run did not log them.")
    if record.run.record["family"] not in SOUND and epochs(record) is None:
        found.append("Epochs: how much music there was to train on is not known.")
    return found
