"""Playing against transformers' DiaForConditionalGeneration.generate on the same random weights: every id of every row.

Their numbers of guidance are c + s (c - u). Both sides compute in float32; no tolerance but for the distributions.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from partimento.models.conditions import Told
from partimento.models.dia import TextModel
from partimento.models.weights import describe_dia, import_dia
from partimento.sampling import generate as generating
from partimento.sampling import row as rows_module
from partimento.sampling.generate import Played, generate
from partimento.sampling.guidance import Guidance, from_extrapolation
from partimento.sampling.rules import Rules, probabilities
from partimento.sampling.sheet import Ending, Sheet
from partimento.tokens.patterns import Pattern, apply
from partimento.tokens.spec import Specials

transformers = pytest.importorskip("transformers")

V, TEXT = 20, 9
EOS, PAD, BOS = V, V + 1, V + 2
SPECIALS = Specials.after(V)
DIA = Ending("argmax", "end")
GREEDY = Rules(temperature=0.0)
PATTERNS = {
    "dia": Pattern((0, 8, 9, 10)),
    "delay": Pattern((0, 1, 2, 3)),
    "compressed": Pattern((0, 0, 1, 1)),
    "stereo": Pattern((0, 2, 3, 0, 2, 3)),
    "odd": Pattern((0, 5, 2, 7)),
}
# Their scale, and top-k of the filter (None: drawn from the guided logits).
RULES = {"alone": (None, None), "mix": (2.0, None), "filter": (2.0, 6), "narrow": (4.0, 2)}


def dia(pattern: Pattern, seed: int, end: float = 0.0):
    """Random weights, with a logit of `end` times a random one for EOS in book 0, and as good as none above it."""
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 4, "head_dim": 8, "num_hidden_layers": 2, "intermediate_size": 40}
    config = transformers.DiaConfig(
        encoder_config={"hidden_size": 24, "num_key_value_heads": 4, "max_position_embeddings": TEXT, **heads},
        decoder_config={
            "hidden_size": 32,
            "num_key_value_heads": 2,
            "cross_num_attention_heads": 4,
            "cross_num_key_value_heads": 4,
            "cross_head_dim": 8,
            "cross_hidden_size": 24,
            "vocab_size": V + 4,
            "num_channels": pattern.codebooks,
            "max_position_embeddings": 128,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            **heads,
        },
        delay_pattern=list(pattern.delays),
    )
    model = transformers.DiaForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    head_KVD = model.logits_dense.weight.data.view(pattern.codebooks, V + 4, -1)
    head_KVD[0, EOS] *= end

    # Ids above EOS are never meant: a trained model gives them next to nothing, and ours has no logits for them.
    def silence(module, args, logits: Tensor) -> Tensor:
        logits = logits.unflatten(-1, (pattern.codebooks, V + 4)).clone()
        logits[..., EOS + 1 :] = -1e4
        return logits.flatten(-2)

    model.logits_dense.register_forward_hook(silence)
    return model


def ours_from(theirs) -> TextModel:
    model = TextModel.from_json(describe_dia(theirs.config.to_dict(), "0626").model).eval()
    import_dia(model, theirs.state_dict())
    return model


def texts(items: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    mask_BM = torch.arange(TEXT) < torch.tensor([TEXT, 4, 1, 7])[:items, None]
    return torch.randint(1, 256, (items, TEXT), generator=generator) * mask_BM, mask_BM


def their_request(text_BM: Tensor, mask_BM: Tensor, pattern: Pattern, prompt_BTK: Tensor | None) -> dict[str, Any]:
    """BOS and the prompt in their layout: PAD where they are to write."""
    prompt_BTK = torch.zeros(len(text_BM), 0, pattern.codebooks, dtype=torch.long) if prompt_BTK is None else prompt_BTK
    grid_BSK = apply(prompt_BTK, pattern, SPECIALS, ends=False)
    return {
        "input_ids": text_BM,
        "attention_mask": mask_BM.long(),
        "decoder_input_ids": grid_BSK,
        "decoder_attention_mask": torch.ones(grid_BSK.shape[:2], dtype=torch.long),
    }


@torch.no_grad()
def their_grid(theirs, frames: int, pattern: Pattern, rule: str, prompt_BTK: Tensor | None, items: int) -> Tensor:
    scale, top_k = RULES[rule]
    request = their_request(*texts(items), pattern, prompt_BTK)
    processors = theirs._get_logits_processor

    def with_top_k(generation_config, **extra):  # None given to `generate` would be their default, 50
        generation_config.top_k = top_k
        return processors(generation_config=generation_config, **extra)

    theirs._get_logits_processor = with_top_k
    return theirs.generate(
        **request, max_length=frames + 2, do_sample=False, guidance_scale=1.0 if scale is None else scale
    )


@torch.no_grad()
def our_grid(
    ours: TextModel, frames: int, pattern: Pattern, rule: str, prompt_BTK: Tensor | None, items: int, **changes: Any
) -> tuple[Tensor, list[Played]]:
    """The whole grid, with the end that belongs behind it."""
    scale, top_k = RULES[rule]
    guidance = Guidance()
    if scale is not None:
        guidance = Guidance(from_extrapolation(scale), "mix" if top_k is None else "filter", top_k or 45)
    told, null = conditions(ours, items)
    request = {"frames": frames, "seeds": list(range(items)), "rules": GREEDY, "context": 128, "ending": DIA, **changes}
    request |= {"told": told, "null": null, "guidance": guidance, "prompt_BTK": prompt_BTK}
    played = generate(ours.decoder, pattern, SPECIALS, **request)
    steps = max(pattern.steps(len(item.codes_TK), ends=True) for item in played)
    grid_BSK = torch.full((items, steps, pattern.codebooks), PAD)
    for item, row_SK in zip(played, grid_BSK, strict=True):
        whole_SK = apply(item.codes_TK[None], pattern, SPECIALS, ends=True)[0]
        row_SK[: len(whole_SK)] = whole_SK
    return grid_BSK, played


def conditions(ours: TextModel, items: int) -> tuple[Told, Told]:
    text_BM, mask_BM = texts(items)
    keep_B = torch.ones(items, dtype=torch.bool)
    return ours.told(text_BM, mask_BM, keep_B), ours.told(text_BM, mask_BM, ~keep_B)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_whole_clip(name: str, rule: str) -> None:
    """To the end that is forced: the same ids, EOS and PAD included, for a batch of texts of different lengths."""
    pattern, frames = PATTERNS[name], 16
    theirs = dia(pattern, seed=3)
    expected = their_grid(theirs, frames, pattern, rule, None, 3)
    got, played = our_grid(ours_from(theirs), frames, pattern, rule, None, 3)
    assert all(len(item.codes_TK) == frames and not item.ended for item in played)
    assert torch.equal(got, expected)
    assert not torch.equal(played[0].codes_TK, played[1].codes_TK), "the texts matter"
    assert (got[:, 1 : frames + 1, 0] < V).all() and (got[:, frames + 1, 0] == EOS).all()


# Seeds of models that want an end in the middle of some items, and in the first frame of none: there ours has no end.
EARLY = [
    ("dia", "alone", 5),
    ("dia", "alone", 14),
    ("dia", "mix", 0),
    ("dia", "mix", 23),
    ("dia", "filter", 14),
    ("dia", "narrow", 0),
    ("delay", "alone", 3),
    ("delay", "mix", 3),
    ("stereo", "alone", 1),
    ("stereo", "filter", 1),
    ("odd", "filter", 3),
    ("odd", "narrow", 4),
    ("compressed", "mix", 3),
]


@pytest.mark.parametrize(("name", "rule", "seed"), EARLY)
def test_a_clip_that_ends_by_itself(name: str, rule: str, seed: int) -> None:
    """Each item of a batch at its own frame, with the staggered EOS of the late books."""
    pattern, frames = PATTERNS[name], 16
    theirs = dia(pattern, seed, end=1.0)
    expected = their_grid(theirs, frames, pattern, rule, None, 3)
    got, played = our_grid(ours_from(theirs), frames, pattern, rule, None, 3)
    assert any(item.ended for item in played) and len({len(item.codes_TK) for item in played}) > 1
    assert torch.equal(got, expected)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("rule", ["alone", "mix", "filter"])
@pytest.mark.parametrize("name", ["dia", "stereo"])
def test_a_prompt_is_continued(name: str, rule: str, static: bool) -> None:
    pattern, frames = PATTERNS[name], 14
    theirs = dia(pattern, seed=6)
    prompt = torch.randint(0, V, (3, 5, pattern.codebooks))
    expected = their_grid(theirs, frames, pattern, rule, prompt, 3)
    got, played = our_grid(ours_from(theirs), frames, pattern, rule, prompt, 3, static=static)
    assert torch.equal(got, expected)
    assert all(torch.equal(item.codes_TK[:5], given) for item, given in zip(played, prompt, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 1.3])
@pytest.mark.parametrize("rule", ["alone", "mix", "filter"])
@torch.no_grad()
def test_what_is_drawn_from(rule: str, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our drawn codes through their model and their processors give our distributions, to 1e-5 in float32."""
    pattern, frames, items = PATTERNS["dia"], 12, 3
    theirs = dia(pattern, seed=4)
    scale, top_k = RULES[rule]
    rules = Rules(temperature, top_k=top_k or 0, top_p=0.9, min_p=0.03)
    drawn_from: list[Tensor] = []
    sheets: list[Sheet] = []
    draw = rows_module.draw

    def recorded(logits_BKV: Tensor, rules: Rules, uniform_BK: Tensor) -> Tensor:
        drawn_from.append(probabilities(logits_BKV.clone(), rules))
        return draw(logits_BKV, rules, uniform_BK)

    class Kept(Sheet):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            sheets.append(self)

    monkeypatch.setattr(rows_module, "draw", recorded)
    monkeypatch.setattr(generating, "Sheet", Kept)
    our_grid(ours_from(theirs), frames, pattern, rule, None, items, rules=rules, static=False)
    (sheet,) = sheets
    grid_BSK = sheet.grid_BSK.clone()

    config = theirs.generation_config
    config.update(do_sample=True, temperature=temperature, top_p=0.9, min_p=0.03, max_length=100)
    config.top_k, config.guidance_scale = top_k, scale
    *processors, _delays = theirs._get_logits_processor(config, 1, device="cpu", model_kwargs={})
    text_BM, mask_BM = texts(items)
    if scale is not None:
        text_BM, mask_BM = torch.cat([text_BM, torch.zeros_like(text_BM)]), mask_BM.repeat(2, 1)
    fed_BSK = grid_BSK.repeat(1 if scale is None else 2, 1, 1)
    scores = theirs(input_ids=text_BM, attention_mask=mask_BM.long(), decoder_input_ids=fed_BSK).logits
    compared = 0
    for step in range(1, sheet.steps):
        row = scores[:, step - 1].clone()
        for processor in processors:
            row = processor(torch.zeros(items * pattern.codebooks, step, dtype=torch.long), row)
        expected_BKV = row.softmax(-1).view(items, pattern.codebooks, -1)
        free_K = sheet.free_SK[step]
        got_BKV = drawn_from[step - 1][:, free_K[sheet.free_books[step]]]  # of the books from the first that is free
        torch.testing.assert_close(got_BKV, expected_BKV[:, free_K, : V + 1], rtol=0, atol=1e-5)
        compared += int(free_K.sum())
    assert compared == frames * pattern.codebooks
