"""Packs in the forms of other programs: codes by tokens.convert.export, audio through the codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from partimento import commit
from partimento.audio import stream
from partimento.codecs import worker
from partimento.codecs.codec import decode_stream, open_like
from partimento.codecs.decode import BLOCK
from partimento.progress import Progress, Quiet
from partimento.tokens.convert import export, exported
from partimento.tokens.pack import Pack
from partimento.tokens.store import local

AUDIO = ("wav", "flac")
FORMATS = (*export.FORMATS, *AUDIO)
LABELS = "tags.jsonl"  # what `partimento encode` reads beside audio


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote into `folder`."""

    folder: str
    format: str
    clips: int
    files: list[str]


def export_pack(
    pack: str | Path,
    to: str | Path,
    format: str,
    *,
    clips: Sequence[str] = (),
    codec: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> ExportReport:
    """Write the clips of `pack` (all, or those named) into the new folder `to` as one of FORMATS.

    npq1, npq2, text and parquet hold the codes as they are; wav and flac (16 bits) are decoded with `codec`, by default
    the pack's own. The folder appears whole, by one rename. Labels stand beside in metadata.jsonl, beside audio in
    tags.jsonl. Raises PACK019 (no such clip), CONVERT010, NPQ005, FAR008 (`to` is a URL), what reading and
    decoding raise.
    """
    opened, to, progress = Pack.open(pack), local(to), progress or Quiet()
    chosen = [opened.clip_number(name) for name in clips] if clips else list(range(len(opened.clips)))
    progress.stage("export", f"{len(chosen)} clip(s) as {format}")
    if format in AUDIO:
        names = _export_audio(opened, to, format, chosen, codec, device, progress)
    else:
        names = export.export_codes(opened, to, format, chosen, progress)
    return ExportReport(str(to), format, len(chosen), names)


def _export_audio(
    pack: Pack, to: Path, format: str, chosen: Sequence[int], codec: str | None, device: str, progress: Progress
) -> list[str]:
    opened = open_like(pack.spec, worker.devices(device)[0], name=codec)
    names = []
    with export.new_folder(to) as folder:
        for done, number in enumerate(chosen, 1):
            path = export.place(folder, pack.clips.clip[number], "." + format)
            codes_TK = pack.read(number)
            blocks = (codes_TK[first : first + BLOCK] for first in range(0, len(codes_TK), BLOCK))
            waves = decode_stream(opened, blocks, samples=int(pack.clips.samples[number]))
            stream.write(path, waves, pack.spec.sample_rate)
            names.append(path.relative_to(folder).as_posix())
            progress.update(done, len(chosen))
        export.write_labels(folder / LABELS, pack, chosen, names)
        commit.record(folder / exported.EXPORT, exported.content(pack.spec, pack.fingerprint, format))
    return names
