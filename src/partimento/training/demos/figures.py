"""The figures of demos: of one item, of many together, and of the data's own held-out windows as the yardstick.

An item has, for each codebook, the entropy of its codes, the share of all codes that it uses, the share of its n-grams
that return, and the entropy of the model where it drew; and the share of its sound that is silent. A figure that is
undefined is None.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import commit, keyed
from partimento.audio.levels import silent_share
from partimento.codecs.codec import Codec, decode_whole
from partimento.sampling import probe
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec

WINDOWS = 8
BY_BOOK = ("entropy_K", "coverage_K", "repetition_K", "model_entropy_K")


def of_codes(codes_TK: NDArray[np.integer], spec: CodecSpec) -> dict[str, Any]:
    """Lists of K numbers; see `sampling.probe`."""
    found = probe.probe(codes_TK, spec.cardinality)
    named = {"entropy_K": found.entropy_K, "coverage_K": found.coverage_K, "repetition_K": found.repetition_K}
    return {name: numbers(values) for name, values in named.items()}


def of_sound(wave_CN: NDArray[np.float32], sample_rate: int) -> dict[str, Any]:
    """Silence, or None where there is no sound that could be silent."""
    measurable = wave_CN.shape[-1] > 0 and bool(np.isfinite(wave_CN).all())
    return {"silence": silent_share(wave_CN, sample_rate) if measurable else None}


def together(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the items: of each codebook, and over the codebooks under the same name without `_K`. What no item has
    a value of is None."""
    row: dict[str, Any] = {"items": len(items), "silence": mean(item.get("silence") for item in items)}
    for name in BY_BOOK:
        lists = [item[name] for item in items if item.get(name)]
        values_K = [mean(column) for column in zip(*lists, strict=True)]
        if values_K:
            row |= {name: values_K, name.removesuffix("_K"): mean(values_K)}
    return row


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def numbers(values: Iterable[float]) -> list[float | None]:
    """JSON has no NaN: what nothing was measured on is null."""
    return [value if math.isfinite(value) else None for value in values]


class Yardstick:
    """The same figures of held-out windows as long as the demos, which no playing can be expected to pass by much.

    The windows are a function of the pack, so the figures are worked out once and kept beside the demos.
    """

    def __init__(self, pack: Pack, codec: Codec, held_out: NDArray[np.integer], frames: int) -> None:
        self.pack, self.codec = pack, codec
        self.held_out, self.frames = held_out, frames

    def figures(self, path: Path) -> dict[str, Any] | None:
        """Those kept at `path` where they are of these windows, else worked out and put there. None where every
        held-out clip is damaged."""
        windows = self._windows()
        if not windows:
            return None
        of = {"fingerprint": self.pack.fingerprint, "windows": [list(window) for window in windows]}
        kept = _read(path)
        if kept is not None and kept.get("of") == of and isinstance(kept.get("figures"), dict):
            found: dict[str, Any] = kept["figures"]
            return found
        row = together([self._measured(*window) for window in windows])
        row["frames"] = sum(frames for _, _, frames in windows) / len(windows)
        commit.record(path, {"of": of, "figures": row})
        return row

    def _windows(self) -> list[tuple[int, int, int]]:
        """(clip, first frame, frames): of so many of the clips that are long enough, or of the longest one whole."""
        clips = self.held_out[self.pack.ensure(self.held_out)]
        if not len(clips):
            return []
        lengths = self.pack.clips.frames[clips]
        if lengths.max() < self.frames:
            return [(int(clips[lengths.argmax()]), 0, int(lengths.max()))]
        long_enough = lengths >= self.frames
        places = list(zip(clips[long_enough].tolist(), lengths[long_enough].tolist(), strict=True))
        places.sort(key=lambda place: keyed.key("demo window", place[0]))
        return [
            (clip, keyed.below(length - self.frames + 1, "demo window start", clip), self.frames)
            for clip, length in places[:WINDOWS]
        ]

    def _measured(self, clip: int, first: int, frames: int) -> dict[str, Any]:
        codes_TK = self.pack.read(clip, first, first + frames)
        wave_CN = decode_whole(self.codec, codes_TK)
        return of_codes(codes_TK, self.pack.spec) | of_sound(wave_CN, self.pack.spec.sample_rate)


def _read(path: Path) -> dict[str, Any] | None:
    """What is kept, or None where it cannot be used: it is worked out again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
