"""From what is known of codes to the CodecSpec of a pack."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from partimento.errors import PartimentoError
from partimento.tokens.convert.item import SNAP, Facts
from partimento.tokens.spec import CodecSpec

UNKNOWN = "unknown"  # the codec of a pack whose codec nobody named; its weights are ""
MOST_BOOKS = 256  # of a pack


@dataclass(frozen=True)
class Given:
    """What the caller says of the codes, over what files say or what would be assumed. `books` chooses among clips of
    several numbers of books; `spec` is that of a codec that was opened."""

    sample_rate: int | None = None
    frame_rate: Fraction | None = None
    cardinality: int | None = None
    books: int | None = None
    spec: CodecSpec | None = None


def rates_twice(given: Given, teller: str) -> None:
    """Raise CONVERT007 where the caller gives rates and `teller` knows them already."""
    told = {"--sample-rate": given.sample_rate, "--frame-rate": given.frame_rate, "--cardinality": given.cardinality}
    names = [name for name, value in told.items() if value is not None]
    if names:
        raise PartimentoError(
            "CONVERT007",
            f"{teller} says the rates and books, and so does {', '.join(names)}",
            next=f"leave {', '.join(names)} away",
        )


def spec_of(facts: Facts, given: Given) -> CodecSpec:
    """The spec of codes whose codec nobody named. Raises CONVERT004 where a rate or the size of the books is missing,
    CONVERT005 where one cannot be."""
    sizes = (given.cardinality,) * facts.codebooks if given.cardinality else facts.cardinalities
    sample_rate, frame_rate = given.sample_rate or facts.sample_rate, given.frame_rate or facts.frame_rate
    if sizes is None or sample_rate is None or frame_rate is None:
        named = {"--cardinality": sizes, "--sample-rate": sample_rate, "--frame-rate": frame_rate}
        missing = [name for name, value in named.items() if value is None]
        raise PartimentoError(
            "CONVERT004",
            "the rates of these codes are not known",
            why=f"no file says what {', '.join(missing)} would",
            next="name the codec with --codec, or give --sample-rate, --frame-rate and --cardinality",
        )
    why = f"{len(sizes)} books at {float(frame_rate):g} frames and {sample_rate} samples per second cannot be"
    if len(sizes) <= MOST_BOOKS and Fraction(1, 1000) <= frame_rate <= sample_rate <= 2**22:
        try:
            return CodecSpec(UNKNOWN, "", sample_rate, frame_rate, sizes, facts.layout, facts.books)
        except ValueError as err:
            why = str(err)
    raise unequal(why)


def difference(facts: Facts, spec: CodecSpec, given: Given) -> tuple[str, str] | None:
    """What a clip says of its codec and what it must be, in words, where they differ. What a clip only assumes, or what
    the caller overrules, does not count."""
    if facts.codebooks != spec.codebooks:
        return f"{facts.codebooks} books", f"{spec.codebooks} books"
    # Bare columns say nothing of channels.
    if facts.layout != "mono" and (facts.layout, facts.books) != (spec.layout, spec.books):
        return f"the layout {facts.layout} {facts.books}", f"{spec.layout} {spec.books or ''}".strip()
    sizes = None if "cardinalities" in facts.assumed or given.cardinality else facts.cardinalities
    if sizes is not None and sizes != spec.cardinalities:
        return f"books of {list(sizes)} codes", f"books of {list(spec.cardinalities)} codes"
    hertz = None if "sample_rate" in facts.assumed or given.sample_rate else facts.sample_rate
    if hertz is not None and hertz != spec.sample_rate:
        return f"{hertz} Hz", f"{spec.sample_rate} Hz"
    rate = None if "frame_rate" in facts.assumed or given.frame_rate else facts.frame_rate
    if rate is not None and abs(rate - spec.frame_rate) > SNAP * spec.frame_rate:
        return f"{float(rate):g} frames/s", f"{float(spec.frame_rate):g} frames/s"
    return None


def unequal(why: str) -> PartimentoError:
    """CONVERT005: a clip that does not fit into the pack."""
    return PartimentoError("CONVERT005", "it does not fit into this pack", why=why)
