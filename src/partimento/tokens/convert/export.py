"""Codes of a pack in other programs' forms: NPQ1, NPQ2, the text form, Parquet.

Beside the files stand metadata.jsonl, with all that the form cannot hold (exact samples, tags, licence), and
export.json, with the codec, so that `import` gives back every clip as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from partimento import commit
from partimento.errors import PartimentoError
from partimento.progress import Progress
from partimento.tokens import npq, npqtext
from partimento.tokens.convert import exported
from partimento.tokens.convert.inside_parquet import METADATA
from partimento.tokens.convert.labels import EXPORTED
from partimento.tokens.npq import NpqFile
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec

FORMATS = ("npq1", "npq2", "text", "parquet")
_SUFFIX = {"npq1": ".npq", "npq2": ".npq", "text": ".txt"}
_LABELS = ("clip", "source", "samples", "tags", "caption", "licence", "origin", "sha256", "loudness", "peak", "split")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|\ud800-\udfff]')
_LONGEST_NAME = 180  # bytes of a part of a path; 255 is the limit, and suffixes follow
_VALUES_PER_GROUP = 1 << 24  # codes in a row group, so that readers need little memory
_TABLE = pa.schema(
    [
        *((name, pa.string()) for name in ("clip", "source")),
        ("samples", pa.int64()),
        ("tags", pa.list_(pa.string())),
        *((name, pa.string()) for name in ("caption", "licence", "origin", "sha256")),
        *((name, pa.float64()) for name in ("loudness", "peak")),
        ("split", pa.string()),
        ("codes", pa.list_(pa.list_(pa.uint16()))),
    ]
)


def export_codes(pack: Pack, to: Path, format: str, chosen: Sequence[int], progress: Progress) -> list[str]:
    """Write the clips `chosen` of the pack into the new folder `to`, in one of FORMATS; the names of the files.

    Raises NPQ005 (the format cannot say the pack's layout), CONVERT010 (a name twice, or `to` exists), what reading
    the pack raises, SYS002.
    """
    content = exported.content(pack.spec, pack.fingerprint, format)
    with new_folder(to) as folder:
        if format == "parquet":
            names = ["codes.parquet"]
            commit.file(folder / names[0], lambda tmp: _write_table(tmp, pack, chosen, content, progress))
        else:
            names = []
            for done, number in enumerate(chosen, 1):
                file = npq_of(pack.spec, pack.read(number), where=str(pack.clips.clip[number]))
                path = place(folder, pack.clips.clip[number], _SUFFIX[format])
                if format == "text":
                    npqtext.write(path, file, src_file=PurePosixPath(pack.clips.clip[number]).name)
                else:
                    npq.write(path, file, version="npq2" if format == "npq2" else "npq1")
                names.append(path.relative_to(folder).as_posix())
                progress.update(done, len(chosen))
            write_labels(folder / EXPORTED, pack, chosen, names)
        commit.record(folder / exported.EXPORT, content)
    return names


def npq_of(spec: CodecSpec, codes_TK: Any, *, where: str) -> NpqFile:
    """Codes of a pack as NPQ has them. Raises NPQ005 for left and right."""
    if spec.layout == "left-right":
        raise PartimentoError(
            "NPQ005",
            "NPQ cannot say left and right",
            where=where,
            why="it has books of one channel (NPQ1), or of mid and side (NPQ2)",
            next="use --format parquet",
        )
    k_mid, k_side = spec.books if spec.books else (spec.codebooks, 0)
    mode: npq.ChannelMode = "mid-side" if k_side else "mono"
    version: npq.Version = "npq2" if k_side else "npq1"
    rate = float(np.float32(float(spec.frame_rate)))
    return NpqFile(np.asarray(codes_TK), spec.cardinalities, rate, 0.0, k_mid, k_side, mode, version)


def write_labels(path: Path, pack: Pack, chosen: Sequence[int], names: Sequence[str]) -> None:
    """One JSON object a clip: its file and all that the file does not hold."""
    lines = []
    for number, name in zip(chosen, names, strict=True):
        row = {"file": name, **labels_of(pack, number)}
        for key in ("loudness", "peak"):  # JSON has no infinities
            if row[key] is not None and not np.isfinite(row[key]):
                row[key] = str(row[key])
        lines.append(json.dumps({k: v for k, v in row.items() if v is not None}, ensure_ascii=False, sort_keys=True))
    commit.text(path, "".join(line + "\n" for line in lines))


def labels_of(pack: Pack, number: int) -> dict[str, Any]:
    row = {name: getattr(pack.clips, name)[number] for name in _LABELS}
    return {**row, "samples": int(row["samples"]), "tags": list(row["tags"])}


def place(folder: Path, clip: str, suffix: str) -> Path:
    """Where the file of a clip goes: inside of `folder`, whatever the clip is called. Raises CONVERT010 where another
    file is there, also one that only this file system takes for the same."""
    parts = [_UNSAFE.sub("_", part) for part in clip.split("/")]
    parts = ["_" * len(part) or "_" if part.strip(". ") == "" else part for part in parts]
    parts = [part.encode()[:_LONGEST_NAME].decode("utf-8", "ignore") for part in parts]
    path = folder.joinpath(*parts[:-1], parts[-1] + suffix)
    if path.exists() or any(parent.is_file() for parent in path.parents if parent != folder):
        raise PartimentoError(
            "CONVERT010",
            f"the clip {clip!r} would be written over another file",
            where=path.relative_to(folder).as_posix(),
            why="another clip's name becomes the same file name",
            next="export it alone with --clip",
        )
    return path


def new_folder(to: Path) -> Any:
    """commit.folder(to). Raises CONVERT010 where `to` exists."""
    if to.exists():
        raise PartimentoError(
            "CONVERT010", f"{to} exists", where=str(to), next=f"choose a new folder with --to, or delete {to}"
        )
    return commit.folder(to)


def _write_table(tmp: Path, pack: Pack, chosen: Sequence[int], content: dict[str, Any], progress: Progress) -> None:
    schema = _TABLE.with_metadata({METADATA: json.dumps(content, sort_keys=True).encode()})
    with pq.ParquetWriter(tmp, schema, compression="zstd") as out:
        done = 0
        for group in _groups(pack, chosen):
            rows = [labels_of(pack, number) for number in group]
            columns = [pa.array([row[name] for row in rows], schema.field(name).type) for name in _LABELS]
            out.write_table(pa.table([*columns, _nested([pack.read(number) for number in group])], schema=schema))
            done += len(group)
            progress.update(done, len(chosen))


def _groups(pack: Pack, chosen: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    values = 0
    for number in chosen:
        size = int(pack.clips.frames[number]) * pack.spec.codebooks
        if group and values + size > _VALUES_PER_GROUP:
            yield group
            group, values = [], 0
        group.append(number)
        values += size
    if group:
        yield group


def _nested(clips: Sequence[np.ndarray[Any, Any]]) -> pa.Array:
    """[clips][T][K] as Arrow lists, without a Python object a code."""
    books = clips[0].shape[1]
    flat = pa.array(np.concatenate(clips).astype(np.uint16).reshape(-1))
    frames = len(flat) // books
    inner = pa.ListArray.from_arrays(pa.array(np.arange(frames + 1, dtype=np.int32) * books), flat)
    ends = np.cumsum([0, *(len(codes) for codes in clips)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), inner)
