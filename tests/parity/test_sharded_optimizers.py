"""AdamW, Muon, AdaGC and the global clip on the shards of FSDP2 (two ranks, gloo) against one process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from test_adagc import LIMIT, SlowLoop, drawn
from test_adagc import run as run_adagc
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from partimento.config import Optim
from partimento.models.layers import FeedForward
from partimento.training import adagc
from partimento.training.optim import Optimizers, clip_global_, total_norm

GOOD, BAD = torch.tensor(False), torch.tensor(True)
# The two differ by the rounding of averaged gradients, which the rounds of Muon magnify along small singular values.
TOLERANCE = {"adamw": 1e-6, "muon": 2e-5}


def gradients(module: nn.Module) -> list[Tensor]:
    return [weight.grad for weight in module.parameters() if weight.grad is not None]


def compare(mesh: DeviceMesh, name: Literal["adamw", "muon"]) -> None:
    """Widths of 7, 9 and 1 over 2 ranks: shards are uneven and may be empty; step 2 is skipped."""
    torch.manual_seed(0)
    module = nn.Sequential(*(FeedForward(7, 9, "swiglu", bias=True) for _ in range(2)), nn.Linear(7, 1))
    alone = copy.deepcopy(module)
    for block in module:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    optim = Optim(name=name, lr=0.01, muon_lr=0.02, weight_decay=0.1)
    sharded, single = Optimizers(module, optim), Optimizers(alone, optim)
    first = 4 * mesh.get_local_rank()
    for step in range(5):
        x = torch.randn(8, 7, generator=torch.Generator().manual_seed(step))
        for each, part in ((module, x[first : first + 4]), (alone, x)):
            each(part).square().mean().backward()
        norms = [total_norm(gradients(each)) for each in (module, alone)]
        torch.testing.assert_close(norms[0], norms[1], rtol=1e-5, atol=0)
        for each, norm in zip((module, alone), norms, strict=True):
            clip_global_(gradients(each), torch.tensor(1.0), norm, 0.1)
        before = [weight.to_local().clone() for weight in module.parameters()]
        for optimizers in (sharded, single):
            optimizers.step(BAD if step == 2 else GOOD, 1.0)
        same = [torch.equal(a, b.to_local()) for a, b in zip(before, module.parameters(), strict=True)]
        assert all(same) if step == 2 else not all(same)
        sharded.zero_grad(set_to_none=step % 2 == 0)
        single.zero_grad()
    for a, b in zip(module.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a.full_tensor(), b, rtol=0, atol=TOLERANCE[name])

    sharded.load(single.state())  # whole state into shards, and out again
    for slot, tensor in sharded.state().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        assert torch.equal(whole, single.state()[slot]), slot
    moment = sharded.state()["0.up.weight." + ("momentum" if name == "muon" else "exp_avg")]
    assert isinstance(moment, DTensor) and moment.to_local().shape == (9, 7)
    sharded.load({slot: tensor.clone() for slot, tensor in sharded.state().items()})


def on_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        compare(mesh, "adamw")
        compare(mesh, "muon")
        adagc.WARMUP = 6
        named: dict[str, Tensor] = {
            name: nn.Parameter(distribute_tensor(torch.zeros(5, 3), mesh, [Shard(0)])) for name in drawn(0)
        }
        run_adagc(named, adagc.AdaGC(named, Optim(clip=LIMIT)), SlowLoop(6))
        dist.barrier()  # a rank that leaves while the other still works makes gloo abort
    finally:
        dist.destroy_process_group()


def test_on_two_ranks_they_are_what_they_are_on_one(tmp_path: Path) -> None:
    """After 5 steps of rates 0.01 and 0.02: AdamW to 1e-6, Muon to 2e-5, absolute; norms and AdaGC to 1e-5 relative."""
    torch.multiprocessing.spawn(on_two_ranks, args=(str(tmp_path),), nprocs=2)
