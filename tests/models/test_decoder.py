from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.loss import code_loss

VARIANTS = {
    "default": {},
    "musicgen": {"norm": "layer", "activation": "gelu", "positions": "sinusoidal", "qk_norm": False},
    "learned": {"positions": "learned", "activation": "gelu", "bias": True},
    "grouped": {"kv_heads": 2, "head_width": 6},
    "dia": {"kv_heads": 1, "head_width": 16, "qk_norm": False, "attention_scale": 1.0, "cross_width": 10},
    "cross": {"cross_width": 10, "cross_kv_heads": 2, "norm": "layer"},
    "turned": {"cross_width": 10, "cross_heads": 2, "cross_head_width": 6, "cross_attention_rope": True},
}


def tiny(seed: int = 0, **changes) -> CodeDecoder:
    torch.manual_seed(seed)
    sizes = {"codebooks": 3, "rows": 11, "outputs": 9, "width": 32, "layers": 2, "heads": 4}
    decoder = CodeDecoder(DecoderConfig(**{**sizes, "max_positions": 32, **changes}))
    for parameter in decoder.parameters():  # large weights, so that every path has an effect
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


def grid(batch: int = 2, steps: int = 12, books: int = 3, rows: int = 11, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, rows, (batch, steps, books), generator=torch.Generator().manual_seed(seed))


def extras(decoder: CodeDecoder, batch: int = 2) -> dict[str, torch.Tensor]:
    if decoder.config.cross_width is None:
        return {}
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])[:batch]
    return {"memory_BMD": torch.randn(batch, 5, decoder.config.cross_width), "memory_mask_BM": mask}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 4, 2], [12], [1, 11]])
@torch.inference_mode()
def test_cached_equals_teacher_forced_at_every_step(name: str, chunks: list[int]) -> None:
    decoder = tiny(**VARIANTS[name])
    given, extra = grid(), extras(decoder)
    expected = decoder(given, **extra)
    cache = decoder.make_cache(2, 12)
    got = [decoder(part, cache=cache, **extra) for part in given.split(chunks, dim=1)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(got, dim=1), expected, rtol=1e-5, atol=2e-5)


