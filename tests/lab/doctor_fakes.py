"""Seeded logs of trainings that never were: healthy ones of many kinds, and each disease of the log at three strengths.

The loss falls with the work that was done (the sum of the rates), so that schedules, stages and rollbacks show in it as
they do in a training; its noise falls with the batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from partimento.config import parse
from partimento.keyed import numpy_rng
from partimento.lab.doctor.doctor import LOG, ranked
from partimento.lab.doctor.finding import Finding
from partimento.lab.doctor.patient import Patient
from partimento.training.schedule import shape
from partimento.training.stages import settings_at

BOOKS = np.array([4.2, 4.8, 5.1, 5.3])  # what the codes cost in the end
GUESS, K = math.log(1024), 4
EVERY = 10


@dataclass
class Plan:
    """One training: overrides of the configuration, and what becomes of the lines."""

    overrides: dict[str, Any] = field(default_factory=dict)
    family: str = "rvq"
    noise: float = 0.04  # of the loss of a reading
    work: float = 1.0  # how quickly the loss falls
    frames: int = 400_000  # to train on
    change: Callable[[dict[str, Any], np.random.Generator, Plan], None] = lambda line, rng, plan: None
    valid: Callable[[dict[str, Any], np.random.Generator, Plan], None] = lambda line, rng, plan: None
    log: Callable[[list[dict[str, Any]], Plan], list[dict[str, Any]]] = lambda events, plan: events
    strength: float = 0.0

    @property
    def steps(self) -> int:
        return int(self.overrides.get("train.steps", 1000))


def patient(plan: Plan, seed: int, folder: Path) -> Patient:
    """A run folder without checkpoints."""
    tree: dict[str, Any] = {"family": plan.family, "data": {"pack": "gone"}, "train": {"steps": 1000}}
    if plan.family == "codec":
        tree["data"] = {"folders": ["gone"]}
    for name, value in plan.overrides.items():
        section, _, key = name.partition(".")
        tree.setdefault(section, {})[key] = value
    config = parse(tree)
    record = {"id": "fake", "family": plan.family, "config": config.model_dump(mode="json"), "identity": {}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))
    events = plan.log(list(lines(plan, config, seed)), plan)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return Patient.open(folder)


def lines(plan: Plan, config: Any, seed: int) -> Iterator[dict[str, Any]]:
    rng = numpy_rng("fake log", seed)
    yield {"kind": "start", "step": 0, "time": 0.0, "world": 1}
    codes = plan.family in ("rvq", "dia")
    if codes:
        yield {
            "kind": "baseline", "step": 0, "time": 0.0, "unigram_ce_K": [6.0, 6.5, 6.6, 6.7],
            "bigram_ce_K": [5.0, 5.9, 6.3, 6.5], "data_entropy_K": [5.9, 6.4, 6.5, 6.6], "train_frames": plan.frames,
        }  # fmt: skip
    work = 0.0
    for step in range(1, plan.steps + 1):
        stage = settings_at(config, step - 1)
        rate = shape(step - 1, config.optim, config.train.steps) * stage.lr
        work += rate * plan.work * config.optim.lr / 1e-3
        left = (1 + work / 60) ** -0.7
        if step % EVERY == 0 or step == plan.steps:
            line = {
                "kind": "train", "step": step, "time": float(step), "lr": rate * config.optim.lr, "skipped": 0,
                "grad_norm": 0.25 * float(np.exp(0.2 * rng.normal())) * (1 + 4 * left), "seconds": 0.3,
                "data_wait": 0.01 * float(rng.exponential()), "recompiles": 3 if step > EVERY else 2,
            }  # fmt: skip
            if codes:
                mean = BOOKS + (GUESS - BOOKS) * left
                shared, own = plan.noise * rng.normal(), 0.5 * plan.noise * rng.normal(size=K)
                line["ce_K"] = list(mean + shared + own)
                line["tokens"] = float(EVERY * stage.batch * stage.accumulate * stage.window * K)
                line["null_share"] = 0.1
            else:
                line["mel7"] = float((0.8 + 1.4 * left) * np.exp(plan.noise * rng.normal()))
            if stage.accumulate > 1:  # a noise scale of 12 batches
                big = line["grad_norm"] ** 2
                batch = stage.batch * stage.accumulate
                square, trace = big / 13, 12 * big / 13 * batch
                line |= {"noise_big": big, "noise_small": square + trace / stage.batch * (1 + 0.1 * rng.normal())}
            plan.change(line, rng, plan)
            line["loss"] = float(np.mean(line["ce_K"])) if codes else 10 * line["mel7"]
            yield line
        if step % 100 == 0 or step == plan.steps:
            held = {"kind": "valid", "step": step, "time": float(step), "weights": "raw"}
            if codes:
                held["ce_K"] = list(BOOKS + 0.08 + (GUESS - BOOKS - 0.08) * left + 0.01 * rng.normal(size=K))
            else:
                held["mel7"] = 0.85 + 1.4 * left + 0.01 * rng.normal()
            plan.valid(held, rng, plan)
            yield held
            yield {**held, "weights": "ema"}
    yield {"kind": "end", "step": plan.steps, "time": float(plan.steps), "reason": "finished"}


def diagnosed(one: Patient) -> tuple[Finding, ...]:
    """By the examiners of the log alone, ranked as the doctor ranks them."""
    from importlib import import_module

    seen = [import_module(f"partimento.lab.doctor.{name}").examine(one) for name in LOG]
    return ranked([finding for part in seen for finding in part.findings])


# -- healthy -----------------------------------------------------------------------------------------------------------


def resumed(events: list[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Killed at 550, on from 500: lines up to 550 are there twice."""
    first = [e for e in events if e["kind"] != "end" and e["step"] <= 550]
    again = [e for e in events if e["step"] > 500]
    return [*first, {"kind": "resume", "step": 500, "time": 551.0, "checkpoint": "step-000000500"}, *again]


