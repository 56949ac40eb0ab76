"""Everything that is measured of one weight: a single pass in which each tensor of a checkpoint is read once.

A weight is read with its average, its moments and itself in earlier checkpoints, measured, and let go: the memory is
that of a few times the largest tensor. Shapes: R rows, C columns, D the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from partimento.lab.doctor.patient import Snapshot, Tensors
from partimento.lab.doctor.weights import rows
from partimento.lab.doctor.weights.spectra import Spectrum, spectral_norm, spectrum

SMALLEST = 12
"""A matrix with fewer rows or columns says nothing by its singular values."""
EPSILON = 1e-8
"""AdamW's, that of `training.optim` (a test holds it): to import it loads all of torch.distributed."""
_STRONG = 1e-12


@dataclass(frozen=True)
class Average:
    """`distance` is |weight - average|, `norm` that of the weight, `cosine` theirs. `followed`, where the weight began
    at a known constant: the projection of the average's way onto the weight's, 1 if it went along, 0 if it stayed."""

    distance: float
    norm: float
    cosine: float
    same: bool
    followed: float | None


@dataclass(frozen=True)
class Moments:
    """Of AdamW. `update` is the root mean square of m^ / (sqrt(v^) + eps), the update at a rate of 1; `coherence` the
    mean of |m^| / sqrt(v^) where v is not 0, `spread` its deviation over its mean; `root` the root mean square of
    sqrt(v^); `tiny` the share of sqrt(v^) under eps, `zero` that of v == 0; `sharp` the spectral norm of the update as
    a matrix times sqrt(columns / rows): how far it moves an output, against inputs of size 1."""

    steps: int
    update: float
    coherence: float
    spread: float
    root: float
    tiny: float
    zero: float
    sharp: float | None


@dataclass(frozen=True)
class Momentum:
    """Of Muon: the root mean square of the momentum, of the update that it stands for (at a rate of 1), and `sharp` as
    above."""

    root: float
    update: float
    sharp: float


@dataclass(frozen=True)
class Step:
    """From one checkpoint to the next: length of the way, its product with the way before (None for the first), and
    the length of that; `average_moved`: whether its average changed."""

    length: float
    before: float | None
    product: float | None
    average_moved: bool | None


