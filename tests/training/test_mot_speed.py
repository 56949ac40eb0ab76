"""How fast a mixture trains and what it keeps: rows of audio in compiled and in recomputing blocks; its arithmetic."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from codes_toy import ToyCodec
from mot_toy import config, task, write_llama, write_pack
from test_compiled import Watch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from partimento.config import Loss, Train
from partimento.runs.events import curve, read_events
from partimento.training import compiled, speed
from partimento.training.engine import train
from partimento.training.objective import CodesObjective

sys.path.append(str(Path(__file__).parents[1] / "models"))
from small_mixture import CARDINALITY, KINDS, awake, grids, mixture, texts

CPU = torch.device("cpu")
Policy = Literal["none", "selective", "full"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("data") / "pack")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder)
    return folder


def learner(kind: str = "feedforward", both_ways: bool = False, **options: Any) -> CodesObjective:
    return CodesObjective(awake(mixture(kind, **options)), CARDINALITY, Loss(), both_ways=both_ways).train()


def step(made: CodesObjective, lengths: tuple[int, ...] = (7, 3, 1), steps: int = 7) -> list[Tensor]:
    """Loss and gradients of one batch, which is another for other lengths of its texts."""
    made.zero_grad()
    torch.manual_seed(5)
    turned = [torch.tensor([True, False, True])] if made.both_ways else []
    grid, keep = grids(steps=11).roll(sum(lengths), 1), torch.tensor([True, False, True])
    total, _ = made(grid, keep, None, *texts(lengths, steps), *turned)
    total.backward()
    return [total.detach(), *(p.grad.clone() for p in made.parameters() if p.grad is not None)]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Traced as for compiling, run by torch's own kernels: all but the C++."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()


GRAPHS: list[tuple[str, bool, dict[str, Any], Policy, int]] = [
    ("feedforward", False, {}, "none", 1),
    ("lora", False, {}, "none", 1),
    ("full", False, {}, "full", 1),
    # Rows behind a text, rows behind BOS, texts behind rows in the first block (no gradient comes in) and in the other.
    ("bottleneck", True, {}, "none", 4),
    ("none", False, {"train_backbone": "all"}, "selective", 2),
]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("kind", "both_ways", "options", "policy", "graphs"), GRAPHS)
def test_rows_of_audio_pass_compiled_blocks_and_no_batch_compiles_again(
    kind: str, both_ways: bool, options: dict[str, Any], policy: Policy, graphs: int
) -> None:
    plain, made = (learner(kind, both_ways, **options) for _ in range(2))
    assert compiled.prepare(made, Train(compile=True, recompute=policy), CPU)
    before, recompiles = speed.Recompiles(), None
    for lengths in ((7, 3, 1), (2, 7, 4), (5, 5, 6), (1, 1, 7)):
        for ours, theirs in zip(step(made, lengths), step(plain, lengths), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        recompiles = recompiles or speed.Recompiles()
    assert recompiles is not None and (before.count, recompiles.count) == (graphs, 0)


@pytest.mark.usefixtures("traced")
def test_another_length_of_the_texts_is_another_graph_and_a_training_has_one(pack: Path, llama: Path) -> None:
    made, recompiles = learner(), speed.Recompiles()
    compiled.prepare(made, Train(compile=True), CPU)
    for steps in (7, 8, 7, 8):
        step(made, steps=steps)
    assert recompiles.count == 2
    real = task(config(pack, llama))
    told = [real.inputs(real.batch(number, 0))[4] for number in range(20)]
    assert {tuple(mask.shape) for mask in told if mask is not None} == {(4, 24)}
    assert len({int(mask.sum()) for mask in told if mask is not None}) > 1


@pytest.mark.parametrize("policy", ["selective", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_changes_no_bit_of_loss_and_gradients_dropout_included(kind: str, policy: Policy) -> None:
    options: dict[str, Any] = {"both_ways": True} | ({} if kind == "none" else {"dropout": 0.2})
    plain, made = (learner(kind, **options) for _ in range(2))
    assert compiled.prepare(made, Train(recompute=policy), CPU) is False
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(step(made), step(plain), strict=True))
    assert list(made.state_dict()) == list(plain.state_dict())


def held(policy: Policy, both_ways: bool) -> tuple[int, int, int]:
    """Bytes that autograd keeps for the backward pass; that are held before it, whoever keeps them; products."""
    made = learner(both_ways=both_ways)
    compiled.prepare(made, Train(recompute=policy), CPU)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    turned = [torch.tensor([True, False, True])] if both_ways else []
    condition = [torch.tensor([True, False, True]), None, *texts(), *turned]
    with Watch() as watch, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total, _ = made(grids(steps=31), *condition)
        before = watch.held
        total.backward()
    return sum(kept.values()), before, watch.ran["mm"]


@pytest.mark.parametrize("both_ways", [False, True])
def test_rows_that_are_computed_again_are_not_kept(both_ways: bool) -> None:
    (saved, plain, products), (_, selective, kept), (few, full, again) = (
        held(policy, both_ways) for policy in ("none", "selective", "full")
    )
    # Products are most of what is kept: a frozen matrix needs none of what it reads.
    assert few < 0.4 * saved and full < 0.5 * selective and selective < 0.95 * plain
    assert kept == products and again > products


HOW: list[dict[str, Any]] = [
    {},
    {"caption_share": 0.5},
    {"pattern": "flat", "vocabulary": "shared", "place": "instead"},
    {"pattern": "flat", "vocabulary": "shared", "train_backbone": "head", "caption_share": 0.2},
    {"experts": "bottleneck", "rank": 2, "caption_share": 0.5},
    {"experts": "lora", "rank": 2, "caption_share": 0.5},
    {"experts": "feedforward_copy", "caption_share": 0.5},
    {"experts": "full", "caption_share": 0.5},
    {"experts": "none", "train_backbone": "all"},
    {"experts": "full", "train_backbone": "all", "caption_share": 0.5},
]


@pytest.mark.parametrize("model", HOW, ids=lambda model: "-".join(map(str, model.values())) or "default")
def test_flops_of_a_step_are_what_torch_counts(pack: Path, llama: Path, model: dict[str, Any]) -> None:
    """In float64, where all products are torch's own operators, and with the plain attention, which multiplies as the
    convention counts."""
    made = task(config(pack, llama, model=model))
    made.objective.train().double()
    batch = made.batch(0, 0)
    batch.turned_B.zero_()  # or a CPU leaves the head out where items have no target
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        made.objective(*made.inputs(batch))[0].backward()
    assert counter.get_total_flops() == 4 * made.flops(24)


def test_the_log_counts_the_text_and_both_directions(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device of 1 FLOP/s its share is the FLOPs of a second."""
    monkeypatch.setattr(speed, "peak", lambda *_: 1.0)
    made = config(pack, llama, model={"caption_share": 0.5}, train={"steps": 2, "valid_every": 2, "save_every": 2})
    events = read_events(train(made, runs=tmp_path).events_path)
    (mfu,), (seconds,) = ([value for _, value in curve(events, "train", name)] for name in ("mfu", "seconds"))
    module = task(made).module
    assert mfu * seconds / 4 == pytest.approx(speed.flops_per_item(module, 24, 24, both_ways=True), rel=1e-3)
