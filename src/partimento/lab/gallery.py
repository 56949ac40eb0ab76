"""The demos of a run, to hear, see and read: `demos/step-*/demos.json` (see `runs.demos`) and the audio beside it.

What an entry lacks is shown as missing; a damaged entry, file or folder is named and stops nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.audio.files import read
from partimento.audio.levels import silent_share
from partimento.errors import PartimentoError
from partimento.lab.demotable import WEIGHTS, Table, number, table, temperature_name, told
from partimento.lab.measures import Measures, measure
from partimento.lab.pictures import frequency_ticks, spectrogram_png, waveform_path
from partimento.runs import demos as sheet

MIME = {".flac": "audio/flac", ".wav": "audio/wav", ".ogg": "audio/ogg", ".opus": "audio/ogg", ".mp3": "audio/mpeg"}
# From where on a demo is flagged.
CLIPPED_SHARE = 0.001
SILENT_SHARE = 0.5
REPEATED_SHARE = 0.5
ENTROPY_SHARE = 0.5  # of the entropy of the data's own windows, mean over the codebooks
SMALL = (300, 75)  # pixels of a picture in the table

CEILING = ("original", "reconstruction")
TRIPLET = {"input": "As it came", "output": "As it was restored", "target": "As it should be"}
GROUPS = {
    "ceiling": (
        "The ceiling",
        "The recording, and what the codec alone makes of it: no model of its codes can sound better.",
    ),
    "continuation": ("Continuations", "The model goes on from the beginning of a recording that it never trained on."),
}


@dataclass
class Card:
    """One demo, ready for the page; `problem` says why there is nothing to hear."""

    entry: Mapping[str, Any]
    path: Path
    title: str = ""
    subtitle: str = ""
    problem: str | None = None
    audio: str | None = None  # data URI
    bytes: int = 0
    spectrogram: str | None = None
    ticks: Sequence[tuple[float, str]] = ()
    outline: str | None = None
    measures: Measures | None = None
    silence: float | None = None
    figures: list[tuple[str, str | None]] = field(default_factory=list)  # None: not recorded
    facts: list[tuple[str, str]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return str(self.entry.get("kind", "played"))

    @property
    def in_table(self) -> bool:
        return self.kind not in CEILING and self.kind not in TRIPLET and self.kind != "continuation"

    @property
    def metrics(self) -> Mapping[str, Any]:
        found = self.entry.get("metrics")
        return found if isinstance(found, Mapping) else {}


@dataclass
class Group:
    title: str
    why: str
    cards: list[Card]
    columns: int


@dataclass
class Demos:
    """All demos of one step. `data` are the figures of the data itself, to be read beside those of what was played."""

    step: int
    path: Path
    cards: list[Card]
    problems: list[str] = field(default_factory=list)
    data: list[tuple[str, str | None]] = field(default_factory=list)
    windows: int | None = None

    @property
    def groups(self) -> dict[str, Group]:
        found = {}
        for name, (title, why) in GROUPS.items():
            kinds = CEILING if name == "ceiling" else (name,)
            cards = [card for card in self.cards if card.kind in kinds]
            if cards:
                found[name] = Group(title, why, cards, min(4, max(2, len(cards))))
        return found

    @property
    def triplets(self) -> list[Group]:
        """What a restorer was given, made, and should have made, for each recording and shift, in this order."""
        cases: dict[tuple[str, str], list[Card]] = {}
        for card in self.cards:
            if card.kind in TRIPLET:
                shift = number(card.entry.get("semitones"))
                told = "shift not recorded" if shift is None else f"shifted by {shift:+g} semitones"
                cases.setdefault((str(card.entry.get("prompt") or "recording not named"), told), []).append(card)
        order = list(TRIPLET)
        return [
            Group(recording, told, sorted(cards, key=lambda card: order.index(card.kind)), 3)
            for (recording, told), cards in cases.items()
        ]

    @property
    def table(self) -> Table[Card]:
        return table([(card.entry, card) for card in self.cards if card.in_table])


def read_demos(folder: Path, data_entropy_K: Sequence[float] | None, budget: int) -> list[Demos]:
    """Demos of every step, newest first. Audio is embedded, newest first, until `budget` bytes are used.

    `data_entropy_K` is the reference of demos that have no figures of the data's own windows.
    """
    found = []
    for path in sorted(folder.glob("step-*/"), reverse=True):
        if path.name.endswith(commit.TMP):
            continue  # still being written, or left by a killed process
        demos, data = _read_step(path)
        reference = mean(data.get("entropy_K")) or _reference(demos.cards, data_entropy_K)
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


def _read_step(path: Path) -> tuple[Demos, Mapping[str, Any]]:
    name = path.name.removeprefix("step-")
    step = int(name) if name.isascii() and name.isdigit() else 0
    try:
        content = sheet.read(path)
    except PartimentoError as err:
        return Demos(step, path, [], [f"{err.message}: {err.why}"]), {}
    cards = [Card(entry, path / Path(entry["file"]).name) for entry in content.items]
    cards.sort(key=lambda card: card.kind != "original")
    problems = [
        text
        for text, why in (
            ("The original recording is not shown", content.original_missing),
            ("No held-out recording was continued", content.continuation_missing),
        )
        if why is not None
        for text in [f"{text}: {why}"]
    ]
    data = content.data or {}
    windows = data.get("items")
    shown = _figures(data, number(data.get("silence"))) if data else []
    return Demos(step, path, cards, problems, shown, windows if isinstance(windows, int) else None), data


def _reference(cards: Sequence[Card], data_entropy_K: Sequence[float] | None) -> float | None:
    """Mean entropy of real codes: of the held-out clip beside the demos, as short as they are, or else of the data."""
    for card in cards:
        if card.kind == "reconstruction" and (found := mean(card.metrics.get("entropy_K"))) is not None:
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
    except OSError as err:
        card.problem = f"{card.path.name} cannot be read ({err.strerror or err})"
        return
    except PartimentoError as err:
        card.problem = f"{err.message} ({err.code})"
        return
    card.audio = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    card.bytes = len(content)
    card.spectrogram = spectrogram_png(audio.wave_CN, audio.sample_rate, *([SMALL] if card.in_table else []))
    card.ticks = frequency_ticks(audio.sample_rate)
    card.outline = waveform_path(audio.wave_CN, 150 if card.in_table else 300)
    card.measures = measure(audio.wave_CN, audio.sample_rate)
    card.silence = silent_share(audio.wave_CN, audio.sample_rate)


def _describe(card: Card, reference: float | None) -> None:
    """Title, facts, figures and flags, from the entry itself and from the audio."""
    entry, found, metrics = card.entry, card.measures, card.metrics
    recorded = number(metrics.get("silence"))
    silence = card.silence if recorded is None else recorded
    figures = _figures(metrics, silence)
    card.figures = [row for row in figures if row[0] == "silent"] if card.kind == "original" else figures
    if card.kind in TRIPLET:
        distance = number(metrics.get("mel7"))
        card.figures = [("mel distance", None if distance is None else f"{distance:.3f}")]
    card.title, card.subtitle = _title(entry), _subtitle(entry)
    if card.kind == "continuation":
        card.facts += [("prompt audio", str(entry.get("prompt") or "not recorded")), ("told", told(entry) or "nothing")]
    if card.kind not in CEILING:
        top_k, top_p = number(entry.get("top_k")), number(entry.get("top_p"))
        if top_k:
            card.facts.append(("top-k", f"{top_k:g}"))
        if top_p not in (None, 1.0):
            card.facts.append(("top-p", f"{top_p:g}"))
    if found is not None:
        card.facts += [
            ("length", f"{found.seconds:.2f} s"),
            ("loudness", "undefined" if found.loudness_lufs is None else f"{found.loudness_lufs:.1f} LUFS"),
            ("peak", "silent" if found.peak_dbfs is None else f"{found.peak_dbfs:.1f} dBFS"),
        ]
        if found.clipped_share > CLIPPED_SHARE:
            card.flags.append(f"clipping {percent(found.clipped_share)}")
    if silence is not None and silence > SILENT_SHARE:
        card.flags.append(f"silent {percent(silence)}")
    entropy, repetition = mean(metrics.get("entropy_K")), mean(_repetition(metrics))
    if card.kind not in CEILING:
        if repetition is not None and repetition > REPEATED_SHARE:
            card.flags.append("repeats itself")
        if entropy is not None and reference and entropy < ENTROPY_SHARE * reference:
            card.flags.append("low coverage")
        if entry.get("ended") is True:
            card.facts.append(("end", "the model ended it"))


def _figures(metrics: Mapping[str, Any], silence: float | None) -> list[tuple[str, str | None]]:
    """Means over the codebooks, in words; None for what was not recorded."""
    entropy, own = mean(metrics.get("entropy_K")), mean(metrics.get("model_entropy_K"))
    coverage, repetition = mean(metrics.get("coverage_K")), mean(_repetition(metrics))
    return [
        ("entropy", None if entropy is None else f"{entropy:.2f}"),
        ("used", None if coverage is None else percent(coverage)),
        ("repeats", None if repetition is None else percent(repetition)),
        ("silent", None if silence is None else percent(silence)),
        *([("unsure", f"{own:.2f}")] if own is not None else []),
    ]


def _repetition(metrics: Mapping[str, Any]) -> Any:
    found = metrics.get("repetition_K", metrics.get("repetition"))  # in older demos
    return found if isinstance(found, list) else [found]


def percent(share: float) -> str:
    """In whole percent; below ten with one digit, so that what is there does not round to 0."""
    return f"{100 * share:.{1 if 0 < share < 0.0995 else 0}f} %"


def mean(values: Any) -> float | None:
    """Mean of the numbers in a list of demos.json; None where there is none."""
    known = [found for value in (values if isinstance(values, list) else []) if (found := number(value)) is not None]
    return sum(known) / len(known) if known else None


def _title(entry: Mapping[str, Any]) -> str:
    kind = str(entry.get("kind", "played"))
    if kind in TRIPLET:
        return TRIPLET[kind]
    if kind in CEILING:
        return "Original" if kind == "original" else "Codec reconstruction"
    return temperature_name(number(entry.get("temperature")))


def _subtitle(entry: Mapping[str, Any]) -> str:
    if entry.get("kind") in CEILING:
        return str(entry.get("clip") or entry.get("prompt") or "")
    weights = WEIGHTS.get(str(entry.get("weights")), "weights not recorded")
    if entry.get("kind") in TRIPLET:
        return weights if entry["kind"] == "output" else ""
    return f"seed {entry.get('seed', 'not recorded')} · {weights}"
