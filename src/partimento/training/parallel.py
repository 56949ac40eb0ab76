"""Several processes that train one model: who they are, what they exchange, and how they end together.

Each process (a rank) has one device and draws its share of every global batch. Gradients are reduced by PyTorch: DDP,
where every rank holds all weights, or FSDP2 (`fully_shard`), where it holds its share of weights, gradients, moments
and averages. What hosts tell each other (flags, small JSON) goes through a gloo group of its own, which waits for no
device. Every method that speaks to other ranks must be called by all of them, in the same order.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from partimento.config import Config, Train
from partimento.errors import PartimentoError
from partimento.training import devices
from partimento.training.fsdp import sharded
from partimento.training.ranks import Place, place_here

# How long a rank waits for the others before it takes them for dead. On the host: through one rank's demos and saves.
# On the device: through one step, after a host-side barrier.
HOST_WAIT = datetime.timedelta(minutes=60)
DEVICE_WAIT = datetime.timedelta(minutes=15)


_JOINS = itertools.count()  # the ranks join equally often, so that the number is the same on all of them


class Parallel:
    """One rank among `world`. Alone (`world` 1) there is no process group, and every method does the obvious.

    As a context manager it leaves the group at the end, whatever happened inside: a rank that fails closes its
    connections, so that the others fail within seconds instead of waiting, with TRAIN038 in place of what the
    library says.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        self.rank, self.world, self.local_rank = place.rank, place.world, place.local_rank
        self.device = device
        self.gradient_factor = float(place.world)
        """What gradients are to be multiplied by to be sums over all ranks: DDP and FSDP leave means."""
        self._host: dist.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes, plays and shows progress."""
        return self.rank == 0

    @classmethod
    def join(cls, config: Config) -> Parallel:
        """Find out from the environment of torchrun, `partimento train --nproc` or srun who this process is, and meet
        the others.

        Raises TRAIN030 (half an environment), TRAIN032 (a rank without a device of its own), TRAIN033 (the others do
        not come), TRAIN005.
        """
        place = place_here()
        if place is None or place.world == 1:
            return cls(Place(0, 1, 0, 1, "", 0), devices.pick(config.train.device))
        device = devices.pick(config.train.device, place.local_rank)
        _check_device(device, place)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self = cls(place, device)
        try:
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=dist.PrefixStore(f"partimento/{next(_JOINS)}", _meeting_point(place)),
                rank=place.rank,
                world_size=place.world,
                timeout=DEVICE_WAIT,
                device_id=device if device.type == "cuda" else None,
            )
            self._host = dist.new_group(backend="gloo", timeout=HOST_WAIT)
        except (dist.DistError, RuntimeError) as err:
            raise PartimentoError(
                "TRAIN033",
                f"rank {place.rank} of {place.world} could not meet the others",
                why=str(err).splitlines()[0],
                next="look at the log of the rank that is missing; MASTER_ADDR and MASTER_PORT must be reachable",
            ) from err
        return self

    def __enter__(self) -> Parallel:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, _: TracebackType | None) -> None:
        self.leave(failed=err is not None)
        if isinstance(err, RuntimeError) and self.world > 1 and _from_the_group(err):
            raise PartimentoError(
                "TRAIN038",
                f"rank {self.rank} lost the other ranks",
                why=str(err).splitlines()[0].partition(". ")[0],
                next="look at the error of the rank that failed first, and run the same command again",
            ) from err

    def leave(self, failed: bool = False) -> None:
        """End the process group. After a failure the device's group is dropped, not ended in order: that would wait
        for ranks that may never come."""
        if not dist.is_initialized() or self.world == 1:
            return
        if failed and self.device.type == "cuda":
            dist.destroy_process_group(self._host)
        else:
            dist.destroy_process_group()
        self._host = None

    # -- the model ------------------------------------------------------------------------------------------------

    def wrap(self, objective: nn.Module, module: nn.Module, train: Train) -> nn.Module:
        """What to call instead of `objective`, whose parameters are those of its child `module`.

        With FSDP the parameters of `module` are other objects (DTensors) afterwards: make optimizer and averages then.
        Under bf16 the blocks are gathered and multiplied in bfloat16 (the same rounding of the matrices as autocast
        has) and gradients are reduced in float32.

        Raises TRAIN031 if the ranks were not given the same weights and buffers, TRAIN035 (a scalar to be sharded).
        """
        if self.world == 1:
            return objective
        self.check_equal({**dict(module.named_parameters()), **dict(module.named_buffers())})
        if train.parallel == "fsdp":
            return sharded(objective, module, init_device_mesh(self.device.type, (self.world,)), train.precision)
        # No static_graph: torch's reducer fails where the first backward pass is one of several micro-batches.
        return DistributedDataParallel(
            objective,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            init_sync=False,  # they are equal; making them so would hide that they were not
        )

    def accumulating(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Context of one micro-batch, forward and backward; gradients are complete after the one that is `last`.

        DDP reduces then only. FSDP reduces every micro-batch: to wait, each rank would have to hold all gradients.
        """
        if isinstance(model, DistributedDataParallel) and not last:
            return model.no_sync()
        return contextlib.nullcontext()

    # -- tensors --------------------------------------------------------------------------------------------------

    def sum_(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over the ranks, in place, on its device; no host waits for it."""
        if self.world > 1:
            dist.all_reduce(tensor, group=self._group(tensor))
        return tensor

    @torch.no_grad()
    def gather(self, named: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Whole tensors in the memory of rank 0's host, None elsewhere. One tensor at a time is whole on the devices.

        What is there already (not sharded, on a CPU) is not copied.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in named.items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.main:
                found[name] = whole.detach().cpu()
        return found if self.main else None

    def check_equal(self, named: Mapping[str, Tensor]) -> None:
        """Raises TRAIN031 on all ranks unless these tensors have the same bits on all of them; shards are left out.

        Weights that only should be equal drift apart unseen: each rank goes on learning, from gradients of others.
        """
        if self.world == 1:
            return
        mine = {name: _digest(tensor) for name, tensor in named.items() if not isinstance(tensor, DTensor)}
        theirs: dict[str, str] = self.share(mine)
        names = sorted(theirs.keys() | mine.keys())
        different = [name for name in names if mine.get(name) != theirs.get(name)]
        if (first := self.agree(1 + names.index(different[0]) if different else 0)) > 0:
            raise PartimentoError(
                "TRAIN031",
                f"the ranks do not have the same weights: {names[first - 1] if first <= len(names) else 'their names'}",
                why="they are drawn from one seed, so the ranks run other code, other versions or other data",
                next="give every rank the same installation and configuration",
            )

    # -- hosts ----------------------------------------------------------------------------------------------------

    def agree(self, flag: int) -> int:
        """The largest flag of all ranks, on all of them: how they stop at the same step."""
        if self.world == 1:
            return flag
        value = torch.tensor(flag, dtype=torch.int64)
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._host)
        return int(value)

    def share(self, value: Any) -> Any:
        """Rank 0's `value` (JSON) on all ranks."""
        if self.world == 1:
            return value
        text = json.dumps(value).encode() if self.main else b""
        size = torch.tensor(len(text), dtype=torch.int64)
        dist.broadcast(size, 0, group=self._host)
        sent = torch.tensor(list(text), dtype=torch.uint8) if self.main else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(sent, 0, group=self._host)
        return json.loads(bytes(sent.tolist()))

    def barrier(self) -> None:
        """Wait for all ranks, without a word to the devices."""
        if self.world > 1:
            dist.barrier(group=self._host)

    def _group(self, tensor: Tensor) -> dist.ProcessGroup | None:
        """NCCL carries what is on the device; what is on the host goes the host's way."""
        return self._host if tensor.device.type == "cpu" else None


@functools.cache
def _meeting_point(place: Place) -> dist.Store:
    """Once for the life of the process: a second one at the same address could be taken for the first."""
    here = "env://" if place.address == "" else f"tcp://{place.address}:{place.port}"
    store, _, _ = next(dist.rendezvous(here, place.rank, place.world, timeout=DEVICE_WAIT))
    return store


def _check_device(device: torch.device, place: Place) -> None:
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type in ("cpu", "cuda") and (device.type == "cpu" or place.local_world <= there):
        return
    raise PartimentoError(
        "TRAIN032",
        f"{place.local_world} ranks on a machine with {there} device(s) of type {device.type}",
        why="every rank needs a device of its own; several ranks train on CUDA devices or, for trying things, on a CPU",
        next=f"--nproc {there}, or train.device=cpu",
    )


def _digest(tensor: Tensor) -> str:
    value = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{value.dtype} {list(value.shape)} ".encode())
    digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _from_the_group(err: RuntimeError) -> bool:
    """Whether a collective failed because of another rank (gloo raises plain RuntimeErrors)."""
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
    return isinstance(err, dist.DistError) or any(sign in str(err) for sign in signs)
