"""Items of torch files, one tensor [T, 9 | 18] each, with metadata.json {file: {text, sr, channels, length}}.

The columns are DAC's nine books at 44.1 kHz; of 18, the left channel's come first. `length` is in frames, or in samples
where it can only be that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partimento.errors import PartimentoError
from partimento.tokens.convert.child import Reader
from partimento.tokens.convert.item import Facts, Item, Labels, Reject, dac_facts, unfit
from partimento.tokens.convert.labels import Beside


def items(root: Path, files: Sequence[Path]) -> Iterator[Item | Reject]:
    """One item a file, in the order of `files`, which lie below `root`. Raises PACK013 (labels)."""
    beside = Beside(root)
    with Reader() as reader:
        for path in files:
            name = path.relative_to(root).as_posix()
            labels = beside.of(path)
            try:
                found = [codes_TK for _, codes_TK in reader.records("pt", path) if codes_TK is not None]
                if len(found) != 1:
                    raise unfit(f"it holds {len(found)} tensors", where=name)
                codes_TK = found[0]
                facts = dac_facts(codes_TK.shape[1], _rate(labels, name))
                labels, notes = _length(labels, codes_TK, facts)
            except PartimentoError as err:
                yield Reject.of(name, err)
                continue
            clip = labels.clip or path.relative_to(root).with_suffix("").as_posix()
            yield Item(clip, name, codes_TK, facts, labels, notes + left_is_right(codes_TK))


def left_is_right(codes_TK: NDArray[np.uint16]) -> tuple[str, ...]:
    """A note where one channel was coded twice."""
    if codes_TK.shape[1] == 18 and len(codes_TK) and np.array_equal(codes_TK[:, :9], codes_TK[:, 9:]):
        return ("left and right are the same codes: a mono recording, coded twice",)
    return ()


def _rate(labels: Labels, name: str) -> int | None:
    rate = labels.entry.get("sr")
    if rate is None:
        return None
    if type(rate) not in (int, float) or not 1 <= rate <= 10**6 or rate != int(rate):
        raise unfit(f"metadata.json says a sample rate of {rate!r}", where=name)
    return int(rate)


def _length(labels: Labels, codes_TK: NDArray[np.uint16], facts: Facts) -> tuple[Labels, tuple[str, ...]]:
    length, frames = labels.entry.get("length"), len(codes_TK)
    if length is None or length == frames or labels.samples is not None:
        return labels, ()
    if type(length) is int and facts.sample_rate and facts.frame_rate:
        hop = facts.sample_rate / facts.frame_rate
        if (frames - 1) * hop < length <= frames * hop:
            return replace(labels, samples=length), ()
    return labels, ("metadata.json has a length that is neither the file's frames nor its samples",)
