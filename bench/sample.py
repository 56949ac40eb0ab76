"""Playing against transformers' `generate` for MusicGen and Dia: same weights, same frames, same machine, one run.

    python bench/sample.py                    under 12 minutes on 2 cores
    python bench/sample.py --quick            under 3 minutes: the small width, fewer repetitions
    python bench/sample.py --batches 1,8,16,64
    python bench/sample.py --device cuda      the 300M and the 1.6B shape in bfloat16

First the bandwidth of the memory is measured: a step reads every weight and the filled cache once, so bandwidth over
bytes is a ceiling in steps/s (a model that fits into the caches of a CPU may exceed it). Then for every model, width,
batch and guidance all ways take turns, and medians are compared. A step is a row of the grid; x real time is for each
item (50 frames a second for MusicGen, 86.13 for Dia); first audio is the time until the first frames have come out of a
small codec with random weights. Logits are asserted to agree before anything is timed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from partimento.models.conditions import NOTHING, Told
from partimento.models.decoder import CodeDecoder
from partimento.models.dia import TextModel
from partimento.models.linear import Linear
from partimento.models.quantized import Weights, narrowed
from partimento.models.weights import describe_dia, import_dia, import_musicgen, musicgen_config
from partimento.sampling.generate import generate
from partimento.sampling.guidance import Guidance, from_extrapolation
from partimento.sampling.rules import Rules
from partimento.sampling.sheet import FREE, Ending
from partimento.tokens.patterns import Pattern, apply
from partimento.tokens.spec import Specials

CODEBOOKS, CODES, TEXT = 9, 1024, 32
RATES = {"musicgen": 50.0, "dia": 44100 / 512}
TOP_K = {"musicgen": 250, "dia": 50}
BYTES = {"full": 4, "bf16": 2, "int8": 1}
NOMINAL = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.04e12, "L40S": 0.864e12, "4090": 1.008e12}


@dataclass(frozen=True)
class Size:
    name: str
    width: int
    layers: int
    heads: int
    frames: int


@dataclass(frozen=True)
class Mode:
    name: str
    compile: bool
    weights: Weights


SIZES = [Size("d=256 L=6", 256, 6, 4, 128), Size("d=512 L=12", 512, 12, 8, 96)]
GPU_SIZES = {"musicgen": Size("300M", 1024, 24, 16, 256), "dia": Size("1.6B", 2048, 18, 16, 256)}
MODES = [
    Mode("eager", False, "full"),
    Mode("compiled", True, "full"),
    Mode("compiled bf16", True, "bf16"),
    Mode("compiled int8", True, "int8"),
]


class Musicgen:
    """The decoder over a given memory, as their text encoder would leave it; top-k 250, as published."""

    pattern, specials, ending = Pattern.named("delay", CODEBOOKS), Specials.musicgen(CODES), FREE

    def __init__(self, size: Size, device: torch.device) -> None:
        config = transformers.MusicgenDecoderConfig(
            vocab_size=CODES,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            ffn_dim=4 * size.width,
            num_codebooks=CODEBOOKS,
            dropout=0.0,
            pad_token_id=CODES,
            bos_token_id=CODES,
        )
        self.theirs = _on(device, transformers.MusicgenForCausalLM(config))
        for name in ("pad_token_id", "bos_token_id", "decoder_start_token_id"):
            setattr(self.theirs.generation_config, name, CODES)
        self.theirs.generation_config.num_return_sequences = 1
        self.decoder = CodeDecoder(musicgen_config(config.to_dict())).to(device).eval()
        import_musicgen(self.decoder, self.theirs.state_dict())

    def request(self, batch: int) -> None:
        weight = self.decoder.embedding
        self.memory_BMD = torch.randn(batch, TEXT, weight.shape[1], device=weight.device, dtype=weight.dtype)
        self.mask_BM = torch.ones(batch, TEXT, dtype=torch.bool, device=weight.device)

    def told(self) -> tuple[Told, Told]:
        return Told(memory_BMD=self.memory_BMD, mask_BM=self.mask_BM), NOTHING

    def guidance(self, scale: float) -> Guidance:
        return Guidance(scale)

    def logits(self, grid_BSK: Tensor) -> Tensor:
        flat = grid_BSK.transpose(1, 2).flatten(0, 1)
        return self.theirs(flat, encoder_hidden_states=self.memory_BMD).logits

    def play(self, frames: int, scale: float) -> None:
        batch = len(self.memory_BMD)
        memory_BMD = self.memory_BMD
        if scale != 1:  # of zeros nothing is read, with or without a mask
            memory_BMD = torch.cat([memory_BMD, torch.zeros_like(memory_BMD)])
        start = torch.full((batch * CODEBOOKS, 1), CODES, device=memory_BMD.device)
        codes = self.theirs.generate(
            start,
            do_sample=True,
            top_k=TOP_K["musicgen"],
            max_length=frames + CODEBOOKS,
            guidance_scale=None if scale == 1 else scale,
            encoder_hidden_states=memory_BMD,
            # By default their cache takes the keys of the memory for new steps, and grows by them at every step.
            past_key_values=transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache()),
        )
        assert codes.shape == (batch, CODEBOOKS, frames), codes.shape


class Dia:
    """The whole model, text encoder and all; the candidates chosen by the guided logits, top-k 50. EOS is held back."""

    pattern, specials = Pattern((0, 8, 9, 10, 11, 12, 13, 14, 15)), Specials.after(CODES)
    ending = Ending("never", "end")

    def __init__(self, size: Size, device: torch.device) -> None:
        large = size.width == 2048
        head = {"num_attention_heads": size.heads, "head_dim": 128 if large else size.width // size.heads}
        text = 1024 if large else size.width
        config = transformers.DiaConfig(
            encoder_config={
                "hidden_size": text,
                "num_hidden_layers": 12 if large else 2,
                "num_key_value_heads": size.heads,
                "intermediate_size": 4 * text,
                **head,
            },
            decoder_config={
                "hidden_size": size.width,
                "num_hidden_layers": size.layers,
                "num_key_value_heads": size.heads // 4,
                "intermediate_size": 4 * size.width,
                "cross_num_attention_heads": size.heads,
                "cross_num_key_value_heads": size.heads,
                "cross_head_dim": head["head_dim"],
                "cross_hidden_size": text,
                "max_position_embeddings": 1024,
                **head,
            },
        )
        self.theirs = _on(device, transformers.DiaForConditionalGeneration(config))
        self.model = TextModel.from_json(describe_dia(config.to_dict(), "0626").model).to(device).eval()
        import_dia(self.model, self.theirs.state_dict())
        self.decoder = self.model.decoder

    def request(self, batch: int) -> None:
        device = self.decoder.embedding.device
        self.text_BM = torch.randint(97, 123, (batch, TEXT), device=device)
        self.mask_BM = torch.ones(batch, TEXT, dtype=torch.bool, device=device)

    def told(self) -> tuple[Told, Told]:
        keep_B = torch.ones(len(self.text_BM), dtype=torch.bool, device=self.text_BM.device)
        return self.model.told(self.text_BM, self.mask_BM, keep_B), self.model.told(self.text_BM, self.mask_BM, ~keep_B)

    def guidance(self, scale: float) -> Guidance:
        return Guidance(scale, "filter", TOP_K["dia"])

    def logits(self, grid_BSK: Tensor) -> Tensor:
        found = self.theirs(self.text_BM, attention_mask=self.mask_BM.long(), decoder_input_ids=grid_BSK).logits
        return found.view(len(grid_BSK), CODEBOOKS, grid_BSK.shape[1], -1)[..., : CODES + 1]

    def play(self, frames: int, scale: float) -> None:
        batch = len(self.text_BM)
        nothing_BTK = torch.zeros(batch, 0, CODEBOOKS, dtype=torch.long)
        start_BSK = apply(nothing_BTK, self.pattern, self.specials, ends=False).to(self.text_BM.device)
        # Theirs counts c + s (c - u), and takes the rows that the delays leave open from the beginning.
        codes = self.theirs.generate(
            self.text_BM,
            attention_mask=self.mask_BM.long(),
            decoder_input_ids=start_BSK,
            decoder_attention_mask=torch.ones(start_BSK.shape[:2], dtype=torch.long, device=start_BSK.device),
            do_sample=True,
            top_k=TOP_K["dia"],
            max_length=frames + 2,
            min_length=frames + self.pattern.max_delay,
            guidance_scale=1.0 if scale == 1 else scale - from_extrapolation(0.0),
        )
        assert codes.shape[0] == batch and codes.shape[1] >= frames, codes.shape


MODELS: dict[str, Any] = {"musicgen": Musicgen, "dia": Dia}


def main() -> None:
    arguments = parse()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    bandwidth = measured_bandwidth(device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    nominal = next((rate for name, rate in NOMINAL.items() if device.type == "cuda" and name in where), None)
    told = f" (nominal {nominal / 1e9:.0f})" if nominal else ""
    print(f"memory: {bandwidth / 1e9:.1f} GB/s{told}; torch {torch.__version__}, {where}", flush=True)
    results: list[dict[str, Any]] = []
    distances: list[dict[str, Any]] = []
    codec = small_codec(device)
    header = ["model", "size", "batch", "guid.", "way", "steps/s", "x real", "first s", "ceiling", "share", "theirs"]
    print("{:<9}{:<11}{:>5}{:>6} {:<14}{:>9}{:>8}{:>9}{:>9}{:>7}{:>8}{:>7}".format(*header, "ratio"), flush=True)
    for name in MODELS:
        for size in [GPU_SIZES[name]] if device.type == "cuda" else SIZES[: 1 if arguments.quick else None]:
            model = MODELS[name](size, device)
            model.request(1)
            agree(model)
            if device.type == "cpu":
                distances += [{"model": name, "size": size.name, **found} for found in distance(model)]
            else:
                model.theirs.bfloat16()
                (model.model if name == "dia" else model.decoder).bfloat16()
            for batch in arguments.batches:
                model.request(batch)
                for scale in (1.0, 3.0):
                    results += cell(name, size, model, batch, scale, bandwidth, codec, arguments.quick)
    for found in distances:
        name = f"{found['model']} {found['size']} {found['weights']}"
        print(f"{name}: logits off by {found['off']:.2%} of their spread, {found['flips']:.2%} of greedy codes flip")
    print(json.dumps({"bench": "sample", "device": where, "bandwidth": bandwidth, "nominal": nominal,
                      "results": results, "distances": distances}))  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small width, fewer repetitions")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8])
    return parser.parse_args()


@torch.inference_mode()
def measured_bandwidth(device: torch.device) -> float:
    """Bytes a second: reading a gigabyte on a CPU, copying (both ways counted) on a GPU; the best of ten."""
    cuda = device.type == "cuda"
    source = torch.ones(2**28, device=device)
    to = torch.empty_like(source) if cuda else source
    seconds = [timed(lambda: to.copy_(source) if cuda else source.sum(), device) for _ in range(11)]
    return source.numel() * 4 * (2 if cuda else 1) / min(seconds[1:])


def timed(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _on(device: torch.device, model: Any) -> Any:
    return model.to(device).eval()


def _noted(into: list[float], run: Callable[..., float], *arguments: Any) -> None:
    into.append(run(*arguments))


def small_codec(device: torch.device) -> Callable[[Tensor], Tensor]:
    """codes_BTK -> audio: a DAC of a quarter of the usual width, random weights."""
    config = transformers.DacConfig(n_codebooks=CODEBOOKS, codebook_size=CODES, decoder_hidden_size=384)
    codec = _on(device, transformers.DacModel(config))

    @torch.inference_mode()
    def decode(codes_BTK: Tensor) -> Tensor:
        return codec.decode(audio_codes=codes_BTK.transpose(1, 2).to(device)).audio_values

    return decode


@torch.inference_mode()
def agree(model: Any) -> None:
    grid_BSK = torch.randint(0, CODES, (1, 24, CODEBOOKS), device=model.decoder.embedding.device)
    ours = model.decoder(grid_BSK, **model.told()[0].arguments()).transpose(1, 2)
    theirs = model.logits(grid_BSK).view(ours.shape)
    off = float((ours - theirs).abs().max() / theirs.abs().max())
    assert off < 1e-4, f"not the same model: logits differ by {off:.1e}"


@torch.inference_mode()
def distance(model: Any) -> list[dict[str, Any]]:
    """How far narrow weights move the logits, and how often the likeliest code changes, given the same rows."""
    grid_BSK = torch.randint(0, CODES, (4, 64, CODEBOOKS))
    told = {name: None if value is None else value.expand(4, *value.shape[1:])
            for name, value in model.told()[0].arguments().items()}  # fmt: skip
    logits = model.decoder(grid_BSK, **told)
    found = []
    kinds: tuple[Weights, ...] = ("bf16", "int8")
    for weights in kinds:
        with narrowed(model.decoder, weights):
            near = model.decoder(grid_BSK, **told)
        flips = (near.argmax(-1) != logits.argmax(-1)).float().mean()
        off = (near - logits).square().mean().sqrt() / logits.std()
        found.append({"weights": weights, "off": float(off), "flips": float(flips)})
    return found


def cell(
    name: str,
    size: Size,
    model: Any,
    batch: int,
    scale: float,
    bandwidth: float,
    codec: Callable[[Tensor], Tensor],
    quick: bool,
) -> list[dict[str, Any]]:
    """All ways of one model, batch and guidance, in turns."""
    device = model.decoder.embedding.device
    modes = [mode for mode in MODES if not (device.type == "cuda" and mode.weights == "bf16")]
    frames = size.frames // 2 if quick else size.frames
    first: dict[str, list[float]] = {mode.name: [] for mode in modes}
    ways: dict[str, Callable[[], object]] = {"theirs": lambda: model.play(frames, scale)}
    for mode in modes:
        ways[mode.name] = partial(_noted, first[mode.name], ours, model, mode, batch, scale, frames, codec)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(3 if quick else 4):
        for way, run in ways.items():
            # Ours is told by `ours` itself, which takes the codec's time out.
            took = timed(run, device)
            if turn:
                seconds[way].append(took - (spent.pop() if way != "theirs" else 0.0))
        spent.clear()
    rows = model.pattern.steps(frames, ends=False) - 1
    rate = {way: rows / statistics.median(values) for way, values in seconds.items()}
    results = []
    for mode in modes:
        ceiling = bandwidth / step_bytes(model, mode, batch, scale, rows)
        found = {
            "model": name,
            "size": size.name,
            "batch": batch,
            "guidance": scale,
            "way": mode.name,
            "steps_per_second": rate[mode.name],
            "real_time": rate[mode.name] / RATES[name],
            "first_audio_seconds": statistics.median(first[mode.name][1:]),
            "ceiling": ceiling,
            "theirs": rate["theirs"],
            "ratio": rate[mode.name] / rate["theirs"],
        }
        results.append(found)
        print(
            f"{name:<9}{size.name:<11}{batch:>5}{scale:>6g} {mode.name:<14}{found['steps_per_second']:>9.1f}"
            f"{found['real_time']:>8.2f}{found['first_audio_seconds']:>9.3f}{ceiling:>9.0f}"
            f"{found['steps_per_second'] / ceiling:>7.0%}{found['theirs']:>8.1f}{found['ratio']:>7.2f}",
            flush=True,
        )
    return results


spent: list[float] = []  # seconds of the codec in the last playing of ours, which is not a part of playing


def ours(model: Any, mode: Mode, batch: int, scale: float, frames: int, codec: Callable[[Tensor], Tensor]) -> float:
    """One playing, text encoder and all; seconds until the first frames were audio."""
    device = model.decoder.embedding.device
    heard: list[float] = []
    began = time.perf_counter()

    def listener(first: int, codes_BTK: Tensor, ends_B: list[int | None]) -> None:
        if not heard:
            took = timed(lambda: codec(codes_BTK), device)
            heard.append(time.perf_counter() - began)
            spent.append(took)

    with torch.inference_mode():
        told, null = model.told()
    name = "dia" if isinstance(model, Dia) else "musicgen"
    played = generate(
        model.decoder,
        model.pattern,
        model.specials,
        frames=frames,
        seeds=range(batch),
        rules=Rules(top_k=TOP_K[name]),
        context=model.pattern.steps(frames, ends=False),
        told=told,
        null=null,
        guidance=model.guidance(scale),
        ending=model.ending,
        compile=mode.compile,
        weights=mode.weights,
        listener=listener,
    )
    assert len(played) == batch and all(item.codes_TK.shape == (frames, CODEBOOKS) for item in played)
    return heard[0]


def step_bytes(model: Any, mode: Mode, batch: int, scale: float, rows: int) -> float:
    """What a step must read: every matrix but the memory's, and keys and values of half the rows, on the average."""
    config, own = model.decoder.config, model.decoder.embedding.element_size()
    layers = [
        part for name, part in model.decoder.named_modules() if isinstance(part, Linear) and "key_value" not in name
    ]
    weight = own if mode.weights == "full" else BYTES[mode.weights]
    places = config.kv_heads * config.head * rows / 2 + config.cross_kv_heads * config.cross_head_width * TEXT
    kept = 2 if mode.weights == "bf16" else own  # the step in C++ keeps keys and values in bf16 then
    cache = 2 * config.layers * places * batch * (1 if scale == 1 else 2) * kept
    return sum(layer.weight.numel() for layer in layers) * weight + cache


if __name__ == "__main__":
    main()
