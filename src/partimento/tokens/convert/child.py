"""The readers of torch files and Parquet in a process of their own (`isolated`): large libraries met by foreign bytes.

One child serves one import. An answer is any number of records: a message of facts (F) and, where these have a shape, a
message of codes (C). The child has bounded memory; a file that crashes it costs itself only.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import isolated
from partimento.errors import PartimentoError
from partimento.tokens.convert import bounds

STALL_SECONDS = 60.0
CODES = np.dtype("<u2")

Record = tuple[dict[str, Any], NDArray[np.uint16] | None]


class Reader:
    """A child process that reads one file after the other. Use as a context manager."""

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, command: Sequence[str] | None = None) -> None:
        command = command or (sys.executable, "-m", "partimento.tokens.convert.child")
        self.child = isolated.Child(command, stall_seconds=stall_seconds, longest=1 << 30)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.close()

    def records(self, kind: str, path: Path) -> Iterator[Record]:
        """The records of a file of the kind "pt" or "rows": facts, and codes uint16 [T, K] where there are some.

        Raises CONVERT003 (what the file is not) and CONVERT008 (the child died, hung, or used too much
        memory), after what came before.
        """
        try:
            with self.child.ask({"kind": kind, "path": os.fsdecode(path.absolute())}) as message:
                while (got := message(b"FE"))[0] == b"F":
                    facts = json.loads(got[1])
                    shape = facts.pop("shape", None)
                    yield facts, None if shape is None else _codes(message(b"C"), shape)
        except isolated.Lost as lost:
            raise PartimentoError(
                "CONVERT008",
                "reading this file crashed, hung or used up its memory",
                where=str(path),
                why=lost.why,
                next="leave this file out, or write it again with another program",
            ) from None


def _codes(got: tuple[bytes, bytearray], shape: Sequence[int]) -> NDArray[np.uint16]:
    frames, books = shape
    if got[0] != b"C" or frames < 0 or books < 1 or frames * books * CODES.itemsize != len(got[1]):
        raise isolated.Lost("its answer makes no sense")
    return np.frombuffer(got[1], CODES).reshape(frames, books)


_readers: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """In the child."""
    warnings.simplefilter("ignore")  # what a library finds odd in a file that it reads is not for the user to mend
    kind = request["kind"]
    if kind not in _readers:
        _readers[kind] = _reader(kind)
        bounds.limit()
    for facts, codes_TK in _readers[kind](Path(request["path"])):
        if codes_TK is None:
            yield b"F", json.dumps(facts).encode()
        else:
            yield b"F", json.dumps({**facts, "shape": list(codes_TK.shape)}).encode()
            yield b"C", np.ascontiguousarray(codes_TK, CODES).tobytes()


def _reader(kind: str) -> Any:
    """Imported when first asked for, since torch alone takes seconds."""
    if kind == "pt":
        from partimento.tokens.convert.inside_torch import records as of_torch

        return of_torch
    from partimento.tokens.convert.inside_parquet import records as of_parquet

    return of_parquet


if __name__ == "__main__":
    isolated.serve(answer)
