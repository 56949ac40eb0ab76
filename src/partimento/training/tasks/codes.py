"""The task of the `rvq` family: a decoder learns the codes of a pack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from partimento.codecs.codec import open_like
from partimento.config import RvqConfig
from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.loss import code_entropy, code_loss
from partimento.tokens import counting
from partimento.tokens.draw import Batch, Draw, Item
from partimento.tokens.licence import Allowed
from partimento.tokens.pack import Pack
from partimento.tokens.patterns import Pattern
from partimento.tokens.select import Selection
from partimento.tokens.spec import Specials
from partimento.training.demos import Demos
from partimento.training.player import Player
from partimento.training.task import Facts, Using


class CodesTask:
    """See `training.task.Task`. The score is the bits per second of audio of the held-out windows.

    Raises PACK... (pack, window), TOKEN003 (a tag of `demo.tags` that the pack does not have),
    SAMPLE005 (demos without tags of a model that never drops its condition), CODEC... and TRAIN007
    (the codec of the demos).
    """

    score = "bits_per_second"

    def __init__(self, config: RvqConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.pack = Pack.open(config.data.pack, corrupt_budget=config.data.corrupt_budget)
        spec, model = self.pack.spec, config.model
        pattern = Pattern.named(model.pattern, spec.codebooks)
        specials = Specials.after(spec.cardinality)
        selection = selection_of(config)
        self.train = Draw(
            self.pack,
            pattern,
            specials,
            split="train",
            window=config.data.window,
            seed=config.train.seed,
            null_share=config.data.null_share,
            tag_dropout=config.data.tag_dropout,
            tag_shuffle=config.data.tag_shuffle,
            tag_limit=config.data.tag_limit,
            selection=selection,
        )
        valid = Draw(self.pack, pattern, specials, split="valid", window=config.data.window, selection=selection)
        held_out = valid.fixed(config.train.valid_items)
        self._valid_targets = valid.targets(held_out)
        self.valid = [valid.collate(items) for items in _groups(held_out, config.optim.batch)]

        vocabulary = self.train.tag_vocabulary if model.tags else []
        self.module = CodeDecoder(decoder_config(config, self.pack, specials, tags=len(vocabulary)))
        self.player = Player(
            self.module, spec, pattern, specials, tuple(vocabulary), config.data.window, self.train.expected_null_share
        )
        self.player.require(config.demo.tags if config.demo.temperatures else vocabulary)
        self.item_frames = config.data.window
        self.identity: dict[str, Any] = {
            "fingerprint": self.pack.fingerprint,
            "codec": spec.codec,
            "codec_weights": spec.weights,
        }
        self.history = self.pack.history
        if selection is not None:
            self.identity["selection"] = selection.to_json()
        self.description = self.player.description()
        self._demos = self._open_demos(held_out)

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

    def batch(self, step: int, micro: int) -> Batch:
        optim = self.config.optim
        return self.train.step(step, micro, batch_size=optim.batch, accumulate=optim.accumulate)

    def count(self, batch: Batch) -> float:
        return int((batch.grid_BSK[:, 1:] < self.module.config.outputs).sum())

    def loss(self, batch: Batch) -> tuple[Tensor, Facts]:
        logits_BSKV, targets_BSK = self._predict(batch)
        total = code_loss(logits_BSKV, targets_BSK, self.pack.spec.cardinality).total
        facts: dict[str, float] = {"null_share": batch.null_share} if self.module.condition is not None else {}
        if self.train.corrupt:
            facts["corrupt_clips"] = len(self.train.corrupt)
        return total, facts

    def after_step(self, step: int) -> None: ...

    def evaluate(self) -> dict[str, Any]:
        """Plain cross entropy of the real codes, nats a book, over fixed windows; EOS apart; the output's entropy."""
        cardinality, books = self.pack.spec.cardinality, self.pack.spec.codebooks
        ce_K, entropy_K, count_K = (torch.zeros(books, dtype=torch.float64) for _ in range(3))
        eos_sum = eos_count = 0.0
        for batch in self.valid:
            logits_BSKV, targets_BSK = self._predict(batch)
            found = code_loss(logits_BSKV, targets_BSK, cardinality)
            ce_K += found.code_sum_K.cpu()
            count_K += found.code_count_K.cpu()
            eos_sum += float(found.eos_sum)
            eos_count += float(found.eos_count)
            entropy_BSK = code_entropy(logits_BSKV, cardinality)
            entropy_K += (entropy_BSK * (targets_BSK < cardinality)).sum((0, 1)).cpu()
        ce_K /= count_K
        return {
            "ce_K": ce_K.tolist(),
            "eos_ce": eos_sum / eos_count if eos_count else None,
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

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """logits_BSKV and their targets_BSK: row s of the grid predicts row s + 1."""
        grid_BSK = batch.grid_BSK.to(self.device).long()  # small integers travel, the device widens them
        condition_BD = None
        if self.module.condition is not None:
            condition_BD = self.module.condition(batch.tags_BG.to(self.device), batch.keep_B.to(self.device))
        return self.module(grid_BSK[:, :-1], condition_BD=condition_BD), grid_BSK[:, 1:]


def selection_of(config: RvqConfig) -> Selection | None:
    """The clips that the configuration chooses; None for all. Raises LICENCE004."""
    data = config.data
    if not data.with_tags and not data.without_tags and data.licence is None:
        return None
    allowed = None if data.licence is None else Allowed.parse(data.licence)
    return Selection(tuple(data.with_tags), tuple(data.without_tags), allowed)


def decoder_config(config: RvqConfig, pack: Pack, specials: Specials, *, tags: int) -> DecoderConfig:
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
        max_positions=config.data.window,
        qk_norm=model.qk_norm,
        dropout=model.dropout,
        attention_scale=model.attention_scale,
        tags=tags,
    )


def _groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
