"""`pack stats --html`: what is in a pack and what is wrong with it, on one page that works offline.

Made of the figures that `tokens.stats.stats` found, in the style of a run's report: one file, nothing loaded from
anywhere, no script, all text escaped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import partimento
from partimento import commit
from partimento.lab import datafigures, page

if TYPE_CHECKING:
    from partimento.tokens.stats import PackStats

MOST_TAGS = 24
BADGES = {"bad": "wrong", "warn": "look at", "note": "to know"}
NOISE = {
    "uniform": "noise",
    "orderless": "no order in time",
    "constant": "one code",
    "unknown": "too few codes",
    "ordered": "ordered",
}


def datapage(found: PackStats, to: str | Path) -> Path:
    """Write the page to the file `to` and return its path. Raises SYS002 where it cannot be written."""
    target = Path(to)
    commit.text(target, page.environment().get_template("datapage.html").render(**_context(found)))
    return target


def _context(found: PackStats) -> dict[str, Any]:
    return {
        "style": Markup(page.asset("report.css") + page.asset("datapage.css")),
        "found": found,
        "name": Path(found.path).name or found.path,
        "lede": _lede(found),
        "verdict": _verdict(found),
        "badges": BADGES,
        "noise": NOISE,
        "bars": datafigures.bars(found),
        "tiles": _tiles(found),
        "codes": datafigures.codes(found),
        "clips": datafigures.clips(found),
        "draw": datafigures.draw(found),
        "tags": list(found.tags.items())[:MOST_TAGS],
        "most": max(found.tags.values(), default=1),
        "facts": _facts(found),
        "commands": _commands(found),
        "sentence": sentence,
        "version": partimento.__version__,
    }


def _lede(found: PackStats) -> str:
    books = len(found.spec["cardinalities"])
    text = (
        f"{length(found.hours * 3600)} of audio in {found.clips:,} clips of {found.sources['count']:,} sources, as "
        f"codes of {found.codec}: {books} book{'' if books == 1 else 's'}, "
        f"{found.spec['frame_rate'][0] / found.spec['frame_rate'][1]:.4g} frames a second, {found.spec['layout']}"
    )
    if not found.sample.whole:
        read = length(found.sample.hours * 3600)
        text += f". Codes were read of {found.sample.clips:,} clips ({read}), a keyed sample"
    return text


def _verdict(found: PackStats) -> dict[str, str]:
    """The badge and the sentence that a reader in a hurry takes away."""
    bad, warn = (sum(one.level == level for one in found.findings) for level in ("bad", "warn"))
    if bad:
        badge = {"badge": f"{bad} thing{'' if bad == 1 else 's'} wrong", "kind": "bad"}
    elif warn:
        badge = {"badge": f"{warn} thing{'' if warn == 1 else 's'} to look at", "kind": ""}
    else:
        badge = {"badge": "nothing wrong found", "kind": "good"}
    grave = [one for one in found.findings if one.level == ("bad" if bad else "warn")]
    if not grave:
        return {**badge, "sentence": "Nothing stands out; what is worth knowing is listed below.", "also": ""}
    return {
        **badge,
        "sentence": f"{sentence(grave[0].text)}: {grave[0].why}.",
        "also": "".join(f"{sentence(one.text)}. " for one in grave[1:4]) + ("And more, below." if grave[4:] else ""),
    }


def _tiles(found: PackStats) -> list[tuple[str, str, str]]:
    valid = found.splits["valid"]
    still, copies = found.silence, found.duplicates
    noisy = [book.book + 1 for book in found.usage if book.verdict.kind in ("uniform", "orderless")]
    return [
        ("Audio", length(found.hours * 3600), f"{found.bytes / 1e6:,.1f} MB of codes in {found.shards} shards"),
        ("Clips", f"{found.clips:,}", f"{found.sources['count']:,} sources"),
        ("Held out", f"{valid['clips']:,}", f"clips, {length(valid['seconds'])}"),
        ("Leaks", f"{copies.leaks:,}", "held-out clips that share passages with training clips"),
        ("Near-duplicates", f"{copies.clips:,}", f"clips in {copies.groups:,} groups"),
        ("Noise", f"{len(found.noisy_clips):,}", f"clips; {len(noisy)} of {len(found.usage)} books without order"),
        ("Standing still", f"{100 * still.share:.1f} %", f"of the frames, {still.least_seconds:.1f} s or longer"),
        ("Tagged", f"{100 - 100 * found.untagged / max(1, found.clips):.0f} %", f"{len(found.tags):,} different tags"),
    ]


def _facts(found: PackStats) -> list[tuple[str, str]]:
    spec = found.spec
    return [
        ("Pack", found.path),
        ("Fingerprint", found.fingerprint),
        ("Codec", f"{found.codec}, weights {str(spec['weights'])[:12]}"),
        ("Codes of each book", ", ".join(str(size) for size in spec["cardinalities"])),
        ("Sample rate", f"{spec['sample_rate']:,} Hz"),
        ("Train", f"{found.splits['train']['clips']:,} clips, {length(found.splits['train']['seconds'])}"),
        ("Held out", f"{found.splits['valid']['clips']:,} clips, {length(found.splits['valid']['seconds'])}"),
        ("Codes read of", f"{found.sample.clips:,} of {found.sample.of:,} clips"),
    ]


def _commands(found: PackStats) -> list[tuple[str, str]]:
    return [
        ("These figures", f"partimento pack stats {found.path}"),
        ("Every hash", f"partimento pack verify {found.path}"),
        ("Listen to a clip", f"partimento decode {found.path} --to DIR --clip ID"),
    ]


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def length(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"
