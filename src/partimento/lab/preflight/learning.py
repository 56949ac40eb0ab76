"""Checks of the learning: who trains what, what gets a gradient, and a few real steps on one batch."""

from __future__ import annotations

import torch

from partimento.lab.preflight.bench import PROBE_STEPS, Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some
from partimento.lab.preflight.sound import awake
from partimento.training import audit, directions
from partimento.training.attended import attended
from partimento.training.flow import LOOKS
from partimento.training.reach import NEVER, read, units

BLOWN_UP = 1.2  # times the initial loss
FAR = 10.0  # times its own size that a matrix may move in the few steps; good rates move it by 0.4 to 3
FALL = 0.02  # share of the initial loss
FALL_TRAINED = 0.002  # of weights that have learned before, which low rates move slowly
ADAPTER = "lora_"  # begins the names of the parameters of adapters
NO_CUT = "no cache in training, no detach before attention"
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
    """Every trainable parameter gets a finite gradient that is not zero, frozen ones get none, keys and values are not
    cut off, nor is what one of several losses has to teach: what the engine looks at before step 1, on more batches,
    and with all that begins at zero awake."""
    with awake(bench.task.module):
        try:
            found = _reached(bench)
            return found if found.status == "failed" else _each_alone(bench) or found
        finally:
            bench.task.module.zero_grad(set_to_none=True)


def _reached(bench: Bench) -> Check:
    task = bench.task
    frozen = {name: weight for name, weight in task.module.named_parameters() if not weight.requires_grad}
    wanted = [unit for unit in units(bench.optimizer.claims) if not _is_idle(bench, unit.claim.name)]
    gradients = {unit.claim.name: unit.claim.parameter for unit in wanted}
    reached = {unit.label: NEVER for unit in wanted}
    for number in range(LOOKS):
        task.module.zero_grad(set_to_none=True)
        batch = bench.batch_where(kept=False) if number == 1 else bench.batch(number)
        with attended(task.module) as seen:
            bench.loss(batch).backward()
        if given := [name for name, weight in frozen.items() if weight.grad is not None]:
            return failed("gradients", f"{some(given)}: frozen, and gets a gradient", "undo the change of the model")
        if seen.cut:
            found = "; ".join(f"the {what} of {name} are cut off from the gradient" for name, what in seen.cut.items())
            return failed("gradients", found, NO_CUT, "TRAIN081")
        for name, weight in gradients.items():
            if weight.grad is not None and not bool(torch.isfinite(weight.grad).all()):
                remedy = "look at the data for damage (partimento pack verify) and at train.precision"
                return failed("gradients", f"the gradient of {name} is not finite", remedy)
        now = read(wanted, {name: weight.grad for name, weight in gradients.items()})
        reached = {unit.label: one.and_before(reached[unit.label]) for unit, one in zip(wanted, now, strict=True)}
        if all(one.any for one in reached.values()):
            if seen.calls < task.attentions:
                found = f"{seen.calls} of {task.attentions} attentions were seen, and nobody knows of the others"
                return failed("gradients", found, "call functional.scaled_dot_product_attention", "TRAIN085")
            keys = f", and so are the keys and values of {seen.calls} attentions" if seen.calls else ""
            rest = f"; {len(frozen)} frozen ones get none" if frozen else ""
            return passed("gradients", f"{len(gradients)} parameters, all reached{keys}{rest}")
    if never := sorted(label for label, one in reached.items() if not one.there):
        found = f"{some(never)}: trainable, but nothing of the loss depends on it"
        return failed("gradients", found, "freeze it (requires_grad_(False)) or take it out of the model", "TRAIN080")
    waiting = sorted(label for label, one in reached.items() if not one.any)
    found = f"only zeros in {LOOKS} batches: {some(waiting)}"
    return failed("gradients", found, "a part of the model is not connected to the loss", "TRAIN080")


def _each_alone(bench: Bench) -> Check | None:
    """What is wrong where the losses that a step adds up are looked at one by one."""
    module = bench.task.module
    for direction in bench.task.directions:
        missed = set(direction.reaches)
        for number in range(LOOKS):
            module.zero_grad(set_to_none=True)
            bench.loss(bench.batch(number), direction).backward()
            missed -= directions.reached(direction, module)
            if not missed:
                break
        else:
            found = f"the loss of the {direction.what} alone does not reach {some(sorted(missed))}"
            return failed("gradients", found, NO_CUT, "TRAIN081")
    return None


def _is_idle(bench: Bench, name: str) -> bool:
    """What may be without a gradient: the null condition of a model that never drops its condition (the check
    "guidance" speaks of it), and all that reads conditions where the draw drops the wrong ones ("dropping" does)."""
    task = bench.codes
    never = task is not None and name in task.unreached() and task.player.null_share == 0
    reads = name.startswith(("condition.", "encoder.")) or ".cross" in name
    return never or (reads and "dropping" in bench.failed)


def frozen_kept(bench: Bench) -> Check:
    """After a few real steps what is frozen is as it was to the last bit, and every adapter has moved."""
    task = bench.task
    names = dict(task.module.named_parameters())
    frozen = [name for name, weight in names.items() if not weight.requires_grad]
    adapters = [name for name in names if name.rpartition(".")[2].startswith(ADAPTER)]
    if bench.mixture is not None:  # all that is trained was put beside a backbone
        adapters = [name for name, weight in names.items() if weight.requires_grad]
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
    beside = "what is beside them" if bench.mixture is not None else "adapters"
    return passed("frozen", f"{told}, all {len(adapters)} of {beside} moved" if adapters else told)


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
