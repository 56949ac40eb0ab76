"""Types: what is kept must be float32, and what products run in is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from partimento.config import Optim, Train
from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.training import audit, compiled, devices
from partimento.training.ema import Ema
from partimento.training.optim import Optimizers

CPU = torch.device("cpu")


def decoder() -> CodeDecoder:
    torch.manual_seed(0)
    return CodeDecoder(DecoderConfig(codebooks=3, rows=20, outputs=17, width=32, layers=2, heads=2)).train()


def trained() -> tuple[CodeDecoder, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    module = decoder()
    optimizer = Optimizers(module, Optim())
    module(torch.randint(0, 16, (1, 5, 3))).sum().backward()
    optimizer.step(torch.tensor(False), 1.0)
    return module, optimizer.state(), Ema(module, 0.9).weights


def test_a_healthy_training_is_counted_by_role_and_type() -> None:
    module, moments, averages = trained()
    found = audit.check(audit.kept(module, moments, averages))
    parameters = len(list(module.parameters()))
    assert found["parameter float32"] == found["gradient float32"] == parameters
    assert found["moment float32"] >= 2 * parameters and found["average float32"] == parameters
    assert not any("bfloat16" in name for name in found)


def half_moment(module: nn.Module, moments: dict[str, torch.Tensor], averages: dict[str, torch.Tensor]) -> str:
    name = next(name for name in moments if name.endswith("exp_avg_sq"))
    moments[name] = moments[name].bfloat16()
    return f"moment of {name} is bfloat16"


def half_weight(module: nn.Module, moments: dict[str, torch.Tensor], averages: dict[str, torch.Tensor]) -> str:
    module.head.weight.data = module.head.weight.data.half()  # type: ignore[union-attr]
    return "parameter of head.weight is float16"


def half_average(module: nn.Module, moments: dict[str, torch.Tensor], averages: dict[str, torch.Tensor]) -> str:
    averages["norm.weight"] = averages["norm.weight"].bfloat16()
    return "average of norm.weight is bfloat16"


def half_buffer(module: nn.Module, moments: dict[str, torch.Tensor], averages: dict[str, torch.Tensor]) -> str:
    module.register_buffer("running", torch.zeros(2, dtype=torch.bfloat16))
    return "buffer of running is bfloat16"


@pytest.mark.parametrize("spoil", [half_moment, half_weight, half_average, half_buffer])
def test_half_precision_that_is_kept_is_named(spoil: object) -> None:
    state = trained()
    message = spoil(*state)  # type: ignore[operator]
    with pytest.raises(PartimentoError, match=f"TRAIN045.*{message}"):
        audit.check(audit.kept(*state))


def test_a_whole_module_in_half_precision_is_counted() -> None:
    module = decoder().bfloat16()
    with pytest.raises(PartimentoError, match=r"TRAIN045.*and \d+ more") as caught:
        audit.check(audit.kept(module, {}, {}))
    names = {name for name, _ in module.named_parameters()}
    assert names <= set(caught.value.context["names"])


def test_frozen_weights_and_whole_numbers_are_free() -> None:
    module = nn.Sequential(nn.Linear(2, 2).bfloat16().requires_grad_(False), nn.Linear(2, 2))
    module.register_buffer("count", torch.zeros((), dtype=torch.int64))
    averages = {name: value.detach() for name, value in module.named_parameters()}
    found = audit.check(audit.kept(module, {}, averages))
    assert found["frozen bfloat16"] == 2 and found["parameter float32"] == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_products_are_counted_in_the_type_that_they_run_in(precision: str) -> None:
    module = decoder()
    compiled.prepare(module, Train(recompute="none"), CPU)
    grid = torch.randint(0, 16, (1, 5, 3))

    def forward_backward() -> None:
        with devices.autocast(CPU, precision):
            total = module(grid).square().sum()
        total.backward()

    found = audit.products(forward_backward)
    name = "bfloat16" if precision == "bf16" else "float32"
    # Four linear layers in each of two blocks and the heads, each with a product forward and two backward.
    assert found[f"product {name}"] == (4 * 2 + 1) * 3
    assert found[f"attention {name}"] == 2 * 2
    assert all(key.endswith(name) for key in found)
