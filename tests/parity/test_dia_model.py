"""A TextModel against transformers' Dia on the same random weights, against a slow one in float64, and its cached
steps against teacher forcing."""

from __future__ import annotations

from typing import Any

import pytest
import slow_text_model
import torch
from torch import Tensor

from partimento.models import initialise
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.dia import TextModel
from partimento.models.text import TextConfig, TextEncoder
from partimento.tokens.patterns import Pattern, apply
from partimento.tokens.spec import Specials

# Absolute, on outputs of deviation about 1 (which the tests see to): float32 in both, and other kernels.
TOLERANCE = 1e-5
CARDINALITY = 16
SPECIALS = Specials.after(CARDINALITY)

SHAPES: dict[str, dict[str, Any]] = {
    "square": {"width": 32, "heads": 4, "head": 8, "kv": 4, "cross": (4, 4, 8), "text": (32, 4, 4, 8), "books": 3},
    "grouped": {"width": 40, "heads": 6, "head": 12, "kv": 2, "cross": (4, 2, 10), "text": (24, 4, 2, 6), "books": 2},
    "wide": {"width": 48, "heads": 2, "head": 40, "kv": 1, "cross": (8, 4, 4), "text": (20, 2, 1, 16), "books": 9},
}


def texts(lengths: tuple[int, ...], vocabulary: int = 30) -> tuple[Tensor, Tensor]:
    """Ids padded with 0 behind, and their mask."""
    mask_BM = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randint(1, vocabulary, mask_BM.shape) * mask_BM, mask_BM


def made(name: str = "grouped", **changes: Any) -> TextModel:
    """A model whose outputs have a deviation of about 1."""
    shape = SHAPES[name]
    width, heads, groups, head = shape["text"]
    encoder = TextEncoder(
        TextConfig(
            30, 16, width, 2, heads, groups, head, 28, attention_scale=changes.get("attention_scale"), qk_norm=False
        )
    )
    decoder = CodeDecoder(
        DecoderConfig(
            **{
                "codebooks": shape["books"],
                "rows": CARDINALITY + 4,
                "outputs": CARDINALITY + 1,
                "width": shape["width"],
                "layers": 3,
                "heads": shape["heads"],
                "kv_heads": shape["kv"],
                "head_width": shape["head"],
                "feedforward": 56,
                "max_positions": 64,
                "qk_norm": False,
                "cross_width": width,
                "cross_heads": shape["cross"][0],
                "cross_kv_heads": shape["cross"][1],
                "cross_head_width": shape["cross"][2],
                **changes,
            }
        )
    )
    model = TextModel(encoder, decoder, "zeros")
    initialise.by_fan_in(model)
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    torch.nn.init.normal_(decoder.head.weight, std=shape["width"] ** -0.5)
    return model.eval()


