"""The figures of a data page, from what `pack stats` found: what is drawn, and what its caption says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from partimento.lab import charts
from partimento.lab.charts import Level, Line
from partimento.lab.figures import Figure

if TYPE_CHECKING:
    from partimento.tokens.collection import Spread
    from partimento.tokens.stats import PackStats, Usage


def codes(found: PackStats) -> list[Figure]:
    """How each book is used, and what the code before tells."""
    return [_entropies(found), _order(found), _coverage(found), _ranks(found)]


def _entropies(found: PackStats) -> Figure:
    books = [book.book + 1 for book in found.usage]
    rows = [
        Line("maximum", books, [math.log(book.cardinality) for book in found.usage], charts.MUTED, ":"),
        Line("entropy", books, [book.entropy for book in found.usage], charts.BLUE),
    ]
    caption = (
        "Nats a code, over all clips that were read. The nearer the entropy to the maximum, the more evenly the codes "
        "are used."
    )
    if found.baselines:
        rows.append(Line("bigram CE", books, found.baselines.bigram_ce_K, charts.VERMILION, "--"))
        caption += " Bigram: cross entropy of held-out codes where the code before is known; a model must be under it."
    return Figure("Entropy of each book", caption, charts.by_book("entropy", rows, y_label="nats per code"))


def _order(found: PackStats) -> Figure:
    title = "What the code before tells"
    tested = [(book.book + 1, book.verdict) for book in found.usage if book.verdict.order is not None]
    if not tested:
        return Figure(title, "Not tested: there are too few codes, or a book has too many to count pairs of them.")
    numbers = [number for number, _ in tested]
    rows = [
        Line("order", numbers, [verdict.order or 0.0 for _, verdict in tested], charts.GREEN),
        Line("not seen below", numbers, [verdict.blind or math.nan for _, verdict in tested], charts.MUTED, "--"),
    ]
    caption = (
        "Nats by which a pair of successive codes returns more often than if the same codes were shuffled. Near 0 "
        "there is no sequence to learn; under the dashed line the sample could not show it."
    )
    return Figure(title, caption, charts.by_book("order", rows, y_label="nats above shuffled codes"))


def _coverage(found: PackStats) -> Figure:
    books = [book.book + 1 for book in found.usage]
    rows = [
        Line("coverage", books, [100 * book.coverage for book in found.usage], charts.BLUE),
        Line("perplexity", books, [100 * book.perplexity / book.cardinality for book in found.usage], charts.AMBER),
    ]
    caption = (
        "Coverage: share of a book's codes that occur at all. Perplexity: how many equally used codes would have the "
        "same entropy, as a share of the book."
    )
    return Figure("Use of each book", caption, charts.by_book("coverage", rows, y_label="% of the book's codes"))


def _ranks(found: PackStats) -> Figure:
    last = len(found.usage) - 1
    colours = (charts.BLUE, charts.GREEN, charts.AMBER)
    chosen = list(dict.fromkeys((0, last // 2, last)))
    lines = [
        Line(f"book {number + 1}", _ranked(found.usage[number]), _shares(found.usage[number]), colour)
        for number, colour in zip(chosen, colours, strict=False)
    ]
    even = Level("even", 100 / found.usage[0].cardinality)
    svg = charts.line_chart(
        "ranks", lines, levels=[even], y_label="% of the codes", x_label="rank of the code", log_x=True, log_y=True
    )
    caption = "How often each code occurs, the most frequent first. Flat is noise-like; one tall code is silence."
    return Figure("Frequency of codes", caption, svg)


def _ranked(book: Usage) -> list[float]:
    from partimento.tokens.stats import usage_ranks

    return [float(rank) for rank in usage_ranks(book.cardinality)]


def _shares(book: Usage) -> list[float]:
    return [100 * share if share else math.nan for share in book.used]


def clips(found: PackStats) -> list[Figure]:
    """Lengths, loudness and peaks."""
    seconds = found.seconds
    window = found.draw.window / (found.spec["frame_rate"][0] / found.spec["frame_rate"][1]) if found.draw else None
    mark = (window, "window") if window and seconds and seconds.edges[0] < window < seconds.edges[-1] else None
    return [
        _spread(
            "Length of the clips", "length", seconds, "seconds", charts.BLUE, log_x=_wide(seconds), mark=mark,
            missing="Every clip is empty.",
        ),
        _spread("Loudness", "loudness", found.levels.loudness, "LUFS", charts.PINK),
        _spread("Peaks", "peak", found.levels.peak, "dBFS", charts.AMBER),
    ]  # fmt: skip


def _wide(spread: Spread | None) -> bool:
    return spread is not None and spread.edges[0] > 0 and spread.edges[-1] > 3 * spread.edges[0]


def _spread(
    title: str,
    name: str,
    spread: Spread | None,
    unit: str,
    colour: str,
    *,
    log_x: bool = False,
    mark: tuple[float, str] | None = None,
    missing: str = "Not measured: the pack has no figures of it.",
) -> Figure:
    if spread is None:
        return Figure(title, missing, size="third")
    points = spread.quantiles
    caption = f"Median {points['50']:.4g} {unit}; 90 % lie between {points['5']:.4g} and {points['95']:.4g}."
    for number, words in ((spread.missing, "not measured"), (spread.infinite, "silent")):
        if number:
            caption += f" {number} clip{'' if number == 1 else 's'} {words}."
    svg = charts.histogram(
        name, spread.edges, spread.counts, y_label="clips", x_label=unit, log_x=log_x, mark=mark, colour=colour,
        width=charts.THIRD, height=2.5,
    )  # fmt: skip
    return Figure(title, caption, svg, "third")


def draw(found: PackStats) -> list[Figure]:
    """Where windows begin, and how often each frame is drawn."""
    drawn = found.draw
    if drawn is None:
        return [Figure("What a training sees", f"Nothing: {found.draw_missing}.")]
    figures = []
    total = sum(drawn.starts)
    if total:
        edges = [100 * place / len(drawn.starts) for place in range(len(drawn.starts) + 1)]
        svg = charts.histogram(
            "starts", edges, drawn.starts, y_label="windows", x_label="start, % of the clip's possible starts",
            levels=[Level("even", total / len(drawn.starts))], colour=charts.BLUE,
        )  # fmt: skip
        caption = (
            f"{100 * (drawn.at_start or 0):.1f} % of the windows begin at the very start of their clip and "
            f"{100 * (drawn.at_end or 0):.1f} % at the last place, which is meant: the ends are seen often enough to "
            "be learned. If all began at the start, a training would know openings only."
        )
        figures.append(Figure("Crop starts", caption, svg))
    else:
        figures.append(Figure("Crop starts", "No clip is longer than a window, so each window begins at the start."))
    shares = [100 * times / max(1, drawn.frames) for times in drawn.draws]
    svg = charts.histogram(
        "draws", [place - 0.5 for place in range(len(shares) + 1)], shares, y_label="% of the training frames",
        x_label=f"times drawn ({len(shares) - 1}: so often or more)", colour=charts.GREEN,
    )  # fmt: skip
    caption = (
        f"{drawn.items:,} windows of {drawn.window} steps, {drawn.epochs:.3g} epochs, seed {drawn.seed}: "
        f"{100 * drawn.never_share:.1f} % of the frames are never drawn; {drawn.never_clips} clips are never touched."
    )
    figures.append(Figure("Draws of each frame", caption, svg))
    return figures


def bars(found: PackStats) -> list[tuple[str, float, float]]:
    """(name, bits per second of audio, % of the largest): codes drawn alike, unigram, bigram."""
    rate = found.spec["frame_rate"][0] / found.spec["frame_rate"][1]
    rows: Sequence[tuple[str, float]] = [
        ("codes as they are stored", rate * sum(math.log2(book.cardinality) for book in found.usage))
    ]
    if found.baselines:
        rows = [
            *rows,
            ("unigram, held out", found.baselines.unigram_bits_per_second),
            ("bigram, held out: to be beaten", found.baselines.bigram_bits_per_second),
        ]
    top = max(bits for _, bits in rows)
    return [(name, bits, 100 * bits / top) for name, bits in rows]
