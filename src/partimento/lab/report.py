"""`report`: everything that a run left, on one page that works offline, years later.

The page is a single file without any reference to the outside: sounds, pictures and charts are inside it, its content
policy forbids everything else. It is made from files alone (run.json, events.jsonl, demos, checkpoints), never from a
model, so neither torch nor the weights are needed to read a run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import partimento
from partimento import commit
from partimento.lab import figures, gallery
from partimento.lab.verdict import Verdict, judge, latest
from partimento.runs import checkpoint
from partimento.runs.events import Event, curve, read_events
from partimento.runs.run import Run, resume_command

PACK_FACTS = ("fingerprint", "codec", "splits", "totals", "inputs", "versions")
AUDIO_BUDGET = 32_000_000  # bytes of audio inside one page; what does not fit is named, not dropped silently
ENVIRONMENT = ("created", "partimento", "commit", "python", "platform", "packages", "environment", "seeds")
HANDLED = {*ENVIRONMENT, "schema", "id", "family", "config", "config_hash", "hypothesis", "resume", "identity"}


def report(run_path: str | Path, to: str | Path | None = None) -> Path:
    """Write `report.html` of the run at `run_path` (or the file `to`) and return its path.

    The run may still be training; the page is what is there now. Raises RUN001 or RUN002 (no run, or a damaged record)
    and SYS002 (it cannot be written).
    """
    run = Run.open(run_path)
    target = Path(to) if to is not None else run.path / "report.html"
    page = _environment().get_template("report.html").render(**_context(run))
    commit.text(target, page)
    return target


def _context(run: Run) -> dict[str, Any]:
    events = read_events(run.events_path)
    record = run.record
    baseline = latest(events, "baseline") or {}
    demos = gallery.read_demos(run.demos_path, baseline.get("data_entropy_K"), AUDIO_BUDGET)
    verdict = judge(events)
    style, script = _asset("report.css"), _asset("report.js")
    return {
        "style": Markup(style),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "run": run,
        "record": record,
        "what": _what(run),
        "verdict": verdict,
        "bars": _bars(verdict),
        "tiles": _tiles(run, events),
        "demos": demos,
        "audio_bytes": sum(card.bytes for step in demos for card in step.cards if card.audio),
        "learning": figures.learning(events),
        "codebooks": figures.codebooks(events, demos[0] if demos else None) if record["family"] != "codec" else [],
        "books": _book_table(events),
        "data": _data(run),
        "environment": _rows({key: record[key] for key in ENVIRONMENT if record.get(key) is not None}),
        "other": _rows({key: value for key, value in record.items() if key not in HANDLED}),
        "config": _config_sections(record["config"]),
        "config_json": json.dumps(record["config"], indent=1, ensure_ascii=False),
        "checkpoints": _checkpoints(run),
        "notes": _notes(run),
        "messages": [event for event in events if event["kind"] in ("note", "resume", "end", "torn")],
        "commands": _commands(run),
        "thresholds": {
            "clipped": _percent(gallery.CLIPPED_SHARE),
            "silent": _percent(gallery.SILENT_SHARE),
            "repeated": _percent(gallery.REPEATED_SHARE),
            "entropy": _percent(gallery.ENTROPY_SHARE),
        },
        "version": partimento.__version__,
    }


def _what(run: Run) -> str:
    """What was trained on what, in one line."""
    model, data = run.record["config"].get("model", {}), run.record["config"].get("data", {})
    if run.record["family"] == "codec":
        shape = f"A codec of {model.get('codebooks', '?')} × {model.get('cardinality', '?')} codes"
        sources = [Path(folder).name for folder in data.get("folders", [])]
        if data.get("band_loops"):
            sources.append(f"{data['band_loops']} loops of the synthetic band")
        return f"{shape}, trained on {' and '.join(sources) or 'nothing'}"
    pattern = model.get("pattern", "?")
    shape = f"{model.get('layers', '?')} layers of width {model.get('width', '?')}, {pattern} pattern"
    return f"A code model of {shape}, trained on the pack {Path(str(data.get('pack', '?'))).name}"


def _bars(verdict: Verdict) -> list[dict[str, Any]]:
    rows = [
        (f"model ({verdict.weights})", verdict.bits_per_second, True),
        ("bigram baseline", verdict.bigram_bits_per_second, False),
        ("unigram baseline", verdict.unigram_bits_per_second, False),
    ]
    widest = max((bits for _, bits, _ in rows if bits is not None), default=0.0)
    return [
        {
            "name": name,
            "bits": bits,
            "share": 100 * bits / widest if bits is not None and widest else None,
            "model": model,
        }
        for name, bits, model in rows
        if not (model and bits is None)
    ]


def _tiles(run: Run, events: Sequence[Event]) -> list[tuple[str, str, str]]:
    """(label, value, note) of the figures at the top; what is not known says so."""
    planned = run.record["config"].get("train", {}).get("steps")
    reached = max((event["step"] for event in events), default=None)
    end = latest(events, "end")
    speed = [value for _, value in curve(events, "train", "frames_per_second") if value is not None]
    skipped = _skipped(events)
    weights = _weights_held(run)
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
        ("weights", f"{weights / 1e6:.2f} M" if weights else "not known", "numbers in the newest checkpoint"),
        ("skipped steps", "not logged" if skipped is None else f"{skipped:,}", "updates with non-finite gradients"),
        ("ended", str(end.get("reason", "yes")) if end else "not yet", "as logged"),
    ]


def _weights_held(run: Run) -> int | None:
    """How many numbers the newest checkpoint's model holds, from the header of its safetensors file."""
    for path in reversed(checkpoint.visible(run.checkpoints_path)):
        try:
            with (path / "model.safetensors").open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: the report shows what can be read
    return None


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
    counts = [value for _, value in curve(events, "train", "skipped") if value is not None]
    return int(counts[-1]) if counts else None


