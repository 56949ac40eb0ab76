"""Names of files that say what is in them, are safe on any file system, and never stand for two different things."""

from __future__ import annotations

import unicodedata

from partimento.play.asked import Item

MOST_BYTES = 60
"""of the part that is spelled out; the digest tells apart what that leaves out"""


def name(item: Item, digest: str, continued: str | None = None) -> str:
    """Without a suffix, such as "techno-A-minor_t1_g3_s7_1f0c9a2b".

    `digest` is that of the whole request, so the order of a grid, its other items and other requests change no name,
    and names that differ in case or punctuation alone do not meet on file systems that fold them. `continued` is the
    stem of the audio that is played on from.
    """
    parts = [] if continued is None else [f"{slug(continued, MOST_BYTES // 2)}-continued".lstrip("-")]
    if item.words or not parts:
        parts.append(slug(str(item.words)) or "unconditional")
    parts += [f"t{item.rules.temperature:g}", f"g{item.guidance.scale:g}", f"s{item.seed}", digest[:8]]
    return "_".join(parts)


def slug(text: str, most: int = MOST_BYTES) -> str:
    """Letters, digits and # . of the text with - between, at most `most` bytes of UTF-8."""
    kept = "".join(c if c.isalnum() or c in "#." else "-" for c in unicodedata.normalize("NFC", text))
    joined = "-".join(part for part in kept.split("-") if part).lstrip("#.-")
    return joined.encode()[:most].decode(errors="ignore").rstrip(".-")
