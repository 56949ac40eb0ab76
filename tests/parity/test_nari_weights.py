"""nari-labs' layout of Dia: against a slow forward written from its formulas in float64, and against transformers.

The forward reads the tensors as they are named and shaped there: each linear layer is a tensordot over the axes of its
kernel, each attention a loop over heads, rotations by complex numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.dia import TextModel
from partimento.models.weights import describe_nari, export_nari, import_nari, nari_config

OLD = {
    "version": "0.1",
    "model": {
        "encoder": {"n_layer": 2, "n_embd": 12, "n_hidden": 20, "n_head": 3, "head_dim": 6},
        "decoder": {
            "n_layer": 2,
            "n_embd": 16,
            "n_hidden": 28,
            "gqa_query_heads": 4,
            "kv_heads": 2,
            "gqa_head_dim": 6,
            "cross_query_heads": 3,
            "cross_head_dim": 8,
        },
        "src_vocab_size": 256,
        "tgt_vocab_size": 15,
        "dropout": 0.0,
        "normalization_layer_epsilon": 1e-5,
        "rope_min_timescale": 1,
        "rope_max_timescale": 10000,
    },
    "training": {"dtype": "bfloat16"},
    "data": {
        "text_length": 128,
        "audio_length": 256,
        "channels": 3,
        "text_pad_value": 0,
        "audio_eos_value": 11,
        "audio_pad_value": 12,
        "audio_bos_value": 13,
        "delay_pattern": [0, 2, 3],
    },
}
NEW = {
    "architectures": ["DiaForConditionalGeneration"],
    "encoder_config": {
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 6,
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "rope_scaling": None,
    },
    "decoder_config": {
        "hidden_size": 16,
        "intermediate_size": 28,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "cross_hidden_size": 12,
        "cross_num_attention_heads": 3,
        "cross_num_key_value_heads": 3,
        "cross_head_dim": 8,
        "num_channels": 3,
        "vocab_size": 15,
        "max_position_embeddings": 256,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
    },
    "delay_pattern": [0, 2, 3],
    "eos_token_id": 11,
    "pad_token_id": 12,
    "bos_token_id": 13,
    "torch_dtype": "float32",
}
CONFIGS = {"april": OLD, "0626": NEW}


def nari_state(seed: int) -> dict[str, Tensor]:
    """Random weights with the names and shapes of nari-labs' DiaModel(OLD)."""
    torch.manual_seed(seed)
    texts, codes = OLD["model"]["encoder"], OLD["model"]["decoder"]
    d, e, f = texts["n_embd"], codes["n_embd"], codes["n_hidden"]
    shapes: dict[str, tuple[int, ...]] = {"encoder.embedding.weight": (256, d), "encoder.norm.weight": (d,)}

    def attention(at: str, width: int, memory: int, heads: int, groups: int, head: int) -> None:
        shapes[f"{at}.q_proj.weight"] = (width, heads, head)
        shapes[f"{at}.k_proj.weight"] = shapes[f"{at}.v_proj.weight"] = (memory, groups, head)
        shapes[f"{at}.o_proj.weight"] = (heads, head, width)

    for number in range(texts["n_layer"]):
        at = f"encoder.layers.{number}"
        attention(f"{at}.self_attention", d, d, 3, 3, 6)
        shapes |= {f"{at}.{norm}.weight": (d,) for norm in ("pre_sa_norm", "post_sa_norm")}
        shapes |= {f"{at}.mlp.wi_fused.weight": (d, 2, 20), f"{at}.mlp.wo.weight": (20, d)}
    for number in range(codes["n_layer"]):
        at = f"decoder.layers.{number}"
        attention(f"{at}.self_attention", e, e, 4, 2, 6)
        attention(f"{at}.cross_attention", e, d, 3, 3, 8)
        shapes |= {f"{at}.{norm}.weight": (e,) for norm in ("pre_sa_norm", "pre_ca_norm", "pre_mlp_norm")}
        shapes |= {f"{at}.mlp.wi_fused.weight": (e, 2, f), f"{at}.mlp.wo.weight": (f, e)}
    shapes |= {f"decoder.embeddings.{book}.weight": (15, e) for book in range(3)}
    shapes |= {"decoder.norm.weight": (e,), "decoder.logits_dense.weight": (e, 3, 15)}
    return {name: torch.randn(shape) * 0.25 + float("norm" in name) for name, shape in shapes.items()}


