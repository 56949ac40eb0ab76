"""FSDP2: which parts of a model are sharded together, in which precision, and when they are given back."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from partimento.errors import PartimentoError

# Bytes of weights (as they are computed with) up to which FSDP keeps a gathered block until its backward pass: one
# all-gather less a step, for that much memory.
KEEP_GATHERED = 2**30


def sharded(objective: nn.Module, module: nn.Module, mesh: DeviceMesh, precision: str) -> nn.Module:
    """FSDP2: every block gathered when its turn comes, and all that is outside of the blocks by the root.

    A weight that two parts share belongs to the root. Buffers, and weights that are not floating point, stay whole on
    every rank.
    Raises TRAIN035 (a scalar to be sharded).
    """
    for name, weight in module.named_parameters():
        if weight.ndim == 0 and weight.is_floating_point():
            raise PartimentoError(
                "TRAIN035",
                f"the weight {name} is a single number, which cannot be sharded",
                next="train.parallel=ddp",
            )
    whole = {weight for weight in module.parameters() if not weight.is_floating_point()}
    half = precision == "bf16"
    # The inputs stay as they are: the residual stream is float32 on one device too.
    blocks_policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None,
        reduce_dtype=torch.float32 if half else None,
        cast_forward_inputs=False,
    )
    size = sum(weight.numel() * (2 if half else weight.element_size()) for weight in module.parameters())
    blocks = _own_blocks(module)
    for block in blocks:
        # The last one is wanted again at once, by the backward pass.
        reshard = size > KEEP_GATHERED and block is not blocks[-1]
        fully_shard(block, mesh=mesh, mp_policy=blocks_policy, reshard_after_forward=reshard, ignored_params=whole)
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(objective, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=whole)
    return objective  # the same object, of another class now


def _own_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of all lists named `blocks`, without those that share a weight with something outside of them."""
    uses = _uses(module)
    found: list[nn.Module] = []
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and name.rpartition(".")[2] == "blocks":
            found += [block for block in part if all(uses[weight] == times for weight, times in _uses(block).items())]
    return found


def _uses(module: nn.Module) -> Counter[int]:
    """How many parts of `module` hold each weight, by id."""
    return Counter(id(weight) for part in module.modules() for weight in part.parameters(recurse=False))
