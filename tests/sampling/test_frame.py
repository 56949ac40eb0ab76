"""Compiled playing plays what the operators one by one play: same seeds, same codes."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from partimento.errors import PartimentoError
from partimento.models.conditions import Told
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.linear import Linear
from partimento.models.native import program
from partimento.sampling.generate import Played, generate
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.sampling.sheet import Ending
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials

CODES, BOOKS, SEEDS = 24, 3, [0, 1, 2]


@pytest.fixture(scope="module")
def decoder() -> CodeDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(
        codebooks=BOOKS, rows=CODES + 3, outputs=CODES + 1, width=32, layers=2, heads=4, kv_heads=2, cross_width=16
    )
    made = CodeDecoder(config)
    for weight in made.parameters():
        if weight.ndim > 1:
            weight.data.mul_(4)
    return made


def play(decoder: CodeDecoder, **changes: Any) -> list[Played]:
    generator = torch.Generator().manual_seed(3)
    request: dict[str, Any] = {
        "frames": 90,
        "seeds": SEEDS,
        "rules": Rules(temperature=0.9, top_k=18),
        "context": 40,
        "prompt_BTK": torch.randint(0, CODES, (3, 15, BOOKS), generator=generator),
        "told": Told(None, torch.randn(3, 7, 16, generator=generator), torch.rand(3, 7, generator=generator) > 0.4),
        "ending": Ending("never"),
    }
    request |= changes
    return generate(decoder, Pattern.named("delay", BOOKS), Specials.after(CODES), **request)


def assert_same(found: list[Played], expected: list[Played]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.codes_TK, b.codes_TK) and a.ended == b.ended
        torch.testing.assert_close(a.entropy_K, b.entropy_K, atol=1e-4, rtol=0)


REQUESTS: dict[str, dict[str, Any]] = {
    "with a prompt, over windows": {},
    "from nothing": {"prompt_BTK": None},
    "guided": {"guidance": Guidance(2.5)},
    "guided by a filter": {"guidance": Guidance(3.0, "filter", 8)},
    "greedy, may end": {"rules": Rules(temperature=0.0), "ending": Ending("argmax", "end"), "frames": 40},
    "one item in a wide context": {"context": 400, "rules": Rules(top_p=0.9)},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_codes_are_those_of_the_operators_one_by_one(decoder: CodeDecoder, name: str) -> None:
    assert_same(play(decoder, compile=True, **REQUESTS[name]), play(decoder, **REQUESTS[name]))


def test_a_decoder_that_trains_is_left_as_it_was(decoder: CodeDecoder) -> None:
    decoder.train()
    play(decoder, compile=True, weights="int8")
    assert decoder.training and all(part.narrow is None for part in decoder.modules() if isinstance(part, Linear))


def test_items_do_not_depend_on_their_batch_in_any_weights(decoder: CodeDecoder) -> None:
    memory_BMD = torch.randn(3, 7, 16)
    told, one = Told(None, memory_BMD), Told(None, memory_BMD[1:2])
    for weights in ("full", "bf16", "int8"):
        together = play(decoder, told=told, prompt_BTK=None, compile=True, weights=weights)
        alone = play(decoder, told=one, prompt_BTK=None, seeds=[1], compile=True, weights=weights)
        assert torch.equal(alone[0].codes_TK, together[1].codes_TK)


def test_narrow_weights_need_compiled_steps(decoder: CodeDecoder) -> None:
    with pytest.raises(PartimentoError, match="SAMPLE022"):
        play(decoder, weights="int8")


def test_what_cannot_be_compiled_is_said(decoder: CodeDecoder) -> None:
    class Adapted(Linear):
        pass

    wide = CodeDecoder(decoder.config).double()
    with pytest.raises(PartimentoError, match="SAMPLE021") as refused:
        play(wide, compile=True)
    assert "float64" in str(refused.value.why)
    wide = CodeDecoder(decoder.config)
    wide.blocks[1].get_submodule("feedforward").down = Adapted(wide.config.feedforward or 0, 32)
    with pytest.raises(PartimentoError, match="SAMPLE021") as refused:
        play(wide, compile=True)
    assert "blocks.1.feedforward.down" in str(refused.value.why)


@pytest.mark.parametrize("fault", ["InvalidCxxCompiler", "CppCompileError"])
def test_without_a_compiler_there_is_one_clear_error(
    decoder: CodeDecoder, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    kind = getattr(importlib.import_module("torch._inductor.exc"), fault)

    def fail() -> None:
        raise kind() if fault == "InvalidCxxCompiler" else kind(["g++", "x.cpp"], "fatal error: cstdint: no such file")

    monkeypatch.setattr(program, "library", fail)
    with pytest.raises(PartimentoError, match="SAMPLE020") as refused:
        play(decoder, compile=True)
    assert "compiler" in str(refused.value.why)


@pytest.mark.slow  # torch's compiler takes half a minute
def test_static_steps_are_compiled_once(decoder: CodeDecoder) -> None:
    """Not again for other windows, seeds, prompts and conditions of the same shapes; codes as ever."""
    counters = importlib.import_module("torch._dynamo.utils").counters
    request: dict[str, Any] = {"guidance": Guidance(2.5)}
    assert_same(play(decoder, static=True, compile=True, **request), play(decoder, **request))
    made = counters["stats"]["unique_graphs"]
    other = {"seeds": [7, 8, 9], "prompt_BTK": torch.randint(0, CODES, (3, 15, BOOKS))}
    assert_same(play(decoder, static=True, compile=True, **request, **other), play(decoder, **request, **other))
    assert counters["stats"]["unique_graphs"] == made
    narrow = {"compile": True, "weights": "int8"}
    assert_same(play(decoder, static=True, **narrow, **request), play(decoder, **narrow, **request))
