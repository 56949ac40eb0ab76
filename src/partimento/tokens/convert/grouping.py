"""Which clips are of one source, where nothing says so: by the stem that the pieces of a song share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

BY = ("auto", "stem", "file")
_PIECE = re.compile(
    r"^(?P<song>.*?[^\s_.\-/])[\s_.\-]*(?:(?:part|chunk|seg|segment|clip|loop|crop|window|slice|piece)[\s_.\-]*)?"
    r"(?<!\d)\d+$",
    re.IGNORECASE | re.DOTALL,
)


def stem(name: str) -> str:
    """`song_03`, `song-part2` and `song.chunk_001` are pieces of `song`; a name without a number is its own."""
    found = _PIECE.match(name)
    return found["song"] if found else name


def sources(names: Sequence[str], by: str = "auto") -> tuple[list[str], str]:
    """The source of each clip, and in words how it was found.

    "stem" takes the song's stem, "file" the clip itself. "auto" takes the stems unless one of them holds more than nine
    tenths of the clips: such names are numbers of a collection (sample_000001, ...), not pieces of songs.
    """
    stems = [stem(name) for name in names]
    counts = Counter(stems)
    if by == "auto":
        by = "stem" if counts and max(counts.values()) * 10 <= 9 * len(names) and len(counts) < len(names) else "file"
    if by == "file":
        return list(names), "file"
    return stems, f"song stem: {len(counts)} songs of {len(names)} clips"
