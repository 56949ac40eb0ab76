"""The text of a mixture against transformers' LlamaForCausalLM (bit for bit), its rows of audio against the same model
with a longer vocabulary (to 1e-5), and the expert's feed-forward against MusicGen's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig as StockConfig
from transformers import LlamaForCausalLM
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig
from transformers.models.musicgen.modeling_musicgen import MusicgenDecoderLayer

from partimento.models.experts import ExpertConfig, FeedforwardExpert
from partimento.models.llama import Llama, LlamaConfig, places
from partimento.models.mixture import MixtureConfig, MixtureModel

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
VOCABULARY, BOS = 97, 1


def stock(rope: dict[str, Any], tied: bool, **others: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 160,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.2,
        "bos_token_id": BOS,
    }
    config = StockConfig(rope_parameters=rope, tie_word_embeddings=tied, **{**sizes, **others})
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    return model


def ours(model: LlamaForCausalLM) -> Llama:
    return filled(Llama(config_of(model)), model)


def config_of(model: LlamaForCausalLM) -> LlamaConfig:
    return LlamaConfig.of_transformers(model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]})


@torch.no_grad()
def filled(llama: Llama, model: LlamaForCausalLM) -> Llama:
    named, tensors = dict(llama.named_parameters()), model.state_dict()
    assert set(named) == set(places(llama.config))
    for name, theirs in places(llama.config).items():
        named[name].copy_(tensors[theirs])
    return llama


@pytest.mark.parametrize("rope", [PLAIN, LLAMA3], ids=["plain", "llama3"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@torch.no_grad()
def test_the_logits_of_text_are_bit_equal_padded_or_not(rope: dict[str, Any], tied: bool) -> None:
    model = stock(rope, tied)
    llama = ours(model)
    ids, lengths = torch.randint(0, VOCABULARY, (4, 300)), (300, 200, 17, 1)
    mine = llama(ids)
    assert mine.abs().max() > 1, "the model must say something"
    assert torch.equal(mine, model(ids).logits)
    assert torch.equal(llama(ids[:1, :50]), model(ids[:1, :50]).logits)
    mask = torch.arange(300) < torch.tensor(lengths)[:, None]
    padded = model(ids, attention_mask=mask.long()).logits
    for row, length in enumerate(lengths):
        assert torch.equal(mine[row, :length], padded[row, :length])
        alone = model(ids[row : row + 1, :length]).logits[0]  # other shapes are other sums
        torch.testing.assert_close(mine[row, :length], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "feedforward", "bottleneck", "lora", "full", "feedforward_copy"])
@torch.no_grad()
def test_text_knows_nothing_of_experts_bit_for_bit(kind: Any) -> None:
    model = stock(LLAMA3, tied=True)
    mixture = _mixture(model, kind=kind)
    for parameter in (
        *mixture.decoder.experts.parameters(),
        mixture.decoder.embedding,
        *mixture.decoder.head.parameters(),
    ):
        parameter.add_(torch.randn_like(parameter))
    text, mask = torch.randint(0, VOCABULARY, (2, 20)), torch.arange(20) < torch.tensor([[20], [7]])
    told = mixture.told(text, mask, torch.ones(2, dtype=torch.bool))
    mixture.decoder(torch.randint(0, 8, (2, 6, 2)), **told.arguments())
    assert told.prefix is not None
    cache = model(text, attention_mask=mask.long(), use_cache=True).past_key_values
    for layer in range(3):
        for got, there in (
            (told.prefix.keys_L[layer], cache.layers[layer].keys),
            (told.prefix.values_L[layer], cache.layers[layer].values),
        ):
            assert torch.equal(got[0], there[0]) and torch.equal(got[1, :, :7], there[1, :, :7])
    assert torch.equal(mixture.llama(text), model(text).logits)


def _mixture(model: LlamaForCausalLM, *, codebooks: int = 2, cardinality: int = 8, **expert: Any) -> MixtureModel:
    mixture = MixtureModel(
        MixtureConfig(
            llama=config_of(model),
            codebooks=codebooks,
            rows=cardinality + 2,
            outputs=cardinality,
            pad_row=cardinality + 1,
            experts=ExpertConfig(**{"width": 16, "inner": 24, "rank": 4, **expert}),
        )
    )
    filled(mixture.llama, model)
    mixture.decoder.initialise()
    return mixture.eval()


@pytest.mark.parametrize("kind", ["none", "lora", "full", "feedforward_copy", "bottleneck", "feedforward"])
@torch.no_grad()
def test_rows_of_codes_are_those_of_a_llama_with_a_longer_vocabulary(kind: Any) -> None:
    """Flat grids: a row holds one code, and the stock model has its id behind those of the text. Every expert begins as
    nothing, so that all kinds are the stock model here."""
    model, books, cardinality = stock(LLAMA3, tied=False), 2, 8
    mixture = _mixture(model, kind=kind)
    decoder = mixture.decoder
    rows = decoder.config.rows
    # Ids behind the text: book * rows + code; logits of codes behind those of the text: book * cardinality + code.
    longer = stock(LLAMA3, tied=False, vocab_size=VOCABULARY + books * rows)
    longer.load_state_dict({**model.state_dict(), **_extended(model, decoder.embedding, decoder.head.weight)})
    lengths, codes = (9, 4, 1), torch.randint(0, cardinality, (3, 7))
    text = torch.randint(0, VOCABULARY, (3, 9))
    text[:, 0] = BOS
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    grid = torch.full((3, 7, books), decoder.config.pad_row)
    for step in range(7):
        grid[:, step, step % books] = codes[:, step]
    got = decoder(grid, **mixture.told(text, mask, torch.tensor([True, True, False])).arguments())
    for item, length in enumerate(lengths):
        book = torch.arange(7) % books
        ids = torch.cat([text[item, :length], VOCABULARY + book * rows + codes[item]])
        there = longer(ids[None]).logits[0, length:, VOCABULARY : VOCABULARY + books * cardinality]
        torch.testing.assert_close(got[item].flatten(1), there, rtol=0, atol=1e-5)
    assert got.std() > 0.05


def _extended(model: LlamaForCausalLM, embedding: Tensor, head: Tensor) -> dict[str, Tensor]:
    tensors = model.state_dict()
    spare = torch.zeros(len(embedding) - len(head), head.shape[1])
    return {
        "model.embed_tokens.weight": torch.cat([tensors["model.embed_tokens.weight"], embedding]),
        "lm_head.weight": torch.cat([tensors["lm_head.weight"], head, spare]),
    }


@torch.no_grad()
def test_the_feedforward_of_an_expert_is_musicgens() -> None:
    torch.manual_seed(0)
    config = MusicgenDecoderConfig(hidden_size=16, ffn_dim=24, num_attention_heads=2)
    layer = MusicgenDecoderLayer(config, layer_idx=0).eval()
    expert = FeedforwardExpert(ExpertConfig(width=16, inner=24, place="instead"), ours(stock(PLAIN, True)).config)
    expert.up.weight.copy_(layer.fc1.weight)
    expert.down.weight.copy_(layer.fc2.weight)
    expert.narrow.weight.copy_(torch.eye(16, 64))
    expert.widen.weight.copy_(torch.eye(64, 16))
    x = torch.randn(2, 5, 64)
    there = layer.fc2(layer.activation_fn(layer.fc1(x[..., :16])))
    assert layer.fc1.bias is None and layer.fc2.bias is None
    torch.testing.assert_close(expert.expert(x)[..., :16], there, rtol=0, atol=1e-6)
    assert not expert.expert(x)[..., 16:].any()
