"""Faults that the log shows: each is a real training with one thing spoilt."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from partimento.models import attention, decoder
from partimento.tokens.draw import Batch
from partimento.training import engine, objective, schedule, stages
from partimento.training.tasks.codes import CodesTask
from ward import Planted, toys
from ward.spoiling import Garbage, given_up, hot, loaded, scaled

UNGUARDED = {"sigma": 1e9, "rollbacks": 0}
CONSTANT = {"schedule": "constant"}
ONCE = {"valid_every": 1000, "save_every": 1000}


# -- divergence, spikes ------------------------------------------------------------------------------------------------


def rate_leaps(folder: Path) -> Path:
    return hot(folder, lambda step: 60.0 if step >= 120 else 1.0, guard=UNGUARDED, steps=180)


def gives_up(folder: Path) -> Path:
    return hot(folder, lambda step: 300.0 if step >= 100 else 1.0)


def stage_too_hot(folder: Path) -> Path:
    plan = {"stages": [{"start": 100, "lr": 40.0}]}
    return given_up(folder, lambda: toys.train(folder, guard=UNGUARDED, optim=CONSTANT, train=plan))


def goes_nan(folder: Path) -> Path:
    task = scaled(lambda step: step >= 150, float("nan"))
    return given_up(folder, lambda: toys.train(folder, task=task))


def codec_leaps(folder: Path) -> Path:
    plan = {"adversary": {"start": None}, "optim": CONSTANT, "guard": UNGUARDED, "train": {**ONCE, "log_every": 2}}
    return hot(folder, lambda step: 300.0 if step >= 80 else 1.0, family="codec", steps=110, **plan)


def learns_garbage(folder: Path) -> Path:
    return toys.train(folder, task=Garbage, guard=UNGUARDED)


def skips_garbage(folder: Path) -> Path:
    return toys.train(folder, task=Garbage)


def one_hot_step(folder: Path) -> Path:
    return hot(folder, lambda step: 80.0 if step == 160 else 1.0, guard=UNGUARDED)


# -- standing still ----------------------------------------------------------------------------------------------------


def rate_next_to_nothing(folder: Path) -> Path:
    return toys.train(folder, steps=120, optim={**CONSTANT, "lr": 1e-6})


def restorer_stands(folder: Path) -> Path:
    return toys.train(folder, "restore", steps=40, optim={**CONSTANT, "lr": 1e-8}, adversary={"start": None})


def few(folder: Path, clips: int, frames: int) -> Path:
    return toys.write_pack(folder / "few", clips=clips, frames=(frames, frames + 1), seed=3)


def four_clips(folder: Path) -> Path:
    data = {"pack": str(few(folder, 5, 90)), "window": 32}
    return toys.train(folder, data=data, model={"width": 64}, steps=250)


def four_clips_with_text(folder: Path) -> Path:
    data = {"pack": str(few(folder, 5, 90)), "window": 32}
    return toys.train(folder, "dia", data=data, model={"width": 64}, steps=250)


def attends_to_other_items(folder: Path) -> Path:
    """Batch and time are mistaken for one another."""
    right = attention.SelfAttention.forward
    data = {"pack": str(toys.write_pack(folder / "pack", tags=False, change=pastless)), "window": 128}
    with toys.playing() as patch:

        def turned(self: Any, x_BSD: torch.Tensor, *rest: Any) -> torch.Tensor:
            return right(self, x_BSD.transpose(0, 1).contiguous(), *rest).transpose(0, 1)

        patch.setattr(attention.SelfAttention, "forward", turned)
        return toys.train(folder, steps=150, data=data, model={"pattern": "parallel"}, optim={"batch": 16})


def pastless(codes_TK: toys.Codes, rng: np.random.Generator, clip: int) -> toys.Codes:
    """Books 2 and 3 say what book 1 says, so that a row tells nothing of the rows before it."""
    first = codes_TK[:, 0]
    return np.stack([first, (5 * first + 7) % toys.V, (3 * first + 1) % toys.V], axis=1)


def adversary_wins(folder: Path) -> Path:
    strong = {"period_width": 8, "window_width": 8, "lr": 2e-3}
    plan = {"log_every": 4, **ONCE}
    return toys.train(folder, "codec", steps=120, optim={**CONSTANT, "lr": 1e-6}, adversary=strong, train=plan)


# -- steps, time, plan -------------------------------------------------------------------------------------------------


def tiny_clip(folder: Path) -> Path:
    return toys.train(folder, steps=60, optim={"clip": 1e-3})


def small_clip(folder: Path) -> Path:
    return toys.train(folder, steps=100, optim={"clip": 0.015})


def four_short_items(folder: Path) -> Path:
    return toys.train(folder, data={"window": 8}, optim={"batch": 1, "accumulate": 4, "lr": 2e-3}, steps=300)


def two_short_items(folder: Path) -> Path:
    return toys.train(folder, data={"window": 8}, optim={"batch": 1, "accumulate": 2, "lr": 2e-3}, steps=300)


def slow_loader(folder: Path) -> Path:
    return loaded(folder, lambda step: 3.0)


def loader_that_pauses(folder: Path) -> Path:
    return loaded(folder, lambda step: 15.0 if step % 10 == 0 else 0.0)


def shapes_that_change(folder: Path) -> Path:
    """The compiler is torch's, but what it makes of a graph runs as it was written: C++ would take minutes."""

    class Ragged(CodesTask):
        def batch(self, step: int, micro: int, attempt: int = 0) -> Batch:
            batch = super().batch(step, micro, attempt)
            return replace(batch, grid_BSK=batch.grid_BSK[:, : 12 + step // 2])

    with toys.playing() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        small = {"data": {"window": 32}, "model": {"layers": 1}}
        return toys.train(folder, steps=16, task=Ragged, **small, train={"compile": True, "log_every": 2, **ONCE})


def schedule_begins_anew(folder: Path) -> Path:
    with toys.playing() as patch:
        right = schedule.shape
        patch.setattr(engine, "shape", lambda step, optim, steps: right(step % (steps // 2), optim, steps // 2))
        return toys.train(folder)


def schedule_lags(folder: Path) -> Path:
    """As after a resume that forgot where the schedule was."""
    with toys.playing() as patch:
        right = schedule.shape
        patch.setattr(engine, "shape", lambda step, optim, steps: right(max(0, step - 60), optim, steps))
        return toys.train(folder, steps=120)


def counts_items_twice(folder: Path) -> Path:
    with toys.playing() as patch:

        def doubled(config: Any, step: int) -> Any:
            stage = stages.settings_at(config, step)
            return replace(stage, batch=2 * stage.batch)

        patch.setattr(engine, "settings_at", doubled)
        return toys.train(folder, steps=40)


def rate_times_100(folder: Path) -> Path:
    return given_up(folder, lambda: toys.train(folder, optim={"lr": 0.5}))


def dia_times_100(folder: Path) -> Path:
    return given_up(folder, lambda: toys.train(folder, "dia", steps=120, optim={"lr": 0.5}))


def last_gradient_times_1000(folder: Path) -> Path:
    task = scaled(lambda step: step == 119, 1000.0)
    return toys.train(folder, steps=120, task=task, guard=UNGUARDED, optim={"clip": 1e9})


def scores_not_scaled(folder: Path) -> Path:
    return toys.train(folder, steps=60, model={"width": 64, "heads": 1, "attention_scale": 1.0})


def scores_next_to_even(folder: Path) -> Path:
    return toys.train(folder, steps=60, model={"width": 64, "heads": 1, "attention_scale": 0.005})


def block_detached(folder: Path) -> Path:
    """The audit before step 1, which refuses such a model, and the one after 20 steps are switched off."""
    right = decoder.Block.forward
    with toys.playing() as patch:

        def cut(self: Any, x_BSD: torch.Tensor, *rest: Any) -> torch.Tensor:
            made = right(self, x_BSD, *rest)
            return x_BSD + (made - x_BSD).detach() if self.layer == 1 else made

        patch.setattr(decoder.Block, "forward", cut)
        patch.setattr("partimento.training.flow.Flow.before", lambda self: {"when": "before", "trained": 0})
        patch.setattr("partimento.training.flow.Flow.due", lambda self: [])
        return toys.train(folder, steps=60)


# -- other targets -----------------------------------------------------------------------------------------------------


def drops_in_validation(folder: Path) -> Path:
    def drop(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x if self.training else torch.nn.functional.dropout(x, 0.5, training=True)

    with toys.playing() as patch:
        patch.setattr(decoder.Block, "_drop", drop)
        return toys.train(folder, steps=160, optim={"batch": 4})


def smooths_in_validation(folder: Path) -> Path:
    right = objective.code_loss
    with toys.playing() as patch:

        def smoothed(logits_BSKV: torch.Tensor, targets_BSK: torch.Tensor, V: int) -> Any:
            found = right(logits_BSKV, targets_BSK, V)
            even_BSK = -logits_BSKV.log_softmax(-1)[..., :V].mean(-1)
            even_K = (even_BSK * (targets_BSK < V)).sum((0, 1))
            return replace(found, code_sum_K=0.9 * found.code_sum_K + 0.1 * even_K)

        patch.setattr(objective, "code_loss", smoothed)
        return toys.train(folder, steps=160, optim={"batch": 4})


def held_out_delayed_otherwise(folder: Path) -> Path:
    class Otherwise(CodesTask):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            for place, batch in enumerate(self.valid):
                grid_BSK = batch.grid_BSK.clone()
                grid_BSK[:, :, 1:] = grid_BSK[:, :, 1:].roll(1, dims=1)
                self.valid[place] = replace(batch, grid_BSK=grid_BSK)

    return toys.train(folder, steps=100, task=Otherwise)


def sees_its_targets(folder: Path) -> Path:
    """In training, what is to be told is read."""
    right = objective.CodesObjective.forward
    with toys.playing() as patch:

        def ahead(self: Any, grid_BSK: torch.Tensor, *rest: Any) -> Any:
            if self.training:
                grid_BSK = grid_BSK.repeat_interleave(2, dim=1)[:, 1 : 1 + grid_BSK.shape[1]]
            return right(self, grid_BSK, *rest)

        patch.setattr(objective.CodesObjective, "forward", ahead)
        return toys.train(folder, steps=100)


def divided_by_half(folder: Path) -> Path:
    return toys.train(folder, steps=100, task=scaled(lambda step: True, 2.0))


QUICK = (restorer_stands, codec_leaps, slow_loader, counts_items_twice, scores_not_scaled, block_detached, tiny_clip)
FAULTS = (
    Planted("divergence", "log", "From step 120 on the steps are 60 times as large, the guard is off.", rate_leaps),
    Planted("divergence", "log", "From step 100 on 300 times as large; the run goes back twice, gives up.", gives_up),
    Planted("divergence", "log", "A stage with 40 times the rate; no guard.", stage_too_hot, ("rate_too_high",)),
    Planted("divergence", "log", "The loss is not a number from step 150 on; the run gives up.", goes_nan),
    Planted("divergence", "log", "The steps of a codec are 300 times as large from step 80 on.", codec_leaps),
    Planted("late_spike", "log", "The codes of step 160 of 200 are chance; the guard is off.", learns_garbage),
    Planted("late_spike", "log", "The codes of step 160 of 200 are chance; the guard skips it.", skips_garbage),
    Planted("late_spike", "log", "Step 160 of 200 is 80 times as large; the guard is off.", one_hot_step),
    Planted("plateau", "log", "A constant rate of 1e-6 from the beginning.", rate_next_to_nothing),
    Planted("plateau", "log", "A restorer at a constant rate of 1e-8.", restorer_stands),
    Planted("overfitting", "log", "Four clips of two seconds, gone through 350 times.", four_clips, ("tiny_data",)),
    Planted(
        "overfitting", "log", "The same, of a model that reads text.", four_clips_with_text, ("tiny_data",)
    ),
    Planted("no_time_mixing", "log", "Attention takes the batch for time.", attends_to_other_items),
    Planted(
        "discriminator_wins", "log", "A strong discriminator; the codec hardly learns (rate 1e-6).", adversary_wins,
        ("plateau",),
    ),
    Planted("clipped_always", "log", "optim.clip = 1e-3.", tiny_clip),
    Planted("clipped_always", "log", "optim.clip = 0.015, a fiftieth of the norm.", small_clip),
    Planted("batch_too_small", "log", "Four windows of eight frames a step.", four_short_items),
    Planted("batch_too_small", "log", "Two windows of eight frames a step.", two_short_items),
    Planted("data_stall", "log", "A batch takes three times as long to draw as a step to compute.", slow_loader),
    Planted("data_stall", "log", "One batch of ten takes fifteen times as long.", loader_that_pauses),
    Planted(
        "recompiles", "log", "Windows of another length every second step, compiled (the graphs run eagerly).",
        shapes_that_change,
    ),
    Planted("schedule_mismatch", "log", "The schedule begins anew after half of the steps.", schedule_begins_anew),
    Planted("schedule_mismatch", "log", "The schedule is 60 steps late.", schedule_lags),
    Planted("schedule_mismatch", "log", "Items are counted twice.", counts_items_twice),
    Planted("rate_too_high", "log", "optim.lr times 100.", rate_times_100, ("divergence",)),
    Planted("rate_too_high", "log", "optim.lr times 100, of a model that reads text.", dia_times_100, ("divergence",)),
    Planted(
        "gradient_spike", "log", "The gradient of the last step times 1000, without clip and guard.",
        last_gradient_times_1000,
    ),
    Planted("attention_scale", "log", "model.attention_scale = 1 with one head of 64.", scores_not_scaled),
    Planted("attention_scale", "log", "model.attention_scale = 0.005 with one head of 64.", scores_next_to_even),
    Planted("layer_without_gradient", "log", "The second block is detached, and the audit off.", block_detached),
    Planted("loss_of_other_targets", "log", "Dropout of one half in validation alone.", drops_in_validation),
    Planted("loss_of_other_targets", "log", "Label smoothing of 0.1 in validation alone.", smooths_in_validation),
    Planted(
        "loss_of_other_targets", "log", "Books 2 and 3 of held-out windows are delayed by one more.",
        held_out_delayed_otherwise,
    ),
    Planted("loss_of_other_targets", "log", "In training every second target can be read.", sees_its_targets),
    Planted("loss_of_other_targets", "log", "The logged sum is divided by half of its codes.", divided_by_half),
)  # fmt: skip
PLANTED = tuple(replace(one, slow=one.make not in QUICK) for one in FAULTS)
