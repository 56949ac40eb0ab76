"""`report`: everything that a run left, on one page that works offline, years later.

The page is a single file without any reference to the outside: sounds, pictures and charts are inside it, its content
policy forbids everything else. It is made from files alone (run.json, events.jsonl, demos, checkpoints), never from a
model, so neither torch nor the weights are needed to read a run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

import partimento
from partimento import commit
from partimento.errors import PartimentoError
from partimento.lab import demofigures, facts, figures, gallery, page, soundfigures
from partimento.lab.doctor.doctor import LOG, examine
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.text import line_of
from partimento.lab.explainloss.explain import with_picture
from partimento.lab.explainloss.explained import Explained
from partimento.lab.explainloss.explained import text as reading
from partimento.lab.figures import Figure
from partimento.lab.verdict import SOUND, latest, verdict_of
from partimento.runs import transplanted
from partimento.runs.events import read_events
from partimento.runs.hypotheses import hypotheses
from partimento.runs.run import Run

AUDIO_BUDGET = 32_000_000  # bytes of audio inside one page; what does not fit is named, not dropped silently


def report(run_path: str | Path, to: str | Path | None = None) -> Path:
    """Write `report.html` of the run at `run_path` (or the file `to`) and return its path.

    The run may still be training; the page is what is there now. Raises RUN001 or RUN002 (no run, or a damaged record)
    and SYS002 (it cannot be written).
    """
    run = Run.open(run_path)
    target = Path(to) if to is not None else run.path / "report.html"
    text = page.environment().get_template("report.html").render(**_context(run))
    commit.text(target, text)
    return target


def _context(run: Run) -> dict[str, Any]:
    events = read_events(run.events_path)
    record = run.record
    baseline, experts = latest(events, "baseline") or {}, latest(events, "experts")
    demos = gallery.read_demos(run.demos_path, baseline.get("data_entropy_K"), AUDIO_BUDGET)
    family, config = record["family"], record["config"]
    verdict = verdict_of(family, events)
    sound = family in SOUND
    explained: Explained | None = None
    floors: Figure | None = None
    try:
        explained, floors = with_picture(run, events)
    except PartimentoError as err:
        if err.code != "LAB040":  # a family of a newer version: the rest of the page needs no knowledge of it
            raise
    style, script = page.asset("report.css"), page.asset("report.js")
    return {
        "style": Markup(style),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "run": run,
        "record": record,
        "what": facts.what(run),
        "hypotheses": hypotheses(run, events),
        "verdict": verdict,
        "bars": facts.bars(verdict),
        "tiles": facts.tiles(run, events),
        "demos": demos,
        "audio_bytes": sum(card.bytes for step in demos for card in step.cards if card.audio),
        "alarms": soundfigures.alarms(events),
        "diagnosis": examine(Patient.open(run.path), LOG),
        "line_of": line_of,
        "explained": explained,
        "explained_picture": floors,
        "reading": reading,
        "experts": transplanted.table(experts) if experts else None,
        "experts_head": transplanted.HEAD,
        "learning": soundfigures.learning(events) if sound else figures.learning(events),
        "players": soundfigures.players(events, config) if sound else [],
        "codebooks": (
            soundfigures.books(events, config.get("model", {}).get("cardinality"))
            if sound
            else figures.codebooks(events)
        ),
        "played_figures": [] if sound else demofigures.played(events),
        "books": facts.book_table(events),
        "data": facts.data(run),
        "environment": facts.environment(run),
        "other": facts.other_records(run),
        "config": facts.config_sections(record["config"]),
        "config_json": json.dumps(record["config"], indent=1, ensure_ascii=False),
        "checkpoints": facts.checkpoints(run),
        "notes": facts.notes(run),
        "messages": [
            event for event in events if event["kind"] in ("note", "resume", "rollback", "halt", "end", "torn")
        ],
        "commands": facts.commands(run),
        "thresholds": {
            "clipped": facts.percent(gallery.CLIPPED_SHARE),
            "silent": facts.percent(gallery.SILENT_SHARE),
            "repeated": facts.percent(gallery.REPEATED_SHARE),
            "entropy": facts.percent(gallery.ENTROPY_SHARE),
        },
        "version": partimento.__version__,
    }
