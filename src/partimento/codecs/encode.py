"""Encode: a folder of recordings becomes a pack.

The work is cut into units, one shard each. Local processes decode, mix, resample and code them; each finished shard
gets a record in the journal. When all are there, the clip table, the rejects and pack.json (the commit) are written.
Killed at any moment, the same call goes on with the shards that are missing; the pack is byte-identical in the end.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from partimento import commit
from partimento.audio import containers
from partimento.audio.declared import Fault
from partimento.codecs import inputs, journal, worker
from partimento.codecs.codec import Codec, encode_whole
from partimento.codecs.decode import decode
from partimento.codecs.inputs import Plan, Unit
from partimento.codecs.journal import Record
from partimento.codecs.layout import arrange
from partimento.codecs.pool import Pool
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens import shards
from partimento.tokens.pack import Pack
from partimento.tokens.writer import finish

__all__ = ["EncodeReport", "decode", "encode"]


@dataclass(frozen=True)
class EncodeReport:
    """What an encode did, or (dry_run) would do; then hours, bytes and elapsed are estimates.

    `files` were found; `clips` of them are in the pack and `rejects` (code -> count) not; `seconds` of audio; `frames`;
    `bytes` of all shards; `shards`, of which `made` in this call and the others kept from an earlier one; `elapsed`
    seconds of this call; `speed` in times real time; `notes` on what was found odd.
    """

    pack: str
    dry_run: bool
    files: int
    clips: int
    rejects: dict[str, int]
    seconds: float
    frames: int
    bytes: int
    shards: int
    made: int
    elapsed: float
    speed: float | None
    fingerprint: str | None
    notes: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def encode(
    sources: Sequence[str | Path],
    to: str | Path,
    *,
    codec: str = "resident-44k",
    layout: str = "mono",
    jobs: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> EncodeReport:
    """Encode the recordings under `sources` (folders or files) into the pack `to`.

    `codec` is a name, a folder of an exported codec, or module:function of your own. Recordings that cannot be used are
    skipped with a reason code in rejects.jsonl. Call it again after any interruption: finished shards are kept, missing
    or damaged ones made anew; on a finished pack it does nothing.

    Raises SYS004, AUDIO001 (nothing to encode), PACK010 (`to` holds something else), PACK012 (all rejected), PACK014
    (another encode is at work there), SYS002 (disk), SYS003 (Ctrl-C), PACK009 (the codec has another layout).
    """
    progress = progress or Quiet()
    to, started = Path(to), time.monotonic()
    opened = worker.load_codec(codec)
    if opened.spec.layout != layout:
        raise PartimentoError(
            "PACK009",
            f"the codec {codec} codes the layout {opened.spec.layout!r}, not {layout!r}",
            next=f"use --layout {opened.spec.layout}",
        )
    progress.stage("find", "looking for recordings and their tags")
    found = inputs.collect([Path(source) for source in sources])
    work = inputs.plan(found, opened.spec)
    for note in found.notes:
        progress.note(note)
    jobs = jobs or _cores()
    if dry_run:
        return _estimate(to, work, opened, jobs)
    with commit.disk_errors(to):
        to.mkdir(parents=True, exist_ok=True)
    with journal.lock(to):
        journal.begin(to, work.identity)
        for folder in (to, to / "journal", to / "shards"):
            commit.sweep(folder)
        pack = _finished(to)
        made = 0
        if pack is None:
            done, missing = _look_back(to, work, progress)
            made = len(missing)
            _make(to, work, missing, codec, jobs, progress)
            done += [_record(to, unit) for unit in missing]
            pack = _commit(to, work, done, progress)
    return _report(pack, work, made, time.monotonic() - started)


def _cores() -> int:
    """Cores that this process may use (a container or a scheduler may grant fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finished(to: Path) -> Pack | None:
    """The pack, if it was committed and every file of it is what the commit says."""
    try:
        pack = Pack.open(to)
    except PartimentoError:
        return None  # never committed, or its tables are damaged: the journal has all to write them anew
    intact = all(
        (to / shard.file).is_file() and commit.sha256(to / shard.file) == shard.sha256 for shard in pack.shards.values()
    )
    rejects = pack.content["files"]["rejects.jsonl"]["sha256"]
    return (
        pack if intact and (to / "rejects.jsonl").is_file() and commit.sha256(to / "rejects.jsonl") == rejects else None
    )


def _look_back(to: Path, work: Plan, progress: Progress) -> tuple[list[Record], list[Unit]]:
    """What earlier calls finished, and the units that are missing."""
    versions = worker.versions()
    done, missing = [], []
    for unit in work.units:
        record = journal.read(to, unit.number, unit.id, versions)
        if record is None:
            missing.append(unit)
        else:
            done.append(record)
    if done:
        progress.note(f"{len(done)} of {len(work.units)} shards are there already and are kept")
    return done, missing


def _record(to: Path, unit: Unit) -> Record:
    record = journal.read(to, unit.number, unit.id, worker.versions())
    if record is None:
        raise shards.damaged(to, f"shards/{unit.number:06d}.bin", "it changed after it was written")
    return record


def _make(to: Path, work: Plan, missing: list[Unit], codec: str, jobs: int, progress: Progress) -> None:
    """Encode the missing units, telling how it goes."""
    if not missing:
        return
    progress.stage("encode", f"{work.spec.codec}: audio becomes codes, in {min(jobs, len(missing))} process(es)")
    total = sum(len(unit.files) for unit in missing)
    started = time.monotonic()
    heard: dict[tuple[int, int], float] = {}

    def done(unit: Unit, index: int, seconds: float) -> None:
        heard[unit.number, index] = seconds  # a unit that is tried again reports its recordings twice
        elapsed = max(time.monotonic() - started, 1e-6)
        progress.update(
            len(heard),
            total,
            clips_per_second=round(len(heard) / elapsed, 2),
            times_real_time=round(sum(heard.values()) / elapsed, 1),
            eta_seconds=round(elapsed * (total - len(heard)) / len(heard)),
        )

    try:
        Pool(codec, to, min(jobs, len(missing))).run(missing, done)
    except KeyboardInterrupt:
        raise PartimentoError(
            "SYS003",
            f"the encode was stopped after {len(heard)} of {total} recordings",
            where=str(to),
            why="Ctrl-C; the finished shards are kept",
            next="run the same command again; it continues",
        ) from None


def _commit(to: Path, work: Plan, done: list[Record], progress: Progress) -> Pack:
    progress.stage("commit", "writing the clip table and pack.json")
    done = sorted(done, key=lambda record: record.number)
    rows = [row for record in done for row in record.clips]
    rejects = [reject for record in done for reject in record.rejects]
    if not rows:
        counts = Counter(reject["code"] for reject in rejects)
        raise PartimentoError(
            "PACK012",
            f"all {len(rejects)} recordings were rejected",
            where=str(to / "journal"),
            why=", ".join(f"{count} x {code}" for code, count in counts.most_common())
            + f"; the first: {rejects[0]['file']}: {rejects[0]['reason']}",
            next=f"partimento explain {counts.most_common(1)[0][0]}",
        )
    if rejects:
        progress.note(f"{len(rejects)} recording(s) were skipped; {to / 'rejects.jsonl'} says why")
    return finish(
        to,
        work.spec,
        rows,
        [record.shard for record in done if record.shard],
        rejects,
        inputs={
            **{name: work.identity[name] for name in ("files", "labels", "units")},
            "grouped_by": work.inputs.grouped_by,
            "decoders": sorted({name for record in done for name in record.decoders}),
            "downmixed": sum(record.downmixed for record in done),
            "resampled": sum(record.resampled for record in done),
        },
        versions=done[0].versions,
    )


def _report(pack: Pack, work: Plan, made: int, elapsed: float) -> EncodeReport:
    totals = pack.totals
    return EncodeReport(
        pack=str(pack.path),
        dry_run=False,
        files=len(work.inputs.files),
        clips=totals["clips"],
        rejects=totals["rejects"],
        seconds=totals["seconds"],
        frames=totals["frames"],
        bytes=totals["bytes"],
        shards=len(pack.shards),
        made=made,
        elapsed=round(elapsed, 2),
        speed=round(totals["seconds"] / elapsed, 1) if made == len(work.units) else None,
        fingerprint=pack.fingerprint,
        notes=work.inputs.notes,
    )


def _estimate(to: Path, work: Plan, codec: Codec, jobs: int) -> EncodeReport:
    """Counts and lengths from the files' headers, time from coding two seconds of noise. Writes nothing."""
    lengths: list[float] = []
    rejects: Counter[str] = Counter()
    notes = list(work.inputs.notes)
    for file in work.inputs.files:
        try:
            declared = containers.inspect(file.path)
        except Fault as fault:
            rejects[fault.code] += 1
            continue
        frames = declared.frames or declared.least
        lengths.append(frames / declared.sample_rate if frames and declared.sample_rate else 0.0)
    if unknown := lengths.count(0.0):
        notes.append(f"{unknown} file(s) do not say how long they are and are not in the estimate")
    rate, trial = work.spec.sample_rate, 2.0
    noise_CN = np.random.default_rng(0).standard_normal((1, round(trial * rate))).astype(np.float32) * 0.1
    noise_CN = arrange(noise_CN, work.spec.layout).wave_CN
    encode_whole(codec, noise_CN)  # the first call pays for much that the others do not
    before = time.monotonic()
    encode_whole(codec, noise_CN)
    speed = trial / max(time.monotonic() - before, 1e-6) * min(jobs, len(work.units))
    frames = sum(work.spec.frames(round(length * rate)) for length in lengths)
    return EncodeReport(
        pack=str(to),
        dry_run=True,
        files=len(work.inputs.files),
        clips=len(lengths),
        rejects=dict(sorted(rejects.items())),
        seconds=round(sum(lengths), 2),
        frames=frames,
        bytes=frames * work.spec.codebooks * shards.CODES.itemsize + shards.HEADER_BYTES * len(work.units),
        shards=len(work.units),
        made=0,
        elapsed=round(sum(lengths) / speed, 1),
        speed=round(speed, 1),
        fingerprint=None,
        notes=notes,
    )
