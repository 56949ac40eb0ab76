from __future__ import annotations

from typing import Any

import pytest
import torch
from small_mixture import KINDS, LLAMA, awake, grids, mixture, told

from partimento.errors import PartimentoError
from partimento.models.experts import MATRICES, ExpertConfig, make_expert
from partimento.models.llama import LlamaBlock, LlamaConfig


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_first_step_is_the_backbone(kind: Any) -> None:
    plain, model = mixture("none").eval(), mixture(kind).eval()
    model.decoder.embedding.copy_(plain.decoder.embedding)
    model.decoder.head.weight.copy_(plain.decoder.head.weight)
    there = plain.decoder(grids(), **told(plain))
    assert torch.equal(model.decoder(grids(), **told(model)), there)
    if kind != "none":
        assert not torch.equal(awake(model).decoder(grids(), **told(model)), there)


@torch.no_grad()
def test_instead_leaves_the_backbones_feedforward_out() -> None:
    model = mixture("feedforward", place="instead").eval()
    model.decoder.embedding.normal_()
    before = model.decoder(grids(), **told(model))
    arguments = told(model)
    for block in model.llama.blocks:
        block.gate.weight.zero_()  # of text it would change keys and values: these are those of before
    assert torch.equal(model.decoder(grids(), **arguments), before)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_product_is_the_matrix(kind: Any) -> None:
    llama = LlamaConfig(**LLAMA)
    block, expert = LlamaBlock(llama), make_expert(ExpertConfig(kind, width=8, inner=12, rank=3, alpha=5.0), llama)
    expert.initialise(block)
    for parameter in expert.parameters():
        parameter.normal_()
    for name in MATRICES:
        matrix = expert.matrix(block, name)
        x = torch.randn(5, matrix.shape[1])
        torch.testing.assert_close(expert.product(block, name, x), x @ matrix.T, rtol=1e-4, atol=1e-4)


def test_dropout_is_in_training_only() -> None:
    for kind in KINDS[1:]:
        model, arguments = awake(mixture(kind, dropout=0.5)), told(mixture(kind))
        model.train()
        assert not torch.equal(model.decoder(grids(), **arguments), model.decoder(grids(), **arguments)), kind
        model.eval()
        assert torch.equal(model.decoder(grids(), **arguments), model.decoder(grids(), **arguments))


def test_sizes_of_system_d() -> None:
    llama = LlamaConfig(128256, 2048, 16, 32, 8, 64, 8192, 1e-5, 5e5, None, True, 131072, 128000)
    with torch.device("meta"):
        expert = make_expert(ExpertConfig(), llama)
    counts = {name: p.numel() for name, p in expert.named_parameters()}
    assert 16 * (counts["narrow.weight"] + counts["widen.weight"]) == 67_108_864
    assert 16 * (counts["up.weight"] + counts["down.weight"]) == 134_217_728


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "expert"},
        {"place": "before"},
        {"kind": "lora", "place": "instead"},
        {"rank": 0},
        {"dropout": 1.0},
        {"alpha": 0.0},
        {"heads": 2},
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PartimentoError, match="MODEL043"):
        ExpertConfig.from_json({**ExpertConfig().to_json(), **change})
