"""A trained code model that can play: the module with everything that gives its ids a meaning.

Training's demos and `partimento sample` both play through this class; a checkpoint alone is enough to make one (and the
folder of the weights that it was built upon, where some of those were frozen).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models import lora
from partimento.models.conditions import NOTHING, Told
from partimento.models.dia import TextModel
from partimento.models.mixture import MixtureModel
from partimento.models.quantized import Weights
from partimento.progress import Progress
from partimento.runs import checkpoint, moved
from partimento.runs.chosen import check_averages
from partimento.runs.playable import Playable
from partimento.sampling.generate import Played, generate
from partimento.sampling.guidance import UNGUIDED, Guidance
from partimento.sampling.rules import Rules
from partimento.sampling.sheet import Ending
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import CodecSpec, Specials
from partimento.tokens.text import NO_WORDS, Words
from partimento.training import building, compiled
from partimento.training.built import Built, Coder, Decoder, Model
from partimento.training.ema import copy_into, named_state
from partimento.training.objective import decoder_of, tell

CONVENTION = "u + s (c - u)"
_HOW = ("decoder", "model", "mixture", "base", "experts", "freeze", "lora", "captions", "start")


@dataclass(frozen=True)
class Player:
    """`coder` turns words into what the module is told, `window` is the number of rows that it was trained to see,
    `null_share` the share of training items without a condition, `null_trained` says whether the weights it started
    from knew the null condition: if neither, it was never learned and is not played. `rule` is how guidance was meant
    by who trained it, and `how` what rebuilds the module."""

    module: Model
    spec: CodecSpec
    pattern: Pattern
    specials: Specials
    coder: Coder
    window: int
    null_share: float
    ending: Ending
    rule: Literal["mix", "filter"]
    null_trained: bool
    how: dict[str, Any]

    @classmethod
    def of(cls, built: Built, spec: CodecSpec, window: int, null_share: float) -> Player:
        return cls(
            built.module,
            spec,
            built.pattern,
            built.specials,
            built.coder,
            window,
            null_share,
            built.ending,
            built.rule,
            built.null_trained,
            built.how,
        )

    @property
    def decoder(self) -> Decoder:
        return decoder_of(self.module)

    @property
    def family(self) -> str:
        if isinstance(self.module, MixtureModel):
            return "mot"
        return "dia" if isinstance(self.module, TextModel) else "rvq"

    @property
    def reads_text(self) -> bool:
        return self.family != "rvq"

    def description(self) -> dict[str, Any]:
        """JSON from which `from_checkpoint` rebuilds this player around stored weights."""
        return {
            "family": self.family,
            **self.how,
            "spec": self.spec.to_json(),
            "pattern": {"delays": list(self.pattern.delays), "stride": self.pattern.stride},
            "specials": dataclasses.asdict(self.specials),
            "window": self.window,
            "null_share": self.null_share,
            "null_trained": self.null_trained,
            "ending": dataclasses.asdict(self.ending),
            "guidance": {"convention": CONVENTION, "rule": self.rule},
        }

    @classmethod
    def from_checkpoint(
        cls, path: Path, weights: Literal["ema", "raw"] = "ema", device: torch.device | str = "cpu"
    ) -> Player:
        """The player of the checkpoint folder `path`; adapters are merged into the weights that they adapt.

        Raises CKPT001 (damaged), CKPT004 (it has no averaged weights), MODEL001 and TRAIN003 (written by another
        version), WEIGHTS... (the weights that it was built upon are gone, or others).
        """
        if weights == "ema":
            check_averages(path)
        told = moved.found(checkpoint.load(path, ()).state["description"])
        module = _rebuilt(told)
        part = {"ema": "ema", "raw": "model"}[weights]
        copy_into(named_state(module), checkpoint.load(path, (part,)).parts[part])
        if told.get("lora"):
            lora.merge(module)
        return cls._as_told(told, module.to(device).eval())

    @classmethod
    def from_folder(cls, found: Playable, device: torch.device | str = "cpu") -> Player:
        """The player of an exported folder. Raises WEIGHTS..., MODEL001 and TRAIN003 (written by another version)."""
        told = moved.found(found.description)
        module = _rebuilt(told)
        # A text model is exported whole, with what was frozen; of a mixture only what was trained.
        whole = isinstance(module, TextModel)
        copy_into(dict(module.named_parameters()) if whole else named_state(module), found.tensors())
        return cls._as_told(told, module.to(device).eval())

    @classmethod
    def _as_told(cls, told: dict[str, Any], module: Model) -> Player:
        how = {name: told[name] for name in _HOW if name in told}
        words = told.get("words") or {"kind": "tags", "tags": told["tags"]}  # before there was text
        return cls(
            module=module,
            spec=CodecSpec.from_json(told["spec"]),
            pattern=Pattern(tuple(told["pattern"]["delays"]), told["pattern"]["stride"]),
            specials=Specials(**told["specials"]),
            coder=building.coder(words),
            window=told["window"],
            null_share=told["null_share"],
            ending=Ending(**told.get("ending", {})),
            rule=told.get("guidance", {}).get("rule", "mix"),
            null_trained=told.get("null_trained", False),
            how={**how, "words": words},
        )

    def standing_alone(self) -> dict[str, Any]:
        """`description` of a text model with all of its weights, adapters merged: it needs no other folder."""
        return {**self.description(), "base": None, "lora": None, "freeze": []}

    def require(self, words: Words, guidance: float = 1.0) -> Words:
        """The words, once it is sure that they can be played so. Raises TOKEN003, TEXT..., SAMPLE002, SAMPLE005."""
        words = self.coder.require(words)
        if guidance != 1 and not words:
            raise PartimentoError(
                "SAMPLE002",
                f"guidance {guidance:g} has nothing to guide to: no tags and no text are given",
                next="give tags or a prompt, or leave guidance at 1",
            )
        conditioned = self.reads_text or bool(self.coder.tags)
        if conditioned and not self.knows_null and (guidance != 1 or not words):
            raise PartimentoError(
                "SAMPLE005",
                f"{f'guidance {guidance:g}' if guidance != 1 else 'playing without words'} needs the null condition",
                why="every item of its training had a condition (data.null_share = 0), so the null was never learned",
                next="give tags and leave guidance at 1, or train with data.null_share=0.1",
            )
        return words

    @property
    def knows_null(self) -> bool:
        return self.null_share > 0 or self.null_trained

    def told(self, words_B: Sequence[Words]) -> tuple[Told, Told]:
        """What the decoder is told of items with these words, and of the same items under null: by the very function
        that training and validation use."""
        device = self.decoder.embedding.device
        condition = [tensor.to(device) for tensor in self.coder.batch(words_B)]
        keep_B = torch.tensor([bool(words) for words in words_B], device=device)
        with torch.no_grad():
            told = tell(self.module, condition, keep_B)
            return told, tell(self.module, condition, torch.zeros_like(keep_B))

    def play(
        self,
        *,
        frames: int,
        seeds: Sequence[int],
        rules: Rules,
        words: Words | Sequence[Words] = NO_WORDS,
        prompt_BTK: Tensor | None = None,
        guidance: Guidance = UNGUIDED,
        static: bool | None = None,
        compile: bool = False,
        weights: Weights = "full",
        listener: Callable[[int, Tensor, list[int | None]], None] | None = None,
        progress: Progress | None = None,
    ) -> list[Played]:
        """One item for each seed: `frames` frames, the prompt counted, under its words (none: the null condition).

        `words` are one for all or one for each, and so is the first dimension of `prompt_BTK`. Raises TOKEN003 and
        TEXT... (words that it does not know), SAMPLE001 (impossible request), SAMPLE002 (guidance without words),
        SAMPLE005 (the null condition is needed and was never trained), SAMPLE020 to SAMPLE023 (`compile`, `weights`).
        """
        if compile:
            compiled.use_cache()
        words_B = [words] * len(seeds) if isinstance(words, Words) else list(words)
        words_B = [self.require(one, guidance.scale) for one in words_B]
        told, null = self.told(words_B) if seeds else (NOTHING, NOTHING)
        return generate(
            self.decoder,
            self.pattern,
            self.specials,
            frames=frames,
            seeds=seeds,
            rules=rules,
            context=self.window,
            prompt_BTK=None if prompt_BTK is None else prompt_BTK.expand(len(seeds), -1, -1),
            told=told,
            null=NOTHING if guidance.neutral else null,
            guidance=guidance,
            ending=self.ending,
            cardinalities=self.spec.cardinalities,
            static=static,
            compile=compile,
            weights=weights,
            listener=listener,
            progress=progress,
        )


def _rebuilt(told: dict[str, Any]) -> Model:
    with torch.random.fork_rng(devices=[]):  # a new module draws weights, which are replaced
        return building.rebuild(told)
