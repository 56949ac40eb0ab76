"""Where windows lie in their clips: as the run's own draw places them, and as its log counted them.

The log has no starts, but it counts targets, and of a delayed pattern a window at a clip's beginning has fewer: the
late books have not begun there. So the targets of the first steps say whether they were at the beginning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento.config import MotConfig
from partimento.lab import charts
from partimento.lab.charts import Level
from partimento.lab.doctor import pictures
from partimento.lab.doctor.data.seen import Seen
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.pictures import Bar
from partimento.tokens.draw import Draw
from partimento.tokens.pack import Pack

WINDOWS = 4096
FEW = 50  # windows of clips that are longer than a window by an eighth or more
BINS = 20
FIXED, MANY = 0.7, 0.4  # share of the windows that lie at one place beyond what the draw means to
HARDLY = 0.1  # share of the windows that are drawn freely, under which a begin_share is no choice any more
TOLD_APART = 0.003  # of the targets, by which windows at the beginning must differ from drawn ones
NEAR = 0.25  # of that difference, within which the log fits one of the two

Places = NDArray[np.int64]


def examine(seen: Seen, pack: Pack) -> Examined:
    what = "Where the windows lie"
    draw = seen.draw
    if draw is None:
        return Examined(missing=(f"{what}: the pattern of the model is not recorded.",))
    clip_B, start_B = draw.places(np.arange(WINDOWS))
    room_B = np.maximum(0, _steps(draw, clip_B) - (draw.window + 1))
    roomy = room_B > draw.window // 8
    if int(roomy.sum()) < FEW:
        return Examined(fine=(f"{what}: clips are hardly longer than one window of {draw.window} steps.",))
    room_B, start_B = room_B[roomy], start_B[roomy]
    begin_share = seen.codes_config.data.begin_share if seen.codes_config is not None else 0.0
    found, fine = _placed(draw, room_B, start_B, begin_share)
    logged, logged_fine, missing = _logged(seen, draw)
    if found is not None and logged is not None:
        both = Finding("fixed_crops", 0.95, (*found.evidence, *logged.evidence), found.where)
        return Examined((both,))
    return Examined(tuple(one for one in (found, logged) if one is not None), fine + logged_fine, missing)


def _placed(draw: Draw, room_B: Places, start_B: Places, begin_share: float) -> tuple[Finding | None, tuple[str, ...]]:
    """By the draw itself: the share of windows at the commonest start, beyond the overhang that folds back there."""
    starts, count = np.unique(start_B, return_counts=True)
    commonest, share = int(starts[count.argmax()]), float(count.max() / len(start_B))
    overhang = draw.window // 8
    meant = float(((overhang * (commonest == 0) + 1) / (room_B + 2 * overhang + 1)).mean())
    excess = (share - meant) / (1 - meant) if meant < 1 else 0.0
    at_end = float((start_B == room_B).mean())
    said = (
        f"{100 * share:.0f} % of {len(start_B):,} drawn windows begin at step {commonest} of their clip "
        f"({100 * meant:.0f} % would by the rule of the draw alone), {100 * at_end:.0f} % end with it"
    )
    if begin_share:
        said += f"; data.begin_share is {begin_share:g}"
    if excess < MANY:
        return None, (f"Windows lie all over their clips: {said}.",)
    counts, edges = np.histogram(start_B / room_B, bins=BINS, range=(0, 1))
    chart = charts.histogram(
        "doctor-crops",
        edges.tolist(),
        (100 * counts / len(start_B)).tolist(),
        y_label="% of the windows",
        x_label="start of the window, from the first possible place to the last",
        levels=[Level("even", 100 / BINS)],
        height=2.0,
    )
    # A share that was asked for is a choice, as long as it leaves enough of the rest.
    asked = commonest == 0 and excess - begin_share < MANY / 2 and 1 - begin_share > HARDLY
    confidence = 0.4 if asked else 0.95 if excess >= FIXED else 0.55
    return Finding("fixed_crops", confidence, (Evidence(f"{said}.", chart),), f"step {commonest} of every clip"), ()


def _logged(seen: Seen, draw: Draw) -> tuple[Finding | None, tuple[str, ...], tuple[str, ...]]:
    """By the targets of the first lines of the log."""
    what = "Where the windows lay in the training itself"
    if seen.patient.run is None:
        return None, (), (f"{what}: a checkpoint has no log.",)
    spans = lines(seen)
    if not spans:
        return None, (), (f"{what}: the log does not count targets that could be held against the draw.",)
    own = begin = counted = 0.0
    for first, last, targets in spans:
        clip_B, start_B = draw.places(np.arange(first, last))
        own += _targets(draw, clip_B, start_B)
        begin += _targets(draw, clip_B, np.zeros_like(start_B))
        counted += targets
    items = sum(last - first for first, last, _ in spans)
    if abs(own - begin) < TOLD_APART * own:
        return None, (), (f"{what}: with this pattern, windows at the beginning count as many targets as others.",)
    said = (
        f"The log counts {counted / items:.1f} targets a window in its first {items:,} windows; the draw gives "
        f"{own / items:.1f}, and windows that all begin with their clip {begin / items:.1f}"
    )
    if abs(counted - begin) <= NEAR * abs(own - begin):
        rows = [("by the draw", own, False), ("at the beginning", begin, False), ("in the log", counted, True)]
        chart = pictures.bars("targets a window", [Bar(label, value / items, odd=odd) for label, value, odd in rows])
        return Finding("fixed_crops", 0.9, (Evidence(f"{said}.", chart),), "step 0 of every clip"), (), ()
    if abs(counted - own) <= NEAR * abs(own - begin):
        return None, (f"The training saw the windows that its draw gives: {said}.",), ()
    return None, (), (f"{what}: the counts fit neither. {said}.",)


def lines(seen: Seen, key: str = "tokens") -> list[tuple[int, int, float]]:
    """(first item, last item, the figure) of the first lines of the log, up to WINDOWS items of the first stage; [] of
    a run that was rolled back or has other targets than codes."""
    config = seen.codes_config
    log = seen.patient.log
    if config is None or log.rollbacks or (isinstance(config, MotConfig) and config.model.caption_share):
        return []
    items = config.optim.batch * config.optim.accumulate
    until = config.train.stages[0].start if config.train.stages else config.train.steps
    found: list[tuple[int, int, float]] = []
    before = 0
    for event in log.train:
        step, value = int(event["step"]), event.get(key)
        if step > until or (found and step * items > WINDOWS):
            break
        if isinstance(value, int | float) and value > 0 and not event.get("skipped"):
            found.append((before * items, step * items, float(value)))
        before = step
    return found


def _steps(draw: Draw, clip_B: Places) -> Places:
    return draw.pattern.steps_many(draw.pack.clips.frames[clip_B], draw.ends)


def _targets(draw: Draw, clip_B: Places, start_B: Places) -> int:
    """Codes and ends in the rows start + 1 .. start + window: what a step counts."""
    pattern, total = draw.pattern, 0
    frames_B = np.asarray(draw.pack.clips.frames[clip_B], dtype=np.int64) + int(draw.ends)
    for delay in pattern.delays:
        first_B = np.maximum(0, -((delay - start_B) // pattern.stride))
        last_B = np.minimum(frames_B, (start_B + draw.window - 1 - delay) // pattern.stride + 1)
        total += int(np.maximum(0, last_B - first_B).sum())
    return total
