"""The demos of a run as cards to hear, see and read: `demos/step-*/demos.json` and the audio beside it.

A demo is one entry of the list "demos": `file`, `kind` (original, reconstruction, played, continuation), `weights`,
`temperature`, `guidance`, `seed`, `tags`, `prompt`, `metrics`. What an entry lacks is shown as missing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.audio.files import read
from partimento.errors import PartimentoError
from partimento.lab.measures import Measures, measure
from partimento.lab.pictures import frequency_ticks, spectrogram_png, waveform_path

MIME = {".flac": "audio/flac", ".wav": "audio/wav", ".ogg": "audio/ogg", ".opus": "audio/ogg", ".mp3": "audio/mpeg"}
# From where on a demo is flagged.
CLIPPED_SHARE = 0.001
SILENT_SHARE = 0.5
REPEATED_SHARE = 0.5
ENTROPY_SHARE = 0.5  # of the entropy of real codes, mean over the codebooks

GROUPS = {
    "ceiling": (
        "The ceiling",
        "The recording, and what the codec alone makes of it: no model of its codes can sound better.",
    ),
    "played": ("Played from nothing", "Begun with BOS alone, from the safest temperature to the freest."),
    "continuation": ("Continuations", "The model goes on from the beginning of a recording that it never trained on."),
}


@dataclass
class Card:
    """One demo, ready for the page; `problem` says why there is nothing to hear."""

    title: str
    kind: str
    entry: Mapping[str, Any]
    path: Path
    problem: str | None = None
    audio: str | None = None  # data URI
    bytes: int = 0
    spectrogram: str | None = None
    ticks: Sequence[tuple[float, str]] = ()
    outline: str | None = None
    measures: Measures | None = None
    subtitle: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


@dataclass
class Group:
    title: str
    why: str
    rows: list[list[Card]]
    columns: int


@dataclass
class Demos:
    """All demos of one step."""

    step: int
    path: Path
    cards: list[Card]
    problem: str | None = None
    original_missing: str | None = None

    @property
    def groups(self) -> list[Group]:
        found = []
        for name, (title, why) in GROUPS.items():
            cards = [card for card in self.cards if _group(card.kind) == name]
            if cards:
                found.append(Group(title, why, *_rows(cards)))
        return found


def read_demos(folder: Path, data_entropy_K: Sequence[float] | None, budget: int) -> list[Demos]:
    """Demos of every step, newest first. Audio is embedded, newest first, until `budget` bytes are used."""
    found = []
    for path in sorted(folder.glob("step-*/"), reverse=True):
        if path.name.endswith(commit.TMP):
            continue  # still being written, or left by a killed process
        demos = _read_step(path)
        reference = _reference(demos.cards, data_entropy_K)
        for card in demos.cards:
            size = card.path.stat().st_size if card.path.is_file() else 0
            if size > budget:
                card.problem = (
                    f"left out for its size ({size / 1e6:.1f} MB); it lies at {card.path.parent.name}/{card.path.name}"
                )
            else:
                budget -= size
                _fill(card)
            _describe(card, reference)
        found.append(demos)
    return found


def _read_step(path: Path) -> Demos:
    step = int(path.name.removeprefix("step-")) if path.name.removeprefix("step-").isdigit() else 0
    try:
        content = json.loads((path / "demos.json").read_text(encoding="utf-8"))
        cards = [
            Card(
                _title(entry),
                str(entry.get("kind", "played")),
                entry,
                path / Path(str(entry["file"])).name,
                subtitle=_subtitle(entry),
            )
            for entry in content["demos"]
        ]
    except FileNotFoundError:
        return Demos(step, path, [], f"{path.name} has no demos.json")
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        return Demos(step, path, [], f"{path.name}/demos.json cannot be read ({err!r})")
    cards.sort(key=_order)
    return Demos(step, path, cards, original_missing=content.get("original_missing"))


def _reference(cards: Sequence[Card], data_entropy_K: Sequence[float] | None) -> float | None:
    """Mean entropy of real codes: of the held-out clip beside the demos, as short as they are, or else of the data."""
    for card in cards:
        if card.kind == "reconstruction":
            found = mean((card.entry.get("metrics") or {}).get("entropy_K"))
            if found is not None:
                return found
    return mean(data_entropy_K)


def _fill(card: Card) -> None:
    """Sound and pictures of one card."""
    mime = MIME.get(card.path.suffix.lower())
    try:
        if mime is None:
            raise PartimentoError("LAB003", f"{card.path.name} is no audio file that a browser plays")
        content = card.path.read_bytes()
        audio = read(card.path)
    except FileNotFoundError:
        card.problem = f"the file {card.path.name} is missing"
        return
    except PartimentoError as err:
        card.problem = f"{err.message} ({err.code})"
        return
    card.audio = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    card.bytes = len(content)
    card.spectrogram = spectrogram_png(audio.wave_CN, audio.sample_rate)
    card.ticks = frequency_ticks(audio.sample_rate)
    card.outline = waveform_path(audio.wave_CN)
    card.measures = measure(audio.wave_CN, audio.sample_rate)


def _describe(card: Card, reference: float | None) -> None:
    """Facts and flags, from the entry's own metrics and from the audio."""
    entry, found = card.entry, card.measures
    metrics = entry.get("metrics") or {}
    if card.kind in ("played", "continuation"):
        guidance, top_p = _number(entry.get("guidance")), _number(entry.get("top_p"))
        card.facts += [
            ("prompt", str(entry.get("prompt") or "none")),
            ("tags", ", ".join(map(str, entry.get("tags") or [])) or "none"),
            ("guidance", "not recorded" if guidance is None else f"{guidance:g}"),
        ]
        if entry.get("top_k"):
            card.facts.append(("top-k", str(entry["top_k"])))
        if top_p not in (None, 1.0):
            card.facts.append(("top-p", f"{top_p:g}"))
    if found is not None:
        card.facts += [
            ("length", f"{found.seconds:.2f} s"),
            ("loudness", "undefined" if found.loudness_lufs is None else f"{found.loudness_lufs:.1f} LUFS"),
            ("peak", "silent" if found.peak_dbfs is None else f"{found.peak_dbfs:.1f} dBFS"),
        ]
        if found.clipped_share > CLIPPED_SHARE:
            card.flags.append(f"clipping {found.clipped_share:.1%}".replace("%", " %"))
        if found.silent_share > SILENT_SHARE:
            card.flags.append(f"silent {found.silent_share:.0%}".replace("%", " %"))
    entropy = mean(metrics.get("entropy_K"))
    if entropy is not None:
        card.facts.append(("entropy of its codes", f"{entropy:.2f} nats"))
    coverage = mean(metrics.get("coverage_K"))
    if coverage is not None:
        card.facts.append(("codes used", f"{coverage:.0%}".replace("%", " %")))
    repetition = metrics.get("repetition")
    repetition = mean(repetition) if isinstance(repetition, list) else repetition
    if repetition is not None:
        card.facts.append(("repetition", f"{repetition:.0%}".replace("%", " %")))
        if repetition > REPEATED_SHARE and card.kind in ("played", "continuation"):
            card.flags.append("repeats itself")
    if entropy is not None and reference and entropy < ENTROPY_SHARE * reference and _group(card.kind) != "ceiling":
        card.flags.append("low coverage")
    if entry.get("ended"):
        card.facts.append(("end", "the model ended it"))


