"""Our loss against torch's cross entropy in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from partimento.models import loss as module
from partimento.models.loss import CodeLoss, code_entropy, code_loss, head_loss

V = 7


def case(seed: int, eos: bool = True, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(3, 50, 2, V + eos, generator=generator, dtype=dtype)
    targets = torch.randint(0, V + 3, (3, 50, 2), generator=generator)  # codes, EOS, PAD, BOS
    return logits.requires_grad_(), targets


@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("rows", [4, 2048])
@pytest.mark.parametrize("weighted", [True, False])
def test_sums_and_gradient(eos: bool, rows: int, weighted: bool, monkeypatch) -> None:
    monkeypatch.setattr(module, "_CPU_ROWS", rows)
    logits, targets = case(rows + eos, eos)
    weights = torch.tensor([4.0, 0.5]) if weighted else None
    got = code_loss(logits, targets, V, weights_K=weights)

    outputs = V + eos
    ignored = targets.masked_fill(targets >= outputs, -100)
    reference = logits.detach().clone().requires_grad_()
    ce = functional.cross_entropy(
        reference.reshape(-1, outputs), ignored.reshape(-1), reduction="none", ignore_index=-100
    ).view(targets.shape)
    valid, code = targets < outputs, targets < V
    weight = valid * (weights.double() if weighted else 1.0)
    expected = (ce * weight).sum()
    torch.testing.assert_close(got.total, expected)
    assert float(got.count) == pytest.approx(float(weight.sum()))
    torch.testing.assert_close(got.code_sum_K, (ce * code).sum((0, 1)).detach())
    assert got.code_count_K.tolist() == code.sum((0, 1)).tolist()
    torch.testing.assert_close(got.eos_sum, (ce * (valid & ~code)).sum().detach())
    assert float(got.eos_count) == float((valid & ~code).sum())

    (3 * got.total / got.count).backward()
    (3 * expected / weight.sum()).backward()
    torch.testing.assert_close(logits.grad, reference.grad)


def test_gradcheck() -> None:
    logits, targets = case(5)
    few = logits[:, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: code_loss(x, targets[:, :3], V).total, few)


OPTIONS = [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2), (0.05, 1e-2)]


def reference_total(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smoothing: float, z: float
) -> torch.Tensor:
    """Of torch's own parts: its smoothed cross entropy and an explicit logsumexp."""
    outputs = logits.shape[-1]
    ignored = targets.masked_fill(targets >= outputs, -100).reshape(-1)
    smoothed = functional.cross_entropy(
        logits.reshape(-1, outputs), ignored, reduction="none", label_smoothing=smoothing
    ).view(targets.shape)
    lse = logits.exp().sum(-1).log()
    return (((smoothed + z * lse.square()) * (targets < outputs)) * weights).sum()


def options(smoothing: float, z: float, weights: torch.Tensor) -> dict:
    return {"weights_K": weights, "label_smoothing": smoothing, "z_loss": z}


@pytest.mark.parametrize(("smoothing", "z"), OPTIONS)
@pytest.mark.parametrize("rows", [7, 256])
def test_smoothing_and_z_loss_are_in_the_total_only(smoothing: float, z: float, rows: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "_CPU_ROWS", rows)
    logits, targets = case(11)
    weights = torch.tensor([1.5, 0.5])
    got = code_loss(logits, targets, V, **options(smoothing, z, weights))
    reference = logits.detach().clone().requires_grad_()
    expected = reference_total(reference, targets, weights.double(), smoothing, z)
    torch.testing.assert_close(got.total, expected)
    (3 * got.total).backward()
    (3 * expected).backward()
    torch.testing.assert_close(logits.grad, reference.grad)
    plain = code_loss(logits.detach(), targets, V)
    for name in ("code_sum_K", "code_count_K", "eos_sum", "eos_count"):
        assert torch.equal(getattr(got, name), getattr(plain, name)), name


