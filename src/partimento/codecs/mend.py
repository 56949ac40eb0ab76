"""Repair: damaged shards of an encoded pack are made again from its recordings, byte for byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from partimento import commit
from partimento.codecs import inputs, journal, worker
from partimento.codecs.inputs import Input, Unit
from partimento.codecs.pool import Listener, Pool
from partimento.codecs.worker import Setup
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens.pack import Pack
from partimento.tokens.shards import Shard
from partimento.tokens.store import local


def repair(
    path: str | Path,
    sources: Sequence[str | Path],
    shards: Sequence[int] | None = None,
    *,
    codec: str | None = None,
    device: str = "auto",
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[int]:
    """Encode shards of the pack again from the recordings under `sources`, and put them back; gives their numbers.

    `shards` are numbers of shards, all that are damaged or missing by default. Nothing else of the pack is touched, so
    edits of its labels stay. `codec` is where the pack's codec is found now, if not by its name.

    Raises PACK001 and PACK002 (no pack, or its tables are damaged too), PACK034 (a recording is missing or is not the
    one that was encoded), PACK035 (the shard came out another), PACK009 (`codec` is not the pack's), PACK014, FAR008 (a
    URL), SYS002.
    """
    path, progress = local(path), progress or Quiet()
    with journal.lock(path):
        pack = Pack.open(path)
        chosen = _damaged(pack) if shards is None else sorted(set(shards))
        if not chosen:
            return []
        unknown = [number for number in chosen if number not in pack.shards]
        if unknown:
            raise PartimentoError(
                "PACK034", f"the pack has no shard {unknown[0]}", where=str(path), next=f"partimento pack verify {path}"
            )
        spec = pack.spec
        setup = Setup(codec or spec.codec, spec.layout, spec.books or (spec.codebooks,))
        _check_codec(pack, setup)
        progress.stage("find", "looking for the recordings, and whether they are still the same")
        found = {file.clip: file for file in inputs.collect([Path(source) for source in sources]).files}
        units = [_unit(pack, number, found) for number in chosen]
        # One channel coded as two was asked for then; where none was, this changes nothing.
        setup = replace(setup, upmix=bool(pack.content["inputs"].get("upmixed")))
        _make_again(pack, units, setup, worker.devices(device), jobs, progress)
        return chosen


def _damaged(pack: Pack) -> list[int]:
    def whole(shard: Shard) -> bool:
        file = pack.path / shard.file
        return file.is_file() and file.stat().st_size == shard.bytes and commit.sha256(file) == shard.sha256

    return [number for number, shard in sorted(pack.shards.items()) if not whole(shard)]


def _check_codec(pack: Pack, setup: Setup) -> None:
    spec = setup.open().spec
    if spec != pack.spec:
        raise PartimentoError(
            "PACK009",
            f"the pack is of {pack.spec.codec}, and this codec is another",
            where=str(pack.path),
            next=f"use the codec {pack.spec.codec} of the weights {pack.spec.weights[:12]}",
        )


def _unit(pack: Pack, number: int, found: dict[str, Input]) -> Unit:
    """The recordings of a shard, in the order in which they lie there, each of them the one that was encoded."""
    rows = np.flatnonzero(np.asarray(pack.clips.shard) == number)
    rows = rows[np.argsort(np.asarray(pack.clips.first_frame)[rows])]
    files = []
    for row in map(int, rows):
        clip, sha256 = pack.clips.clip[row], pack.clips.sha256[row]
        file = found.get(clip)
        if file is None or sha256 is None or commit.sha256(file.path) != sha256:
            raise PartimentoError(
                "PACK034",
                f"{clip} is not among the sources" if file is None else f"{clip} is not the file that was encoded",
                where=str(file.path if file else pack.path),
                why=None if file is None else "its sha256 is not the one in the clip table",
                next=f"give the folders that {pack.path} was made of, or drop the shard with `partimento pack repair`",
            )
        files.append(file)
    return Unit(number, f"repair of shard {number}", files)


def _make_again(
    pack: Pack, units: list[Unit], setup: Setup, devices: list[str], jobs: int | None, progress: Progress
) -> None:
    progress.stage("repair", f"{len(units)} shard(s) are encoded again")
    scratch = pack.path / f"repair{commit.TMP}"
    shutil.rmtree(scratch, ignore_errors=True)
    told = _Told(progress, sum(len(unit.files) for unit in units))
    try:
        with commit.disk_errors(scratch):
            scratch.mkdir()
        jobs = jobs or (len(devices) if devices != ["cpu"] else os.cpu_count() or 1)
        Pool(replace(setup, device=devices[0]), scratch, min(jobs, len(units)), devices).run(units, told)
        for unit in units:
            _put_back(pack, unit.number, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put_back(pack: Pack, number: int, scratch: Path) -> None:
    shard = pack.shards[number]
    made = scratch / shard.file
    if not made.is_file() or commit.sha256(made) != shard.sha256:
        now = worker.Setup(pack.spec.codec).versions()
        then = pack.content["versions"]
        differs = [f"{name} {then.get(name)} then, {now[name]} now" for name in now if then.get(name) != now[name]]
        raise PartimentoError(
            "PACK035",
            f"{shard.file} came out other than it was",
            where=str(pack.path),
            why="; ".join(differs) or "this machine, or this kind of device, rounds in another way",
            next=f"encode all of it into a new folder, or drop the shard: partimento pack repair {pack.path} --drop",
        )
    commit.data(pack.path / shard.file, made.read_bytes())


class _Told(Listener):
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total = progress, total
        self._done: set[tuple[int, int]] = set()

    def clip(self, unit: Unit, index: int, seconds: float, reject: str | None) -> None:
        self._done.add((unit.number, index))
        self._progress.update(len(self._done), self._total)
