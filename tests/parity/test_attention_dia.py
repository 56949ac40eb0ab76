"""Rotary, RMS norm, SwiGLU, grouped queries, explicit scale, wide heads and cross attention against transformers' Dia
decoder, and our attention with QK-norm against the formula in float64."""

from __future__ import annotations

import pytest
import torch
from slow_text_model import normed, turned

from partimento.models.attention import SelfAttention
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.layers import Rotary

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("seed", [0, 1, 2])
@torch.inference_mode()
def test_the_dia_decoder_by_configuration(seed: int) -> None:
    from transformers.models.dia.configuration_dia import DiaDecoderConfig
    from transformers.models.dia.modeling_dia import DiaDecoder

    torch.manual_seed(seed)
    heads, kv_heads, head, width, cross = 4, (1, 2, 4)[seed], 12, 40, 20
    theirs = DiaDecoder(
        DiaDecoderConfig(
            hidden_size=width,
            num_hidden_layers=3,
            intermediate_size=56,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head,
            cross_num_attention_heads=heads,
            cross_num_key_value_heads=2,
            cross_head_dim=head,
            cross_hidden_size=cross,
            vocab_size=19,
            num_channels=3,
            max_position_embeddings=64,
            pad_token_id=17,
            eos_token_id=16,
            bos_token_id=18,
        )
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = CodeDecoder(
        DecoderConfig(
            codebooks=3,
            rows=19,
            outputs=17,
            width=width,
            layers=3,
            heads=heads,
            kv_heads=kv_heads,
            head_width=head,
            feedforward=56,
            activation="swiglu",
            norm="rms",
            positions="rotary",
            max_positions=64,
            qk_norm=False,
            attention_scale=1.0,
            cross_width=cross,
            cross_kv_heads=2,
        )
    ).eval()
    ours.embedding.copy_(theirs.embeddings.embed.weight)
    ours.norm.weight.copy_(theirs.norm.weight)
    for our, their in zip(ours.blocks, theirs.layers, strict=True):
        own, crossed = their.self_attention, their.cross_attention
        our.attention.qkv.weight.copy_(torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight]))
        our.attention.out.weight.copy_(own.o_proj.weight)
        our.cross.query.weight.copy_(crossed.q_proj.weight)
        our.cross.key_value.weight.copy_(torch.cat([crossed.k_proj.weight, crossed.v_proj.weight]))
        our.cross.out.weight.copy_(crossed.o_proj.weight)
        our.feedforward.up.weight.copy_(their.mlp.gate_up_proj.weight)
        our.feedforward.down.weight.copy_(their.mlp.down_proj.weight)
        our.attention_norm.weight.copy_(their.pre_sa_norm.weight)
        our.cross_norm.weight.copy_(their.pre_ca_norm.weight)
        our.feedforward_norm.weight.copy_(their.pre_mlp_norm.weight)

    grid, memory = torch.randint(0, 19, (2, 10, 3)), torch.randn(2, 6, cross)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    hidden = theirs(input_ids=grid, encoder_hidden_states=memory, encoder_attention_mask=mask.long()).last_hidden_state
    expected = (hidden @ ours.head.weight.T).view(2, 10, 3, 17)
    got = ours(grid, memory_BMD=memory, memory_mask_BM=mask)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("scale", [None, 0.7])
@torch.inference_mode()
def test_self_attention_with_qk_norm_against_the_formula(kv_heads: int, scale: float | None) -> None:
    torch.manual_seed(kv_heads)
    heads, head, width, steps = 4, 6, 20, 9
    attention = SelfAttention(width, heads, kv_heads, head, bias=True, scale=scale, qk_norm_eps=1e-5).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    rotary = Rotary(32, head, 100.0).double()
    x = torch.randn(1, steps, width, dtype=torch.float64)
    got = attention(x, rotary, 3, None, 0)

    qkv = x[0] @ attention.qkv.weight.T + attention.qkv.bias
    parts = qkv.split([heads * head, kv_heads * head, kv_heads * head], -1)
    mixed = torch.zeros(steps, heads * head, dtype=torch.float64)
    for h in range(heads):
        g = h * kv_heads // heads
        query, key, value = (part[:, i * head : (i + 1) * head] for part, i in zip(parts, (h, g, g), strict=True))
        query = turned(normed(query, attention.query_norm.weight), 3, 100.0)
        key = turned(normed(key, attention.key_norm.weight), 3, 100.0)
        for s in range(steps):
            scores = key[: s + 1] @ query[s] * (head**-0.5 if scale is None else scale)
            mixed[s, h * head : (h + 1) * head] = scores.softmax(0) @ value[: s + 1]
    expected = mixed @ attention.out.weight.T + attention.out.bias
    # The norm and the rotary table are float32 by design.
    torch.testing.assert_close(got[0], expected, rtol=1e-5, atol=1e-5)
