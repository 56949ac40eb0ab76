"""Our text model against transformers' DiaForConditionalGeneration on the same random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.dia import TextModel
from partimento.models.weights import describe_dia, dia_config, export_dia, import_dia

transformers = pytest.importorskip("transformers")

# encoder (width, layers, heads, kv, head, feedforward), decoder (the same, then cross heads, kv, head), codebooks, seed
SHAPES = [
    ((24, 2, 3, 3, 8, 40), (32, 2, 4, 2, 8, 48, 4, 4, 8), 9, 0),
    ((16, 1, 2, 1, 12, 24), (24, 3, 4, 1, 6, 40, 2, 1, 10), 4, 1),
    ((32, 2, 2, 2, 16, 64), (32, 1, 2, 2, 16, 32, 4, 2, 4), 2, 2),
]
CODES, ROWS, LENGTH = 12, 17, 10


def dia(shape, delays: list[int] | None = None):
    texts, codes, books, seed = shape
    torch.manual_seed(seed)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    names += ("intermediate_size", "cross_num_attention_heads", "cross_num_key_value_heads", "cross_head_dim")
    config = transformers.DiaConfig(
        encoder_config={**dict(zip(names, texts, strict=False)), "vocab_size": 256, "max_position_embeddings": LENGTH},
        decoder_config={
            **dict(zip(names, codes, strict=True)),
            "cross_hidden_size": texts[0],
            "vocab_size": ROWS,
            "num_channels": books,
            "max_position_embeddings": 64,
            "eos_token_id": CODES,
            "pad_token_id": CODES + 1,
            "bos_token_id": CODES + 2,
        },
        delay_pattern=delays or list(range(books)),
    )
    model = transformers.DiaForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():  # larger than the initialisation, so that every path matters
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.15)
    return model


def ours_from(theirs, generation: str = "0626") -> TextModel:
    model = TextModel.from_json(describe_dia(theirs.config.to_dict(), generation).model).eval()
    import_dia(model, theirs.state_dict())
    return model


def batch(books: int) -> tuple[Tensor, Tensor, Tensor]:
    text, grid = torch.randint(0, 256, (3, LENGTH)), torch.randint(0, ROWS, (3, 12, books))
    return text, torch.arange(LENGTH) < torch.tensor([[LENGTH], [4], [1]]), grid


def our_logits(model: TextModel, text: Tensor, mask: Tensor, grid: Tensor) -> Tensor:
    told = model.told(text, mask, torch.ones(len(text), dtype=torch.bool))
    return model.decoder(grid, **told.arguments())


def their_logits(model, text: Tensor, mask: Tensor, grid: Tensor) -> Tensor:
    logits = model(input_ids=text, attention_mask=mask.long(), decoder_input_ids=grid).logits
    return logits.view(len(grid), grid.shape[2], grid.shape[1], -1).transpose(1, 2)


def close(got: Tensor, expected: Tensor) -> None:
    """1e-5 of the largest logit, in float32."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max().clamp(min=1)))


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_logits_equal(shape) -> None:
    theirs = dia(shape)
    ours, inputs = ours_from(theirs), batch(shape[2])
    expected, got = their_logits(theirs, *inputs), our_logits(ours, *inputs)
    assert got.shape == (3, 12, shape[2], CODES + 1), "logits of codes and of the end; theirs has some that never are"
    close(got, expected[..., : CODES + 1])
    for other in (torch.ones_like(inputs[1]), inputs[1].roll(1, 0)):
        assert (got - our_logits(ours, inputs[0], other, inputs[2])).abs().max() > 1e-3, "the mask has no effect"


@torch.inference_mode()
def test_the_encoder_alone() -> None:
    theirs = dia(SHAPES[0])
    text, mask, _ = batch(9)
    expected = theirs.model.encoder(input_ids=text, attention_mask=mask.long()).last_hidden_state
    close(ours_from(theirs).encoder(text, mask)[mask], expected[mask])


@torch.inference_mode()
def test_the_null_is_theirs() -> None:
    """Zeros in place of the text, under the mask of the text: what their generate gives the unconditional half."""
    theirs = dia(SHAPES[0])
    ours, (text, mask, grid) = ours_from(theirs), batch(9)
    told = ours.told(text, mask, torch.zeros(3, dtype=torch.bool))
    got = ours.decoder(grid, **told.arguments())
    close(got, their_logits(theirs, torch.zeros_like(text), mask, grid)[..., : CODES + 1])


def test_state_dict_goes_out_by_name_and_back() -> None:
    theirs = dia(SHAPES[1])
    out = export_dia(ours_from(theirs))
    expected = theirs.state_dict()
    assert out.keys() == expected.keys()
    for name, value in expected.items():
        if name == "logits_dense.weight":  # the ids that are never drawn become copies of the end
            books, got = value.unflatten(0, (4, ROWS)), out[name].unflatten(0, (4, ROWS))
            assert torch.equal(got[:, : CODES + 1], books[:, : CODES + 1])
            assert torch.equal(got[:, CODES + 1 :], books[:, CODES : CODES + 1].expand(-1, ROWS - CODES - 1, -1))
        else:
            assert torch.equal(out[name], value), name


def test_what_is_exported_loads_with_from_pretrained(tmp_path: Path) -> None:
    theirs = dia(SHAPES[0], [0, 8, 9, 10, 11, 12, 13, 14, 15])
    described = describe_dia(theirs.config.to_dict(), "0626")
    ours = ours_from(theirs)
    config = dia_config(ours, described.delays, described.specials)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(export_dia(ours), tmp_path / "model.safetensors", metadata={"format": "pt"})
    again, report = transformers.DiaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = batch(9)
    with torch.inference_mode():
        got, expected = their_logits(again.eval(), *inputs), their_logits(theirs, *inputs)
    assert torch.equal(got[..., : CODES + 1], expected[..., : CODES + 1])
    assert again.config.delay_pattern == list(described.delays)
    assert describe_dia(again.config.to_dict(), "0626") == described


