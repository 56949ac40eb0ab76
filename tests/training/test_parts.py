"""The rate, the groups, the averages, the signals: each against a closed form."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from torch import nn
from toy import ToyModule

from partimento.config import Optim
from partimento.errors import PartimentoError
from partimento.training import devices
from partimento.training.ema import Ema, copy_into, judged, named_state
from partimento.training.optim import claims, load_state_by_name, make_optimizer, state_by_name, step_unless
from partimento.training.schedule import learning_rate
from partimento.training.stop import Stop


def test_the_rate_rises_then_falls_to_its_minimum_and_stays() -> None:
    rates = [learning_rate(step, peak=2.0, minimum=0.2, warmup=10, steps=100) for step in range(130)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] == pytest.approx(0.2) and rates[129] == rates[99]
    middle = 0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * 40 / 89))
    assert rates[50] == pytest.approx(middle)


@pytest.mark.parametrize("warmup", [0, 1, 5, 6])
def test_short_runs_have_a_rate_everywhere(warmup: int) -> None:
    rates = [learning_rate(step, peak=1.0, minimum=0.1, warmup=warmup, steps=5) for step in range(8)]
    assert all(0 < rate <= 1 for rate in rates)


def test_each_parameter_is_claimed_once_and_only_matrices_decay() -> None:
    module = ToyModule()
    module.raw_embedding = nn.Parameter(torch.zeros(3, 4))
    module.mixing = nn.Parameter(torch.zeros(3, 4))
    module.embedder = nn.Linear(2, 2, bias=False)  # a matrix, whatever it is part of
    module.frozen = nn.Parameter(torch.zeros(3, 4), requires_grad=False)
    found = claims(module)
    assert sorted(found["decayed"]) == ["embedder.weight", "layer.weight", "mixing"]
    # The tied head is an embedding; it is claimed once, under its first name.
    assert sorted(found["plain"]) == ["embedding.weight", "layer.bias", "norm.bias", "norm.weight", "raw_embedding"]
    groups = make_optimizer(module, Optim(weight_decay=0.3)).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(3, 0.3), (5, 0.0)]


def trained(steps: int = 3) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = make_optimizer(module, Optim())
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(3, 4)).square().sum().backward()
        step_unless(torch.tensor(False), optimizer, 0.01)
    return module, optimizer


def test_optimizer_state_goes_by_name_and_comes_back() -> None:
    module, optimizer = trained()
    saved = {name: tensor.clone() for name, tensor in state_by_name(module, optimizer).items()}
    assert "0.weight.exp_avg" in saved and saved["1.bias.step"] == 3
    fresh, other = trained(1)
    copy_into(named_state(fresh), named_state(module))
    load_state_by_name(fresh, other, saved)
    x = torch.randn(3, 4)
    for net, opt in ((module, optimizer), (fresh, other)):
        opt.zero_grad()
        net(x).square().sum().backward()
        step_unless(torch.tensor(False), opt, 0.01)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize("spoil", ["unknown", "shape", "missing"])
def test_state_that_does_not_fit_is_refused(spoil: str) -> None:
    module, optimizer = trained()
    saved = state_by_name(module, optimizer)
    match spoil:
        case "unknown":
            saved["2.weight.exp_avg"] = torch.zeros(1)
        case "shape":
            saved["0.weight.exp_avg"] = torch.zeros(9)
        case "missing":
            del saved["0.weight.exp_avg_sq"]
    with pytest.raises(PartimentoError, match="TRAIN003"):
        load_state_by_name(module, optimizer, saved)


def test_a_bad_step_leaves_every_bit() -> None:
    module, optimizer = trained()
    before = {name: t.clone() for name, t in (named_state(module) | state_by_name(module, optimizer)).items()}
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    step_unless(torch.tensor(True), optimizer, 0.01)
    after = named_state(module) | state_by_name(module, optimizer)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_average_follows_its_formula() -> None:
    module = nn.Linear(2, 2, bias=False)
    module.register_buffer("count", torch.zeros((), dtype=torch.int64))
    ema = Ema(module, 0.5)
    expected = module.weight.detach().clone()
    for n in range(12):
        with torch.no_grad():
            module.weight += 1
        module.count += 1
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * module.weight.detach()
        torch.testing.assert_close(ema.weights["weight"], expected)
    assert ema.weights["count"] == 12


def test_other_weights_are_put_in_and_taken_out_even_after_a_failure() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in named_state(module).items()}
    other = {name: tensor + 1 for name, tensor in before.items()}
    with pytest.raises(ZeroDivisionError), judged(module, other):
        assert not module.training and not torch.is_grad_enabled()
        assert torch.equal(module[0].weight, other["0.weight"])
        1 / 0
    assert all(torch.equal(before[name], tensor) for name, tensor in named_state(module).items())
    assert module.training and not module[1].training and torch.is_grad_enabled()


def test_weights_that_do_not_fit_change_nothing() -> None:
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    with pytest.raises(PartimentoError, match="TRAIN003"):
        copy_into(named_state(module), {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)})
    assert torch.equal(module.weight, before)


def test_the_first_signal_asks_and_the_second_insists() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.getsignal(signal.SIGINT)  # handlers run between bytecodes
    assert signal.getsignal(signal.SIGTERM) is handler


def test_work_that_may_be_dropped_is_dropped_at_once() -> None:
    with Stop() as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            os.kill(os.getpid(), signal.SIGINT)
            signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            pytest.fail("a stop that was asked for before comes first")


def test_a_device_that_is_not_there_is_an_error() -> None:
    assert devices.pick("cpu").type == "cpu"
    for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if not there:
            with pytest.raises(PartimentoError, match="TRAIN005"):
                devices.pick(name)
