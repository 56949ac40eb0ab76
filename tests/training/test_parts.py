"""The averages, the signals, the devices: each against a closed form."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn

from partimento.errors import PartimentoError
from partimento.training import devices
from partimento.training.ema import Ema, copy_into, judged, named_state
from partimento.training.meter import Meter
from partimento.training.stop import Stop


def test_the_average_follows_its_formula() -> None:
    module = nn.Linear(2, 2, bias=False)
    module.register_buffer("count", torch.zeros((), dtype=torch.int64))
    ema = Ema(module, 0.5)
    expected = module.weight.detach().clone()
    for n in range(12):
        with torch.no_grad():
            module.weight += 1
        module.count += 1
        ema.update(torch.tensor(False))
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


def test_sums_in_float64_go_on_where_there_is_none() -> None:
    """A log line begun on a GPU and ended on MPS or a TPU (here: a device without numbers)."""
    before, after = Meter(), Meter()
    before.add(torch.tensor(2.0), torch.tensor(1.0), {"tokens": torch.tensor(3.0)}, torch.tensor(False))
    after.load(before.state(), torch.device("meta"))
    assert {name: tensor.dtype for name, tensor in after.state().items()} == dict.fromkeys(
        ("meter.loss", "meter.norm", "meter.steps", "meter.tokens"), torch.float32
    )
    after.load(before.state(), torch.device("cpu"))
    assert after.read(torch.zeros(0)) == ({"loss": 2.0, "norm": 1.0, "steps": 1.0, "tokens": 3.0}, [])
