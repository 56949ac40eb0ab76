"""Whether weights that learned the codes of one pack can learn those of another."""

from __future__ import annotations

from pathlib import Path

from partimento.codecs.resident import RESIDENT
from partimento.errors import PartimentoError
from partimento.runs.published import Published
from partimento.tokens.spec import CodecSpec


def check_codes(found: Published, spec: CodecSpec, folder: Path) -> None:
    """Raises TRAIN058 where the pack's codes cannot be those that the weights were trained on."""
    codes = found.facts.codec
    # A row of a flat grid holds one channel, so there mono's loss could not be kept.
    stereo = spec.layout != "mono" and spec.books[0] == found.codebooks >= spec.books[1] and found.pattern.stride == 1
    stereo = stereo and codes.layout in (None, "mono")
    same = found.codebooks == spec.codebooks  # then a column must mean the same, where it is known what it meant
    for fits, what, theirs, ours in (
        (found.sample_rate == spec.sample_rate, "sample rate", found.sample_rate, spec.sample_rate),
        (found.frame_rate == spec.frame_rate, "frames per second", found.frame_rate, spec.frame_rate),
        (found.cardinality == spec.cardinality, "codes a book", found.cardinality, spec.cardinality),
        (same or stereo, "codebooks", found.codebooks, spec.codebooks),
        (not same or codes.layout in (None, spec.layout), "layout", codes.layout, spec.layout),
        (not same or codes.books in ([], list(spec.books)), "books of the channels", codes.books, list(spec.books)),
    ):
        if not fits:
            raise _misfit(folder, what, theirs, ours, spec)


def _misfit(folder: Path, what: str, theirs: object, ours: object, spec: CodecSpec) -> PartimentoError:
    return PartimentoError(
        "TRAIN058",
        f"the weights were trained on other codes than the pack has: {what} {theirs} there, {ours} here",
        where=str(folder),
        why=f"the pack was encoded with {spec.codec}",
        next="encode the music with the codec of the weights: partimento weights inspect FOLDER names it",
    )


def codec_notes(found: Published, spec: CodecSpec, folder: Path) -> list[str]:
    """Two codecs may have the same rates and sizes (Dia's, and ours by default), and no code in common.

    Raises TRAIN058 where one of them is ours and the other is not; other names may mean the same codec.
    """
    return _notes(found.facts.codec.name, found.facts.codec.weights, spec, folder)


def same_codes(theirs: CodecSpec, spec: CodecSpec, folder: Path) -> list[str]:
    """Notes as those of `codec_notes`, of weights that stay beside the very heads that they were trained with. Raises
    TRAIN058 where the codes differ in rate, sizes or layout, or are of another codec."""
    for what in ("sample_rate", "frame_rate", "cardinalities", "layout", "books"):
        there, here = getattr(theirs, what), getattr(spec, what)
        if there != here:
            there, here = (list(side) if isinstance(side, tuple) else side for side in (there, here))
            raise _misfit(folder, what.replace("_", " "), there, here, spec)
    return _notes(theirs.codec, theirs.weights, spec, folder)


def _notes(name: str | None, weights: str | None, spec: CodecSpec, folder: Path) -> list[str]:
    if name in (None, spec.codec) and (not weights or weights == spec.weights):
        return []
    if name != spec.codec and RESIDENT in (name, spec.codec):
        raise _misfit(folder, "codec", name, spec.codec, spec)
    other = name if name != spec.codec else f"another {spec.codec} ({(weights or '')[:12]})"
    return [
        f"the weights learned codes of {other}, the pack's are of {spec.codec}: unless that is the same codec under "
        "another name, no code means what it meant"
    ]
