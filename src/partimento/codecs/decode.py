"""Decode: the codes of a pack become audio again, each clip with its exact length, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partimento import commit
from partimento.audio import child, stream
from partimento.audio.files import AUDIO_SUFFIXES
from partimento.codecs import worker
from partimento.codecs.codec import Codec, decode_stream, encode_stream, open_codec, open_like
from partimento.codecs.hear import Hearing
from partimento.codecs.inputs import Input
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens.pack import Pack
from partimento.tokens.store import is_far

SUFFIXES = (".wav", ".flac")
BLOCK = 4096  # frames that are handed to the codec at once


def decode(
    source: str | Path,
    to: str | Path,
    clip: str | None = None,
    *,
    codec: str | None = None,
    layout: str = "mono",
    books: tuple[int, ...] | None = None,
    upmix: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Path]:
    """Write the clips of the pack `source`, or the one named `clip`, as audio below the folder `to`; gives the paths.

    `to` may be the name of a .wav or .flac file for a single clip; else the format is WAV. `source` may also be an
    audio file, which then goes through the codec and back: what the codec keeps of it, the ceiling of any model over
    it. `codec` is the pack's own by default (for a file: resident-44k, in `layout` with `books`).

    Raises SYS004 (no such source), SYS006 (options of a file for a pack, or the other way round), PACK009 (`codec` is
    not the pack's), PACK019 (no such clip), what reading raises.
    """
    to, progress, where = Path(to), progress or Quiet(), worker.devices(device)[0]
    if not is_far(source) and not Path(source).exists():
        raise PartimentoError("SYS004", f"{source} does not exist", where=str(source), next="ls the folder above it")
    is_file = not is_far(source) and Path(source).is_file()
    _check(to, clip, is_file, given=layout != "mono" or books is not None or upmix)
    if is_file:
        opened = open_codec(codec or "resident-44k", where, layout=layout, books=books)
        return [_round_trip(Path(source), to, opened, upmix)]
    pack = Pack.open(source)
    opened = open_like(pack.spec, where, name=codec)
    chosen = range(len(pack.clips)) if clip is None else [pack.clip_number(clip)]
    progress.stage("decode", "codes become audio")
    written = []
    for done, number in enumerate(chosen, 1):
        name = Path(pack.clips.clip[number])
        if name.is_absolute() or ".." in name.parts:  # a pack may come from anywhere
            raise PartimentoError(
                "PACK019", f"the clip {str(name)!r} would be written outside of {to}", where=str(source)
            )
        path = to if clip is not None and to.suffix.lower() in SUFFIXES else to / name.with_name(name.name + ".wav")
        if path.parent.is_dir():
            commit.sweep(path.parent)  # what a killed decode left
        codes_TK = pack.read(number)
        waves = decode_stream(opened, _blocks(codes_TK), samples=int(pack.clips.samples[number]))
        stream.write(path, waves, pack.spec.sample_rate)
        written.append(path)
        progress.update(done, len(chosen))
    return written


def _check(to: Path, clip: str | None, is_file: bool, *, given: bool) -> None:
    """Raise SYS006 for what would be passed over in silence."""
    wrong = None
    if is_file and clip is not None:
        wrong = ("a file has no clips", "leave --clip out")
    elif not is_file and given:
        wrong = ("layout, books and upmix of a pack are the pack's own", "leave --layout, --books and --upmix out")
    elif to.suffix.lower() in AUDIO_SUFFIXES - set(SUFFIXES):
        wrong = (f"{to.name} is no folder, and {to.suffix} is not written", "name a folder, or a .wav or .flac file")
    if wrong:
        raise PartimentoError("SYS006", wrong[0], next=wrong[1])


def _blocks(codes_TK: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    return (codes_TK[start : start + BLOCK] for start in range(0, len(codes_TK), BLOCK))


def _round_trip(source: Path, to: Path, codec: Codec, upmix: bool) -> Path:
    heard = Hearing(Input(source.name, source, 0, source.name), codec.spec, upmix, child.shared())
    # The codes of a file are small; its exact length is known when all of it has been heard.
    codes = list(encode_stream(codec, heard))
    assert heard.heard is not None
    path = to if to.suffix.lower() in SUFFIXES else to / (source.name + ".wav")
    stream.write(path, decode_stream(codec, codes, samples=heard.heard.samples), codec.spec.sample_rate)
    return path
