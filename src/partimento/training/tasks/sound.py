"""What the families that make sound share: the sum of distances, the adversary, and who draws which items.

    inputs -> network -> made [B, N] -> distances to the target, each with its gradient at the wave
                                     -> the adversary's opinion of it, once that plays
    gradient at the wave = their weighted (or balanced) sum -> backward through the network, once

So every part tells how hard it pulls, and no gradient of these parts ever reaches the adversary's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from partimento.config import CodecConfig, SoundConfig, SoundLoss, SoundOptim
from partimento.errors import PartimentoError
from partimento.training.feed import send
from partimento.training.stages import check_shares, settings_at, stages
from partimento.training.task import Rival, Sums, Total, alone
from partimento.waveform.adversarial import accuracy, discriminator_loss, feature_loss, generator_loss, mean_scores
from partimento.waveform.discriminators import AdversaryConfig, Discriminators, audible
from partimento.waveform.losses import combine, distances, pull
from partimento.waveform.ramp import ramp

DISTANCES = ("mel", "stft", "wave", "si_sdr")
OPINIONS = ("adversarial", "features")
NOT_MEANS = ("tokens", "loss", "norm", "steps")  # of the sums
# Of the running gradient norms by which `loss.balance` divides. A longer memory would lag behind an adversary that
# begins, whose gradients grow within some tens of steps.
NORM_DECAY = 0.95


@dataclass(frozen=True)
class Made:
    """What the network made of a batch [B, N], what it should be [B, N], and a loss within the network (0-D, a mean
    over the items), already weighted."""

    wave_BN: Tensor
    target_BN: Tensor
    inner: Tensor
    inner_figures: Mapping[str, Tensor]


class SoundObjective(nn.Module):
    """The network and what its waves are judged by: (sum over the items, sums).

    `forward(*given, weights_P, norms_P)`: what `make` takes; the weights of DISTANCES, and of OPINIONS where the
    adversary plays; and their running gradient norms, of which a zero is not known yet (None: weights are factors).
    """

    def __init__(self, network: nn.Module, sample_rate: int, loss: SoundLoss, judges: Discriminators | None) -> None:
        super().__init__()
        self.network = network
        self.sample_rate = sample_rate
        self.wanted = [name for name in DISTANCES if np.any(np.asarray(getattr(loss, name)) > 0)]
        self.judged = judges is not None
        # Not a submodule: its weights are the other player's, and this one's optimizer must not claim them.
        self._judges = [judges]
        self.kept: Made | None = None

    def make(self, *given: Tensor | None) -> Made:
        """What the network makes of a batch, with gradients."""
        raise NotImplementedError

    def forward(self, *inputs: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        *given, weights_P, norms_P = inputs
        assert weights_P is not None
        made, self.kept = self.kept or self.make(*given), None
        with torch.autocast(made.wave_BN.device.type, enabled=False):
            parts = distances(made.wave_BN, made.target_BN, self.sample_rate, self.wanted)
        if len(weights_P) > len(DISTANCES):
            parts |= self._opinions(made)
        names = list(DISTANCES + OPINIONS)
        weights = {name: weights_P[names.index(name)] for name in parts}
        values = {name: part_B.sum() for name, part_B in parts.items()}
        items = values["mel" if "mel" in values else next(iter(values))].new_tensor(float(len(made.wave_BN)))
        total = torch.stack([weights[name] * values[name] for name in values]).sum()
        sums = {"tokens": items, **{name: value.detach() for name, value in values.items()}}
        if made.wave_BN.requires_grad:
            # A backward pass in here would round the products of the distances' gradients, as forward ones of networks.
            with torch.autocast(made.wave_BN.device.type, enabled=False):
                total, pulls = _through_the_wave(made.wave_BN, values, weights, total, norms_P, names)
            sums |= {f"pull_{name}": norm * items for name, norm in pulls.items()}
        if self.judged:  # the log has one layout, whether the adversary plays already or not
            zero = torch.zeros_like(items)
            for name in OPINIONS:
                sums.setdefault(name, zero)
                sums.setdefault(f"pull_{name}", zero)
            heard = [weights[name] * sums[name] for name in OPINIONS if name in weights]
            sums["opinions"] = torch.stack([zero, *heard]).sum()
        sums |= {name: value.detach() * items for name, value in made.inner_figures.items()}
        return total + made.inner * items, sums

    def _opinions(self, made: Made) -> dict[str, Tensor]:
        judges = self._judges[0]
        assert judges is not None
        with torch.no_grad():
            real = judges(made.target_BN)
        fake = judges(made.wave_BN)
        heard_B = audible(made.target_BN) & audible(made.wave_BN)
        return {
            "adversarial": generator_loss(fake) * heard_B,
            "features": feature_loss(real, fake) * heard_B,
        }


def _through_the_wave(
    wave_BN: Tensor,
    values: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    total: Tensor,
    norms_P: Tensor | None,
    names: Sequence[str],
) -> tuple[Tensor, dict[str, Tensor]]:
    """A scalar with the value of `total` whose gradient at the wave is the combined one, and how hard each part pulls:
    the mean over the items of its weighted gradient's norm."""
    norms = None if norms_P is None else {name: norms_P[names.index(name)] for name in values}
    gradient_BN, found = combine(pull(values, wave_BN), weights, norms)
    through = (wave_BN * gradient_BN).sum()
    return total.detach() + through - through.detach(), {name: weights[name] * found[name] for name in found}


