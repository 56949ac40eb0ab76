"""Encode: folders of recordings become a pack.

The work is cut into units, one shard each. Local processes decode, mix, resample and code them; each finished shard
gets a record in the journal. When all are there, the clip table, the rejects and pack.json (the commit) are written.
Killed at any moment, the same call goes on with the shards that are missing. Any number of processes may share the
work, by `shard` or by `claim`; whoever sees that all is done commits. The pack is byte-identical in every case.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.codecs import estimate, inputs, journal, report, worker
from partimento.codecs.codec import Codec
from partimento.codecs.decode import decode
from partimento.codecs.inputs import Plan, Unit
from partimento.codecs.journal import Record
from partimento.codecs.making import Making
from partimento.codecs.mend import repair
from partimento.codecs.pool import Pool
from partimento.codecs.report import Done, EncodeReport
from partimento.codecs.worker import Setup
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens import shards
from partimento.tokens import tags as tagging
from partimento.tokens.clips import ClipRow
from partimento.tokens.licence import Allowed
from partimento.tokens.manifest import rejects_of
from partimento.tokens.pack import Pack
from partimento.tokens.store import local
from partimento.tokens.writer import finish

__all__ = ["EncodeReport", "decode", "encode", "repair"]


def encode(
    sources: Sequence[str | Path],
    to: str | Path,
    *,
    codec: str = "resident-44k",
    layout: str = "mono",
    books: tuple[int, ...] | None = None,
    upmix: bool = False,
    device: str = "auto",
    jobs: int | None = None,
    shard: tuple[int, int] | None = None,
    claim: bool = False,
    aliases: str | Path | None = None,
    licence: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> EncodeReport:
    """Encode the recordings under `sources` (folders or files) into the pack `to`.

    `codec`, `layout`, `books` as `open_codec`; `device` "auto" is every GPU, else the CPU with `jobs` processes (by
    default one a core). `aliases` is a TOML file of tags to be called otherwise. Recordings that cannot be used are
    skipped with a reason code in rejects.jsonl, as are those whose licence asks for more than `licence` allows. Call it
    again after any interruption: finished shards are kept, missing or damaged ones made anew, also those whose
    recordings were edited; on a finished pack it does nothing.

    Several processes share the work with shard=(i, n), i from 1 to n, or claim=True, on one file system.

    Raises SYS004, AUDIO001 (nothing to encode), PACK010 (`to` holds something else), PACK012 (all rejected), PACK014
    (another encode is at work there), PACK030 (one that shares the work is not alike), PACK032 (no such shard), PACK033
    (a recording of the finished pack was edited), FAR008 (`to` is a URL), SYS002 (disk), SYS003 (Ctrl-C), and what
    open_codec raises.
    """
    to, progress = local(to), progress or Quiet()
    if shard and (claim or not 1 <= shard[0] <= shard[1]):
        wrong = (
            "a part of the shards cannot be claimed as well" if claim else f"there is no part {shard[0]} of {shard[1]}"
        )
        raise PartimentoError("PACK032", wrong, next="use --shard 1/8 to 8/8, or --claim instead")
    devices = worker.devices(device)
    # Here the codec is only asked what it is, and in a dry run how fast. Where tasks are submitted
    # from, or joined, there need not be a GPU.
    setup = Setup(codec, layout, books, upmix, devices[0] if dry_run and worker.is_here(devices[0]) else "cpu")
    opened = setup.open()
    progress.stage("find", "looking for recordings and their tags")
    allowed = Allowed.parse(licence) if licence else None
    names = tagging.read_aliases(Path(aliases)) if aliases else None
    found = inputs.collect([Path(source) for source in sources], aliases=names, allowed=allowed)
    work = inputs.plan(found, opened.spec, upmix=upmix)
    for note in found.notes:
        progress.note(note)
    job = _Job(to, work, setup, devices, jobs, shard, claim, progress)
    return job.estimate(opened) if dry_run else job.run()


class _Job:
    """One call of `encode`."""

    def __init__(
        self,
        to: Path,
        work: Plan,
        setup: Setup,
        devices: list[str],
        jobs: int | None,
        shard: tuple[int, int] | None,
        claim: bool,
        progress: Progress,
    ) -> None:
        self.to, self.work, self.shard, self.claim, self.progress = to, work, shard, claim, progress
        self.shared = claim or shard is not None
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.jobs = jobs or (cores if devices == ["cpu"] else len(devices))
        readers = 1 if devices == ["cpu"] else -(-cores // self.jobs)
        setup = replace(setup, device=devices[0], readers=readers)
        self.versions = setup.versions()
        self.making = Making(Pool(setup, to, self.jobs, devices), work, progress)

    def run(self) -> EncodeReport:
        with commit.disk_errors(self.to):
            self.to.mkdir(parents=True, exist_ok=True)
        with journal.lock(self.to, shared=self.shared):
            journal.begin(self.to, self.work.identity)
            pack = self._finished()
            if pack is None:
                done, missing = self._look_back()
                if self.shard:
                    part, parts = self.shard
                    self.making.run([unit for unit in missing if unit.number % parts == part - 1])
                else:
                    self.making.run(missing, self._record if self.claim else None)
                done += [record for unit in missing if (record := self._record(unit))]
                if len(done) < len(self.work.units):
                    if self.shared:
                        return self._waiting(done)
                    raise PartimentoError(
                        "PACK031", "a recording was edited after it was encoded", next="run the same command again"
                    )
                pack = self._commit(done)
        return self._report(pack)

    def estimate(self, codec: Codec) -> EncodeReport:
        """The report of what is done and what would be."""
        if self.to.is_dir():
            journal.begin(self.to, self.work.identity, dry_run=True)
        done, missing = self._look_back() if (self.to / "journal").is_dir() else ([], self.work.units)
        rest = estimate.of(missing, codec)
        speed = estimate.speed(codec) * min(self.jobs, max(1, len(missing)))
        notes = list(self.work.inputs.notes)
        if rest.unknown:
            notes.append(f"{rest.unknown} file(s) do not say how long they are and are not in the estimate")
        so_far = self._waiting(done)
        return replace(
            so_far,
            dry_run=True,
            clips=so_far.clips + rest.clips,
            rejects=dict(sorted((Counter(so_far.rejects) + rest.rejects).items())),
            seconds=round(so_far.seconds + rest.seconds, 2),
            frames=so_far.frames + rest.frames,
            bytes=so_far.bytes + rest.bytes,
            waiting=len(missing),
            elapsed=round(rest.seconds / speed, 1),
            speed=round(speed, 1),
            notes=notes,
        )

    # ---- what is there -----------------------------------------------------------------------------------------

    def _finished(self) -> Pack | None:
        """The pack, if it was committed and every file of it is what the commit says. Raises PACK033."""
        try:
            pack = Pack.open(self.to)
        except PartimentoError:
            return None  # never committed, or its tables are damaged: the journal has all to write them anew
        files = [(shard.file, shard.bytes, shard.sha256) for shard in pack.shards.values()]
        rejects = rejects_of(pack.content)
        known = pack.content["files"][rejects]
        for name, size, sha256 in [*files, (rejects, known["bytes"], known["sha256"])]:
            path = self.to / name
            if not path.is_file() or path.stat().st_size != size:
                return None
            if not self.shared and commit.sha256(path) != sha256:  # many processes would each hash all of it
                return None
        self._check_unedited(pack)
        return pack

    def _check_unedited(self, pack: Pack) -> None:
        committed = (self.to / "pack.json").stat().st_mtime_ns
        later: dict[str, Unit] = {}
        for unit in self.work.units:
            written = journal.modified(self.to, unit.number) or committed
            later |= {file.clip: unit for file in unit.files if file.modified > written}
        if not later:
            return
        known = {clip: sha256 for clip, sha256 in zip(pack.clips.clip, pack.clips.sha256, strict=True) if clip in later}
        for clip, unit in later.items():
            if clip not in known:  # a reject
                record = journal.read(self.to, unit.number, unit.id, self.versions)
                known |= {clip: record.hashes.get(clip) if record else None}
            (path,) = (file.path for file in unit.files if file.clip == clip)
            if known[clip] and _hash(path) != known[clip]:
                raise PartimentoError(
                    "PACK033",
                    f"{clip} was edited after {self.to} was made of it",
                    where=str(path),
                    next=f"encode into a new folder: partimento encode ... --to {self.to}-2",
                )

    def _record(self, unit: Unit) -> Done | None:
        """What became of a unit, if it did. Its shard is hashed, but for work that is shared: there at the commit."""
        record = journal.read(self.to, unit.number, unit.id, self.versions, full=not self.shared)
        if record is None:
            if unit.number in self.making.made:
                raise shards.damaged(self.to, f"shards/{unit.number:06d}.bin", "it changed after it was written")
            return None
        written = journal.modified(self.to, unit.number)
        later = [file for file in unit.files if file.modified > written]
        if later:
            known = record.hashes | {row.clip: row.sha256 for row in record.clips}
            if any(_hash(file.path) != known.get(file.clip) for file in later):
                return None
        return Done(replace(record, clips=[]), unit, len(record.clips), sum(row.samples for row in record.clips))

    def _look_back(self) -> tuple[list[Done], list[Unit]]:
        """What earlier calls finished, and the units that are missing."""
        done, missing = [], []
        for unit in self.work.units:
            found = self._record(unit)
            if found is None:
                missing.append(unit)
            else:
                done.append(found)
        if done:
            self.progress.note(f"{len(done)} of {len(self.work.units)} shards are there already and are kept")
        return done, missing

    # ---- the end -----------------------------------------------------------------------------------------------

    def _commit(self, done: list[Done]) -> Pack:
        self.progress.stage("commit", "writing the clip table and pack.json")
        records = [one.record for one in sorted(done, key=lambda one: one.record.number)]
        if self.shared:
            self._verify(records)
        rejects = [reject for record in records for reject in record.rejects]
        if not any(one.clips for one in done):
            counts = Counter(reject["code"] for reject in rejects)
            raise PartimentoError(
                "PACK012",
                f"all {len(rejects)} recordings were rejected",
                where=str(self.to / "journal"),
                why=", ".join(f"{count} x {code}" for code, count in counts.most_common())
                + f"; the first: {rejects[0]['file']}: {rejects[0]['reason']}",
                next=f"partimento explain {counts.most_common(1)[0][0]}",
            )
        if rejects:
            self.progress.note(f"{len(rejects)} recording(s) were skipped; {self.to / 'rejects.jsonl'} says why")
        identity = self.work.identity
        return finish(
            self.to,
            self.work.spec,
            self._rows(),
            [record.shard for record in records if record.shard],
            rejects,
            inputs={
                **{name: identity[name] for name in ("files", "labels", "units")},
                "grouped_by": self.work.inputs.grouped_by,
                "decoders": sorted({name for record in records for name in record.decoders}),
                "downmixed": sum(record.downmixed for record in records),
                "upmixed": sum(record.upmixed for record in records),
                "resampled": sum(record.resampled for record in records),
            },
            versions=self.versions,
        )

    def _rows(self) -> Iterator[ClipRow]:
        """The rows of all clips, by shard; a record at a time is in memory."""
        for unit in self.work.units:
            record = journal.read(self.to, unit.number, unit.id, self.versions, full=False)
            if record is None:
                raise shards.damaged(self.to, f"journal/{unit.number:06d}.json", "it changed after it was written")
            yield from record.clips

    def _verify(self, records: list[Record]) -> None:
        """Hash what other processes wrote. What is damaged loses its record, so that the next call makes it anew."""
        for record in records:
            shard = record.shard
            if shard and commit.sha256(self.to / shard.file) != shard.sha256:
                journal.path_of(self.to, record.number).unlink(missing_ok=True)
                raise shards.damaged(self.to, shard.file, "it changed after it was written")

    def _report(self, pack: Pack) -> EncodeReport:
        return report.of_pack(pack, self.work, **self._of_this_call())

    def _waiting(self, done: list[Done]) -> EncodeReport:
        """The report while others are still at it."""
        return report.so_far(self.to, self.work, done, **self._of_this_call())

    def _of_this_call(self) -> dict[str, Any]:
        making = self.making
        elapsed = time.monotonic() - making.started
        return {
            "made": len(making.made),
            "elapsed": round(elapsed, 2),
            "speed": round(making.seconds / elapsed, 1) if making.seconds else None,
        }


def _hash(path: Path) -> str | None:
    """sha256 of a recording; None where it cannot be read, as it is recorded of those."""
    try:
        return commit.sha256(path)
    except OSError:
        return None