class Slow:
    """The forward of nari-labs' DiaModel, one item at a time, in float64."""

    def __init__(self, state: Mapping[str, Tensor], *, rotate_cross: bool) -> None:
        self.state = {name: value.double() for name, value in state.items()}
        self.rotate_cross = rotate_cross

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.state[f"{name}.weight"]

    @staticmethod
    def rotate(x_SHE: Tensor) -> Tensor:
        half = x_SHE.shape[-1] // 2
        pairs = torch.complex(x_SHE[..., :half], x_SHE[..., half:])
        angle = torch.arange(len(x_SHE)).double()[:, None] / 10000 ** (torch.arange(half).double() / half)
        turned = pairs * torch.polar(torch.ones_like(angle), angle)[:, None]
        return torch.cat([turned.real, turned.imag], dim=-1)

    def attention(self, at: str, x_SD: Tensor, memory_MD: Tensor, *, rotated: bool, causal: bool) -> Tensor:
        query, key, value = (
            torch.tensordot(side, self.state[f"{at}.{name}_proj.weight"], dims=1)
            for name, side in (("q", x_SD), ("k", memory_MD), ("v", memory_MD))
        )
        if rotated:
            query, key = self.rotate(query), self.rotate(key)
        mixed = []
        for head in range(query.shape[1]):
            group = head // (query.shape[1] // key.shape[1])
            scores = query[:, head] @ key[:, group].T  # the scale is 1
            if causal:
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
            mixed.append(scores.softmax(-1) @ value[:, group])
        return torch.tensordot(torch.stack(mixed, dim=1), self.state[f"{at}.o_proj.weight"], dims=2)

    def mlp(self, at: str, x_SD: Tensor) -> Tensor:
        gate, up = torch.tensordot(x_SD, self.state[f"{at}.wi_fused.weight"], dims=1).unbind(-2)
        return (gate * gate.sigmoid() * up) @ self.state[f"{at}.wo.weight"]

    def logits(self, text_M: Tensor, grid_SK: Tensor) -> Tensor:
        """Of one item whose text has no padding."""
        x = self.state["encoder.embedding.weight"][text_M]
        for number in range(2):
            at = f"encoder.layers.{number}"
            read = self.norm(x, f"{at}.pre_sa_norm")
            x = x + self.attention(f"{at}.self_attention", read, read, rotated=True, causal=False)
            x = x + self.mlp(f"{at}.mlp", self.norm(x, f"{at}.post_sa_norm"))
        memory = self.norm(x, "encoder.norm")
        x = sum(self.state[f"decoder.embeddings.{book}.weight"][grid_SK[:, book]] for book in range(3))
        for number in range(2):
            at = f"decoder.layers.{number}"
            read = self.norm(x, f"{at}.pre_sa_norm")
            x = x + self.attention(f"{at}.self_attention", read, read, rotated=True, causal=True)
            read = self.norm(x, f"{at}.pre_ca_norm")
            rotated = self.rotate_cross
            x = x + self.attention(f"{at}.cross_attention", read, memory, rotated=rotated, causal=False)
            x = x + self.mlp(f"{at}.mlp", self.norm(x, f"{at}.pre_mlp_norm"))
        return torch.tensordot(self.norm(x, "decoder.norm"), self.state["decoder.logits_dense.weight"], dims=1)


def ours_from(state: Mapping[str, Tensor], generation: str) -> TextModel:
    model = TextModel.from_json(describe_nari(CONFIGS[generation], generation).model).eval()
    import_nari(model, state)
    return model


