"""Playing: frames a second against what reading the weights once a step would allow; the step recorded as a graph."""

from __future__ import annotations

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
    if not bench.cuda:
        skipped("the step recorded as a CUDA graph", "needs CUDA")
        return
    pattern, specials = Pattern.named("delay", module.config.codebooks), Specials.after(CARDINALITY)
    with torch.no_grad():
        sheets = []
        for graph in (None, torch.cuda.CUDAGraph()):
            sheet = Sheet(pattern, specials, frames=frames, prompt_BTK=None, cardinality=CARDINALITY, stops=False,
                          device=bench.device)  # fmt: skip
            noise = Noise([0], pattern.codebooks, bench.device)
            starts = window_starts(sheet.first, sheet.steps, context)
            told = Told(None, None, None)
            steps = StaticSteps(module, sheet, Rules(), noise, told, starts=starts, context=context)
            steps.start_window(sheet.first)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    steps.step()
            torch.cuda.current_stream().wait_stream(side)
            run = steps.step
            if graph is not None:
                with torch.cuda.graph(graph, stream=side):
                    steps.step()
                run = graph.replay
            rest = sheet.steps - sheet.first - 3
            half = rest // 2
            for _ in range(half):
                run()
            torch.cuda.synchronize()
            seconds = timed(bench, run, 1.0, rest - half - 1)
            sheets.append(sheet.grid_BSK[:, : sheet.first + 3 + half].clone())
            rate = 1 / seconds
            note = f"{100 * rate / ceiling:.0f} % of the roofline" if ceiling else ""
            row(f"batch 1, a step {'recorded' if graph is not None else 'as it is'}", rate, "steps/s", note=note)
        equal = float((sheets[0] == sheets[1]).float().mean())
        row("codes of the recorded step and of the other", equal, "share equal", equal > 0.98, "rounding aside")


if __name__ == "__main__":
    main(check)
