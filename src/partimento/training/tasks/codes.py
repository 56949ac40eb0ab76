"""The task of the families that learn the codes of a pack, `rvq`, `dia` and `mot`: told tags, text, or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from partimento.codecs.codec import open_like
from partimento.config import CodesConfig, DiaData, MotConfig
from partimento.errors import PartimentoError
from partimento.keyed import key
from partimento.models.mixture import MixtureModel
from partimento.runs.judged import Items
from partimento.tokens import counting
from partimento.tokens.draw import Batch, Draw, Item
from partimento.tokens.licence import Allowed
from partimento.tokens.pack import Pack
from partimento.tokens.select import Selection
from partimento.tokens.text import NO_WORDS, TagWords
from partimento.training import building, speed
from partimento.training.balance import Balance
from partimento.training.demos import Demos, prompts
from partimento.training.directions import to_reach
from partimento.training.feed import send
from partimento.training.objective import CodesObjective, attentions, decoder_of
from partimento.training.player import Player
from partimento.training.stages import Settings, check_shares, settings_at, stages
from partimento.training.task import ITEMS, Direction, Rival, Sums, Total, Using, alone
from partimento.training.tasks import words


class CodesTask:
    """See `training.task.Task`. The score is the bits per second of audio of the held-out windows.

    Raises PACK... (pack, window), what `building.build` raises, TOKEN003 and TEXT... (a prompt of the demos that the
    model cannot be told), SAMPLE002 and SAMPLE005 (demos under a null condition that is never trained, guidance of
    nothing), CODEC... and TRAIN007 (the codec of the demos), TRAIN056 (a batch that the ranks cannot share).
    """

    score = "bits_per_second"
    rival: Rival | None = None

    def __init__(self, config: CodesConfig, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.config, self.device, self.rank, self.world = config, device, rank, world
        self.stages = stages(config)
        check_shares(self.stages, world)
        self.pack = Pack.open(config.data.pack, corrupt_budget=config.data.corrupt_budget)
        spec = self.pack.spec
        self.window = max(stage.window for stage in self.stages)
        self.selection = selection_of(config)
        about = config, self.pack, self._train_clips()
        built = building.build(
            config, spec, words.tags_of(*about), positions=self.window, captions=words.has_captions(*about)
        )
        self.module, self.pattern, self.specials, self.coder = built.module, built.pattern, built.specials, built.coder
        self.draws = [self._draw(stage) for stage in self.stages]
        self.train = self.draws[0]
        valid = Draw(
            self.pack,
            self.pattern,
            self.specials,
            split="valid",
            window=self.window,
            selection=self.selection,
            words=words.told_of(config),
        )
        held_out = self._held_out = valid.fixed(config.train.valid_items)
        self._held_words = [item.words for item in held_out if item.words]
        self._valid_targets = valid.targets(held_out)
        # The longest windows in the smallest batch: a validation holds all logits, and is not to need more memory
        # than the training for being in another stage.
        self._valid_batch = min(stage.batch for stage in self.stages)
        self.valid = [self._share(valid.collate(items)) for items in _groups(held_out, self._valid_batch)]

        self.objective = CodesObjective(self.module, spec.cardinality, config.loss, both_ways=self._both_ways)
        self.balance = Balance(config.loss, spec.codebooks, spec.cardinality, device)
        self.player = Player.of(built, spec, self.window, self.train.expected_null_share)
        self.notes = [*built.notes, *words.lost(self.coder, self.train)]
        self._require_prompts()
        self.identity: dict[str, Any] = {
            "fingerprint": self.pack.fingerprint,
            "codec": spec.codec,
            "codec_weights": spec.weights,
        }
        for name, part in (("weights", "base"), ("experts", "experts"), ("start", "start")):
            if base := built.how.get(part):
                self.identity[name] = base["sha256"]
        if isinstance(self.module, MixtureModel):  # what no hash of weights tells, and both change what is computed
            llama = json.dumps(self.module.llama.config.to_json(), sort_keys=True)
            self.identity["backbone"] = hashlib.sha256(llama.encode()).hexdigest()
            self.identity["tokenizer"] = built.how["words"].get("sha256")
        self.history = self.pack.history
        if self.selection is not None:
            self.identity["selection"] = self.selection.to_json()
        self.description = self.player.description()
        self._demos = self._open_demos(held_out)

    def _train_clips(self) -> NDArray[np.integer]:
        return self.pack.split("train") if self.selection is None else self.selection.clips(self.pack, "train")

    @property
    def _turned_share(self) -> float:
        return self.config.model.caption_share if isinstance(self.config, MotConfig) else 0.0

    @property
    def _both_ways(self) -> bool:
        """Whether items are learned from sound to words too."""
        return self._turned_share > 0

    def _require_prompts(self) -> None:
        if self.config.demo.temperatures:
            prompts(self.config.demo, self.player)

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
            begin_share=data.begin_share,
            null_share=data.null_share,
            tag_dropout=data.tag_dropout,
            tag_shuffle=data.tag_shuffle,
            tag_limit=data.tag_limit,
            selection=self.selection,
            words=words.told_of(self.config),
            caption_dropout=data.caption_dropout if isinstance(data, DiaData) else 0.0,
            turned_share=self._turned_share,
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
        clips = np.unique([item.clip for item in held_out])
        return Demos(self.config, self.pack, self.player, codec, clips, self.train.words_of)

    def start(self) -> None: ...

    def batch(self, step: int, micro: int, attempt: int = 0) -> Batch:
        stage = settings_at(self.config, step)
        # Another attempt goes on where no step of this stage has been.
        place = step - stage.start + attempt * self.config.train.steps
        return self.draws[stage.number].step(
            place, micro, batch_size=stage.batch, accumulate=stage.accumulate, rank=self.rank, world=self.world
        )

    def inputs(self, batch: Batch) -> tuple[Tensor | None, ...]:
        condition, keep_B = self.condition(batch)
        if self._both_ways:
            # In a validation all items are scored both ways, as far as they have words.
            worded_B = torch.tensor([bool(told) for told in batch.words_B])
            condition = [*condition, batch.turned_B if self.objective.training else worded_B]
        weights_K = self.balance.weights_K() if self.config.loss.codebook_weights != "equal" else None
        grid_BSK, keep_B, *condition = (send(tensor, self.device) for tensor in (batch.grid_BSK, keep_B, *condition))
        return grid_BSK, keep_B, weights_K, *condition

    def condition(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """What the items are told, on the host, and keep_B: not of an item of which no word is known."""
        if isinstance(self.coder, TagWords):
            return [batch.tags_BG], batch.keep_B
        text_BM, mask_BM = self.coder.batch(batch.words_B)
        return [text_BM, mask_BM], batch.keep_B & mask_BM.any(dim=1)

    def count(self, batch: Batch) -> float:
        valid_BSK = batch.grid_BSK[:, 1:] < decoder_of(self.module).config.outputs
        return int((valid_BSK & ~batch.turned_B[:, None, None]).sum() + batch.turned_B.sum())

    def flops(self, window: int) -> float:
        text = 0 if isinstance(self.coder, TagWords) else self.coder.length
        return speed.flops_per_item(self.module, window, text, both_ways=self._both_ways)

    def frames(self, window: int) -> float:
        return window / self.pattern.stride

    def figures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "ce_K": [ce / count if count else None for ce, count in zip(sums["ce_K"], sums["count_K"], strict=True)],
        }
        if not isinstance(self.coder, TagWords) or self.coder.tags:
            found["null_share"] = sums["null_items"] / sums["items"]
        if self._both_ways:
            found["caption_ce"] = sums["caption"] / sums["caption_count"] if sums["caption_count"] else None
        if self.config.loss.codebook_weights == "learned":
            found["weights_K"] = self.balance.weights_K().tolist()
        if self.train.corrupt:
            found["corrupt_clips"] = len(self.train.corrupt)
        return found

    def after_step(self, step: int, bad: Tensor, sums: Sums, total: Total = alone) -> None:
        self.balance.update(sums["ce_K"], sums["count_K"], bad)

    def unreached(self) -> dict[str, str]:
        if not isinstance(self.coder, TagWords) or not self.coder.tags:
            return {}
        return {"condition.null_D": f"it learns of items that lose their tags (a share of {self.player.null_share:g})"}

    @property
    def attentions(self) -> int:
        return attentions(self.module, both_ways=self._both_ways)

    @property
    def directions(self) -> list[Direction]:
        if not self._both_ways or not isinstance(self.module, MixtureModel):
            return []

        def turned(batch: Batch, *, all_: bool) -> tuple[Tensor | None, ...]:
            return self.inputs(replace(batch, turned_B=torch.full_like(batch.turned_B, all_)))

        reaches = to_reach(self.module)
        return [
            Direction("captions", partial(turned, all_=True), reaches["captions"]),
            Direction("sound", partial(turned, all_=False), reaches["sound"]),
        ]

    def memory(self) -> dict[str, Tensor]:
        return self.balance.state()

    def remember(self, tensors: Mapping[str, Tensor]) -> None:
        self.balance.load(tensors)

    def evaluate(self, total: Total = alone) -> dict[str, Any]:
        """Plain cross entropy of the real codes, nats a book, over fixed windows; EOS apart; the output's entropy; of
        a model that learns from sound to words, nats an id of the words (caption_ce)."""
        names = ["ce_K", "entropy_K", "count_K", "eos", "eos_count"]
        names += ["caption", "caption_count"] if self._both_ways else []
        found = [self.objective(*self.inputs(batch))[1] for batch in self.valid]
        added = [torch.stack([sums[name] for sums in found]).sum(0).reshape(-1) for name in names]
        added += [self._by_item(found, name) for name in ("ce_B", "count_B")]
        flat = total(torch.cat(added)).cpu().double()  # one reduction, one transfer
        *sums_, ce_I, count_I = flat.split([len(part) for part in added])
        ce_K, entropy_K, count_K, eos, eos_count, *said = sums_
        ce_K = ce_K / count_K
        captions = {"caption_ce": float(said[0] / said[1]) if said[1] else None} if said else {}
        return {
            "ce_K": ce_K.tolist(),
            "eos_ce": float(eos[0] / eos_count[0]) if eos_count[0] else None,
            "bits_per_second": counting.bits_per_second(ce_K.tolist(), self.pack.spec),
            "entropy_K": (entropy_K / count_K).tolist(),
            "codes": int(count_K.sum()),
            **captions,
            ITEMS: self._items(ce_I.tolist(), count_I.tolist()),
        }

    def _by_item(self, found: Sequence[Sums], name: str) -> Tensor:
        """What the batches say of each held-out window, 0 where another rank has it."""
        size = self._valid_batch
        first, last = self.rank * size // self.world, (self.rank + 1) * size // self.world
        whole = [functional.pad(sums[name], (first, size - last)) for sums in found]
        return torch.cat(whole)[: len(self._held_out)]

    def _items(self, nats_I: Sequence[float], codes_I: Sequence[float]) -> Items:
        """Bits per second of audio: nats over codes, times the codes of a second in bits."""
        spec, clips = self.pack.spec, self.pack.clips
        return Items(
            clips=[str(clips.clip[item.clip]) for item in self._held_out],
            sources=[str(clips.source[item.clip]) for item in self._held_out],
            starts=[item.start for item in self._held_out],
            sizes=codes_I,
            values={self.score: nats_I},
            scale={self.score: counting.bits_per_second([1.0] * spec.codebooks, spec)},
        )

    def baselines(self) -> dict[str, Any]:
        """Counted on the clips that are trained on, scored on the very codes, and words, that `evaluate` scores."""
        whole = self.train.clips[self.pack.ensure(self.train.clips)].astype(np.int64)
        books = counting.books(self.pack, counting.halves(self.pack, whole), self._valid_targets)
        found = counting.assemble(self.pack.spec, [counting.scores(book) for book in books]).to_json()
        found |= {"train_clips": len(whole), "train_frames": int(self.pack.clips.frames[whole].sum())}
        if self._both_ways and isinstance(self.module, MixtureModel) and not isinstance(self.coder, TagWords):
            found |= words.floors(self.module, self.coder, words.texts_of(self.train), self._held_words)
        return found

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
        words_B = [*batch.words_B, *[NO_WORDS] * missing][part]
        turned_B = functional.pad(batch.turned_B, (0, missing))
        return Batch(grid_BSK[part], tags_BG[part], keep_B[part], batch.items[part], words_B, turned_B[part])


def selection_of(config: CodesConfig) -> Selection | None:
    """The clips that the configuration chooses; None for all. Raises LICENCE004."""
    data = config.data
    if not data.with_tags and not data.without_tags and data.licence is None:
        return None
    allowed = None if data.licence is None else Allowed.parse(data.licence)
    return Selection(tuple(data.with_tags), tuple(data.without_tags), allowed)


def _groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
