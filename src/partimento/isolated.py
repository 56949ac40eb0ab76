"""Work on foreign bytes in a process of its own: what crashes a library, hangs it or eats memory costs itself only.

One child serves one caller, request after request, so that Python starts once. It speaks over pipes: a request is a
line of JSON; an answer is messages of the kinds that the two agreed on, and then an end (E) or a coded error (X). The
child is not trusted: kinds and lengths are checked, and it is ended when it gives nothing for a while or is not heard
out.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from partimento.errors import PartimentoError

END, ERROR = b"E", b"X"
_HEAD = struct.Struct("<cQ")  # kind, then the length of the body

Message = Callable[[bytes], tuple[bytes, bytearray]]


class Lost(Exception):
    """The child died, gave nothing in time, or what it said makes no sense; `why` says which."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Child:
    """A process that runs `command` (python -m a module that calls `serve`). Not for two threads at once.

    `longest` bounds the body of a message. The process starts with the first request, and anew after it was lost.
    """

    def __init__(self, command: Sequence[str], *, stall_seconds: float, longest: int) -> None:
        self.command = list(command)
        self.process: subprocess.Popen[bytes] | None = None
        self._stall, self._longest = stall_seconds, longest

    @contextlib.contextmanager
    def ask(self, request: Mapping[str, Any]) -> Iterator[Message]:
        """Yields message(kinds) -> (kind, body) of the next message, one of these kinds.

        Raises the PartimentoError that the child answers with, or Lost. Who leaves before E loses the child.
        """
        process, ended = self._ready(), False

        def message(kinds: bytes) -> tuple[bytes, bytearray]:
            nonlocal ended
            kind, body = self._message(process, kinds + ERROR)
            ended = kind in END + ERROR
            if kind == ERROR:
                raise _error(json.loads(body))
            return kind, body

        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # a dead child is reported by what follows
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            yield message
        finally:
            if not ended:  # the rest of the answer is still in the pipe, or the child is gone
                self.close()

    def close(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process = None

    def _ready(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.close()
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            with unheard_ctrl_c():
                self.process = subprocess.Popen(
                    self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **threads}
                )
        return self.process

    def _message(self, process: subprocess.Popen[bytes], kinds: bytes) -> tuple[bytes, bytearray]:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        head = take(pipe, _HEAD.size, self._stall)
        if len(head) == _HEAD.size:
            kind, length = _HEAD.unpack(head)
            if length > self._longest or kind not in kinds:
                raise Lost("its answer makes no sense")
            body = take(pipe, length, self._stall)
            if len(body) == length:
                return kind, body
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._stall)  # it closed its end: it is dead or dying
        raise Lost(_manner(process.returncode))


@contextlib.contextmanager
def unheard_ctrl_c() -> Iterator[None]:
    """Processes that are started in it never hear Ctrl-C, not even while they import; here it is heard afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take(pipe: int, count: int, stall_seconds: float) -> bytearray:
    """Up to `count` bytes of a pipe, fewer only at its end. Raises Lost when nothing comes for `stall_seconds`."""
    data, done = bytearray(count), 0
    view = memoryview(data)
    poll = select.poll()
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    until = time.monotonic() + stall_seconds
    while done < count:
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise Lost(f"it gave nothing for {stall_seconds:g} s")
        got = os.readv(pipe, [view[done:]])
        if got == 0:
            view.release()
            return data[:done]
        done, until = done + got, time.monotonic() + stall_seconds
    return data


def serve(answer: Callable[[dict[str, Any]], Iterable[tuple[bytes, bytes]]]) -> None:
    """In the child: answer requests on standard input until it closes. `answer(request)` gives (kind, body) messages
    and may raise a PartimentoError."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not fall into the answers
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the caller is gone
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin.buffer:
        try:
            for kind, body in answer(json.loads(line)):
                _send(out, kind, body)
            _send(out, END, b"")
        except PartimentoError as err:
            _send(out, ERROR, json.dumps(err.to_json()).encode())


def limit_memory(most: int) -> None:
    """In the child: `most` bytes of address space, where the system can say so."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _send(out: Any, kind: bytes, body: bytes) -> None:
    view = memoryview(_HEAD.pack(kind, len(body)) + body)
    while view:
        view = view[out.write(view) :]


def _end_with_parent(parent: int) -> None:
    """A child that hangs in a library does not see its input close when the caller is killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _error(said: dict[str, Any]) -> PartimentoError:
    context = said.pop("context")
    return PartimentoError(said.pop("code"), said.pop("message"), **said, **context)


def _manner(status: int | None) -> str:
    if status is not None and status < 0 and -status in signal.valid_signals():
        return f"its process ended by {signal.Signals(-status).name}"
    return "its process ended" if status is None else f"its process ended with status {status}"
