"""Recordings as a codec takes them: decoded in child processes, mixed, resampled and measured, block by block, ahead.

Each reader is a thread with a decoding child of its own. What it has ready waits in a bounded queue, so a recording of
any length takes the same memory, and the codec does not wait for the decoder.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from partimento import commit
from partimento.audio import stream
from partimento.audio.child import Decoder
from partimento.audio.loudness import Meter
from partimento.audio.stream import WaveCN
from partimento.codecs.inputs import Input
from partimento.codecs.layout import arrange
from partimento.errors import PartimentoError
from partimento.tokens.spec import CodecSpec

ROOM_SECONDS = 60  # of audio that one reader may be ahead


@dataclass(frozen=True)
class Heard:
    """What a recording was. `samples` at the codec's rate; `done` is "", "downmixed" or "upmixed"."""

    samples: int
    channels: int
    sample_rate: int
    done: str
    decoder: str
    sha256: str
    loudness: float | None
    peak: float


class Hearing:
    """One recording: iterate over its blocks [C, n], once; then `heard` says what it was.

    Raises AUDIO errors, CODEC011 (channels that do not fit the layout), PACK017 (no samples), PACK031 (it was changed
    while it was read).
    """

    def __init__(self, file: Input, spec: CodecSpec, upmix: bool, decoder: Decoder) -> None:
        self._file, self._spec, self._upmix, self._decoder = file, spec, upmix, decoder
        self.heard: Heard | None = None

    def __iter__(self) -> Iterator[WaveCN]:
        path, spec = self._file.path, self._spec
        before = _state(self._file)
        with self._decoder.stream(path) as (facts, parts):
            meter = Meter(facts.channels, facts.sample_rate)
            done = ""

            def arranged() -> Iterator[WaveCN]:
                nonlocal done
                for part_NC in parts:
                    meter.add(part_NC.T)
                    mixed = arrange(part_NC.T, spec.layout, upmix=self._upmix)
                    done = mixed.done
                    yield mixed.wave_CN

            samples = 0
            for block_CN in stream.resample(arranged(), facts.sample_rate, spec.sample_rate):
                samples += block_CN.shape[1]
                yield block_CN
        if samples == 0:
            raise PartimentoError("PACK017", f"{self._file.clip} holds no sample at {spec.sample_rate} Hz")
        sha256 = commit.sha256(path)
        if _state(self._file) != before:
            raise PartimentoError("PACK031", f"{self._file.clip} was changed while it was read")
        self.heard = Heard(
            samples=samples,
            channels=facts.channels,
            sample_rate=facts.sample_rate,
            done=done,
            decoder=facts.decoder,
            sha256=sha256,
            loudness=meter.loudness,
            peak=meter.peak_dbfs,
        )


def _state(file: Input) -> tuple[int, int]:
    try:
        found = file.path.stat()
    except OSError as err:
        raise PartimentoError("SYS004", f"{file.clip} is not there any more", why=err.strerror) from err
    return found.st_size, found.st_mtime_ns


class Ahead:
    """`readers` threads that hear recordings in their order while the codec is still at earlier ones."""

    def __init__(self, spec: CodecSpec, upmix: bool, readers: int) -> None:
        self._spec, self._upmix = spec, upmix
        self._room = ROOM_SECONDS * spec.sample_rate
        self._waiting: queue.SimpleQueue[_Channel] = queue.SimpleQueue()
        self._own = Decoder()
        for _ in range(readers):
            threading.Thread(target=self._read, daemon=True).start()

    def open(self, files: Sequence[Input]) -> list[_Channel]:
        """The recordings, as what is iterated over and then has `heard`; `close` what is not read to its end."""
        channels = [_Channel(file, self._room) for file in files]
        for channel in channels:
            self._waiting.put(channel)
        return channels

    def again(self, file: Input) -> Hearing:
        """A recording heard by a fresh child process, not ahead."""
        self._own.close()
        return Hearing(file, self._spec, self._upmix, self._own)

    def _read(self) -> None:
        decoder = Decoder()
        while True:
            channel = self._waiting.get()
            if channel.closed:
                continue
            hearing = Hearing(channel.file, self._spec, self._upmix, decoder)
            try:
                for block_CN in hearing:
                    if not channel.put(block_CN):
                        break
            except BaseException as err:  # whatever it is, the one who asked for the recording must hear of it
                channel.end(None, err)
            else:
                channel.end(hearing.heard, None)


class _Channel:
    """Blocks of one recording on their way from a reader to the codec."""

    def __init__(self, file: Input, room: int) -> None:
        self.file = file
        self.heard: Heard | None = None
        self._room = room
        self._blocks: deque[WaveCN] = deque()
        self._held = 0
        self._error: BaseException | None = None
        self._ended = self.closed = False
        self._changed = threading.Condition()

    def put(self, block_CN: WaveCN) -> bool:
        """False when nobody wants more."""
        with self._changed:
            self._changed.wait_for(lambda: self._held < self._room or self.closed)
            self._blocks.append(block_CN)
            self._held += block_CN.shape[1]
            self._changed.notify_all()
            return not self.closed

    def end(self, heard: Heard | None, error: BaseException | None) -> None:
        with self._changed:
            self.heard, self._error, self._ended = heard, error, True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._blocks.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[WaveCN]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._blocks) or self._ended)
                if not self._blocks:
                    if self._error is not None:
                        raise self._error
                    return
                block_CN = self._blocks.popleft()
                self._held -= block_CN.shape[1]
                self._changed.notify_all()
            yield block_CN
