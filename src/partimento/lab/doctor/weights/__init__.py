"""What can be seen in the weights, averages and moments of a checkpoint, and in those of the ones before it.

Each tensor is read once (and once more to be hashed), and no model is built: `profile` measures, the examiners judge.
"""

from __future__ import annotations

from collections.abc import Sequence

from partimento.lab.doctor.finding import Examined
from partimento.lab.doctor.patient import Patient, Snapshot
from partimento.lab.doctor.weights import between, coded, moving, starting, whole
from partimento.lab.doctor.weights.case import EARLIER, gather

__all__ = ["examine"]


def examine(patient: Patient) -> Examined:
    """Of the newest checkpoint of a run, with the ones before it; of a checkpoint alone, with the other one if two of
    one training were given."""
    newest = patient.newest
    parts = [whole.torn(patient.snapshots, newest)]
    if newest is None:
        why = "there is none yet" if not patient.snapshots else "none can be read"
        return _joined([*parts, Examined(missing=(f"Checkpoints: {why}.",))])
    case = gather(patient, newest, _earlier(patient, newest))
    parts += [whole.finite(case)]
    if case.sound:
        parts += [
            examiner(case)
            for examiner in (
                moving.gradients,
                moving.rate,
                moving.spike,
                starting.starts,
                starting.ranks,
                coded.tables,
                between.average,
                between.turns,
                between.position,
            )
        ]
    return _joined(parts)


def _earlier(patient: Patient, newest: Snapshot) -> list[Snapshot]:
    """The oldest checkpoint and the last ones before the newest, of the same training and the same shape."""
    known = [one for one in patient.snapshots if one.state is not None]
    if patient.run is None and patient.other is not None and patient.other.run is None:
        known += [one for one in patient.other.snapshots if one.state is not None]
    seed = (newest.state or {}).get("config_hash")
    before = {
        one.step: one
        for one in known
        if one is not newest
        and one.step is not None
        and newest.step is not None
        and one.step < newest.step
        and (one.state or {}).get("config_hash") == seed
    }
    ordered = [before[step] for step in sorted(before)]
    return ordered if len(ordered) <= EARLIER + 1 else [ordered[0], *ordered[-EARLIER:]]


def _joined(parts: Sequence[Examined]) -> Examined:
    return Examined(
        tuple(finding for part in parts for finding in part.findings),
        tuple(line for part in parts for line in part.fine),
        tuple(line for part in parts for line in part.missing),
    )
