"""What random weights are drawn from, what the report says of them, and what follows at step 0."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from partimento.models import initialise
from partimento.models.attention import CrossAttention, SelfAttention, TextAttention
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.dia import TextModel
from partimento.models.text import TextConfig, TextEncoder

OUTPUTS = 65


def model(text: dict[str, Any] | None = None, **changes: Any) -> TextModel:
    torch.manual_seed(0)
    encoder = TextEncoder(
        TextConfig(**{"vocabulary": 260, "length": 32, "width": 64, "layers": 2, "heads": 4} | (text or {}))
    )
    sizes = {
        "codebooks": 9,
        "rows": OUTPUTS + 3,
        "outputs": OUTPUTS,
        "width": 96,
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
    }
    both = TextModel(encoder, CodeDecoder(DecoderConfig(**{**sizes, "cross_width": encoder.width, **changes})), "empty")
    initialise.by_fan_in(both)
    return both


def told(both: TextModel) -> dict[str, Tensor | None]:
    text = torch.randint(1, 260, (4, 32))
    mask = torch.arange(32) < torch.tensor([[32], [20], [7], [32]])
    return both.told(text, mask, torch.ones(4, dtype=torch.bool)).arguments()


@torch.no_grad()
def spreads(both: TextModel) -> dict[str, float]:
    """Standard deviation of the attention scores of every layer, recomputed from what its projections give."""
    found: dict[str, float] = {}

    def note(name: str, query: Tensor, key: Tensor, scale: float | None) -> None:
        key = key.repeat_interleave(query.shape[2] // key.shape[2], 2)
        scores = torch.einsum("bshe,bmhe->bhsm", query, key) * (query.shape[3] ** -0.5 if scale is None else scale)
        found[name] = float(scores.std())

    def self_hook(name: str) -> Any:
        def hook(layer: SelfAttention | TextAttention, given: tuple[Any, ...]) -> None:
            query, key, _ = layer.project(given[0], given[1], 0)
            note(name, query, key, layer.scale)

        return hook

    def cross_hook(name: str) -> Any:
        def hook(layer: CrossAttention, given: tuple[Any, ...]) -> None:
            query = layer.query(given[0]).unflatten(2, (layer.heads, layer.head_width))
            note(name, query, given[1][0].transpose(1, 2), layer.scale)

        return hook

    for name, part in both.named_modules():
        if isinstance(part, SelfAttention | TextAttention):
            part.register_forward_pre_hook(self_hook(name))
        elif isinstance(part, CrossAttention):
            part.register_forward_pre_hook(cross_hook(name))
    both.decoder(torch.randint(0, OUTPUTS, (4, 48, 9)), **told(both))
    return found


@pytest.mark.parametrize(("qk_norm", "expected"), [(False, 0.25), (True, 1.0)])
def test_attention_scores_begin_with_a_deviation_of_1_at_most(qk_norm: bool, expected: float) -> None:
    found = spreads(model({"qk_norm": qk_norm}, qk_norm=qk_norm))
    assert len(found) == 2 + 2 * 3
    for name, spread in found.items():
        if "cross" not in name:  # cross attention has no QK norm
            assert 0.7 < spread / expected < 1.2, (name, spread)
    assert max(found.values()) < 1.2


def test_the_scale_of_published_weights_makes_them_wide() -> None:
    """Defect A2: sqrt(head width) times as wide, 11 times at Dia's 128."""
    usual = spreads(model({"qk_norm": False}, qk_norm=False))
    found = spreads(model({"attention_scale": 1.0, "qk_norm": False}, attention_scale=1.0, qk_norm=False))
    heads = {name: 16 if name.startswith("encoder") else 24 for name in usual}
    assert all(0.6 < found[name] / usual[name] / heads[name] ** 0.5 < 1.6 for name in usual), found


