"""The `restore` family: learn to make a damaged wave whole. Pairs in, the distance of what comes out as loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from partimento import commit
from partimento.audio import files
from partimento.audio.spectra import mel7, si_sdr
from partimento.config import GeneratorModel, RestoreConfig
from partimento.errors import PartimentoError
from partimento.runs.checkpoint import step_name
from partimento.runs.judged import Items
from partimento.training import speed
from partimento.training.feed import send
from partimento.training.restorer import read_folder
from partimento.training.stages import settings_at
from partimento.training.task import ITEMS, Total, Using, alone
from partimento.training.tasks.pairs import Excerpt, Pairs
from partimento.training.tasks.sound import Made, SoundObjective, SoundTask, judges, rival
from partimento.waveform.generators import Generator, GeneratorConfig, make_generator

EXCERPT_SECONDS = 4.0
DEMO_PAIRS = 4


@dataclass(frozen=True)
class Batch:
    """Pairs of crops [B, N], and which micro-batch of which step this is."""

    damaged_BN: Tensor
    target_BN: Tensor
    step: int
    micro: int


class RestoreObjective(SoundObjective):
    def make(self, *given: Tensor | None) -> Made:
        damaged_BN, target_BN = given
        assert damaged_BN is not None and target_BN is not None
        made_BN = self.network(damaged_BN)
        return Made(made_BN, target_BN, made_BN.new_zeros(()), {})


class RestoreTask(SoundTask):
    """One side of `training.task.Task`.

    Raises CODEC006 and PAIRS... (data), AUDIO..., RESTORE... and TRAIN061 (model.weights), TRAIN062 (no such
    network), TRAIN055, TRAIN056 (ranks).
    """

    def __init__(self, config: RestoreConfig, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.pairs = Pairs.open(config.data)
        super().__init__(config, device, rank, world, self.pairs.sample_rate)
        self.config = config
        self.module = generator(config.model)
        network = self.module.config
        self.identity: dict[str, Any] = dict(self.pairs.identity)
        if config.model.weights is not None:
            self._begin_with(Path(config.model.weights), network)
        discriminators = judges(config)
        self.objective = RestoreObjective(self.module, self.sample_rate, config.loss, discriminators)
        self.rival = rival(config, self.objective, discriminators)
        self.description: dict[str, Any] = {
            "generator": network.to_json(),
            "sample_rate": self.sample_rate,
            "task": self.pairs.task,
            "semitones": list(self.pairs.semitones),
            "full_band": self.pairs.full_band,
        }
        if discriminators is not None:
            self.description["adversary_names"] = list(discriminators.names)

    def _begin_with(self, folder: Path, network: GeneratorConfig) -> None:
        theirs, tensors, card = read_folder(folder)
        if theirs != network or card["sample_rate"] != self.sample_rate:
            asked = {**network.to_json(), "sample_rate": self.sample_rate}
            there = {**theirs.to_json(), "sample_rate": card["sample_rate"]}
            others = [f"{name}={value} and not {asked[name]}" for name, value in there.items() if value != asked[name]]
            raise PartimentoError(
                "TRAIN061",
                f"{folder} is another network than the model that is to begin with it",
                where="model.weights",
                why=f"it has {', '.join(others)}",
                next="give model the same settings, and data the same sample_rate (card.json)",
            )
        self.module.load_state_dict(tensors)

    def batch(self, step: int, micro: int, attempt: int = 0) -> Batch:
        crop, parts = settings_at(self.config, step).window, self.parts(step, micro, attempt)
        pairs = [self.pairs.draw(crop, *parts, item) for item in self.items(step)]
        damaged, target = (np.stack([getattr(pair, name) for pair in pairs]) for name in ("damaged_N", "target_N"))
        return Batch(torch.from_numpy(damaged), torch.from_numpy(target), step, micro)

    def inputs(self, batch: Batch) -> tuple[Tensor | None, ...]:
        return send(batch.damaged_BN, self.device), send(batch.target_BN, self.device), *self.weighted(batch.step)

    def count(self, batch: Batch) -> float:
        return float(len(batch.target_BN))

    def flops(self, window: int) -> float | None:
        network = self.module.config
        on_frames = network.net == "spectral" and self.rival is None
        return speed.flops_per_item(self.module, window // network.hop) if on_frames else None

    def frames(self, window: int) -> float:
        """There are no codec frames here: hundredths of a second, so that the log's rate means something."""
        return 100.0 * window / self.sample_rate

    def evaluate(self, total: Total = alone) -> dict[str, Any]:
        """Distances of what is made of held-out pairs, in all and for each shift."""
        judged = self._judged()
        found_IF = torch.zeros(len(judged), 2)
        for number in range(self.rank, len(judged), self.world):
            damaged_1N, target_1N = self._waves(judged[number])
            found_IF[number] = _figures(self.module(damaged_1N), target_1N, self.sample_rate)
        found_IF = total(found_IF)
        return {**_table(judged, found_IF), ITEMS: _items(judged, found_IF)}

    def baselines(self) -> dict[str, Any]:
        """The same of the input as it is: what a restorer has to beat."""
        judged = self._judged()
        found = [_figures(*self._waves(excerpt), self.sample_rate) for excerpt in judged]
        return {f"input_{name}": value for name, value in _table(judged, torch.stack(found)).items()}

    def demos(self, root: Path, step: int, using: Using) -> Path | None:
        """A few held-out pairs, each as it came, as it should be and as it was made (averaged weights, if any)."""
        path = root / step_name(step)
        which = "ema" if self.config.optim.ema > 0 else "raw"
        entries = []
        with commit.folder(path) as folder, using(which) as module:
            for excerpt in self._judged()[:DEMO_PAIRS]:
                damaged_1N, target_1N = self._waves(excerpt)
                stem = f"{Path(excerpt.source).stem}_{excerpt.semitones:+g}".replace(" ", "_")
                waves = {"input": damaged_1N, "output": module(damaged_1N), "target": target_1N}
                for kind, wave_1N in waves.items():
                    name = f"{stem}_{kind}.flac"
                    files.write(folder / name, wave_1N.clamp(-1, 1).cpu().numpy(), self.sample_rate)
                    metrics = {"mel7": float(mel7(wave_1N, target_1N, self.sample_rate))}
                    entry = {"file": name, "kind": kind, "weights": which, "prompt": excerpt.source}
                    entries.append({**entry, "semitones": excerpt.semitones, "metrics": metrics})
            commit.record(folder / "demos.json", {"step": step, "demos": entries})
        return path

    def _judged(self) -> Sequence[Excerpt]:
        """Held-out pairs, at most train.valid_items, always the same ones."""
        return self.pairs.judged(self.config.train.valid_items, EXCERPT_SECONDS)

    def _waves(self, excerpt: Excerpt) -> tuple[Tensor, Tensor]:
        damaged, target = (
            torch.from_numpy(wave)[None].to(self.device) for wave in (excerpt.damaged_N, excerpt.target_N)
        )
        return damaged, target


