"""Whether the files are what was written, and whether all numbers in them are numbers."""

from __future__ import annotations

from collections.abc import Sequence

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.patient import HASHED, Snapshot
from partimento.lab.doctor.pictures import Bar
from partimento.lab.doctor.weights.case import Case, named

CHECKPOINTS = 8  # or tensors, that are drawn


def torn(snapshots: list[Snapshot], newest: Snapshot | None) -> Examined:
    """Of those whose state cannot be read, and of the newest whole one, of which every file is hashed."""
    findings = [
        Finding("torn_checkpoint", 0.95, (_unreadable(one, snapshots),), one.path.name)
        for one in snapshots
        if one.state is None
    ]
    if newest is None:
        return Examined(tuple(findings))
    where = newest.path.name
    if newest.bytes > HASHED:
        size = f"{newest.bytes / 1e9:.1f} GB"
        return Examined(tuple(findings), missing=(f"Hashes: {where} has {size}, and was read without hashing it.",))
    if newest.damage is not None:
        told = f"{where} is not what was written: {newest.damage}."
        return Examined((*findings, Finding("torn_checkpoint", 0.97, (Evidence(told, _files(newest)),), where)))
    lacking = _lacking(newest)
    if lacking:
        told = f"{where} has no part {' and no part '.join(lacking)}, and its configuration asks for it."
        parts = [Bar(part, 0.0, odd=True) for part in lacking]
        return Examined((*findings, Finding("torn_checkpoint", 0.8, (Evidence(told, _files(newest, parts)),), where)))
    number = sum(map(len, newest.files.values()))
    files = f"{number} files of tensors" if number != 1 else "file of tensors"
    return Examined(tuple(findings), fine=(f"The {files} of {where} match their hashes, and no part is missing.",))


def _unreadable(one: Snapshot, snapshots: list[Snapshot]) -> Evidence:
    rows = [Bar(each.path.name, each.bytes / 1e6, odd=each.state is None) for each in snapshots[-CHECKPOINTS:]]
    chart = pictures.bars("MB of tensors, by checkpoint (damaged ones in red)", rows)
    return Evidence(f"{one.path.name} cannot be read: {one.why}.", chart)


def _files(one: Snapshot, lacking: Sequence[Bar] = ()) -> str | None:
    """What lies there by file, with those that the damage names marked."""
    rows = [
        Bar(file.name, file.stat().st_size / 1e6 if file.is_file() else 0.0, odd=file.name in (one.damage or ""))
        for files in one.files.values()
        for file in files
    ]
    return pictures.bars(f"MB, by file of {one.path.name} (what is damaged in red)", [*rows, *lacking])


def _lacking(snapshot: Snapshot) -> list[str]:
    state = snapshot.state or {}
    config = state.get("config") or {}
    wanted = ["model", "optimizer"]
    if (config.get("optim") or {}).get("ema", 0) and (snapshot.step or 0) > 0:
        wanted.append("ema")
    if (config.get("adversary") or {}).get("start") is not None:
        wanted += ["adversary", "adversary_optimizer"]
    return [part for part in wanted if part not in snapshot.files]


def finite(case: Case) -> Examined:
    """NaN and infinity, in weights, averages and moments."""
    bad = [(one, part, count) for one in (*case.weights, *case.rival) for part, count in one.bad.items()]
    missing = tuple(f"Weights: {why}." for why in case.broken)
    if not case.weights:
        return Examined(missing=missing)
    if not bad:
        numbers = sum(one.numel for one in (*case.weights, *case.rival))
        told = f"All {numbers:,} weights of {case.snapshot.path.name}, their averages and moments are finite."
        return Examined(fine=() if missing else (told,), missing=missing)
    parts = {part: [(one, count) for one, of, count in bad if of == part] for _, part, _ in bad}
    evidence = tuple(
        Evidence(
            f"{sum(count for _, count in entries):,} numbers of the part {part} are not finite, in {len(entries)} of "
            f"{len(case.weights)} tensors: {named([one.name for one, _ in entries])}.",
            pictures.bars(
                f"numbers that are none, part {part}",
                [Bar(one.name, count, odd=True) for one, count in entries[:CHECKPOINTS]],
            ),
        )
        for part, entries in parts.items()
    )
    return Examined(
        (Finding("non_finite", 1.0, evidence, named(sorted({one.name for one, _, _ in bad}))),), (), missing
    )
