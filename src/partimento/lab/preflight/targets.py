"""The check of the loss itself: that it is of what comes next, and of all of it."""

from __future__ import annotations

import torch
from torch.nn import functional

from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped
from partimento.training.objective import tell

ROUNDING = 1e-3  # of the loss: the fused loss sums in another order


def next_row_scored(bench: Bench) -> Check:
    """What is trained on is the cross entropy of every code of the next row, each once: held against a plain sum."""
    task, decoder = bench.codes, bench.decoder
    if task is None or decoder is None:
        return skipped("targets", "asked of models of codes")
    batch = bench.batch_where(kept=True)
    inputs = task.inputs(batch)
    condition, keep_B = task.condition(batch)
    grid_BSK = batch.grid_BSK.to(bench.device).long()
    targets_BSK = grid_BSK[:, 1:]
    valid_BSK = (targets_BSK < decoder.config.outputs) & ~batch.turned_B.to(bench.device)[:, None, None]
    task.module.eval()  # no dropout; the objective is still the one of the training
    try:
        with torch.no_grad():
            _, sums = task.objective(*inputs)
            told = tell(task.module, [tensor.to(bench.device) for tensor in condition], keep_B.to(bench.device))
            logits_BSKV = decoder(grid_BSK[:, :-1], **told.arguments())
            wanted_BSK = torch.where(valid_BSK, targets_BSK, -100)
            plain = float(functional.cross_entropy(logits_BSKV.movedim(-1, 1), wanted_BSK, reduction="sum"))
    finally:
        task.module.train()
    scored, there = int(sums["count_K"].sum() + sums["eos_count"]), int(valid_BSK.sum())
    loss = float(sums["ce_K"].sum() + sums["eos"])
    remedy = "the grid is shifted once, in the objective, and only PAD is no target: undo the change of the loss"
    if scored != there:
        return failed("targets", f"{scored} codes are scored, and the batch holds {there}", remedy)
    if abs(loss - plain) > ROUNDING * plain:
        found = f"the loss is {loss / there:.3f} nats a code, the cross entropy of the next row {plain / there:.3f}"
        return failed("targets", found, remedy)
    return passed("targets", f"{there} codes, each scored once as what comes next")
