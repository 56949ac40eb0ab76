"""The decoder in a process of its own: files come from anywhere, and one that crashes it must cost itself only.

One child serves one calling process for as long as that lives, so that reading thousands of files starts Python once
(encode workers have one each). It speaks over pipes: a request is a line of JSON; an answer is a message of facts,
messages of samples, and an end, or an error. It imports no torch and takes 0.2 s to start.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from partimento.audio.declared import MOST_CHANNELS, Fault, stalled
from partimento.audio.decode import BLOCK, MOST_SECONDS, Block, Facts, stream
from partimento.audio.foreign import STALL_SECONDS, take
from partimento.errors import PartimentoError

MEMORY = 2 << 30  # bytes of address space for the child, beside the file's own
_HEAD = struct.Struct("<cQ")  # kind: F facts, B block, E end, X error; then the length of the body
_LONGEST = BLOCK * MOST_CHANNELS * 4


class Decoder:
    """A child process that decodes one file after the other. Safe to share between threads, which take turns."""

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, command: Sequence[str] | None = None) -> None:
        self._stall = stall_seconds
        self._command = list(command or (sys.executable, "-m", "partimento.audio.child"))
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stream(self, path: Path, max_seconds: float = MOST_SECONDS) -> Iterator[tuple[Facts, Iterator[Block]]]:
        """As decode.stream. Raises AUDIO009 as well, when the child dies or gives nothing for `stall_seconds`."""
        path = Path(path)
        with self._lock:
            process = self._ready()
            finished = False
            try:
                request = {"path": os.fsdecode(path.absolute()), "max_seconds": max_seconds}
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # a dead child is reported by what follows
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.flush()
                facts = Facts(**json.loads(self._message(process, b"F")))

                def blocks() -> Iterator[Block]:
                    nonlocal finished
                    while body := self._message(process, b"BE"):
                        yield np.frombuffer(body, np.float32).reshape(-1, facts.channels)
                    finished = True

                yield facts, blocks()
            except _Refused as refused:
                finished = True
                raise refused.error from None
            except Fault as fault:
                raise fault.at(path) from None
            finally:
                if not finished:  # the rest of the answer is still in the pipe, or the child is gone
                    self._stop()

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **threads}
            )
        return self._process

    def _message(self, process: subprocess.Popen[bytes], wanted: bytes) -> bytearray:
        """The body of the next message. The child is not trusted: kinds and lengths are checked."""
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        head = take(pipe, _HEAD.size, self._stall)
        if len(head) == _HEAD.size:
            kind, length = _HEAD.unpack(head)
            if length > _LONGEST or kind not in b"X" + wanted:
                raise stalled("its answer makes no sense")
            body = take(pipe, length, self._stall)
            if len(body) == length:
                if kind == b"X":
                    raise _Refused(_error(json.loads(body)))
                return body
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._stall)  # it closed its end: it is dead or dying
        raise stalled(_manner(process.returncode))

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


def _error(said: dict[str, Any]) -> PartimentoError:
    context = said.pop("context")
    return PartimentoError(said.pop("code"), said.pop("message"), **said, **context)


def _manner(status: int | None) -> str:
    if status is not None and status < 0 and -status in signal.valid_signals():
        return f"its process ended by {signal.Signals(-status).name}"
    return "its process ended" if status is None else f"its process ended with status {status}"


_shared: tuple[int, Decoder] | None = None


def shared() -> Decoder:
    """The calling process's own decoder; a process that was forked starts another."""
    global _shared
    if _shared is None or _shared[0] != os.getpid():
        _shared = (os.getpid(), Decoder())
        atexit.register(_shared[1].close)
    return _shared[1]


def main() -> None:
    """Serve requests on standard input until it closes."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not fall into the answers
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the caller is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if sys.platform == "linux":  # the container's parser maps the file, which takes no memory but addresses
            most = MEMORY + (Path(request["path"]).stat().st_size if Path(request["path"]).is_file() else 0)
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        try:
            facts, blocks = stream(Path(request["path"]), request["max_seconds"])
            _send(answers, b"F", json.dumps(asdict(facts)).encode())
            for block in blocks:
                _send(answers, b"B", np.ascontiguousarray(block, np.float32).tobytes())
            _send(answers, b"E", b"")
        except PartimentoError as err:
            _send(answers, b"X", json.dumps(err.to_json()).encode())


def _end_with_parent(parent: int) -> None:
    """A child that hangs in a decoder does not see its input close when the caller is killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _send(answers: Any, kind: bytes, body: bytes) -> None:
    view = memoryview(_HEAD.pack(kind, len(body)) + body)
    while view:
        view = view[answers.write(view) :]


if __name__ == "__main__":
    main()
