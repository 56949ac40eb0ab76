"""What the averages, successive checkpoints and the counters say of each other."""

from __future__ import annotations

import math

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.pictures import Bar
from partimento.lab.doctor.weights.case import Case, by_weight, graded, named

_FOLLOWED = ((0.1, 0.95), (0.3, 0.75), (0.45, 0.5), (0.6, 0.0))
_TURNED = ((-0.7, 0.92), (-0.4, 0.7), (-0.25, 0.5), (-0.1, 0.0))
_FEW_UPDATES = 4


def average(case: Case) -> Examined:
    """Whether the averaged weights follow the raw ones."""
    optim = case.patient.raw.get("optim") or {}
    decay, step = optim.get("ema"), case.snapshot.step or 0
    seen = [(one, one.average) for one in case.sound if one.average is not None and one.trained]
    if not seen:
        why = "optim.ema is 0" if decay == 0 else "the checkpoint has none"
        return Examined(missing=(f"Averaged weights: {why}.",))
    total = sum(one.norm**2 for _, one in seen)
    apart = math.sqrt(sum(one.distance**2 for _, one in seen) / total) if total else 0.0
    cosine = min((one.cosine for _, one in seen if not math.isnan(one.cosine)), default=1.0)
    told, sure = [], 0.0
    updates, skipped = case.state.get("ema_updates"), _skipped(case)
    if isinstance(updates, int) and step - skipped > _FEW_UPDATES and updates < 0.5 * (step - skipped):
        sure = 0.95
        told.append(f"The average was updated {updates:,} times in {step - skipped:,} steps.")
    ways = [(one, way.followed) for one, way in seen if way.followed is not None]
    if ways and step > _FEW_UPDATES:
        middle = sorted(followed for _, followed in ways)[len(ways) // 2]
        if (seems := graded(middle, _FOLLOWED)) > 0.2:
            sure = max(sure, seems)
            told.append(
                f"The {len(ways)} gains and other weights that begin at a known number have gone their way, and their "
                f"averages {middle:.1%} of it: {'they stood still' if middle < 0.01 else 'they are too slow'} "
                f"(optim.ema = {decay}, {step:,} steps)."
            )
    # Of the last two checkpoints: the average stood while the weights went.
    went = [one for one, _ in seen if one.step is not None and one.step.length > 0]
    stood = [one for one in went if one.step is not None and one.step.average_moved is False]
    if went and len(stood) > 0.8 * len(went):
        sure = max(sure, 0.95)
        told.append(f"Since the last checkpoint {len(went)} weights moved, and the averages of {len(stood)} did not.")
    if step > _FEW_UPDATES and all(one.same for _, one in seen) and (case.course is None or case.course.last > 0):
        sure = max(sure, 0.7)
        told.append("The averages are the raw weights, bit for bit: something saves or loads one as the other.")
    if not told:
        lowest = f"; the lowest cosine of a tensor is {cosine:.4f}"
        return Examined(fine=(f"The averaged weights follow: they are {apart:.2%} from the raw ones{lowest}.",))
    text = " ".join(told) + f" They are {apart:.1%} from the raw weights."
    far = [(one.name, max(way.distance / way.norm, 1e-6)) for one, way in seen if way.norm]
    chart = by_weight("ema_broken", far, sure, what="distance of the average, share of the weight")
    return Examined((Finding("ema_broken", sure, (Evidence(text, chart),), "ema"),))


def turns(case: Case) -> Examined:
    """The cosine of successive ways between checkpoints. Of a walk without aim it is 0, of one that hops about a
    minimum -0.5, of one that goes to and fro -1."""
    steps = [one.step for one in case.earlier] + [case.snapshot.step]
    if len(steps) < 3:
        return Examined(missing=(f"Turns: it takes three checkpoints to see one, and there are {len(steps)}.",))
    seen = [
        (one, way, way.before, way.product)
        for one in case.sound
        if one.trained and (way := one.step) is not None and way.before is not None and way.product is not None
    ]
    after = math.sqrt(sum(way.length**2 for _, way, *_ in seen))
    ahead = math.sqrt(sum(length**2 for *_, length, _ in seen))
    if not after or not ahead:
        return Examined(missing=("Turns: the weights of the last checkpoints are the same.",))
    cosine = sum(product for *_, product in seen) / (after * ahead)
    size = math.sqrt(sum((one.root**2) * one.numel for one, *_ in seen))
    of = f"steps {steps[-3]:,}, {steps[-2]:,} and {steps[-1]:,}"
    ways = f"From {of}: two ways of {ahead / size:.2%} and {after / size:.2%} of the weights, cosine {cosine:+.2f}"
    sure = graded(cosine, _TURNED)
    if sure < 0.2:
        return Examined(fine=(f"{ways}: the second goes on where the first went.",))
    each = [(one, product / (way.length * length)) for one, way, length, product in seen if way.length and length]
    back = [one.name for one, value in each if value < -0.25]
    turned = [(one.name, max(1 + value, 1e-3)) for one, value in each]  # a full turn is 0, and rounding takes it below
    chart = by_weight("oscillation", turned, sure, what="1 + cosine of the two ways", level=("no turn", 1.0))
    text = f"{ways}: the second takes back much of the first. {len(back)} of {len(each)} weights turn back."
    return Examined((Finding("oscillation", sure, (Evidence(text, chart),), named(back) if back else None),))


def position(case: Case) -> Examined:
    """The optimizer's own counts against the step of the state."""
    step, skipped = case.snapshot.step or 0, _skipped(case)
    counts = {one.moments.steps for one in case.weights if one.moments is not None and not one.empty}
    if not counts:
        return Examined(missing=("Counts of the optimizer: nothing is trained by AdamW, or not yet.",))
    made, most = step - skipped, max(counts)
    if most == made:
        return Examined(fine=(f"The optimizer has made {most:,} steps, as the state says.",))
    text = (
        f"The optimizer has made {most:,} steps; the checkpoint is of step {step:,}"
        + (f" with {skipped:,} of them skipped" if skipped else "")
        + f", which is {made:,}. Weights, moments and position are not of one moment."
    )
    chart = pictures.bars("steps", [Bar("the checkpoint's, not skipped", made), Bar("the optimizer's", most, odd=True)])
    return Examined((Finding("schedule_mismatch", 0.85, (Evidence(text, chart),), case.snapshot.path.name),))


def _skipped(case: Case) -> int:
    """Steps that were skipped so far: by the guard's own count, or by the last reading before."""
    part = case.snapshot.part("guard")
    if part is not None and "guard/skipped" in part.shapes:
        return int(part["guard/skipped"])
    found = case.state.get("skipped")
    return found if isinstance(found, int) else 0
