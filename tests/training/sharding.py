"""One rank of the tests of sharded checkpoints: `python sharding.py ACTION RANK WORLD FOLDER`."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.training import sharded


def model(seed: int) -> nn.Module:
    """Sizes that 2 and 4 do not divide, one smaller than the number of ranks, and vectors."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.LayerNorm(3), nn.Linear(3, 1))


def whole_parts(seed: int) -> dict[str, dict[str, Tensor]]:
    """Parts as one process has them; every number differs."""
    named = {name: tensor.detach() for name, tensor in model(seed).state_dict().items()}
    moments = {f"{name}.exp_avg": tensor * 3 for name, tensor in named.items()}
    counts = {"step": torch.tensor(7.0), "seen": torch.tensor([4, 5]), "flag": torch.tensor(True)}
    return {"model": named, "optimizer": moments, "guard": counts}


def sharded_parts(seed: int, world: int) -> dict[str, dict[str, Tensor]]:
    """The same over all ranks: DTensors for weights and moments, plain tensors else."""
    module = model(seed)
    fully_shard(module, mesh=init_device_mesh("cpu", (world,)))
    named: dict[str, Any] = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    moments = {f"{name}.exp_avg": tensor * 3 for name, tensor in named.items()}
    return {"model": named, "optimizer": moments, "guard": whole_parts(seed)["guard"]}


def same(found: dict[str, dict[str, Any]], seed: int) -> bool:
    want = whole_parts(seed)
    whole = {
        part: {name: t.full_tensor() if hasattr(t, "full_tensor") else t for name, t in tensors.items()}
        for part, tensors in found.items()
    }
    return whole.keys() == want.keys() and all(
        whole[part].keys() == want[part].keys()
        and all(torch.equal(whole[part][name], want[part][name]) for name in want[part])
        for part in want
    )


def write(rank: int, world: int, folder: Path) -> None:
    """A sharded checkpoint; one of a whole checkpoint is read; a full disk on one rank; moments of the wrong dtype."""
    parts = sharded_parts(1, world)
    path = sharded.save(folder, 10, parts, {"family": "toy", "score": 1.5})
    assert sharded.save(folder, 10, parts, {"family": "toy"}) == path, "a step that is there is left as it is"

    into = sharded_parts(2, world)
    sharded.load(path, into)
    assert same(into, 1), "sharded, read by those who wrote it"
    into = sharded_parts(3, world)
    state = sharded.load(folder / checkpoint.step_name(5), into)
    assert same(into, 1) and state["step"] == 5, "whole, read by two"

    into["model"]["0.weight"] = into["model"]["0.weight"].bfloat16()
    refused(lambda: sharded.load(path, into), "TRAIN003", "bfloat16 here")
    moment = {"w.exp_avg": torch.zeros(3, dtype=torch.bfloat16)}
    refused(lambda: sharded.save(folder, 20, {"optimizer": moment}, {}), "CKPT012", "bfloat16")

    real = HuggingFaceStorageWriter.write_data

    def full(self: Any, plan: Any, planner: Any) -> Any:
        if rank == 1 and "optimizer" in str(self.path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, plan, planner)

    HuggingFaceStorageWriter.write_data = full  # type: ignore[method-assign]
    refused(lambda: sharded.save(folder, 30, parts, {}), "SYS002", "No space left")

    def elsewhere(self: Any, plan: Any, planner: Any) -> Any:
        done = real(self, plan, planner)
        if rank == 1:  # as on a machine whose disk is its own
            (self.path / "shard-00002-model-00001-of-00001.safetensors").unlink()
        return done

    dist.barrier()
    HuggingFaceStorageWriter.write_data = elsewhere  # type: ignore[method-assign]
    refused(lambda: sharded.save(folder, 35, parts, {}), "CKPT013", "numbers are there")

    def dies(self: Any, plan: Any, planner: Any) -> Any:
        if rank == 1:
            os._exit(9)
        return real(self, plan, planner)

    dist.barrier()
    HuggingFaceStorageWriter.write_data = dies  # type: ignore[method-assign]
    try:
        sharded.save(folder, 40, parts, {})
    except (RuntimeError, PartimentoError):
        os._exit(0)  # without the barrier of an orderly end, which the other would not come to


def read(rank: int, world: int, folder: Path) -> None:
    into = sharded_parts(3, world)
    sharded.load(folder / checkpoint.step_name(10), into)
    assert same(into, 1)
    dist.barrier()  # or the first to leave would cut off the last messages of the others
    dist.destroy_process_group()


def refused(work: Any, code: str, why: str) -> None:
    try:
        work()
    except PartimentoError as err:
        assert err.code == code and why in str(err), str(err)
        return
    raise AssertionError(f"{code} was not raised")


if __name__ == "__main__":
    action, own, size, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet-{action}-{size}", rank=own, world_size=size)
    {"write": write, "read": read}[action](own, size, place)
