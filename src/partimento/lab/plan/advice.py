"""What follows from the figures of a plan: one sentence each, with what it does and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from partimento.config import CodesConfig, DiaConfig, MotConfig
from partimento.lab.plan.cost import MFU
from partimento.lab.plan.layouts import SECONDS
from partimento.lab.plan.memory import USABLE
from partimento.runs import backbones
from partimento.tokens.findings import Finding
from partimento.training.stages import stages

if TYPE_CHECKING:
    from partimento.lab.plan import Plan

COMPUTE_OPTIMAL = 20.0
"""Tokens seen for each parameter at which text models use their operations best (Hoffmann et al. 2022, Chinchilla)."""
UNDERSIZED = 6.4
"""Different codes for each parameter above which a model of music sounded worse than its curves: under 200 million
parameters on 230 hours of 18 codebooks at 86 frames a second (1.28 billion codes)."""
OVERSIZED = 0.5
"""Different codes for each parameter under which a model has more than enough room to learn all of them by heart."""
EPOCHS_GOOD, EPOCHS_WORTHLESS = 4.0, 40.0
"""Repeats of data that are nearly as good as new data, and that add nothing (Muennighoff et al. 2023)."""
LARGER = 10  # times the network
LAUNCHES = 25  # kernels of a block in a forward and backward pass of compiled blocks, roughly, at some 5 microseconds
LAUNCH_SECONDS = 5e-6


def advice(plan: Plan) -> list[Finding]:
    """By level, the worst first."""
    found = [*_shares(plan), *_memory(plan), *_capacity(plan), *_repeats(plan), *_schedule(plan), *_device(plan)]
    found += [*_adversary(plan), *_experts(plan), *_layout(plan)]
    return sorted(found, key=lambda one: ("bad", "warn", "note").index(one.level))


def _shares(plan: Plan) -> Iterator[Finding]:
    for stage in stages(plan.config):
        if left := stage.batch % plan.devices:
            yield Finding(
                "bad",
                "shares",
                f"a batch of {stage.batch} cannot be shared equally by {plan.devices} devices",
                "the training would not start (TRAIN056)",
                f"a multiple of {plan.devices}, e.g. {stage.batch + plan.devices - left}",
            )
            return


def _memory(plan: Plan) -> Iterator[Finding]:
    if plan.room is None:
        return
    now, *others = plan.options
    accumulate = plan.config.optim.accumulate
    if now.memory.total > USABLE * plan.room:
        fitting = [option.settings for option in others if option.memory.total <= USABLE * plan.room]
        if now.largest_batch:
            fitting.insert(0, f"optim.batch={now.largest_batch} with a larger optim.accumulate")
        yield Finding(
            "bad",
            "memory",
            f"it needs {now.memory.total / 1e9:.1f} GB on each device, and {plan.room / 1e9:.1f} GB are there",
            "the run would end before its first step",
            "any one of: " + "; ".join(fitting) if fitting else "a smaller model, or several of these options at once",
        )
    elif now.largest_batch and now.largest_batch >= 2 * plan.batch:
        yield Finding(
            "note",
            "room",
            f"a micro-batch of {now.largest_batch} fits, and {plan.batch} is set",
            "larger micro-batches use a device better",
            f"a larger optim.batch, with optim.accumulate={max(1, accumulate // 2)} or less, or with fewer steps",
        )


def _capacity(plan: Plan) -> Iterator[Finding]:
    if not isinstance(plan.config, CodesConfig):
        return  # what is learned is no list of codes
    different, seen = plan.codes_per_parameter, plan.seen_per_parameter
    if isinstance(plan.config, MotConfig):
        return  # how large it is was decided by what its backbone learned before
    if isinstance(plan.config, DiaConfig) and plan.config.model.weights:
        # How large the model is was decided by what it learned before.
        if different is not None and different < OVERSIZED and not plan.config.model.lora_rank:
            yield Finding(
                "note",
                "oversized",
                f"{different:.2g} different codes for each trained parameter: they can be learned by heart soon",
                "what it plays may be what it heard; the held-out loss turns up early",
                "model.lora_rank=16, few train.steps, guard.stop_overfit=3",
            )
        return
    if different is not None and different > UNDERSIZED:
        yield Finding(
            "warn",
            "undersized",
            f"{different:.1f} different codes for each parameter: the model is small for this data",
            f"above {UNDERSIZED:g}, models have had good curves and poor sound",
            "a larger model.width or model.layers (partimento plan tells what it costs)",
        )
    elif different is not None and different < OVERSIZED:
        yield Finding(
            "warn",
            "oversized",
            f"{different:.2f} different codes for each parameter: the model can learn all of the data by heart",
            "what it plays may be what it heard; the held-out loss turns up early",
            "a smaller model, model.dropout=0.2, or more music",
        )
    if seen < COMPUTE_OPTIMAL / 10:
        yield Finding(
            "note",
            "short",
            f"{seen:.2g} codes are seen for each parameter in the whole run, where text models want about "
            f"{COMPUTE_OPTIMAL:g}",
            "the same operations would teach a smaller model more",
            "more train.steps, or a smaller model",
        )


def _repeats(plan: Plan) -> Iterator[Finding]:
    if plan.epochs is None:
        return
    if plan.epochs > EPOCHS_WORTHLESS:
        yield Finding(
            "warn",
            "epochs",
            f"the run hears its data {plan.epochs:.0f} times",
            f"beyond about {EPOCHS_WORTHLESS:g} times nothing new is learned from it, only the data itself",
            f"fewer train.steps, more music, guard.stop_overfit=3{'' if plan.audio else ', or model.dropout=0.2'}",
        )
    elif plan.epochs > EPOCHS_GOOD:
        yield Finding(
            "note",
            "epochs",
            f"the run hears its data {plan.epochs:.1f} times",
            f"up to about {EPOCHS_GOOD:g} times is as good as new data; from there on each time is worth less",
            "guard.stop_overfit=3 ends the run when the held-out loss turns up",
        )
    elif plan.epochs < 1:
        yield Finding(
            "note", "epochs", f"the run hears {100 * plan.epochs:.0f} % of its data", "the rest is never drawn"
        )


def _schedule(plan: Plan) -> Iterator[Finding]:
    train, optim = plan.config.train, plan.config.optim
    if optim.warmup > train.steps / 4:
        yield Finding(
            "warn",
            "warmup",
            f"the warm-up takes {optim.warmup} of {train.steps} steps",
            "most of the run would have less than the rate that was chosen",
            f"optim.warmup={max(1, train.steps // 20)}",
        )
    if train.valid_every > train.steps:
        yield Finding(
            "note",
            "valid",
            f"the only validation is the one at the end (every {train.valid_every} of {train.steps} steps)",
            "no best checkpoint can be chosen, and no early stop can happen",
            f"train.valid_every={max(1, train.steps // 10)}",
        )


def _adversary(plan: Plan) -> Iterator[Finding]:
    """What two players need to get along, as far as figures tell it beforehand."""
    if not plan.adversary or isinstance(plan.config, CodesConfig):
        return
    config, second = plan.config, sum(plan.adversary.values())
    start = config.adversary.start or 0
    if start >= config.train.steps:
        yield Finding(
            "bad",
            "adversary",
            f"the adversary begins in step {start:,}, and the run has {config.train.steps:,}",
            "it never plays",
            f"adversary.start={config.train.steps // 4}",
        )
    if second > LARGER * plan.trainable and config.train.device == "cpu":
        yield Finding(
            "warn",
            "adversary",
            f"the adversary has {second / 1e6:.1f} M parameters, {second / plan.trainable:.0f} times the network's",
            "most of each step is spent on it",
            "adversary.period_width=8 adversary.window_width=8, which take a sixteenth",
        )
    if config.train.precision == "bf16":
        yield Finding(
            "note",
            "precision",
            "two players in bf16",
            "a wave that ends in bf16 products has been measured as worse by others (docs/ablation_gan.md)",
            "train.precision=tf32 on a GPU",
        )


def _experts(plan: Plan) -> Iterator[Finding]:
    """Feed-forwards go from layer to layer, so that there must be enough of them."""
    if not isinstance(plan.config, MotConfig) or plan.config.model.experts_from is None:
        return
    with torch.device("meta"):
        backbone = backbones.read_llama(plan.config.model.backbone).config.layers
        layers = backbones.read_musicgen_feedforwards(plan.config.model.experts_from).layers
    if layers < backbone:
        yield Finding(
            "bad",
            "experts",
            f"{plan.config.model.experts_from} has {layers} layers, and the backbone {backbone}",
            "the training would not start (MODEL041)",
            "model.experts_from=musicgen-medium (48 layers), or none",
        )


def _layout(plan: Plan) -> Iterator[Finding]:
    """What a flat grid of a mixture costs."""
    if not plan.layouts:
        return
    now, *others = plan.layouts
    for other in others:
        if other.positions_per_second < now.positions_per_second:
            kept = [0.0 if one.activations[-1] is None else one.activations[-1] / 1e9 for one in (now, other)]
            costs = f"{SECONDS[-1]:g} s keep {kept[0]:.1f} GB instead of {kept[1]:.1f}"
            yield Finding(
                "note",
                "pattern",
                f"{now.positions_per_second:g} positions a second of audio, {now.window_seconds:.2f} s in a window; "
                f"{other.pattern} has {other.positions_per_second:g}, and {other.window_seconds:.2f} s",
                costs if kept[0] else f"{SECONDS[-1]:g} s are more than its backbone has positions for",
                f"model.pattern={other.pattern} model.vocabulary=own",
            )


def _device(plan: Plan) -> Iterator[Finding]:
    for name in ("H100", "A100"):
        found = next((row for row in plan.hours if row.device == name), None)
        if found is None:
            continue
        computing = plan.micro_flops / plan.devices / (found.teraflops * 1e12 * MFU)
        launching = LAUNCHES * LAUNCH_SECONDS * plan.blocks
        if computing < launching:
            yield Finding(
                "note",
                "launches",
                f"on one {name} a micro-batch computes for {1e3 * computing:.2g} ms and takes about "
                f"{1e3 * launching:.2g} ms to ask for",
                "a device of this size waits for the host: the hours given for it are too few",
                "a larger optim.batch" + (", or train.cuda_graphs=true" if plan.devices == 1 else ""),
            )
        return
