"""MusicGen with its text encoder against transformers' MusicgenForConditionalGeneration on the same random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.dia import TextModel
from partimento.models.weights import (
    describe_musicgen,
    export_musicgen_whole,
    import_musicgen_whole,
    musicgen_whole_config,
)
from partimento.models.weights.musicgen import book_order

transformers = pytest.importorskip("transformers")

VOCAB, TEXT = 16, 9
# width of T5, width of the decoder (equal: no projection), codebooks, channels, T5's feedforward, seed
CASES = [(24, 32, 4, 1, "relu", 0), (32, 32, 2, 1, "gated-gelu", 1), (24, 32, 8, 2, "relu", 2)]


def musicgen(case):
    texts, width, books, channels, feedforward, seed = case
    torch.manual_seed(seed)
    config = transformers.MusicgenConfig(
        text_encoder={
            "model_type": "t5",
            "vocab_size": 50,
            "d_model": texts,
            "d_kv": 8,
            "d_ff": 40,
            "num_layers": 2,
            "num_heads": 3,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 12,
            "feed_forward_proj": feedforward,
        },
        audio_encoder={
            "model_type": "encodec",
            "sampling_rate": 32000,
            "upsampling_ratios": [4, 2],
            "num_filters": 4,
            "hidden_size": 8,
            "codebook_size": VOCAB,
            "codebook_dim": 8,
            "num_residual_layers": 1,
            "num_lstm_layers": 1,
            "audio_channels": 1,
            "target_bandwidths": [2.2],
        },
        decoder={
            "vocab_size": VOCAB,
            "hidden_size": width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "num_codebooks": books,
            "audio_channels": channels,
            "max_position_embeddings": 64,
            "pad_token_id": VOCAB,
            "bos_token_id": VOCAB,
        },
    )
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():  # larger than the initialisation, so that every path matters
        if not name.startswith("audio_encoder"):
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    return model


def ours_from(theirs, channels: int) -> TextModel:
    model = TextModel.from_json(describe_musicgen(theirs.config.to_dict()).model).eval()
    import_musicgen_whole(model, theirs.state_dict(), channels)
    return model


def their_logits(model, text: Tensor, mask: Tensor, grid: Tensor) -> Tensor:
    batch, _, books = grid.shape
    flat = grid.transpose(1, 2).reshape(batch * books, -1)
    logits = model(input_ids=text, attention_mask=mask.long(), decoder_input_ids=flat).logits
    return logits.view(batch, books, *logits.shape[1:]).transpose(1, 2)


def batch(books: int) -> tuple[Tensor, Tensor, Tensor]:
    text, grid = torch.randint(0, 50, (3, TEXT)), torch.randint(0, VOCAB + 1, (3, 11, books))
    return text, torch.arange(TEXT) < torch.tensor([[TEXT], [4], [1]]), grid


def close(got: Tensor, expected: Tensor) -> None:
    """1e-5 of the largest logit, in float32."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max().clamp(min=1)))


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_logits_equal_with_text_and_padding(case) -> None:
    theirs, order = musicgen(case), book_order(case[2], case[3])
    ours, (text, mask, grid) = ours_from(theirs, case[3]), batch(case[2])
    expected = their_logits(theirs, text, mask, grid)[:, :, order]
    told = ours.told(text, mask, torch.ones(3).bool())
    got = ours.decoder(grid[:, :, order], **told.arguments())
    close(got, expected)
    padded = text.masked_fill(~mask, 49)
    again = ours.decoder(grid[:, :, order], **ours.told(padded, mask, torch.ones(3).bool()).arguments())
    assert torch.equal(again, got), "padding is read"


@torch.inference_mode()
def test_the_null_is_theirs() -> None:
    """Their generate gives the unconditional half zeros in place of T5's output, under a mask of zeros."""
    theirs = musicgen(CASES[0])
    ours, (text, mask, grid) = ours_from(theirs, 1), batch(4)
    outputs = theirs.text_encoder(input_ids=text, attention_mask=mask.long())
    outputs.last_hidden_state = torch.zeros_like(outputs.last_hidden_state)
    flat = grid.transpose(1, 2).reshape(12, -1)
    nothing = torch.zeros_like(mask).long()
    logits = theirs(attention_mask=nothing, encoder_outputs=outputs, decoder_input_ids=flat).logits
    expected = logits.view(3, 4, *logits.shape[1:]).transpose(1, 2)
    got = ours.decoder(grid, **ours.told(text, mask, torch.zeros(3).bool()).arguments())
    close(got, expected)
    assert ours.null == "empty"


