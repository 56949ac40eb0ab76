"""The next step, as the moments announce it: too large, ruled by one gradient, or none at all.

u = rate m^ / (sqrt(v^) + eps) is AdamW's step without decay (Kingma and Ba 2015); what it does to an output is its
spectral norm times sqrt(columns / rows) (Yang et al. 2023, arXiv 2310.17813), which is the same scale for Muon.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.patient import Snapshot
from partimento.lab.doctor.pictures import Bar
from partimento.lab.doctor.weights.case import Case, by_weight, graded, named
from partimento.lab.doctor.weights.profile import Moments, Momentum, Profile
from partimento.lab.doctor.weights.rates import peak, way

HOT = 0.7
"""By so much one step at the highest rate so far turns the output of the middle matrix. Healthy ones: 0.01 to 0.1."""
_SHARP = ((math.log(0.3), 0.0), (math.log(HOT), 0.5), (math.log(1.4), 0.8), (math.log(3.0), 0.95))
_APART = ((0.2, 0.0), (0.4, 0.4), (0.7, 0.6))
_GROWN = ((6.0, 0.0), (15.0, 0.35), (22.0, 0.52), (80.0, 0.85))
_SPREAD = ((0.08, 0.96), (0.2, 0.75), (0.35, 0.3), (0.45, 0.0))
_LEAP = ((3.0, 0.0), (6.0, 0.5), (12.0, 0.85))
MANY_STEPS = 16
"""Of Adam: before that the moments are of so few gradients that one always rules them."""
FEWEST = 16
"""Numbers of a gain whose spread is looked at."""
STEADY = 1.2
COLD, EPSILON_RULES = 1e-6, 0.5
PARTS = 12  # of a model that are drawn


def rate(case: Case) -> Examined:
    """The step against the weights it moves."""
    if case.config is None or case.course is None:
        return Examined(missing=("Rate: the configuration cannot be read by this version, so rates are not known.",))
    optim, course = case.config.optim, case.course
    seen = []
    for one in case.matrices:
        moved: Moments | Momentum | None = one.momentum or one.moments
        if moved is None or moved.sharp is None or not one.root or one.empty:
            continue
        top = peak(one.name, "muon" if one.momentum is not None else "adamw", optim)
        seen.append((one, top * course.highest * moved.sharp, top * course.last * moved.update / one.root))
    if not seen or not course.step:
        return Examined(missing=("Rate: no hidden matrix has moments yet.",))
    sharp, ratio = _middle([of for _, of, _ in seen]), _middle([of for *_, of in seen])
    apart, grown = _apart(case), _grown(case)
    doubts = [1 - graded(math.log(max(sharp, 1e-9)), _SHARP), 1 - graded(grown or 0.0, _GROWN)]
    doubts.append(1 - (graded(apart, _APART) if apart is not None else 0.0))
    sure = 1 - math.prod(doubts)
    figures = (
        f"One step at the highest rate so far ({optim.muon_lr if optim.name == 'muon' else optim.lr:g} x "
        f"{course.highest:.3g}) moves the output of the middle matrix by {sharp:.3g} of its input (usual: 0.01 to "
        f"0.1); the last step was {ratio:.2g} of the weights."
    )
    if apart is not None:
        figures += f" Weights and their average are {apart:.0%} apart."
    if grown is not None:
        figures += f" The middle weight is {grown:.3g} times as large as it was drawn."
    if case.state.get("rollbacks"):
        figures += f" The run went back {len(case.state['rollbacks'])} times already."
    if sure < 0.25:
        cold = "" if ratio > COLD or course.last < 0.05 else " That is next to nothing: see whether the loss stands."
        return Examined(fine=(f"The size of the steps: {figures[0].lower()}{figures[1:]}{cold}",))
    chart = by_weight(
        "rate_too_high", [(one.name, max(of, 1e-9)) for one, of, _ in seen], sure,
        what="effect of one step on the output, share of the input", level=("too hot", HOT),
    )  # fmt: skip
    return Examined((Finding("rate_too_high", sure, (Evidence(figures, chart),), "optim.lr"),))


def _apart(case: Case) -> float | None:
    """Relative distance of all weights to their averages, where the averages follow."""
    known = [one.average for one in case.sound if one.average is not None and one.trained]
    ways = [one.followed for one in known if one.followed is not None]
    total = sum(one.norm**2 for one in known)
    if not total or not ways or _middle(ways) < 0.5:
        return None
    return math.sqrt(sum(one.distance**2 for one in known) / total)


def _grown(case: Case) -> float | None:
    """How many times as large as it was drawn the middle matrix is, as far as its steps can have done it."""
    assert case.config is not None and case.course is not None
    ratios = []
    for one in case.matrices:
        start = case.starts.of(one.name, one.shape)
        if start is not None and start.std:
            ratios.append(min(one.root, start.std + way(one, case.course)) / start.std)
    return _middle(ratios) if ratios else None


def spike(case: Case) -> Examined:
    """One gradient that outweighs all others in the moments.

    Then |m| / sqrt(v) is the same number in every element: (1 - b1) / sqrt(1 - b2), less by b1 / sqrt(b2) with every
    step since. Where gradients come and go it is spread as widely as its mean.
    """
    seen = [one for one in case.matrices if one.moments is not None and not one.empty]
    if not seen:
        seen = [one for one in case.sound if one.moments is not None and "norm" in one.name and one.numel >= FEWEST]
    figures = [
        (one, one.moments)
        for one in seen
        if one.moments is not None and one.moments.steps >= MANY_STEPS and not _steady(one.moments, case.betas)
    ]
    leaps = [_leap(one) for one in case.sound]
    known = [leap for leap in leaps if leap is not None]
    if not figures and not known:
        return Examined(missing=("Memory of spikes: there are no moments of sixteen steps.",))
    spread = _middle([moments.spread for _, moments in figures]) if figures else None
    leap = _middle(known) if len(known) > 1 else None
    sure = max(graded(spread, _SPREAD) if spread is not None else 0.0, graded(leap or 0.0, _LEAP))
    narrow = [one.name for one, moments in figures if moments.spread < 0.2]
    if len(narrow) > 1:
        sure = max(sure, 0.55)
    norms = last_norms(case.snapshot)
    text = []
    if spread is not None:
        ratio = _middle([moments.coherence for _, moments in figures])
        since = _since(ratio, case.betas, figures[0][1].steps)
        text.append(
            f"|m| / sqrt(v) of the weights is {ratio:.3f} with a deviation of {spread:.0%} of that (usual: 65 to 95 %)"
            + (f": one gradient rules both moments, of {_ago(since)}." if spread < 0.35 else ".")
        )
    if leap is not None:
        text.append(f"sqrt(v) of the middle tensor is {leap:.3g} times what it was one checkpoint before.")
    if norms is not None and norms[0] > 5:
        sure = min(0.97, sure + 0.1) if sure > 0.3 else sure
        text.append(
            f"The largest of the last gradient norms is {norms[0]:.3g} times the middle one, {norms[1]} steps ago."
        )
    told = " ".join(text)
    if sure < 0.25:
        return Examined(
            fine=(f"No single gradient rules the moments: {told[0].lower() if told[0] != '|' else '|'}{told[1:]}",)
        )
    chart = by_weight(
        "gradient_spike", [(one.name, max(moments.spread, 1e-4)) for one, moments in figures], sure,
        what="deviation of |m| / sqrt(v) over its mean", level=("usual", 0.756),
    )  # fmt: skip
    where = named(narrow) if narrow else None
    return Examined((Finding("gradient_spike", sure, (Evidence(told, chart),), where),))


def _leap(one: Profile) -> float | None:
    """Size of what the moments remember over that of the checkpoint before."""
    before = one.root_before
    if not before or one.books is not None or not one.trained or "cond" in one.name:
        return None
    if one.momentum is not None:
        return one.momentum.root / before
    return one.moments.root / before if one.moments is not None and one.moments.steps >= MANY_STEPS else None


def _steady(moments: Moments, betas: Sequence[float]) -> bool:
    """Whether |m| / sqrt(v) is larger than any one gradient can make it: gains whose gradient keeps its sign and size
    have a narrow spread as well, about 1."""
    first, second = betas
    most = (1 - first) / math.sqrt(1 - second) * math.sqrt(1 - second**moments.steps) / (1 - first**moments.steps)
    return moments.coherence > STEADY * most


def _since(ratio: float, betas: Sequence[float], steps: int) -> int | None:
    """Steps since the one gradient that rules the moments of `steps`; None where betas do not tell."""
    ratio *= (1 - betas[0] ** steps) / math.sqrt(1 - betas[1] ** steps)
    first, factor = (1 - betas[0]) / math.sqrt(1 - betas[1]), betas[0] / math.sqrt(betas[1])
    if not 0 < factor < 1 or ratio <= 0:
        return None
    return max(0, round(math.log(ratio / first) / math.log(factor)))


def _ago(since: int | None) -> str:
    if not since:
        return "an unknown step" if since is None else "the last step"
    return f"{since} step{'s' if since > 1 else ''} before the last"


def last_norms(snapshot: Snapshot) -> tuple[float, int] | None:
    """(largest of the last 30 gradient norms over the middle one of the guard's window, steps since it)."""
    part = snapshot.part("guard")
    if part is None or "guard/seen" not in part.shapes or "guard/accepted" not in part.shapes:
        return None
    seen_RW, accepted = part["guard/seen"], int(part["guard/accepted"])
    width = seen_RW.shape[1]
    count = min(accepted, width)
    if count < MANY_STEPS:
        return None
    places = torch.arange(accepted - count, accepted) % width
    norm_N = torch.nan_to_num(seen_RW[1, places].double())
    last_N, middle = norm_N[-30:], float(norm_N.median())
    where = int(last_N.argmax())
    return (float(last_N[where]) / middle, len(last_N) - 1 - where) if middle else None


def gradients(case: Case) -> Examined:
    """Trained tensors whose moments are zero everywhere, tables and conditions apart (no item may have named them)."""
    parts = [_without(case, case.weights, ""), _without(case, case.rival, "adversary ")]
    return Examined(
        tuple(finding for part in parts for finding in part.findings),
        tuple(line for part in parts for line in part.fine),
    )


def _without(case: Case, weights: Sequence[Profile], who: str) -> Examined:
    trained = [one for one in weights if one.trained]
    steps = case.snapshot.step or 0
    if not trained or steps < 2 or all(one.empty for one in trained):
        return Examined()  # nothing was trained yet: a checkpoint of the beginning, an adversary that still waits
    excused = _excused(case)
    empty = [one for one in trained if one.empty and one.name not in excused and not _on_demand(one)]
    partly = [
        (one, one.moments.zero)
        for one in trained
        if one.matrix and "head" not in one.name and one.moments is not None and 0.2 < one.moments.zero < 1
    ]
    flat = [one.name for one in trained if one.matrix and one.moments and one.moments.tiny > EPSILON_RULES]
    fine = []
    if not empty and not partly:
        small = f"; those of {named(flat)} are so small that Adam's epsilon rules their steps" if flat else ""
        fine.append(f"Each of the {len(trained)} trained {who}tensors has had gradients{small}.")
    findings = []
    if empty:
        still = [one for one in empty if one.moments is None or not one.moments.steps]
        kind = "no gradient ever reached them" if still else "all their gradients were zero"
        text = (
            f"{len(empty)} of {len(trained)} trained {who}tensors have moments of nothing but zeros after {steps:,} "
            f"steps: {kind}. They are {named([one.name for one in empty])}, in {_blocks(empty)}."
        )
        sure = 0.95 if any(len(one.shape) > 1 for one in empty) else 0.7
        findings.append(
            Finding("layer_without_gradient", sure, (Evidence(text, _drawn(trained, empty)),), _blocks(empty))
        )
    elif partly:
        one, share = max(partly, key=lambda entry: entry[1])
        text = f"{share:.0%} of {one.name} never had a gradient in {steps:,} steps; that of the others is complete."
        findings.append(Finding("layer_without_gradient", 0.45, (Evidence(text, _drawn(trained, [one])),), one.name))
    return Examined(tuple(findings), tuple(fine))


def _on_demand(one: Profile) -> bool:
    """A table whose rows are looked up, or a condition that not every item has."""
    last = one.name.rpartition(".")[2]
    return one.books is not None or "embed" in one.name or last.startswith(("null", "table")) or "condition" in one.name


def _excused(case: Case) -> set[str]:
    """What the run itself said has no gradient for a reason."""
    told = [event.get("waiting") for event in case.patient.events if event["kind"] == "flow"]
    reasons = told[-1] if told and isinstance(told[-1], dict) else {}
    return {str(name) for names in reasons.values() if isinstance(names, list) for name in names}


def _blocks(weights: Sequence[Profile]) -> str:
    return named(dict.fromkeys(map(_block, weights)))


def _block(one: Profile) -> str:
    """The part of the model that it belongs to: "blocks.1", or the path above the name."""
    found = re.match(r".*?\.\d+(?=\.)", one.name)
    return found[0] if found else one.name.rpartition(".")[0] or one.name


def _drawn(trained: Sequence[Profile], empty: Sequence[Profile]) -> str | None:
    """By part of the model, the share of its numbers without a gradient; the worst parts of a large one."""
    sizes: dict[str, list[int]] = {}
    for one in trained:
        size = sizes.setdefault(_block(one), [0, 0])
        share = 1.0 if one in empty and one.moments is None else one.moments.zero if one.moments is not None else 0.0
        size[0], size[1] = size[0] + one.numel, size[1] + round(share * one.numel)
    rows = [Bar(part, 100 * none / every, odd=none == every) for part, (every, none) in sizes.items()]
    shown = sorted(rows, key=lambda row: -row.value)[:PARTS]
    return pictures.bars("numbers without a gradient, by part", [row for row in rows if row in shown], unit=" %")


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