class RivalObjective(nn.Module):
    """The adversary's side: what was made against what is real, (sum over the items, sums).

    Where one pass makes the whole step on one device, the waves are made once, and kept for the other player, whose
    weights do not move in between; else they are made twice.
    """

    def __init__(self, discriminators: Discriminators, objective: SoundObjective, keeps: bool) -> None:
        super().__init__()
        self.discriminators = discriminators
        self._objective = [objective]
        self.keeps = keeps

    def forward(self, *inputs: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        objective = self._objective[0]
        made = self._made(objective, inputs[:-2])
        real, fake = self.discriminators(made.target_BN), self.discriminators(made.wave_BN.detach())
        heard_B = (audible(made.target_BN) & audible(made.wave_BN)).float()
        loss_B = discriminator_loss(real, fake) * heard_B
        real_SB, fake_SB = mean_scores(real).detach(), mean_scores(fake).detach()
        right = accuracy(real_SB, fake_SB)
        items = loss_B.new_tensor(float(len(loss_B)))
        return loss_B.sum(), {
            "tokens": items,
            "heard": heard_B.sum(),
            "score_real_S": (real_SB * heard_B).sum(1),
            "score_fake_S": (fake_SB * heard_B).sum(1),
            "accuracy_real": (right.real_B * heard_B).sum(),
            "accuracy_fake": (right.fake_B * heard_B).sum(),
        }

    def _made(self, objective: SoundObjective, given: Sequence[Tensor | None]) -> Made:
        if self.keeps:
            objective.kept = objective.make(*given)
            return objective.kept
        training = objective.network.training
        objective.network.eval()  # the codec takes notes of what it codes in training, and would take them twice
        with torch.no_grad():
            made = objective.make(*given)
        objective.network.train(training)
        return made

    @staticmethod
    def figures(sums: Mapping[str, Any]) -> dict[str, Any]:
        """Means over the items that were not silent."""
        heard = max(sums["heard"], 1.0)
        names = ("accuracy_real", "accuracy_fake")
        scores = ("score_real_S", "score_fake_S")
        return {
            **{name: sums[name] / heard for name in names},
            **{name: [value / heard for value in sums[name]] for name in scores},
        }


def judges(config: SoundConfig) -> Discriminators | None:
    """The adversary that the configuration describes, if it ever plays. Raises TRAIN060 (crops too short for it)."""
    if config.adversary.start is None:
        return None
    wanted = config.adversary
    found = Discriminators(
        AdversaryConfig(
            tuple(wanted.periods),
            wanted.period_width,
            tuple(wanted.windows),
            wanted.window_width,
            tuple(wanted.rates),
            wanted.rate_width,
        )
    )
    hop = config.model.hop if isinstance(config, CodecConfig) else 1
    for stage in stages(config):
        if stage.window < found.shortest:
            raise PartimentoError(
                "TRAIN060",
                f"a crop of {stage.window} samples is too short for the adversary, which sees {found.shortest} or more",
                where=f"the stage from step {stage.start} on",
                why="its largest window has to be filled, and mirrored at both ends",
                next=f"data.crop={-(-found.shortest // hop) * hop}, or smaller adversary.windows",
            )
    return found


def rival(config: SoundConfig, objective: SoundObjective, discriminators: Discriminators | None) -> Rival | None:
    """The second player of a sound task; what it is not given, it has from the generator."""
    if discriminators is None or config.adversary.start is None:
        return None
    wanted = config.adversary
    given: dict[str, Any] = {
        "name": wanted.optimizer,
        "lr": wanted.lr,
        "muon_lr": wanted.muon_lr,
        "betas": wanted.betas,
    }
    given |= {"weight_decay": wanted.weight_decay, "clip": wanted.clip, "groups": [], "ema": 0.0, "adagc": False}
    update = {name: value for name, value in given.items() if value is not None}
    optim: SoundOptim = config.optim.model_copy(update=update)
    once = config.optim.accumulate == 1 and all(stage.accumulate in (None, 1) for stage in config.train.stages)
    player = RivalObjective(discriminators, objective, keeps=once)
    return Rival(discriminators, player, optim, wanted.start or 0, wanted.every, RivalObjective.figures)


class SoundTask:
    """What the tasks of both families do alike. Everything is drawn by (seed, step, micro, item).

    Raises TRAIN042 (CUDA graphs), TRAIN055 (weights in shares) and TRAIN056 (ranks).
    """

    score = "mel7"
    attentions, directions = 0, ()  # the networks have none

    def __init__(self, config: SoundConfig, device: torch.device, rank: int, world: int, sample_rate: int) -> None:
        if world > 1 and config.train.parallel == "fsdp":
            raise PartimentoError(
                "TRAIN055",
                f"the family {config.family!r} does not train with its weights in shares",
                why="its networks are small and there may be two of them; every device holds them whole",
                next="train.parallel=ddp",
            )
        if config.train.cuda_graphs:
            raise PartimentoError(
                "TRAIN042",
                "forward and backward cannot be recorded as a CUDA graph",
                why=f"in a step of the family {config.family!r} the host decides: what plays, and what the books note",
                next="set train.cuda_graphs=false",
            )
        check_shares(stages(config), world)
        self.settings = config
        self.device, self.rank, self.world = device, rank, world
        self.sample_rate = sample_rate
        self.seed = config.train.seed
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._norms = {name: torch.zeros((), device=device) for name in DISTANCES + OPINIONS}

    objective: SoundObjective
    rival: Rival | None

    def start(self) -> None: ...

    def items(self, step: int) -> range:
        """This rank's items of the micro-batches of a step: the same ones in all, however many ranks there are."""
        share = settings_at(self.settings, step).batch // self.world
        return range(self.rank * share, (self.rank + 1) * share)

    def parts(self, step: int, micro: int, attempt: int) -> tuple[int | str, ...]:
        """The key of a micro-batch."""
        return (self.seed, step, micro) if attempt == 0 else (self.seed, step, micro, "attempt", attempt)

    def weighted(self, step: int) -> tuple[Tensor | None, Tensor | None]:
        """(weights_P, norms_P) of the objective at a step."""
        loss = self.settings.loss
        progress = step / max(1, self.settings.train.steps - 1)
        weights = [ramp(getattr(loss, name), progress) for name in DISTANCES]
        heard = self.rival.ramp(step) if self.rival is not None else 0.0
        if heard > 0:
            weights += [heard * loss.adversarial, heard * loss.features]
        norms_P = torch.stack(list(self._norms.values())) if loss.balance else None
        return send(torch.tensor(weights, dtype=torch.float32), self.device), norms_P

    def figures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Means over the items of everything that was summed."""
        found = {name: value / sums["tokens"] for name, value in sums.items() if name not in NOT_MEANS}
        return {"mel7" if name == "mel" else name: value for name, value in found.items()}

    def unreached(self) -> dict[str, str]:
        return {}

    def memory(self) -> dict[str, Tensor]:
        return {f"norm_{name}": norm for name, norm in self._norms.items()} if self.settings.loss.balance else {}

    def remember(self, tensors: Mapping[str, Tensor]) -> None:
        for name, norm in self._norms.items() if self.settings.loss.balance else ():
            norm.copy_(tensors[f"norm_{name}"])

    def after_step(self, step: int, bad: Tensor, sums: Sums, total: Total = alone) -> None:
        if not self.settings.loss.balance:
            return
        weights_P, _ = self.weighted(step)
        assert weights_P is not None
        for place, (name, norm) in enumerate(self._norms.items()):
            if f"pull_{name}" in sums and place < len(weights_P):
                seen = sums[f"pull_{name}"] / sums["tokens"] / weights_P[place].clamp(min=1e-12)
                moved = torch.where(norm > 0, torch.lerp(seen, norm, NORM_DECAY), seen)
                norm.copy_(torch.where(bad, norm, moved))
