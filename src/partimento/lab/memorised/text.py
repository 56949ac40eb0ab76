"""The audit in words: one sentence first, then the samples, the null, drift and diversity."""

from __future__ import annotations

from collections.abc import Sequence

from partimento.lab.memorised.audited import FEW_INFORM, LEVEL, Audit, Audited, Null
from partimento.lab.memorised.held import FEW

SHOWN = 12  # samples that are listed


def p_text(p: float | None) -> str:
    if p is None:
        return "-"
    return "< 1e-15" if p < 1e-15 else f"{p:.1e}" if p < 1e-3 else f"{p:.3f}"


def clock(seconds: float) -> str:
    """A place in a clip: 75.02 is 1:15.02."""
    minutes, rest = divmod(round(seconds, 2), 60)
    return f"{int(minutes)}:{rest:05.2f}"


def told(samples: Sequence[Audited], null: Null | None) -> tuple[str, str]:
    """(verdict, the one sentence): memorised or not, and how sure."""
    count = len(samples)
    every = "the sample" if count == 1 else f"the {count} samples"
    longest = max(samples, key=lambda one: one.longest)
    if null is None:
        return "unknown", (
            f"Cannot say: the pack holds nothing out to compare with; the longest copy in {every} is "
            f"{longest.longest:.2f} s{_place(longest)}."
        )
    sure = min(samples, key=lambda one: (one.holm if one.holm is not None else 1.0, -one.longest))
    p = sure.holm if sure.holm is not None else 1.0
    by = f"p {_is(p)} among {null.clips} held-out clip{'' if null.clips == 1 else 's'}"
    if copied := [one for one in samples if one.memorised]:
        worst = max(copied, key=lambda one: one.longest)
        fitted = ", the tail fitted" if _is_fitted(worst) else ""
        p = worst.holm if worst.holm is not None else 1.0
        holds = "holds" if len(copied) == 1 else "hold"
        whose = "the sample holds"
        if count > 1:
            whose = f"{len(copied)} of {count} samples {holds} training music; {worst.name} holds"
        return "memorised", (
            f"Memorised: {whose} {worst.longest:.2f} s{_place(worst)} "
            f"(p {_is(p)} among {null.clips} held-out clips{fitted})."
        )
    if p <= LEVEL:
        return "near", (
            f"Not memorised, but nearer to the training clips than held-out music is ({by}): the longest copy in "
            f"{every} is {longest.longest:.2f} s{_place(longest)}."
        )
    most = f"{longest.longest:.2f} s" if longest.longest else "under one frame"
    return "not", (
        f"Not memorised, as far as can be seen: {every} agree{'s' if count == 1 else ''} with the training clips "
        f"no more than held-out music does ({by}; the longest copy is {most})."
    )


def _is(p: float) -> str:
    return p_text(p) if p < 1e-15 else f"= {p_text(p)}"


def _is_fitted(one: Audited) -> bool:
    best = min(one.p_values.values(), key=lambda value: value.p)
    return best.p < best.rank


def _place(one: Audited) -> str:
    """Of the longest passage: the clip and where in it."""
    exact = max((run for run in one.runs.values() if run), key=lambda run: run.seconds, default=None)
    if one.near is not None and (exact is None or one.near.seconds >= exact.seconds):
        return f" of {one.near.clip} from {clock(one.near.clip_second)} on"
    return "" if exact is None else f" of {exact.clip} from {clock(exact.clip_second)} on"


def warnings(samples: Sequence[Audited], null: Null | None, crowded: int) -> list[str]:
    """What makes the p-values worth less than they look."""
    found = []
    if null is None:
        found.append("The pack has no held-out clips, so there are no p-values.")
    else:
        if null.clips < FEW:
            found.append(
                f"There are {null.clips} held-out clips, fewer than {FEW}: the rank alone can say no less than "
                f"p = {1 / (1 + null.clips):.2f}, and a fit to so few is rough."
            )
        if null.shared_sources:
            found.append(
                f"Held-out clips share {len(null.shared_sources)} source(s) with the training clips "
                f"({_few(null.shared_sources)}): the null is not a null, and the p-values are too large."
            )
        if null.leaks:
            found.append(
                f"{len(null.leaks)} held-out clip(s) are near-duplicates of training clips ({_few(null.leaks)}): the "
                "null is not a null, and the p-values are too large."
            )
        long = [one.name for one in samples if one.frames > 2 * null.frames]
        if long:
            found.append(
                f"{len(long)} sample(s) are more than twice as long as the held-out windows ({null.seconds:.1f} s): "
                "their p-values are those of as many windows."
            )
        if null.kept_K is not None and null.kept_K[0] < 0.5:
            found.append(
                f"Only {100 * null.kept_K[0]:.0f} % of the codes of the first book survive the way through audio: "
                "copies are seen badly. Give the codes themselves."
            )
    empty = [one.name for one in samples if one.informs < FEW_INFORM]
    if empty:
        found.append(
            f"{len(empty)} sample(s) are nearly all silence or constant codes ({_few(empty)}): nothing can be copied "
            "in them that would count."
        )
    if crowded:
        found.append(
            f"{crowded} n-grams of the samples repeat too often to be looked up; runs of these alone are missed."
        )
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def text(audit: Audit) -> str:
    """For a terminal."""
    parts = [audit.sentence, _table(audit)]
    if audit.null:
        parts.append(_null(audit.null))
    parts += [drift_sentence(audit), diversity_sentence(audit)]
    parts += [f"note: {one}" for one in audit.warnings]
    parts += [f"{one['name']}: {one['error']['code']} {one['error']['message']}" for one in audit.failed]
    hours = audit.training["hours"]
    parts.append(f"{audit.what}, against {audit.training['clips']:,} training clips ({hours:.1f} h) of {audit.pack}")
    return "\n\n".join(parts)


