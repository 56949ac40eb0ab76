"""Checks of the null condition: that it is learned where it is needed, and the same in training and playing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, warned
from partimento.sampling.rules import Rules

PARITY = 1e-5  # of the largest value of a condition


def null_learned(bench: Bench) -> Check:
    """Guidance and playing without tags are possible: some items are trained without a condition."""
    task = bench.codes
    if task is None or task.module.condition is None:
        return skipped("guidance", "the model has no condition")
    share, demo = task.player.null_share, bench.config.demo
    if share > 0:
        return passed("guidance", f"{100 * share:.0f} % of the items have the null condition")
    found = "no item has the null condition (data.null_share = 0)"
    if demo.temperatures and not demo.tags:
        remedy = "data.null_share=0.1, or name tags for the demos (demo.tags)"
        return failed("guidance", f"{found}, and the demos play with it", remedy, "SAMPLE005")
    return warned("guidance", f"{found}: guidance and playing without tags will be refused", "data.null_share=0.1")


def null_is_one(bench: Bench) -> Check:
    """Training's dropped item and playing's unconditional branch are told the same, and so are those with tags."""
    task = bench.codes
    if task is None or task.module.condition is None:
        return skipped("null condition", "the model has no condition")
    player, tags = task.player, task.player.tags[:1]
    grid_BSK, tags_BG, keep_B, weights_K = task.inputs(task.batch(0, 0))
    assert tags_BG is not None and keep_B is not None
    told_BG = torch.zeros_like(tags_BG[:1]).repeat(2, 1)
    told_BG[:, player.tags.index(tags[0])] = 1
    keep = torch.tensor([True, False], device=bench.device)
    assert grid_BSK is not None
    learned: list[Tensor] = []
    handle = task.module.condition.register_forward_hook(lambda part, args, made: learned.append(made.detach().clone()))
    with torch.no_grad():
        task.objective(grid_BSK[:1].repeat(2, 1, 1), told_BG, keep, weights_K)
    handle.remove()
    if not learned:
        return failed("null condition", "training does not use the model's condition", "call models.conditions in it")
    rules = Rules(temperature=0.0)
    guided = player.null_share > 0
    with _Told(task.module) as played:
        player.play(frames=1, seeds=[0], rules=rules, tags=tags, guidance=2.0 if guided else 1.0)
    with _Told(task.module) as free:
        if guided:
            player.play(frames=1, seeds=[0], rules=rules)
    pairs = [("with tags", learned[0][0], played.seen[0][0])]
    if guided:
        pairs += [
            ("guidance's unconditional branch", learned[0][1], played.seen[0][1]),
            ("playing without tags", learned[0][1], free.seen[0][0]),
        ]
    for what, one_D, other_D in pairs:
        off = float((one_D - other_D).abs().max() / one_D.abs().max().clamp(min=1e-12))
        if off > PARITY:
            found = f"{what} is told something else than training told: {100 * off:.2g} % off"
            return failed("null condition", found, "both sides must call the one function of models.conditions")
    if not guided:
        return passed("null condition", "tags are told alike; the null condition is never trained nor played")
    return passed("null condition", "training and playing tell the same, with tags and without, to the last bits")


class _Told:
    """The conditions [B, D] that a decoder is given while it plays."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        self._decoder = decoder
        self.seen: list[Tensor] = []

    def __enter__(self) -> _Told:
        self._handle = self._decoder.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()

    def _note(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if (condition_BD := kwargs.get("condition_BD")) is not None:
            self.seen.append(condition_BD.detach().clone())
