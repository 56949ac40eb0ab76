"""What is wrong with a pack, in plain sentences, the gravest first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from partimento.tokens.stats import PackStats, Usage

UNUSED_COVERAGE = 0.5
STILL_SHARE = 0.05
EDGE_SHARE = 0.05
FULL_SCALE_SHARE = 0.2


Level = Literal["bad", "warn", "note"]
# Kind of noise, what is said of the books that are of it, what follows.
_NOISE = (
    (
        "uniform",
        "cannot be told from noise: codes drawn alike, one by one",
        "no model can learn anything there; ln V is the best that a loss can reach",
    ),
    (
        "orderless",
        "without sequential structure: the code before tells nothing about the next",
        "a loss that falls there to the entropy of single codes has not learned to continue; what is left to learn is "
        "how they hang on the coarser books (fine books are often so)",
    ),
)
_NOISY_CLIPS: tuple[tuple[str, Level, str, str], ...] = (
    ("uniform", "bad", "cannot be told from uniform random codes", "they teach nothing, and hide in any mean"),
    ("orderless", "warn", "of noise: their codes come as if shuffled", "hiss, applause, or a fault of the encoding"),
)


@dataclass(frozen=True)
class Finding:
    """`level`: "bad" makes figures wrong or training futile, "warn" costs quality, "note" is worth knowing. `kind` is a
    stable name; `text` says what was found, `why` what it does, `next` what helps."""

    level: Level
    kind: str
    text: str
    why: str
    next: str | None = None


def findings(found: PackStats) -> list[Finding]:
    """By level, and within a level in the order in which they are looked for: trust in the figures first."""
    looked = (_leaks, _noise, _silence, _books, _clips, _draw, _labels)
    every = [one for look in looked for one in look(found)]
    return sorted(every, key=lambda one: ("bad", "warn", "note").index(one.level))


def _leaks(found: PackStats) -> Iterator[Finding]:
    copies = found.duplicates
    if copies.leaks:
        yield Finding(
            "bad",
            "leak",
            f"{copies.leaks:,} of {_many(found.splits['valid']['clips'], 'held-out clip')} "
            f"{'shares' if copies.leaks == 1 else 'share'} passages with training clips",
            "the held-out figures partly measure what was learned by heart",
            "give the copies one source (tags.jsonl) and encode again, so that they fall on one side",
        )
    if copies.pairs:
        yield Finding(
            "warn",
            "duplicates",
            f"{_many(copies.clips, 'clip')} in {_many(copies.groups, 'group')} of near-duplicates",
            "what occurs twice is learned twice as often, and is the first to be played by heart",
            "remove the copies, or keep one of each group",
        )
    if copies.unverified:
        yield Finding(
            "note",
            "duplicates_unverified",
            f"{copies.unverified} pairs with fingerprints in common were not compared",
            "there are more alike clips than are looked at one by one; those most alike were",
        )
    if not found.splits["valid"]["clips"]:
        yield Finding(
            "bad",
            "no_valid",
            "there is no held-out split",
            "the pack has a single source; nothing can tell learning from learning by heart",
            "encode more recordings, or name their sources in tags.jsonl",
        )


def _noise(found: PackStats) -> Iterator[Finding]:
    for kind, text, why in _NOISE:
        books = [book.book + 1 for book in found.usage if book.verdict.kind == kind]
        if books:
            level: Level = "bad" if kind == "uniform" or 1 in books else "note"
            check = f"partimento codec check FILE... --codec {found.codec}"
            yield Finding(level, f"noise_{kind}", f"{_books_named(books)} {text}", why, check)
    unknown = [book.book + 1 for book in found.usage if book.verdict.kind == "unknown"]
    if unknown:
        yield Finding(
            "note",
            "noise_unknown",
            f"too few codes to tell whether {_books_named(unknown)} {'is' if len(unknown) == 1 else 'are'} noise",
            "an effect that matters could not be seen yet",
        )
    for kind, level, text, why in _NOISY_CLIPS:
        names = [name for name, noise in found.noisy_clips.items() if noise["kind"] == kind]
        if names:
            listen = f"partimento decode {found.path} --to DIR --clip {names[0]}"
            yield Finding(
                level, f"noise_clips_{kind}", f"{_many(len(names), 'clip')} {text} ({_some(names)})", why, listen
            )


def _silence(found: PackStats) -> Iterator[Finding]:
    still = found.silence
    if still.shared_openings > EDGE_SHARE * still.clips:
        yield Finding(
            "warn",
            "shared_openings",
            f"{_percent(still.shared_openings / still.clips)} of the clips begin with the same frames as a clip of "
            "another source",
            "a model learns one opening (silence, most likely) for different songs",
            "trim leading silence before encoding",
        )
    if still.share > STILL_SHARE:
        yield Finding(
            "warn",
            "silence",
            f"{_percent(still.share)} of all frames stand still (one frame repeated for {still.least_seconds:.1f} s or "
            "more)",
            "silence is easy to predict: it lowers every loss without any music being learned",
            "cut long silences before encoding",
        )
    if max(still.leading, still.trailing) > EDGE_SHARE * still.clips:
        yield Finding(
            "warn",
            "silent_edges",
            f"{still.leading} clips begin and {still.trailing} end with a frame that stands still "
            f"({still.leading_seconds:,.0f} and {still.trailing_seconds:,.0f} s in all)",
            "samples will begin in silence",
            "trim the recordings before encoding",
        )
    quiet = found.levels.quiet_clips
    if quiet:
        yield Finding(
            "warn" if quiet > 0.01 * found.clips else "note",
            "quiet",
            f"{_many(quiet, 'clip')} far quieter than the rest, or silent ({_some(found.levels.quiet)})",
            "more than 20 LU under the median loudness",
        )
    if found.levels.full_scale > FULL_SCALE_SHARE * found.clips:
        yield Finding(
            "note",
            "full_scale",
            f"{_percent(found.levels.full_scale / found.clips)} of the clips peak at full scale",
            "many of them are clipped, and the codec learned from audio that is not",
        )


def _books(found: PackStats) -> Iterator[Finding]:
    constant = [book.book + 1 for book in found.usage if book.verdict.kind == "constant"]
    if constant:
        yield Finding(
            "bad",
            "constant_books",
            f"{_books_named(constant)} {'holds' if len(constant) == 1 else 'hold'} one code nearly always",
            "the codec does not use it: a collapsed codebook, or audio that is all silence",
            f"partimento codec check FILE... --codec {found.codec}",
        )
    unused = [book for book in found.usage if book.coverage < UNUSED_COVERAGE and book.book + 1 not in constant]
    enough = [book for book in unused if _codes(book) > 20 * book.cardinality]
    if enough:
        least = min(enough, key=lambda book: book.coverage)
        yield Finding(
            "warn",
            "unused_codes",
            f"{_books_named([book.book + 1 for book in enough])} leave codes unused (book {least.book + 1} uses "
            f"{_percent(least.coverage)} of its {least.cardinality})",
            "the codec was made for other sounds, or its codebook collapsed",
        )


def _clips(found: PackStats) -> Iterator[Finding]:
    if found.sources["count"] > 1 and found.sources["largest"][0]["hours"] > 0.5 * found.hours:
        yield Finding(
            "warn",
            "one_source",
            f"more than half of the hours come from one source ({found.sources['largest'][0]['source']})",
            "its sound will be that of the model",
        )
    if not found.sample.whole:
        yield Finding(
            "note",
            "sample",
            f"codes were read of {found.sample.clips:,} of {found.sample.of:,} clips ({found.sample.hours:,.0f} h)",
            "copies of clips outside of the sample were not looked for",
            "--sample N reads more",
        )
    if found.rejects:
        total = sum(found.rejects.values())
        codes = ", ".join(f"{code} {n}" for code, n in found.rejects.items())
        yield Finding(
            "warn" if total > 0.05 * (total + found.clips) else "note",
            "rejects",
            f"{_many(total, 'input file')} {'was' if total == 1 else 'were'} rejected ({codes})",
            "rejects.jsonl names each of them",
            f"partimento explain {max(found.rejects, key=lambda code: found.rejects[code])}",
        )


def _draw(found: PackStats) -> Iterator[Finding]:
    drawn = found.draw
    if drawn is None:
        yield Finding(
            "bad",
            "no_window",
            "no window can be drawn",
            found.draw_missing or "",
            "choose a shorter window: --window N",
        )
        return
    if drawn.never_share > 0.01:
        by_chance = math.exp(-drawn.epochs)  # what windows that start anywhere leave
        yield Finding(
            "warn" if drawn.never_share > 3 * by_chance + 0.01 else "note",
            "never_drawn",
            f"{_percent(drawn.never_share)} of the training frames are never drawn in {_epochs(drawn.epochs)}",
            "windows start by chance, so one epoch leaves gaps; they close with more epochs",
        )
    if drawn.short_clips:
        yield Finding(
            "warn" if drawn.short_clips > 0.1 * drawn.clips else "note",
            "short_clips",
            f"{_many(drawn.short_clips, 'clip')} of {drawn.clips} {'is' if drawn.short_clips == 1 else 'are'} shorter "
            f"than a window of {drawn.window} steps",
            f"{_percent(drawn.padding)} of all rows are padding",
            "choose a shorter window, or longer clips",
        )


def _labels(found: PackStats) -> Iterator[Finding]:
    if found.untagged:
        yield Finding(
            "note" if found.untagged == found.clips else "warn",
            "untagged",
            f"{_percent(found.untagged / found.clips)} of the clips have no tags",
            "they train the unconditional model only",
            f"partimento tags audit {found.path}",
        )
    unread = [row for row in found.licences if row.licence is not None and row.name is None]
    if unread:
        yield Finding(
            "warn",
            "licence_unread",
            f"the licence of {_many(sum(row.clips for row in unread), 'clip')} was not understood "
            f"({_some([str(row.licence) for row in unread])})",
            "filters by licence refuse these clips",
        )
    without = sum(row.clips for row in found.licences if row.licence is None)
    if without:
        yield Finding(
            "note",
            "licence_missing",
            f"{_many(without, 'clip')} {'has' if without == 1 else 'have'} no licence",
            "nothing says what may be done with a model that learns from them",
        )


def _codes(book: Usage) -> int:
    return sum(split.codes for split in book.splits.values())


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.995 or share == 1 else f"{100 * share:.2f} %"


def _epochs(epochs: float) -> str:
    return "one epoch" if epochs == 1 else f"{epochs:g} epochs"


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _books_named(books: Sequence[int]) -> str:
    """Numbers of books from 1: "book 3", "books 6-9", "books 1, 4-5"."""
    runs: list[list[int]] = []
    for book in books:
        if runs and runs[-1][1] == book - 1:
            runs[-1][1] = book
        else:
            runs.append([book, book])
    named = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
    return f"book{'' if len(books) == 1 else 's'} {named}"
