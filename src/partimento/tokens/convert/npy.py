"""Items of .npy files, [1, K, T], [K, T] or [T, K], with metadata.json {id: {encoded_file, shape, caption, ...}}."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from partimento.errors import PartimentoError
from partimento.tokens.convert.array import as_codes, frame_major, of_npy
from partimento.tokens.convert.item import Item, Reject, encodec_facts, unfit
from partimento.tokens.convert.labels import Beside


def items(root: Path, files: Sequence[Path], books: int | None) -> Iterator[Item | Reject]:
    """One item a file, in the order of `files`, which lie below `root`; `books` is K where it is known.

    Raises PACK013 (labels).
    """
    beside = Beside(root)
    for path in files:
        name = path.relative_to(root).as_posix()
        labels = beside.of(path)
        try:
            array = of_npy(path.read_bytes(), where=name)
            said = labels.entry.get("shape")
            if said is not None and said != list(array.shape):
                raise unfit(f"metadata.json says the shape {said}, and it has {list(array.shape)}", where=name)
            codes_TK = as_codes(frame_major(array, books, where=name), where=name)
        except OSError as err:
            yield Reject(name, "CONVERT003", f"it cannot be read: {err.strerror}")
            continue
        except PartimentoError as err:
            yield Reject.of(name, err)
            continue
        clip = labels.clip or path.relative_to(root).with_suffix("").as_posix()
        yield Item(clip, name, codes_TK, encodec_facts(codes_TK.shape[1]), labels)
