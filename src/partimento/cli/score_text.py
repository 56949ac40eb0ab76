"""`score` for a terminal."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from partimento.cli.terminal import table

if TYPE_CHECKING:
    from partimento.lab.score import Score
    from partimento.lab.scores.against import Embedded, Sets
    from partimento.lab.scores.following import Following

Row = list[Any]
_WIDEST = 44  # characters of a name
_SOUND = [
    "s",
    "LUFS",
    "range LU",
    "peak dBFS",
    "crest dB",
    "clipped %",
    "silent %",
    "centroid Hz",
    "width Hz",
    "onsets/s",
]
_MUSIC = ["tempo bpm", "sure", "key", "sure", "even beat", "one harmony", "repeated %"]


def text(scores: Sequence[Score]) -> str:
    """Runs, files, codes, sets, and last what failed. Every number has its unit in the head of its column."""
    parts = [_verdict(one) for one in scores if one.verdict]
    sounds = [one for one in scores if one.measures]
    folder = _folder([one.name for one in sounds])
    if folder:
        parts.append(f"in {folder}/")
    names = {one.name: _short(one.name.removeprefix(f"{folder}/")) for one in sounds}
    if sounds:
        parts.append(table(["sound", *_SOUND], [[names[one.name], *_sound(one)] for one in sounds]))
        parts.append(table(["music", *_MUSIC], [[names[one.name], *_music(one)] for one in sounds]))
    if any(one.labels for one in sounds):
        heard = [(names[one.name], one.labels) for one in sounds]
        rows = [[name, *((found.tempo, found.key, found.style) if found else (None,) * 3)] for name, found in heard]
        parts.append(table(["labels (estimated)", "tempo bpm", "key", "style, as of the band"], rows))
    if any(one.codes for one in sounds):
        head = ["codes (means over books)", "entropy", "coverage", "unigram KL", "repetition", "frames repeated"]
        parts.append(table(head, [row for one in sounds for row in _codes(one, names[one.name])]))
    judges = list(dict.fromkeys(name for one in sounds for name in one.predicted))
    if judges:
        rows = [[names[one.name], *(one.predicted.get(judge) for judge in judges)] for one in sounds]
        parts.append(table(["predicted", *judges], rows))
    for one in scores:
        parts += _following(one.name, one.following) if one.following else []
        parts += _sets(one.name, one.sets) if one.sets else []
    parts += [f"{one.name}: missing {what}: {why}" for one in scores for what, why in one.missing.items()]
    parts += [f"{one.name}: {one.error['code']} {one.error['message']}" for one in scores if one.error]
    return "\n\n".join(parts)


def _verdict(one: Score) -> str:
    assert one.verdict is not None
    return f"{one.name}: {one.verdict.sentence}" + (f"\n{one.verdict.remark}" if one.verdict.remark else "")


def _folder(names: Sequence[str]) -> str:
    """The folder that all names share, where there are several."""
    return os.path.commonpath(names) if len(names) > 1 and len({os.path.isabs(n) for n in names}) == 1 else ""  # noqa: PTH117


def _short(name: str) -> str:
    return name if len(name) <= _WIDEST else "..." + name[-(_WIDEST - 3) :]


def _sound(one: Score) -> Row:
    found = one.measures
    assert found is not None
    return [
        _fixed(found.seconds, 1),
        _fixed(found.loudness_lufs, 1),
        _fixed(found.loudness_range_lu, 1),
        _fixed(found.peak_dbfs, 1),
        _fixed(found.crest_db, 1),
        _fixed(100 * found.clipped_share, 2),
        _fixed(100 * found.silent_share, 1),
        _fixed(found.centroid_hz, 0),
        _fixed(found.bandwidth_hz, 0),
        _fixed(found.onsets_per_second, 2),
    ]


def _music(one: Score) -> Row:
    found = one.music
    if found is None:
        return [None] * len(_MUSIC)
    repeated = None if found.repetition is None else 100 * found.repetition
    return [
        _fixed(found.tempo_bpm, 1),
        _fixed(found.tempo_confidence, 2),
        found.key or "-",
        _fixed(found.key_confidence, 2),
        _fixed(found.beat_stability, 3),
        _fixed(found.chroma_consistency, 3),
        _fixed(repeated, 0),
    ]


def _codes(one: Score, name: str) -> list[Row]:
    rows = []
    if one.codes:
        for label, figures in ((name, one.codes.figures), ("  held-out music", one.codes.yardstick)):
            values = (figures.entropy_K, figures.coverage_K, figures.unigram_kl_K, figures.repetition_K)
            rows.append([label, *map(_mean, values), figures.repetition_frames])
    return rows


def _following(name: str, found: Following) -> list[str]:
    rows: list[Row] = []
    for aspect in ("tempo", "key", "style"):
        share = getattr(found, aspect)
        if share:
            above = "-" if share.chance is None else "yes" if share.low > share.chance else "no"
            right = f"{share.right} of {share.asked}"
            rows.append([aspect, right, share.share, f"[{share.low:.3f}, {share.high:.3f}]", share.chance, above])
    parts = []
    if rows:
        head = ["followed what was asked", "right", "share", "95 %", "chance", "above chance"]
        parts.append(f"{name}\n" + table(head, rows))
    if found.clap:
        cosines = [
            [one.checkpoint, one.asked, one.clap, one.clap_chance, one.gain, _interval(one.gain_low, one.gain_high)]
            for one in found.clap
        ]
        parts.append(table(["sound and text", "sounds", "cosine", "other texts", "gain", "95 %"], cosines))
    return parts


def _sets(name: str, found: Sets) -> list[str]:
    parts = [f"{name}, against {found.reference}"]
    for one in found.embeddings:
        parts.append(_embedded(one))
    if found.codes:
        codes = found.codes
        rows = [
            ["the set, all codes counted together", codes.frames, codes.code_kl],
            ["held-out music, as many frames", codes.yardstick_frames, codes.yardstick_kl],
        ]
        parts.append(table(["codes", "frames", "KL from the training codes, nats"], rows))
    return parts


def _embedded(one: Embedded) -> str:
    sha = f", sha256 {one.sha256[:12]}" if one.sha256 else ""
    size = f"{one.dimension} dimensions, " if one.dimension else ""
    lines = [
        f"in {one.embedding} ({size}{one.sample_rate} Hz{sha}), pieces of {one.piece_seconds:.3g} s:"
        f" {one.pieces} of {one.items} items, {one.reference_pieces} of {one.reference_items} of the reference"
    ]
    d = one.distances
    if d:
        rows: list[Row] = [
            ["Frechet distance, as published", d.frechet, "-", d.frechet_floor],
            ["  less the bias of so few", d.frechet_debiased, _interval(d.frechet_low, d.frechet_high), None],
            ["kernel distance (MMD^2)", d.kernel, _interval(d.kernel_low, d.kernel_high), d.kernel_floor],
            ["coverage", d.coverage, "-", d.coverage_alike],
            ["density", d.density, "-", None if d.density is None else 1.0],
        ]
        lines.append(table(["", "figure", "95 %", "of one kind"], rows))
    left = [
        (side, count) for side, count in (("", one.left_out), (" of the reference", one.reference_left_out)) if count
    ]
    lines += [f"left out{side}: " + ", ".join(f"{n} {why}" for why, n in count.items()) for side, count in left]
    lines += [textwrap.fill(f"note: {remark}", 100, subsequent_indent="      ") for remark in one.remarks]
    return "\n".join(lines)


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"


def _fixed(value: float | None, digits: int) -> _Number | None:
    return None if value is None else _Number(value, digits)


class _Number:
    """Shown with so many digits after the point."""

    def __init__(self, value: float, digits: int) -> None:
        self._text = f"{value:.{digits}f}"

    def __str__(self) -> str:
        return self._text


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
