"""Checks of the learning: who trains what, what gets a gradient, and a few real steps on one batch."""

from __future__ import annotations

import torch

from partimento.lab.preflight.bench import PROBE_STEPS, Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some
from partimento.lab.preflight.sound import awake
from partimento.training import audit
from partimento.training.tasks.sound import SoundTask

GRADIENT_BATCHES = 8
BLOWN_UP = 1.2  # times the initial loss
FAR = 10.0  # times its own size that a matrix may move in the few steps; good rates move it by 0.4 to 3
FALL = 0.02  # share of the initial loss
FALL_TRAINED = 0.002  # of weights that have learned before, which low rates move slowly
ADAPTER = "lora_"  # begins the names of the parameters of adapters
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
    if isinstance(bench.task, SoundTask):
        with awake(bench.task.objective.network):
            return _reached(bench)
    return _reached(bench)


def _reached(bench: Bench) -> Check:
    task = bench.task
    parameters = dict(task.module.named_parameters())
    frozen = {name for name, weight in parameters.items() if not weight.requires_grad}
    waiting = {name for name in parameters if name not in frozen and not _is_idle(bench, name)}
    never = set(waiting)
    trainable = len(waiting)
    for number in range(GRADIENT_BATCHES):
        task.module.zero_grad(set_to_none=True)
        batch = bench.batch_where(kept=False) if number == 1 else bench.batch(number)
        bench.loss(batch).backward()
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


def _is_idle(bench: Bench, name: str) -> bool:
    """What may be without a gradient: the null condition of a model that never drops its condition (the check
    "guidance" speaks of it), all that reads conditions where the draw drops the wrong ones ("dropping" does), and the
    first matrix of an adapter, which gets its gradient when the second one is no more zero ("frozen" does)."""
    task = bench.codes
    never = task is not None and name == "condition.null_D" and task.player.null_share == 0
    reads = name.startswith(("condition.", "encoder.")) or ".cross" in name
    return never or (reads and "dropping" in bench.failed) or name.rpartition(".")[2] == f"{ADAPTER}A"


def frozen_kept(bench: Bench) -> Check:
    """After a few real steps what is frozen is as it was to the last bit, and every adapter has moved."""
    task = bench.task
    names = dict(task.module.named_parameters())
    frozen = [name for name, weight in names.items() if not weight.requires_grad]
    adapters = [name for name in names if name.rpartition(".")[2].startswith(ADAPTER)]
    if not frozen and not adapters:
        return skipped("frozen", "every weight is trained")
    if bench.failed & {"optimizer", "gradients", "types"}:
        return skipped("frozen", "not tried: an earlier check failed that explains whatever would come of it")
    probe = bench.probe
    if probe.changed:
        found = f"{some(probe.changed)}: frozen, and changed by {len(probe.losses)} steps"
        return failed("frozen", found, "something writes to it outside of the optimizer: undo the change")
    if idle := [name for name in adapters if name in probe.still]:
        found = f"{some(idle)}: as before after {len(probe.losses)} steps"
        return failed("frozen", found, "the adapter is not connected to the loss, or its rate is 0 (optim.groups)")
    told = f"{len(frozen)} frozen parameters are unchanged after {len(probe.losses)} steps"
    return passed("frozen", f"{told}, {len(adapters)} of adapters moved" if adapters else told)


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
    least = FALL_TRAINED if bench.weights else FALL
    found = f"the loss fell by {100 * probe.fall:.1f} % in {PROBE_STEPS} steps, {100 * least:.2g} % expected at least"
    if probe.fall >= least:
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
