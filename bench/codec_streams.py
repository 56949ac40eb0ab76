"""Chunked coding against one pass, for every codec geometry that partimento opens; time on this CPU.

    python bench/codec_streams.py             about a minute of one idle core
    python bench/codec_streams.py --only mimi-24k

The published DAC, EnCodec and Mimi geometries have random weights (nothing is downloaded), the resident codec its own.
The sound is the synthetic band. Every codec codes it in one pass and in chunks of a second or less; compared are:

seams    share of codes that are equal within two frames of a seam between chunks, at the worst of the seams
codes    share of codes that are equal anywhere
wave     largest difference of the decoded waves (of the same codes), as a share of their peak
lengths  whether N samples gave T = ceil(N / hop) frames, and these T * hop samples, whole and in chunks
x real   seconds of sound coded (decoded) per second, in chunks
used     how many different codes a book shows, of how many: equal codes say little where few are used

As the library makes them, EnCodec and Mimi have codebooks of zeros, so every code is 0 and every chunking is right, and
the sound hardly reaches their latents. So biases are damped, and codebooks are drawn to lie like what reaches them.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from partimento.audio.files import resample
from partimento.audio.synth import band
from partimento.codecs import dac, encodec, mimi
from partimento.codecs.codec import Codec, decode_stream, encode_stream, open_codec

NEAR = 2  # frames on either side of a seam


@dataclass(frozen=True)
class Result:
    codec: str
    parameters: int
    seconds: float
    chunk_seconds: float
    seams: int
    seams_equal: float
    codes_equal: float
    wave_difference: float
    lengths_exact: bool
    encode_x_real_time: float
    decode_x_real_time: float
    codes_used: float
    cardinality: int


@dataclass(frozen=True)
class Geometry:
    name: str
    build: Callable[[], Codec]
    seconds: float
    chunk_seconds: float


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", help="one codec")
    only = arguments.parse_args().only
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {load:.1f} at the start, float32")
    print(f"{'codec':<14}{'Mpar':>6}{'s':>5}{'seams':>13}{'codes':>11}{'wave':>9}{'lengths':>9}", end="")
    print(f"{'enc x':>8}{'dec x':>8}{'used':>15}")
    results = []
    for geometry in GEOMETRIES:
        if only in (None, geometry.name):
            torch.manual_seed(0)
            with torch.no_grad():
                results.append(measure(geometry))
            print(line(results[-1]), flush=True)
    print(json.dumps({"bench": "codecs", "torch": torch.__version__, "results": [asdict(r) for r in results]}))


def measure(geometry: Geometry) -> Result:
    codec = geometry.build()
    wave_CN = sound(codec.spec.sample_rate, geometry.seconds)
    samples, frames = wave_CN.shape[1], codec.spec.frames(wave_CN.shape[1])
    whole_TK = codec.encode(torch.from_numpy(wave_CN)[None])[0].cpu().numpy()
    decoded_CN = codec.decode(torch.from_numpy(whole_TK)[None])[0].cpu().numpy()

    started = time.perf_counter()
    parts = list(encoded(codec, wave_CN, geometry.chunk_seconds))
    encoding = time.perf_counter() - started
    started = time.perf_counter()
    wave_parts = list(decoded(codec, whole_TK, geometry.chunk_seconds))
    decoding = time.perf_counter() - started

    chunked_TK, chunked_CN = np.concatenate(parts), np.concatenate(wave_parts, axis=1)
    exact = len(chunked_TK) == len(whole_TK) == frames
    exact &= chunked_CN.shape[1] == decoded_CN.shape[1] == frames * codec.spec.hop
    same_TK = chunked_TK == whole_TK
    seams = np.cumsum([len(part) for part in parts])[:-1]
    seconds = samples / codec.spec.sample_rate
    return Result(
        codec=geometry.name,
        parameters=parameters(codec),
        seconds=seconds,
        chunk_seconds=geometry.chunk_seconds,
        seams=len(seams),
        seams_equal=min(float(same_TK[max(0, seam - NEAR) : seam + NEAR].mean()) for seam in seams),
        codes_equal=float(same_TK.mean()),
        wave_difference=float(np.abs(chunked_CN - decoded_CN).max() / np.abs(decoded_CN).max()),
        lengths_exact=bool(exact),
        encode_x_real_time=seconds / encoding,
        decode_x_real_time=seconds / decoding,
        codes_used=float(np.mean([len(np.unique(column)) for column in whole_TK.T])),
        cardinality=codec.spec.cardinality,
    )


def encoded(codec: Codec, wave_CN: NDArray[np.float32], chunk_seconds: float) -> Any:
    if isinstance(codec, encodec.EncodecCodec | mimi.MimiCodec):
        return codec.encode_stream([wave_CN], chunk_seconds)
    return encode_stream(codec, [wave_CN], chunk_seconds)


def decoded(codec: Codec, codes_TK: NDArray[np.int64], chunk_seconds: float) -> Any:
    if isinstance(codec, encodec.EncodecCodec | mimi.MimiCodec):
        return codec.decode_stream([codes_TK], chunk_seconds)
    return decode_stream(codec, [codes_TK], None, chunk_seconds)


def line(r: Result) -> str:
    return (
        f"{r.codec:<14}{r.parameters / 1e6:>6.1f}{r.seconds:>5.1f}"
        f"{r.seams:>4}x{r.seams_equal:>8.2%}{r.codes_equal:>11.4%}"
        f"{r.wave_difference:>9.0e}{'exact' if r.lengths_exact else 'WRONG':>9}{r.encode_x_real_time:>8.1f}"
        f"{r.decode_x_real_time:>8.1f}{r.codes_used:>9.0f} / {r.cardinality}"
    )


def sound(rate: int, seconds: float) -> NDArray[np.float32]:
    """[1, N], N no multiple of any hop."""
    loop = band(seed=5, seconds=2 * seconds)
    wave_CN = resample(loop.wave_CN[:, : int(seconds * loop.sample_rate)], loop.sample_rate, rate)
    return np.ascontiguousarray(wave_CN[:, : wave_CN.shape[1] // 2 * 2 - 1])


def parameters(codec: Any) -> int:
    model = next(getattr(codec, name) for name in ("model", "_model", "_decoder") if hasattr(codec, name))
    return sum(parameter.numel() for parameter in model.parameters())


def dac_codec(rate: int, ratios: list[int], books: int) -> Codec:
    """descript/dac_16khz, dac_24khz, dac_44khz."""
    model = DacModel(DacConfig(sampling_rate=rate, downsampling_ratios=ratios, n_codebooks=books))
    return dac.DacCodec(model, dac.spec_of(model, "0" * 64))


def encodec_codec(config: EncodecConfig) -> Codec:
    model = EncodecModel(config).eval()
    enliven(model)
    latent_NL = model.encoder(probe(config.sampling_rate))[0].T
    spread(latent_NL, model.quantizer.layers, "embed")
    return encodec.EncodecCodec(model, encodec.spec_of(model, "0" * 64))


def mimi_codec() -> Codec:
    """kyutai/mimi."""
    model = MimiModel(MimiConfig()).eval()
    enliven(model)
    latent_1DT = model.encoder(probe(24000)).latents
    quantizer = model.quantizer
    for half in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
        spread(half.input_proj(latent_1DT)[0].T, half.layers, "embed_sum")
    return mimi.MimiCodec(model, mimi.spec_of(model, "0" * 64))


def probe(rate: int) -> Tensor:
    return torch.from_numpy(sound(rate, 4.0))[None]


def enliven(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("conv.bias"):
            parameter.mul_(0.1)


def spread(residual_NL: Tensor, layers: Any, table: str) -> None:
    """Codebooks with points spread like the residuals that reach them."""
    for layer in layers:
        points = getattr(layer.codebook, table)
        points.copy_(residual_NL.mean(dim=0) + residual_NL.std(dim=0) * torch.randn_like(points))
        residual_NL = residual_NL - layer.codebook.decode(layer.codebook.encode(residual_NL))


ENCODEC_24K = EncodecConfig()
ENCODEC_32K = EncodecConfig(
    sampling_rate=32000,
    target_bandwidths=[2.2],
    upsampling_ratios=[8, 5, 4, 4],
    num_filters=64,
    codebook_size=2048,
    codebook_dim=128,
    use_causal_conv=False,
    use_conv_shortcut=False,
)
GEOMETRIES = [
    Geometry("resident-44k", open_codec, 20, 1.0),
    Geometry("dac-16k", lambda: dac_codec(16000, [2, 4, 5, 8], 12), 3, 0.6),
    Geometry("dac-24k", lambda: dac_codec(24000, [2, 4, 5, 8], 32), 2.4, 0.5),
    Geometry("dac-44k", lambda: dac_codec(44100, [2, 4, 8, 8], 9), 2, 0.4),
    Geometry("encodec-24k", lambda: encodec_codec(ENCODEC_24K), 20, 1.0),
    Geometry("encodec-32k", lambda: encodec_codec(ENCODEC_32K), 10, 1.0),
    Geometry("mimi-24k", mimi_codec, 30, 1.0),
]


if __name__ == "__main__":
    main()
