"""A plan of a training that starts from weights: from weights.json alone, and with nothing for what is frozen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from lab_planted import make_pack, make_weights, weighted
from test_plan import really_kept
from torch.utils.flop_counter import FlopCounterMode

from partimento.errors import PartimentoError
from partimento.lab.plan import plan
from partimento.lab.plan.sketch import sketch
from partimento.lab.plan.trace import trace
from partimento.training.ema import named_state
from partimento.training.optim import Optimizers
from partimento.training.tasks import make_task

LORA = {"model__lora_rank": 2, "model__lora_targets": ["attention", "cross"]}
FROZEN = {"model__freeze": ["^encoder", "feedforward"]}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return make_pack(tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def description(weights, tmp_path_factory):
    """The same folder without its tensors."""
    folder = tmp_path_factory.mktemp("weights") / "described"
    folder.mkdir()
    shutil.copy(weights / "weights.json", folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("how", [{}, LORA, FROZEN, {**LORA, "model__lora_dropout": 0.1}])
def test_activations_are_those_that_a_training_keeps(pack, weights, description, precision, how):
    """Within 10 %, as those of a training from scratch."""
    drawn = sketch(weighted(pack, description, **how))
    found = trace(drawn.objective, drawn.inputs(drawn.stages[0]), 8, precision)
    task = make_task(weighted(pack, weights, **how), torch.device("cpu"))
    real = really_kept(task.objective.train(), task.inputs(task.batch(0, 0)), precision)
    estimate = 8 * found.activations("none") - found.largest + found.copies
    assert estimate == pytest.approx(real, rel=0.1), estimate / real


@pytest.mark.parametrize("how", [{}, LORA, FROZEN])
def test_what_is_frozen_has_no_gradients_moments_averages_or_checkpoint(pack, weights, description, how):
    found = plan(weighted(pack, description, **how))
    settings = weighted(pack, weights, **how)
    module = make_task(settings, torch.device("cpu")).module
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    memory = found.options[0].memory
    assert (found.trainable, found.parameters) == (trained, sum(p.numel() for p in module.parameters()))
    assert memory.gradients == memory.average == 4 * trained
    moments = [tensor for tensor in Optimizers(module, settings.optim).state().values() if tensor.ndim]
    assert memory.moments == sum(t.numel() * t.element_size() for t in moments) == 8 * trained
    saved = sum(t.numel() * t.element_size() for t in named_state(module).values())
    assert found.checkpoint_bytes == 2 * saved + memory.moments
    assert memory.weights >= 4 * found.parameters


def test_frozen_weights_save_operations(pack, description):
    full, frozen, lora = (plan(weighted(pack, description, **how)).flops for how in ({}, FROZEN, LORA))
    assert 0.6 * full < frozen < full and 0.6 * full < lora < full


def test_adapters_are_an_option_of_a_full_training(pack, description):
    full = plan(weighted(pack, description))
    (option,) = [one for one in full.options if one.settings == "model.lora_rank=16"]
    really = plan(weighted(pack, description, model__lora_rank=16)).options[0].memory
    assert option.memory == really and option.memory.moments < full.options[0].memory.moments
    assert not [one for one in plan(weighted(pack, description, **LORA)).options if "lora" in one.settings]


def test_weights_that_are_not_there_name_the_command_that_makes_them(pack, tmp_path):
    with pytest.raises(PartimentoError, match="WEIGHTS001") as caught:
        plan(weighted(pack, tmp_path / "none"))
    assert "partimento weights import" in caught.value.next


def test_a_training_wants_the_tensors(pack, description):
    with pytest.raises(PartimentoError, match="WEIGHTS002"):
        make_task(weighted(pack, description), torch.device("cpu"))


def test_no_hint_speaks_of_a_size_that_the_weights_decide(pack, description):
    kinds = {one.kind for one in plan(weighted(pack, description)).advice}
    assert not kinds & {"undersized", "short"}


def test_the_parts_of_both_networks_are_told(pack, description):
    parts = plan(weighted(pack, description)).parts
    assert {"encoder.blocks", "decoder.blocks", "decoder.head"} <= parts.keys()
    assert json.dumps(parts) and Path(description / "weights.json").is_file()


@pytest.mark.parametrize("how", [{}, LORA, FROZEN])
def test_operations_are_those_that_torch_counts(pack, description, how):
    """Within 8 %: what the first of so few layers does not need (no gradient of its input) is not left out."""
    drawn = sketch(weighted(pack, description, **how))
    with FlopCounterMode(display=False) as counter:
        drawn.objective(*drawn.inputs(drawn.stages[0]))[0].backward()
    found = plan(weighted(pack, description, **how))
    assert found.micro_flops == pytest.approx(counter.get_total_flops(), rel=0.08)
