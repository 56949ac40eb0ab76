"""The readers of torch files and Parquet in a process of their own: both are large libraries, met by foreign bytes.

One child serves one import. A request is a line of JSON; an answer is any number of records (a message of facts and,
where these have a shape, a message of codes), and an end, or an error. The child has bounded memory, and is ended when
it gives nothing for a while; a file that crashes it costs itself only, and the next one gets another child.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.audio.declared import Fault
from partimento.audio.foreign import take
from partimento.errors import PartimentoError
from partimento.tokens.convert import bounds

STALL_SECONDS = 60.0
_HEAD = struct.Struct("<cQ")  # kind: F facts, C codes, E end, X error; then the length of the body
_LONGEST = 1 << 30
CODES = np.dtype("<u2")

Record = tuple[dict[str, Any], NDArray[np.uint16] | None]


class Reader:
    """A child process that reads one file after the other. Use as a context manager."""

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, command: Sequence[str] | None = None) -> None:
        self._stall = stall_seconds
        self._command = list(command or (sys.executable, "-m", "partimento.tokens.convert.child"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def records(self, kind: str, path: Path) -> Iterator[Record]:
        """The records of a file of the kind "pt" or "rows": facts, and codes uint16 [T, K] where there are some.

        Raises CONVERT003 (what the file is not) and CONVERT008 (the child died, hung, or used too much
        memory), after what came before.
        """
        process = self._ready()
        finished = False
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # a dead child is reported by what follows
                process.stdin.write(json.dumps({"kind": kind, "path": os.fsdecode(path.absolute())}).encode() + b"\n")
                process.stdin.flush()
            while True:
                what, body = self._message(process, b"FE")
                if what == b"E":
                    break
                facts = json.loads(body)
                shape = facts.pop("shape", None)
                yield facts, None if shape is None else self._codes(process, shape)
            finished = True
        except _Refused as refused:
            finished = True
            raise refused.error from None
        except Fault as fault:
            raise _died(fault.why or fault.message, path) from None
        finally:
            if not finished:  # the rest of the answer is still in the pipe, or the child is gone
                self._stop()

    def _codes(self, process: subprocess.Popen[bytes], shape: Sequence[int]) -> NDArray[np.uint16]:
        _, body = self._message(process, b"C")
        frames, books = shape
        if frames < 0 or books < 1 or frames * books * CODES.itemsize != len(body):
            raise Fault("CONVERT008", "", why="its answer makes no sense")
        return np.frombuffer(body, CODES).reshape(frames, books)

    def _message(self, process: subprocess.Popen[bytes], wanted: bytes) -> tuple[bytes, bytearray]:
        """The next message. The child is not trusted: kinds and lengths are checked."""
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        head = take(pipe, _HEAD.size, self._stall)
        if len(head) == _HEAD.size:
            kind, length = _HEAD.unpack(head)
            if length > _LONGEST or kind not in b"X" + wanted:
                raise Fault("CONVERT008", "", why="its answer makes no sense")
            body = take(pipe, length, self._stall)
            if len(body) == length:
                if kind == b"X":
                    said = json.loads(body)
                    raise _Refused(PartimentoError(said["code"], said["message"], where=said["where"], why=said["why"]))
                return kind, body
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._stall)  # it closed its end: it is dead or dying
        raise Fault("CONVERT008", "", why=_manner(process.returncode))

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **threads}
            )
        return self._process

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process = None


class _Refused(Exception):
    """The child ended its answer in good order, with an error."""

    def __init__(self, error: PartimentoError) -> None:
        self.error = error


def _died(why: str, path: Path) -> PartimentoError:
    return PartimentoError(
        "CONVERT008",
        "reading this file crashed, hung or used up its memory",
        where=str(path),
        why=why,
        next="leave this file out, or write it again with another program",
    )


def _manner(status: int | None) -> str:
    if status is not None and status < 0 and -status in signal.valid_signals():
        return f"its process ended by {signal.Signals(-status).name}"
    return "its process ended" if status is None else f"its process ended with status {status}"


def main() -> None:
    """Serve requests on standard input until it closes."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not fall into the answers
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the caller is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    warnings.simplefilter("ignore")  # what a library finds odd in a file that it reads is not for the user to mend
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    readers: dict[str, Any] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["kind"] not in readers:
            readers[request["kind"]] = _reader(request["kind"])
            bounds.limit()
        try:
            for facts, codes_TK in readers[request["kind"]](Path(request["path"])):
                if codes_TK is not None:
                    facts = {**facts, "shape": list(codes_TK.shape)}
                _send(answers, b"F", json.dumps(facts).encode())
                if codes_TK is not None:
                    _send(answers, b"C", np.ascontiguousarray(codes_TK, CODES).tobytes())
            _send(answers, b"E", b"")
        except PartimentoError as err:
            _send(answers, b"X", json.dumps(err.to_json()).encode())


def _reader(kind: str) -> Any:
    """Imported when first asked for, since torch alone takes seconds."""
    if kind == "pt":
        from partimento.tokens.convert.inside_torch import records as of_torch

        return of_torch
    from partimento.tokens.convert.inside_parquet import records as of_parquet

    return of_parquet


def _send(answers: Any, kind: bytes, body: bytes) -> None:
    view = memoryview(_HEAD.pack(kind, len(body)) + body)
    while view:
        view = view[answers.write(view) :]


if __name__ == "__main__":
    main()
