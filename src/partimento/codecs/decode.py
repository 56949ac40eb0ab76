"""Decode: the codes of a pack become audio again, each clip with its exact length."""

from __future__ import annotations

from pathlib import Path

from partimento.audio import files
from partimento.codecs import worker
from partimento.codecs.codec import Codec, decode_whole, encode_whole
from partimento.codecs.layout import arrange
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens.pack import Pack

SUFFIXES = (".wav", ".flac")


def decode(
    source: str | Path,
    to: str | Path,
    clip: str | None = None,
    *,
    codec: str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write the clips of the pack `source`, or the one named `clip`, as audio below the folder `to`; gives the paths.

    `to` may be the name of a .wav or .flac file for a single clip; else the format is WAV. `source` may also be an
    audio file, which then goes through the codec and back: what the codec keeps of it, the ceiling of any model over
    it. `codec` is the pack's own by default (for a file: resident-44k).

    Raises SYS004 (no such source), PACK009 (`codec` is not the pack's), PACK019 (no such clip), what reading raises.
    """
    source, to, progress = Path(source), Path(to), progress or Quiet()
    if not source.exists():
        raise PartimentoError("SYS004", f"{source} does not exist", where=str(source), next="ls the folder above it")
    if source.is_file():
        return [_round_trip(source, to, worker.load_codec(codec or "resident-44k"))]
    pack = Pack.open(source)
    opened = open_for(pack, codec)
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
        wave_CN = decode_whole(opened, pack.read(number), samples=int(pack.clips.samples[number]))
        files.write(path, wave_CN, pack.spec.sample_rate)
        written.append(path)
        progress.update(done, len(chosen))
    return written


def open_for(pack: Pack, codec: str | None = None) -> Codec:
    """The codec that a pack's codes are of. Raises PACK009 if `codec` (or the one of that name today) is another."""
    opened = worker.load_codec(codec or pack.spec.codec)
    if opened.spec != pack.spec:
        differs = [name for name, value in pack.spec.to_json().items() if opened.spec.to_json()[name] != value]
        raise PartimentoError(
            "PACK009",
            f"the pack is of {pack.spec.codec}, and this codec is another",
            where=str(pack.path),
            why=f"they differ in {', '.join(differs)}",
            next=f"use the codec {pack.spec.codec} of the weights {pack.spec.weights[:12]}, or encode the audio again",
        )
    return opened


def _round_trip(source: Path, to: Path, codec: Codec) -> Path:
    audio = files.read(source)
    wave_CN = arrange(audio.wave_CN, codec.spec.layout).wave_CN
    wave_CN = files.resample(wave_CN, audio.sample_rate, codec.spec.sample_rate)
    heard_CN = decode_whole(codec, encode_whole(codec, wave_CN), samples=wave_CN.shape[-1])
    path = to if to.suffix.lower() in SUFFIXES else to / (source.name + ".wav")
    files.write(path, heard_CN, codec.spec.sample_rate)
    return path
