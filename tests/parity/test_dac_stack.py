"""DAC's encoder, decoder and quantizer against transformers' DacModel with the same random weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import DacConfig, DacModel

from partimento.waveform.dac import DacDecoder, DacEncoder, strides_of
from partimento.waveform.factorised import FactorisedQuantizer

CLOSE = 1e-4
UNIT = {"snake1": "first_snake", "conv1": "wide", "snake2": "second_snake", "conv2": "mix"}
OUTER = {"conv1": "enter", "snake1": "snake", "conv2": "leave"}
BLOCK = {"snake1": "snake", "conv1": "stride", "conv_t1": "stride"}


def ours(name: str) -> str:
    """encoder.block.0.res_unit2.conv1.weight -> levels.0.units.1.wide.weight"""
    parts = name.split(".")[1:]
    leaf = parts[-1].replace("alpha", "alpha_C")
    if parts[0] != "block":
        return f"{OUTER[parts[0]]}.{leaf}"
    if parts[2].startswith("res_unit"):
        return f"levels.{parts[1]}.units.{int(parts[2][-1]) - 1}.{UNIT[parts[3]]}.{leaf}"
    return f"levels.{parts[1]}.{BLOCK[parts[2]]}.{leaf}"


def theirs(strides: tuple[int, ...], width: int = 4, books: int = 3, latent: int = 20, seed: int = 0) -> DacModel:
    """A model whose every tensor is random, and whose latents have a size at which a code matters."""
    config = DacConfig(
        encoder_hidden_size=width,
        downsampling_ratios=list(strides),
        decoder_hidden_size=width << len(strides),
        upsampling_ratios=list(strides[::-1]),
        hidden_size=latent,
        n_codebooks=books,
        codebook_size=32,
        codebook_dim=4,
    )
    torch.manual_seed(seed)
    model = DacModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("alpha"):
                parameter.uniform_(0.3, 2.0)
            elif name.endswith("bias"):
                parameter.normal_(std=0.05)
            elif "codebook" in name:
                parameter.normal_(std=0.5)
            else:
                fan = parameter[0].numel() if parameter.ndim > 1 else 1
                parameter.normal_(std=0.7 * fan**-0.5)
    return model


def mine(model: DacModel) -> tuple[DacEncoder, FactorisedQuantizer, DacDecoder]:
    c = model.config
    encoder = DacEncoder(c.downsampling_ratios, c.encoder_hidden_size, c.hidden_size)
    decoder = DacDecoder(c.upsampling_ratios, c.decoder_hidden_size, c.hidden_size)
    quantizer = FactorisedQuantizer(c.n_codebooks, c.codebook_size, c.hidden_size, c.codebook_dim)
    for module, prefix in ((encoder, "encoder."), (decoder, "decoder.")):
        state = {ours(name): t for name, t in model.state_dict().items() if name.startswith(prefix)}
        shapes = module.state_dict()
        module.load_state_dict({name: tensor.view_as(shapes[name]) for name, tensor in state.items()})
    with torch.no_grad():
        for stage, other in zip(quantizer.stages, model.quantizer.quantizers, strict=True):
            for projection, conv in ((stage.inward, other.in_proj), (stage.outward, other.out_proj)):
                projection.weight.copy_(conv.weight[..., 0])
                projection.bias.copy_(conv.bias)
            stage.book.weight.copy_(other.codebook.weight)
    quantizer.begin_with_books()
    return encoder.eval(), quantizer.eval(), decoder.eval()


def waves(frames: int, hop: int, seed: int = 1) -> Tensor:
    return 0.3 * torch.randn(2, 1, frames * hop, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strides", [(2, 4, 8, 8), (2, 4), (4, 2, 6)], ids=str)
@torch.no_grad()
def test_latents_codes_and_audio_are_dac_s(strides: tuple[int, ...]) -> None:
    model = theirs(strides)
    encoder, quantizer, decoder = mine(model)
    wave = waves(12, math.prod(strides))
    latent = encoder(wave)
    expected = model.encoder(wave)
    assert latent.shape == (2, 20, 12) and float(expected.std()) > 0.1
    assert float((latent - expected).abs().max()) < CLOSE
    codes = quantizer.encode(latent.transpose(1, 2))
    encoded = model.encode(wave)
    assert torch.equal(codes, encoded.audio_codes.transpose(1, 2))
    assert len(codes.unique()) > 5
    made = decoder(quantizer.decode(codes).transpose(1, 2))
    expected = model.decode(audio_codes=encoded.audio_codes).audio_values
    assert made.shape == wave.shape and float(expected.std()) > 0.01
    assert float((made[:, 0] - expected).abs().max()) < CLOSE


@torch.no_grad()
def test_odd_strides_encode_as_dac_and_decode_to_all_samples() -> None:
    """DAC's decoder loses a sample at the end for each odd stride; ours is the same up to where that is felt."""
    strides = (3, 5)
    model = theirs(strides)
    encoder, _, decoder = mine(model)
    wave = waves(80, 15)
    latent = encoder(wave)
    assert float((latent - model.encoder(wave)).abs().max()) < CLOSE
    made, expected = decoder(latent)[:, 0], model.decoder(latent)[:, 0]
    assert made.shape == (2, 1200) and expected.shape[1] < 1200
    inside = 1200 - 2 * 15 * decoder.reach
    assert inside > 600
    assert float((made[:, :inside] - expected[:, :inside]).abs().max()) < CLOSE


@torch.no_grad()
def test_reach_is_the_measured_one_of_dac() -> None:
    """3733 samples to the left of a frame and 4244 to the right: measured on transformers' DacModel."""
    strides = strides_of(512)
    assert strides == (2, 4, 8, 8) and strides_of(320) == (2, 4, 5, 8)
    assert DacEncoder(strides, 2, 4).reach == -(-3733 // 512) == 4244 // 512
    assert DacDecoder(strides[::-1], 16, 4).reach == 10
