"""The check of the loss itself: that it is of what comes next, and of all of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped
from partimento.models.mixture import MixtureModel
from partimento.models.mixture_decoder import behind
from partimento.training.objective import tell
from partimento.training.task import Direction
from partimento.training.tasks.words import said

ROUNDING = 1e-3  # of the loss: the fused loss sums in another order


def next_row_scored(bench: Bench) -> Check:
    """What is trained on is the cross entropy of every code of the next row, and of every id of a turned item's words,
    each once: held against a plain sum."""
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
    words = next((direction for direction in task.directions if direction.what == "captions"), None)
    if words is None:
        return passed("targets", f"{there} codes, each scored once as what comes next")
    return _words_scored(bench, words, f"{there} codes and")


def _words_scored(bench: Bench, direction: Direction, codes: str) -> Check:
    """The same of words that are told from the sound: item by item, without a pad, by the Llama's own logits."""
    task, module = bench.codes, bench.task.module
    assert task is not None and isinstance(module, MixtureModel)
    batch, bos = bench.batch_where(kept=True), module.llama.config.bos
    inputs = direction.inputs(batch)
    plain, there = 0.0, 0
    module.eval()
    try:
        with torch.no_grad():
            _, sums = task.objective(*inputs)
            for grid_SK, words in zip(batch.grid_BSK[:, :-1].to(bench.device).long(), batch.words_B, strict=True):
                ids_M = torch.tensor([bos, *said(task.coder, words, bos)], device=bench.device)  # type: ignore[arg-type]
                logits_MV = _heard(module, grid_SK, ids_M[:-1])
                plain += float(functional.cross_entropy(logits_MV, ids_M[1:], reduction="sum"))
                there += len(ids_M) - 1
    finally:
        module.train()
    scored, loss = int(sums["caption_count"]), float(sums["caption"])
    remedy = "the words are shifted once, in caption_loss, and pads are no target: undo the change of the loss"
    if scored != there:
        return failed("targets", f"{scored} ids of words are scored, and the items have {there}", remedy)
    if abs(loss - plain) > ROUNDING * plain:
        found = f"the loss of the words is {loss / there:.3f} nats an id, the cross entropy of the next "
        return failed("targets", f"{found}{plain / there:.3f}", remedy)
    return passed("targets", f"{codes} {there} ids of words, each scored once as what comes next")


def _heard(module: MixtureModel, grid_SK: Tensor, ids_M: Tensor) -> Tensor:
    """Logits [M, V] of the Llama for one text behind the rows of one grid: BOS, the rows that are not all PAD, text."""
    llama, ids_1M = module.llama, ids_M[None]
    rows_1SK = grid_SK[(grid_SK != module.decoder.config.pad_row).any(-1)][None]
    nothing_1 = torch.zeros(1, dtype=torch.bool, device=ids_M.device)
    prefix = module.told(ids_1M[:, :1], torch.ones_like(ids_1M[:, :1], dtype=torch.bool), nothing_1).prefix
    assert prefix is not None
    keys_L, values_L = module.decoder.listen(rows_1SK, prefix)
    past = 1 + rows_1SK.shape[1]
    turn = llama.turn(past + torch.arange(len(ids_M), device=ids_M.device)[None])
    mask = behind(torch.ones(1, past, dtype=torch.bool, device=ids_M.device), len(ids_M))
    x_1MD = llama.embedding(ids_1M)
    for layer, block in enumerate(llama.blocks):
        key = torch.cat([prefix.keys_L[layer], keys_L[layer]], dim=2)
        value = torch.cat([prefix.values_L[layer], values_L[layer]], dim=2)
        x_1MD, _, _ = block(x_1MD, turn, (key, value), mask)
    return llama.logits(x_1MD)[0].float()
