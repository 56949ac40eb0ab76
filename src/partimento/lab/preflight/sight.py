"""Checks of what a decoder sees: the past and not the future, as far back as its window, its text, its own cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some
from partimento.lab.preflight.condition import some_words
from partimento.models.conditions import Prefix, Told
from partimento.models.dia import TextModel
from partimento.models.mixture import MixtureModel
from partimento.training.objective import tell

LEAK = 1e-4  # of the largest logit: other shapes may round differently, a leak is far above it
MOVED = 1e-7  # of the largest logit: what a perturbed row must change at least
CACHED = 32  # rows that are played step by step


def mask_is_causal(bench: Bench) -> Check:
    """What comes later in the grid must not change what is predicted earlier, not by one bit of its meaning."""
    decoder = bench.decoder
    if decoder is None:
        return skipped("causality", "only a model that plays step by step must be causal")
    rows_BSK, told = _inputs(bench)
    middle = rows_BSK.shape[1] // 2
    changed_BSK = rows_BSK.clone()
    changed_BSK[:, middle:] = (changed_BSK[:, middle:] + 1) % decoder.config.outputs
    before, after = (_logits(bench, rows, told)[:, :middle] for rows in (rows_BSK, changed_BSK))
    difference = float((before - after).abs().max())
    found = f"earlier logits differ by {difference:.2g} when later rows change"
    if difference <= LEAK * float(before.abs().max()):
        return passed("causality", found)
    remedy = "the attention mask lets the future through: its loss is worth nothing; undo the change of the model"
    return failed("causality", found, remedy)


def field_reaches(bench: Bench) -> Check:
    """What was played long before moves what is predicted now: a row is changed, and the last logits must move."""
    decoder = bench.decoder
    if decoder is None:
        return skipped("receptive field", "looked for in decoders")
    rows_BSK, told = _inputs(bench)
    row_1SK = rows_BSK[:1]
    last = row_1SK.shape[1] - 1
    back = sorted({min(2**power, last) for power in range(last.bit_length() + 1)})
    changed_BSK = row_1SK.repeat(len(back) + 1, 1, 1)
    for item, steps in enumerate(back, 1):
        changed_BSK[item, last - steps] = (changed_BSK[item, last - steps] + 1) % decoder.config.outputs
    logits_BKV = _logits(bench, changed_BSK, _rows_of(told, [0] * len(changed_BSK)))[:, -1]
    moved_B = (logits_BKV[1:] - logits_BKV[:1]).abs().amax(dim=(1, 2)) / logits_BKV.abs().max()
    blind = [steps for steps, moved in zip(back, moved_B.tolist(), strict=True) if moved <= MOVED]
    if blind:
        remedy = "the model does not mix over time: look at its attention and positions"
        return failed("receptive field", f"rows {some([str(n) for n in blind])} steps back change nothing", remedy)
    return passed(
        "receptive field", f"rows up to {last} steps back move the last logits (by {moved_B.min():.1g} at least)"
    )


def text_is_read(bench: Bench) -> Check:
    """Another text moves the logits, and what stands in the padding behind a text does not."""
    task = bench.codes
    if task is None or not isinstance(task.module, TextModel | MixtureModel):
        return skipped("text", "the model reads no text")
    if some_words(task) is None:
        return skipped("text", "no clip has words")
    rows_BSK = _rows(bench)[:1]
    text_BM, mask_BM = (tensor.to(bench.device) for tensor in task.condition(bench.batch_where(kept=True))[0])
    text_1M, mask_1M = text_BM[:1].clone(), torch.zeros_like(mask_BM[:1])
    words = max(1, min(int(mask_BM[0].sum()), text_1M.shape[1] - 1))
    mask_1M[:, :words] = True
    other_1M = text_1M.clone()  # ids that the encoder knows, whatever its vocabulary
    other_1M[:, :words] = (text_1M[:, :words] + 1).clamp(max=max(1, int(text_BM.max())))
    other_1M[:, :words][other_1M[:, :words] == text_1M[:, :words]] = 0
    if isinstance(task.module, MixtureModel):
        other_1M[:, 0] = text_1M[:, 0]  # every text begins with the same mark
    padded_1M = text_1M.clone()
    padded_1M[:, words:] = text_1M[0, 0]
    plain, other, padded = (_told_logits(bench, rows_BSK, text, mask_1M) for text in (text_1M, other_1M, padded_1M))
    size = float(plain.abs().max())
    if (leak := float((plain - padded).abs().max())) > LEAK * size:
        found = f"ids behind the end of a text move the logits by {leak:.2g}"
        return failed("text", found, "padding is read as text: pass the mask to the encoder and to the cross attention")
    moved = float((plain - other).abs().max())
    if moved <= MOVED * size:
        return failed("text", "another text gives the same logits", "the decoder does not read what the encoder says")
    return passed("text", f"another text moves the logits by {moved:.1g}, what stands in its padding by {leak:.1g}")


def cache_agrees(bench: Bench) -> Check:
    """Playing step by step from a cache gives the logits of teacher forcing, with the same condition."""
    decoder = bench.decoder
    if decoder is None:
        return skipped("cache", "only a model that plays step by step has one")
    rows_BSK, told = _inputs(bench)
    rows_BSK = rows_BSK[:, :CACHED]
    whole = _logits(bench, rows_BSK, told)
    prefill = rows_BSK.shape[1] // 2
    worst = 0.0
    for static in (False, True):
        cache = decoder.make_cache(len(rows_BSK), rows_BSK.shape[1], static=static)
        parts = [rows_BSK[:, :prefill], *rows_BSK[:, prefill:].split(1, dim=1)]
        stepped = torch.cat([_logits(bench, part, told, cache=cache) for part in parts], dim=1)
        worst = max(worst, float((stepped - whole).abs().max()))
    found = f"logits from a cache are {worst:.1g} off those of teacher forcing"
    if worst <= LEAK * float(whole.abs().max()):
        return passed("cache", found)
    remedy = "training and playing compute something else: positions, cache, or a layer that only one of them uses"
    return failed("cache", found, remedy)


def _inputs(bench: Bench) -> tuple[Tensor, Told]:
    """Inputs rows_BSK of a batch and what its items are told."""
    task = bench.codes
    assert task is not None
    batch = bench.batch_where(kept=True)
    condition, keep_B = task.condition(batch)
    with torch.no_grad():
        task.module.eval()
        told = tell(task.module, [tensor.to(bench.device) for tensor in condition], keep_B.to(bench.device))
        task.module.train()
    return batch.grid_BSK[:, :-1].to(bench.device).long(), told


def _rows(bench: Bench) -> Tensor:
    grid_BSK: Tensor = bench.batch_where(kept=True).grid_BSK
    return grid_BSK[:, :-1].to(bench.device).long()


def _rows_of(told: Told, items: list[int]) -> Told:
    """The same condition for other items."""

    def chosen(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[items]

    if (prefix := told.prefix) is None:
        return Told(chosen(told.condition_BD), chosen(told.memory_BMD), chosen(told.mask_BM))
    keys_L, values_L = ([layer[items] for layer in layers] for layers in (prefix.keys_L, prefix.values_L))
    return Told(prefix=Prefix(keys_L, values_L, prefix.mask_BM[items], prefix.count_B[items]))


def _told_logits(bench: Bench, rows_BSK: Tensor, text_BM: Tensor, mask_BM: Tensor) -> Tensor:
    module: Any = bench.task.module
    module.eval()
    with torch.no_grad():
        told = module.told(text_BM, mask_BM, torch.ones(len(text_BM), dtype=torch.bool, device=bench.device))
    return _logits(bench, rows_BSK, told)


def _logits(bench: Bench, rows_BSK: Tensor, told: Told, **options: Any) -> Tensor:
    """In eval mode."""
    decoder = bench.decoder
    assert decoder is not None
    bench.task.module.eval()
    with torch.no_grad():
        logits_BSKV: Tensor = decoder(rows_BSK, **told.arguments(), **options)
    bench.task.module.train()
    return logits_BSKV