def mean(values: Sequence[float] | None) -> float | None:
    finite = [value for value in values or [] if value is not None]
    return sum(finite) / len(finite) if finite else None


def _title(entry: Mapping[str, Any]) -> str:
    kind = entry.get("kind", "played")
    if kind == "original":
        return "Original"
    if kind == "reconstruction":
        return "Codec reconstruction"
    temperature = _number(entry.get("temperature"))
    return "Temperature not recorded" if temperature is None else f"Temperature {temperature:g}"


def _number(value: Any) -> float | None:
    """A number of demos.json; anything else counts as not recorded."""
    return float(value) if isinstance(value, int | float) else None


def _subtitle(entry: Mapping[str, Any]) -> str:
    if _group(entry.get("kind", "played")) == "ceiling":
        return str(entry.get("clip") or "")
    weights = entry.get("weights")
    named = {"ema": "EMA weights", "raw": "raw weights"}.get(str(weights), "weights not recorded")
    return f"seed {entry.get('seed', 'not recorded')} · {named}"


def _group(kind: str) -> str:
    return (
        "ceiling" if kind in ("original", "reconstruction") else "continuation" if kind == "continuation" else "played"
    )


def _order(card: Card) -> tuple[Any, ...]:
    entry = card.entry
    return (
        list(GROUPS).index(_group(card.kind)),
        card.kind != "original",
        _number(entry.get("temperature")) or 0.0,
        str(entry.get("weights")),
        str(entry.get("seed")).zfill(20),
    )


def _rows(cards: Sequence[Card]) -> tuple[list[list[Card]], int]:
    """The cards as a grid of temperatures (rows) by seeds and weights, at most 4 columns; as one row if it has gaps."""
    rows: dict[str, list[Card]] = {}
    for card in cards:
        rows.setdefault(str(card.entry.get("temperature")), []).append(card)
    lengths = {len(row) for row in rows.values()}
    if lengths in ({2}, {3}, {4}):
        return list(rows.values()), max(lengths)
    return [list(cards)], min(4, max(2, len(cards)))
