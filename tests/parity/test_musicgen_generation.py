"""Playing against transformers' MusicgenForConditionalGeneration.generate on the same random weights: every code.

Theirs and ours count guidance alike. Both compute in float32; no tolerance but for the distributions.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from partimento.models.conditions import Told
from partimento.models.dia import TextModel
from partimento.models.weights import describe_musicgen, import_musicgen_whole
from partimento.models.weights.musicgen import book_order
from partimento.sampling import row as rows_module
from partimento.sampling.generate import generate
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules, probabilities
from partimento.sampling.sheet import Ending
from partimento.tokens.patterns import Pattern, apply
from partimento.tokens.spec import Specials

transformers = pytest.importorskip("transformers")

V, TEXT, ITEMS = 20, 7, 3
SPECIALS = Specials.musicgen(V)
MUSICGEN = Ending("never", "special")
GREEDY = Rules(temperature=0.0)


def musicgen(channels: int, seed: int, books: int = 4):
    """Random weights; `codes` of the model is what its audio codec was asked to decode, [B, K, T] a call."""
    torch.manual_seed(seed)
    t5 = {"vocab_size": 30, "d_model": 20, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 3}
    codec = {"num_filters": 2, "hidden_size": 8, "codebook_size": 16, "upsampling_ratios": [2, 2], "codebook_dim": 8}
    config = transformers.MusicgenConfig(
        text_encoder={"model_type": "t5", "dropout_rate": 0.0, **t5},
        audio_encoder={"model_type": "encodec", "num_lstm_layers": 1, **codec},
        decoder={
            "vocab_size": V,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "num_codebooks": books * channels,
            "audio_channels": channels,
            "max_position_embeddings": 64,
            "pad_token_id": V,
            "bos_token_id": V,
        },
    )
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith("audio_encoder."):
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    generation = model.generation_config
    generation.decoder_start_token_id = generation.pad_token_id = generation.bos_token_id = V
    generation.eos_token_id = None
    model.codes = []

    def decode(codes: Tensor, audio_scales: Any) -> SimpleNamespace:
        model.codes.append(codes[0])
        return SimpleNamespace(audio_values=torch.zeros(ITEMS, 1, 1))

    model.audio_encoder.decode = decode
    return model


def ours_from(theirs) -> tuple[TextModel, Pattern]:
    described = describe_musicgen(theirs.config.to_dict())
    model = TextModel.from_json(described.model).eval()
    import_musicgen_whole(model, theirs.state_dict(), theirs.config.decoder.audio_channels)
    assert described.ending == {"eos": MUSICGEN.eos, "tail": MUSICGEN.tail}
    return model, Pattern(described.delays)


def texts() -> tuple[Tensor, Tensor]:
    mask_BM = torch.arange(TEXT) < torch.tensor([[TEXT], [3], [1]])
    return torch.randint(1, 30, (ITEMS, TEXT), generator=torch.Generator().manual_seed(2)) * mask_BM, mask_BM


def conditions(ours: TextModel) -> tuple[Told, Told]:
    keep_B = torch.ones(ITEMS, dtype=torch.bool)
    return ours.told(*texts(), keep_B), ours.told(*texts(), ~keep_B)


@torch.no_grad()
def their_codes(theirs, frames: int, scale: float, prompt_BTK: Tensor | None, channels: int) -> Tensor:
    """[B, T, K], the books channel by channel as ours are."""
    books = theirs.config.decoder.num_codebooks
    text_BM, mask_BM = texts()
    request: dict[str, Any] = {"input_ids": text_BM, "attention_mask": mask_BM.long()}
    if prompt_BTK is not None:
        theirs_BKT = torch.empty(ITEMS, books, prompt_BTK.shape[1], dtype=torch.long)
        theirs_BKT[:, book_order(books, channels)] = prompt_BTK.transpose(1, 2)
        request["decoder_input_ids"] = theirs_BKT.flatten(0, 1)
    theirs.codes.clear()
    theirs.generate(**request, max_length=frames + books // channels, do_sample=False, guidance_scale=scale)
    return torch.cat(theirs.codes, dim=1).transpose(1, 2)  # mono in one call, stereo left and right


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("given", [0, 4])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("channels", [1, 2])
@torch.no_grad()
def test_a_whole_clip(channels: int, scale: float, given: int, static: bool) -> None:
    theirs, frames = musicgen(channels, seed=int(scale) + given), 18
    ours, pattern = ours_from(theirs)
    prompt = torch.randint(0, V, (ITEMS, given, pattern.codebooks)) if given else None
    expected = their_codes(theirs, frames, scale, prompt, channels)
    told, null = conditions(ours)
    request = {"frames": frames, "seeds": [1, 2, 3], "rules": GREEDY, "context": 64, "ending": MUSICGEN}
    request |= {"prompt_BTK": prompt, "told": told, "null": null, "guidance": Guidance(scale), "static": static}
    played = generate(ours.decoder, pattern, SPECIALS, **request)
    got = torch.stack([item.codes_TK for item in played])
    assert torch.equal(got, expected) and got.shape == (ITEMS, frames, 4 * channels)
    assert not torch.equal(got[0], got[1]), "the texts matter"


@pytest.mark.parametrize("scale", [1.0, 3.0])
@torch.no_grad()
def test_what_is_drawn_from(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our drawn codes through their model, guidance and warpers give our distributions, to 1e-5 in float32."""
    processors = transformers.generation.logits_process
    theirs, frames = musicgen(1, seed=9), 12
    ours, pattern = ours_from(theirs)
    told, null = conditions(ours)
    rules, drawn_from, draw = Rules(1.2, top_k=8), [], rows_module.draw

    def recorded(logits_BKV: Tensor, rules: Rules, uniform_BK: Tensor) -> Tensor:
        drawn_from.append(probabilities(logits_BKV, rules))
        return draw(logits_BKV, rules, uniform_BK)

    monkeypatch.setattr(rows_module, "draw", recorded)
    request = {"frames": frames, "seeds": [1, 2, 3], "rules": rules, "context": 64, "ending": MUSICGEN}
    guidance = Guidance(scale)
    played = generate(ours.decoder, pattern, SPECIALS, **request, told=told, null=null, guidance=guidance, static=False)
    grid_BSK = apply(torch.stack([item.codes_TK for item in played]), pattern, SPECIALS, ends=False)

    text_BM, mask_BM = texts()
    memory = theirs.enc_to_dec_proj(theirs.text_encoder(text_BM, attention_mask=mask_BM.long()).last_hidden_state)
    memory, memory_mask = memory * mask_BM[..., None], mask_BM.long()
    fed = grid_BSK.transpose(1, 2).flatten(0, 1)
    warpers = [processors.TemperatureLogitsWarper(rules.temperature), processors.TopKLogitsWarper(rules.top_k)]
    if scale != 1:
        memory, memory_mask = (torch.cat([one, torch.zeros_like(one)]) for one in (memory, memory_mask))
        fed = fed.repeat(2, 1)
        warpers.insert(0, processors.ClassifierFreeGuidanceLogitsProcessor(scale))
    scores = theirs.decoder(input_ids=fed, encoder_hidden_states=memory, encoder_attention_mask=memory_mask).logits
    frame_SK = torch.from_numpy(pattern.holds(0, grid_BSK.shape[1]).copy())
    for step in range(1, grid_BSK.shape[1]):
        row = scores[:, step - 1]
        for warper in warpers:
            row = warper(torch.zeros(ITEMS * 4, 1), row)
        drawn_K = (frame_SK[step] >= 0) & (frame_SK[step] < frames)
        expected = row.softmax(-1).view(ITEMS, 4, V)[:, drawn_K]
        first, last = drawn_K.nonzero()[[0, -1], 0].tolist()  # what was drawn from are the books between them
        got = drawn_from[step - 1][:, drawn_K[first : last + 1]]
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