def test_state_dict_goes_out_by_name_and_back() -> None:
    theirs = musicgen(CASES[2])
    expected = {name: value for name, value in theirs.state_dict().items() if not name.startswith("audio_encoder.")}
    expected.pop("text_encoder.encoder.embed_tokens.weight")  # the other name of text_encoder.shared.weight
    out = export_musicgen_whole(ours_from(theirs, 2), 2)
    assert out.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(out[name], value), name


def test_stereo_books_change_their_order_and_back() -> None:
    assert book_order(8, 2) == [0, 2, 4, 6, 1, 3, 5, 7] and book_order(4, 1) == [0, 1, 2, 3]
    described = describe_musicgen(musicgen(CASES[2]).config.to_dict())
    assert described.delays == (0, 1, 2, 3, 0, 1, 2, 3)  # theirs: 0, 0, 1, 1, 2, 2, 3, 3
    assert (described.codec["layout"], described.codec["books"]) == ("left-right", [4, 4])
    theirs = [0, 0, 1, 1, 2, 2, 3, 3]
    assert [theirs[book] for book in book_order(8, 2)] == list(described.delays)


def test_a_checkpoint_of_save_pretrained(tmp_path: Path) -> None:
    theirs = musicgen(CASES[0])
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    described = describe_musicgen(json.loads((tmp_path / "config.json").read_text()))
    assert described == describe_musicgen(theirs.config.to_dict())
    ours = TextModel.from_json(described.model).eval()
    report = import_musicgen_whole(ours, state, 1)
    assert report.complete and set(report.loaded) | set(report.apart) == set(state)
    assert report.apart and all(name.startswith("audio_encoder.") for name in report.apart)
    assert described.codec == {
        "name": "encodec-32k",
        "sample_rate": 32000,
        "frame_rate": [32000, 8],
        "cardinality": VOCAB,
        "codebooks": 4,
        "layout": "mono",
        "books": [],
    }


def test_what_is_exported_loads_with_from_pretrained(tmp_path: Path) -> None:
    theirs, (text, mask, grid) = musicgen(CASES[2]), batch(8)
    audio = {name: value for name, value in theirs.state_dict().items() if name.startswith("audio_encoder.")}
    ours = ours_from(theirs, 2)
    config = musicgen_whole_config(ours, 2, theirs.config.audio_encoder.to_dict())
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({**export_musicgen_whole(ours, 2), **audio}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    kind = transformers.MusicgenForConditionalGeneration
    again, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.inference_mode():
        got = their_logits(again.eval(), text, mask, grid)
        assert torch.equal(got, their_logits(theirs, text, mask, grid))
    assert describe_musicgen(again.config.to_dict()) == describe_musicgen(theirs.config.to_dict())


def test_the_two_names_of_the_embedding_must_agree() -> None:
    theirs = musicgen(CASES[0])
    ours, state = ours_from(theirs, 1), theirs.state_dict()
    tied, shared = "text_encoder.encoder.embed_tokens.weight", "text_encoder.shared.weight"
    import_musicgen_whole(ours, {name: value for name, value in state.items() if name != shared}, 1)
    with pytest.raises(PartimentoError) as caught:
        import_musicgen_whole(ours, {**state, tied: state[tied] + 1}, 1)
    assert caught.value.code == "MODEL002"
    with pytest.raises(PartimentoError) as caught:
        import_musicgen_whole(ours, {n: v for n, v in state.items() if n != "enc_to_dec_proj.bias"}, 1)
    assert caught.value.context["report"]["missing"] == ["enc_to_dec_proj.bias"]


@pytest.mark.parametrize(
    ("part", "change", "code"),
    [
        ("decoder", {"activation_function": "relu"}, "MODEL001"),
        ("decoder", {"audio_channels": 3}, "MODEL030"),
        ("decoder", {"pad_token_id": 3}, "MODEL030"),
        ("decoder", {"hidden_size": None}, "MODEL030"),
        ("decoder", {"cross_attention_hidden_size": 7}, "MODEL030"),
        ("text_encoder", {"model_type": "bert"}, "MODEL030"),
        ("audio_encoder", {"upsampling_ratios": "8"}, "MODEL030"),
        ("text_encoder", {"feed_forward_proj": "what-is-this"}, "MODEL031"),
        ("text_encoder", {"d_model": 0}, "MODEL030"),
        ("text_encoder", {"layer_norm_epsilon": "a"}, "MODEL031"),
    ],
)
def test_what_a_config_says_that_we_do_not_build(part: str, change: dict, code: str) -> None:
    config = musicgen(CASES[0]).config.to_dict()
    with pytest.raises(PartimentoError) as caught:
        TextModel.from_json(describe_musicgen({**config, part: {**config[part], **change}}).model)
    assert caught.value.code == code
