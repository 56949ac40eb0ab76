"""A trained code model that can play: the decoder with everything that gives its ids a meaning.

Training's demos and `partimento sample` both play through this class; a checkpoint alone is enough to make one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.progress import Progress
from partimento.runs import checkpoint
from partimento.sampling.generate import Played, generate
from partimento.sampling.rules import Rules
from partimento.tokens import tags as tagging
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import CodecSpec, Specials
from partimento.training.ema import copy_into, named_state


@dataclass(frozen=True)
class Player:
    """`tags` are the columns of the condition, `window` the rows that the model was trained to see, `null_share` the
    share of training items without a condition: at 0 the null condition was never learned and is not played."""

    decoder: CodeDecoder
    spec: CodecSpec
    pattern: Pattern
    specials: Specials
    tags: tuple[str, ...]
    window: int
    null_share: float

    def description(self) -> dict[str, Any]:
        """JSON from which `from_checkpoint` rebuilds this player around stored weights."""
        return {
            "decoder": self.decoder.config.to_json(),
            "spec": self.spec.to_json(),
            "pattern": {"delays": list(self.pattern.delays), "stride": self.pattern.stride},
            "specials": dataclasses.asdict(self.specials),
            "tags": list(self.tags),
            "window": self.window,
            "null_share": self.null_share,
        }

    @classmethod
    def from_checkpoint(
        cls, path: Path, weights: Literal["ema", "raw"] = "ema", device: torch.device | str = "cpu"
    ) -> Player:
        """The player of the checkpoint folder `path`. Raises CKPT001 (damaged), CKPT004 (it has no averaged weights),
        MODEL001 and TRAIN003 (written by another version)."""
        stored = checkpoint.load(path, ()).state
        if weights == "ema" and not stored["ema_updates"]:
            raise PartimentoError(
                "CKPT004",
                f"{Path(path).name} has no averaged weights",
                where=str(path),
                why="the run was trained with optim.ema = 0",
                next="play the raw ones: --weights raw",
            )
        told = stored["description"]
        with torch.random.fork_rng(devices=[]):  # a new decoder draws weights, which are replaced below
            decoder = CodeDecoder(DecoderConfig.from_json(told["decoder"])).to(device).eval()
        player = cls(
            decoder=decoder,
            spec=CodecSpec.from_json(told["spec"]),
            pattern=Pattern(tuple(told["pattern"]["delays"]), told["pattern"]["stride"]),
            specials=Specials(**told["specials"]),
            tags=tuple(told["tags"]),
            window=told["window"],
            null_share=told["null_share"],
        )
        part = {"ema": "ema", "raw": "model"}[weights]
        copy_into(named_state(player.decoder), checkpoint.load(path, (part,)).parts[part])
        return player

    def require(self, tags: Sequence[str], guidance: float = 1.0) -> tuple[str, ...]:
        """The tags, once it is sure that they can be played so. Raises TOKEN003, SAMPLE002, SAMPLE005."""
        names = tagging.require(tags, self.tags)
        if guidance != 1 and not names:
            raise PartimentoError(
                "SAMPLE002",
                f"guidance {guidance:g} has nothing to guide to: no tags are given",
                next="give tags, or leave guidance at 1",
            )
        if self.tags and self.null_share == 0 and (guidance != 1 or not names):
            raise PartimentoError(
                "SAMPLE005",
                f"{f'guidance {guidance:g}' if guidance != 1 else 'playing without tags'} needs the null condition",
                why="every item of its training had a condition (data.null_share = 0), so the null was never learned",
                next="give tags and leave guidance at 1, or train with data.null_share=0.1",
            )
        return names

    def play(
        self,
        *,
        frames: int,
        seeds: Sequence[int],
        rules: Rules,
        tags: Sequence[str] = (),
        prompt_TK: Tensor | None = None,
        guidance: float = 1.0,
        progress: Progress | None = None,
    ) -> list[Played]:
        """One item for each seed: `frames` frames, the prompt counted, under `tags` (none: the null condition).

        Raises TOKEN003 (unknown tag), SAMPLE001 (impossible request), SAMPLE002 (guidance without tags), SAMPLE005 (the
        null condition is needed and was never trained).
        """
        names = self.require(tags, guidance)
        condition, device = self.decoder.condition, self.decoder.embedding.device
        condition_BD = null_BD = None
        if condition is not None:
            row_G = torch.from_numpy(tagging.multi_hot(names, self.tags)).to(device)
            keep_B = torch.full((len(seeds),), bool(names), device=device)
            with torch.no_grad():
                condition_BD = condition(row_G.expand(len(seeds), -1), keep_B)
                null_BD = condition.null(len(seeds))
        return generate(
            self.decoder,
            self.pattern,
            self.specials,
            frames=frames,
            seeds=seeds,
            rules=rules,
            context=self.window,
            prompt_BTK=None if prompt_TK is None else prompt_TK.expand(len(seeds), -1, -1),
            condition_BD=condition_BD,
            null_BD=null_BD,
            guidance=guidance,
            progress=progress,
        )