def _book_table(events: Sequence[Event]) -> list[dict[str, Any]]:
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


def _data(run: Run) -> dict[str, Any]:
    """What the run recorded of its data and, where the same pack is still there, what its pack.json says."""
    recorded = run.record.get("identity") or {}
    path = run.record["config"].get("data", {}).get("pack")
    found: dict[str, Any] = {"path": path, "recorded": _rows(recorded), "pack": [], "missing": None}
    if path is None:
        return found
    try:
        pack = json.loads((Path(path) / "pack.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found["missing"] = f"The pack was not at {path} when this page was made; only what the run recorded is shown."
        return found
    if pack.get("fingerprint") not in recorded.values():
        found["missing"] = (
            f"The pack that lies at {path} is not the one that this run learned from; nothing is taken from it."
        )
        return found
    found["pack"] = _rows({key: pack[key] for key in PACK_FACTS if key in pack})
    return found


def _checkpoints(run: Run) -> list[dict[str, Any]]:
    best = checkpoint.best(run.checkpoints_path) if run.checkpoints_path.exists() else None
    rows = []
    for path in checkpoint.visible(run.checkpoints_path):
        files = [file for file in sorted(path.iterdir()) if file.suffix == ".safetensors"]
        rows.append(
            {
                "name": path.name,
                "best": path == best,
                "parts": ", ".join(file.stem for file in files),
                "megabytes": sum(file.stat().st_size for file in files) / 1e6,
            }
        )
    return rows


def _notes(run: Run) -> str | None:
    path = run.path / "notes.md"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else None


def _commands(run: Run) -> list[tuple[str, str]]:
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


def _config_sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
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


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    return str(value)


def _asset(name: str) -> str:
    return (resources.files("partimento.lab") / "templates" / name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("partimento.lab"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    environment.filters["megabytes"] = lambda size: f"{size / 1e6:.1f} MB"
    environment.filters["number"] = lambda value, digits=3: "–" if value is None else f"{value:.{digits}f}"
    return environment
