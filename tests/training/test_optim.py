"""Who claims what, the skip, the state by name, the clipping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toy import ToyModule

from partimento.config import Group, Optim
from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.training import optim as optim_module
from partimento.training.adagc import AdaGC
from partimento.training.ema import copy_into, named_state
from partimento.training.groups import claim, table
from partimento.training.optim import Optimizers, clip_global_, total_norm

GOOD, BAD = torch.tensor(False), torch.tensor(True)


def decoder(**changes: Any) -> CodeDecoder:
    shape = {"codebooks": 2, "rows": 10, "outputs": 8, "width": 16, "layers": 2, "heads": 4, "kv_heads": 2, "tags": 3}
    return CodeDecoder(DecoderConfig(**{"max_positions": 8, "activation": "swiglu", **shape, **changes}))


def spoil(module: nn.Module, value: float) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, value)


def learn(module: nn.Module, optimizers: Optimizers, steps: int = 3, seed: int = 1, rate: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizers.step(GOOD, rate)


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_each_parameter_is_claimed_once_and_only_matrices_decay() -> None:
    module = ToyModule()
    module.raw_embedding = nn.Parameter(torch.zeros(3, 4))
    module.mixing = nn.Parameter(torch.zeros(3, 4))
    module.embedder = nn.Linear(2, 2, bias=False)  # a matrix, whatever it is part of
    module.frozen = nn.Parameter(torch.zeros(3, 4), requires_grad=False)
    decay = {one.name: one.weight_decay for one in claim(module, Optim(weight_decay=0.3))}
    # The tied head is an embedding; it is claimed once, under its first name.
    assert decay == dict.fromkeys(("mixing", "layer.weight", "embedder.weight"), 0.3) | dict.fromkeys(
        ("raw_embedding", "embedding.weight", "layer.bias", "norm.weight", "norm.bias"), 0.0
    )


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_muon_takes_the_hidden_matrices_of_a_decoder_part_by_part(positions: str) -> None:
    claims = {one.name: one for one in claim(decoder(positions=positions, cross_width=12), Optim(name="muon"))}
    assert {name for name, one in claims.items() if one.optimizer == "muon"} == {
        f"blocks.{layer}.{name}.weight"
        for layer in (0, 1)
        for name in (
            *("attention.qkv", "attention.out", "cross.query", "cross.key_value", "cross.out"),
            *("feedforward.up", "feedforward.down"),
        )
    }
    assert claims["blocks.0.attention.qkv.weight"].parts == (16, 8, 8)
    assert claims["blocks.0.cross.key_value.weight"].parts == (16, 16)
    assert len(claims["blocks.0.feedforward.up.weight"].parts) == 2
    assert len(claims["blocks.0.feedforward.down.weight"].parts) == 1
    assert claims["blocks.0.attention.out.weight"].rate == 0.02 and claims["head.weight"].rate == 1e-3
    if positions == "learned":
        assert claims["added.table_PD"].optimizer == "adamw" and claims["added.table_PD"].weight_decay == 0


def test_convolutions_are_matrices_unless_each_channel_has_its_own() -> None:
    module = nn.ModuleDict(
        {
            "plain": nn.Conv1d(4, 6, 3),
            "grouped": nn.Conv1d(4, 6, 3, groups=2),
            "depthwise": nn.Conv1d(4, 4, 3, groups=4),
            "image": nn.Conv2d(4, 6, (3, 2)),
            "one": nn.Linear(5, 1),
        }
    )
    claims = {one.name: one for one in claim(module, Optim(name="muon")) if one.name.endswith("weight")}
    muon = {name: one.parts for name, one in claims.items() if one.optimizer == "muon"}
    assert muon == {"plain.weight": (6,), "grouped.weight": (3, 3), "image.weight": (6,)}


def test_groups_come_first_and_the_first_that_matches_claims() -> None:
    groups = [
        Group(pattern=r"attention\.qkv", lr=0.5, weight_decay=0.0),
        Group(pattern="attention", optimizer="adamw"),
        Group(pattern="^head", optimizer="muon", lr=2.0),
    ]
    claims = {one.name: one for one in claim(decoder(), Optim(name="muon", groups=groups, weight_decay=0.1))}
    block = "blocks.1.attention"
    qkv, out, head = claims[f"{block}.qkv.weight"], claims[f"{block}.out.weight"], claims["head.weight"]
    assert (qkv.optimizer, qkv.rate, qkv.weight_decay) == ("muon", 0.01, 0.0)
    assert (out.optimizer, out.rate, out.weight_decay) == ("adamw", 1e-3, 0.1)
    assert (head.optimizer, head.rate) == ("muon", 0.04)
    assert claims["blocks.1.feedforward.up.weight"].group == "hidden matrices"


@settings(deadline=None)
@given(patterns=st.lists(st.sampled_from(["qkv", "out", "norm", "weight", "head|embedding", "blocks.0"]), unique=True))
def test_the_table_holds_every_trainable_parameter_once(patterns: list[str]) -> None:
    with torch.device("meta"):
        module = decoder()
    try:
        claims = claim(module, Optim(name="muon", groups=[Group(pattern=pattern) for pattern in patterns]))
    except PartimentoError as error:
        assert error.code == "TRAIN010"
        return
    rows = table(claims)
    assert sum(row["tensors"] for row in rows) == len(list(module.parameters()))
    assert sum(row["parameters"] for row in rows) == sum(weight.numel() for weight in module.parameters())
    assert all(row["names"] for row in rows)


@pytest.mark.parametrize(
    ("group", "code"),
    [
        (Group(pattern="atention"), "TRAIN010"),
        (Group(pattern="att("), "TRAIN010"),
        (Group(pattern="norm", optimizer="muon"), "TRAIN011"),
    ],
)
def test_a_group_that_cannot_be_meant_is_refused(group: Group, code: str) -> None:
    with pytest.raises(PartimentoError, match=code):
        Optimizers(decoder(), Optim(groups=[group]))


def test_a_group_behind_one_that_takes_all_is_refused() -> None:
    groups = [Group(pattern="weight"), Group(pattern="head.weight")]
    with pytest.raises(PartimentoError, match="number 2"):
        Optimizers(decoder(), Optim(groups=groups))


def test_weights_in_half_precision_are_refused_by_name() -> None:
    module = decoder()
    module.head.to(torch.bfloat16)
    with pytest.raises(PartimentoError, match=r"TRAIN012.*head\.weight"):
        Optimizers(module, Optim())
    module.head.requires_grad_(False)
    assert "head.weight" not in {one.name for one in Optimizers(module, Optim()).claims}


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.0])
@pytest.mark.parametrize("fused", [True, False])
def test_a_bad_step_leaves_every_bit(name: Any, value: float, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr(optim_module, "FUSED", ())
    module = decoder()
    optimizers = Optimizers(module, Optim(name=name))
    for steps in (0, 3):  # before the first step and after some
        learn(module, optimizers, steps)
        before = copies(named_state(module) | optimizers.state())
        spoil(module, value)
        optimizers.step(BAD, 1.0)
        after = named_state(module) | optimizers.state()
        assert all(torch.equal(before[name], after[name]) for name in before)
    learn(module, optimizers, 1)
    assert all(not torch.equal(before[name], parameter) for name, parameter in module.named_parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_goes_by_name_and_comes_back_bit_for_bit(name: Any) -> None:
    module, other = decoder(), decoder()
    first, second = (Optimizers(each, Optim(name=name)) for each in (module, other))
    learn(module, first)
    saved = copies(first.state())
    assert saved["head.weight.step"] == 3 and saved["head.weight.exp_avg"].any()
    assert ("blocks.0.attention.qkv.weight.momentum" in saved) == (name == "muon")
    learn(other, second, 1, seed=5)
    copy_into(named_state(other), named_state(module))
    second.load(saved)
    for each, optimizers in ((module, first), (other, second)):
        learn(each, optimizers, 2, seed=9, rate=0.3)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_what_a_parameter_without_gradient_lacks_in_an_old_checkpoint_starts_anew() -> None:
    module = ToyModule()
    optimizers = Optimizers(module, Optim())
    learn(module, optimizers)
    saved = {name: tensor for name, tensor in copies(optimizers.state()).items() if not name.startswith("layer.bias")}
    optimizers.load(saved)
    state = optimizers.state()
    assert state["layer.bias.step"] == 0 and not state["layer.bias.exp_avg"].any() and state["layer.weight.step"] == 3


@pytest.mark.parametrize("what", ["unknown", "shape", "missing", "bf16 moment", "empty"])
def test_state_that_does_not_fit_is_refused_and_changes_nothing(what: str) -> None:
    module = ToyModule()
    optimizers = Optimizers(module, Optim())
    learn(module, optimizers)
    saved = copies(optimizers.state())
    for tensor in saved.values():
        tensor += 1
    match what:
        case "unknown":
            saved["2.weight.exp_avg"] = torch.zeros(1)
        case "shape":
            saved["norm.weight.exp_avg"] = torch.zeros(9)
        case "missing":
            del saved["norm.weight.exp_avg_sq"]
        case "bf16 moment":
            saved["norm.weight.exp_avg_sq"] = saved["norm.weight.exp_avg_sq"].bfloat16()
        case "empty":
            saved = {}
    before = copies(optimizers.state())
    with pytest.raises(PartimentoError, match="TRAIN003"):
        optimizers.load(saved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in optimizers.state().items())


def test_gradients_are_forgotten_or_filled_with_zeros() -> None:
    module = ToyModule()
    optimizers = Optimizers(module, Optim())
    spoil(module, 1.0)
    held = module.layer.weight.grad
    optimizers.zero_grad(set_to_none=False)
    assert module.layer.weight.grad is held and not held.any()
    optimizers.zero_grad()
    assert module.layer.weight.grad is None
    optimizers.step(GOOD, 1.0)  # nothing has a gradient: nothing happens
    assert not any(tensor.any() for tensor in optimizers.state().values())


@pytest.mark.parametrize("limit", [0.5, 1e9])
def test_the_global_clip_is_torchs(limit: float) -> None:
    module, other = ToyModule(), ToyModule()
    generator = torch.Generator().manual_seed(0)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        a.grad = torch.randn(a.shape, generator=generator)
        b.grad = a.grad / 8
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    scale = torch.tensor(1 / 8)
    norm = total_norm(gradients) * scale
    clip_global_(gradients, scale, norm, limit)
    expected = torch.nn.utils.clip_grad_norm_(other.parameters(), limit)
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)


def adagc_step(clip: AdaGC, value: float, bad: Tensor = GOOD) -> None:
    for weight in clip.named.values():
        weight.grad = torch.full_like(weight, value)
    clip.clip_(torch.tensor(1.0), total_norm([weight.grad for weight in clip.named.values()]), bad)


def test_a_skipped_step_leaves_no_trace_in_the_running_norms() -> None:
    clip = AdaGC(dict(ToyModule().named_parameters()), Optim())
    for _ in range(3):
        adagc_step(clip, 0.01)
    before = copies(clip.state())
    for value in (float("nan"), float("inf"), 1e6):
        adagc_step(clip, value, BAD)
    assert all(torch.equal(before[name], tensor) for name, tensor in clip.state().items())


def test_the_running_norms_come_back_and_misfits_are_refused() -> None:
    named = dict(ToyModule().named_parameters())
    clip, other = AdaGC(named, Optim()), AdaGC(named, Optim())
    adagc_step(clip, 0.01)
    other.load(copies(clip.state()))
    assert all(torch.equal(other.state()[name], tensor) for name, tensor in clip.state().items())
    saved = copies(clip.state())
    del saved["layer.weight.mean_norm"]
    with pytest.raises(PartimentoError, match="TRAIN003"):
        other.load(saved)
    with pytest.raises(PartimentoError, match="TRAIN003"):
        other.load(copies(clip.state()) | {"layer.weight.mean_norm": torch.zeros((), dtype=torch.bfloat16)})


class NothingIsRead(TorchDispatchMode):
    """Fails on the operations that a device would have to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.name() not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("adagc", [False, True])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_waits_for_nothing(name: Any, adagc: bool) -> None:
    module = decoder()
    optimizers = Optimizers(module, Optim(name=name))
    clip = AdaGC(dict(module.named_parameters()), Optim())
    with pytest.raises(AssertionError), NothingIsRead():
        bool(GOOD)
    spoil(module, 1.0)
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    scale = torch.tensor(0.1)
    with NothingIsRead():
        norm = total_norm(gradients) * scale
        if adagc:
            clip.clip_(scale, norm, BAD)
        else:
            clip_global_(gradients, scale, norm, 1.0)
        optimizers.step(BAD, 0.5)
        optimizers.zero_grad(set_to_none=False)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_it_learns(name: Any) -> None:
    torch.manual_seed(0)
    module = decoder(tags=0)
    optimizers = Optimizers(module, Optim(name=name, lr=1e-2, muon_lr=0.05))
    grid_BSK = torch.randint(8, (4, 8, 2))
    losses = []
    for _ in range(40):
        logits = module(grid_BSK[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 2), grid_BSK[:, 1:].flatten())
        optimizers.zero_grad()
        loss.backward()
        optimizers.step(GOOD, 1.0)
        losses.append(loss.item())
    assert losses[0] > 2 and losses[-1] < 0.2
