"""How windows of codes are read without us: one .npy file a clip, and the `datasets` library. Written to be fast.

Each gives a function that makes one batch: the clips and crops are drawn by numpy, as a sampler does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.arrow_writer import ArrowWriter

from partimento.tokens.pack import Pack

Loader = Callable[[int], np.ndarray]


def write_npy(pack: Pack, folder: Path) -> list[str]:
    folder.mkdir()
    paths = [str(folder / f"{clip:06d}.npy") for clip in range(len(pack.clips))]
    for clip, path in enumerate(paths):
        np.save(path, pack.read(clip))
    return paths


def npy_windows(paths: list[str], window: int, batch: int, mode: Any) -> Loader:
    """As a torch DataLoader without workers runs it: __getitem__ for each index of the batch, then collate."""
    rng = np.random.default_rng(0)

    def item(clip: int) -> np.ndarray:
        codes_TK = np.load(paths[clip], mmap_mode=mode)
        start = rng.integers(len(codes_TK) - window + 1)
        return codes_TK[start : start + window]

    return lambda _: np.stack([item(clip) for clip in rng.integers(len(paths), size=batch).tolist()])


def npy_grids(paths: list[str], window: int, batch: int, books: int) -> Loader:
    """The same, with the frames before that the delays need, laid out for the whole batch at once."""
    frames = npy_windows(paths, window + books, batch, "r")

    def grids(number: int) -> np.ndarray:
        frames_BNK = frames(number)
        grid_BSK = np.empty((batch, window + 1, books), dtype=np.int16)
        for book in range(books):
            grid_BSK[:, :, book] = frames_BNK[:, books - 1 - book : books + window - book, book]
        return grid_BSK

    return grids


def write_arrow(folder: Path, rows: Iterator[np.ndarray]) -> datasets.Dataset:
    """A memory-mapped dataset whose rows [T, K] are kept flat: nested lists are read some hundred times slower."""
    datasets.disable_progress_bars()
    folder.mkdir()
    features = datasets.Features({"codes": datasets.List(datasets.Value("uint16"))})
    with ArrowWriter(path=str(folder / "data.arrow"), features=features) as writer:
        held: list[np.ndarray] = []

        def flush() -> None:
            ends = np.cumsum([0, *(row.size for row in held)]).astype(np.int32)
            values = pa.array(np.concatenate([row.reshape(-1) for row in held]))
            writer.write_table(pa.table({"codes": pa.ListArray.from_arrays(ends, values)}))
            held.clear()

        for row in rows:
            held.append(row)
            if len(held) == 1000:
                flush()
        if held:
            flush()
        writer.finalize()
    return datasets.Dataset.from_file(str(folder / "data.arrow"))


def dataset_windows(dataset: datasets.Dataset, window: int, batch: int, books: int, how: str) -> Loader:
    """`how`: "rows" reads row by row in numpy format; "batch" all rows of a batch in one call; "arrow" the same without
    a copy, each crop made by hand from Arrow's memory; "cut" where the rows are windows already."""
    rng = np.random.default_rng(0)
    numbers, tables = dataset.with_format("numpy", dtype=np.uint16), dataset.with_format("arrow")

    def crop(flat: np.ndarray) -> np.ndarray:
        codes_TK = flat.reshape(-1, books)
        start = rng.integers(len(codes_TK) - window + 1)
        return codes_TK[start : start + window]

    def load(_: int) -> np.ndarray:
        chosen = rng.integers(len(dataset), size=batch).tolist()
        if how == "rows":
            return np.stack([crop(numbers[row]["codes"]) for row in chosen])
        if how == "batch":
            return np.stack([crop(flat) for flat in numbers[chosen]["codes"]])
        if how == "cut":
            return np.asarray(numbers[chosen]["codes"]).reshape(batch, window, books)
        chunks = tables[chosen]["codes"].chunks
        singles = (chunk.slice(place, 1) for chunk in chunks for place in range(len(chunk)))
        return np.stack([crop(single.flatten().to_numpy()) for single in singles])

    return load
