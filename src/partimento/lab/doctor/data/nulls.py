"""Whether as many conditions were dropped as was asked for: the log against the draw and the configuration."""

from __future__ import annotations

import math

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.data.seen import Seen
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import series
from partimento.tokens.pack import Pack

ITEMS = 1024
SIGMAS, LEAST = 5.0, 0.02
FAR = 0.1


def examine(seen: Seen, pack: Pack) -> Examined:
    what = "How many conditions were dropped"
    config = seen.codes_config
    if config is None:
        return Examined(missing=(f"{what}: this family has none.",))
    points = [(int(event["step"]), event["null_share"]) for event in seen.patient.log.train if "null_share" in event]
    points = [(step, float(value)) for step, value in points if isinstance(value, int | float)]
    if not points:
        return Examined(missing=(f"{what}: the log does not say (a model without conditions has none to drop).",))
    draw = seen.draw
    if draw is None:
        return Examined(missing=(f"{what}: {seen.why or 'the pattern of the model is not recorded'}.",))
    steps = np.diff([0, *(step for step, _ in points)])
    real = float(np.average([value for _, value in points], weights=np.maximum(1, steps)))
    items = int(points[-1][0] * config.optim.batch * config.optim.accumulate)
    kept = np.mean([one.keep for one in draw.items(range(ITEMS))])
    # Tags that are dropped one by one may all go; that share is known from the draw alone.
    wanted = draw.expected_null_share if not config.data.tag_dropout else 1.0 - float(kept)
    sample = items if not config.data.tag_dropout else min(items, ITEMS)
    margin = LEAST + SIGMAS * math.sqrt(max(wanted * (1 - wanted), 1e-4) / max(1, sample))
    said = (
        f"{100 * real:.1f} % of {items:,} items had no condition; the draw gives {100 * wanted:.1f} % "
        f"(data.null_share = {config.data.null_share:g}, and clips without words)"
    )
    if abs(real - wanted) <= margin:
        return Examined(fine=(f"As many conditions were dropped as was asked for: {said}.",))
    confidence = 0.85 if abs(real - wanted) >= FAR + margin else 0.55
    chart = pictures.curve(
        "nulls",
        "share of the items without a condition",
        series(seen.patient.log.train, "null_share"),
        levels=[("asked for", wanted)],
    )
    return Examined((Finding("null_share_off", confidence, (Evidence(f"{said}.", chart),)),))
