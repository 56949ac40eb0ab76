"""Muon: momentum whose update is made orthogonal, for the hidden matrices (Jordan et al. 2024, kellerjordan.github.io/
posts/muon). All singular values of an update become about 1, so that no direction of a matrix is learned faster.

Unlike torch.optim.Muon it can skip a step on the device, knows the matrices inside fused projections and convolutions,
treats those of one shape as one batch, and runs on the shards of FSDP2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from partimento.models.linear import linear
from partimento.training.groups import Claim, from_matrices, matrices

# Keller Jordan's quintic, the same as torch's: steep at 0, so that five rounds are enough. It does not converge to 1
# but scatters singular values over about 0.7 to 1.2, which does not hurt.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
EPSILON = 1e-7

# Elements that are worked on at once: 256 MB in float32, and a few times that for what the products need.
_AT_ONCE = 2**26


class Muon:
    """Nesterov momentum, five Newton-Schulz rounds, decoupled weight decay:

        momentum <- lerp(momentum, gradient, 1 - mu)
        weight   <- (1 - lr decay) weight - lr sqrt(max(1, rows / columns)) orthogonal(lerp(gradient, momentum, mu))

    The square root is that of the original: an orthogonal R x C matrix changes its output by the same RMS whatever its
    shape then (spectral norm sqrt(R / C), Yang et al. 2023), so one rate, usually 0.02, serves all matrices and widths.
    It is not on AdamW's scale, which is why `optim.muon_lr` is a number of its own.

    Sharded parameters have sharded momentum. Their update needs whole matrices: every rank gathers it, computes the
    same, and keeps its rows.
    """

    SLOTS = ("momentum",)

    def __init__(self, claims: Sequence[Claim], momentum: float) -> None:
        self.claims, self.mu = list(claims), momentum
        self.slots = {claim.name: {"momentum": torch.zeros_like(claim.parameter.detach())} for claim in claims}

    @torch.no_grad()
    def step(self, bad: Tensor, rate: float) -> None:
        """One step at `rate` times the peaks. With the 0-D bool `bad` every bit stays, whatever the gradients hold."""
        for claims in self._batches():
            whole_N = torch.stack([_whole(self._direction(claim, bad), claim.parameter) for claim in claims])
            updates = from_matrices(_by_parts(matrices(whole_N, claims[0]), claims[0].parts), claims[0])
            for claim, update in zip(claims, updates.unbind(), strict=True):
                weight = local(claim.parameter)
                lr = scalar(claim.rate * rate, weight.device)
                step = _shard(update, claim.parameter) * lr
                # where, not a multiplication: 0 times NaN is NaN.
                weight.copy_(torch.where(bad, weight, weight * (1 - lr * claim.weight_decay) - step))

    def _direction(self, claim: Claim, bad: Tensor) -> Tensor:
        """This rank's part of the Nesterov direction; moves the momentum."""
        assert claim.parameter.grad is not None
        gradient, momentum = local(claim.parameter.grad), local(self.slots[claim.name]["momentum"])
        moved = torch.lerp(momentum, gradient, 1 - self.mu)
        momentum.copy_(torch.where(bad, momentum, moved))
        return torch.lerp(gradient, moved, self.mu)

    def _batches(self) -> Iterator[list[Claim]]:
        """Claims that have a gradient, those of one shape together, in an order that is the same on every rank."""
        alike: dict[tuple[object, ...], list[Claim]] = {}
        for claim in self.claims:
            if (weight := claim.parameter).grad is not None:
                alike.setdefault(
                    (weight.shape, claim.parts, claim.inputs_first, weight.dtype, weight.device), []
                ).append(claim)
        for claims in alike.values():
            count = max(1, _AT_ONCE // claims[0].parameter.numel())
            for first in range(0, len(claims), count):
                yield claims[first : first + count]


def orthogonal(matrices_NRC: Tensor) -> Tensor:
    """N matrices with their singular values moved to about 1, in bfloat16 on CUDA devices and as they come elsewhere.

    Five rounds of X <- a X + (b A + c A A) X with A = X X^T, on the side of X that is shorter.
    """
    a, b, c = COEFFICIENTS
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = matrices_NRC.mT if tall else matrices_NRC
    # By the Frobenius norm, which bounds the largest singular value by 1; taken before any rounding.
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=EPSILON)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(ROUNDS):
        gram = _multiply_add(None, x, x.mT, 0, 1)
        x = _multiply_add(x, _multiply_add(gram, gram, gram, b, c), x, a, 1)
    return (x.mT if tall else x).to(matrices_NRC.dtype)


def _multiply_add(base: Tensor | None, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """beta base + alpha left @ right, over a batch."""
    if left.is_cpu:
        # One by one through oneDNN, twice as fast as the batched product (models/linear.py).
        pairs = zip(left.contiguous(), right.mT.contiguous(), strict=True)
        product = torch.stack([linear(x, weight) for x, weight in pairs])
        return product if base is None else product.mul_(alpha).add_(base, alpha=beta)
    return left @ right if base is None else torch.baddbmm(base, left, right, beta=beta, alpha=alpha)


def _by_parts(matrices_NRC: Tensor, parts: tuple[int, ...]) -> Tensor:
    """Orthogonal updates of N parameters, each of which holds matrices of `parts` rows, scaled by their shape."""
    count, rows, columns = matrices_NRC.shape
    if len(set(parts)) == 1:
        each = orthogonal(matrices_NRC.reshape(count * len(parts), parts[0], columns))
        return each.reshape(count, rows, columns) * max(1, parts[0] / columns) ** 0.5
    pieces = [orthogonal(piece) * max(1, piece.shape[1] / columns) ** 0.5 for piece in matrices_NRC.split(parts, dim=1)]
    return torch.cat(pieces, dim=1)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor (sharing its memory), or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(part: Tensor, like: Tensor) -> Tensor:
    """The tensor of which this rank has `part` and the others the rest, sharded as `like` is."""
    if not isinstance(like, DTensor):
        return part
    sharded = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return sharded.full_tensor()


def _shard(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that all ranks have; nothing is sent."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).to_local()


def scalar(value: float, device: torch.device) -> float | Tensor:
    """A number that changes from step to step, as an operand: where graphs are traced (XLA) a tensor, because a plain
    number would be compiled in; elsewhere itself, an argument of the kernel.

    Sent as a tensor [1]: XLA builds some 0-D values (0, 1, one that equals another constant) into the program too.
    """
    if device.type in ("cpu", "cuda"):
        return value
    return torch.tensor([value], dtype=torch.float32).to(device).view(())