def rolled_back(events: list[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """It explodes after 430, goes back from 500 to 400 with half of the rate, and recovers."""
    first = []
    for event in events:
        if event["kind"] in ("train", "valid") and 430 < event["step"] <= 500:
            ce_K = [value + (event["step"] - 430) / 20 for value in event["ce_K"]]
            event = {**event, "ce_K": ce_K} | ({"loss": float(np.mean(ce_K))} if "loss" in event else {})
        if event["step"] <= 500 and event["kind"] != "end":
            first.append(event)
    back = {"kind": "rollback", "step": 400, "at": 500, "reason": "the loss left its level", "rate_factor": 0.5}
    again = [{**e, "lr": e["lr"] / 2} if e["kind"] == "train" else e for e in events if e["step"] > 400]
    return [*first, {**back, "time": 501.0, "attempt": 1}, *again]


def adversary(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """Right about four of five."""
    line |= {
        "accuracy_real": float(np.clip(0.8 + 0.08 * rng.normal(), 0, 1)),
        "accuracy_fake": float(np.clip(0.8 + 0.08 * rng.normal(), 0, 1)),
        "score_real_S": list(0.65 + 0.05 * rng.normal(size=3)),
        "score_fake_S": list(0.35 + 0.05 * rng.normal(size=3)),
        "pull_adversarial": 0.3, "pull_mel": 2.0,
    }  # fmt: skip


STAGES = [{"start": 400, "window": 512, "batch": 4}, {"start": 700, "lr": 0.5}]


def longer(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """Longer windows hold more beginnings without a past, at first."""
    if line["step"] > 400:
        line["ce_K"] = [value + 0.4 * math.exp(-(line["step"] - 400) / 60) for value in line["ce_K"]]


HEALTHY: dict[str, Plan] = {
    "cosine": Plan(),
    "wsd": Plan({"optim.schedule": "wsd"}),
    "linear": Plan({"optim.schedule": "linear"}),
    "constant": Plan({"optim.schedule": "constant"}),
    "noisy": Plan({"optim.batch": 1}, noise=0.25),
    "short": Plan({"train.steps": 200, "optim.warmup": 20}),
    "short with the default warm-up": Plan({"train.steps": 200}),
    "long": Plan({"train.steps": 4000}),
    "resumed": Plan(log=resumed),
    "rolled back": Plan(log=rolled_back),
    "stages": Plan({"train.stages": STAGES}, change=longer),
    "accumulated": Plan({"optim.accumulate": 4, "optim.batch": 2}),
    "a noisy gradient": Plan({"optim.accumulate": 4, "optim.batch": 2}, strength=200.0),
    "codec": Plan({}, family="codec", noise=0.08),
    "codec with an adversary": Plan({"adversary.start": 0}, family="codec", noise=0.12, change=adversary),
    "guidance": Plan({"demo.guidance": [1.0, 3.0]}),
}

# -- diseases ----------------------------------------------------------------------------------------------------------


def diverges(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """After 600, book 2 first; `strength` nats in the last 400 steps."""
    over = max(0.0, (line["step"] - 600) / 400)
    later = max(0.0, (line["step"] - 660) / 340)
    line["ce_K"] = [v + plan.strength * (over if book == 1 else later) for book, v in enumerate(line["ce_K"])]
    line["grad_norm"] *= 1 + 3 * over


def spikes(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    if line["step"] == 800:
        line["ce_K"] = [value + plan.strength for value in line["ce_K"]]
        line["grad_norm"] *= 6


def comes_back_slowly(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """One step at 700 spoils what the next three hundred learn again."""
    over = plan.strength * math.exp(-(line["step"] - 710) / 150) if line["step"] > 700 else 0.0
    line["ce_K"] = [value + over for value in line["ce_K"]]


def forgets(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """A stage at 400 takes back a share of what was learned, and stays there."""
    if line["step"] > 400:
        line["ce_K"] = [value + plan.strength * (GUESS - value) for value in line["ce_K"]]


def skips(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    if line["step"] >= 800:
        line["skipped"] = 1
    if line["step"] == 800:
        line["skip"] = {"loss": 9.0 * plan.strength, "norm": 3.0, "loss_limit": 5.5, "norm_limit": 4.0}


def by_heart(held: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """The held-out loss turns at step 300."""
    held["ce_K"] = [value + plan.strength * max(0.0, (held["step"] - 300) / 700) for value in held["ce_K"]]


def known(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    line["ce_K"] = [value - plan.strength * max(0.0, (line["step"] - 300) / 700) for value in line["ce_K"]]


def clipped(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    line["grad_norm"] *= plan.strength


def noisy(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """A noise scale of `strength` batches."""
    big = line["grad_norm"] ** 2
    micro, parts = plan.overrides["optim.batch"], plan.overrides["optim.accumulate"]
    square = big / (1 + plan.strength)
    trace = plan.strength * square * micro * parts
    line |= {"noise_big": big * (1 + 0.02 * rng.normal()), "noise_small": square + trace / micro}


def waits(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    line["data_wait"] = float(np.clip(plan.strength + 0.1 * rng.normal(), 0, 1))


def compiles(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    line["recompiles"] = int(line["step"] / EVERY * plan.strength)


def rises_again(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """A cosine that was planned for a part of the steps turns round."""
    end = plan.strength * plan.steps
    line["lr"] = 1e-3 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * line["step"] / end)))


def harder(held: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    held["ce_K"] = [value + plan.strength for value in held["ce_K"]]


def grows_apart(held: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """What is different shows with what is learned: little at the first validation, more at the second."""
    held["ce_K"] = [value + plan.strength * held["step"] / 100 for value in held["ce_K"]]


def blind(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    """Never under a table of pairs."""
    line["ce_K"][0] = max(line["ce_K"][0], 5.0 + plan.strength + 0.02 * rng.normal())


def blind_too(held: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    held["ce_K"][0] = max(held["ce_K"][0], 5.1 + plan.strength)


def wins(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    adversary(line, rng, plan)
    if line["step"] > 300:
        line |= {"accuracy_real": 1.0, "accuracy_fake": plan.strength}
        line |= {"score_real_S": [0.97, 0.95, 0.99], "score_fake_S": [0.04, 0.02, 0.03]}


def without_null(line: dict[str, Any], rng: np.random.Generator, plan: Plan) -> None:
    line["null_share"] = 0.0


GAN = {"adversary.start": 0}
HEALTHY["a noisy gradient"].change = noisy
DISEASES: dict[str, list[Plan]] = {
    "divergence": [
        *(Plan(change=diverges, strength=s) for s in (0.7, 1.5, 4.0)),
        *(Plan({"train.stages": [{"start": 400, "lr": 9.0}]}, change=forgets, strength=s) for s in (0.7, 0.95)),
    ],
    "late_spike": [
        *(Plan(change=spikes, strength=s) for s in (0.5, 1.0, 3.0)),
        *(Plan(change=skips, strength=s) for s in (1.0, 3.0)),
        *(Plan(change=comes_back_slowly, strength=s) for s in (0.6, 2.0)),
    ],
    "plateau": [
        Plan({"optim.schedule": "constant", "optim.lr": lr}, noise=noise)
        for lr, noise in ((1e-6, 0.04), (1e-6, 0.01), (1e-7, 0.08))
    ]
    + [Plan({"optim.schedule": "constant", "optim.lr": 1e-6, "train.steps": 200})],
    "overfitting": [Plan(change=known, valid=by_heart, strength=s, frames=40_000) for s in (0.3, 1.0, 3.0)],
    "clipped_always": [Plan({"optim.clip": clip}, change=clipped, strength=1.0) for clip in (1e-2, 5e-3, 1e-3)],
    "batch_too_small": [
        Plan({"optim.batch": 1, "optim.accumulate": 2}, change=noisy, strength=s) for s in (20.0, 60.0, 500.0)
    ],
    "data_stall": [Plan(change=waits, strength=s) for s in (0.35, 0.6, 0.9)],
    "recompiles": [Plan(change=compiles, strength=s) for s in (0.4, 1.0, 10.0)],
    "schedule_mismatch": [Plan(change=rises_again, strength=s) for s in (0.5, 0.7, 0.9)],
    "attention_scale": [
        Plan({"model.attention_scale": s, "model.width": 512, "model.heads": 4}) for s in (0.25, 0.5, 1.0)
    ],
    "loss_of_other_targets": [
        *(Plan(valid=harder, strength=s) for s in (0.6, 1.0, 3.0)),
        Plan(valid=grows_apart, strength=0.3, frames=600_000),
    ],
    "no_time_mixing": [Plan(change=blind, valid=blind_too, strength=s, frames=100_000) for s in (-0.2, 0.0, 0.1, 0.3)],
    "discriminator_wins": [Plan(GAN, family="codec", change=wins, strength=s) for s in (0.93, 0.97, 1.0)],
    "guidance_without_null": [
        Plan({"demo.guidance": [s], "data.null_share": 0.0}, change=without_null) for s in (2.0, 3.0, 5.0)
    ],
}
