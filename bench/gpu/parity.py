"""The same numbers however they are made: CPU or GPU, eager, compiled or recorded, at once or accumulated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpu.report import Bench, close, main, row, same, skipped
from gpu.step import CARDINALITY, TINY, Size, Training, decoder, grid
from partimento.models.loss import code_loss
from partimento.training import audit, devices

SMALL = Size(256, 6, 4)
STEPS = 10


def check(bench: Bench) -> None:
    size, window = (TINY, 16) if bench.quick else (SMALL, 256)
    with devices.precise(bench.device, "fp32"):
        kernels(bench, size, window)
        losses(bench, size, window)
    types(bench, size, window)


def kernels(bench: Bench, size: Size, window: int) -> None:
    """One pass in float32 against the same in float64 on the CPU, with torch's own cross entropy."""
    grid_BSK = grid(size, 2, window).long()
    rows_BSK, targets_BSK = grid_BSK[:, :-1], grid_BSK[:, 1:]
    exact = decoder(size, window).double()
    logits = exact(rows_BSK)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 2).double(), targets_BSK.flatten(), reduction="sum")
    expected.backward()
    module = decoder(size, window).to(bench.device)
    found = module(rows_BSK.to(bench.device))
    close("logits against float64", found, logits, 1e-4)
    plain = code_loss(found, targets_BSK.to(bench.device), CARDINALITY).total
    close("loss against torch's cross entropy in float64", plain, expected, 1e-5)
    fused = module.loss(rows_BSK.to(bench.device), targets_BSK.to(bench.device), CARDINALITY).total
    close("heads and loss in one against float64", fused, expected, 1e-5)
    fused.backward()
    named = dict(exact.named_parameters())
    worst, where = 0.0, ""
    for name, parameter in module.named_parameters():
        gradient, reference = parameter.grad, named[name].grad
        assert gradient is not None and reference is not None
        difference = float((gradient.double().cpu() - reference).norm() / reference.norm())
        worst, where = max((worst, where), (difference, name))
    row("gradients against float64", worst, "relative", worst < 1e-4, f"worst {where}; tolerance 1e-4")


def losses(bench: Bench, size: Size, window: int) -> None:
    here = run(bench.device, size, window)
    if bench.cuda:
        close(f"losses of {STEPS} steps, GPU against CPU", here, run(torch.device("cpu"), size, window), 1e-4)
    else:
        skipped(f"losses of {STEPS} steps, GPU against CPU", "needs a GPU")
    close("losses compiled against eager", run(bench.device, size, window, mode="compiled"), here, 1e-4)
    halves = run(bench.device, size, window, micros=2)
    close("losses of two micro-batches against one batch", halves, here, 1e-5)
    recorded(bench, size, window, here, halves)


def recorded(bench: Bench, size: Size, window: int, here: Tensor, halves: Tensor) -> None:
    if not bench.cuda:
        skipped("CUDA graphs against eager", "needs CUDA")
        return
    close("losses recorded against eager", run(bench.device, size, window, mode="graphs"), here, 1e-5)
    close("losses recorded, accumulated", run(bench.device, size, window, mode="graphs", micros=2), halves, 1e-5)
    both = run(bench.device, size, window, mode="compiled+graphs")
    close("losses compiled and recorded against eager", both, here, 1e-4)
    dropped = [run(bench.device, size, window, mode=mode, dropout=0.1) for mode in ("eager", "graphs")]
    close("losses with keyed dropout, recorded against eager", dropped[1], dropped[0], 1e-5)
    again = run(bench.device, size, window, mode="graphs", dropout=0.1)
    close("and recorded once more", again, dropped[1], 1e-6)


def run(
    device: torch.device, size: Size, window: int, *, mode: str = "eager", micros: int = 1, dropout: float = 0.0
) -> Tensor:
    """Losses of STEPS steps over two batches of four items, each in so many micro-batches."""
    training = Training(device, size, window, mode=mode, dropout=dropout)
    whole = [grid(size, 4, window, number) for number in range(2)]
    batches = [tuple(training.inputs(part) for part in batch.chunk(micros)) for batch in whole]
    return training.losses(STEPS, batches)


def types(bench: Bench, size: Size, window: int) -> None:
    """What bf16 runs in, that nothing of it is kept, and how far its loss is from float32's."""
    first: dict[str, Tensor] = {}
    for precision in ("fp32", "bf16"):
        training = Training(bench.device, size, window, precision=precision)
        inputs: Sequence[tuple[Tensor | None, ...]] = [training.inputs(grid(size, 4, window))]
        first[precision] = torch.stack([training.step(number, *inputs) for number in range(3)])
        kept = audit.check(audit.kept(training.decoder, training.optimizer.state(), {}))
        row(
            f"kept in {precision}",
            sum(kept.values()),
            "tensors",
            not any("float16" in name for name in kept),
            str(kept),
        )
        products = audit.products(lambda now=training, given=inputs[0]: now._pass(given))  # type: ignore[misc]
        wanted = "bfloat16" if precision == "bf16" else "float32"
        share = sum(count for name, count in products.items() if wanted in name) / sum(products.values())
        row(f"products that run in {wanted}", share, "share", share == 1.0, str(products))
    close("losses of bf16 against fp32", first["bf16"], first["fp32"], 2e-2)
    weights = dict(decoder(size, window).state_dict())
    same("weights are drawn alike on every device", weights, decoder(size, window).to(bench.device).state_dict())


if __name__ == "__main__":
    main(check)
