"""Named tensors in safetensors files: one file, or one for each device that wrote a share.

`model/shard-00001-model-00001-of-00001.safetensors` holds the slices of one device and, in its own metadata, where they
lie in the whole tensors: the form of torch.distributed.checkpoint's HuggingFaceStorageWriter. There is no index file,
and nothing is pickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from partimento.errors import PartimentoError

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata


Shapes = Mapping[str, Mapping[str, Sequence[int]]]  # {part: {name: shape}}


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """One file. Tensors may live on any device, share storage or be non-contiguous. Raises OSError (the disk)."""
    import safetensors
    import safetensors.torch

    storages: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory (tied weights, slices of one buffer): give each its own.
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        own[name] = tensor
    try:
        safetensors.torch.save_file(own, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as err:
        # It wraps the system's error; unwrap it, so that a full disk is told as one.
        if number := re.search(r"os error (\d+)", str(err)):
            raise OSError(int(number[1]), str(err)) from err
        raise


def read(files: Sequence[Path], shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, Tensor]:
    """All tensors, whole, on the CPU; shares of several devices are put together to these `shapes`, without a process
    group. Raises ValueError if it is no safetensors file, or if slices are missing."""
    import safetensors
    import torch
    from safetensors.torch import load_file

    try:
        if shapes is None:
            (file,) = files
            return load_file(file)
        source = reader(files)
        tensors = {
            name: torch.empty(tensor.size, dtype=tensor.properties.dtype, device="cpu")
            for name, tensor in described(source, shapes).items()
        }
        for file in files:
            with safetensors.safe_open(file, framework="pt") as opened:
                for index, place in source.storage_data.items():
                    if place.relative_path == str(file):
                        at = tuple(slice(a, a + n) for a, n in zip(index.offset, place.shape, strict=True))
                        tensors[index.fqn][at] = opened.get_tensor(index.fqn)
    except safetensors.SafetensorError as err:
        raise ValueError(str(err)) from err
    return tensors


def reader(files: Sequence[Path]) -> HuggingFaceStorageReader:
    """PyTorch's reader over these files, and no others that may lie in their folder."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint.filesystem import FileSystem

    class Listed(FileSystem):
        def ls(self, path: object) -> list[str]:
            return [str(file) for file in files]

    found = HuggingFaceStorageReader(str(files[0].parent))
    found.fs = Listed()
    return found


def described(
    source: HuggingFaceStorageReader, shapes: Mapping[str, Sequence[int]] | None
) -> dict[str, TensorStorageMetadata]:
    """Shapes and dtypes of the whole tensors by name; only headers are read.

    Raises ValueError where slices are missing to the `shapes` of shares: PyTorch takes for the whole what is there.
    """
    metadata = source.read_metadata()
    source.storage_data = metadata.storage_data
    found = cast("dict[str, TensorStorageMetadata]", metadata.state_dict_metadata)
    if shapes is not None and found.keys() != shapes.keys():
        raise ValueError(f"{min(found.keys() ^ shapes.keys())} is missing, or nobody knows it")
    for name, tensor in found.items():
        shape = list(tensor.size if shapes is None else shapes[name])
        there = sum(math.prod(tuple(chunk.sizes)) for chunk in tensor.chunks)
        if list(tensor.size) != shape or there != math.prod(shape):
            raise ValueError(f"of {name}, {shape}, only {there} numbers are there")
    return found


def check_precision(part: str, dtypes: Mapping[str, dtype], where: Path) -> None:
    """Raises CKPT012 if moments of an optimizer are held in less than float32."""
    for name, dtype in dtypes.items() if part.endswith("optimizer") else ():
        if dtype.is_floating_point and dtype.itemsize < 4:
            raise PartimentoError(
                "CKPT012",
                f"{name} is held in {str(dtype).removeprefix('torch.')}",
                where=str(where),
                why="a moment moves by a part in a hundred or a thousand at a step, which is lost in so few digits",
                next="keep the weights and the optimizer in float32; train.precision=bf16 lowers the arithmetic alone",
            )
