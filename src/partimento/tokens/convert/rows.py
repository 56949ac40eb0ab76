"""Items of Parquet rows; inside_parquet.py has the three forms of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.errors import PartimentoError
from partimento.tokens.convert.child import Reader
from partimento.tokens.convert.item import Facts, Item, Labels, Reject, dac_facts, encodec_facts
from partimento.tokens.convert.labels import from_row, prompted, tag_list
from partimento.tokens.convert.pt import left_is_right
from partimento.tokens.tags import clean


def items(root: Path, files: Sequence[Path]) -> Iterator[Item | Reject]:
    """One item a row, in the order of `files`, which lie below `root`, and of their rows."""
    with Reader() as reader:
        for path in files:
            name = path.relative_to(root).as_posix()
            form = ""
            try:
                for said, codes_TK in reader.records("rows", path):
                    if "form" in said:
                        form = said["form"]
                    else:
                        yield _item(name, form, said, codes_TK)
            except PartimentoError as err:
                yield Reject.of(name, err)


def exported(path: Path) -> Any:
    """What `pack export --format parquet` wrote of the codec, or None. Raises as Reader.records."""
    with Reader() as reader:
        records = reader.records("rows", path)
        said, _ = next(records)
        records.close()  # type: ignore[attr-defined]
        return said.get("metadata")


def _item(name: str, form: str, said: Mapping[str, Any], codes_TK: NDArray[np.uint16] | None) -> Item | Reject:
    where = f"{name}, row {said['row']}"
    if codes_TK is None:
        return Reject(where, *said["refused"])
    row = said["labels"]
    fallback = f"{PurePosixPath(name).stem}-{said['row']:06d}"
    try:
        if form == "codes":
            labels = from_row(row, where, found="columns")
            return Item(labels.clip or fallback, where, codes_TK, Facts(codes_TK.shape[1]), labels)
        if form == "audio_codes":
            labels = _musiccaps(row, where)
            return Item(labels.clip or fallback, where, codes_TK, encodec_facts(codes_TK.shape[1]), labels)
        labels = _tensor(row, where)
    except PartimentoError as err:
        return Reject.of(where, err)
    facts = dac_facts(codes_TK.shape[1], None)
    return Item(labels.clip or fallback, where, codes_TK, facts, labels, left_is_right(codes_TK))


def _musiccaps(row: Mapping[str, Any], where: str) -> Labels:
    """The video is the source, and where in it the clip was cut is its origin."""
    video = row.get("ytid")
    base = from_row({name: row.get(name) for name in ("caption", "licence")}, where, found="columns")
    origin = None
    if video is not None and "start_s" in row and "end_s" in row:
        origin = f"video {video}, {row['start_s']} to {row['end_s']} s"
    return Labels(
        found="columns" if base.caption else "none",
        clip=str(video if video is not None else row["id"]) if video is not None or "id" in row else None,
        source=None if video is None else str(video),
        tags=clean(tag_list(row.get("aspect_list"), where)),
        caption=base.caption,
        licence=base.licence,
        origin=origin,
    )


def _tensor(row: Mapping[str, Any], where: str) -> Labels:
    """A row's name is its `id`, else the stem of its `filename`, which is a name only and never a prompt."""
    labels = from_row({n: row.get(n) for n in ("caption", "licence", "source")}, where, found="columns")
    tags = row.get("tags")
    if isinstance(tags, str) and tags.strip():
        labels = prompted(tags.strip(), "columns", labels)
    elif tags is not None:
        labels = Labels("columns", None, labels.source, None, clean(tag_list(tags, where)), labels.caption)
    name = row.get("id", None if row.get("filename") is None else PurePosixPath(str(row["filename"])).stem)
    clip = None if name is None else str(name)
    return Labels(
        found=labels.found if labels.tags or labels.caption else "none",
        clip=clip,
        source=labels.source,
        tags=labels.tags,
        caption=row.get("caption") or labels.caption,
        licence=row.get("licence"),
    )
