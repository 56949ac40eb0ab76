"""From files to files: what restoring and shifting do alike with the recordings that they are given.

Each recording is read in a child process, goes by in blocks, and is written as it was held: same rate, length, channels
and bits. A file that cannot be done is told of, and the others are done. A folder of outputs keeps a record of what was
made of what (made.jsonl), so that the same command goes on where it was interrupted and replaces nothing else.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.audio import child, stream
from partimento.audio.decode import Facts
from partimento.audio.files import AUDIO_SUFFIXES, discover
from partimento.audio.stream import WaveCN
from partimento.errors import PartimentoError
from partimento.play.record import Made, Record
from partimento.progress import Progress

SUFFIXES = (".wav", ".flac")
_FLAC_CHANNELS = 8
_FLOAT = {"FLOAT", "DOUBLE"}
_WIDE = {"PCM_24": "PCM_24", "PCM_32": "PCM_32"}  # in a WAV; a FLAC ends at 24 bits
_NARROW = {"PCM_16", "PCM_U8", "PCM_S8", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"}

Work = Callable[[Iterator[WaveCN], int], Iterable[WaveCN]]
"""What is done with blocks [C, n] of a sample rate; as many samples come out as go in."""


@dataclass(frozen=True)
class Item:
    """A recording, and the name of what is made of it below the folder of outputs (its suffix may still change)."""

    path: Path
    name: Path


def find(inputs: Sequence[str | Path], to: Path) -> list[Item]:
    """The recordings of files and folders, a folder's tree kept; what lies in `to` is no input.

    Raises SYS004 (no such path), SYS006 (`to` cannot be what it is named like), AUDIO001 (no audio), RESTORE003 (a
    folder would receive its own outputs), RESTORE005 (two recordings of one name).
    """
    given = [Path(path) for path in inputs]
    single = len(given) == 1 and not given[0].is_dir()
    if to.suffix.lower() in AUDIO_SUFFIXES and not to.is_dir() and not (single and to.suffix.lower() in SUFFIXES):
        why = "one file takes one input file" if to.suffix.lower() in SUFFIXES else f"{to.suffix} is not written"
        raise PartimentoError("SYS006", f"{to} cannot be the output: {why}", next="name a folder, a .wav or a .flac")
    found: dict[Path, Item] = {}
    for path in given:
        if path.is_dir() and path.resolve() == to.resolve():
            raise _own_input(path, to)
        prefix = Path(path.resolve().name) if len(given) > 1 and path.is_dir() else Path()
        for member in discover(path):
            if path.is_dir() and member.resolve().is_relative_to(to.resolve()):
                continue
            name = prefix / member.relative_to(path) if path.is_dir() else Path(member.name)
            found.setdefault(_absolute(member), Item(member, name))
    if not found:
        raise PartimentoError("AUDIO001", f"no audio was found but what lies in {to}", next="ls the folders given")
    items = sorted(found.values(), key=lambda item: item.name.as_posix())
    for one, other in itertools.pairwise(items):
        if one.name == other.name:
            raise PartimentoError(
                "RESTORE005",
                f"two recordings would become {to / one.name}",
                where=f"{one.path} and {other.path}",
                next="give them one at a time, each with a folder of its own",
            )
    return items


def make(
    items: Sequence[Item],
    to: Path,
    work: Callable[[Facts], tuple[Work, str]],
    identity: Mapping[str, Any],
    *,
    force: bool,
    progress: Progress,
) -> list[Made]:
    """Let `work` (chosen by what a file is, with its sentence of what is done) make a file of each item.

    `to` is a folder, or the file of the only item if it ends in .wav or .flac. `identity` (JSON) is what, beside the
    recording, decides what is made. Faults of a recording become failed results; others (a full disk) are raised.
    """
    single = to.suffix.lower() in SUFFIXES and not to.is_dir()
    record = Record(None if single else to, identity)
    inputs = {_file_id(item.path) for item in items}
    sizes = [item.path.stat().st_size if item.path.is_file() else 0 for item in items]
    made: list[Made] = []
    before = 0
    for item, size in zip(items, sizes, strict=True):
        target = to if single else to / item.name
        tell = functools.partial(_tell, progress, before, size, sum(sizes))
        try:
            made.append(_one(item, target, single, work, record, inputs, force, tell))
        except PartimentoError as err:
            if err.code.startswith("SYS") and err.code != "SYS004":
                raise
            progress.note(f"{item.path}: {err.code}: {err.message}" + (f" ({err.why})" if err.why else ""))
            made.append(Made(str(item.path), "failed", error=err.to_json()))
        before += size
        progress.update(before, sum(sizes), files=len(made))
    return made


def _tell(progress: Progress, before: int, size: int, total: int, share: float) -> None:
    progress.update(before + share * size, total)


def failure(made: Sequence[Made]) -> PartimentoError | None:
    """The one error of all failed files: theirs, where they are one, else RESTORE006."""
    failed = [one.error for one in made if one.error is not None]
    if len(failed) == 1:
        told = dict(failed[0])
        context = told.pop("context")
        return PartimentoError(told.pop("code"), told.pop("message"), **told, **context)
    if not failed:
        return None
    return PartimentoError(
        "RESTORE006",
        f"{len(failed)} of {len(made)} files could not be done",
        where=", ".join(one.input for one in made if one.error)[:500],
        why=", ".join(sorted({str(error["code"]) for error in failed})),
        next="look at what is told of each; the others are done",
    )


def _one(
    item: Item,
    target: Path,
    single: bool,
    work: Callable[[Facts], tuple[Work, str]],
    record: Record,
    inputs: set[tuple[int, int]],
    force: bool,
    tell: Callable[[float], None],
) -> Made:
    try:
        sha256 = commit.sha256(item.path)
    except OSError as err:
        raise PartimentoError("SYS004", f"{item.path} cannot be read", why=err.strerror, next="check the path") from err
    if not force and (there := record.there(item.name.as_posix(), sha256)):
        return replace(there, input=str(item.path))
    began = time.monotonic()
    with child.shared().stream(item.path) as (facts, parts):
        path, bits = _held_as(target, facts, single)
        if path.exists():
            if _file_id(path) in inputs:
                raise _own_input(item.path, path)
            if not force or path in record.written:
                raise _in_the_way(path, record.knows(path))
        doing, done = work(facts)
        samples = 0

        def blocks() -> Iterator[WaveCN]:
            nonlocal samples
            for part_NC in parts:
                samples += len(part_NC)
                tell(min(1.0, samples / facts.frames) if facts.frames else 0.0)
                yield part_NC.T

        if path.parent.is_dir():
            commit.sweep(path.parent)  # what a killed process left
        tags = facts.tags if path.suffix.lower() == ".flac" else None
        clipped = stream.write(path, doing(blocks(), facts.sample_rate), facts.sample_rate, bits, tags)
    seconds = max(time.monotonic() - began, 1e-9)
    made = Made(
        input=str(item.path),
        state="made",
        file=str(path),
        input_sha256=sha256,
        sample_rate=facts.sample_rate,
        channels=facts.channels,
        samples=samples,
        bits=bits,
        clipped=clipped,
        done=done,
        x_real_time=round(samples / facts.sample_rate / seconds, 2),
    )
    record.add(item.name.as_posix(), made)
    return made


def _held_as(target: Path, facts: Facts, single: bool) -> tuple[Path, str]:
    """Where the samples are written, and as what: as the input held them, where the output's format can."""
    floats = facts.subtype in _FLOAT
    suffix = target.suffix.lower()
    if not single:
        fits = suffix == ".wav" or (suffix == ".flac" and not floats and facts.channels <= _FLAC_CHANNELS)
        if not fits:
            suffix = ".wav" if floats or facts.channels > _FLAC_CHANNELS else ".flac"
            target = target.with_name(target.name + suffix)
    if suffix == ".wav":
        bits = "FLOAT" if floats else "PCM_16" if facts.subtype in _NARROW else _WIDE.get(facts.subtype, "PCM_24")
    else:
        bits = "PCM_16" if facts.subtype in _NARROW else "PCM_24"  # what was coded with loss has no bits: 24 lose none
    return target, bits


def _file_id(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _absolute(path: Path) -> Path:
    """Symbolic links stay: each is a name of its own."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _own_input(path: Path, to: Path) -> PartimentoError:
    return PartimentoError(
        "RESTORE003",
        f"{to} would replace a recording that was given",
        where=str(path),
        next="choose another folder with --to",
    )


def _in_the_way(path: Path, known: bool) -> PartimentoError:
    return PartimentoError(
        "RESTORE004",
        f"{path} is there already",
        where=str(path),
        why="it was made of another recording or by other means" if known else "nothing tells what it was made of",
        next="choose another folder with --to, or replace it: --force",
    )
