"""The `mot` family: a Llama that is there, what is put beside it for audio, and who of both is trained.

A frozen tensor is in no checkpoint, so it must be in a file whose hash the run keeps: the backbone's, or that of the
experts' model. What was drawn at random must be trained. (Random rows that were frozen, and drawn anew at every start,
have cost an earlier system its playing.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from partimento.config import MotModel
from partimento.errors import PartimentoError
from partimento.models.experts import ExpertConfig
from partimento.models.layers import check_positions
from partimento.models.linear import Linear
from partimento.models.mixture import MixtureConfig, MixtureModel
from partimento.models.transplant import paired, transplant
from partimento.runs import adapters, backbones, moved, transplanted
from partimento.runs.adapters import Adapter
from partimento.runs.backbones import Backbone, Feedforwards
from partimento.sampling.sheet import Ending
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import CodecSpec, Specials
from partimento.tokens.text import PAD, TextCoder, Words
from partimento.training import beginning
from partimento.training.beginning import another
from partimento.training.built import Built, freeze
from partimento.training.ema import copy_into

LLAMA = "decoder.llama."
"""How the names of the backbone's weights begin."""


def build(model: MotModel, spec: CodecSpec, positions: int, precision: str) -> Built:
    """The model of a configuration, for codes of this spec and windows of `positions` rows.

    Frozen matrices of the backbone's blocks are kept in bfloat16 where products run in it (`precision` "bf16"), and
    there is no copy of them in float32: see `Narrow`.

    Raises WEIGHTS020 to WEIGHTS024 (backbone, tokenizer, MusicGen), MODEL004 (windows and text are longer than what the
    backbone has positions for), MODEL040, MODEL041, MODEL043 (they do not fit), TOKEN001 (pattern), TRAIN059 (a pattern
    in `freeze`), TRAIN071 (frozen, and in no file), TRAIN058, TRAIN072, TRAIN073 and WEIGHTS002 (`weights`).
    """
    backbone = backbones.read_llama(model.backbone)
    donor = None if model.experts_from is None else backbones.read_musicgen_feedforwards(model.experts_from)
    specials = Specials.after(spec.cardinality)
    config = MixtureConfig(
        llama=backbone.config,
        codebooks=spec.codebooks,
        rows=specials.rows,
        outputs=spec.cardinality + 1,
        pad_row=specials.pad,
        vocabulary=model.vocabulary,
        max_positions=positions,
        experts=_experts(model, donor),
    )
    # The captioning direction has one row more: the BOS in front of the sound.
    check_positions(0, model.text_length + positions + 1, backbone.config.max_positions)
    module = MixtureModel(config, model.train_backbone)
    _leave_unreached(module, captions=bool(model.caption_share))
    start = None if model.weights is None else adapters.read(model.weights)
    how: dict[str, Any] = {
        "mixture": module.to_json(),
        "base": moved.kept(backbone.folder, backbone.sha256, model.backbone),
        "experts": None if donor is None else {"folder": _absolute(model.experts_from), "sha256": donor.sha256},
        "start": None if start is None else {"folder": _absolute(str(start.folder)), "sha256": start.sha256},
        "freeze": list(model.freeze),
        "captions": bool(model.caption_share),
    }
    planned = backbones.meta() and not backbone.tensors  # a shape, which has no tokenizer either
    coder: TextCoder = Unread(model.text_length) if planned else backbone.coder(model.text_length)
    _fill(module, backbone, rounded=precision == "bf16")
    report = None
    if donor is not None:
        report = paired(module.decoder, donor) if backbones.meta() else transplant(module.decoder, donor)
    begun: set[str] = set()
    notes: list[str] = []
    if start is not None:
        _same_words(start, coder)
        begun, notes = _begin(module, start, backbone, donor, spec)
    if report is not None:
        replaced = sum(f"decoder.{row.name}" in begun for row in report.taken)
        how["experts"] |= {"report": report.to_json(), "replaced": replaced}
        notes.append(f"{transplanted.table(how['experts']).summary} (report has the table)")
    freeze(module, model.freeze)
    _check_frozen(module, donor, begun)
    if precision == "bf16":
        narrow(module)
    return Built(
        module,
        Pattern.named(model.pattern, spec.codebooks, spec.books),
        specials,
        coder,
        Ending(),
        rule="mix",
        null_trained=start is not None and bool(start.description.get("null_share")),
        how={**how, "words": coder.to_json()},
        notes=tuple(notes),
    )


