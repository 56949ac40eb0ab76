"""The `codec` family: learn to code sound. Crops in, codes in the middle, the distance of what comes out as loss."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from partimento import commit
from partimento.audio import files
from partimento.audio.spectra import mel7, si_sdr
from partimento.codecs.measure import usage
from partimento.config import CodecConfig
from partimento.errors import PartimentoError
from partimento.keyed import numpy_rng, permute, torch_generator
from partimento.runs.checkpoint import step_name
from partimento.training.feed import send
from partimento.training.stages import settings_at, stages
from partimento.training.task import Sums, Total, Using, alone
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


class SoundObjective(nn.Module):
    """The autoencoder and the distance of what it makes: (sum over the crops, sums)."""

    def __init__(self, autoencoder: Autoencoder, config: CodecConfig) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.commit_weight = config.model.commit_weight

    def forward(self, wave_BN: Tensor, books_B: Tensor, wave_weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        made = self.autoencoder(wave_BN, books_B)
        with torch.autocast(wave_BN.device.type, enabled=False):
            parts = codec_loss(
                made.wave_BN,
                wave_BN,
                made.commitment,
                SAMPLE_RATE,
                wave_weight=wave_weight,
                commit_weight=self.commit_weight,
            )
        items = torch.full_like(parts.commitment.detach(), len(wave_BN))
        return parts.total_B.sum(), {
            "tokens": items,
            "mel7": parts.mel7_B.detach().sum(),
            "wave_l1": parts.wave_l1_B.detach().sum(),
            "commitment": parts.commitment.detach() * items,
        }


class SoundTask:
    """One side of `training.task.Task`; everything is drawn by (seed, step, micro, item). Raises TRAIN055 (ranks)."""

    score = "mel7"

    def __init__(self, config: CodecConfig, device: torch.device, rank: int = 0, world: int = 1) -> None:
        if world > 1:
            raise PartimentoError(
                "TRAIN055",
                f"the family {config.family!r} trains on one device, not on {world}",
                why="its codebooks move by the statistics of whole batches, which are not gathered over devices",
                next="leave --nproc away",
            )
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
        self.objective = SoundObjective(self.module, config)
        self.sound = gather(config.data, SAMPLE_RATE)
        self.crops = [Crops(self.sound.train, stage.window, config.data.band_share) for stage in stages(config)]
        self.identity: dict[str, Any] = dict(self.sound.identity())
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.description: dict[str, Any] = {"network": network.to_json(), "sample_rate": SAMPLE_RATE}
        self._restarts = 0

    def start(self) -> None:
        """Statistics of the spectra, from crops that no step uses."""
        self.module.set_statistics(self._crops("statistics", STATISTICS_CROPS))

    def batch(self, step: int, micro: int, attempt: int = 0) -> Batch:
        stage, books = settings_at(self.config, step), self.config.model.codebooks
        size, crops = stage.batch, self.crops[stage.number]
        parts = (self.seed, step, micro) if attempt == 0 else (self.seed, step, micro, "attempt", attempt)
        waves = [crops.draw(*parts, item) for item in range(size)]
        rng = numpy_rng("books", *parts)
        # A Bernoulli mask for each item; DAC's first-items rule would leave the last items of every batch whole.
        drawn = np.where(rng.random(size) < self.config.model.book_dropout, rng.integers(1, books + 1, size), books)
        return Batch(torch.from_numpy(np.stack(waves)), torch.from_numpy(drawn), step, micro)

    def inputs(self, batch: Batch) -> tuple[Tensor | None, ...]:
        if batch.micro == 0:
            self.module.quantizer.forget()  # what a skipped step noted
        weight = torch.tensor(self._wave_weight(batch.step))
        return tuple(send(tensor, self.device) for tensor in (batch.wave_BN, batch.books_B, weight))

    def count(self, batch: Batch) -> float:
        return float(len(batch.wave_BN))

    def positions(self, window: int) -> int:
        return window // self.module.config.hop

    def frames(self, window: int) -> float:
        return window / self.module.config.hop

    def figures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: sums[name] / sums["tokens"] for name in ("mel7", "wave_l1", "commitment")}
        return {**found, "restarts": float(self._restarts)}

    def memory(self) -> dict[str, Tensor]:
        return {}

    def remember(self, tensors: Mapping[str, Tensor]) -> None: ...

    def after_step(self, step: int, bad: Tensor, sums: Sums) -> None:
        """Start the codebooks after step start_step, from then on move them by what the step's batches chose."""
        if bool(bad):  # codebooks are moved on the host: this family waits for its device once a step
            return
        quantizer = self.module.quantizer
        if not quantizer.started and step + 1 >= self.config.model.start_step:
            needed = START_ROWS * self.config.model.cardinality
            with torch.no_grad():
                crops = self._crops("k-means", math.ceil(needed / self.frames(self.config.data.crop)))
                latent_BTD = self.module.latent(crops)
            quantizer.start(latent_BTD.flatten(0, 1), torch_generator(self.seed, "k-means"))
            return
        self._restarts = quantizer.update(BOOK_DECAY, DEAD_BELOW, torch_generator(self.seed, "restarts", step))

    def evaluate(self, total: Total = alone) -> dict[str, Any]:
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
        with commit.folder(path) as folder, using(which) as module:
            for recording in self._judged()[:DEMO_RECORDINGS]:
                wave_1N = self._excerpt(recording)
                made = module(wave_1N).wave_BN
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
        waves = [self.crops[0].draw(self.seed, purpose, item) for item in range(number)]
        return torch.from_numpy(np.stack(waves)).to(self.device)

    def _wave_weight(self, step: int) -> float:
        first, last = self.config.model.wave_weight
        progress = step / max(1, self.config.train.steps - 1)
        return first + (last - first) * progress if min(first, last) == 0 else first * (last / first) ** progress
