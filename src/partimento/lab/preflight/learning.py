"""Checks of the learning: who trains what, what gets a gradient, and a few real steps on one batch."""

from __future__ import annotations

from typing import Any

import torch

from partimento.lab.preflight.bench import PROBE_STEPS, Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some
from partimento.training import audit

GRADIENT_BATCHES = 8
CANDIDATES = 64  # batches among which one with a dropped condition is looked for
BLOWN_UP = 1.2  # times the initial loss
FAR = 10.0  # times its own size that a matrix may move in the few steps; good rates move it by 0.4 to 3
FALL = 0.02  # share of the initial loss
CAUSES = {"attention", "initial loss", "optimizer", "gradients", "types"}
"""Checks whose failure is enough to make a training of one batch fail too, or impossible."""


def claimed_once(bench: Bench) -> Check:
    """Every trainable parameter has one optimizer, and a frozen one has none."""
    claims = bench.optimizer.claims
    trainable = {name for name, weight in bench.task.module.named_parameters() if weight.requires_grad}
    names = [one.name for one in claims]
    if left := sorted(trainable - set(names)):
        return failed("optimizer", f"no optimizer has {some(left)}", "give it a group (optim.groups)")
    if frozen := sorted(set(names) - trainable):
        return failed("optimizer", f"an optimizer has {some(frozen)}, which is frozen", "take it out of optim.groups")
    groups = [f"{row['tensors']} {row['group']} by {row['optimizer']}" for row in bench.optimizer.table()]
    return passed("optimizer", "; ".join(groups))


def gradients_reach(bench: Bench) -> Check:
    """Every trainable parameter gets a finite gradient that is not zero, and a frozen one gets none."""
    task = bench.task
    parameters = dict(task.module.named_parameters())
    frozen = {name for name, weight in parameters.items() if not weight.requires_grad}
    waiting = {name for name in parameters if name not in frozen and not _is_idle_null(bench, name)}
    never = set(waiting)
    trainable = len(waiting)
    for number in range(GRADIENT_BATCHES):
        task.module.zero_grad(set_to_none=True)
        bench.loss(_batch(bench, number)).backward()
        for name, weight in parameters.items():
            if weight.grad is None:
                continue
            if name in frozen:
                return failed("gradients", f"{name} is frozen and gets a gradient", "undo the change of the model")
            if not bool(torch.isfinite(weight.grad).all()):
                remedy = "look at the data for damage (partimento pack verify) and at train.precision"
                return failed("gradients", f"the gradient of {name} is not finite", remedy)
            never.discard(name)
            if bool(weight.grad.any()):
                waiting.discard(name)
        if not waiting:
            break
    task.module.zero_grad(set_to_none=True)
    if not waiting:
        rest = f", {len(frozen)} frozen without one" if frozen else ""
        return passed("gradients", f"{trainable} parameters, all reached{rest}")
    if never:
        found = f"{some(sorted(never))}: trainable, but nothing of the loss depends on it"
        return failed("gradients", found, "freeze it (requires_grad_(False)) or take it out of the model")
    found = f"only zeros in {GRADIENT_BATCHES} batches: {some(sorted(waiting))}"
    return failed("gradients", found, "a part of the model is not connected to the loss")


def _is_idle_null(bench: Bench, name: str) -> bool:
    """The null condition of a model that never drops its condition: the check "guidance" speaks of it."""
    task = bench.codes
    return task is not None and name == "condition.null_D" and task.player.null_share == 0


def _batch(bench: Bench, number: int) -> Any:
    """Batches 0, 1, ... of the run, but the second is one with a dropped condition: they may be rare."""
    task = bench.codes
    if number == 1 and task is not None and task.player.null_share > 0:
        batches = (_numbered(bench, step) for step in range(CANDIDATES))
        return next((batch for batch in batches if not bool(batch.keep_B.all())), _numbered(bench, 1))
    return _numbered(bench, number)


def _numbered(bench: Bench, number: int) -> Any:
    """Past the last step of a short run come the items of another attempt, which are others."""
    attempt, step = divmod(number, bench.config.train.steps)
    return bench.task.batch(step, 0, attempt)


def rate_bearable(bench: Bench) -> Check:
    """At the peak of the rate the loss of one batch goes down, not up, and the weights stay what they were made for."""
    if bench.failed & CAUSES:
        return skipped("rate", "not tried: an earlier check failed that explains whatever would come of it")
    probe = bench.probe
    worst = max(probe.losses)
    found = (
        f"loss {probe.losses[0]:.3f} to {probe.losses[-1]:.3f} in {len(probe.losses)} steps on one batch "
        f"({worst:.3g} at most), matrices moved by {probe.moved:.2g} times their size, "
        f"gradient norm {max(probe.norms):.2g} at most"
    )
    if probe.finite and worst <= BLOWN_UP * probe.losses[0] and probe.moved <= FAR:
        return passed("rate", found)
    optim = bench.config.optim
    muon = f" optim.muon_lr={optim.muon_lr / 10:.2g}" if optim.name == "muon" else ""
    return failed("rate", found, f"a lower rate: optim.lr={optim.lr / 10:.2g}{muon}")


def one_batch_learned(bench: Bench) -> Check:
    """A few steps on one batch lower its loss: the whole of forward, backward and optimizer works."""
    if bench.failed & (CAUSES | {"rate"}):
        return skipped("one batch", "not tried: an earlier check failed that explains whatever would come of it")
    probe = bench.probe
    found = f"the loss fell by {100 * probe.fall:.1f} % in {PROBE_STEPS} steps, {100 * FALL:.0f} % expected at least"
    if probe.fall >= FALL:
        return passed("one batch", found)
    remedy = "a higher optim.lr; if that does not help: partimento preflight CONFIG --overfit"
    return failed("one batch", found, remedy)


def types_kept(bench: Bench) -> Check:
    """Weights, gradients and moments are float32, and products run in what the configuration says."""
    loss = bench.loss(bench.task.batch(0, 0))
    loss.backward()
    kept = audit.check(audit.kept(bench.task.module, bench.optimizer.state(), {}))
    bench.optimizer.zero_grad()
    products = audit.products(lambda: bench.loss(bench.task.batch(0, 0)).backward())
    bench.optimizer.zero_grad()
    found = "; ".join(f"{count} {kind}" for kind, count in {**kept, **products}.items())
    if loss.dtype != torch.float32:
        return failed("types", f"the loss is {loss.dtype}; {found}", "losses are summed in float32")
    if bench.config.train.precision == "bf16" and not any("bfloat16" in kind for kind in products):
        return failed("types", f"no product runs in bfloat16; {found}", "train.precision=fp32, or another device")
    return passed("types", found)
