"""A worker process of encode: units of recordings in, shards and journal records out.

It reports over a pipe, in tuples: ("ready",), ("reading", index, bytes), ("coding", index), ("clip", index, seconds),
("unit",) and ("error", PartimentoError). Its parent reads from these where it was when it crashed or hung.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import partimento
from partimento import commit
from partimento.audio import files, loudness
from partimento.codecs import journal
from partimento.codecs.codec import Codec, encode_whole, open_codec
from partimento.codecs.inputs import Input, Unit
from partimento.codecs.journal import Record
from partimento.codecs.layout import arrange
from partimento.errors import PartimentoError
from partimento.tokens import shards
from partimento.tokens.clips import ClipRow
from partimento.tokens.writer import shard_file

Reject = tuple[str, str]  # code, reason
Report = Callable[..., None]


@dataclass(frozen=True)
class Task:
    """A unit for a worker, with the files (by index) that are known to end the process."""

    unit: Unit
    skip: dict[int, Reject]


def load_codec(name: str) -> Codec:
    """`open_codec(name)`, or the codec that module:function gives. Raises CODEC001 and others, PACK020."""
    module, colon, function = name.partition(":")
    if not colon or Path(name).exists():
        return open_codec(name)
    try:
        codec: Codec = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as err:
        raise PartimentoError(
            "PACK020",
            f"the codec {name!r} cannot be opened",
            why=str(err),
            next="name it module:function, where the module can be imported",
        ) from err
    return codec


def versions() -> dict[str, str]:
    """Of everything that turns a file into samples and samples into codes: other versions may give other codes."""
    return {
        "partimento": partimento.__version__,
        "decoder": files.DECODER,
        "resampler": files.RESAMPLER,
        "torch": torch.__version__,
    }


def main(pipe: Connection, codec_name: str, pack: Path) -> None:
    """Entry of the process. Ends when it is told None, or when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        codec = load_codec(codec_name)
        # A codec that cannot encode at all must show before it is blamed on the recordings.
        silence_CN = np.zeros((1, codec.spec.sample_rate // 10 + 1), dtype=np.float32)
        encode_whole(codec, arrange(silence_CN, codec.spec.layout).wave_CN)
        pipe.send(("ready",))
        while (task := pipe.recv()) is not None:
            journal.write(pack, encode_unit(task, codec, pack, lambda *message: pipe.send(message)))
            pipe.send(("unit",))
    except PartimentoError as err:
        pipe.send(("error", err))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)


def encode_unit(task: Task, codec: Codec, pack: Path, report: Report) -> Record:
    """Make the shard of a unit. What cannot be used becomes a reject; a full disk ends the work (SYS002)."""
    codes: list[NDArray[np.integer]] = []
    rows: list[ClipRow] = []
    rejects: list[dict[str, str]] = []
    decoders: set[str] = set()
    frames = downmixed = resampled = 0
    for index, file in enumerate(task.unit.files):
        seconds = 0.0
        try:
            if index in task.skip:
                code, reason = task.skip[index]
                raise PartimentoError(code, reason)
            report("reading", index, file.bytes)
            heard = hear(file, codec)
            report("coding", index)
            codes_TK = encode_whole(codec, heard.wave_CN)
            shards.check_range(codes_TK, codec.spec.cardinalities, where=file.clip)
        except PartimentoError as err:
            # The journal's words must not depend on where the recordings lie.
            reason = f"{err.message}: {err.why}" if err.why else err.message
            reason = reason.replace(str(file.path), file.clip).replace(str(file.path.parent) + os.sep, "")
            rejects.append({"file": file.clip, "code": err.code, "reason": reason})
        else:
            codes.append(codes_TK)
            rows.append(_row(file, heard, task.unit.number, frames, len(codes_TK)))
            frames += len(codes_TK)
            decoders.add(heard.decoder)
            downmixed += heard.channels > heard.wave_CN.shape[0]
            resampled += heard.sample_rate != codec.spec.sample_rate
            seconds = heard.wave_CN.shape[-1] / codec.spec.sample_rate
        report("clip", index, seconds)
    made = shards.write(pack, shard_file(task.unit.number), codes, codec.spec.cardinalities) if codes else None
    return Record(
        task.unit.id, task.unit.number, versions(), made, rows, rejects, sorted(decoders), downmixed, resampled
    )


@dataclass(frozen=True)
class Heard:
    """A recording as the codec takes it (wave_CN at its rate and layout), and what it was."""

    wave_CN: NDArray[np.float32]
    channels: int
    sample_rate: int
    decoder: str
    sha256: str
    loudness: float | None
    peak: float


def hear(file: Input, codec: Codec) -> Heard:
    """Decode, measure, mix to the codec's layout, resample. Raises AUDIO errors, PACK017 (no samples)."""
    audio = files.read(file.path)
    arranged = arrange(audio.wave_CN, codec.spec.layout)
    wave_CN = files.resample(arranged.wave_CN, audio.sample_rate, codec.spec.sample_rate)
    if wave_CN.shape[-1] == 0:
        raise PartimentoError("PACK017", f"{file.clip} holds no sample at {codec.spec.sample_rate} Hz")
    return Heard(
        wave_CN=wave_CN,
        channels=arranged.channels,
        sample_rate=audio.sample_rate,
        decoder=audio.decoder,
        sha256=commit.sha256(file.path),
        loudness=loudness.loudness(audio.wave_CN, audio.sample_rate),
        peak=loudness.peak_dbfs(audio.wave_CN),
    )


def _row(file: Input, heard: Heard, shard: int, first_frame: int, frames: int) -> ClipRow:
    return ClipRow(
        clip=file.clip,
        source=file.source,
        shard=shard,
        first_frame=first_frame,
        frames=frames,
        samples=heard.wave_CN.shape[-1],
        sha256=heard.sha256,
        loudness=None if heard.loudness is None else round(heard.loudness, 3),
        peak=round(heard.peak, 3),
        tags=file.tags,
        caption=file.caption,
        licence=file.licence,
    )
