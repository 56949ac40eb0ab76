"""The task of the `rvq` family: a decoder learns the codes of a pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from partimento.codecs.codec import open_like
from partimento.config import RvqConfig
from partimento.errors import PartimentoError
from partimento.keyed import key
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.tokens import counting
from partimento.tokens.draw import Batch, Draw, Item
from partimento.tokens.licence import Allowed
from partimento.tokens.pack import Pack
from partimento.tokens.patterns import Pattern
from partimento.tokens.select import Selection
from partimento.tokens.spec import Specials
from partimento.training.balance import Balance
from partimento.training.demos import Demos
from partimento.training.feed import send
from partimento.training.objective import CodesObjective
from partimento.training.player import Player
from partimento.training.stages import Settings, settings_at, stages
from partimento.training.task import Sums, Total, Using, alone


class CodesTask:
    """See `training.task.Task`. The score is the bits per second of audio of the held-out windows.

    Raises PACK... (pack, window), TOKEN003 (a tag of `demo.tags` that the pack does not have),
    SAMPLE005 (demos without tags of a model that never drops its condition), CODEC... and TRAIN007
    (the codec of the demos), TRAIN056 (a batch that the ranks cannot share).
    """

    score = "bits_per_second"

    def __init__(self, config: RvqConfig, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.config, self.device, self.rank, self.world = config, device, rank, world
        self.stages = stages(config)
        _check_shares(self.stages, world)
        self.pack = Pack.open(config.data.pack, corrupt_budget=config.data.corrupt_budget)
        spec, model = self.pack.spec, config.model
        self.pattern = Pattern.named(model.pattern, spec.codebooks)
        self.specials = Specials.after(spec.cardinality)
        self.selection = selection_of(config)
        self.draws = [self._draw(stage) for stage in self.stages]
        self.train = self.draws[0]
        self.window = max(stage.window for stage in self.stages)
        valid = Draw(
            self.pack, self.pattern, self.specials, split="valid", window=self.window, selection=self.selection
        )
        held_out = valid.fixed(config.train.valid_items)
        self._valid_targets = valid.targets(held_out)
        # The longest windows in the smallest batch: a validation holds all logits, and is not to need more memory
        # than the training for being in another stage.
        self._valid_batch = min(stage.batch for stage in self.stages)
        self.valid = [self._share(valid.collate(items)) for items in _groups(held_out, self._valid_batch)]

        vocabulary = self.train.tag_vocabulary if model.tags else []
        self.module = CodeDecoder(
            decoder_config(config, self.pack, self.specials, tags=len(vocabulary), positions=self.window)
        )
        self.objective = CodesObjective(self.module, spec.cardinality, config.loss)
        self.balance = Balance(config.loss, spec.codebooks, spec.cardinality, device)
        self.player = Player(
            self.module,
            spec,
            self.pattern,
            self.specials,
            tuple(vocabulary),
            self.window,
            self.train.expected_null_share,
        )
        self.player.require(config.demo.tags if config.demo.temperatures else vocabulary)
        self.identity: dict[str, Any] = {
            "fingerprint": self.pack.fingerprint,
            "codec": spec.codec,
            "codec_weights": spec.weights,
        }
        self.history = self.pack.history
        if self.selection is not None:
            self.identity["selection"] = self.selection.to_json()
        self.description = self.player.description()
        self._demos = self._open_demos(held_out)

    def _draw(self, stage: Settings) -> Draw:
        data = self.config.data
        return Draw(
            self.pack,
            self.pattern,
            self.specials,
            split="train",
            window=stage.window,
            # The first stage has the plain key; a later one draws its own windows.
            seed=self.config.train.seed if stage.number == 0 else key(self.config.train.seed, "stage", stage.number),
            null_share=data.null_share,
            tag_dropout=data.tag_dropout,
            tag_shuffle=data.tag_shuffle,
            tag_limit=data.tag_limit,
            selection=self.selection,
        )

    def _open_demos(self, held_out: Sequence[Item]) -> Demos | None:
        """What plays the demos, made before the training begins, so that a missing codec is told then."""
        if not self.config.demo.temperatures:
            return None
        try:
            codec = open_like(self.pack.spec, name=self.config.data.codec)
        except PartimentoError as err:
            raise PartimentoError(
                "TRAIN007",
                "the demos need the codec of the pack, which cannot be opened",
                where=str(self.pack.path),
                why=f"{err.code}: {err.message}" + (f" ({err.why})" if err.why else ""),
                next="name it: data.codec=FOLDER; or train without demos: demo.temperatures=[]",
            ) from err
        return Demos(self.config, self.pack, self.player, codec, np.unique([item.clip for item in held_out]))

    def start(self) -> None: ...

    def batch(self, step: int, micro: int, attempt: int = 0) -> Batch:
        stage = settings_at(self.config, step)
        # Another attempt goes on where no step of this stage has been.
        place = step - stage.start + attempt * self.config.train.steps
        return self.draws[stage.number].step(
            place, micro, batch_size=stage.batch, accumulate=stage.accumulate, rank=self.rank, world=self.world
        )

    def inputs(self, batch: Batch) -> tuple[Tensor | None, ...]:
        grid_BSK, tags_BG, keep_B = (
            send(tensor, self.device) for tensor in (batch.grid_BSK, batch.tags_BG, batch.keep_B)
        )
        weighted = self.config.loss.codebook_weights != "equal"
        return grid_BSK, tags_BG, keep_B, self.balance.weights_K() if weighted else None

    def count(self, batch: Batch) -> float:
        return int((batch.grid_BSK[:, 1:] < self.module.config.outputs).sum())

    def positions(self, window: int) -> int:
        return window

    def frames(self, window: int) -> float:
        return window / self.pattern.stride

    def figures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "ce_K": [ce / count if count else None for ce, count in zip(sums["ce_K"], sums["count_K"], strict=True)],
        }
        if self.module.condition is not None:
            found["null_share"] = sums["null_items"] / sums["items"]
        if self.config.loss.codebook_weights == "learned":
            found["weights_K"] = self.balance.weights_K().tolist()
        if self.train.corrupt:
            found["corrupt_clips"] = len(self.train.corrupt)
        return found

    def after_step(self, step: int, bad: Tensor, sums: Sums) -> None:
        self.balance.update(sums["ce_K"], sums["count_K"], bad)

    def memory(self) -> dict[str, Tensor]:
        return self.balance.state()

    def remember(self, tensors: Mapping[str, Tensor]) -> None:
        self.balance.load(tensors)

    def evaluate(self, total: Total = alone) -> dict[str, Any]:
        """Plain cross entropy of the real codes, nats a book, over fixed windows; EOS apart; the output's entropy."""
        names = ("ce_K", "entropy_K", "count_K", "eos", "eos_count")
        found = [self.objective(*self.inputs(batch))[1] for batch in self.valid]
        added = [torch.stack([sums[name] for sums in found]).sum(0).reshape(-1) for name in names]
        flat = total(torch.cat(added)).cpu().double()  # one reduction, one transfer
        ce_K, entropy_K, count_K, eos, eos_count = flat.split([len(part) for part in added])
        ce_K = ce_K / count_K
        return {
            "ce_K": ce_K.tolist(),
            "eos_ce": float(eos[0] / eos_count[0]) if eos_count[0] else None,
            "bits_per_second": counting.bits_per_second(ce_K.tolist(), self.pack.spec),
            "entropy_K": (entropy_K / count_K).tolist(),
            "codes": int(count_K.sum()),
        }

    def baselines(self) -> dict[str, Any]:
        """Counted on the clips that are trained on, scored on the very codes that `evaluate` scores."""
        whole = self.train.clips[self.pack.ensure(self.train.clips)].astype(np.int64)
        books = counting.books(self.pack, counting.halves(self.pack, whole), self._valid_targets)
        return counting.assemble(self.pack.spec, [counting.scores(book) for book in books]).to_json()

    def demos(self, root: Path, step: int, using: Using) -> Path | None:
        return self._demos.make(root, step, using) if self._demos is not None else None

    def _share(self, batch: Batch) -> Batch:
        """This rank's part of a batch of held-out windows, after PAD items have brought it to the full size."""
        size = self._valid_batch
        missing = size - len(batch.keep_B)
        grid_BSK = functional.pad(batch.grid_BSK, (0, 0, 0, 0, 0, missing), value=self.specials.pad)
        tags_BG = functional.pad(batch.tags_BG, (0, 0, 0, missing))
        keep_B = functional.pad(batch.keep_B, (0, missing))
        part = slice(self.rank * size // self.world, (self.rank + 1) * size // self.world)
        return Batch(grid_BSK[part], tags_BG[part], keep_B[part], batch.items[part])


def _check_shares(stages: Sequence[Settings], world: int) -> None:
    for stage in stages:
        if stage.batch % world:
            raise PartimentoError(
                "TRAIN056",
                f"a batch of {stage.batch} cannot be shared equally by {world} devices",
                where=f"the stage from step {stage.start} on",
                why="optim.batch counts the items of one micro-batch over all devices",
                next=f"set optim.batch to a multiple of {world}, e.g. {-(-stage.batch // world) * world}",
            )


def selection_of(config: RvqConfig) -> Selection | None:
    """The clips that the configuration chooses; None for all. Raises LICENCE004."""
    data = config.data
    if not data.with_tags and not data.without_tags and data.licence is None:
        return None
    allowed = None if data.licence is None else Allowed.parse(data.licence)
    return Selection(tuple(data.with_tags), tuple(data.without_tags), allowed)


def decoder_config(config: RvqConfig, pack: Pack, specials: Specials, *, tags: int, positions: int) -> DecoderConfig:
    """The decoder that the configuration describes, for the codes of this pack."""
    model = config.model
    return DecoderConfig(
        codebooks=pack.spec.codebooks,
        rows=specials.rows,
        outputs=pack.spec.cardinality + 1,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        feedforward=model.feedforward,
        activation=model.activation,
        norm=model.norm,
        positions=model.positions,
        max_positions=positions,
        qk_norm=model.qk_norm,
        dropout=model.dropout,
        attention_scale=model.attention_scale,
        tags=tags,
    )


def _groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