@torch.inference_mode()
def test_a_reset_cache_starts_at_position_0_again() -> None:
    decoder = tiny()
    cache = decoder.make_cache(2, 12)
    decoder(grid(), cache=cache)
    cache.reset()
    other = grid(seed=9)
    torch.testing.assert_close(decoder(other, cache=cache), decoder(other), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_causal_and_reading_every_earlier_row_of_every_book(name: str) -> None:
    decoder = tiny(**VARIANTS[name])
    given, extra = grid(), extras(decoder)
    expected = decoder(given, **extra)
    for step, book in itertools.product((0, 6, 11), range(3)):
        changed = given.clone()
        changed[:, step, book] = (changed[:, step, book] + 1) % 11
        got = decoder(changed, **extra)
        assert torch.equal(got[:, :step], expected[:, :step])
        assert ((got - expected)[:, step:].abs().amax(dim=(0, 2, 3)) > 1e-6).all()


@pytest.mark.parametrize("positions", ["rotary", "sinusoidal", "learned"])
@torch.inference_mode()
def test_positions(positions: str) -> None:
    decoder = tiny(positions=positions, norm="layer")
    given = grid()
    moved = (decoder(given) - decoder(given, start=7)).abs().max()
    # Rotary scores depend on differences of positions only.
    assert moved < 1e-4 if positions == "rotary" else moved > 1e-2
    same = given[:, :1].expand(-1, 12, -1)  # one id everywhere: only positions tell the rows apart
    spread = decoder(same).std(dim=1).max()
    assert spread < 1e-4 if positions == "rotary" else spread > 1e-2


@torch.inference_mode()
def test_embedding_and_heads_are_those_of_each_book() -> None:
    decoder = tiny(layers=1, positions="learned")
    torch.nn.init.zeros_(decoder.blocks[0].attention.out.weight)
    torch.nn.init.zeros_(decoder.blocks[0].feedforward.down.weight)
    given = grid()
    tables = decoder.embedding.view(3, 11, 32)
    x = sum(tables[k][given[..., k]] for k in range(3)) + decoder.added.table_PD[:12]
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * decoder.norm.weight
    heads = decoder.head.weight.view(3, 9, 32)
    expected = torch.stack([x @ heads[k].T for k in range(3)], dim=2)
    torch.testing.assert_close(decoder(given), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decoder(given, last=True), expected[:, -1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_is_the_loss_of_the_logits(name: str) -> None:
    decoder = tiny(**VARIANTS[name])
    given, extra = grid(steps=13), extras(decoder)
    rows, targets = given[:, :-1], given[:, 1:]
    options = {"weights_K": torch.tensor([2.0, 0.5, 0.5]), "label_smoothing": 0.1, "z_loss": 1e-3}
    got = decoder.loss(rows, targets, 8, **extra, **options)
    expected = code_loss(decoder(rows, **extra), targets, 8, **options)
    for field in dataclasses.fields(got):
        torch.testing.assert_close(getattr(got, field.name), getattr(expected, field.name), rtol=1e-5, atol=1e-5)
    weights = list(decoder.parameters())
    ours, theirs = (torch.autograd.grad(one.total, weights, allow_unused=True) for one in (got, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_attention_scale_default_and_explicit() -> None:
    given = grid()
    default, explicit, one = tiny(), tiny(attention_scale=8**-0.5), tiny(attention_scale=1.0)
    torch.testing.assert_close(default(given), explicit(given), rtol=1e-5, atol=1e-5)
    assert (default(given) - one(given)).abs().max() > 1e-2


@torch.inference_mode()
def test_qk_norm_makes_scores_blind_to_the_size_of_queries() -> None:
    for qk_norm in (True, False):
        decoder = tiny(qk_norm=qk_norm)
        before = decoder(grid())
        for block in decoder.blocks:
            block.attention.qkv.weight[:32] *= 50
        moved = (decoder(grid()) - before).abs().max()
        assert moved < 1e-3 if qk_norm else moved > 1e-2


@torch.inference_mode()
def test_an_empty_memory_is_no_memory() -> None:
    decoder = tiny(cross_width=10)
    memory, mask = torch.randn(2, 5, 10), torch.tensor([[True] * 5, [False] * 5])
    got = decoder(grid(), memory_BMD=memory, memory_mask_BM=mask)
    torch.testing.assert_close(got[1], decoder(grid())[1], rtol=1e-5, atol=1e-5)
    assert (got[0] - decoder(grid())[0]).abs().max() > 1e-2


def test_gradients_reach_every_weight_and_stay_finite_with_an_empty_memory() -> None:
    decoder = tiny(cross_width=10, tags=4, bias=True, norm="layer").train()
    condition = decoder.condition(torch.eye(4)[:2], torch.tensor([True, False]))
    memory, mask = torch.randn(2, 5, 10), torch.tensor([[True] * 5, [False] * 5])
    given = (torch.arange(22).view(2, 11, 1) + torch.arange(3)) % 11  # every id of every book
    decoder(given, condition_BD=condition, memory_BMD=memory, memory_mask_BM=mask).square().mean().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_dropout_in_training_only_and_from_the_seed() -> None:
    decoder = tiny(dropout=0.5)
    assert torch.equal(decoder(grid()), decoder(grid()))
    decoder.train()
    torch.manual_seed(3)
    first = decoder(grid())
    second = decoder(grid())
    torch.manual_seed(3)
    assert torch.equal(decoder(grid()), first) and not torch.equal(first, second)


def test_initialisation() -> None:
    torch.manual_seed(0)
    config = DecoderConfig(codebooks=4, rows=131, outputs=129, width=128, layers=8, heads=4, tags=16, bias=True)
    decoder = CodeDecoder(config)
    for name, parameter in decoder.named_parameters():
        std = float(parameter.detach().std(unbiased=False))
        if name.endswith("bias"):
            assert std == 0 and parameter.abs().max() == 0, name
        elif "norm" in name:
            assert std == 0 and (parameter == 1).all(), name
        elif name.endswith(("out.weight", "down.weight")):
            assert std == pytest.approx(0.02 / math.sqrt(16), rel=0.05), name
        else:
            assert std == pytest.approx(0.02, rel=0.25), name
    with torch.inference_mode():
        null = decoder.condition.null(2)
        log_p = decoder(grid(2, 50, 4, 131), condition_BD=null).log_softmax(-1)
    assert float(-log_p.mean()) == pytest.approx(math.log(129), rel=0.02)


def test_logits_are_float32_under_autocast() -> None:
    decoder = tiny(norm="layer", kv_heads=2)
    with torch.inference_mode():
        expected = decoder(grid())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = decoder(grid())
    assert got.dtype == torch.float32
    assert (got - expected).norm() / expected.norm() < 0.05


def test_config_resolves_goes_to_json_and_back() -> None:
    config = DecoderConfig(codebooks=3, rows=11, outputs=9, width=96, layers=2, heads=4)
    assert (config.kv_heads, config.head_width, config.feedforward) == (4, 24, 256)
    gelu = DecoderConfig(codebooks=3, rows=11, outputs=9, width=96, layers=2, heads=4, activation="gelu")
    assert gelu.feedforward == 384
    assert DecoderConfig.from_json(config.to_json()) == config
    with pytest.raises(PartimentoError, match="MODEL001"):
        DecoderConfig.from_json({**config.to_json(), "unknown": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 33},
        {"kv_heads": 3},
        {"norm": "batch"},
        {"activation": "relu"},
        {"positions": "none"},
        {"layers": 0},
        {"dropout": 1.0},
        {"width": 36, "heads": 4, "head_width": 7},
        {"kv_heads": 0},
        {"cross_heads": 0},
        {"cross_heads": 4, "cross_kv_heads": 3},
        {"positions": "learned", "cross_head_width": 5, "cross_attention_rope": True},
    ],
)
def test_impossible_configurations(wrong: dict) -> None:
    sizes = {"codebooks": 3, "rows": 11, "outputs": 9, "width": 32, "layers": 2, "heads": 4}
    with pytest.raises(PartimentoError) as caught:
        DecoderConfig(**{**sizes, **wrong})
    assert caught.value.code == "MODEL001"


def test_errors_of_forward() -> None:
    decoder, tagged = tiny(), tiny(tags=2)
    for model, given, extra, code in (
        (decoder, grid(rows=11) + 1, {}, "MODEL003"),
        (decoder, grid() - 1, {}, "MODEL003"),
        (decoder, grid(steps=33), {}, "MODEL004"),
        (decoder, grid(steps=2), {"start": 31}, "MODEL004"),
        (decoder, grid(), {"cache": decoder.make_cache(2, 11)}, "MODEL004"),
        (decoder, grid(), {"condition_BD": torch.zeros(2, 32)}, "MODEL005"),
        (decoder, grid(), {"memory_BMD": torch.zeros(2, 3, 32)}, "MODEL005"),
        (tagged, grid(), {}, "MODEL005"),
    ):
        with pytest.raises(PartimentoError) as caught:
            model(given, **extra)
        assert caught.value.code == code
    with pytest.raises(PartimentoError, match="MODEL004"):
        decoder.make_cache(1, 33)