def rebuild(told: Mapping[str, Any]) -> MixtureModel:
    """The module of a player's description, with all that its checkpoint does not hold: the same backbone and experts'
    model, by their hashes, and the same weights frozen. All of it is in float32.

    Raises WEIGHTS020, WEIGHTS021 (gone or damaged), WEIGHTS022 and TRAIN073 (another), MODEL040 to MODEL043.
    """
    module = MixtureModel.from_json(told["mixture"])
    base, experts = told["base"], told["experts"]
    _fill(module, backbones.require_llama(base["folder"], base["sha256"]))
    _leave_unreached(module, captions=told["captions"])
    freeze(module, told["freeze"])
    frozen = (name for name, weight in module.named_parameters() if not weight.requires_grad)
    if experts is not None and any(map(_is_transplanted, frozen)):
        donor = backbones.read_musicgen_feedforwards(moved.lies(experts))
        if donor.sha256 != experts["sha256"]:
            why = f"the sha256 of its weights begins with {donor.sha256[:12]}, not with {experts['sha256'][:12]}"
            raise another(f"{experts['folder']} is not the model that the experts came from", experts["folder"], why)
        transplant(module.decoder, donor)
    return module


def _experts(model: MotModel, donor: Feedforwards | None) -> ExpertConfig:
    return ExpertConfig(
        kind=model.experts,
        place=model.place,
        width=model.expert_width if donor is None else donor.width,
        inner=model.expert_inner if donor is None else donor.inner,
        rank=model.rank,
        alpha=model.lora_alpha,
        dropout=model.dropout,
    )


@torch.no_grad()
def _fill(module: MixtureModel, backbone: Backbone, *, rounded: bool = False) -> None:
    """Llama's weights (none on the meta device), then what is copied of them, and what is drawn to their deviation.

    `rounded`: its frozen matrices to bfloat16, so that copies begin as what they are copies of in such a training.
    """
    if not backbones.meta():
        backbones.fill_llama(module.llama, backbone)
    if rounded:
        for _, _, layer in _frozen_matrices(module.llama.blocks):
            layer.weight.copy_(layer.weight.to(torch.bfloat16))
    module.decoder.initialise()


def _frozen_matrices(module: nn.Module) -> list[tuple[nn.Module, str, Linear]]:
    """(owner, name in the owner, layer)."""
    named = ((owner, name, layer) for owner in module.modules() for name, layer in owner.named_children())
    return [(o, n, layer) for o, n, layer in named if isinstance(layer, Linear) and not layer.weight.requires_grad]


def _leave_unreached(module: MixtureModel, *, captions: bool) -> None:
    """Freezes what no gradient would reach: where no text is told, all that text passes behind the keys and values of
    the last block, unless audio passes it too."""
    if captions:
        return
    config, last = module.decoder.config, module.llama.blocks[-1]
    if not config.llama.tied:
        module.llama.head.requires_grad_(False)
    feedforward = ("gate", "up", "down")
    unread = {
        "full": ("query", "out", "feedforward_norm", *feedforward),
        "feedforward_copy": feedforward,
        "feedforward": feedforward if config.experts.place == "instead" else (),
    }.get(config.experts.kind, ())
    for name in unread:
        getattr(last, name).requires_grad_(False)


def _absolute(name: str | None) -> str:
    """A folder wherever the command was given; a name of the hub as it is."""
    return str(Path(str(name)).resolve()) if Path(str(name)).exists() else str(name)


def _is_transplanted(name: str) -> bool:
    return name.startswith("decoder.experts.") and name.endswith((".up.weight", ".down.weight"))


def _in_files(name: str, module: MixtureModel, donor: Feedforwards | None) -> bool:
    """Whether a weight is one of the backbone, a copy of one, or one of the experts' model."""
    kind = module.decoder.config.experts.kind
    copied = name.startswith("decoder.experts.") and kind in ("full", "feedforward_copy")
    return name.startswith(LLAMA) or copied or (donor is not None and _is_transplanted(name))


