"""What can be said of what a run has played: from demos.json alone, and for copies from the newest demos' sound."""

from __future__ import annotations

from collections.abc import Callable

from partimento.errors import PartimentoError
from partimento.lab.doctor.finding import Examined
from partimento.lab.doctor.patient import Patient


def examine(patient: Patient) -> Examined:
    """Collapse, repetition, silence, ends, the ladder of temperatures, guidance, copies of training clips."""
    from partimento.lab.doctor.data import together
    from partimento.lab.doctor.samples import copies, guidance, lively
    from partimento.lab.doctor.samples.played import newest

    if patient.run is None:
        return Examined(missing=("What it plays: a checkpoint alone has no demos.",))
    missing = tuple(f"Some demos cannot be read: {why}." for why in patient.sheets_missing)
    demos = newest(patient)
    if demos is None:
        return Examined(missing=(*missing, "What it plays: the run has no demos that were played from nothing."))
    looks: dict[str, Callable[[], Examined]] = {
        "How lively the demos are": lambda: lively.examine(patient, demos),
        "What guidance does": lambda: guidance.examine(patient, demos),
        "Whether the demos are copies": lambda: copies.examine(patient, demos),
    }
    found = [Examined(missing=missing)]
    for what, look in looks.items():
        try:
            found.append(look())
        except PartimentoError as err:
            found.append(Examined(missing=(f"{what}: {err.message} ({err.code}).",)))
    return together(found)
