"""Playing: frames a second against what reading the weights once a step would allow; the step recorded as a graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpu.report import Bench, main, row, skipped, timed
from gpu.step import CARDINALITY, REFERENCE, TINY, decoder
from partimento.models.decoder import CodeDecoder
from partimento.sampling.generate import generate, window_starts
from partimento.sampling.guidance import Told
from partimento.sampling.rules import Noise, Rules
from partimento.sampling.sheet import Sheet
from partimento.sampling.static import StaticSteps
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials


def check(bench: Bench) -> None:
    size, frames = (TINY, 20) if bench.quick else (REFERENCE, 128)
    context = frames + size.codebooks
    module = decoder(size, context).to(bench.device).eval()
    # All weights but the table, of which a step reads only its rows, are read once a step.
    weights = sum(p.numel() * p.element_size() for name, p in module.named_parameters() if name != "embedding")
    ceiling = bench.rates.get("memory", 0.0) / weights
    if ceiling:
        row(f"{size} roofline", ceiling, "steps/s", note=f"{weights / 1e6:.0f} MB of float32 weights a step")
    played: dict[bool, torch.Tensor] = {}
    for batch in (1, 8):
        for static in (False, True):
            played[static] = _generate(bench, module, frames, context, batch, static, ceiling)
        equal = float((played[False] == played[True]).float().mean())
        row(f"batch {batch}: codes of static and growing cache", equal, "share equal", equal > 0.98, "rounding aside")
    recorded(bench, module, frames, context, ceiling)


def _generate(
    bench: Bench, module: CodeDecoder, frames: int, context: int, batch: int, static: bool, ceiling: float
) -> torch.Tensor:
    pattern, specials = Pattern.named("delay", module.config.codebooks), Specials.after(CARDINALITY)

    def play(length: int) -> torch.Tensor:
        found = generate(
            module,
            pattern,
            specials,
            frames=length,
            seeds=list(range(batch)),
            rules=Rules(),
            context=context,
            stop_at_eos=False,
            static=static,
        )
        return torch.stack([one.codes_TK for one in found])

    play(4)  # the warm-up
    codes = play(frames).cpu()
    seconds = timed(bench, lambda: play(frames), 0.1 if bench.quick else 1.5, 5)
    steps = (frames + pattern.max_delay) / seconds
    note = f"{100 * steps / ceiling:.0f} % of the roofline" if ceiling else ""
    case = f"batch {batch}, {'static' if static else 'growing'} cache"
    row(case, batch * frames / seconds, "frames/s", note=f"{steps:.0f} steps/s {note}".strip())
    return codes


def recorded(bench: Bench, module: CodeDecoder, frames: int, context: int, ceiling: float) -> None:
    """One whole step (decoder, rules, draw, writing) as a CUDA graph, replayed for every row."""
    grids = []
    for graph in (None, torch.cuda.CUDAGraph()) if bench.cuda else (None,):
        sheet, steps = _steps(bench, module, frames, context)
        with torch.no_grad():
            for _ in range(3):
                steps.step()
            run: Callable[[], None] = steps.step
            if graph is not None:
                with torch.cuda.graph(graph):
                    steps.step()
                run = graph.replay
            rows = (sheet.steps - sheet.first - 3) // 2
            for _ in range(rows):
                run()
            grids.append(sheet.grid_BSK[:, : sheet.first + 3 + rows].clone())
            rate = 1 / timed(bench, run, 1.0, rows - 2)
        note = f"{100 * rate / ceiling:.0f} % of the roofline" if ceiling else ""
        row(
            f"batch 1, a step {'as it is' if graph is None else 'recorded as a CUDA graph'}", rate, "steps/s", note=note
        )
    if not bench.cuda:
        skipped("the step recorded as a CUDA graph", "needs CUDA")
        return
    equal = float((grids[0] == grids[1]).float().mean())
    row("codes of the recorded step and of the other", equal, "share equal", equal > 0.98, "rounding aside")


def _steps(bench: Bench, module: CodeDecoder, frames: int, context: int) -> tuple[Sheet, StaticSteps]:
    pattern, specials = Pattern.named("delay", module.config.codebooks), Specials.after(CARDINALITY)
    prompt = torch.zeros(1, 0, pattern.codebooks, dtype=torch.int64, device=bench.device)
    sheet = Sheet(
        pattern,
        specials,
        frames=frames,
        prompt_BTK=prompt,
        cardinality=CARDINALITY,
        stops=False,
        device=bench.device,
    )
    starts = window_starts(sheet.first, sheet.steps, context)
    noise, told = Noise([0], pattern.codebooks, bench.device), Told(None, None, None)
    with torch.no_grad():
        steps = StaticSteps(module, sheet, Rules(), noise, told, starts=starts, context=context)
        steps.start_window(sheet.first)
    return sheet, steps


if __name__ == "__main__":
    main(check)
