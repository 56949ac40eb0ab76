"""Audio while it is played: one item's codes, and its samples, in chunks with a bounded delay.

The model plays in a thread and hands over what is complete; the codec decodes where the chunks are taken. Playing waits
when it is `_AHEAD` pieces ahead of the listener, and ends when the listener leaves.

The delay of a sample: the pattern's largest delay, the steps between two looks of the player, the codec's context on
both sides and one chunk. A codec without a finite context carries its memory itself.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.codecs.codec import Codec, decode_stream
from partimento.sampling.guidance import UNGUIDED, Guidance
from partimento.sampling.rules import Rules
from partimento.tokens.text import NO_WORDS, Words
from partimento.training.player import Player

CHUNK_SECONDS = 0.25
"""decoded at once; with the resident codec 0.4 s of context beside it"""
_AHEAD = 64


@dataclass(frozen=True)
class Chunk:
    """Samples `first`, first + 1, ... of the whole: wave_CN float32, at the codec's rate."""

    first: int
    wave_CN: NDArray[np.float32]


class _Left(Exception):
    """Nobody listens any more."""


def play_codes(
    player: Player,
    *,
    frames: int,
    words: Words = NO_WORDS,
    seed: int = 0,
    rules: Rules | None = None,
    guidance: Guidance = UNGUIDED,
    prompt_TK: Tensor | None = None,
    **steps: Any,
) -> Generator[NDArray[np.int64]]:
    """Codes [t, K] of one item as they become complete: joined they are what `Player.play` adds to the prompt.

    `frames` counts the prompt; `steps` go to `Player.play` (static, compile, weights), which says what is raised, where
    a piece is first asked for.
    """
    handed: queue.Queue[NDArray[np.int64] | None] = queue.Queue(_AHEAD)
    left = threading.Event()

    def hand(piece: NDArray[np.int64] | None) -> None:
        while not left.is_set():
            try:
                return handed.put(piece, timeout=0.05)
            except queue.Full:
                continue
        raise _Left

    def listener(first: int, codes_BTK: Tensor, ends_B: list[int | None]) -> None:
        kept = codes_BTK.shape[1] if ends_B[0] is None else ends_B[0] - first
        if kept > 0:
            hand(codes_BTK[0, :kept].numpy().copy())

    def play() -> None:
        try:
            player.play(
                frames=frames,
                seeds=[seed],
                words=words,
                rules=rules or Rules(),
                guidance=guidance,
                prompt_BTK=None if prompt_TK is None else prompt_TK[None],
                listener=listener,
                **steps,
            )
        except _Left:
            return
        finally:
            if not left.is_set():
                hand(None)

    with ThreadPoolExecutor(1, "play") as pool:
        playing = pool.submit(play)
        try:
            while (piece := handed.get()) is not None:
                yield piece
            playing.result()
        finally:
            left.set()


def stream(
    player: Player,
    codec: Codec,
    *,
    frames: int,
    words: Words = NO_WORDS,
    seed: int = 0,
    rules: Rules | None = None,
    guidance: Guidance = UNGUIDED,
    prompt_TK: Tensor | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
    **steps: Any,
) -> Generator[Chunk]:
    """The audio of one item while it is played, the prompt first.

    The chunks joined are `decode_stream` of all codes at once with the same `chunk_seconds`, bit for bit; other pieces
    of a codec with a finite context differ by the rounding of its convolutions (the resident codec's on a CPU: by
    nothing). Raises what `play_codes` and `decode_stream` raise.
    """
    pieces = play_codes(
        player, frames=frames, words=words, seed=seed, rules=rules, guidance=guidance, prompt_TK=prompt_TK, **steps
    )
    with closing(pieces):
        first = 0
        heard = _after(prompt_TK, pieces)
        for wave_CN in decode_stream(codec, heard, chunk_seconds=chunk_seconds, batch=1):
            yield Chunk(first, wave_CN)
            first += wave_CN.shape[1]


def _after(prompt_TK: Tensor | None, pieces: Iterator[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    if prompt_TK is not None:
        yield prompt_TK.to(torch.int64).numpy()
    yield from pieces
