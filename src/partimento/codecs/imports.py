"""Importing foreign codes for a codec that is at hand: its books and rates are held against what the files say."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from partimento.codecs.codec import open_codec
from partimento.errors import PartimentoError
from partimento.progress import Progress
from partimento.tokens.convert import sniff
from partimento.tokens.convert.build import ImportReport, build_pack, exported_spec, peek
from partimento.tokens.convert.facts import Given, difference, rates_twice
from partimento.tokens.spec import CodecSpec


def import_pack(
    source: str | Path,
    to: str | Path,
    *,
    kind: str = "auto",
    codec: str | None = None,
    sample_rate: int | None = None,
    frame_rate: Fraction | None = None,
    cardinality: int | None = None,
    books: int | None = None,
    source_by: str = "auto",
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Make a pack at `to` of the codes below `source` (see `build_pack`, and docs/convert.md for the formats).

    `codec` is opened for the layout and books of the first clip, and the pack is then of that codec; without it the
    pack's codec is what an export recorded, else "unknown", with rates that the files say, that are given here, or that
    are assumed and reported as such. Raises CONVERT007 (`codec` is not that of the codes, or rates were given as well)
    and what `build_pack` and `open_codec` raise.
    """
    given = Given(sample_rate, frame_rate, cardinality, books)
    if codec is not None:
        rates_twice(given, codec)
        kind = sniff.sniff(source) if kind == "auto" else kind
        given = Given(books=books, spec=_spec(Path(source), kind, codec, books))
    return build_pack(source, to, kind=kind, given=given, source_by=source_by, dry_run=dry_run, progress=progress)


def _spec(source: Path, kind: str, codec: str, books: int | None) -> CodecSpec:
    facts = peek(source, kind, books)
    told = exported_spec(source, kind) or facts  # columns of an export are of channels that only it tells of
    spec = open_codec(codec, layout=told.layout, books=told.books or (facts.codebooks,)).spec
    differs = difference(facts, spec, Given())
    if differs:
        raise PartimentoError(
            "CONVERT007",
            f"{codec} is not the codec of these codes",
            where=str(source),
            why=f"the first clip has {differs[0]}, and the codec {differs[1]}",
            next="partimento codec list",
        )
    return spec
