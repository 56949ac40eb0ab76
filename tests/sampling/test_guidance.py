from __future__ import annotations

import pytest
import torch
from tiny_decoders import PATTERNS, SPECIALS, K, V, tiny
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.conditions import Told
from partimento.sampling.generate import generate
from partimento.sampling.guidance import UNGUIDED, Guidance, check_guidance, from_extrapolation, guide
from partimento.sampling.rules import Noise, Rules, draw
from partimento.sampling.sheet import FREE, Ending, Sheet
from partimento.tokens.patterns import Pattern, apply

NEVER = Ending(eos="never")
SHARE = torch.tensor(0.5)


def logits(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.randn(shape, generator=generator), 2 * torch.randn(shape, generator=generator)


def test_convention() -> None:
    c, u = logits(2, 3, 14)
    for rule in (Guidance(0.0), Guidance(1.0), Guidance(3.0), Guidance(0.4)):
        drawn_from, entropy_of = guide(c, u, rule, SHARE)
        torch.testing.assert_close(drawn_from, u + rule.scale * (c - u))
        assert entropy_of is drawn_from
    assert torch.equal(guide(c, u, Guidance(0.0), SHARE)[0], u)
    assert torch.equal(guide(c, u, Guidance(1.0), SHARE)[0], c)
    torch.testing.assert_close(guide(c, u, Guidance(from_extrapolation(2.0)), SHARE)[0], c + 2 * (c - u))
    assert from_extrapolation(0.0) == UNGUIDED.scale and from_extrapolation(-1.0) == 0 and UNGUIDED.neutral


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("top_k", [2, 5, 14, 100])
def test_the_filter_one_row_at_a_time(scale: float, top_k: int) -> None:
    c, u = logits(4, 3, 14)
    drawn_from, entropy_of = guide(c, u, Guidance(scale, "filter", top_k), SHARE)
    assert torch.equal(entropy_of, c)
    for b in range(4):
        for k in range(3):
            guided = [float(n + scale * (m - n)) for m, n in zip(c[b, k], u[b, k], strict=True)]
            chosen = sorted(range(14), key=lambda i, guided=guided: -guided[i])[:top_k]
            for i in range(14):
                assert drawn_from[b, k, i] == (c[b, k, i] if i in chosen else -torch.inf)


def test_the_filter_is_that_of_transformers() -> None:
    """Exactly: c where their guided top-k holds it, -inf elsewhere."""
    processors = pytest.importorskip("transformers").generation.logits_process
    c, u = logits(6, 40)
    theirs = processors.DiaClassifierFreeGuidanceLogitsProcessor(2.5, 7)(torch.zeros(6, 1), torch.cat([c, u]))
    guided = Guidance(from_extrapolation(2.5), "filter", 7)
    assert torch.equal(guide(c[None], u[None], guided, SHARE)[0][0], theirs)
    mixed = processors.DiaClassifierFreeGuidanceLogitsProcessor(2.5)(torch.zeros(6, 1), torch.cat([c, u]))
    torch.testing.assert_close(guide(c, u, Guidance(3.5), SHARE)[0], mixed, rtol=0, atol=1e-5)


def test_strength_of_schedules() -> None:
    share = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    for guidance, expected in (
        (Guidance(3.0), [3.0] * 5),
        (Guidance(3.0, fade="linear"), [3.0, 2.5, 2.0, 1.5, 1.0]),
        (Guidance(3.0, begin=0.25, end=0.5), [1.0, 3.0, 3.0, 1.0, 1.0]),
        (Guidance(3.0, fade="linear", begin=0.5), [1.0, 1.0, 2.0, 1.5, 1.0]),
        (Guidance(0.0, fade="linear"), [0.0, 0.25, 0.5, 0.75, 1.0]),
    ):
        torch.testing.assert_close(guidance.strength(share), torch.tensor(expected))


@pytest.mark.parametrize("rule", ["mix", "filter"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_where_the_strength_is_one_nothing_is_guided(rule: str, shape: tuple[int, ...]) -> None:
    c, u = logits(2, 3, 14)
    for guidance, share in ((Guidance(3.3, rule, 4, "linear"), 1.0), (Guidance(3.3, rule, 4, end=0.5), 0.6)):
        drawn_from, entropy_of = guide(c, u, guidance, torch.full(shape, share))
        assert torch.equal(drawn_from, c) and torch.equal(entropy_of, c)
        assert not torch.equal(guide(c, u, guidance, torch.full(shape, 0.3))[0], c)


@pytest.mark.parametrize("name", PATTERNS)
def test_share_of_a_row_is_where_book_0_stands(name: str) -> None:
    pattern, frames = PATTERNS[name], 9
    prompt = torch.zeros(1, 2, K, dtype=torch.long)
    device = torch.device("cpu")
    sheet = Sheet(pattern, SPECIALS, frames=frames, prompt_BTK=prompt, cardinality=V, ending=FREE, device=device)
    for frame in range(frames):
        assert float(sheet.share_S[pattern.step_of(frame, 0)]) == pytest.approx(frame / (frames - 1))
    assert (sheet.share_S.diff() >= 0).all() and sheet.share_S[0] == 0 and sheet.share_S[-1] == 1


def conditions(decoder) -> tuple[Told, Told]:
    tags = torch.eye(4)[:2]
    with torch.no_grad():
        told = Told(decoder.condition(tags, torch.tensor([True, True])))
        return told, Told(decoder.condition.null(2))


def slow(decoder, pattern, frames, rules, guidance, told, null) -> list[Tensor]:
    """The whole grid again for every row, books and ids one at a time; no ends, a free tail."""
    steps, noise = pattern.steps(frames, ends=False), Noise([1, 2], K, torch.device("cpu"))
    grid = torch.full((2, steps, K), SPECIALS.bos)
    for step in range(1, steps):
        c = decoder(grid[:, :step], condition_BD=told.condition_BD)[:, -1]
        u = decoder(grid[:, :step], condition_BD=null.condition_BD)[:, -1]
        frame = min(max((step - 1 - pattern.delays[0]) // pattern.stride, 0), frames - 1)
        share = frame / (frames - 1)
        s = guidance.scale if guidance.begin <= share <= guidance.end else 1.0
        if guidance.fade == "linear":
            s = 1 + (s - 1) * (1 - share)
        mixed = u + s * (c - u)
        if s != 1 and guidance.rule == "filter":
            kth = mixed.sort(-1, descending=True).values[..., guidance.top_k - 1 : guidance.top_k]
            c = torch.where(mixed >= kth, c, -torch.inf)
        elif s != 1:
            c = mixed
        c[..., V] = -torch.inf
        drawn = draw(c, rules, noise.at(step))
        for k in range(K):
            held = pattern.frame_at(step, k)
            if held is not None:
                grid[:, step, k] = drawn[:, k]
            elif step > pattern.delays[k]:
                grid[:, step, k] = SPECIALS.pad
    return [
        torch.stack([grid[b, [pattern.step_of(t, k) for t in range(frames)], k] for k in range(K)], 1) for b in (0, 1)
    ]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(3.0),
        Guidance(3.0, "filter", 4),
        Guidance(4.0, fade="linear"),
        Guidance(4.0, "filter", 3, "linear"),
        Guidance(3.0, begin=0.2, end=0.6),
        Guidance(3.0, "filter", 3, begin=0.3),
    ],
    ids=["mix", "filter", "fade", "filter-fade", "interval", "filter-begin"],
)
@torch.inference_mode()
def test_playing_against_the_slow_loop(name: str, static: bool, guidance: Guidance) -> None:
    decoder, pattern = tiny(tags=4), PATTERNS[name]
    told, null = conditions(decoder)
    rules = Rules(0.9, top_k=6, top_p=0.95, min_p=0.01)
    expected = slow(decoder, pattern, 11, rules, guidance, told, null)
    request = {"frames": 11, "seeds": [1, 2], "rules": rules, "context": 200, "ending": NEVER, "static": static}
    played = generate(decoder, pattern, SPECIALS, **request, told=told, null=null, guidance=guidance)
    for item, codes in zip(played, expected, strict=True):
        assert torch.equal(item.codes_TK, codes)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("rule", ["mix", "filter"])
def test_outside_of_its_interval_guidance_changes_nothing(rule: str, static: bool) -> None:
    decoder, pattern, frames = tiny(tags=4), Pattern.named("parallel", K), 20
    told, null = conditions(decoder)

    def play(guidance: Guidance, prompt: Tensor | None = None) -> Tensor:
        request = {"frames": frames, "seeds": [1, 2], "rules": Rules(), "context": 200, "ending": NEVER}
        made = generate(
            decoder,
            pattern,
            SPECIALS,
            **request,
            told=told,
            null=null,
            guidance=guidance,
            prompt_BTK=prompt,
            static=static,
        )
        return torch.stack([item.codes_TK for item in made])

    plain, late = play(UNGUIDED), play(Guidance(8.0, rule, 3, begin=0.5))
    assert torch.equal(plain[:, :10], late[:, :10]) and not torch.equal(plain, late)
    early = play(Guidance(8.0, rule, 3, end=0.5))
    assert torch.equal(play(UNGUIDED, early[:, :10]), early) and not torch.equal(plain, early)


def test_scale_zero_is_the_null_alone() -> None:
    decoder = tiny(tags=4)
    told, null = conditions(decoder)
    request = {"frames": 12, "seeds": [1, 2], "rules": Rules(), "context": 200, "ending": NEVER}
    zero = generate(decoder, PATTERNS["delay"], SPECIALS, **request, told=told, null=null, guidance=Guidance(0.0))
    alone = generate(decoder, PATTERNS["delay"], SPECIALS, **request, told=null)
    assert all(torch.equal(a.codes_TK, b.codes_TK) for a, b in zip(zero, alone, strict=True))


@pytest.mark.parametrize("static", [False, True])
def test_entropy_under_the_filter_is_that_of_the_conditional_distribution(static: bool) -> None:
    decoder, pattern = tiny(tags=4), Pattern.named("parallel", K)
    told, null = conditions(decoder)
    request = {"frames": 12, "seeds": [1, 2], "rules": Rules(), "context": 200, "ending": NEVER, "static": static}
    guidance = Guidance(3.0, "filter", 3)
    played = generate(decoder, pattern, SPECIALS, **request, told=told, null=null, guidance=guidance)
    codes = torch.stack([item.codes_TK for item in played])
    with torch.inference_mode():
        grid = apply(codes, pattern, SPECIALS, ends=False)[:, :-1]
        p = decoder(grid, condition_BD=told.condition_BD)[..., :V].softmax(-1)
    expected = -(p * p.log()).sum(-1).mean(1)
    got = torch.stack([item.entropy_K for item in played])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": -0.1},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"rule": "blend"},
        {"top_k": 1},
        {"top_k": 0},
        {"fade": "cosine"},
        {"begin": -0.1},
        {"end": 1.1},
        {"begin": 0.5, "end": 0.5},
        {"begin": float("nan")},
    ],
)
def test_guidance_out_of_range(wrong: dict) -> None:
    with pytest.raises(PartimentoError, match="SAMPLE010"):
        Guidance(**wrong)


def test_guidance_needs_a_condition_and_a_null() -> None:
    nothing, told = Told(), Told(torch.ones(1, 2))
    check_guidance(UNGUIDED, nothing, nothing)
    check_guidance(Guidance(2.0), told, told)
    check_guidance(Guidance(2.0), Told(memory_BMD=torch.ones(1, 2, 3)), nothing)  # its null reads nothing
    for given in ((nothing, nothing), (told, nothing), (nothing, told)):
        with pytest.raises(PartimentoError, match="SAMPLE002"):
            check_guidance(Guidance(2.0), *given)