@pytest.mark.parametrize("changes", [{}, {"codebooks": 18}, {"positions": "learned", "norm": "layer", "bias": True}])
def test_the_first_loss_is_that_of_a_guess(changes: dict[str, Any]) -> None:
    both = model(**changes)
    books = both.decoder.config.codebooks
    grid, targets = torch.randint(0, OUTPUTS, (2, 4, 48, books)).unbind(0)
    loss = both.decoder.loss(grid, targets, OUTPUTS - 1, **told(both))
    assert abs(float(loss.total.detach() / loss.count) - math.log(OUTPUTS)) < 0.05


@torch.no_grad()
def test_streams_keep_their_scale_at_any_depth() -> None:
    for layers in (2, 12):
        both, seen = model(layers=layers), []
        for block in both.decoder.blocks:
            block.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(float(given[0].std())))
        both.decoder(torch.randint(0, OUTPUTS, (4, 48, 9)), **told(both))
        assert 0.045 < seen[0] < 0.055 and 1 <= seen[-1] / seen[0] < 1.5


def test_the_report_names_every_weight_once_with_its_fan_in() -> None:
    both = model()
    rows = initialise.report(both)
    names = {row["name"].partition("[")[0] for row in rows}
    assert names == {name for name, _ in both.named_parameters()}
    assert len({row["name"] for row in rows}) == len(rows)
    fan_in = {row["name"]: row["fan_in"] for row in rows}
    assert fan_in["decoder.blocks.0.attention.qkv.weight[1]"] == 96
    assert fan_in["decoder.blocks.0.cross.key_value.weight[0]"] == 64
    assert fan_in["encoder.blocks.1.feedforward.down.weight"] == both.encoder.blocks[1].feedforward.down.in_features
    kinds = {row["name"]: row["kind"] for row in rows}
    assert kinds["decoder.head.weight"] == "head" and kinds["decoder.blocks.2.cross.out.weight"] == "writer"
    assert kinds["encoder.embedding"] == kinds["decoder.embedding"] == "embedding"
    assert kinds["decoder.blocks.0.attention.key_norm.weight"] == "gain"
    for row in rows:
        assert abs(row["ratio"] - 1) <= 5 / math.sqrt(2 * row["entries"]), row
    assert sum(row["entries"] for row in rows) == sum(parameter.numel() for parameter in both.parameters())


def test_the_report_shows_a_mistaken_fan() -> None:
    """Defect A3: Xavier that takes a kernel [E, H, D] for a convolution, here of the queries of one layer."""
    both = model()
    qkv = both.decoder.blocks[1].attention.qkv
    kernel = torch.empty(96, 4, 24)
    nn.init.xavier_uniform_(kernel)
    with torch.no_grad():
        qkv.weight[:96].copy_(kernel.flatten(1).T)
        both.decoder.norm.weight[3] = 0.5
    wrong = {row["name"]: row["ratio"] for row in initialise.report(both) if not 0.8 < row["ratio"] < 1.25}
    assert set(wrong) == {"decoder.blocks.1.attention.qkv.weight[0]", "decoder.norm.weight"}
    assert wrong["decoder.blocks.1.attention.qkv.weight[0]"] < 0.6


def test_notes_name_what_is_unusual_about_a_shape() -> None:
    usual = model()
    assert initialise.notes(usual.decoder.config) == initialise.notes(usual.encoder.config) == []
    sizes = {"codebooks": 2, "rows": 9, "outputs": 8, "layers": 1}
    narrow = DecoderConfig(**sizes, width=1024, heads=4, head_width=128)
    assert initialise.notes(narrow) == ["4 heads of 128 are 512 wide in a model of width 1024: a bottleneck"]
    crossed = DecoderConfig(**sizes, width=64, heads=4, cross_width=32, cross_heads=2, attention_scale=0.25)
    assert initialise.notes(crossed) == ["2 cross heads of 16 are 32 wide in a model of width 64: a bottleneck"]
    published = TextConfig(256, 64, 1024, 1, 16, head_width=128, attention_scale=1.0)
    wide, scale = initialise.notes(published)
    assert "2048 wide" in wide and "0.0884" in scale and "11.3" in scale
