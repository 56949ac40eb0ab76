"""The `codec` family: learn to code sound. Crops in, codes in the middle, the distance of what comes out as loss."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from partimento import commit
from partimento.audio import files
from partimento.audio.spectra import mel7, si_sdr
from partimento.codecs.measure import usage
from partimento.config import CodecConfig
from partimento.keyed import numpy_rng, permute, torch_generator
from partimento.runs.checkpoint import step_name
from partimento.training.task import Facts, Using
from partimento.training.tasks.crops import Crops, Recording, gather
from partimento.waveform.autoencoder import Autoencoder, AutoencoderConfig
from partimento.waveform.losses import codec_loss

SAMPLE_RATE = 44100
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


class SoundTask:
    """One side of `training.task.Task`; everything is drawn by (seed, step, micro, item)."""

    score = "mel7"

    def __init__(self, config: CodecConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.seed = config.train.seed
        model = config.model
        network = AutoencoderConfig(
            width=model.width,
            expansion=model.expansion,
            encoder_layers=model.encoder_layers,
            decoder_layers=model.decoder_layers,
            latent=model.latent,
            codebooks=model.codebooks,
            cardinality=model.cardinality,
        )
        self.module = Autoencoder(network)
        self.sound = gather(config.data, SAMPLE_RATE)
        self.crops = Crops(self.sound.train, config.data.crop, config.data.band_share)
        self.identity: dict[str, Any] = dict(self.sound.identity())
        self.history: list[dict[str, Any]] = []
        self.description: dict[str, Any] = {"network": network.to_json(), "sample_rate": SAMPLE_RATE}
        self.item_frames = config.data.crop // network.hop
        self._restarts = 0

    def start(self) -> None:
        """Statistics of the spectra, from crops that no step uses."""
        self.module.set_statistics(self._crops("statistics", STATISTICS_CROPS))

    def batch(self, step: int, micro: int) -> Batch:
        size, books = self.config.optim.batch, self.config.model.codebooks
        waves = [self.crops.draw(self.seed, step, micro, item) for item in range(size)]
        rng = numpy_rng("books", self.seed, step, micro)
        # A Bernoulli mask for each item; DAC's first-items rule would leave the last items of every batch whole.
        drawn = np.where(rng.random(size) < self.config.model.book_dropout, rng.integers(1, books + 1, size), books)
        return Batch(
            torch.from_numpy(np.stack(waves)).to(self.device), torch.from_numpy(drawn).to(self.device), step, micro
        )

    def count(self, batch: Batch) -> float:
        return float(len(batch.wave_BN))

    def loss(self, batch: Batch) -> tuple[Tensor, Facts]:
        if batch.micro == 0:
            self.module.quantizer.forget()  # what a skipped step noted
        made = self.module(batch.wave_BN, batch.books_B)
        with torch.autocast(self.device.type, enabled=False):
            parts = codec_loss(
                made.wave_BN,
                batch.wave_BN,
                made.commitment,
                SAMPLE_RATE,
                wave_weight=self._wave_weight(batch.step),
                commit_weight=self.config.model.commit_weight,
            )
        facts: dict[str, Tensor | float] = {
            "mel7": parts.mel7_B.mean().detach(),
            "wave_l1": parts.wave_l1_B.mean().detach(),
            "commitment": parts.commitment.detach(),
            "restarts": float(self._restarts),
        }
        return parts.total_B.sum(), facts

    def after_step(self, step: int) -> None:
        """Start the codebooks after step start_step, from then on move them by what the step's batches chose."""
        quantizer = self.module.quantizer
        if not quantizer.started and step + 1 >= self.config.model.start_step:
            needed = START_ROWS * self.config.model.cardinality
            with torch.no_grad():
                latent_BTD = self.module.latent(self._crops("k-means", -(-needed // self.item_frames)))
            quantizer.start(latent_BTD.flatten(0, 1), torch_generator(self.seed, "k-means"))
            return
        self._restarts = quantizer.update(BOOK_DECAY, DEAD_BELOW, torch_generator(self.seed, "restarts", step))

    def evaluate(self) -> dict[str, Any]:
        """Distances over the first seconds of held-out recordings (means over the kinds), and use of the codebooks."""
        distances: defaultdict[str, list[float]] = defaultdict(list)
        ratios: list[float] = []
        codes: list[np.ndarray] = []
        for recording in self._judged():
            wave_1N = self._excerpt(recording)
            made = self.module(wave_1N)
            distances[recording.kind].append(float(mel7(made.wave_BN, wave_1N, SAMPLE_RATE)))
            ratios.append(float(si_sdr(made.wave_BN, wave_1N)))
            codes.append(made.codes_BTK[0].cpu().numpy())
        by_kind = {kind: float(np.mean(values)) for kind, values in sorted(distances.items())}
        entropy_K, used_K = usage(np.concatenate(codes), [self.config.model.cardinality] * self.config.model.codebooks)
        return {
            "mel7": float(np.mean(list(by_kind.values()))),
            "mel7_by_kind": by_kind,
            "si_sdr": float(np.nanmedian(ratios)),
            "book_entropy_bits_K": entropy_K,
            "book_used_K": used_K,
        }

    def baselines(self) -> dict[str, Any]:
        return {}

    def demos(self, root: Path, step: int, using: Using) -> Path | None:
        """A few held-out excerpts beside what the codec (averaged weights, if there are any) makes of them."""
        path = root / step_name(step)
        which = "ema" if self.config.optim.ema > 0 else "raw"
        entries = []
        with commit.folder(path) as folder, using(which):
            for recording in self._judged()[:DEMO_RECORDINGS]:
                wave_1N = self._excerpt(recording)
                made = self.module(wave_1N).wave_BN
                stem = f"{recording.kind}_{Path(recording.source).stem}"
                for kind, wave in (("original", wave_1N), ("reconstruction", made)):
                    name = f"{stem}_{kind}.flac"
                    files.write(folder / name, wave.clamp(-1, 1).cpu().numpy(), SAMPLE_RATE)
                    entries.append({"file": name, "kind": kind, "weights": which, "prompt": recording.source})
            commit.record(folder / "demos.json", {"step": step, "demos": entries})
        return path

    def _judged(self) -> list[Recording]:
        """Held-out recordings in an order that mixes the kinds, at most train.valid_items, always the same."""
        held_out = self.sound.held_out
        order = [permute(index, len(held_out), "judged") for index in range(len(held_out))]
        return [held_out[index] for index in order[: self.config.train.valid_items]]

    def _excerpt(self, recording: Recording) -> Tensor:
        return torch.from_numpy(recording.wave_N[: round(EXCERPT_SECONDS * SAMPLE_RATE)])[None].to(self.device)

    def _crops(self, purpose: str, number: int) -> Tensor:
        waves = [self.crops.draw(self.seed, purpose, item) for item in range(number)]
        return torch.from_numpy(np.stack(waves)).to(self.device)

    def _wave_weight(self, step: int) -> float:
        first, last = self.config.model.wave_weight
        progress = step / max(1, self.config.train.steps - 1)
        return first + (last - first) * progress if min(first, last) == 0 else first * (last / first) ** progress
