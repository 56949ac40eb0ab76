"""What can be said of the data of a run: from its log, and from its pack if that is still there. No model is needed.

Of a large pack a bounded number of frames is read, whole clips in keyed order; what was read is told.
"""

from __future__ import annotations

from collections.abc import Callable

from partimento.errors import PartimentoError
from partimento.lab.doctor.finding import Examined
from partimento.lab.doctor.patient import Patient


def examine(patient: Patient) -> Examined:
    """Noise, silence, copied channels, codes that only held-out clips have, leaks, the amount, crops, dropped
    conditions. What a damaged pack keeps from being looked at is in `missing`."""
    from partimento.lab.doctor.data import amount, channels, crops, leak, noise, nulls, silence, unseen
    from partimento.lab.doctor.data.seen import Seen

    seen = Seen(patient)
    looks: dict[str, Callable[[Seen], Examined]] = {
        "Whether the codes are noise": noise.examine,
        "Silence in the data": silence.examine,
        "Whether the channels are copies": channels.examine,
        "Codes that training never shows": unseen.examine,
        "Whether held-out clips are copies of training clips": leak.examine,
        "Whether the data are enough for the model": amount.examine,
        "Where the windows lie": crops.examine,
        "How many conditions were dropped": nulls.examine,
    }
    found: list[Examined] = []
    for what, look in looks.items():
        try:
            found.append(look(seen))
        except PartimentoError as err:
            found.append(Examined(missing=(f"{what}: {err.message} ({err.code}).",)))
    return Examined(*(tuple(one for part in found for one in getattr(part, name)) for name in _FIELDS))


_FIELDS = ("findings", "fine", "missing")
