"""The `codec` family: learn to code sound. Crops in, codes in the middle, the distance of what comes out as loss."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from partimento import commit
from partimento.audio import files
from partimento.audio.spectra import mel7, si_sdr
from partimento.codecs.resident import start_from
from partimento.config import AutoencoderModel, CodecConfig
from partimento.errors import PartimentoError
from partimento.keyed import numpy_rng, permute, torch_generator
from partimento.runs.checkpoint import step_name
from partimento.runs.judged import Items
from partimento.tokens import entropy
from partimento.training import speed
from partimento.training.feed import send
from partimento.training.stages import settings_at, stages
from partimento.training.task import ITEMS, Sums, Total, Using, alone
from partimento.training.tasks.crops import Crops, Recording, gather
from partimento.training.tasks.sound import Made, SoundObjective, SoundTask, judges, rival
from partimento.waveform.autoencoder import Autoencoder, AutoencoderConfig

BOOK_DECAY = 0.99
DEAD_BELOW = 0.03  # of the uniform share
START_ROWS = 6  # latents for each code in the k-means that starts the books
STATISTICS_CROPS = 160
EXCERPT_SECONDS = 6.0
DEMO_RECORDINGS = 4


@dataclass(frozen=True)
class Batch:
    """Crops [B, N], how many codebooks each is given [B], and which micro-batch of which step this is."""

    wave_BN: Tensor
    books_B: Tensor
    step: int
    micro: int


class CodecObjective(SoundObjective):
    """Make: through the autoencoder and back. The commitment is the loss within it."""

    network: Autoencoder
    commit = 0.0

    def make(self, *given: Tensor | None) -> Made:
        wave_BN, books_B = given
        assert wave_BN is not None
        made = self.network(wave_BN, books_B)
        figures = {"commitment": made.commitment.detach()}
        return Made(made.wave_BN, wave_BN, self.commit * made.commitment, figures)


class CodecTask(SoundTask):
    """One side of `training.task.Task`.

    Raises CODEC006 and AUDIO... (data), CODEC002 and CODEC040 (model.weights), TRAIN055 and TRAIN056 (ranks).
    """

    def __init__(self, config: CodecConfig, device: torch.device, rank: int = 0, world: int = 1) -> None:
        super().__init__(config, device, rank, world, config.model.sample_rate)
        self.config = config
        network = network_config(config.model)
        self.module = Autoencoder(network)
        self.description: dict[str, Any] = {"network": network.to_json(), "sample_rate": self.sample_rate}
        self.sound = gather(config.data, self.sample_rate)
        self.identity: dict[str, Any] = dict(self.sound.identity())
        if config.model.weights is not None:
            found = start_from(self.module, config.model.weights, freeze_codes=config.model.freeze_codes)
            if config.model.freeze_codes:  # the checkpoints do not hold what is frozen
                self.description["base"] = self.identity["codes"] = found.weights
        discriminators = judges(config)
        self.objective = CodecObjective(self.module, self.sample_rate, config.loss, discriminators)
        self.objective.commit = 0.0 if config.model.freeze_codes else config.loss.commit
        self.rival = rival(config, self.objective, discriminators)
        if discriminators is not None:
            self.description["adversary_names"] = list(discriminators.names)
        self.crops = [Crops(self.sound.train, stage.window, config.data.shares) for stage in stages(config)]
        self._restarts = 0

    def start(self) -> None:
        """Statistics of the spectra, where they did not come with weights, from crops that no step uses."""
        try:
            self.module.set_statistics(self._crops("statistics", STATISTICS_CROPS))
        except ValueError as err:
            raise PartimentoError(
                "CODEC021",
                "the recordings to train on are silent",
                where=", ".join(self.config.data.folders),
                why=str(err),
                next="partimento codec check FILES says how loud they are",
            ) from err

    def batch(self, step: int, micro: int, attempt: int = 0) -> Batch:
        books = self.config.model.codebooks
        stage, items, parts = settings_at(self.config, step), self.items(step), self.parts(step, micro, attempt)
        crops, size = self.crops[stage.number], stage.batch
        waves = [crops.draw(*parts, item) for item in items]
        rng = numpy_rng("books", *parts)
        # A Bernoulli mask for each item; DAC's first-items rule would leave the last items of every batch whole.
        drawn = np.where(rng.random(size) < self.config.model.book_dropout, rng.integers(1, books + 1, size), books)
        books_B = torch.from_numpy(drawn[items.start : items.stop])
        return Batch(torch.from_numpy(np.stack(waves)), books_B, step, micro)

    def inputs(self, batch: Batch) -> tuple[Tensor | None, ...]:
        return send(batch.wave_BN, self.device), send(batch.books_B, self.device), *self.weighted(batch.step)

    def count(self, batch: Batch) -> float:
        return float(len(batch.wave_BN))

    def flops(self, window: int) -> float | None:
        network = self.module.config
        on_samples = "dac" in (network.encoder, network.decoder)
        known = not on_samples and self.rival is None
        return speed.flops_per_item(self.module, window // network.hop) if known else None

    def frames(self, window: int) -> float:
        return window / self.module.config.hop

    def figures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        found = {**super().figures(sums), "restarts": float(self._restarts)}
        if self.module.quantizer.started and not self.config.model.freeze_codes:
            found["running_entropy_bits_K"] = self.module.quantizer.usage(DEAD_BELOW).entropy_K
        return found

    def after_step(self, step: int, bad: Tensor, sums: Sums, total: Total = alone) -> None:
        """Start the codebooks after step start_step, from then on move them by what the step's batches chose."""
        super().after_step(step, bad, sums)
        quantizer = self.module.quantizer
        if self.config.model.freeze_codes or bool(bad):  # codebooks are moved on the host, which waits for its device
            quantizer.forget()
            return
        if not quantizer.started and step + 1 >= self.config.model.start_step:
            needed = START_ROWS * self.config.model.cardinality
            with torch.no_grad():
                crops = self._crops("k-means", math.ceil(needed / self.frames(self.config.data.crop)))
                latent_BTD = self.module.latent(crops)
            generator = torch_generator(self.seed, "k-means")
            quantizer.start(latent_BTD.flatten(0, 1), generator, total=total, rank=self.rank)
            return
        generator = torch_generator(self.seed, "restarts", step)
        self._restarts = quantizer.update(BOOK_DECAY, DEAD_BELOW, generator, total, self.rank, self.world)

    def evaluate(self, total: Total = alone) -> dict[str, Any]:
        """Distances over the first seconds of held-out recordings (means over the kinds), and use of the codebooks."""
        judged, books, V = self._judged(), self.config.model.codebooks, self.config.model.cardinality
        found_IF = torch.zeros(len(judged), 2)
        count_KV = torch.zeros(books, V)
        for number in range(self.rank, len(judged), self.world):
            wave_1N = self._excerpt(judged[number])
            made = self.module(wave_1N)
            values = (mel7(made.wave_BN, wave_1N, self.sample_rate), si_sdr(made.wave_BN, wave_1N))
            found_IF[number] = torch.cat(values).cpu()
            count_KV += torch.from_numpy(entropy.counts(made.codes_BTK[0].cpu().numpy(), V))
        found_IF, count_KV = total(found_IF), total(count_KV)
        by_kind: defaultdict[str, list[float]] = defaultdict(list)
        for recording, value in zip(judged, found_IF[:, 0].tolist(), strict=True):
            by_kind[recording.kind].append(value)
        means = {kind: float(np.mean(values)) for kind, values in sorted(by_kind.items())}
        return {
            "mel7": float(np.mean(list(means.values()))),
            "mel7_by_kind": means,
            "si_sdr": float(np.nanmedian(found_IF[:, 1].numpy())),
            "book_entropy_bits_K": (entropy.entropy(count_KV) / math.log(2)).tolist(),
            "book_used_K": entropy.coverage(count_KV).tolist(),
            ITEMS: Items(
                clips=[recording.source for recording in judged],
                sources=[recording.group for recording in judged],
                starts=[0] * len(judged),
                sizes=[1] * len(judged),
                values={"mel7": found_IF[:, 0].tolist(), "si_sdr": found_IF[:, 1].tolist()},
                scale={"mel7": 1.0, "si_sdr": 1.0},
            ),
        }

    def baselines(self) -> dict[str, Any]:
        return {}

    def demos(self, root: Path, step: int, using: Using) -> Path | None:
        """A few held-out excerpts beside what the codec (averaged weights, if there are any) makes of them."""
        path = root / step_name(step)
        which = "ema" if self.config.optim.ema > 0 else "raw"
        entries = []
        with commit.folder(path) as folder, using(which) as module:
            for recording in self._judged()[:DEMO_RECORDINGS]:
                wave_1N = self._excerpt(recording)
                made = module(wave_1N).wave_BN
                stem = f"{recording.kind}_{Path(recording.source).stem}".replace(" ", "_")
                for kind, wave in (("original", wave_1N), ("reconstruction", made)):
                    name = f"{stem}_{kind}.flac"
                    files.write(folder / name, wave.clamp(-1, 1).cpu().numpy(), self.sample_rate)
                    entries.append({"file": name, "kind": kind, "weights": which, "prompt": recording.source})
            commit.record(folder / "demos.json", {"step": step, "demos": entries})
        return path

    def _judged(self) -> list[Recording]:
        """Held-out recordings in an order that mixes the kinds, at most train.valid_items, always the same."""
        held_out = self.sound.held_out
        order = [permute(index, len(held_out), "judged") for index in range(len(held_out))]
        return [held_out[index] for index in order[: self.config.train.valid_items]]

    def _excerpt(self, recording: Recording) -> Tensor:
        return torch.from_numpy(recording.wave_N[: round(EXCERPT_SECONDS * self.sample_rate)])[None].to(self.device)

    def _crops(self, purpose: str, number: int) -> Tensor:
        waves = [self.crops[0].draw(self.seed, purpose, item) for item in range(number)]
        return torch.from_numpy(np.stack(waves)).to(self.device)


def network_config(model: AutoencoderModel) -> AutoencoderConfig:
    """The network that a configuration describes: its fields of the same names. Raises CODEC042 if it cannot be."""
    try:
        return AutoencoderConfig(**{one.name: getattr(model, one.name) for one in fields(AutoencoderConfig)})
    except ValueError as err:
        raise PartimentoError(
            "CODEC042",
            "there is no network of these sizes",
            where="[model]",
            why=str(err),
            next="model.hop=512 model.width=256 fit all networks",
        ) from err