def _check_frozen(module: MixtureModel, donor: Feedforwards | None, begun: Collection[str]) -> None:
    """Raises TRAIN071 where a frozen weight could not be read again; `begun` are those of `model.weights`."""
    for name, weight in module.named_parameters():
        if not weight.requires_grad and (name in begun or not _in_files(name, module, donor)):
            raise PartimentoError(
                "TRAIN071",
                f"{name} is frozen, and no file that the run keeps the hash of has it",
                why="it was read from model.weights" if name in begun else "it was drawn at random",
                next="train it too: model.freeze and model.train_backbone say what is not trained",
            )


def _begin(
    module: MixtureModel, start: Adapter, backbone: Backbone, donor: Feedforwards | None, spec: CodecSpec
) -> tuple[set[str], list[str]]:
    """With what was trained beside this backbone before; its names, and notes. What was not trained then is as it was
    read.

    Raises TRAIN058, TRAIN073, WEIGHTS002.
    """
    if backbones.meta():
        return set(), []
    folder, sha256 = str(start.folder), start.description["base"]["sha256"]
    if sha256 != backbone.sha256:
        why = f"the sha256 of that one begins with {sha256[:12]}, of this one with {backbone.sha256[:12]}"
        raise another(f"{folder} was trained beside another backbone", folder, why)
    notes = beginning.fits(start, module, donor, spec)
    tensors, here = start.tensors(), {name: weight.detach() for name, weight in module.named_parameters()}
    for name in sorted(tensors.keys() | {name for name in here if not _in_files(name, module, donor)}):
        if name in tensors and name in here and tensors[name].shape == here[name].shape:
            continue
        sizes = [f"{list(side[name].shape)}" if name in side else "missing" for side in (tensors, here)]
        why = f"{name} is {sizes[0]} there and {sizes[1]} here"
        raise another(f"{folder} is of another model than this configuration", folder, why)
    copy_into({name: here[name] for name in tensors}, tensors)
    return set(tensors), notes


def _same_words(start: Adapter, coder: TextCoder) -> None:
    """Raises TRAIN073 for another tokenizer (of those whose hashes are known): the same words would be other ids."""
    there, here = (told.get("sha256") for told in (start.description.get("words") or {}, coder.to_json()))
    if there is not None and here is not None and there != here:
        why = f"the sha256 of that one begins with {there[:12]}, of this one with {here[:12]}"
        raise another(f"{start.folder} was trained with another tokenizer.json", str(start.folder), why)


class Narrow(Linear):
    """A frozen matrix that is kept in bfloat16. Under autocast it is multiplied as it is, which gives the very products
    of a float32 one that autocast would round; anywhere else (the demos of a training) it is widened as it is used."""

    def __init__(self, base: Linear) -> None:
        nn.Module.__init__(self)  # not Linear's, which would draw a weight
        self.in_features, self.out_features, self.parts = base.in_features, base.out_features, base.parts
        self.kept = nn.Parameter(base.weight.to(torch.bfloat16), requires_grad=False)
        self.register_parameter("bias", None)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        kind = "cpu" if self.kept.is_meta else self.kept.device.type  # a plan's
        return self.kept if torch.is_autocast_enabled(kind) else self.kept.float()


def narrow(module: MixtureModel) -> None:
    """Every frozen matrix of the blocks, Llama's and the experts'. Norms, embeddings and heads stay in float32:
    autocast leaves norms and embeddings there, and a head may be the embedding."""
    for part in (module.llama.blocks, module.decoder.experts):
        for owner, name, layer in _frozen_matrices(part):
            setattr(owner, name, Narrow(layer))


@dataclass(frozen=True)
class Unread:
    """In place of a tokenizer where a shape is planned, which has none: all texts have `length` ids."""

    length: int

    @property
    def tags(self) -> tuple[str, ...]:
        return ()

    def require(self, words: Words) -> Words:
        return words

    def cut(self, words: Words) -> bool:
        return False

    def batch(self, words_B: Sequence[Words]) -> tuple[Tensor, Tensor]:
        text_BM = torch.full((len(words_B), self.length), PAD)
        return text_BM, torch.ones_like(text_BM, dtype=torch.bool)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "unread", "length": self.length}
