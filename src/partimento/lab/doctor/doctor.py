"""`doctor`: what is wrong with a run or a checkpoint, ranked, with evidence; what is fine; what could not be looked at.

Examiners read files (log, weights, pack, demos) and build no model. Each returns findings of diseases.toml; they are
put together here: what several of them found is one finding, and a consequence stands behind its cause.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.lab.doctor.finding import LIKELY, Examined, Finding, diseases
from partimento.lab.doctor.patient import Patient
from partimento.lab.explainloss.explain import explained

LOG = ("curves", "standstill", "memory", "past", "steps", "speed", "planned", "players")
EXAMINERS = ("weights", *LOG, "data", "samples")
"""Modules and packages beside this one with a function `examine`; those of LOG read the log."""
Examine = Callable[[Patient], Examined]


@dataclass(frozen=True)
class Diagnosis:
    """`findings` are ranked. `standing` is what `explain-loss` says of the run in a sentence, or None. `ended` is False
    of a run that is still training, or was killed. `other` is the diagnosis of a second run, if one was given."""

    path: str
    kind: str
    family: str | None
    step: int | None
    findings: tuple[Finding, ...]
    fine: tuple[str, ...]
    missing: tuple[str, ...]
    standing: str | None
    seconds: float
    ended: bool = True
    other: Diagnosis | None = field(default=None)

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def diagnoses(self) -> tuple[Finding, ...]:
        """Those that are likely."""
        return tuple(one for one in self.findings if one.confidence >= LIKELY)

    @property
    def remarks(self) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.confidence < LIKELY)

    def to_json(self) -> dict[str, Any]:
        """Without the drawings."""
        return {
            "path": self.path,
            "kind": self.kind,
            "family": self.family,
            "step": self.step,
            "ended": self.ended,
            "standing": self.standing,
            "findings": [_finding(one) for one in self.findings],
            "fine": list(self.fine),
            "missing": list(self.missing),
            "seconds": round(self.seconds, 2),
            "other": None if self.other is None else self.other.to_json(),
        }


def doctor(path: str | Path, other: str | Path | None = None) -> Diagnosis:
    """The diagnosis of the run or checkpoint at `path`. A second checkpoint is looked at together with the first (what
    moved between them); a second run is diagnosed as well.

    A part that cannot be read is a finding or a line of `missing`, not an error. Raises DOC001 (neither a run nor a
    checkpoint), RUN002 (the record of the run is damaged).
    """
    patient = Patient.open(path)
    second = None
    if other is not None:
        patient.other = Patient.open(other)
        if patient.run is None and patient.other.run is None:
            both = [*patient.snapshots, *patient.other.snapshots]
            patient.snapshots = sorted(both, key=lambda one: -1 if one.step is None else one.step)
        else:
            second = examine(patient.other)
    return replace(examine(patient), other=second)


def examine(patient: Patient, names: Sequence[str] = EXAMINERS) -> Diagnosis:
    """The examiners of these names, one after the other."""
    began = time.monotonic()
    seen = [_examined(name, patient) for name in names]
    standing, unknown = _standing(patient)
    newest = patient.newest
    step = patient.log.step or (newest.step if newest is not None else None)
    return Diagnosis(
        path=str(patient.path),
        kind="checkpoint" if patient.run is None else "run",
        family=patient.family,
        step=step,
        findings=ranked([finding for one in seen for finding in one.findings]),
        fine=tuple(dict.fromkeys(text for one in seen for text in one.fine)),
        missing=tuple(dict.fromkeys([*(text for one in seen for text in one.missing), *unknown])),
        standing=standing,
        seconds=time.monotonic() - began,
        ended=patient.run is None or (patient.log.ended or {}).get("kind") == "end",
    )


def _examined(name: str, patient: Patient) -> Examined:
    look: Examine = import_module(f"partimento.lab.doctor.{name}").examine
    try:
        return spaced(look(patient))
    except PartimentoError as err:  # a file that cannot be read hides what it holds, and nothing else
        why = f": {err.why}" if err.why else ""
        return Examined(missing=(f"What {name} would show: {err.message} ({err.code}){why}.",))


def spaced(seen: Examined) -> Examined:
    """With one way to write percent, whatever the examiners' formats do."""
    findings = [
        replace(one, evidence=tuple(replace(told, text=_spaced(told.text)) for told in one.evidence))
        for one in seen.findings
    ]
    return Examined(tuple(findings), tuple(map(_spaced, seen.fine)), tuple(map(_spaced, seen.missing)))


def _spaced(line: str) -> str:
    return re.sub(r"(?<=\d)%", " %", line)


def ranked(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """One finding a disease, the surest first; a consequence stands behind a likely cause of it (`hides`)."""
    order = sorted(_merged(findings), key=lambda one: (-one.confidence, one.disease))
    causes = [one for one in order if one.confidence >= LIKELY]
    for cause in causes:
        hidden = [one for one in order[: order.index(cause)] if one.disease in diseases()[cause.disease].hides]
        rest = [one for one in order if one not in hidden]
        place = rest.index(cause) + 1
        order = [*rest[:place], *hidden, *rest[place:]]
    return tuple(order)


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """What two examiners found independently is surer than either: each more takes away half of its share of the doubt,
    since they read the same run."""
    merged: dict[str, Finding] = {}
    for one in sorted(findings, key=lambda one: -one.confidence):
        known = merged.get(one.disease)
        if known is None:
            merged[one.disease] = one
            continue
        sure = known.confidence + (1 - known.confidence) * one.confidence / 2
        evidence = (*known.evidence, *(more for more in one.evidence if more not in known.evidence))
        merged[one.disease] = Finding(one.disease, round(sure, 2), evidence, known.where or one.where)
    return list(merged.values())


def _standing(patient: Patient) -> tuple[str | None, list[str]]:
    if patient.run is None:
        return None, ["Everything that the log would show: this is a checkpoint alone."]
    torn = sum(event["kind"] == "torn" for event in patient.events)
    lost = [f"{torn} lines of the log, which are torn: what they told is missing above."] if torn else []
    try:
        found = explained(patient.run, patient.events)
    except PartimentoError as err:
        return None, [*lost, f"How good the loss is: {err.message} ({err.code})."]
    return " ".join(found.verdict[:2]), lost


def _finding(one: Finding) -> dict[str, Any]:
    words = diseases()[one.disease]
    return {
        "disease": one.disease,
        "name": words.name,
        "confidence": one.confidence,
        "where": one.where,
        "evidence": [evidence.text for evidence in one.evidence],
        "what": words.what,
        "looks_like_if_wrong": words.looks_like_if_wrong,
        "change": words.change,
        "page": words.page,
    }
