"""Playing: steps a second of every way to make a step, against what reading weights and cache once a step would allow.

The families are a decoder of 300M (MusicGen's small) and Dia's of 1.6B, with a memory of 64 places, in bfloat16 on a
GPU; batch 1 to 64, guidance 1 and 3. Random weights: the speed is not theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gpu.report import Bench, main, row, skipped, timed
from gpu.step import CARDINALITY
from partimento.models.conditions import NOTHING, Told
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.linear import Linear
from partimento.models.quantized import Weights, narrowed
from partimento.sampling.frame import CompiledSteps
from partimento.sampling.generate import generate, window_starts
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Noise, Rules
from partimento.sampling.sheet import Ending, Sheet
from partimento.sampling.static import StaticSteps
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials

BOOKS, TEXT = 9, 64
DIA_DELAYS = (0, 8, 9, 10, 11, 12, 13, 14, 15)
SIZES: dict[str, dict[str, Any]] = {
    "musicgen 300M": {"width": 1024, "layers": 24, "heads": 16, "cross_width": 1024, "activation": "gelu"},
    "dia 1.6B": {
        "width": 2048,
        "layers": 18,
        "heads": 16,
        "kv_heads": 4,
        "feedforward": 8192,
        "cross_width": 1024,
        "qk_norm": False,
        "attention_scale": 1.0,
    },
}
TINY = {"width": 32, "layers": 2, "heads": 4, "cross_width": 16}
ENDING, RULES, SPECIALS = Ending("never"), Rules(top_k=50), Specials.after(CARDINALITY)
COMPILE_SECONDS = 45
WARM_UP = 5


def check(bench: Bench) -> None:
    frames = 24 if bench.quick else 240
    for size, sizes in SIZES.items():
        name = f"{size.split()[0]} tiny" if bench.quick else size
        pattern = Pattern(DIA_DELAYS) if name.startswith("dia") else Pattern.named("delay", BOOKS)
        module = build(bench, TINY if bench.quick else sizes)
        ways(bench, name, module, pattern, frames)
        same(bench, name, module, pattern)
        del module
        if bench.cuda:
            torch.cuda.empty_cache()


def build(bench: Bench, sizes: dict[str, Any]) -> CodeDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(codebooks=BOOKS, rows=CARDINALITY + 4, outputs=CARDINALITY + 1, max_positions=512, **sizes)
    with bench.device:
        module = CodeDecoder(config)
    return module.to(torch.bfloat16 if bench.cuda else torch.float32).eval()


def ways(bench: Bench, name: str, module: CodeDecoder, pattern: Pattern, frames: int) -> None:
    """Step by step, recorded, compiled and recorded, the last with int8 too: what costs a compilation last."""
    plain: list[tuple[int, float]] = [(1, 1.0), (1, 3.0), (8, 3.0), (2 if bench.quick else 64, 1.0)]
    measure(bench, name, module, pattern, frames, 1, 1.0, "step by step", "full")
    if not bench.cuda:
        measure(bench, name, module, pattern, frames, 1, 1.0, "native", "full")
        skipped(f"{name}: recorded, compiled", "needs CUDA")
        return
    for batch, scale in plain:
        measure(bench, name, module, pattern, frames, batch, scale, "recorded", "full")
    kinds: tuple[Weights, ...] = ("full", "int8")
    for batch, scale, weights in [(1, 1.0, kind) for kind in kinds] + [(64, 1.0, kinds[0]), (1, 3.0, kinds[0])]:
        if bench.left() < COMPILE_SECONDS:
            skipped(f"{name}: batch {batch}, guidance {scale:g}, compiled {weights}", "no time to compile it")
        else:
            measure(bench, name, module, pattern, frames, batch, scale, "compiled", weights)


def measure(
    bench: Bench,
    name: str,
    module: CodeDecoder,
    pattern: Pattern,
    frames: int,
    batch: int,
    scale: float,
    way: str,
    weights: Weights,
) -> None:
    if way == "native":
        told, _ = memory(module, batch)
        rows = pattern.steps(frames, ends=False) - 1
        play = lambda: request(module, pattern, frames, batch, told, compile=True)  # noqa: E731
        play()
        seconds = timed(bench, play, 0.2, 5) / rows
    else:
        steps = make(bench, module, pattern, frames, batch, scale)
        rows = steps.sheet.steps - steps.sheet.first - WARM_UP - 2
        with torch.no_grad(), narrowed(module, weights):
            run: Callable[[], None] = CompiledSteps(steps) if way == "compiled" else steps.step
            for _ in range(WARM_UP):
                run()
            if way == "recorded":
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    steps.step()
                run = graph.replay
            seconds = timed(bench, run, 1.0, rows)
    rate, frame_rate = 1 / seconds, 44100 / 512 if name.startswith("dia") else 50
    note = f"{rate * batch / frame_rate:.1f} x real time in all"
    if memory_rate := bench.rates.get("memory", 0.0):
        ceiling = memory_rate / step_bytes(module, weights, batch, scale, pattern.steps(frames, ends=False))
        note += f", {100 * rate / ceiling:.0f} % of {ceiling:.0f} steps/s"
    row(f"{name}: batch {batch}, guidance {scale:g}, {way} {weights}", rate, "steps/s", note=note)


def make(bench: Bench, module: CodeDecoder, pattern: Pattern, frames: int, batch: int, scale: float) -> StaticSteps:
    """A playing from nothing, before its first step."""
    told, guidance = memory(module, batch)[0], Guidance(scale)
    if not guidance.neutral:
        told = told.followed_by(NOTHING)
    prompt_BTK = torch.zeros(batch, 0, BOOKS, dtype=torch.int64)
    sheet = Sheet(
        pattern,
        SPECIALS,
        frames=frames,
        prompt_BTK=prompt_BTK,
        cardinality=CARDINALITY,
        ending=ENDING,
        device=bench.device,
    )
    starts, noise = window_starts(sheet.first, sheet.steps, 512), Noise(range(batch), BOOKS, bench.device)
    with torch.no_grad():
        steps = StaticSteps(module, sheet, RULES, noise, told, starts=starts, context=512, guidance=guidance)
        steps.start_window(sheet.first)
    return steps


def memory(module: CodeDecoder, batch: int) -> tuple[Told, Told]:
    weight, width = module.embedding, module.config.cross_width
    assert width is not None
    generator = torch.Generator(weight.device).manual_seed(1)
    memory_BMD = torch.randn(batch, TEXT, width, generator=generator, device=weight.device).to(weight.dtype)
    return Told(memory_BMD=memory_BMD), NOTHING


def request(
    module: CodeDecoder, pattern: Pattern, frames: int, batch: int, told: Told, **changes: Any
) -> list[torch.Tensor]:
    given = {"rules": RULES, "context": 512, "ending": ENDING, "told": told, **changes}
    played = generate(module, pattern, SPECIALS, frames=frames, seeds=range(batch), **given)
    return [item.codes_TK for item in played]


def same(bench: Bench, name: str, module: CodeDecoder, pattern: Pattern) -> None:
    """Codes of every way and of the growing cache, of a few frames. In bfloat16 a near tie may fall otherwise."""
    told, _ = memory(module, 2)
    expected = torch.stack(request(module, pattern, 12, 2, told, static=False))
    kinds: dict[str, dict[str, Any]] = {"static": {"static": True}}
    if not bench.cuda:
        kinds["native"] = {"compile": True}
    elif bench.left() > COMPILE_SECONDS:
        kinds["compiled and recorded"] = {"static": True, "compile": True}
    for kind, changes in kinds.items():
        found = torch.stack(request(module, pattern, 12, 2, told, **changes))
        # From one other code on an item is another piece of music: what is compared is where it starts.
        equal = float((found == expected).all(dim=2).float().cumprod(dim=1).mean())
        least = 0.98 if not bench.cuda else 0.3
        row(
            f"{name}: codes of {kind} and growing cache", equal, "share of frames before the first other", equal > least
        )


def step_bytes(module: CodeDecoder, weights: Weights, batch: int, scale: float, positions: int) -> float:
    """Every matrix but the memory's, and keys and values of all positions (a static cache is read whole)."""
    config, own = module.config, module.embedding.element_size()
    matrices = [layer for at, layer in module.named_modules() if isinstance(layer, Linear) and "key_value" not in at]
    assert config.kv_heads and config.cross_kv_heads and config.cross_head_width
    places = config.kv_heads * config.head * positions + config.cross_kv_heads * config.cross_head_width * TEXT
    cache = 2 * config.layers * places * batch * (1 if scale == 1 else 2) * own
    return sum(layer.weight.numel() for layer in matrices) * (1 if weights == "int8" else own) + cache


if __name__ == "__main__":
    main(check)