@dataclass
class Profile:
    """One weight. `bad` are numbers that are not finite, by part. `root` is the root mean square, `step` the way
    since the checkpoint before, `root_before` sqrt(v) of that one."""

    name: str
    shape: tuple[int, ...]
    bad: dict[str, int] = field(default_factory=dict)
    root: float = 0.0
    trained: bool = False
    average: Average | None = None
    moments: Moments | None = None
    momentum: Momentum | None = None
    spectrum: Spectrum | None = None
    books: rows.Books | None = None
    step: Step | None = None
    root_before: float | None = None
    begun: float | None = None
    """Root mean square in the earliest checkpoint that was looked at."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def matrix(self) -> bool:
        """Whether it is one of the hidden matrices: neither a table, nor an adapter, nor a vector."""
        if len(self.shape) < 2 or self.books is not None or "lora_" in self.name:
            return False
        if "embed" in self.name or self.name.rpartition(".")[2].startswith(("table", "null")):
            return False
        return min(self.shape[0], math.prod(self.shape[1:])) >= SMALLEST

    @property
    def empty(self) -> bool:
        """Whether it has moments and never had a gradient."""
        if self.moments is not None:
            return self.moments.zero == 1.0
        return self.momentum is not None and self.momentum.root == 0.0


def profiles(
    snapshot: Snapshot,
    earlier: Sequence[Snapshot],
    *,
    tables: Mapping[str, rows.Layout],
    begins: Mapping[str, float],
    betas: tuple[float, float],
    player: str = "",
) -> Iterator[Profile]:
    """A profile of each weight of `snapshot`. `begins` are the constants that weights began at, where they did.

    `player` is "" or "adversary". Raises DOC002 and CKPT001 where a part cannot be read.
    """
    prefix = f"{player}_" if player else ""
    weights = snapshot.part(player or "model")
    averages = None if player else snapshot.part("ema")
    optimizer = snapshot.part(f"{prefix}optimizer")
    before = [(one.part(player or "model"), one.part(f"{prefix}optimizer"), one.part("ema")) for one in earlier]
    for name, shape in (weights.shapes if weights is not None else {}).items():
        assert weights is not None
        yield _profile(name, shape, weights, averages, optimizer, before, tables, begins.get(name), betas)


@torch.no_grad()
def _profile(
    name: str,
    shape: tuple[int, ...],
    weights: Tensors,
    averages: Tensors | None,
    optimizer: Tensors | None,
    before: Sequence[tuple[Tensors | None, Tensors | None, Tensors | None]],
    tables: Mapping[str, rows.Layout],
    begin: float | None,
    betas: tuple[float, float],
) -> Profile:
    found = Profile(name, shape)
    weight = _read(weights, name, "model", found)
    if weight is None or not weight.is_floating_point() or not weight.numel():
        return found
    wide = weight.float()
    found.root = rms(wide)
    average = _read(averages, name, "ema", found)
    if average is not None and average.shape == weight.shape:
        found.average = _average(wide, average.float(), begin)
    layout = rows.layout_of(name, shape, tables)
    square = _optimizer(found, optimizer, wide, betas, layout is not None)
    if layout is not None:
        found.books = rows.read(wide, square, layout)
    if found.matrix and not found.bad:
        found.spectrum = spectrum(wide.flatten(1))
    _steps(found, wide, average, before, betas)
    return found


def _read(part: Tensors | None, name: str, what: str, found: Profile) -> Tensor | None:
    """A tensor, with its numbers that are not finite counted and then taken for 0."""
    if part is None or name not in part.shapes:
        return None
    tensor = part[name]
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    if not all(math.isfinite(float(end)) for end in tensor.aminmax()):  # one pass, without a copy
        found.bad[what] = found.bad.get(what, 0) + int((~torch.isfinite(tensor)).sum())
        tensor = torch.nan_to_num(tensor, nan=0.0, posinf=0.0, neginf=0.0)
    return tensor


def rms(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor)) / math.sqrt(max(1, tensor.numel()))


def _average(weight: Tensor, average: Tensor, begin: float | None) -> Average:
    one, other = weight.flatten(), average.flatten()
    norm, length = (float(torch.linalg.vector_norm(each)) for each in (one, other))
    product = float(one @ other)
    followed = None
    if begin is not None:
        way = one.double() - begin
        if (size := float(way @ way)) > _STRONG * max(1, len(way)):
            followed = float((other.double() - begin) @ way) / size
    return Average(
        distance=float(torch.dist(one, other)),
        norm=norm,
        cosine=product / (norm * length) if norm and length else math.nan,
        same=bool(torch.equal(weight, average)),
        followed=followed,
    )


def _optimizer(
    found: Profile, optimizer: Tensors | None, weight: Tensor, betas: tuple[float, float], table: bool
) -> Tensor | None:
    """Fills in the moments; returns the tensor whose zero rows never had a gradient."""
    name = found.name
    if optimizer is None:
        return None
    if (momentum := _read(optimizer, f"{name}.momentum", "optimizer", found)) is not None:
        found.trained = True
        found.momentum = muon_figures(momentum)
        return momentum
    first = _read(optimizer, f"{name}.exp_avg", "optimizer", found)
    second = _read(optimizer, f"{name}.exp_avg_sq", "optimizer", found)
    count = _read(optimizer, f"{name}.step", "optimizer", found)
    if first is None or second is None or count is None or first.shape != weight.shape or second.shape != weight.shape:
        return None
    found.trained = True
    found.moments = adam_figures(first, second, int(count), betas, sharp=found.matrix and not table)
    return second


@torch.no_grad()
def adam_figures(first: Tensor, second: Tensor, steps: int, betas: tuple[float, float], *, sharp: bool) -> Moments:
    """Of exp_avg and exp_avg_sq after `steps` steps. At the rate of the last step, `update` is what that step did."""
    zero = float(second.eq(0).float().mean())
    if not steps or zero == 1.0:
        return Moments(steps, 0.0, 0.0, 0.0, 0.0, 1.0, zero, None)
    update = first.float() / (1 - betas[0] ** steps)
    root = second.float().div(1 - betas[1] ** steps).clamp_(min=0).sqrt_()
    size, tiny = rms(root), float((root < EPSILON).float().mean())
    ratio = (update[root > 0].abs() / root[root > 0]) if zero else update.abs().div_(root)
    spread, mean = (float(value) for value in torch.std_mean(ratio, correction=0))
    del ratio
    matrix = update.div_(root.add_(EPSILON)).flatten(1) if update.ndim > 1 else update.div_(root.add_(EPSILON))
    return Moments(
        steps=steps,
        update=rms(update),
        coherence=mean,
        spread=spread / mean if mean else 0.0,
        root=size,
        tiny=tiny,
        zero=zero,
        sharp=spectral_norm(matrix) * math.sqrt(matrix.shape[1] / matrix.shape[0]) if sharp else None,
    )


@torch.no_grad()
def muon_figures(momentum: Tensor) -> Momentum:
    """The update is an orthogonal matrix times sqrt(max(1, rows / columns)), whatever the momentum: a closed form but
    for Newton and Schulz's scatter, and for matrices that lie fused in one (they are taken for one)."""
    if not momentum.ne(0).any():
        return Momentum(0.0, 0.0, 0.0)
    rows_, columns = momentum.shape[0], math.prod(momentum.shape[1:])
    factor = math.sqrt(max(1.0, rows_ / columns))
    return Momentum(rms(momentum), factor / math.sqrt(max(rows_, columns)), factor * math.sqrt(columns / rows_))