@pytest.mark.parametrize(("smoothing", "z"), OPTIONS)
@pytest.mark.parametrize("rows", [7, 256])
@pytest.mark.parametrize("eos", [True, False])
def test_heads_and_loss_in_one(smoothing: float, z: float, rows: int, eos: bool, monkeypatch) -> None:
    monkeypatch.setattr(module, "_CPU_ROWS", rows)
    _, targets = case(12)
    outputs, weights = V + eos, torch.tensor([1.5, 0.5])
    x = torch.randn(3, 50, 5, dtype=torch.float64, requires_grad=True)
    heads = torch.randn(2 * outputs, 5, dtype=torch.float64, requires_grad=True)
    got = head_loss(x, heads, targets, V, **options(smoothing, z, weights))
    logits = (x @ heads.T).unflatten(-1, (2, outputs))
    expected = reference_total(logits, targets, weights.double(), smoothing, z)
    torch.testing.assert_close(got.total, expected)
    for ours, theirs in zip(
        torch.autograd.grad(3 * got.total, (x, heads)), torch.autograd.grad(3 * expected, (x, heads)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    same(got, code_loss(logits.detach(), targets, V, **options(smoothing, z, weights)))


def test_heads_of_a_flat_grid() -> None:
    """One book has a target in a row, another in none at all: the rows without are not computed, and cost nothing."""
    targets = torch.full((2, 30, 3), V + 1)
    targets[:, ::3, 0] = torch.randint(0, V + 1, (2, 10))
    targets[:, 1, 1] = 0
    x = torch.randn(2, 30, 5, dtype=torch.float64, requires_grad=True)
    heads = torch.randn(3 * (V + 1), 5, dtype=torch.float64, requires_grad=True)
    logits = (x @ heads.T).unflatten(-1, (3, V + 1))
    got, expected = head_loss(x, heads, targets, V), code_loss(logits, targets, V)
    same(got, expected)
    for ours, theirs in zip(
        torch.autograd.grad(got.total, (x, heads)), torch.autograd.grad(expected.total, (x, heads)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert got.code_count_K.tolist()[1:] == [2, 0]


@pytest.mark.parametrize(("smoothing", "z"), OPTIONS)
@pytest.mark.parametrize("rows", [7, 256])
@pytest.mark.parametrize("flat", [False, True])
def test_one_head_of_all_books(smoothing: float, z: float, rows: int, flat: bool, monkeypatch) -> None:
    """Rows with two targets, one, or none, and those of a flat grid; against torch's, and against a head for each."""
    monkeypatch.setattr(module, "_CPU_ROWS", rows)
    _, targets = case(17)
    if flat:
        targets[:, ::2, 1] = targets[:, 1::2, 0] = V + 1
    weights = torch.tensor([1.5, 0.5])
    x = torch.randn(3, 50, 5, dtype=torch.float64, requires_grad=True)
    head = torch.randn(V + 1, 5, dtype=torch.float64, requires_grad=True)
    got = head_loss(x, head, targets, V, shared=True, **options(smoothing, z, weights))
    apart = head_loss(x, head.repeat(2, 1), targets, V, **options(smoothing, z, weights))
    expected = reference_total((x @ head.T)[:, :, None].expand(-1, -1, 2, -1), targets, weights.double(), smoothing, z)
    torch.testing.assert_close(got.total, expected)
    same(got, apart)
    gradients = [torch.autograd.grad(3 * total, (x, head)) for total in (got.total, apart.total, expected)]
    for ours, theirs, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(ours, torchs)
    with torch.no_grad():
        same(head_loss(x, head, targets, V, shared=True, **options(smoothing, z, weights)), apart)


@pytest.mark.parametrize(("targets", "rows"), [("all", 100), ("flat", 100), ("few", 20)])
def test_logits_of_one_head_are_computed_once_a_row(targets: str, rows: int, monkeypatch) -> None:
    """Whatever number of books a row has a target of; those without one are left out where they are many."""
    counted: list[int] = []

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        counted.append(len(a))
        return a @ b.T

    monkeypatch.setattr(module, "product", product)
    ids = torch.randint(0, V, (2, 50, 4))
    if targets != "all":
        ids[~torch.eye(4, dtype=torch.bool).repeat(13, 1)[:50].expand(2, -1, -1)] = V + 1
    if targets == "few":
        ids[:, 10:] = V + 1
    found = head_loss(torch.randn(2, 50, 5, requires_grad=True), torch.randn(V, 5), ids, V, shared=True)
    assert counted == [rows, rows]  # logits, and the gradient of what they are of
    assert int(found.code_count_K.sum()) == (400 if targets == "all" else rows)


def same(got: CodeLoss, expected: CodeLoss, **tolerance: float) -> None:
    for field in dataclasses.fields(CodeLoss):
        one, other = (getattr(loss, field.name).detach() for loss in (got, expected))
        torch.testing.assert_close(one, other, msg=lambda text, name=field.name: f"{name}: {text}", **tolerance)


def test_heads_without_gradients_leave_nothing_behind() -> None:
    _, targets = case(13)
    x, heads = torch.randn(3, 50, 5), torch.randn(2 * V, 5, requires_grad=True)
    with torch.no_grad():
        got = head_loss(x, heads, targets, V)
    assert not got.total.requires_grad
    same(got, head_loss(x, heads, targets, V))
    head_loss(x, heads, targets, V).total.backward()
    assert heads.grad is not None and x.grad is None


def test_heads_under_autocast_are_as_a_linear_layer_there() -> None:
    """To the rounding of bfloat16, whose eight bits are relative errors of 0.4 % a product."""
    _, targets = case(14)
    x, heads = torch.randn(3, 50, 64), torch.randn(2 * (V + 1), 64) / 4
    exact = head_loss(x.double(), heads.double(), targets, V)
    x.requires_grad_(), heads.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = head_loss(x, heads, targets, V)
        logits = functional.linear(x, heads).float().unflatten(-1, (2, V + 1))
        apart = code_loss(logits, targets, V)
    assert got.total.dtype == torch.float32
    same(got, apart, rtol=1e-5, atol=1e-3)
    assert float(got.total.detach()) == pytest.approx(float(exact.total), rel=5e-3)
    ours = torch.autograd.grad(got.total, (x, heads))
    theirs = torch.autograd.grad(apart.total, (x, heads))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.01


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_whole_is_the_same(autocast: bool, shared: bool) -> None:
    """backend aot_eager: what is traced is checked here, not what inductor makes of it. Float32 rounding: 1e-5."""
    torch.compiler.reset()
    _, targets = case(15)
    x, heads = torch.randn(3, 50, 16), torch.randn((2 - shared) * (V + 1), 16)
    x.requires_grad_(), heads.requires_grad_()

    def loss(x: torch.Tensor, heads: torch.Tensor) -> CodeLoss:
        return head_loss(x, heads, targets, V, shared=shared, **options(0.1, 1e-3, torch.tensor([1.5, 0.5])))

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=False)(x, heads)
        expected = loss(x, heads)
    same(got, expected, rtol=1e-5, atol=1e-3)
    for ours, theirs in zip(
        torch.autograd.grad(got.total, (x, heads)), torch.autograd.grad(expected.total, (x, heads)), strict=True
    ):
        assert float((ours - theirs).norm() / theirs.norm()) < (0.01 if autocast else 1e-5)


@pytest.mark.slow
def test_compiled_by_inductor_is_the_same() -> None:
    torch.compiler.reset()
    logits, targets = case(16, dtype=torch.float32)

    def loss(logits: torch.Tensor) -> CodeLoss:
        return code_loss(logits, targets, V, **options(0.1, 1e-3, torch.tensor([1.5, 0.5])))

    got, expected = torch.compile(loss, fullgraph=True, dynamic=False)(logits), loss(logits)
    same(got, expected, rtol=1e-5, atol=1e-3)
    ours, theirs = (torch.autograd.grad(one.total, logits)[0] for one in (got, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_float32_is_close_and_extreme_logits_stay_finite() -> None:
    logits, targets = case(6, dtype=torch.float32)
    exact = code_loss(logits.double(), targets, V)
    torch.testing.assert_close(code_loss(logits, targets, V).total.double(), exact.total, rtol=1e-5, atol=0)
    hard = torch.zeros(1, 1, 1, V + 1)
    hard[..., 3] = 1e4
    assert float(code_loss(hard, torch.tensor([[[0]]]), V).total) == 1e4
    assert float(code_loss(hard, torch.tensor([[[3]]]), V).total) == 0


def test_nothing_valid_is_zero_and_without_gradient() -> None:
    logits, _ = case(7)
    got = code_loss(logits, torch.full((3, 50, 2), V + 1), V)
    got.total.backward()
    assert float(got.total.detach()) == 0 and float(got.count) == 0 and logits.grad.abs().max() == 0


def test_a_negative_target_is_an_error() -> None:
    logits, targets = case(8)
    with pytest.raises(RuntimeError):
        code_loss(logits, targets - 1, V)


def test_sums_add_up_over_micro_batches() -> None:
    logits, targets = case(9)
    whole = code_loss(logits, targets, V)
    parts = [code_loss(logits[i : i + 1], targets[i : i + 1], V) for i in range(3)]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    assert sum(float(part.count) for part in parts) == float(whole.count)


def test_entropy_of_codes_leaves_eos_out() -> None:
    logits = torch.zeros(2, 5)
    logits[:, 4] = 50.0  # EOS
    torch.testing.assert_close(code_entropy(logits, 4), torch.full((2,), torch.log(torch.tensor(4.0)).item()))
    p = torch.tensor([0.5, 0.25, 0.25, 0.0])
    expected = -(p[:3] * p[:3].log()).sum()
    torch.testing.assert_close(code_entropy(p.clamp(min=1e-30).log(), 4), expected)
