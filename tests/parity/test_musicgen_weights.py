"""Our decoder against transformers' MusicgenForCausalLM on the same random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder
from partimento.models.weights import export_musicgen, import_musicgen, musicgen_config

transformers = pytest.importorskip("transformers")

SHAPES = [
    # vocab, width, layers, heads, feedforward, codebooks, text steps (None: no text), seed
    (16, 32, 2, 4, 64, 4, None, 0),
    (16, 32, 2, 4, 64, 4, 7, 1),
    (31, 48, 3, 2, 40, 2, 5, 2),
    (8, 24, 1, 3, 96, 9, None, 3),
    (8, 40, 2, 5, 32, 3, 1, 4),
]


def musicgen(vocab: int, width: int, layers: int, heads: int, feedforward: int, codebooks: int, seed: int):
    torch.manual_seed(seed)
    config = transformers.MusicgenDecoderConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        ffn_dim=feedforward,
        num_codebooks=codebooks,
        max_position_embeddings=64,
        pad_token_id=vocab,
        bos_token_id=vocab,
    )
    model = transformers.MusicgenForCausalLM(config).eval()
    for parameter in model.parameters():  # larger than the initialisation, so that every path matters
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def ours_from(theirs) -> CodeDecoder:
    decoder = CodeDecoder(musicgen_config(theirs.config.to_dict())).eval()
    import_musicgen(decoder, theirs.state_dict())
    return decoder


def their_logits(model, grid_BSK: Tensor, **extra: Tensor) -> Tensor:
    batch, _, codebooks = grid_BSK.shape
    flat = grid_BSK.transpose(1, 2).reshape(batch * codebooks, -1)
    logits = model(input_ids=flat, **extra).logits
    return logits.view(batch, codebooks, *logits.shape[1:]).transpose(1, 2)


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_logits_equal(shape) -> None:
    *sizes, text, seed = shape
    theirs = musicgen(*sizes, seed=seed)
    ours = ours_from(theirs)
    vocab, width, codebooks = sizes[0], sizes[1], sizes[5]
    grid = torch.randint(0, vocab + 1, (3, 11, codebooks))
    if text is None:
        expected, got = their_logits(theirs, grid), ours(grid)
    else:
        memory = torch.randn(3, text, width)
        mask = torch.arange(text) < torch.tensor([[text], [max(1, text - 2)], [1]])
        expected = their_logits(theirs, grid, encoder_hidden_states=memory, encoder_attention_mask=mask.long())
        got = ours(grid, memory_BMD=memory, memory_mask_BM=mask)
        assert (got - ours(grid, memory_BMD=memory)).abs().max() > 1e-3 or text == 1, "the mask has no effect"
    assert got.shape == (3, 11, codebooks, vocab)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max().clamp(min=1)))


def test_state_dict_goes_out_by_name_and_back() -> None:
    theirs = musicgen(*SHAPES[1][:6], seed=5)
    out = export_musicgen(ours_from(theirs))
    assert out.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(out[name], value), name


def test_a_checkpoint_of_save_pretrained(tmp_path: Path) -> None:
    theirs = musicgen(*SHAPES[2][:6], seed=6)
    theirs.save_pretrained(tmp_path)
    decoder = CodeDecoder(musicgen_config(json.loads((tmp_path / "config.json").read_text()))).eval()
    report = import_musicgen(decoder, load_file(tmp_path / "model.safetensors"))
    assert report.complete and len(report.loaded) == len(theirs.state_dict())
    grid = torch.randint(0, 32, (2, 9, 2))
    with torch.inference_mode():
        torch.testing.assert_close(decoder(grid), their_logits(theirs, grid), rtol=0, atol=1e-5)


def test_export_loads_into_transformers() -> None:
    theirs = musicgen(*SHAPES[0][:6], seed=7)
    decoder = CodeDecoder(musicgen_config(theirs.config.to_dict())).eval()
    theirs.load_state_dict(export_musicgen(decoder), strict=True)
    grid = torch.randint(0, 17, (2, 5, 4))
    with torch.inference_mode():
        torch.testing.assert_close(decoder(grid), their_logits(theirs, grid), rtol=0, atol=1e-5)


def test_the_report_names_what_is_missing_left_and_misshapen() -> None:
    theirs = musicgen(*SHAPES[0][:6], seed=8)
    decoder = CodeDecoder(musicgen_config(theirs.config.to_dict()))
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    state = dict(theirs.state_dict())
    del state["model.decoder.layers.1.fc1.weight"]
    state["model.decoder.layers.9.fc1.weight"] = torch.zeros(2)
    state["lm_heads.0.weight"] = torch.zeros(3, 32)
    with pytest.raises(PartimentoError) as caught:
        import_musicgen(decoder, state)
    assert caught.value.code == "MODEL002"
    report = caught.value.context["report"]
    assert report["missing"] == ["model.decoder.layers.1.fc1.weight"]
    assert report["left"] == ["model.decoder.layers.9.fc1.weight"]
    assert len(report["misshapen"]) == 1 and report["misshapen"][0].startswith("lm_heads.0.weight")
    for name, value in decoder.state_dict().items():
        assert torch.equal(value, before[name]), "a refused import must change nothing"


def test_the_position_table_of_old_checkpoints_is_verified() -> None:
    theirs = musicgen(*SHAPES[0][:6], seed=9)
    decoder = CodeDecoder(musicgen_config(theirs.config.to_dict()))
    name = "model.decoder.embed_positions.weights"
    table = theirs.model.decoder.embed_positions.weights
    import_musicgen(decoder, {**theirs.state_dict(), name: table})
    with pytest.raises(PartimentoError, match="embed_positions"):
        import_musicgen(decoder, {**theirs.state_dict(), name: table + 0.01})