def our_logits(model: TextModel, texts: list[Tensor], grid: Tensor) -> Tensor:
    length = max(map(len, texts)) + 2
    text, mask = torch.zeros(len(texts), length, dtype=torch.int64), torch.zeros(len(texts), length, dtype=torch.bool)
    for row, ids in enumerate(texts):
        text[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return model.decoder(grid, **model.told(text, mask, torch.ones(len(texts)).bool()).arguments())


@pytest.mark.parametrize("generation", ["april", "0626"])
@torch.inference_mode()
def test_logits_equal(generation: str) -> None:
    """1e-5 of the largest logit, float32 against float64, with texts of different lengths in one batch."""
    state = nari_state(0)
    texts = [torch.randint(1, 256, (length,)) for length in (9, 4, 1)]
    grid = torch.randint(0, 15, (3, 11, 3))
    slow = Slow(state, rotate_cross=generation == "april")
    expected = torch.stack([slow.logits(text, rows) for text, rows in zip(texts, grid, strict=True)])
    got = our_logits(ours_from(state, generation), texts, grid)
    assert got.shape[-1] == 12
    torch.testing.assert_close(got.double(), expected[..., :12], rtol=0, atol=1e-5 * float(expected.abs().max()))
    other = Slow(state, rotate_cross=generation != "april").logits(texts[0], grid[0])
    assert (other[:, :, :12] - got[0].double()).abs().max() > 1e-2, "the generations cannot be told apart here"


@torch.inference_mode()
def test_the_tensors_are_those_of_transformers_in_other_axes() -> None:
    transformers = pytest.importorskip("transformers")
    nari = nari_state(1)
    theirs = transformers.DiaForConditionalGeneration(transformers.DiaConfig.from_dict(NEW)).eval()
    theirs.load_state_dict({name: transposed(name, nari) for name in theirs.state_dict()})
    texts, grid = [torch.randint(1, 256, (7,))], torch.randint(0, 15, (1, 9, 3))
    expected = theirs(input_ids=texts[0][None], decoder_input_ids=grid).logits.view(1, 3, 9, 15).transpose(1, 2)
    got = our_logits(ours_from(nari, "0626"), texts, grid)
    torch.testing.assert_close(got, expected[..., :12], rtol=0, atol=1e-5 * float(expected.abs().max()))


def transposed(name: str, nari: Mapping[str, Tensor]) -> Tensor:
    """The tensor of this name in transformers, from nari's."""
    path = name.removeprefix("model.")
    if path == "decoder.embeddings.embed.weight":
        return torch.cat([nari[f"decoder.embeddings.{book}.weight"] for book in range(3)])
    if path == "logits_dense.weight":
        return torch.einsum("dkv->kvd", nari[f"decoder.{path}"]).reshape(45, 16)
    if path.endswith("gate_up_proj.weight"):
        kernel = nari[path.replace("gate_up_proj", "wi_fused")]
        return torch.cat([kernel[:, 0].T, kernel[:, 1].T])
    if path.endswith("down_proj.weight"):
        return nari[path.replace("down_proj", "wo")].T
    kernel = nari[path]
    if path.endswith("o_proj.weight"):
        return kernel.reshape(-1, kernel.shape[2]).T
    return kernel.reshape(len(kernel), -1).T if kernel.ndim == 3 else kernel


@pytest.mark.parametrize("generation", ["april", "0626"])
def test_state_dict_goes_out_by_name_and_back(generation: str) -> None:
    state = nari_state(2)
    out = export_nari(ours_from(state, generation))
    assert out.keys() == state.keys()
    for name, value in state.items():
        assert out[name].is_contiguous()
        if name == "decoder.logits_dense.weight":  # the ids that are never drawn become copies of the end
            assert torch.equal(out[name][..., :12], value[..., :12])
            assert torch.equal(out[name][..., 12:], value[..., 11:12].expand(-1, -1, 3))
        else:
            assert torch.equal(out[name], value), name


@pytest.mark.parametrize("generation", ["april", "0626"])
def test_the_config_goes_out_as_the_generation_writes_it(generation: str) -> None:
    described = describe_nari(CONFIGS[generation], generation)
    model = TextModel.from_json(described.model)
    config = nari_config(model, described.delays, described.specials)
    assert ("model" in config) == (generation == "april")
    assert describe_nari(config, generation) == described
    if generation == "april":
        assert {**config["model"], **config["data"]}.items() >= {**OLD["model"], **OLD["data"]}.items()
    else:
        assert config["encoder_config"].items() >= {k: v for k, v in NEW["encoder_config"].items() if v}.items()
        assert config["eos_token_id"] == 11


def test_both_forms_of_a_config_describe_one_model() -> None:
    assert describe_nari(OLD, "0626") == describe_nari(NEW, "0626")


@pytest.mark.parametrize(
    ("section", "change"),
    [
        (("model", "decoder"), {"mlp_activations": ["gelu", "linear"]}),
        (("model", "encoder"), {"use_pre_norm": True}),
        (("model",), {"rope_min_timescale": 2}),
        (("model", "decoder"), {"n_embd": None}),
        (("data",), {"channels": 9}),
        (("data",), {"audio_eos_value": 14}),
    ],
)
def test_what_a_config_says_that_we_do_not_build(section: tuple[str, ...], change: dict) -> None:
    config = {**OLD, "model": {**OLD["model"]}, "data": {**OLD["data"]}}
    inner = config
    for name in section[:-1]:
        inner = inner[name]
    inner[section[-1]] = {**inner[section[-1]], **change}
    with pytest.raises(PartimentoError) as caught:
        describe_nari(config, "april")
    assert caught.value.code == "MODEL030"