def generator(model: GeneratorModel) -> Generator:
    """A new network as a configuration describes it; what it leaves open is as the network was designed.

    Raises TRAIN062 (there is no such network).
    """
    given: dict[str, Any] = {name: getattr(model, name) for name in ("width", "strides", "blocks", "stem", "hop")}
    given = {name: tuple(value) if name == "strides" else value for name, value in given.items() if value is not None}
    try:
        return make_generator(GeneratorConfig.of(model.net, residual=model.residual, **given))
    except ValueError as err:
        raise PartimentoError(
            "TRAIN062",
            f"there is no {model.net} network of this shape",
            where="[model]",
            why=str(err),
            next="leave out " + ", ".join(f"model.{name}" for name in given) + ": it is as it was designed then",
        ) from err


def _figures(made_1N: Tensor, target_1N: Tensor, sample_rate: int) -> Tensor:
    """[mel7, SI-SDR in dB] on the host."""
    return torch.cat([mel7(made_1N, target_1N, sample_rate), si_sdr(made_1N, target_1N)]).cpu()


def _items(judged: Sequence[Excerpt], found_IF: Tensor) -> Items:
    """A pair is an item: a recording at one shift, of one source."""
    return Items(
        clips=[f"{excerpt.source} {excerpt.semitones:+g}" for excerpt in judged],
        sources=[excerpt.source for excerpt in judged],
        starts=[0] * len(judged),
        sizes=[1] * len(judged),
        values={"mel7": found_IF[:, 0].tolist(), "si_sdr": found_IF[:, 1].tolist()},
        scale={"mel7": 1.0, "si_sdr": 1.0},
    )


def _table(judged: Sequence[Excerpt], found_IF: Tensor) -> dict[str, Any]:
    """The figures in all (mean; median of the SI-SDR, which silence does not have), and the distance by shift."""
    by_shift: defaultdict[float, list[float]] = defaultdict(list)
    for excerpt, value in zip(judged, found_IF[:, 0].tolist(), strict=True):
        by_shift[excerpt.semitones].append(value)
    return {
        "mel7": float(found_IF[:, 0].mean()),
        "mel7_by_semitones": {f"{shift:+g}": float(np.mean(values)) for shift, values in sorted(by_shift.items())},
        "si_sdr": float(np.nanmedian(found_IF[:, 1].numpy())),
    }
