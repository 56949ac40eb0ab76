"""A worker process of encode: units of recordings in, shards and journal records out.

It owns one codec on one device; decoding goes on ahead of it in child processes (hear.py). It reports over a pipe, in
tuples: ("ready",), ("coding", index), ("clip", index, seconds of audio, reject code or None), ("unit",) and ("error",
PartimentoError). Its parent reads from these where it was when it crashed or hung.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import partimento
from partimento import commit
from partimento.audio import files
from partimento.codecs import journal
from partimento.codecs.codec import Codec, encode_stream, encode_whole, open_codec
from partimento.codecs.hear import Ahead, Heard
from partimento.codecs.inputs import Input, Unit
from partimento.codecs.journal import Record
from partimento.errors import PartimentoError
from partimento.tokens import shards
from partimento.tokens.clips import ClipRow
from partimento.tokens.writer import shard_file

Reject = tuple[str, str]  # code, reason
Report = Callable[..., None]
_WORTH_ANOTHER_TRY = ("AUDIO009", "PACK031")  # a dead or stuck decoder, a file that changed


@dataclass(frozen=True)
class Setup:
    """What all workers of an encode have in common, and (device, readers) what each has of its own."""

    codec: str
    layout: str = "mono"
    books: tuple[int, ...] | None = None
    upmix: bool = False
    device: str = "cpu"
    readers: int = 1

    def open(self) -> Codec:
        return open_codec(self.codec, self.device, layout=self.layout, books=self.books)

    def versions(self) -> dict[str, str]:
        """Of everything that turns a file into samples and samples into codes: others may give other codes."""
        return {
            "partimento": partimento.__version__,
            "decoder": files.DECODER,
            "resampler": files.RESAMPLER,
            "torch": torch.__version__,
            "device": self.device.partition(":")[0],
        }


@dataclass(frozen=True)
class Task:
    """A unit for a worker, with the files (by index) that are known to end the process."""

    unit: Unit
    skip: dict[int, Reject]


def devices(wanted: str = "auto") -> list[str]:
    """The devices that `--device` means: all GPUs, else the Mac's, else the CPU. Raises CODEC010 for other names."""
    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if wanted == "auto":
        return ["mps" if torch.backends.mps.is_available() else "cpu"]
    if wanted.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise PartimentoError("CODEC010", f"there is no device {wanted!r}", next="use auto, cpu, cuda or mps")
    return [wanted]


def is_here(device: str) -> bool:
    """Whether this machine has that device."""
    kind = device.partition(":")[0]
    return kind == "cpu" or (torch.cuda.is_available() if kind == "cuda" else torch.backends.mps.is_available())


def main(pipe: Connection, setup: Setup, pack: Path) -> None:
    """Entry of the process. Ends when it is told None, or when its parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        worker = Worker(setup, pack, lambda *message: pipe.send(message))
        pipe.send(("ready",))
        while (task := pipe.recv()) is not None:
            journal.write(pack, worker.encode_unit(task))
            pipe.send(("unit",))
    except PartimentoError as err:
        pipe.send(("error", err))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)


class Worker:
    """A codec, open and tried, and its readers."""

    def __init__(self, setup: Setup, pack: Path, report: Report) -> None:
        self.setup, self.pack, self.report = setup, pack, report
        self.codec = setup.open()
        self.spec = self.codec.spec
        # A codec that cannot encode at all must show before it is blamed on the recordings.
        encode_whole(self.codec, np.zeros((self.spec.channels, self.spec.sample_rate // 10 + 1), dtype=np.float32))
        self._ahead = Ahead(self.spec, setup.upmix, setup.readers)

    def encode_unit(self, task: Task) -> Record:
        """Make the shard of a unit. What cannot be used becomes a reject; a full disk ends the work (SYS002)."""
        unit = task.unit
        codes: list[NDArray[np.uint16]] = []
        record = Record(unit.id, unit.number, self.setup.versions(), None, [], [], {}, [], 0, 0, 0)
        heard: list[Heard] = []
        frames = 0
        chosen = [i for i, file in enumerate(unit.files) if i not in task.skip and not file.refused]
        channels = dict(zip(chosen, self._ahead.open([unit.files[i] for i in chosen]), strict=True))
        for index, file in enumerate(unit.files):
            try:
                if index not in channels:
                    raise PartimentoError(*(task.skip.get(index) or file.refused or ()))
                self.report("coding", index)
                codes_TK, was = self._code(index, file, channels[index])
            except PartimentoError as err:
                self._reject(record, file, err)
                self.report("clip", index, 0.0, err.code)
                continue
            finally:
                if index in channels:
                    channels[index].close()
            codes.append(codes_TK)
            record.clips.append(_row(file, was, unit.number, frames, len(codes_TK)))
            heard.append(was)
            frames += len(codes_TK)
            self.report("clip", index, was.samples / self.spec.sample_rate, None)
        shard = shards.write(self.pack, shard_file(unit.number), codes, self.spec.cardinalities) if codes else None
        return replace(
            record,
            shard=shard,
            decoders=sorted({was.decoder for was in heard}),
            downmixed=sum(was.done == "downmixed" for was in heard),
            upmixed=sum(was.done == "upmixed" for was in heard),
            resampled=sum(was.sample_rate != self.spec.sample_rate for was in heard),
        )

    def _code(
        self, index: int, file: Input, channel: Iterable[NDArray[np.float32]]
    ) -> tuple[NDArray[np.uint16], Heard]:
        """Codes [T, K] of one recording. A decoder that died or hung gets another try."""
        try:
            return self._coded(index, file, channel)
        except PartimentoError as err:
            if err.code not in _WORTH_ANOTHER_TRY:
                raise
        return self._coded(index, file, self._ahead.again(file))

    def _coded(self, index: int, file: Input, blocks: Any) -> tuple[NDArray[np.uint16], Heard]:
        parts = []
        for codes_TK in encode_stream(self.codec, blocks):
            shards.check_range(codes_TK, self.spec.cardinalities, where=file.clip)
            parts.append(codes_TK.astype(np.uint16))
            self.report("coding", index)
        heard: Heard = blocks.heard
        return np.concatenate(parts), heard

    def _reject(self, record: Record, file: Input, err: PartimentoError) -> None:
        # The journal's words must not depend on where the recordings lie.
        reason = f"{err.message}: {err.why}" if err.why else err.message
        reason = reason.replace(str(file.path), file.clip).replace(str(file.path.parent) + os.sep, "")
        record.rejects.append({"file": file.clip, "code": err.code, "reason": reason})
        with contextlib.suppress(OSError):
            record.hashes[file.clip] = commit.sha256(file.path)


def _row(file: Input, heard: Heard, shard: int, first_frame: int, frames: int) -> ClipRow:
    return ClipRow(
        clip=file.clip,
        source=file.source,
        shard=shard,
        first_frame=first_frame,
        frames=frames,
        samples=heard.samples,
        sha256=heard.sha256,
        loudness=None if heard.loudness is None else round(heard.loudness, 3),
        peak=round(heard.peak, 3),
        tags=file.tags,
        caption=file.caption,
        licence=file.licence,
        origin=file.origin,
    )
