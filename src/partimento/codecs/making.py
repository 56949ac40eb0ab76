"""The middle of an encode: missing units are made, alone or beside others that claim theirs, telling how it goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from partimento.codecs.claims import Claims
from partimento.codecs.inputs import Plan, Unit
from partimento.codecs.pool import Listener, Pool
from partimento.errors import PartimentoError
from partimento.progress import Progress


class Making(Listener):
    """`run` makes units; then `made` has their numbers and `seconds` is how much audio that was."""

    def __init__(self, pool: Pool, work: Plan, progress: Progress) -> None:
        self.pool, self.work, self.progress = pool, work, progress
        self.started = time.monotonic()
        self.made: set[int] = set()
        self.seconds = 0.0
        self._heard: dict[int, dict[int, float]] = {}  # seconds of the recordings of each unit that is at work
        self._count = self._read = 0  # recordings that are through, and their bytes
        self._rejects: Counter[str] = Counter()
        self._files = self._bytes = 0  # of the units to make
        self._claims: Claims | None = None

    def run(self, missing: list[Unit], look: Callable[[Unit], object | None] | None = None) -> None:
        """Encode the missing units; with `look`, which finds what others have made, those of them that nobody claims.

        Raises SYS003 (Ctrl-C) and what the pool raises.
        """
        if not missing:
            return
        jobs = min(self.pool.jobs, len(missing))
        where = f"{jobs} process{'es' * (jobs > 1)} on {', '.join(self.pool.devices)}"
        self.progress.stage("encode", f"{self.work.spec.codec}: audio becomes codes, in {where}")
        self._files = sum(len(unit.files) for unit in missing)
        self._bytes = sum(file.bytes for unit in missing for file in unit.files)
        self.started = time.monotonic()
        try:
            with ExitStack() as stack:
                units = iter(missing)
                if look:
                    self._claims = stack.enter_context(Claims(self.pool.pack))
                    units = self._claimed(self._claims, missing, look)
                self.pool.run(units, self)
        except KeyboardInterrupt:
            raise PartimentoError(
                "SYS003",
                f"the encode was stopped after {self._count} of {self._files} recordings",
                where=str(self.pool.pack),
                why="Ctrl-C; the finished shards are kept",
                next="run the same command again; it continues",
            ) from None

    def _claimed(self, claims: Claims, missing: list[Unit], look: Callable[[Unit], object | None]) -> Iterator[Unit]:
        """Units of `missing` that nobody else is at, until there are none."""
        first = int(claims.start * len(missing))
        left = missing[first:] + missing[:first]
        while True:
            of_others = []
            for unit in left:
                if look(unit):
                    self._less(unit)
                elif not claims.take(unit.number):
                    of_others.append(unit)
                elif look(unit):  # made between our looking and our claim
                    claims.release(unit.number)
                    self._less(unit)
                else:
                    yield unit
            # A round that found nothing to do was the last; after any other, someone may have died meanwhile.
            if len(of_others) == len(left):
                return
            left = of_others

    def _less(self, unit: Unit) -> None:
        self._files -= len(unit.files)
        self._bytes -= sum(file.bytes for file in unit.files)

    def clip(self, unit: Unit, index: int, seconds: float, reject: str | None) -> None:
        through = self._heard.setdefault(unit.number, {})
        if index not in through:  # a unit that is tried again reports all of it again
            self._count += 1
            self._read += unit.files[index].bytes
            if reject:
                self._rejects[reject] += 1
        self.seconds += seconds - through.get(index, 0.0)
        through[index] = seconds
        elapsed = max(time.monotonic() - self.started, 1e-6)
        facts: dict[str, str | float | int] = {
            "clips_per_second": round(self._count / elapsed, 2),
            "times_real_time": round(self.seconds / elapsed, 1),
            "eta_seconds": round(elapsed * max(0, self._bytes - self._read) / max(self._read, 1)),
        }
        if self._rejects:
            facts["rejects"] = ", ".join(f"{count} {code}" for code, count in self._rejects.most_common())
        self.progress.update(self._count, max(self._files, self._count), **facts)

    def unit(self, unit: Unit) -> None:
        self.made.add(unit.number)
        self._heard.pop(unit.number, None)
        if self._claims:
            self._claims.release(unit.number)
