"""Checks of the families that make sound: recordings, pairs in time, crops, the network's beginning, two players."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from partimento.config import RestoreConfig
from partimento.keyed import torch_generator
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some, warned
from partimento.training.stages import stages
from partimento.training.task import Rival
from partimento.training.tasks.codec import CodecTask
from partimento.training.tasks.crops import Recording
from partimento.training.tasks.restore import RestoreTask
from partimento.training.tasks.sound import SoundTask
from partimento.waveform.discriminators import audible

MEL_WINDOW = 2048  # the longest of the mel distance; a crop under twice that is mostly edge
FRAME = 0.001  # seconds of an envelope's step
FARTHEST = 0.3  # seconds in which a delay is looked for
LATE = 0.02  # seconds by which a pair may be out of time: a shifter smears onsets by up to 8 ms at an octave
EXCERPTS, EXCERPT_SECONDS = 16, 4.0
CROPS = 48
SILENT_SHARE = 0.3
AS_IT_CAME = 1e-6  # by which a network that is to begin as the identity may be off


def _task(bench: Bench) -> SoundTask | None:
    return bench.task if isinstance(bench.task, SoundTask) else None


def _sides(task: SoundTask) -> tuple[Sequence[Recording], Sequence[Recording]]:
    """(to train on, held out)."""
    if isinstance(task, RestoreTask):
        source = task.pairs._source
        return source.recordings("train"), source.recordings("held_out")
    assert isinstance(task, CodecTask)
    return task.sound.train, task.sound.held_out


def recordings_apart(bench: Bench) -> Check:
    """No group and no recording stands on both sides of the split. (For `data.splits_apart`.)"""
    task = _task(bench)
    assert task is not None
    train, held_out = _sides(task)
    for what, of in (("group", lambda one: one.group), ("recording (equal sha256)", lambda one: one.sha256)):
        if both := {of(one) for one in train} & {of(one) for one in held_out}:
            names = sorted({one.source for one in held_out if of(one) in both})
            found = f"{len(names)} held-out recordings are of a {what} that is trained on: {some(names)}"
            return failed("splits", found, "remove the copies; the split goes by hashed name (data.group)")
    if len(held_out) < 3:
        found = f"{len(train)} recordings to train on, {len(held_out)} held out"
        return warned("splits", found, "more recordings, so that more than chance is judged")
    return passed("splits", f"{len(train)} recordings to train on, {len(held_out)} held out; none in common")


def crops_heard(bench: Bench) -> Check:
    """Most crops are loud enough to be judged. (For `data.silence_share`.)"""
    task = _task(bench)
    assert task is not None
    target = 1 if isinstance(task, RestoreTask) else 0
    waves = [bench.task.inputs(bench.batch(number))[target] for number in range(CROPS)]
    targets_BN = torch.cat([wave for wave in waves if wave is not None])
    share = 1 - float(audible(targets_BN).float().mean())
    found = f"{100 * share:.0f} % of {len(targets_BN)} crops are silent (under -60 dBFS)"
    if share > SILENT_SHARE:
        return warned("silence", found, "cut long silences out of the recordings, or a longer data.crop")
    return passed("silence", found)


def crops_long(bench: Bench) -> Check:
    """Crops are long enough for the distances. (That discriminators can see them is asked where the task is made.)"""
    task = _task(bench)
    if task is None:
        return skipped("length", "asked of sound")
    crop = min(stage.window for stage in stages(bench.config))
    found = f"{crop} samples, {1000 * crop / task.sample_rate:.0f} ms"
    if crop < 2 * MEL_WINDOW:
        return warned("length", f"{found}; the longest window of the mel distance is {MEL_WINDOW}", "data.crop=16384")
    multiple = task.module.multiple if isinstance(task, RestoreTask) else 1  # a codec's is checked where it is read
    if over := crop % multiple:
        remedy = f"data.crop={crop - over + multiple}"
        return warned("length", f"{found}; the network works in steps of {multiple}", remedy)
    return passed("length", found)


def pairs_in_time(bench: Bench) -> Check:
    """What was damaged is in time with its target: loudness rises and falls at the same places."""
    task = bench.task
    if not isinstance(task, RestoreTask):
        return skipped("delay", "asked of pairs")
    delays: dict[float, list[float]] = {}
    for excerpt in task.pairs.judged(EXCERPTS, EXCERPT_SECONDS):
        delay = _delay(excerpt.damaged_N, excerpt.target_N, task.sample_rate)
        if delay is not None:
            delays.setdefault(excerpt.semitones, []).append(delay)
    if not delays:
        return skipped("delay", "the held-out excerpts are silent, or too short to tell")
    medians = {shift: float(np.median(values)) for shift, values in delays.items()}
    worst = max(medians, key=lambda shift: abs(medians[shift]))
    found = f"at most {1000 * abs(medians[worst]):.1f} ms, at {worst:+g} semitones"
    if abs(medians[worst]) > LATE:
        side = "after" if medians[worst] > 0 else "before"
        found = f"what was shifted by {worst:+g} semitones comes {1000 * abs(medians[worst]):.0f} ms {side} its target"
        return failed("delay", found, "make the pairs again; the delay of the shifter is not compensated (audio.shift)")
    return passed("delay", found)


def _delay(damaged_N: NDArray[np.float32], target_N: NDArray[np.float32], sample_rate: int) -> float | None:
    """Seconds by which the damaged one is late, by the rises of its loudness; None where there are none."""
    hop = max(1, round(FRAME * sample_rate))
    rises = []
    for wave_N in (damaged_N, target_N):
        frames = len(wave_N) // hop
        energy_T = np.square(wave_N[: frames * hop].reshape(frames, hop).astype(np.float64)).mean(1)
        smooth_T = np.convolve(energy_T, np.ones(5) / 5, "same")
        rises.append(np.maximum(0, np.diff(np.log(smooth_T + 1e-6))))
    late_T, on_time_T = (rise - rise.mean() for rise in rises)
    lags = min(round(FARTHEST / FRAME), len(on_time_T) // 4)
    if lags * FRAME < 2 * LATE or not on_time_T.any() or not late_T.any():
        return None
    inner = slice(lags, len(on_time_T) - lags)
    products = [
        float(late_T[inner.start + lag : inner.stop + lag] @ on_time_T[inner]) for lag in range(-lags, lags + 1)
    ]
    return (int(np.argmax(products)) - lags) * hop / sample_rate


def begins_as_identity(bench: Bench) -> Check:
    """A network that makes what is added to its input begins by adding nothing."""
    config = bench.config
    if not isinstance(config, RestoreConfig):
        return skipped("identity", "asked of restorers")
    if not config.model.residual or config.model.weights:
        return skipped("identity", "the network makes its output anew, or has learned before")
    damaged_BN = bench.task.inputs(bench.batch(0))[0]
    assert damaged_BN is not None
    with torch.no_grad():
        made_BN = bench.task.module(damaged_BN)
    if made_BN.shape != damaged_BN.shape:
        return failed("identity", f"{list(damaged_BN.shape)} becomes {list(made_BN.shape)}", "undo the change")
    off = float((made_BN - damaged_BN).abs().max())
    if off > AS_IT_CAME:
        found = f"before the first step the output is off its input by up to {off:.2g}"
        return failed("identity", found, "the last layer has to begin with zeros, and the input to be added as it is")
    return passed("identity", "before the first step the output is the input")


@contextmanager
def awake(module: nn.Module) -> Iterator[None]:
    """Weights that begin with zeros have small noise in them instead: what lies before them gets no gradient else."""
    asleep = [weight for weight in module.parameters() if weight.requires_grad and not bool(weight.any())]
    generator = torch_generator("preflight", "awake")
    with torch.no_grad():
        for weight in asleep:
            weight.copy_(1e-3 * torch.randn(weight.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight in asleep:
                weight.zero_()


def players_apart(bench: Bench) -> Check:
    """Each player's loss moves its own weights, all of them, and none of the other's."""
    task = _task(bench)
    if task is None or task.rival is None:
        return skipped("players", "there is one")
    try:
        return _apart(bench, task.rival)
    finally:
        task.objective.kept = None  # what the adversary's pass made for the network's


def _apart(bench: Bench, rival: Rival) -> Check:
    task = bench.task
    first = {f"network {name}": weight for name, weight in task.module.named_parameters() if weight.requires_grad}
    second = {f"adversary {name}": weight for name, weight in rival.module.named_parameters()}
    rival.objective.to(bench.device).train()
    batch = task.batch(min(rival.start, bench.config.train.steps - 1), 0)
    for who, objective, own, others in (
        ("the adversary", rival.objective, second, first),
        ("the network", task.objective, first, second),
    ):
        for weight in (*first.values(), *second.values()):
            weight.grad = None
        total, sums = objective(*task.inputs(batch))
        (total / sums["tokens"]).backward()
        moved = sorted(name for name, weight in others.items() if weight.grad is not None and bool(weight.grad.any()))
        still = sorted(name for name, weight in own.items() if weight.grad is None or not bool(weight.grad.any()))
        for weight in (*first.values(), *second.values()):
            weight.grad = None
        if moved:
            return failed("players", f"the loss of {who} moves {some(moved)}", "detach what the other player made")
        if who == "the adversary" and still:
            return failed("players", f"the loss of {who} does not move {some(still)}", "undo the change of its loss")
    count = sum(weight.numel() for weight in second.values())
    return passed("players", f"{len(second)} parameters of the adversary ({count / 1e6:.2f} M), none in common")
