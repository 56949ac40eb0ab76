"""Playing a mixture: what a cache, static steps or the C++ step play is what the decoder says of the whole grid."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import pytest
import torch
from test_generate import slow_loop
from tiny_decoders import PATTERNS, SPECIALS, K, V
from tiny_mixtures import EXPERTS, mixture, texts, told
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.conditions import NOTHING, Prefix
from partimento.models.mixture import MixtureModel
from partimento.sampling.generate import Played, generate
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.sampling.sheet import Ending
from partimento.tokens.patterns import NO_FRAME, apply

FRAMES, LENGTHS = 12, [5, 1, 9]
GREEDY, SAMPLED = Rules(temperature=0.0), Rules(temperature=0.9, top_k=8, top_p=0.95)
NEVER = Ending(eos="never")
WAYS: dict[str, dict[str, bool]] = {
    "growing": {"static": False},
    "static": {"static": True},
    "native": {"static": False, "compile": True},
}


def play(model: MixtureModel, pattern: str = "delay", **changes: Any) -> list[Played]:
    request: dict[str, Any] = {
        "frames": FRAMES,
        "seeds": [1, 2, 3],
        "rules": SAMPLED,
        "context": 200,
        "told": told(model, LENGTHS),
        "ending": NEVER,
    }
    return generate(model.decoder, PATTERNS[pattern], SPECIALS, **{**request, **changes})


def same(found: list[Played], expected: list[Played]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.codes_TK, b.codes_TK) and a.ended == b.ended
        torch.testing.assert_close(a.entropy_K, b.entropy_K, atol=1e-4, rtol=0)


def alone_each(model: MixtureModel) -> list[Prefix]:
    """The text of every item as if it were the only one: without pads."""
    text_BM, mask_BM = texts(LENGTHS)
    keep_1 = torch.ones(1, dtype=torch.bool)
    with torch.no_grad():
        each = [
            model.told(text_M[None, :length], mask_M[None, :length], keep_1).prefix
            for text_M, mask_M, length in zip(text_BM, mask_BM, LENGTHS, strict=True)
        ]
    return [prefix for prefix in each if prefix is not None]


@torch.no_grad()
def assert_likeliest(codes_TK: Tensor, pattern: str, logits_of: Any) -> None:
    """Every code that was played is the argmax of `logits_of(grid)` at its place."""
    rows = PATTERNS[pattern].steps(len(codes_TK), ends=False)
    rows -= PATTERNS[pattern].max_delay  # what follows the last frame of early books was drawn, and then cut
    grid_1SK = apply(codes_TK[None], PATTERNS[pattern], SPECIALS, ends=False)[:, :rows]
    forced_SK = logits_of(grid_1SK[:, :-1])[0, ..., :V].argmax(-1)
    frame_SK = torch.from_numpy(PATTERNS[pattern].holds(1, rows - 1).copy())
    held_SK = (frame_SK >= 0) & (frame_SK != NO_FRAME)
    assert held_SK.sum() > 20
    assert torch.equal(forced_SK[held_SK], grid_1SK[0, 1:][held_SK])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("experts", EXPERTS)
def test_playing_equals_teacher_forcing(experts: str, way: str) -> None:
    """The texts differ in length, so that rows stand at other positions in every item, and pads lie before some."""
    model = mixture(experts)
    for played, alone in zip(play(model, rules=GREEDY, **WAYS[way]), alone_each(model), strict=True):
        assert_likeliest(played.codes_TK, "delay", partial(model.decoder, prefix=alone))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("context", [200, 9])
@pytest.mark.parametrize("given", [0, 5])
@pytest.mark.parametrize(("pattern", "vocabulary"), [("delay", "own"), ("flat", "own"), ("flat", "shared")])
@torch.inference_mode()
def test_against_the_slow_loop(pattern: str, vocabulary: str, given: int, context: int, way: str) -> None:
    """Prompts, windows that slide while the text stays, and items that end by themselves."""
    model = mixture(vocabulary=vocabulary)
    prompt = torch.randint(0, V, (3, given, K)) if given else None
    texts = told(model, LENGTHS)
    decoder = partial(model.decoder, **texts.arguments())
    expected = slow_loop(decoder, PATTERNS[pattern], SPECIALS, FRAMES, [1, 2, 3], SAMPLED, context, prompt)
    played = play(model, pattern, told=texts, context=context, prompt_BTK=prompt, ending=Ending(), **WAYS[way])
    for item, codes_TK in zip(played, expected, strict=True):
        assert torch.equal(item.codes_TK, codes_TK)


def test_the_slow_loop_above_saw_ends() -> None:
    lengths = [len(item.codes_TK) for item in play(mixture(), ending=Ending())]
    assert min(lengths) < FRAMES


@pytest.mark.parametrize("way", WAYS)
def test_guidance_with_a_shorter_null(way: str) -> None:
    """u + s (c - u) of two prefixes, one of up to 9 steps and one of BOS alone; s = 1 is no guidance."""
    model = mixture()
    null = told(model, LENGTHS, null=True)
    unguided = play(model, **WAYS[way])
    same(play(model, null=null, guidance=Guidance(1.0), **WAYS[way]), unguided)
    for other in (null, told(model, [1, 1, 1])):  # BOS in as many steps as the text, or in one
        (played, *_) = play(model, rules=GREEDY, null=other, guidance=Guidance(3.0), **WAYS[way])
        text, nothing = told(model, [5]).prefix, told(model, [1]).prefix

        def guided(grid_1SK: Tensor, text: Any = text, nothing: Any = nothing) -> Tensor:
            null_1SKV = model.decoder(grid_1SK, prefix=nothing)
            return null_1SKV + 3 * (model.decoder(grid_1SK, prefix=text) - null_1SKV)

        assert_likeliest(played.codes_TK, "delay", guided)
    assert any(not torch.equal(a.codes_TK, b.codes_TK) for a, b in zip(play(model, told=null), unguided, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_an_item_does_not_depend_on_its_batch(way: str) -> None:
    model = mixture()
    together = play(model, **WAYS[way])
    same(play(model, told=told(model, LENGTHS[:1]), seeds=[1], **WAYS[way]), together[:1])
    same(play(model, told=told(model, LENGTHS[:2]), seeds=[1, 2], **WAYS[way]), together[:2])


@pytest.mark.parametrize("way", WAYS)
def test_pads_of_the_text_change_nothing(way: str) -> None:
    model = mixture()
    same(play(model, told=told(model, LENGTHS, steps=30), **WAYS[way]), play(model, **WAYS[way]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("context", [200, 9])
def test_continuing_a_beginning_gives_the_same_music(context: int, way: str) -> None:
    model = mixture()
    request = {"context": context, **WAYS[way]}
    whole = play(model, **request)
    prompt_BTK = torch.stack([item.codes_TK[:4] for item in whole])
    again = play(model, prompt_BTK=prompt_BTK, **request)
    for a, b in zip(again, whole, strict=True):
        assert torch.equal(a.codes_TK, b.codes_TK)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("pattern", "vocabulary"), [("delay", "own"), ("flat", "shared")])
def test_every_id_is_legal_at_its_place(pattern: str, vocabulary: str, way: str) -> None:
    """Books of 13, 9 and 5 codes: nothing else is drawn, and of those nearly everything at temperature 9."""
    cardinalities = (V, 9, 5)
    request: dict[str, Any] = {"rules": Rules(temperature=9.0), "cardinalities": cardinalities, "frames": 40}
    played = play(mixture(vocabulary=vocabulary), pattern, **request, **WAYS[way])
    codes_NK = torch.cat([item.codes_TK for item in played])
    for book, cardinality in enumerate(cardinalities):
        drawn = codes_NK[:, book].unique()
        assert int(drawn.min()) >= 0 and int(drawn.max()) < cardinality and len(drawn) > cardinality // 2


def test_what_cannot_be_played_is_said() -> None:
    model = mixture()
    with pytest.raises(PartimentoError, match="MODEL044"):
        play(model, told=NOTHING)
    with pytest.raises(PartimentoError, match="SAMPLE002"):
        play(model, guidance=Guidance(2.0))
    with pytest.raises(PartimentoError, match="SAMPLE001"):
        play(model, told=told(model, [3, 4]))
    with pytest.raises(PartimentoError, match="SAMPLE021") as refused:
        play(mixture().bfloat16(), compile=True)
    assert "bfloat16" in str(refused.value.why)


def test_nothing_of_the_playing_stays_behind() -> None:
    """The model learns after it was played, and plays what it then knows."""
    model = mixture("feedforward").train()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    first = play(model, compile=True)
    assert model.training and all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    with torch.no_grad():
        model.decoder.head.weight.mul_(-1.5)
    second, eager = play(model, compile=True), play(model)
    same(second, eager)
    assert not torch.equal(first[0].codes_TK, second[0].codes_TK)


@pytest.mark.slow  # torch's compiler takes half a minute
def test_static_steps_are_compiled_once() -> None:
    """Not again for other texts, seeds and prompts of the same shapes; codes as ever."""
    counters = importlib.import_module("torch._dynamo.utils").counters
    model = mixture("feedforward")
    request: dict[str, Any] = {"null": told(model, LENGTHS, null=True), "guidance": Guidance(2.0), "context": 9}
    same(play(model, static=True, compile=True, **request), play(model, **request))
    made = counters["stats"]["unique_graphs"]
    other = {**request, "told": told(model, [9, 4, 2]), "seeds": [7, 8, 9]}
    same(play(model, static=True, compile=True, **other), play(model, **other))
    assert counters["stats"]["unique_graphs"] == made
