"""The audit as one page that works offline: the verdict, the copies as pictures and sounds, the null, all samples."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

import partimento
from partimento import commit
from partimento.audio import files
from partimento.errors import PartimentoError
from partimento.lab import page as pages
from partimento.lab.memorised import pictures, text
from partimento.lab.memorised.audited import Audit, Audited
from partimento.lab.memorised.samples import Sample
from partimento.lab.memorised.text import clock, p_text
from partimento.lab.pictures import frequency_ticks, spectrogram_png, waveform_path
from partimento.tokens.pack import Pack

SHOWN = 8  # copies with a picture
LEAST_SECONDS = 0.2  # of a copy that has one; of shorter ones only the first two, to be seen for what they are
HEARD_SECONDS = 12.0  # of each side, at most
MARGIN_SECONDS = 0.5
BADGES = {
    "memorised": ("memorised", "bad"),
    "near": ("near the training clips", "bad"),
    "not": ("not memorised", "good"),
    "unknown": ("no verdict", ""),
}
STEPS = {
    "=": ("equal in the first two books", "blue"),
    "-": ("equal, but silence or a held sound", "rule"),
    "~": ("equal in the first book alone", "amber"),
    "x": ("another frame", "vermilion"),
    "i": ("only in the sample", "pink"),
    "d": ("only in the clip", "green"),
}


def page(audit: Audit, pack: Pack, to: str | Path) -> Path:
    """Write the page to the file `to` and return its path. Raises SYS002 where it cannot be written."""
    script = pages.asset("report.js")
    html = pages.environment().get_template("memorised.html").render(
        style=Markup(pages.asset("report.css") + pages.asset("memorised.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        audit=audit,
        badge=BADGES[audit.verdict],
        tiles=_tiles(audit),
        copies=[_copy(one, audit, pack) for one in _shown(audit)],
        steps=list(STEPS.values()),
        figures=pictures.null_figures(audit),
        head=_head(audit),
        rows=[_row(one) for one in text.ordered(audit.samples)],
        drift=text.drift_sentence(audit),
        drift_rows=_drift_rows(audit),
        diversity=text.diversity_sentence(audit),
        about=_about(audit),
        version=partimento.__version__,
    )  # fmt: skip
    target = Path(to)
    commit.text(target, html)
    return target


def _shown(audit: Audit) -> list[Audited]:
    """The samples whose nearest passage is drawn, surest first."""
    found: list[Audited] = []
    for one in text.ordered(audit.samples):
        if one.near is not None and (len(found) < 2 or one.near.seconds >= LEAST_SECONDS):
            found.append(one)
    return found[:SHOWN]


def _tiles(audit: Audit) -> list[tuple[str, str, str]]:
    copied = sum(bool(one.memorised) for one in audit.samples)
    longest = max(one.longest for one in audit.samples)
    null = audit.null
    held = max((value for value in null.values["near-copy"]), default=0) if null else None
    return [
        ("samples", str(len(audit.samples)), f"{copied} hold{'s' if copied == 1 else ''} training music"),
        ("longest copy", f"{longest:.2f} s", "exact or near"),
        ("training", f"{audit.training['hours']:.2f} h", f"{audit.training['clips']:,} clips searched"),
        (
            "held out",
            str(null.clips) if null else "none",
            f"clips of {null.seconds:.1f} s; best near-copy scores {held}" if null else "so there is no p-value",
        ),
        ("least p", p_text(min((one.p for one in audit.samples if one.p is not None), default=None)), "of one sample"),
    ]


def _head(audit: Audit) -> list[str]:
    return [
        "Sample",
        *(name.capitalize() for name in audit.samples[0].runs),
        "Near-copy",
        "Of clip",
        "From",
        "p",
        "Holm",
    ]


def _row(one: Audited) -> dict[str, Any]:
    near = one.near
    return {
        "name": one.name,
        "runs": [f"{run.seconds:.2f} s ({run.informative})" if run else "–" for run in one.runs.values()],
        "near": f"{near.seconds:.2f} s ({near.score})" if near else "–",
        "clip": near.clip if near else "–",
        "clock": clock(near.clip_second) if near else "–",
        "p": p_text(one.p) if one.p is not None else "–",
        "holm": p_text(one.holm) if one.holm is not None else "–",
        "memorised": one.memorised,
    }


def _copy(one: Audited, audit: Audit, pack: Pack) -> dict[str, Any]:
    near = one.near
    assert near is not None
    sample = next(each for each in audit.played if each.name == one.name)
    clip = pack.clip_number(near.clip)
    p_values = [
        (name, one.values[name], p_text(value.rank), p_text(value.fitted)) for name, value in one.p_values.items()
    ]
    exact = max((run for run in one.runs.values() if run), key=lambda run: (run.informative, run.books), default=None)
    facts = [
        ("in the sample", f"{clock(near.sample_second)} to {clock(near.sample_second + near.seconds)}"),
        ("in the clip", f"from {clock(near.clip_second)}"),
        ("equal frames", f"{100 * near.same:.0f} % of {len(near.path)}"),
    ]
    if exact is not None:
        books = next(name for name, run in one.runs.items() if run is exact)
        facts.append(("longest exact run", f"{exact.seconds:.2f} s, {books}, {exact.clip} {clock(exact.clip_second)}"))
    return {
        "name": one.name,
        "clip": near.clip,
        "clock": clock(near.clip_second),
        "memorised": one.memorised,
        "holm": p_text(one.holm) if one.holm is not None else None,
        "strip": _runs_of(near.path),
        "steps": len(near.path),
        "codes": pictures.codes_svg(sample.codes_TK, pack.read(clip), near),
        "ticks": pictures.ticks(near),
        "facts": facts,
        "p_values": p_values,
        "sounds": _sounds(audit, sample, pack.read(clip), near),
    }


def _runs_of(path: str) -> list[tuple[int, int, str]]:
    """(first step, steps, colour) of successive equal steps."""
    runs, at = [], 0
    for letter, group in groupby(path):
        size = len(list(group))
        runs.append((at, size, STEPS[letter][1]))
        at += size
    return runs


def _sounds(audit: Audit, sample: Sample, clip_TK: NDArray[np.uint16], near: Any) -> list[dict[str, Any]] | str:
    """Both passages decoded, with half a second around; a sentence where the codec is not there to do it."""
    spec, ears = audit.ears.spec, audit.ears
    margin = round(MARGIN_SECONDS * float(spec.frame_rate))
    length = min(len(near.path), round(HEARD_SECONDS * float(spec.frame_rate)))
    try:
        waves = [
            ears.sound(np.asarray(codes_TK[max(0, first - margin) : first + length + margin]))
            for codes_TK, first in ((sample.codes_TK, near.sample_frame), (clip_TK, near.clip_frame))
        ]
    except PartimentoError as err:
        return f"Nothing to hear: {err.message} ({err.code})."
    titles = (("The sample", sample.name), ("The training clip", f"{near.clip}, {clock(near.clip_second)}"))
    return [
        {
            "title": title,
            "subtitle": subtitle,
            "audio": _audio(wave_CN, spec.sample_rate),
            "spectrogram": spectrogram_png(wave_CN, spec.sample_rate),
            "ticks": frequency_ticks(spec.sample_rate),
            "outline": waveform_path(wave_CN),
        }
        for (title, subtitle), wave_CN in zip(titles, waves, strict=True)
    ]


def _audio(wave_CN: NDArray[np.float32], sample_rate: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heard.flac"
        files.write(path, wave_CN, sample_rate)
        return f"data:audio/flac;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _drift_rows(audit: Audit) -> list[list[str]]:
    return [
        [
            one.name,
            f"{found.usage:.3f}",
            p_text(found.usage_p),
            *(f"{value:.3f}" for value in found.entropy_thirds),
            p_text(found.entropy_p),
        ]
        for one, found in zip(audit.samples, audit.drift.samples, strict=True)
        if found is not None
    ]


def _about(audit: Audit) -> list[tuple[str, str]]:
    seeds = ", ".join(f"{name} from {seed} frame{'' if seed == 1 else 's'} on" for name, seed in audit.seeds.items())
    rows = [
        ("audited", audit.what),
        ("pack", audit.pack),
        ("fingerprint", audit.fingerprint),
        ("runs are looked for", seeds),
    ]
    if audit.null:
        rows.append(("held-out windows", f"{audit.null.clips} clips of {audit.null.frames} frames, one window a clip"))
        if audit.null.kept_K is not None:
            kept = ", ".join(f"{100 * share:.0f} %" for share in audit.null.kept_K)
            rows.append(("codes that survive the way through audio, by book", kept))
    return rows
