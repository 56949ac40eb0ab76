"""Checkpoints that every rank writes its share of, and that any number of ranks reads again.

For models that no single device can hold: `checkpoint.save` wants whole tensors in one process. Here the parts are
folders (`model/shard-00001-...safetensors`, a file for each rank), written and read by torch.distributed.checkpoint in
its safetensors form; manifest, hashes and the commit by rename are those of every checkpoint. `checkpoint.load` reads
the result in one process without a process group, so sampling, scoring and export know of no difference.

Saving is synchronous: the collectives of a save in a thread would run between those of the steps.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from partimento import commit
from partimento.errors import PartimentoError
from partimento.runs import checkpoint, migrations, tensorfiles
from partimento.training.optim import misfit

T = TypeVar("T")


def save(
    folder: Path,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    group: dist.ProcessGroup | None = None,
) -> Path:
    """As `checkpoint.save`, called by every rank of `group` with its DTensors; a plain tensor, which all ranks have
    alike, is written by one of them.

    `folder` is one that all ranks see; `state` counts on rank 0 only. Raises SYS002, CKPT012 and CKPT013 (shares are
    missing: the folder is not the same one everywhere), on every rank alike.
    A rank that dies makes the others fail too, and nothing of the checkpoint is visible.
    """
    path = Path(folder) / checkpoint.step_name(step)
    parts = {part: tensors for part, tensors in parts.items() if tensors}  # of an empty part there would be no file
    first = dist.get_rank(group) == 0
    with contextlib.ExitStack() as committing:

        def begin() -> str | None:
            for part, tensors in parts.items():
                tensorfiles.check_precision(part, {name: tensor.dtype for name, tensor in tensors.items()}, path)
            return str(committing.enter_context(commit.folder(path))) if first and not path.exists() else None

        tmp = _gathered(_together(begin, path, group), group)[0]
        if tmp is None:
            return path
        for part, tensors in parts.items():
            _together(partial(_write, Path(tmp) / part, tensors, group), path, group)
        _together(lambda: _seal(Path(tmp), step, parts, state) if first else None, path, group)
        _together(committing.close, path, group)  # on rank 0 that renames
    return path


def load(
    path: Path, into: Mapping[str, Mapping[str, Tensor]], group: dist.ProcessGroup | None = None
) -> dict[str, Any]:
    """Copy the parts of the checkpoint at `path` into the tensors of `into`, and return the checkpoint's state.

    Every rank of `group` calls it with its own DTensors, and there need not be as many ranks as at the save; plain
    tensors work too, also without a process group. The checkpoint may be sharded or whole. It is verified once, on
    rank 0. Raises CKPT001, CKPT011, CKPT012, and TRAIN003 (names, shapes or dtypes differ), on every rank alike.
    """
    path = Path(path)
    into = {part: tensors for part, tensors in into.items() if tensors}
    first = not dist.is_initialized() or dist.get_rank(group) == 0
    _together(lambda: checkpoint.verify(path, tuple(into)) if first else None, path, group)
    read = _together(lambda: checkpoint.load(path, ()), path, group)
    for part, tensors in into.items():
        stored_as = _together(partial(_matched, read, part, tensors), path, group)
        _together(partial(_read, read, part, {stored_as[name]: tensors[name] for name in tensors}, group), path, group)
    return read.state


def _write(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    with _plain_errors():
        writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(dict(tensors), storage_writer=writer, process_group=group)


def _seal(tmp: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    shapes = {part: {name: list(tensor.shape) for name, tensor in tensors.items()} for part, tensors in parts.items()}
    for part in parts:
        files = sorted((tmp / part).glob("*.safetensors"))
        try:
            if not files:
                raise ValueError("not one of its files is there")
            tensorfiles.described(tensorfiles.reader(files), shapes[part])
        except ValueError as err:
            raise PartimentoError(
                "CKPT013",
                f"shares of {part} did not arrive where rank 0 looks for them",
                where=str(tmp.parent),
                why=str(err),
                next="give a folder that all machines share: --runs DIR",
            ) from err
    checkpoint.seal(tmp, step, state, shapes)


def _read(read: checkpoint.Checkpoint, part: str, wanted: dict[str, Any], group: dist.ProcessGroup | None) -> None:
    with _plain_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process alone is meant to read it too
        source = tensorfiles.reader(checkpoint.contents(read.path)[part])
        dcp.load(wanted, storage_reader=source, process_group=group)


def _matched(read: checkpoint.Checkpoint, part: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """{name here: name in the files}. PyTorch's reader casts another dtype without a word, so all is compared first."""
    there = checkpoint.described(read.path, part)
    stored_as = {migrations.renamed(read.state.get("family"), read.schema, name): name for name in there}
    if different := sorted(stored_as.keys() ^ tensors.keys()):
        raise misfit(f"{different[0]} of {part} is only on one side")
    for name, tensor in tensors.items():
        stored = there[stored_as[name]]
        was, now = (list(stored.size), stored.properties.dtype), (list(tensor.shape), tensor.dtype)
        if was != now:
            raise misfit(f"{name} of {part} is {was[0]} {was[1]} there and {now[0]} {now[1]} here")
    return stored_as


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """The error itself of what PyTorch wraps and tells to every rank."""
    try:
        yield
    except CheckpointException as err:
        raise next(iter(err.failures.values()))[0] from None


def _together(work: Callable[[], T], path: Path, group: dist.ProcessGroup | None) -> T:
    """Do `work` on this rank and return its result; if it failed on any, all raise the error of the first such rank,
    so that none waits for one that gave up."""
    error: PartimentoError | None = None
    result: T | None = None
    try:
        with commit.disk_errors(path):
            result = work()
    except PartimentoError as err:
        error = err
    for failed in _gathered(error, group):
        if failed is not None:
            raise failed
    return cast(T, result)


def _gathered(value: T, group: dist.ProcessGroup | None) -> list[T]:
    """That of every rank, in their order."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values
