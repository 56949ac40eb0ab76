"""How the weights stand to what they were drawn as, and whether matrices still use their width."""

from __future__ import annotations

import math

from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.weights.case import Case, by_weight, graded, named
from partimento.lab.doctor.weights.profile import Profile
from partimento.lab.doctor.weights.rates import Course, decay, peak, way

FEWEST = 64
"""A deviation is told from so many numbers at least."""
YOUNG = 200
"""Steps, before which a matrix that began at zero has no rank of its own."""
_LARGE = ((2.0, 0.0), (4.0, 0.6), (8.0, 0.95))
_SMALL = ((0.1, 0.95), (0.2, 0.6), (0.35, 0.0))
TABLES = 0.45
"""At most, where nothing but tables of codes is odd: versions have drawn them otherwise, and training lifts rows."""
_RANK = ((0.06, 0.92), (0.12, 0.6), (0.25, 0.0))


def starts(case: Case) -> Examined:
    """Root mean squares against the deviations of the family's documented draw, in the earliest checkpoint there is.

    A weight of deviation e whose rate was r in all cannot lie far above e + r / 2 (of |m| / sqrt(v), a half is more
    than any training keeps up), and only its decay takes it below e. Rows that no step has touched are exact.
    """
    if case.starts.why is not None:
        return Examined(missing=(f"Initialisation: {case.starts.why}.",))
    if case.config is None or case.course is None:
        return Examined(missing=("Initialisation: the configuration cannot be read, so rates are not known.",))
    first = case.earlier[0] if case.earlier else case.snapshot
    course = Course(case.config, first.state or {}) if case.earlier else case.course
    seen: list[tuple[Profile, float, float, float]] = []
    for one in case.sound:
        start = case.starts.of(one.name, one.shape)
        if start is None or not start.std or not one.trained or one.numel < FEWEST:
            continue
        root = one.root if one.begun is None else one.begun
        seen.append((one, start.std, *_confidence(case, course, one, root, start.std)))
    if not seen:
        return Examined(missing=("Initialisation: no weight of a known draw is in the checkpoint.",))
    odd = [(one, std, ratio, sure) for one, std, ratio, sure in seen if sure > 0.3]
    if not odd:
        ratios = sorted(ratio for _, _, ratio, _ in seen)
        told = f"{len(seen)} weights are where their draw and {course.step:,} steps of this rate can have put them: "
        return Examined(fine=(f"{told}{_times(ratios[0])} to {_times(ratios[-1])} times as large as they were drawn.",))
    sure = max(sure for *_, sure in odd)
    if all(one.books is not None for one, *_ in odd):
        sure = min(sure, TABLES)
    worst = max(odd, key=lambda entry: (entry[3], abs(math.log(entry[2]))))
    text = (
        f"At step {course.step:,} {len(odd)} of {len(seen)} weights are not what the family draws: {worst[0].name} is "
        f"{_times(worst[2])} times as large as its draw of deviation {worst[1]:.3g}, and {course.step:,} steps at this "
        f"rate do not explain that."
    )
    chart = by_weight(
        "wrong_init", [(one.name, max(ratio, 1e-6)) for one, _, ratio, _ in seen], sure,
        what="size over that of the draw", level=("as drawn", 1.0),
    )  # fmt: skip
    return Examined((Finding("wrong_init", sure, (Evidence(text, chart),), named([one.name for one, *_ in odd])),))


def _confidence(case: Case, course: Course, one: Profile, root: float, std: float) -> tuple[float, float]:
    """(size over the draw, how sure it is that it was drawn otherwise)."""
    assert case.config is not None
    optim = case.config.optim
    rate = peak(one.name, "muon" if one.momentum is not None else "adamw", optim)
    shrunk = math.exp(-min(50.0, rate * course.path * decay(one.name, one.shape, optim)))
    ratio = root / std
    sure = max(graded(root / (std + 0.5 * way(one, course)), _LARGE), graded(ratio / shrunk, _SMALL))
    books = one.books
    if books is not None and books.untouched_rms is not None and not optim.groups:
        exact = max(books.untouched_rms / std, 1e-6)
        certain = graded(abs(math.log(exact)), ((0.4, 0.0), (1.0, 0.9)))
        sure, ratio = (certain, exact) if certain > sure else (sure, ratio)
    return ratio, sure


def ranks(case: Case) -> Examined:
    """Effective rank and share of the largest singular value of the hidden matrices."""
    matrices = [one for one in case.matrices if not _young(case, one)]
    seen = [(one, one.spectrum) for one in matrices if one.spectrum is not None]
    zero = [one.name for one in matrices if one.spectrum is None]
    if not seen:
        why = "all began at zero or at unknown numbers, too few steps ago" if case.matrices else "there are none"
        return Examined(missing=(f"Rank, of hidden matrices of twelve rows and columns: {why}.",))
    low = []
    for one, found in seen:
        share = found.rank / found.full
        sure = graded(share, _RANK)
        if found.rank < 2.5:
            sure = max(sure, 0.92)
        if sure > 0.25:
            low.append((one, found, sure))
    shares = sorted(found.rank / found.full for _, found in seen)
    if not low:
        told = f"Effective ranks of {len(seen)} matrices are {shares[0]:.0%} to {shares[-1]:.0%} of what they can be."
        asleep = (f"{named(zero)} is zero everywhere.",) if zero else ()
        return Examined(fine=(told, *asleep))
    one, found, sure = max(low, key=lambda entry: entry[2])
    text = (
        f"{one.name}, {' x '.join(map(str, one.shape))}, has an effective rank of {found.rank:.1f} of {found.full}; "
        f"its largest singular value holds {found.top:.0%} of its energy."
    )
    middle = shares[len(shares) // 2]
    if len(low) > 1:
        text += f" {len(low)} of {len(seen)} matrices are like that."
    elif len(seen) > 1:
        text += f" The middle one of the {len(seen)} matrices has {middle:.0%} of its rank."
    chart = by_weight(
        "rank_collapse", [(one.name, found.rank / found.full) for one, found in seen], sure,
        what="effective rank, share of the full one", level=("low", 0.12),
    )  # fmt: skip
    where = named([one.name for one, _, _ in low])
    return Examined((Finding("rank_collapse", sure, (Evidence(text, chart),), where),))


def _young(case: Case, one: Profile) -> bool:
    """Whether it may have begun at zero (as what is added to other weights does) and is made of few gradients yet."""
    start = case.starts.of(one.name, one.shape)
    if (start is not None and start.std) or case.course is None or (case.snapshot.step or 0) >= YOUNG:
        return False
    return one.root <= way(one, case.course)


def _times(value: float) -> str:
    return f"{value:.3g}"