def _steps(
    found: Profile,
    weight: Tensor,
    average: Tensor | None,
    before: Sequence[tuple[Tensors | None, Tensors | None, Tensors | None]],
    betas: tuple[float, float],
) -> None:
    """The last way between checkpoints. `before` is from the oldest to the newest; `weight` comes after them."""
    name = found.name
    places: list[Tensor] = []
    for weights, _, _ in before:
        if weights is None or weights.shapes.get(name) != found.shape:
            return
        places.append(torch.nan_to_num(weights[name].float()))
    if not places:
        return
    found.begun = rms(places[0])
    _, optimizer, averages = before[-1]
    found.root_before = _root(optimizer, name, betas)
    old = averages[name] if averages is not None and name in averages.shapes else None
    moved = None if old is None or average is None else not torch.equal(old, average)
    way = (weight - places[-1]).flatten()
    product = length = None
    if len(places) > 1:
        way_before = (places[-1] - places[-2]).flatten()
        product, length = float(way @ way_before), float(torch.linalg.vector_norm(way_before))
    found.step = Step(float(torch.linalg.vector_norm(way)), length, product, moved)


def _root(optimizer: Tensors | None, name: str, betas: tuple[float, float]) -> float | None:
    """Size of the gradients that an earlier checkpoint remembers."""
    if optimizer is None:
        return None
    if f"{name}.momentum" in optimizer.shapes:
        return rms(torch.nan_to_num(optimizer[f"{name}.momentum"].float()))
    if f"{name}.exp_avg_sq" not in optimizer.shapes or not (count := int(optimizer[f"{name}.step"])):
        return None
    return rms(torch.nan_to_num(optimizer[f"{name}.exp_avg_sq"].float()).clamp(min=0).sqrt()) / math.sqrt(
        1 - betas[1] ** count
    )
