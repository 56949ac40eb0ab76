"""TensorBoard: one event file below RUN/trackers/tensorboard, written with its own record writer and messages.

`tensorboard --logdir runs` finds it. The writer's own thread is left out: it prints a trace where a disk is full, and
this is a thread already.
"""

from __future__ import annotations

import io
import os
import time as clock
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.runs.trackers.tracker import Facts


class TensorBoard:
    def open(self, facts: Facts) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        facts.folder.mkdir(parents=True, exist_ok=True)
        # The name by which TensorBoard knows its files, without the host's.
        name = f"events.out.tfevents.{clock.time_ns() / 1e9:.6f}.{os.getpid()}.partimento"
        self._file = (facts.folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._last = facts.step
        self._flushed = clock.monotonic()
        self._write(0, clock.time(), file_version="brain.Event:2")
        self._begin_at(facts.step, clock.time())
        if facts.hypothesis:
            self.text(facts.step, clock.time(), "hypothesis", facts.hypothesis)

    def figures(self, step: int, time: float, figures: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        if step < self._last:  # after a rollback, or in the log of a resumed run
            self._begin_at(step, time)
        self._last = step
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(step, time, summary=Summary(value=values))

    def text(self, step: int, time: float, name: str, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
        value = Summary.Value(tag=f"{name}/text_summary", metadata=plugin, tensor=tensor)
        self._write(step, time, summary=Summary(value=[value]))

    def sound(self, step: int, time: float, name: str, wave_NC: NDArray[np.int16], rate: int) -> None:
        import soundfile
        from tensorboard.compat.proto.summary_pb2 import Summary

        buffer = io.BytesIO()
        soundfile.write(buffer, wave_NC, rate, format="WAV", subtype="PCM_16")
        audio = Summary.Audio(
            sample_rate=rate,
            num_channels=wave_NC.shape[1],
            length_frames=wave_NC.shape[0],
            encoded_audio_string=buffer.getvalue(),
            content_type="audio/wav",
        )
        self._write(step, time, summary=Summary(value=[Summary.Value(tag=name, audio=audio)]))

    def close(self) -> None:
        self._file.close()

    def _begin_at(self, step: int, time: float) -> None:
        """TensorBoard forgets what it was told of this step and later ones."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(step, time, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, time: float, **what: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(step=step, wall_time=time, **what).SerializeToString())
        if clock.monotonic() - self._flushed > 5 or "summary" not in what:
            self._records.flush()
            self._flushed = clock.monotonic()