def theirs_of(model: TextModel) -> Any:
    """transformers' Dia with the weights of ours; the logits of ids that are never drawn are left at random."""
    dia = pytest.importorskip("transformers.models.dia")
    text, shape = model.encoder.config, model.decoder.config
    theirs = dia.DiaForConditionalGeneration(
        dia.DiaConfig(
            encoder_config=dia.DiaEncoderConfig(
                max_position_embeddings=text.length,
                num_hidden_layers=text.layers,
                hidden_size=text.width,
                num_attention_heads=text.heads,
                num_key_value_heads=text.kv_heads,
                head_dim=text.head,
                intermediate_size=text.feedforward,
                vocab_size=text.vocabulary,
            ).to_dict(),
            decoder_config=dia.DiaDecoderConfig(
                max_position_embeddings=shape.max_positions,
                num_hidden_layers=shape.layers,
                hidden_size=shape.width,
                intermediate_size=shape.feedforward,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads,
                head_dim=shape.head,
                cross_num_attention_heads=shape.cross_heads,
                cross_head_dim=shape.cross_head_width,
                cross_num_key_value_heads=shape.cross_kv_heads,
                cross_hidden_size=shape.cross_width,
                vocab_size=shape.rows,
                num_channels=shape.codebooks,
                eos_token_id=CARDINALITY,
                pad_token_id=CARDINALITY + 1,
                bos_token_id=CARDINALITY + 2,
            ).to_dict(),
            delay_pattern=[0] * shape.codebooks,
        )
    ).eval()
    state = theirs.state_dict()
    state["model.encoder.embedding.weight"] = model.encoder.embedding
    state["model.encoder.norm.weight"] = model.encoder.norm.weight
    state["model.decoder.embeddings.embed.weight"] = model.decoder.embedding
    state["model.decoder.norm.weight"] = model.decoder.norm.weight
    state["logits_dense.weight"].view(shape.codebooks, shape.rows, -1)[:, : shape.outputs] = (
        model.decoder.head.weight.view(shape.codebooks, shape.outputs, -1)
    )
    for side, network, last_norm in (
        ("encoder", model.encoder, "post_sa_norm"),
        ("decoder", model.decoder, "pre_mlp_norm"),
    ):
        for number, block in enumerate(network.blocks):
            at = f"model.{side}.layers.{number}."
            parts = block.attention.qkv.weight.split(block.attention.qkv.parts)
            for letter, part in zip("qkv", parts, strict=True):
                state[f"{at}self_attention.{letter}_proj.weight"] = part
            state[f"{at}self_attention.o_proj.weight"] = block.attention.out.weight
            state[f"{at}pre_sa_norm.weight"] = block.attention_norm.weight
            state[f"{at}{last_norm}.weight"] = block.feedforward_norm.weight
            state[f"{at}mlp.gate_up_proj.weight"] = block.feedforward.up.weight
            state[f"{at}mlp.down_proj.weight"] = block.feedforward.down.weight
            if side == "decoder":
                key, value = block.cross.key_value.weight.chunk(2)
                state[f"{at}cross_attention.q_proj.weight"] = block.cross.query.weight
                state[f"{at}cross_attention.k_proj.weight"], state[f"{at}cross_attention.v_proj.weight"] = key, value
                state[f"{at}cross_attention.o_proj.weight"] = block.cross.out.weight
                state[f"{at}pre_ca_norm.weight"] = block.cross_norm.weight
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("lengths", [(16, 9, 1), (7, 7, 7)])
@torch.no_grad()
def test_encoder_and_decoder_equal_transformers(name: str, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(len(name))
    model = made(name, attention_scale=1.0)
    theirs = theirs_of(model)
    text_BM, mask_BM = texts(lengths)
    grid_BSK = torch.randint(0, CARDINALITY + 3, (3, 20, model.decoder.config.codebooks))
    told = model.told(text_BM, mask_BM, torch.ones(3, dtype=torch.bool))
    memory_BMD = theirs.model.encoder(input_ids=text_BM, attention_mask=mask_BM.long()).last_hidden_state
    assert told.memory_BMD is not None and 0.5 < memory_BMD.std() < 2
    torch.testing.assert_close(told.memory_BMD[mask_BM], memory_BMD[mask_BM], rtol=0, atol=TOLERANCE)

    expected = theirs(input_ids=text_BM, attention_mask=mask_BM.long(), decoder_input_ids=grid_BSK).logits
    expected = expected.unflatten(0, (3, -1)).transpose(1, 2)[..., : CARDINALITY + 1]
    assert 0.5 < expected.std() < 2
    got = model.decoder(grid_BSK, **told.arguments())
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_the_null_text_equals_transformers_unconditional_half() -> None:
    """Zeros for ids, and the mask of the text: what their generation feeds for guidance."""
    torch.manual_seed(4)
    model = made(attention_scale=1.0)
    theirs = theirs_of(model)
    text_BM, mask_BM = texts((11, 5))
    grid_BSK = torch.randint(0, CARDINALITY, (2, 8, model.decoder.config.codebooks))
    told = model.told(text_BM, mask_BM, torch.zeros(2, dtype=torch.bool))
    both = torch.cat([text_BM, torch.zeros_like(text_BM)]), mask_BM.repeat(2, 1)
    logits = theirs(input_ids=both[0], attention_mask=both[1].long(), decoder_input_ids=grid_BSK.repeat(2, 1, 1)).logits
    expected = logits.unflatten(0, (4, -1)).transpose(1, 2)[2:, ..., : CARDINALITY + 1]
    torch.testing.assert_close(model.decoder(grid_BSK, **told.arguments()), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("changes", [{"attention_scale": 1.0}, {}, {"qk_norm": True}])
@pytest.mark.parametrize("rope", [False, True])
@torch.no_grad()
def test_both_generations_equal_the_slow_model(name: str, changes: dict[str, Any], rope: bool) -> None:
    torch.manual_seed(len(name) + len(changes))
    model = made(name, **changes, cross_attention_rope=rope)
    text_BM, mask_BM = texts((9, 4))
    grid_BSK = torch.randint(0, CARDINALITY + 3, (2, 6, model.decoder.config.codebooks))
    told = model.told(text_BM, mask_BM, torch.ones(2, dtype=torch.bool))
    got = model.decoder(grid_BSK, **told.arguments())
    for item, length in enumerate((9, 4)):
        expected = slow_text_model.logits(model, text_BM[item, :length], mask_BM[item, :length], grid_BSK[item])
        torch.testing.assert_close(got[item].double(), expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_the_generations_share_all_shapes_and_differ_in_what_they_play() -> None:
    torch.manual_seed(0)
    later = made()
    earlier = made(cross_attention_rope=True)
    earlier.load_state_dict(later.state_dict())
    text_BM, mask_BM = texts((9, 4))
    grid_BSK = torch.randint(0, CARDINALITY, (2, 20, 2))
    told = later.told(text_BM, mask_BM, torch.ones(2, dtype=torch.bool)).arguments()
    assert (later.decoder(grid_BSK, **told) - earlier.decoder(grid_BSK, **told)).abs().max() > 0.1
    one = {"memory_BMD": told["memory_BMD"][:, :1]}  # of one step: there is nothing to choose from
    torch.testing.assert_close(later.decoder(grid_BSK, **one), earlier.decoder(grid_BSK, **one), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pattern", ["delay", "parallel", "flat", "dia", [3, 0, 2]], ids=str)
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("rope", [False, True])
@torch.inference_mode()
def test_cached_equals_teacher_forced_for_every_pattern(pattern: str | list[int], static: bool, rope: bool) -> None:
    torch.manual_seed(2)
    model = made("square", cross_attention_rope=rope, qk_norm=True)
    laid = Pattern.named(pattern, 3)
    grid_BSK = apply(torch.randint(0, CARDINALITY, (2, 7, 3)), laid, SPECIALS, ends=True)
    text_BM, mask_BM = texts((10, 3))
    told = model.told(text_BM, mask_BM, torch.tensor([True, True])).followed_by(
        model.told(text_BM, mask_BM, torch.tensor([False, False]))
    )
    grid_BSK = grid_BSK.repeat(2, 1, 1)
    forced = model.decoder(grid_BSK, **told.arguments())
    for chunks in (1, 4):
        cache = model.decoder.make_cache(4, grid_BSK.shape[1] + 2, static=static)
        assert told.memory_BMD is not None
        model.decoder.remember(cache, told.memory_BMD)
        got = [model.decoder(part, cache=cache, **told.arguments()) for part in grid_BSK.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(got, dim=1), forced, rtol=0, atol=TOLERANCE)
