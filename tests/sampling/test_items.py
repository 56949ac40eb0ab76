"""An item is what it is told, its prompt and its seed: not its batch, nor how it is computed."""

from __future__ import annotations

import pytest
import torch
from tiny_decoders import PATTERNS, SPECIALS, K, V, tiny
from torch import Tensor

from partimento.models.conditions import Told
from partimento.sampling.generate import Played, generate
from partimento.sampling.guidance import UNGUIDED, Guidance
from partimento.sampling.rules import Noise, Rules, draw
from partimento.sampling.sheet import Ending
from partimento.tokens.patterns import NO_FRAME, Pattern, apply

RULES = Rules(0.9, top_k=9, top_p=0.97, min_p=0.01)
SEEDS = [11, 12, 13, 14]


def decoder():
    return tiny(tags=4, cross_width=10, cross_kv_heads=2, kv_heads=2)


def everything() -> tuple[Told, Told]:
    """Tags and a text of its own length for each of four items, one of them without text; and a null of its own."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(6) < torch.tensor([[6], [2], [0], [4]])
    null_mask = torch.arange(6) < torch.tensor([[1], [2], [3], [0]])
    told = Told(torch.randn(4, 32, generator=generator), torch.randn(4, 6, 10, generator=generator), mask)
    null = Told(torch.randn(4, 32, generator=generator), torch.randn(4, 6, 10, generator=generator), null_mask)
    return told, null


def some(told: Told, items: list[int]) -> Told:
    assert told.condition_BD is not None and told.memory_BMD is not None and told.mask_BM is not None
    return Told(told.condition_BD[items], told.memory_BMD[items], told.mask_BM[items])


@pytest.mark.parametrize("guidance", [UNGUIDED, Guidance(2.5), Guidance(2.5, "filter", 5)], ids=["1", "mix", "filter"])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
@torch.inference_mode()
def test_cached_playing_is_teacher_forcing(name: str, static: bool, guidance: Guidance) -> None:
    """The codes are those drawn, with the noise of the items, from one forward over the whole grid."""
    model, pattern, frames, given = decoder(), PATTERNS[name], 10, 3
    told, null = everything()
    prompt = torch.randint(0, V, (4, given, K))
    request = {"frames": frames, "seeds": SEEDS, "rules": RULES, "context": 250, "ending": Ending("never", "special")}
    request |= {"prompt_BTK": prompt, "told": told, "null": null, "guidance": guidance, "static": static}
    codes_BTK = torch.stack([item.codes_TK for item in generate(model, pattern, SPECIALS, **request)])
    assert torch.equal(codes_BTK[:, :given], prompt)

    grid_BSK = apply(codes_BTK, pattern, SPECIALS, ends=False)
    logits = model(grid_BSK[:, :-1], **told.arguments())
    if not guidance.neutral:
        u = model(grid_BSK[:, :-1], **null.arguments())
        mixed = u + guidance.scale * (logits - u)
        if guidance.rule == "filter":
            mixed = logits.masked_fill(mixed < mixed.topk(guidance.top_k).values[..., -1:], -torch.inf)
        logits = mixed
    logits[..., V] = -torch.inf
    noise, frame_SK = Noise(SEEDS, K, torch.device("cpu")), pattern.holds(0, grid_BSK.shape[1])
    compared = 0
    for step in range(1, grid_BSK.shape[1]):
        drawn_BK = draw(logits[:, step - 1], RULES, noise.at(step))
        for k in range(K):
            if given <= frame_SK[step, k] < frames and frame_SK[step, k] != NO_FRAME:
                assert torch.equal(grid_BSK[:, step, k], drawn_BK[:, k]), (step, k)
                compared += 1
    assert compared == (frames - given) * K


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("guidance", [UNGUIDED, Guidance(3.0, "filter", 5, "linear")], ids=["1", "filter"])
def test_the_batch_does_not_change_an_item(guidance: Guidance, static: bool) -> None:
    """Whatever it is told, its prompt and its seed: alone, in another order, twice, and past the context."""
    model, pattern = decoder(), Pattern.named("dia", K)
    told, null = everything()
    prompt = torch.randint(0, V, (4, 4, K))

    def play(items: list[int]) -> list[Played]:
        request = {"frames": 50, "seeds": [SEEDS[item] for item in items], "rules": RULES, "context": 30}
        request |= {"prompt_BTK": prompt[items], "told": some(told, items), "null": some(null, items)}
        return generate(model, pattern, SPECIALS, **request, guidance=guidance, static=static)

    together = play([0, 1, 2, 3])
    assert len({item.codes_TK.flatten()[12:].sum().item() for item in together}) == 4
    for items in ([2], [3, 0], [1, 1, 2]):
        for item, played in zip(items, play(items), strict=True):
            assert torch.equal(played.codes_TK, together[item].codes_TK)
            assert played.ended == together[item].ended
            torch.testing.assert_close(played.entropy_K, together[item].entropy_K)


def test_what_is_told_and_the_seed_matter() -> None:
    model, pattern = decoder(), PATTERNS["delay"]
    told, null = everything()

    def play(told: Told, seed: int) -> Tensor:
        request = {"frames": 12, "seeds": [seed], "rules": Rules(), "context": 250, "ending": Ending("never")}
        return generate(model, pattern, SPECIALS, **request, told=told)[0].codes_TK

    first = play(some(told, [0]), 1)
    assert torch.equal(first, play(some(told, [0]), 1))
    for others in (
        play(some(told, [0]), 2),
        play(some(null, [0]), 1),
        play(Told(some(told, [0]).condition_BD), 1),
    ):
        assert not torch.equal(first, others)


@pytest.mark.parametrize("guidance", [UNGUIDED, Guidance(2.5), Guidance(2.5, "filter", 5)], ids=["1", "mix", "filter"])
@pytest.mark.parametrize("static", [False, True])
@torch.inference_mode()
def test_books_with_fewer_codes_never_draw_more(static: bool, guidance: Guidance) -> None:
    """Book 1 has two codes, and an end is still an end; where that is not said it draws all of them."""
    told, null = everything()
    request = {"frames": 30, "seeds": SEEDS, "rules": Rules(), "context": 250, "told": told, "null": null}
    request |= {"guidance": guidance, "static": static, "ending": Ending("never", "free")}
    sizes = (V, 2, 5)
    played = generate(decoder(), PATTERNS["delay"], SPECIALS, cardinalities=sizes, **request)
    highest_K = torch.cat([item.codes_TK for item in played]).max(dim=0).values
    assert (highest_K < torch.tensor(sizes)).all() and highest_K[0] >= 5
    assert all((item.entropy_K <= torch.tensor(sizes).log() + 1e-5).all() for item in played)
    ending = {**request, "ending": Ending()}
    assert any(item.ended for item in generate(decoder(), PATTERNS["delay"], SPECIALS, cardinalities=sizes, **ending))
    free = torch.cat([item.codes_TK for item in generate(decoder(), PATTERNS["delay"], SPECIALS, **request)])
    assert (free.max(dim=0).values >= 5).all()
    whole = generate(decoder(), PATTERNS["delay"], SPECIALS, cardinalities=(V,) * K, **request)
    assert torch.equal(torch.cat([item.codes_TK for item in whole]), free)