def ordered(samples: Sequence[Audited]) -> list[Audited]:
    """The surest first, then the longest."""
    return sorted(samples, key=lambda one: (one.holm if one.holm is not None else 1.0, -one.longest, one.name))


def _table(audit: Audit) -> str:
    figures = list(audit.samples[0].runs)
    head = [
        "sample",
        *(f"{name}, s" for name in figures),
        "near-copy, s",
        "same %",
        "at",
        "of clip",
        "from",
        "p",
        "Holm",
    ]
    rows = []
    for one in ordered(audit.samples)[:SHOWN]:
        exact = [one.runs[name] for name in figures]
        near = one.near
        rows.append(
            [
                one.name,
                *(f"{run.seconds:.2f} ({run.informative})" if run else "-" for run in exact),
                f"{near.seconds:.2f} ({near.score})" if near else "-",
                f"{100 * near.same:.0f}" if near else "-",
                clock(near.sample_second) if near else "-",
                near.clip if near else "-",
                clock(near.clip_second) if near else "-",
                p_text(one.p),
                p_text(one.holm),
            ]
        )
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    left = len(audit.samples) - len(rows)
    rest = [f"and {left} more"] if left > 0 else []
    seeds = ", ".join(f"{name} from {seed} frame{'' if seed == 1 else 's'} on" for name, seed in audit.seeds.items())
    return "\n".join(
        [
            *lines,
            *rest,
            f"In brackets: frames that inform, and the score of the near-copy. Runs are looked for: {seeds}.",
        ]
    )


def _null(null: Null) -> str:
    lines = []
    for name, values in null.values.items():
        ordered_values = sorted(values)
        fit = null.fits[name]
        fitted = f"Gumbel at {fit.place:.2f}, scale {fit.scale:.2f}" if fit else "no fit"
        middle = ordered_values[len(values) // 2]
        lines.append(f"  {name}: median {middle}, highest {ordered_values[-1]}; {fitted}")
    way = ""
    if null.kept_K is not None:
        way = (
            f", decoded and encoded again as the samples were ({100 * null.kept_K[0]:.0f} % of the first book survive)"
        )
    head = f"Held out: {null.clips} clips of {null.seconds:.2f} s{way}. Longest runs and scores, in frames that inform:"
    return "\n".join([head, *lines])


def drift_sentence(audit: Audit) -> str:
    drift = audit.drift
    if drift.usage is None or drift.usage_p is None or drift.entropy_p is None or drift.entropy_range is None:
        return "Drift: the samples are too short to be cut into thirds."
    told = "does not change" if 2 * min(drift.usage_p, drift.entropy_p) > LEVEL else "changes"
    beside = ""
    if drift.more_usage_p is not None and drift.more_range_p is not None:
        more = 2 * min(drift.more_usage_p, drift.more_range_p) <= LEVEL
        if told == "changes":
            told += ", and more than held-out music does" if more else ", no more than held-out music does"
        beside = f" (held-out music: {drift.held_usage:.3f} and {drift.held_range:.3f} nats)"
    return (
        f"Drift: between the thirds of a sample the playing {told}; code usage differs by {drift.usage:.3f} nats "
        f"(p = {p_text(drift.usage_p)}), entropy by {drift.entropy_range:.3f} (p = {p_text(drift.entropy_p)}){beside}."
    )


def diversity_sentence(audit: Audit) -> str:
    one = audit.diversity
    if one.n < 2:
        return "Diversity: one sample has none."
    parts = [f"Vendi score {one.vendi:.2f} of {one.n}" + _beside(one.held_vendi, ".2f")]
    for name, value in (("within a prompt", one.within), ("across prompts", one.across)):
        if value is not None:
            parts.append(f"distance {name} {value:.3f}")
    if one.distance is not None:
        parts.append(f"over all {one.distance:.3f}" + _beside(one.held_distance, ".3f"))
    parts.append(f"{100 * one.distinct:.1f} % of 4-grams distinct")
    if one.held_distinct is not None:
        parts[-1] += f" (held out {100 * one.held_distinct:.1f} %)"
    return "Diversity: " + ", ".join(parts) + "."


def _beside(value: float | None, form: str) -> str:
    return "" if value is None else f" (held out {value:{form}})"
