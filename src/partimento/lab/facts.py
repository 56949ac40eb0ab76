"""The facts of a report: rows and sentences from a run's record, log and folder, as plain data for the template."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.lab.verdict import SoundVerdict, Verdict, latest
from partimento.runs import checkpoint
from partimento.runs.events import Event, curve
from partimento.runs.run import Run, resume_command
from partimento.tokens.pack import Pack

MOST_TAGS = 30
ENVIRONMENT = ("created", "partimento", "commit", "python", "platform", "packages", "environment", "seeds")
ELSEWHERE = ("schema", "id", "family", "config", "config_hash", "hypothesis", "resume", "identity", "parameters")


def what(run: Run) -> str:
    """What was trained on what, in one line."""
    model, data = run.record["config"].get("model", {}), run.record["config"].get("data", {})
    if run.record["family"] == "codec":
        shape = f"A codec of {model.get('codebooks', '?')} × {model.get('cardinality', '?')} codes"
        return f"{shape}, trained on {_recordings(data)}"
    if run.record["family"] == "restore":
        task = {"clean": "cleans pitch-shifted audio", "unshift": "undoes a pitch shift"}.get(data.get("task", ""), "?")
        shifts = ", ".join(f"{shift:+g}" for shift in data.get("semitones", []))
        sources = f"the pairs {Path(str(data['pairs'])).name}" if data.get("pairs") else _recordings(data)
        return f"A restorer ({model.get('net', '?')}) that {task} ({shifts} semitones), trained on {sources}"
    pattern = model.get("pattern", "?")
    shape = f"of {model.get('layers', '?')} layers of width {model.get('width', '?')}, {pattern or 'delay'} pattern"
    if run.record["family"] == "mot":
        experts = {"feedforward": "feed-forward", "feedforward_copy": "copied feed-forward", "full": "full"}
        kind = experts.get(model.get("experts", ""), model.get("experts", "?"))
        shape = f"upon {Path(str(model.get('backbone', '?'))).name}, with {kind} experts for audio, {pattern} pattern"
    if weights := model.get("weights"):  # they decide the architecture, and the configuration's is none
        shape = f"that began as the weights {Path(str(weights)).name}" + (f", {pattern} pattern" if pattern else "")
    return f"A code model {shape}, trained on the pack {Path(str(data.get('pack', '?'))).name}"


def _recordings(data: Mapping[str, Any]) -> str:
    sources = [Path(folder).name for folder in data.get("folders", [])]
    if data.get("band_loops"):
        sources.append(f"{data['band_loops']} loops of the synthetic band")
    return " and ".join(sources) or "nothing"


def bars(verdict: Verdict | SoundVerdict) -> list[dict[str, Any]]:
    """What is compared at the top: {"name", "text", "share" of the longest in percent, "model"}."""
    if isinstance(verdict, SoundVerdict):
        rows = [(f"made ({verdict.weights})", verdict.mel7, True), ("input as it is", verdict.input_mel7, False)]
        rows, form = [row for row in rows if row[1] is not None], "{:.3f}"
    else:
        rows, form = (
            [
                (f"model ({verdict.weights})", verdict.bits_per_second, True),
                ("bigram baseline", verdict.bigram_bits_per_second, False),
                ("unigram baseline", verdict.unigram_bits_per_second, False),
            ],
            "{:,.1f} bit/s",
        )
    longest = max((value for _, value, _ in rows if value is not None), default=0.0)
    return [
        {
            "name": name,
            "text": "not logged" if value is None else form.format(value),
            "share": 100 * value / longest if value is not None and longest else None,
            "model": model,
        }
        for name, value, model in rows
        if not (model and value is None)
    ]


def tiles(run: Run, events: Sequence[Event]) -> list[tuple[str, str, str]]:
    """(label, value, note) of the figures at the top; what is not known says so."""
    planned = run.record["config"].get("train", {}).get("steps")
    reached = max((event["step"] for event in events), default=None)
    end = latest(events, "end")
    speed = [value for _, value in curve(events, "train", "frames_per_second") if value is not None]
    skipped = _skipped(events)
    parameters = run.record.get("parameters")
    resumes = sum(1 for event in events if event["kind"] == "resume")
    return [
        (
            "optimizer steps",
            "none yet" if reached is None else f"{reached:,}",
            f"of {planned:,} planned" if planned else "plan not recorded",
        ),
        ("time spent", _time_spent(events), f"resumed {resumes} ×" if resumes else "in one go"),
        (
            "frames a second",
            f"{statistics.median(speed):,.0f}" if speed else "not logged",
            "median, while training",
        ),
        ("parameters", f"{parameters / 1e6:.2f} M" if parameters else "not recorded", "weights that are trained"),
        ("skipped steps", "not logged" if skipped is None else f"{skipped:,}", "not finite, or far out"),
        ("ended", str(end.get("reason", "yes")) if end else "not yet", "as logged"),
    ]


def _time_spent(events: Sequence[Event]) -> str:
    """Sum of the times between neighbouring events of one process (a resume begins a new one)."""
    spent, previous = 0.0, None
    for event in events:
        if event.get("time") is None:
            continue
        if previous is not None and event["kind"] not in ("start", "resume"):
            spent += max(0.0, event["time"] - previous)
        previous = event["time"]
    if previous is None:
        return "not logged"
    minutes, seconds = divmod(round(spent), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _skipped(events: Sequence[Event]) -> int | None:
    """At the end, and in what rollbacks left behind: their counts went back with the weights."""
    counts = [value for _, value in curve(events, "train", "skipped") if value is not None]
    if not counts:
        return None
    left, before = 0, 0
    for event in events:
        if event["kind"] == "train" and event.get("skipped") is not None:
            before = event["skipped"]
        elif event["kind"] == "rollback":
            kept = [value for step, value in curve(events, "train", "skipped") if step <= event["step"] and value]
            left += before - (kept[-1] if kept else 0)
    return int(counts[-1]) + left


def book_table(events: Sequence[Event]) -> list[dict[str, Any]]:
    """One row a codebook with the last held-out numbers."""
    valid = latest(events, "valid", weights="ema") or latest(events, "valid", weights="raw") or {}
    baseline = latest(events, "baseline") or {}
    keys = {"ce": valid.get("ce_K"), "entropy": valid.get("entropy_K")}
    keys |= {name: baseline.get(f"{name}_K") for name in ("bigram_ce", "unigram_ce", "data_entropy")}
    if not keys["ce"]:
        return []
    rows = []
    for book in range(len(keys["ce"])):
        row: dict[str, Any] = {name: values[book] if values else None for name, values in keys.items()}
        known = row["ce"] is not None and row["bigram_ce"] is not None
        rows.append({"book": book + 1, **row, "gain": 1 - row["ce"] / row["bigram_ce"] if known else None})
    return rows


def environment(run: Run) -> list[tuple[str, str]]:
    return _rows({key: run.record[key] for key in ENVIRONMENT if run.record.get(key) is not None})


def other_records(run: Run) -> list[tuple[str, str]]:
    """What the run recorded beyond what the report knows of."""
    return _rows({key: value for key, value in run.record.items() if key not in {*ENVIRONMENT, *ELSEWHERE}})


def data(run: Run) -> dict[str, Any]:
    """What the run recorded of its data and, where the same pack is still there, what the pack says of itself."""
    recorded = run.record.get("identity") or {}
    path = run.record["config"].get("data", {}).get("pack")
    found: dict[str, Any] = {"recorded": _rows(recorded), "pack": [], "amount": None, "missing": None}
    if path is None:
        return found
    found["pack"] = [("pack", str(path))]
    try:
        pack = Pack.open(path)
    except PartimentoError as err:
        found["missing"] = f"Hours, clips and tags are not shown: {err.message} ({err.code})."
        return found
    if pack.fingerprint not in recorded.values():
        found["missing"] = f"Hours, clips and tags are not shown: the pack at {path} is not the one of this run."
        return found
    spec = pack.spec
    tags = Counter(tag for names in pack.clips.tags for tag in names)
    named = ", ".join(f"{tag} ({count})" for tag, count in tags.most_common(MOST_TAGS))
    others = f" and {len(tags) - MOST_TAGS} more" if len(tags) > MOST_TAGS else ""
    rejects = ", ".join(f"{code} ({count})" for code, count in pack.totals["rejects"].items())
    found["amount"] = _amount(pack.content["splits"]["train"])
    found["pack"] += [
        ("audio", _amount(pack.totals)),
        *((f"split {name}", _amount(split)) for name, split in pack.content["splits"].items()),
        ("rejected inputs", rejects or "none"),
        ("codes", f"{spec.codebooks} books of {spec.cardinality}, {float(spec.frame_rate):.2f} frames a second"),
        ("sound", f"{spec.sample_rate:,} Hz, {spec.layout}"),
        ("tags", f"{named}{others}" if tags else "none"),
    ]
    return found


def _amount(totals: Mapping[str, Any]) -> str:
    minutes, seconds = divmod(round(totals["seconds"]), 60)
    hours, minutes = divmod(minutes, 60)
    length = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
    return f"{length}, {totals['clips']:,} clips of {totals['sources']:,} sources"


def checkpoints(run: Run) -> list[dict[str, Any]]:
    best = checkpoint.best(run.checkpoints_path) if run.checkpoints_path.exists() else None
    rows = []
    for path in checkpoint.visible(run.checkpoints_path):
        try:
            parts = checkpoint.contents(path)
        except PartimentoError as err:
            rows.append({"name": path.name, "best": path == best, "parts": err.message, "megabytes": 0.0})
            continue
        size = sum(file.stat().st_size for files in parts.values() for file in files if file.exists())
        row = {"name": path.name, "best": path == best, "parts": ", ".join(parts), "megabytes": size / 1e6}
        rows.append(row)
    return rows


def notes(run: Run) -> str | None:
    path = run.path / "notes.md"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else None


def commands(run: Run) -> list[tuple[str, str]]:
    path, run_id = shlex.quote(str(run.path)), shlex.quote(run.id)
    rows = []
    pack = run.record["config"].get("data", {}).get("pack")
    if pack:
        rows.append(("check that the data is the same", f"partimento pack verify {shlex.quote(str(pack))}"))
    rows += [
        ("train the same again, under a new name", f"partimento train {path}/config.json --run {run_id}_again"),
        ("go on with this run", str(run.record.get("resume") or resume_command(run.path))),
    ]
    if pack:
        rows.append(("play from its weights", f"partimento sample {path} --to samples --temperature 1 --seed 0"))
    rows.append(("make this page again", f"partimento report {path}"))
    return rows


def config_sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(section, rows); `family`, the only value outside of a section, comes first."""
    top = {key: value for key, value in config.items() if not isinstance(value, dict)}
    sections = {key: value for key, value in config.items() if isinstance(value, dict)}
    return [(name, _rows(values)) for name, values in [("run", top), *sections.items()]]


def _rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as (dotted key, text) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _text(value)))
    return rows


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    return str(value)
