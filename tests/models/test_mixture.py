from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from small_mixture import CARDINALITY, KINDS, PAD, awake, grids, mixture, texts, told
from torch import Tensor
from torch.nn import functional

from partimento.errors import PartimentoError
from partimento.models.conditions import Told
from partimento.models.llama import LlamaBlock
from partimento.models.loss import code_loss
from partimento.models.mixture import MixtureModel


def slow(model: MixtureModel, ids_m: Tensor, grid_SK: Tensor) -> Tensor:
    """Logits [S, K, V] of one item without pads, its keys as a list, its attention one row and one head at a time."""
    decoder, config = model.decoder, model.llama.config
    width, group = config.head_width, config.heads // config.kv_heads
    audio_SD = []
    for row in grid_SK:
        books = [decoder.embedding[decoder.offsets_K[k] + row[k]] for k in range(3) if row[k] != PAD]
        audio_SD.append(sum(books, torch.zeros(config.width)))
    x = [*model.llama.embedding(ids_m), *audio_SD]
    for layer, block in enumerate(model.llama.blocks):
        expert = decoder.experts[layer]
        queries, keys, values, normed = [], [], [], []
        for place, x_D in enumerate(x):
            audio = place >= len(ids_m)
            weigh = partial(expert.matrix, block) if audio else partial(_weight, block)
            of = expert.source(block) if audio else block
            normed.append(_norm(x_D, of.attention_norm.weight, config.norm_eps))
            q, k, v = (weigh(name) @ normed[-1] for name in ("query", "key", "value"))
            queries.append([_turn(h, place, config.rope_theta) for h in q.split(width)])
            keys.append([_turn(h, place, config.rope_theta) for h in k.split(width)])
            values.append(v.split(width))
        made = []
        for place, x_D in enumerate(x):
            audio = place >= len(ids_m)
            weigh = partial(expert.matrix, block) if audio else partial(_weight, block)
            of = expert.source(block) if audio else block
            heads = []
            for head in range(config.heads):
                key = torch.stack([keys[p][head // group] for p in range(place + 1)])
                value = torch.stack([values[p][head // group] for p in range(place + 1)])
                heads.append((key @ queries[place][head] / width**0.5).softmax(0) @ value)
            x_D = x_D + weigh("out") @ torch.cat(heads)
            if audio and expert.config.kind == "bottleneck":
                x_D = x_D + expert.attention_widen.weight @ functional.gelu(
                    expert.attention_narrow.weight @ normed[place]
                )
            n = _norm(x_D, of.feedforward_norm.weight, config.norm_eps)
            add = weigh("down") @ (functional.silu(weigh("gate") @ n) * (weigh("up") @ n))
            if audio and expert.config.kind == "bottleneck":
                add = add + expert.widen.weight @ functional.gelu(expert.narrow.weight @ n)
            if audio and expert.config.kind == "feedforward":
                inner = functional.gelu(expert.up.weight @ (expert.narrow.weight @ n))
                mine = expert.widen.weight @ (expert.down.weight @ inner)
                add = mine if expert.config.place == "instead" else add + mine
            made.append(x_D + add)
        x = made
    last = torch.stack([_norm(x_D, model.llama.norm.weight, config.norm_eps) for x_D in x[len(ids_m) :]])
    logits = (last @ decoder.head.weight.T).unflatten(-1, (-1, 12))
    return logits.expand(-1, 3, -1)


def _weight(block: LlamaBlock, name: str) -> Tensor:
    return getattr(block, name).weight


def _norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean() + eps).sqrt() * gain


def _turn(x: Tensor, place: int, theta: float) -> Tensor:
    half = len(x) // 2
    pairs = torch.complex(x[:half], x[half:])
    angle = place * theta ** (-torch.arange(half) / half)
    turned = pairs * torch.polar(torch.ones(half), angle)
    return torch.cat([turned.real, turned.imag])


CASES: list[tuple[str, dict[str, Any]]] = [(kind, {}) for kind in KINDS]
CASES += [
    ("feedforward", {"place": "instead"}),
    ("lora", {"alpha": 9.0}),
    ("feedforward", {"vocabulary": "shared"}),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
@torch.no_grad()
def test_forward_is_a_slow_model_written_another_way(kind: str, options: dict[str, Any]) -> None:
    model = awake(mixture(kind, **options)).eval()
    text_BM, _ = texts()
    grid = grids(steps=5)
    got = model.decoder(grid, **told(model, (True, True, False)))
    for item, length in enumerate((7, 3, 1)):
        there = slow(model, text_BM[item, :length], grid[item])
        torch.testing.assert_close(got[item], there, rtol=1e-4, atol=2e-5)
    assert got.std() > 0.1


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_steps_through_a_cache_are_teacher_forcing(kind: str, static: bool) -> None:
    model = awake(mixture(kind)).eval()
    grid, arguments = grids(), told(model, (True, False, True))
    there = model.decoder(grid, **arguments)
    cache = model.decoder.make_cache(3, 10, static=static)
    for _ in range(2):  # a cache that was reset keeps the text
        first = model.decoder(grid[:, :4], cache=cache, **arguments)
        last = model.decoder(grid[:, 4:6], cache=cache, last=True, **arguments)
        rest = [model.decoder(grid[:, s : s + 1], cache=cache) for s in range(6, 10)]
        got, rows = torch.cat([first, last, *rest], 1), [0, 1, 2, 3, *range(5, 10)]
        torch.testing.assert_close(got, there[:, rows], rtol=0, atol=1e-5)
        cache.reset()
    if not static:
        model.decoder(grid, cache=cache)
        with pytest.raises(PartimentoError, match="MODEL004"):
            model.decoder(grid[:, :1], cache=cache)


@torch.no_grad()
def test_padding_of_a_static_cache_is_never_seen() -> None:
    model = awake(mixture()).eval()
    grid, arguments = grids(), told(model)
    cache = model.decoder.make_cache(3, 10, static=True)
    model.decoder(grid[:, :6], cache=cache, **arguments)
    cache.move_to(3)  # rows 3, 4, 5 were padding
    got = model.decoder(grid[:, 3:4].flip(0), cache=cache)
    plain = model.decoder(torch.cat([grid[:, :3], grid[:, 3:4].flip(0)], 1), **arguments)
    torch.testing.assert_close(got[:, 0], plain[:, 3], rtol=0, atol=1e-5)


@torch.no_grad()
def test_another_text_begins_a_cache_anew() -> None:
    model = awake(mixture()).eval()
    grid, cache = grids(), model.decoder.make_cache(3, 10, static=False)
    model.decoder(grid[:, :4], cache=cache, **told(model))
    other = told(model, (False, False, False))
    torch.testing.assert_close(
        model.decoder(grid, cache=cache, **other), model.decoder(grid, **other), rtol=0, atol=1e-5
    )


@torch.no_grad()
def test_a_batch_is_its_items_and_guidance_is_two_batches() -> None:
    model = awake(mixture()).eval()
    (text, mask), grid, keep = texts(), grids(), torch.ones(3, dtype=torch.bool)
    together = model.told(text, mask, keep).followed_by(model.told(text[:, :1], mask[:, :1], ~keep))
    assert together.prefix is not None and together.prefix.mask_BM.shape == (6, 7)
    assert together.prefix.count_B.tolist() == [7, 3, 1, 1, 1, 1]
    got = model.decoder(grid.repeat(2, 1, 1), **together.arguments())
    for item in range(3):
        alone = model.told(text[item : item + 1, : (7, 3, 1)[item]], mask[item : item + 1, : (7, 3, 1)[item]], keep[:1])
        row = model.decoder(grid[item : item + 1], **alone.arguments())
        torch.testing.assert_close(got[item : item + 1], row, rtol=0, atol=1e-5)
    null = model.decoder(grid, **model.told(text, mask, ~keep).arguments())
    torch.testing.assert_close(got[3:], null, rtol=0, atol=1e-5)
    assert (got[0] - got[3]).abs().max() > 1e-2, "the text is read"


def test_the_null_condition_is_bos_whatever_was_said() -> None:
    model = mixture()
    text, mask = texts()
    null = model.told(text, mask, torch.zeros(3, dtype=torch.bool)).prefix
    other = model.told(text.roll(1, 1), mask, torch.zeros(3, dtype=torch.bool)).prefix
    assert null is not None and other is not None and null.count_B.tolist() == [1, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(null.keys_L, other.keys_L, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_all_that_is_trained_through_keys_and_values_and_nothing_frozen(kind: str) -> None:
    model = awake(mixture(kind)).train()
    arguments = told(model)
    assert not any(key.requires_grad for key in arguments["prefix"].keys_L)
    targets = grids().clamp(max=CARDINALITY)
    model.decoder.loss(grids(), targets, CARDINALITY, **arguments).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != (".llama." in name), name
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_keys_and_values_of_a_row_have_a_gradient() -> None:
    """The first row has no target: what it learns came through its keys and values alone."""
    model = mixture("none")
    grid = grids(steps=4)
    grid[:, 1:] = 5
    grid[:, 0] = 2
    targets = torch.full_like(grid, PAD)
    targets[:, -1] = 3
    model.decoder.loss(grid, targets, CARDINALITY, **told(model)).total.backward()
    assert model.decoder.embedding.grad is not None
    first = model.decoder.embedding.grad[model.decoder.offsets_K + 2]
    assert (first.abs().sum(1) > 0).all()


def test_a_cache_under_gradients_is_refused() -> None:
    model = mixture()
    cache = model.decoder.make_cache(3, 10)
    with pytest.raises(PartimentoError, match="MODEL042"):
        model.decoder(grids(), cache=cache, **told(model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocabulary", ["own", "shared"])
def test_the_loss_begins_at_the_logarithm_of_the_outputs(kind: str, vocabulary: str) -> None:
    model = mixture(kind, vocabulary=vocabulary)
    targets = grids(steps=30).clamp(max=CARDINALITY)
    found = model.decoder.loss(grids(steps=30), targets, CARDINALITY, **told(model))
    assert float(found.total.detach() / found.count) == pytest.approx(math.log(12), abs=0.06)


@pytest.mark.parametrize("vocabulary", ["own", "shared"])
def test_the_fused_loss_is_that_of_the_logits(vocabulary: str) -> None:
    model = awake(mixture(vocabulary=vocabulary))
    targets, arguments = grids().roll(1, 1), told(model)
    options: dict[str, Any] = {"weights_K": torch.tensor([1.0, 0.5, 2.0]), "label_smoothing": 0.1, "z_loss": 1e-3}
    fused = model.decoder.loss(grids(), targets, CARDINALITY, **arguments, **options)
    plain = code_loss(model.decoder(grids(), **arguments), targets, CARDINALITY, **options)
    torch.testing.assert_close(fused.total, plain.total)
    torch.testing.assert_close(fused.code_sum_K, plain.code_sum_K)
    trained = [p for p in model.parameters() if p.requires_grad]
    for ours, theirs in zip(
        torch.autograd.grad(fused.total, trained), torch.autograd.grad(plain.total, trained), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_pad_adds_nothing_and_learns_nothing() -> None:
    model = awake(mixture())
    grid = grids(steps=6)
    grid[:, :, 1] = PAD
    out = model.decoder(grid, **told(model))
    with torch.no_grad():  # rows of PAD are zero, and are not read even where they are not
        assert not model.decoder.embedding[model.decoder.offsets_K + PAD].any()
        model.decoder.embedding[model.decoder.offsets_K + PAD] += 1
    assert torch.equal(out, model.decoder(grid, **told(model)))
    out.sum().backward()
    assert model.decoder.embedding.grad is not None
    assert not model.decoder.embedding.grad[model.decoder.offsets_K + PAD].any()


def test_head_trains_the_whole_output_matrix_and_leaves_the_rows_of_text_alone() -> None:
    model = mixture(llama={"tied": True}, train_backbone="head")
    assert [name for name, p in model.llama.named_parameters() if p.requires_grad] == ["head.weight"]
    assert model.llama.head.weight is not model.llama.embedding.weight
    model.caption_loss(grids(), *texts())[0].backward()
    assert model.llama.head.weight.grad is not None and model.llama.embedding.weight.grad is None
    again = MixtureModel.from_json(model.to_json())
    assert again.to_json() == model.to_json() and not again.llama.config.tied


def test_all_trains_the_backbone_through_the_text() -> None:
    model = mixture(train_backbone="all")
    targets = grids().clamp(max=CARDINALITY)
    model.decoder.loss(grids(), targets, CARDINALITY, **told(model)).total.backward()
    grads = {name: p.grad for name, p in model.llama.named_parameters()}
    assert grads.pop("head.weight") is None  # the text's, which no target of audio needs
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    embedded = grads["embedding.weight"]
    assert embedded is not None and not embedded[0].any() and embedded[1].any()


def test_captions_are_learned_behind_the_rows() -> None:
    model = awake(mixture()).eval()
    text, mask = texts()
    grid = grids(steps=5)
    grid[1, 3:] = PAD  # a short clip
    total, count = model.caption_loss(grid, text, mask)
    assert int(count) == 11
    there = torch.zeros(())
    for item, (length, rows) in enumerate(((7, 5), (3, 3), (1, 5))):
        one = model.caption_loss(grid[item : item + 1, :rows], text[item : item + 1, :length], mask[:1, :length])
        assert int(one[1]) == length
        there = there + one[0]
    torch.testing.assert_close(total, there, rtol=1e-5, atol=1e-4)
    none, nothing = model.caption_loss(grid, text, torch.zeros_like(mask))
    assert float(none.detach()) == 0 and int(nothing) == 0
    total.backward()
    assert model.decoder.embedding.grad is not None and model.decoder.embedding.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.llama.parameters())


@torch.no_grad()
def test_the_loss_of_a_caption_is_that_of_its_logits_one_sequence() -> None:
    """Of kind none all rows pass the same blocks: text behind audio is one sequence of the stock model."""
    model = mixture("none").eval()
    text, mask, grid = texts((7,))[0], texts((7,))[1], grids(1, 5)
    llama = model.llama
    x = torch.cat([llama.embedding(text[:, :1]), model.decoder._embed(grid), llama.embedding(text)], 1)
    turn = llama.turn(torch.arange(x.shape[1])[None])
    for block in llama.blocks:
        x, _, _ = block(x, turn)
    logits = llama.logits(x)[0, 6:]
    target = torch.tensor([*text[0, 1:], 1])  # BOS ends it
    total, _ = model.caption_loss(grid, text, mask)
    torch.testing.assert_close(total, functional.cross_entropy(logits, target, reduction="sum"), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda text, mask: text[:, 2].fill_(31), "31"),
        (lambda text, mask: mask[1].fill_(False), "empty"),
        (lambda text, mask: mask[0, 2].fill_(False), "pads"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(change: Any, word: str) -> None:
    text, mask = texts()
    change(text, mask)
    with pytest.raises(PartimentoError) as caught:
        mixture().told(text, mask, torch.ones(3, dtype=torch.bool))
    assert caught.value.code == "MODEL044" and word in str(caught.value)


def test_what_does_not_fit_is_refused() -> None:
    model = mixture()
    with pytest.raises(PartimentoError, match="MODEL044"):
        model.decoder(grids())
    with pytest.raises(PartimentoError, match="MODEL003"):
        model.decoder(grids() + 1, **told(model))
    with pytest.raises(PartimentoError, match="MODEL004"):
        model.decoder(grids(steps=41), **told(model))
    tight = mixture(llama={"max_positions": 16})
    with pytest.raises(PartimentoError, match="MODEL004"):
        tight.decoder(grids(), **told(tight))
    with torch.no_grad(), pytest.raises(PartimentoError, match="MODEL004"):
        tight.decoder(grids()[:, :1], cache=tight.decoder.make_cache(3, 10), **told(tight))


@pytest.mark.parametrize(
    "change", [{"pad_row": 14}, {"rows": 0}, {"vocabulary": "both"}, {"window": 3}, {"experts": {"kind": "odd"}}]
)
def test_descriptions_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    stored = mixture().to_json()
    stored["decoder"] |= change
    with pytest.raises(PartimentoError, match="MODEL043"):
        MixtureModel.from_json(stored)
    with pytest.raises(PartimentoError, match="MODEL043"):
        MixtureModel.from_json({**mixture().to_json(), "train_backbone": "some"})


def test_other_decoders_never_see_a_prefix() -> None:
    assert set(Told().arguments()) == {"condition_BD", "memory_BMD", "memory_mask_BM"}
    assert set(told(mixture())) == {"prefix"}
