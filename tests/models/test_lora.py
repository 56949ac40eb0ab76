"""Adapters: nothing at the first step, only they are trained, and merged they give the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models import lora
from partimento.models.dia import TextModel
from partimento.models.linear import Linear, packed

ENCODER = {"kind": "bytes", "vocabulary": 256, "length": 8, "width": 24, "layers": 1, "heads": 2}
DECODER = {"codebooks": 3, "rows": 11, "outputs": 9, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2}
ALL = ("attention", "cross", "feedforward", "head")


@pytest.fixture
def model() -> TextModel:
    torch.manual_seed(0)
    stored = {"encoder": ENCODER, "decoder": {**DECODER, "cross_width": 24, "max_positions": 32}, "null": "empty"}
    return TextModel.from_json(stored).eval()


def logits(model: TextModel) -> Tensor:
    drawn = torch.Generator().manual_seed(1)
    text, grid = torch.randint(1, 256, (2, 8), generator=drawn), torch.randint(0, 11, (2, 6, 3), generator=drawn)
    told = model.told(text, torch.arange(8) < torch.tensor([[8], [3]]), torch.tensor([True, True]))
    return model.decoder(grid, **told.arguments())


def loss(model: TextModel) -> Tensor:
    grid, targets = torch.randint(0, 11, (2, 6, 3)), torch.randint(0, 8, (2, 6, 3))
    told = model.told(torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.bool), torch.ones(2).bool())
    return model.decoder.loss(grid, targets, 8, **told.arguments()).total


def trained(model: TextModel, targets: tuple[str, ...] = ALL, dropout: float = 0.0) -> list[str]:
    """Adapters with something in them."""
    names = lora.adapt(model, 2, 4.0, dropout, targets)
    for name in names:
        torch.nn.init.normal_(model.get_parameter(name), std=0.1)
    return names


def test_the_first_step_is_the_model_as_it_was_bit_for_bit(model: TextModel) -> None:
    before = logits(model)
    names = lora.adapt(model, 4, 4.0, 0.0, ALL)
    assert torch.equal(logits(model), before)
    # two blocks of nine layers, one of four in the encoder, and the head
    assert len(names) == 2 * (2 * 7 + 4 + 1)


def test_only_adapters_are_trained_and_all_of_them_move(model: TextModel) -> None:
    names = trained(model)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == set(names)
    assert all(name.endswith((".lora_A", ".lora_B")) for name in names)
    loss(model.train()).backward()
    assert all(bool(model.get_parameter(name).grad.abs().sum() > 0) for name in names)
    assert all(weight.grad is None for name, weight in model.named_parameters() if name not in names)


@pytest.mark.parametrize("targets", [("attention",), ("cross", "head"), ALL])
def test_merged_weights_give_the_same(model: TextModel, targets: tuple[str, ...]) -> None:
    plain, layout = logits(model), [layer.parts for layer in model.modules() if isinstance(layer, Linear)]
    names = trained(model, targets)
    adapted = logits(model).detach()
    assert (adapted - plain).abs().max() > 1e-3
    lora.merge(model)
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=1e-6 * float(adapted.abs().max().clamp(min=1)))
    assert not any("lora" in name for name, _ in model.named_parameters()) and names
    assert [layer.parts for layer in model.modules() if isinstance(layer, Linear)] == layout


def test_the_arithmetic_is_the_formulas() -> None:
    """W x + alpha / rank B A x, in float64."""
    torch.manual_seed(2)
    base = Linear(5, 7).double()
    layer = lora.Adapted(base, 3, 1.5, 0.0)
    assert layer.lora_A.dtype == torch.float64
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = x @ base.weight.T + base.bias + 1.5 / 3 * (x @ layer.lora_A.T) @ layer.lora_B.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.matrix(), base.weight + 0.5 * layer.lora_B @ layer.lora_A, rtol=0, atol=1e-12)


def test_a_is_drawn_as_kaiming_does() -> None:
    torch.manual_seed(3)
    layer = lora.Adapted(Linear(64, 8), 32, 1.0, 0.0)
    bound = 64**-0.5  # kaiming_uniform with a = sqrt 5: sqrt(6 / (6 fan_in))
    assert 0.95 * bound < float(layer.lora_A.detach().abs().max()) <= bound
    assert not layer.lora_B.any()


def test_dropout_is_of_the_adapter_and_of_training(model: TextModel) -> None:
    trained(model, ("attention",), dropout=0.5)
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_the_loss_knows_the_adapter_of_the_head(model: TextModel) -> None:
    trained(model, ("head",))
    torch.manual_seed(4)
    before = loss(model)
    lora.merge(model)
    torch.manual_seed(4)
    torch.testing.assert_close(loss(model), before, rtol=0, atol=1e-6)


def test_packed_and_compiled_layers_have_their_adapters(model: TextModel) -> None:
    trained(model)
    plain = logits(model)
    with torch.no_grad(), packed(model, 2):
        torch.testing.assert_close(logits(model), plain, rtol=0, atol=1e-5)
    layer = model.decoder.blocks[0].attention.qkv
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = torch.randn(2, 32)
    assert torch.equal(compiled(x), layer(x))


def test_what_cannot_be_adapted(model: TextModel) -> None:
    lora.adapt(model, 2, 2.0, 0.0, ("attention", "attention"))
    with pytest.raises(PartimentoError) as caught:
        lora.adapt(model, 2, 2.0, 0.0, ("cross",))
    assert caught.value.code == "MODEL032" and "already" in str(caught.value)
    with pytest.raises(PartimentoError) as caught:
        lora.adapt(model.encoder, 2, 2.0, 0.0, ("cross",))
    assert caught.value.code == "MODEL032"


def test_optimizers_take_the_adapters_of_fused_layers(model: TextModel) -> None:
    from partimento.config import Optim
    from partimento.training.groups import claim

    names = lora.adapt(model, 2, 2.0, 0.0, ALL)
    claims = claim(model, Optim(name="muon"))
    assert sorted(one.name for one in claims) == sorted(names)
    assert {one.optimizer for one in claims if "head" in one.name} == {"adamw"}
