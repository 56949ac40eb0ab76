"""What can be said of the data of a run: from its log, and from its pack if that is still there. No model is needed.

Of a large pack a bounded number of frames is read, whole clips in keyed order; what was read is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from partimento.errors import PartimentoError
from partimento.lab.doctor.finding import Examined
from partimento.lab.doctor.patient import Patient
from partimento.tokens.pack import Pack

if TYPE_CHECKING:
    from partimento.lab.doctor.data.seen import Seen


def examine(patient: Patient) -> Examined:
    """Noise, silence, copied channels, codes that only held-out clips have, leaks, the amount, crops, dropped
    conditions. What a damaged pack keeps from being looked at is in `missing`."""
    from partimento.lab.doctor.data import amount, channels, crops, leak, noise, nulls, silence, unseen

    seen = patient.seen
    logged: dict[str, Callable[[Seen], Examined]] = {
        "Whether the codes are noise": noise.examine,
        "Whether the data are enough for the model": amount.examine,
    }
    packed: dict[str, Callable[[Seen, Pack], Examined]] = {
        "Silence in the data": silence.examine,
        "Whether the channels are copies": channels.examine,
        "Codes that training never shows": unseen.examine,
        "Whether held-out clips are copies of training clips": leak.examine,
        "Where the windows lie": crops.examine,
        "How many conditions were dropped": nulls.examine,
    }
    looks: dict[str, Callable[[], Examined]] = {what: partial(look, seen) for what, look in logged.items()}
    found: list[Examined] = []
    if seen.pack is None:
        left = ", ".join(f"{what[0].lower()}{what[1:]}" for what in packed)
        found.append(Examined(missing=(f"The data themselves, since {seen.why}. Left out are: {left}.",)))
    else:
        looks |= {what: partial(look, seen, seen.pack) for what, look in packed.items()}
    for what, look in looks.items():
        try:
            found.append(look())
        except PartimentoError as err:
            found.append(Examined(missing=(f"{what}: {err.message} ({err.code}).",)))
    return together(found)


def together(parts: Iterable[Examined]) -> Examined:
    findings, fine, missing = zip(*((part.findings, part.fine, part.missing) for part in parts), strict=True)
    return Examined(*(tuple(chain.from_iterable(rows)) for rows in (findings, fine, missing)))
