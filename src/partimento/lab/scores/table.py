"""Every figure of `score`, once: its unit and definition. The help, docs/scores.md and the JSON schema read this."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """`name` is the key in the JSON, `group` the object that it stands in."""

    name: str
    group: str
    unit: str
    what: str
    kind: str = "number"  # of JSON
    required: bool = False  # True: never null

    @property
    def schema(self) -> dict[str, Any]:
        kinds: Any = self.kind if self.required else [self.kind, "null"]
        return {"type": kinds, "description": f"{self.what} [{self.unit}]" if self.unit else self.what}


def _rows(group: str, *rows: tuple[str, str, str]) -> tuple[Figure, ...]:
    return tuple(Figure(name, group, unit, what) for name, unit, what in rows)


FIGURES: tuple[Figure, ...] = (
    Figure("seconds", "measures", "s", "length", required=True),
    Figure("sample_rate", "measures", "Hz", "of the file", "integer", required=True),
    Figure("channels", "measures", "", "of the file", "integer", required=True),
    *_rows(
        "measures",
        ("peak_dbfs", "dBFS", "largest |sample|"),
        ("rms_dbfs", "dBFS", "root mean square of all samples"),
        ("loudness_lufs", "LUFS", "integrated loudness, ITU-R BS.1770-4; from 0.4 s on"),
        ("loudness_range_lu", "LU", "10th to 95th percentile of the loudness of 3 s, gated (EBU Tech 3342)"),
        ("crest_db", "dB", "peak over RMS"),
        ("level_range_db", "dB", "10th to 95th percentile of the levels of the sounding 50 ms frames"),
    ),
    Figure("clipped_share", "measures", "share", "samples with |x| of 0.99 or more", required=True),
    Figure(
        "silent_share", "measures", "share", "50 ms frames more than 60 dB under the loudest; 1 for digital silence",
        required=True,
    ),
    Figure("dc", "measures", "full scale", "largest |mean| of a channel", required=True),
    *_rows(
        "measures",
        ("centroid_hz", "Hz", "mean frequency of the long-term spectrum, weighted by power"),
        ("bandwidth_hz", "Hz", "standard deviation of frequency about the centroid, weighted by power"),
        ("rolloff_hz", "Hz", "frequency under which 85 % of the power lies"),
        ("onsets_per_second", "1/s", "beginnings of sounds: rises of the spectrum that stand out; from 1 s on"),
        ("pulse", "0..1", "how surely onsets return: best autocorrelation at 0.25 to 1.5 s; from 4 s on"),
    ),
    *_rows(
        "music",
        ("tempo_bpm", "1/min", "beats a minute (50 to 200), by the ear of the built-in band"),
        ("tempo_confidence", "0..1", "probability that it is right within 4 %, as the ear was fitted to the band"),
    ),
    Figure("key", "music", "", 'such as "A minor", by the ear of the built-in band', "string"),
    *_rows(
        "music",
        ("key_confidence", "0..1", "probability of this key among the 24, as the ear was fitted to the band"),
        ("beat_stability", "0..1", "1 - deviation / mean of the beats' intervals, for a tempo surer than 0.5"),
        ("chroma_consistency", "0..1", "mean cosine of the pitch classes of neighbouring quarters; 1: one harmony"),
        ("repetition", "share", "windows of 1 s that return at another place: log-mel levels within 2 dB (RMS)"),
    ),
    *_rows(
        "sets",
        ("frechet", "squared embedding", "Frechet distance of the Gaussians fitted to both sets (as published)"),
        ("frechet_debiased", "squared embedding", "the same less the bias that so few items cause, by the bootstrap"),
        ("kernel", "squared kernel", "unbiased squared MMD with the kernel (x.y/D + 1)^3; about 0 for equal sets"),
        ("coverage", "share", "pieces of the reference with a piece of the set within their 5th neighbour's distance"),
        ("coverage_alike", "share", "what coverage is expected to be if both sets are of one kind"),
        ("density", "", "mean count of such balls around a piece of the set, over 5; about 1 if both are of one kind"),
        ("code_kl", "nats", "KL of the set's codes from the pack's training codes, mean over the codebooks"),
    ),
    *_rows(
        "following",
        ("share", "share", "sounds that are what was asked; what cannot be judged followed nothing"),
        ("chance", "share", "the same sounds, each held against what the others were asked for"),
        ("clap", "-1..1", "cosine of sound and text in the embedding of a CLAP checkpoint"),
        ("clap_chance", "-1..1", "the same, each sound with the texts of the others"),
    ),
)  # fmt: skip


def of(group: str) -> Iterator[Figure]:
    return (figure for figure in FIGURES if figure.group == group)


TITLES = {
    "measures": "Of one file",
    "music": "Of one file, as music",
    "sets": "Of a set against another",
    "following": "Of a set against what was asked",
}


def text() -> str:
    """For a terminal."""
    width = max(len(figure.name) for figure in FIGURES)
    parts = []
    for group, title in TITLES.items():
        rows = [f"  {f.name:<{width}}  {f.what}" + (f" [{f.unit}]" if f.unit else "") for f in of(group)]
        parts.append("\n".join([title, *rows]))
    return "\n\n".join(parts)


def markdown() -> str:
    """For docs/scores.md."""
    parts = []
    for group, title in TITLES.items():
        rows = [f"| `{f.name}` | {f.unit} | {f.what} |" for f in of(group)]
        parts.append("\n".join([f"**{title}** (`{group}`)", "", "| figure | unit | what |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def schema() -> dict[str, Any]:
    """JSON schema (2020-12) of what `score --json` prints."""

    def group(name: str) -> dict[str, Any]:
        found = {f.name: f.schema for f in of(name)}
        return {"type": ["object", "null"], "properties": found, "required": sorted(found)}

    text_ = {"type": ["string", "null"]}
    whole = {
        "name": {"type": "string", "description": "the file, run or set"},
        "measures": group("measures"),
        "music": group("music"),
        "codes": {"type": ["object", "null"], "description": "codes of the file beside held-out codes of the pack"},
        "labels": {"type": ["object", "null"], "description": "tempo, key and style as the built-in band knows them"},
        "verdict": {"type": ["object", "null"], "description": "held-out figures of a run"},
        "sets": {"type": ["object", "null"], "description": "the set against the reference: one entry an embedding"},
        "following": {"type": ["object", "null"], "description": "the set against what was asked for"},
        "predicted": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
        "missing": {"type": "object", "additionalProperties": text_, "description": "what failed here, and why"},
        "error": {"type": ["object", "null"], "description": "why nothing could be measured"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["scores"],
        "properties": {
            "scores": {
                "type": "array",
                "items": {"type": "object", "properties": whole, "required": sorted(whole)},
            }
        },
    }
