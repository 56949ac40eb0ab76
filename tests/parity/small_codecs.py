"""Small EnCodec and Mimi checkpoints with random weights, structured as the published ones, and sounds for them."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import EncodecConfig, EncodecModel, MimiConfig, MimiModel

HOP = 20  # of all of them


def encodec(folder: Path, *, causal: bool, seed: int = 0) -> Any:
    """An EncodecModel read back from disk: 24 kHz and causal with 8 books, or 32 kHz and not with 4."""
    config = EncodecConfig(
        sampling_rate=24000 if causal else 32000,
        target_bandwidths=[28.8, 57.6] if causal else [38.4],
        use_causal_conv=causal,
        use_conv_shortcut=causal,
        num_filters=4,
        upsampling_ratios=[5, 2, 2],
        hidden_size=16,
        num_residual_layers=1,
        codebook_size=64,
        codebook_dim=16,
    )
    torch.manual_seed(seed)
    model = EncodecModel(config).eval()
    with torch.no_grad():
        enliven(model)
        latents_NL = model.encoder(torch.from_numpy(sound(20_000))[None])[0].T
        spread(latents_NL, [layer.codebook for layer in model.quantizer.layers], "embed")
    model.save_pretrained(folder)
    return EncodecModel.from_pretrained(folder)


def mimi(folder: Path, seed: int = 0) -> Any:
    """A MimiModel read back from disk: strides 5, 2 and 2, on both sides 2 layers with a window of 12, 10 books."""
    config = MimiConfig(
        sampling_rate=24000,
        num_filters=4,
        upsampling_ratios=[5, 2],
        hidden_size=16,
        vector_quantization_hidden_dimension=8,
        codebook_dim=8,
        codebook_size=64,
        num_quantizers=10,
        upsample_groups=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        sliding_window=12,
        layer_scale_initial_scale=0.5,
    )
    torch.manual_seed(seed)
    model = MimiModel(config).eval()
    with torch.no_grad():
        enliven(model)
        latents_1DT = model.encoder(torch.from_numpy(sound(20_000))[None]).latents
        for half in (
            model.quantizer.semantic_residual_vector_quantizer,
            model.quantizer.acoustic_residual_vector_quantizer,
        ):
            spread(half.input_proj(latents_1DT)[0].T, [layer.codebook for layer in half.layers], "embed_sum")
    model.save_pretrained(folder)
    return MimiModel.from_pretrained(folder)


def enliven(model: torch.nn.Module) -> None:
    """Make fresh weights pass the sound on: as they come, biases drown it and rounding decides the codes."""
    for name, parameter in model.named_parameters():
        if name.endswith("conv.bias"):
            parameter.mul_(0.1)
        elif name.endswith("weight.original0"):
            parameter.mul_(1.5)
        elif "transformer" in name and parameter.ndim == 2:
            parameter.mul_(12)


def spread(residual_NL: torch.Tensor, codebooks: list[Any], table: str) -> None:
    """Fill codebooks, which the library makes all zero, with points spread like the residuals that reach them."""
    for book in codebooks:
        size = getattr(book, table).shape[0]
        points = residual_NL.mean(dim=0) + residual_NL.std(dim=0) * torch.randn(size, residual_NL.shape[1])
        getattr(book, table).copy_(points)
        residual_NL = residual_NL - book.decode(book.encode(residual_NL))


def sound(samples: int, seed: int = 0) -> NDArray[np.float32]:
    """[1, N]: two gliding tones and noise, with a loud and a quiet part."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 24000
    tones = np.sin(2 * np.pi * (220 + 300 * time) * time) + 0.5 * np.sin(2 * np.pi * 1760 * time)
    wave = (0.2 * tones + 0.05 * rng.standard_normal(samples)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    return wave[None].astype(np.float32)


def cut(array: NDArray[Any], axis: int, sizes: list[int]) -> Iterator[NDArray[Any]]:
    """The array in blocks of these sizes, over and over."""
    place = turn = 0
    while place < array.shape[axis]:
        size = sizes[turn % len(sizes)]
        yield np.take(array, range(place, min(place + size, array.shape[axis])), axis=axis)
        place, turn = place + size, turn + 1


def most_alive(stream: Iterable[Any]) -> int:
    """The most bytes in tensors that the stream keeps at any moment that it gives something."""
    gc.collect()
    gc.freeze()  # what is there already, the model among it, is not counted
    try:
        return max(_alive() for _ in stream)
    finally:
        gc.unfreeze()


def _alive() -> int:
    """Bytes in tensors, each storage once."""
    tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


# What must hold of every codec whose memory has no end -------------------------------------------------------------


def assert_streams_are_the_whole(codec: Any, wave_CN: NDArray[np.float32], sizes: list[int], chunk: float) -> None:
    """In blocks of any sizes: the codes of one pass, and its wave but for rounding."""
    whole_1TK = codec.encode(torch.from_numpy(wave_CN)[None])
    streamed = np.concatenate(list(codec.encode_stream(cut(wave_CN, 1, sizes), chunk)))
    np.testing.assert_array_equal(streamed, whole_1TK[0])
    decoded = np.concatenate(list(codec.decode_stream(cut(whole_1TK[0].numpy(), 0, sizes), chunk)), axis=1)
    np.testing.assert_allclose(decoded, codec.decode(whole_1TK)[0], rtol=0, atol=1e-5)


def assert_items_are_independent(codec: Any) -> None:
    """Of their mates in a batch."""
    waves_BCN = torch.from_numpy(np.stack([sound(3000, seed=n) for n in range(3)]))
    codes_BTK = codec.encode(waves_BCN)
    assert torch.equal(codes_BTK[1:2], codec.encode(waves_BCN[1:2]))
    assert torch.equal(codec.decode(codes_BTK)[1:2], codec.decode(codes_BTK[1:2]))


def assert_memory_is_constant(codec: Any, chunk: float) -> None:
    def blocks(count: int) -> Any:
        return (sound(480, seed=n) for n in range(count))

    def codes(count: int) -> Any:
        return (np.zeros((20, codec.spec.codebooks), np.int64) for _ in range(count))

    for stream, items in ((codec.encode_stream, blocks), (codec.decode_stream, codes)):
        short, long = most_alive(stream(items(30), chunk)), most_alive(stream(items(90), chunk))
        assert 0 < long < 1.05 * short < 200_000


def steps_with_influence(stage: torch.nn.Module, rates: tuple[int, int], width: int) -> torch.Tensor:
    """Of 60 input steps, those that output step 30 depends on; `rates` are values a step on both sides."""
    wave = torch.randn(1, width, 60 * rates[0], requires_grad=True)
    stage(wave)[..., 30 * rates[1] : 31 * rates[1]].sum().backward()
    assert wave.grad is not None
    return torch.nonzero(wave.grad.reshape(width, 60, rates[0]).abs().sum(dim=(0, 2)))[:, 0]