def test_a_checkpoint_of_save_pretrained(tmp_path: Path) -> None:
    theirs = dia(SHAPES[2])
    theirs.save_pretrained(tmp_path)
    described = describe_dia(json.loads((tmp_path / "config.json").read_text()), "0626")
    assert described == describe_dia(theirs.config.to_dict(), "0626")
    ours = TextModel.from_json(described.model).eval()
    report = import_dia(ours, load_file(tmp_path / "model.safetensors"))
    assert report.complete and len(report.loaded) == len(theirs.state_dict())
    with torch.inference_mode():
        inputs = batch(2)
        close(our_logits(ours, *inputs), their_logits(theirs, *inputs)[..., : CODES + 1])


def test_the_published_sizes_are_read_of_an_empty_file() -> None:
    """transformers leaves out what has its default: those of Dia-1.6B."""
    described = describe_dia({"model_type": "dia", "encoder_config": {}, "decoder_config": {}}, "0626")
    assert describe_dia(transformers.DiaConfig().to_dict(), "0626") == described
    decoder = described.model["decoder"]
    assert (decoder["width"], decoder["layers"], decoder["kv_heads"], decoder["feedforward"]) == (2048, 18, 4, 8192)
    assert (decoder["rows"], decoder["outputs"], decoder["cross_width"]) == (1028, 1025, 1024)
    assert described.delays == (0, 8, 9, 10, 11, 12, 13, 14, 15) and described.codec["frame_rate"] == [44100, 512]
    with torch.device("meta"):
        model = TextModel.from_json(described.model)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(1.6e9, rel=0.02)


def test_the_generation_is_a_field_of_the_model() -> None:
    """The same names and shapes, and another function: 0626 without positions in cross attention, april with."""
    theirs = dia(SHAPES[0])
    inputs = batch(9)
    with torch.inference_mode():
        june, april = (our_logits(ours_from(theirs, name), *inputs) for name in ("0626", "april"))
    assert (june - april).abs().max() > 1e-2
    config = theirs.config.to_dict()
    later, earlier = describe_dia(config, "0626"), describe_dia(config, "april")
    assert (later.guidance_rule, later.ending["eos"]) == ("filter", "argmax")
    assert (earlier.guidance_rule, earlier.ending["eos"]) == ("mix", "draw")
    with pytest.raises(PartimentoError) as caught:
        dia_config(ours_from(theirs, "april"), earlier.delays, earlier.specials)
    assert caught.value.code == "MODEL002" and "cross_attention_rope" in str(caught.value)


def test_the_report_names_what_is_missing_left_and_misshapen() -> None:
    theirs = dia(SHAPES[0])
    model = ours_from(theirs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in theirs.state_dict().items()}
    del state["model.encoder.layers.1.mlp.down_proj.weight"]
    state["model.decoder.layers.9.mlp.down_proj.weight"] = torch.zeros(2)
    state["logits_dense.weight"] = torch.zeros(3, 32)
    state["model.encoder.norm.weight"] = torch.full((24,), float("nan"))
    state["model.decoder.norm.weight"] = torch.zeros(32, dtype=torch.int64)
    with pytest.raises(PartimentoError) as caught:
        import_dia(model, state)
    assert caught.value.code == "MODEL002"
    report = caught.value.context["report"]
    assert report["missing"] == ["model.encoder.layers.1.mlp.down_proj.weight"]
    assert report["left"] == ["model.decoder.layers.9.mlp.down_proj.weight"]
    assert sorted(text.split(":")[0] for text in report["misshapen"]) == [
        "logits_dense.weight",
        "model.decoder.norm.weight",
        "model.encoder.norm.weight",
    ]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "a refused import must change nothing"


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("decoder_config", {"hidden_act": "gelu"}),
        ("encoder_config", {"hidden_act": "relu"}),
        ("decoder_config", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}),
        ("encoder_config", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}),
        ("decoder_config", {"hidden_size": "32"}),
        ("decoder_config", {"num_hidden_layers": 0}),
        ("decoder_config", {"cross_hidden_size": 99}),
        ("decoder_config", {"eos_token_id": 1, "pad_token_id": 1}),
        ("decoder_config", {"norm_eps": -1.0}),
    ],
)
def test_what_a_config_says_that_we_do_not_build(part: str, change: dict) -> None:
    config = dia(SHAPES[0]).config.to_dict()
    with pytest.raises(PartimentoError) as caught:
        describe_dia({**config, part: {**config[part], **change}}, "0626")
    assert caught.value.code == "MODEL030"


def test_delays_that_do_not_fit() -> None:
    config = dia(SHAPES[0]).config.to_dict()
    for delays in ([0, 1], "delay", [0] * 8 + [-1]):
        with pytest.raises(PartimentoError) as caught:
            describe_dia({**config, "delay_pattern": delays}, "0626")
        assert caught.value.code == "MODEL030"


def test_a_model_that_is_no_dia_is_not_exported_as_one() -> None:
    theirs = dia(SHAPES[0])
    described = describe_dia(theirs.config.to_dict(), "0626").model
    other = TextModel.from_json({**described, "encoder": {**described["encoder"], "qk_norm": True}})
    with pytest.raises(PartimentoError) as caught:
        export_dia(other)
    assert caught.value.code == "MODEL002" and "qk_norm" in str(caught.value)
