"""What an encode tells of itself when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from partimento.codecs.inputs import Plan, Unit
from partimento.codecs.journal import Record
from partimento.tokens.pack import Pack


@dataclass(frozen=True)
class EncodeReport:
    """What an encode did, or (dry_run) would do; then hours, bytes and elapsed are estimates.

    `files` were found; `clips` of them are in the pack and `rejects` (code -> count) not; `seconds` of audio; `frames`;
    `bytes` of all shards; `shards`, of which `made` in this call, and `waiting` by other processes that share the work
    (then there is no pack yet, and the counts are of what is done); how many recordings were `downmixed`, `upmixed`,
    `resampled`; `elapsed` seconds of this call; `speed` in times real time; `notes` on what was found odd.
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
    waiting: int
    downmixed: int
    upmixed: int
    resampled: int
    elapsed: float
    speed: float | None
    fingerprint: str | None
    notes: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Done:
    """A finished unit: its record without the rows of its clips (there may be millions), and how much they were."""

    record: Record
    unit: Unit
    clips: int
    samples: int


def of_pack(pack: Pack, work: Plan, **of_this_call: Any) -> EncodeReport:
    """The report of a finished pack; `of_this_call` are made, elapsed and speed."""
    totals, counted = pack.totals, pack.content["inputs"]
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
        waiting=0,
        downmixed=counted.get("downmixed", 0),
        upmixed=counted.get("upmixed", 0),
        resampled=counted.get("resampled", 0),
        fingerprint=pack.fingerprint,
        notes=work.inputs.notes,
        **of_this_call,
    )


def so_far(to: Path, work: Plan, done: Sequence[Done], **of_this_call: Any) -> EncodeReport:
    """The report of what is done while units are missing."""
    records = [one.record for one in done]
    made = [record.shard for record in records if record.shard]
    return EncodeReport(
        pack=str(to),
        dry_run=False,
        files=len(work.inputs.files),
        clips=sum(one.clips for one in done),
        rejects=dict(sorted(Counter(reject["code"] for record in records for reject in record.rejects).items())),
        seconds=round(sum(one.samples for one in done) / work.spec.sample_rate, 2),
        frames=sum(shard.frames for shard in made),
        bytes=sum(shard.bytes for shard in made),
        shards=len(work.units),
        waiting=len(work.units) - len(done),
        downmixed=sum(record.downmixed for record in records),
        upmixed=sum(record.upmixed for record in records),
        resampled=sum(record.resampled for record in records),
        fingerprint=None,
        notes=work.inputs.notes,
        **of_this_call,
    )
