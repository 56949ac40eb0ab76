"""The sections of the families that learn the codes of a pack (`rvq`, `dia`, `mot`): their data and networks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from partimento.settings import Positive, Section, Share


class CodesData(Section):
    """Where windows of codes come from."""

    pack: str
    """Folder of the pack, relative to the working directory, or a URL that fsspec reads."""
    codec: str | None = None
    """What decodes the pack's codes for demos, where the name in the pack does not find it: a folder or hub name."""
    window: Positive = 256
    """Grid steps that the model sees at once (frames, for every pattern but `flat`)."""
    begin_share: Share = 0.0
    """Share of the windows that begin where their clip begins. Playing from nothing begins there, and only there has a
    model nothing but its condition to go by; of long clips a true beginning is drawn rarely."""
    null_share: Share = 0.1
    """Share of the items whose tags are dropped, so that guidance has a null condition to work with."""
    tag_dropout: Share = 0.0
    """Share of single tags that are dropped from an item that keeps its condition."""
    tag_shuffle: bool = False
    """Give the tags of an item in another order each time; for conditions that have an order."""
    tag_limit: Positive | None = None
    """Keep so many tags of an item at most, after dropping and shuffling; all by default."""
    with_tags: list[str] = []
    """Train on the clips that have all of these tags (whole tags: "vocals" is not "no vocals")."""
    without_tags: list[str] = []
    """Leave out the clips that have any of these tags."""
    licence: str | None = None
    """Train on the clips whose licence asks for no more than these obligations: attribution, share-alike,
    non-commercial, no-derivatives, separated by commas, or none. A licence that is not known is more than that."""
    corrupt_budget: Annotated[int, Field(ge=0)] = 0
    """Damaged clips that are borne before the run stops: their items are drawn again from others, and they are counted
    in the log as corrupt_clips. By default the first one stops it."""


class DecoderModel(Section):
    """The code decoder of the `rvq` family (`models/decoder.py`)."""

    width: Positive = 256
    layers: Positive = 6
    heads: Positive = 4
    kv_heads: Positive | None = None
    """Groups of keys and values; all heads have their own by default."""
    feedforward: Positive | None = None
    """Inner width of the feed-forward block; 4 x width for GELU, 8/3 x width (rounded to 32) for SwiGLU by default."""
    activation: Literal["gelu", "swiglu"] = "swiglu"
    norm: Literal["layer", "rms"] = "rms"
    positions: Literal["rotary", "sinusoidal", "learned"] = "rotary"
    qk_norm: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    attention_scale: float | None = None
    """1/sqrt(head width) unless given; a field of the weight family, never a silent default."""
    pattern: Literal["delay", "parallel", "flat", "dia"] | list[int] = "delay"
    """How the K codebooks are laid out over steps: a name, or one delay a codebook."""
    tags: bool = True
    """Condition on the tags of the pack; an untagged pack trains unconditionally."""


class DiaData(CodesData):
    """Windows of codes with the words that belong to them."""

    text: Literal["tags", "caption", "both"] = "both"
    """What of a clip is told to the model. both: its tags, then its caption, where it has one."""
    begin_share: Share = 0.1
    tag_shuffle: bool = True
    """Give the tags of an item in another order each time."""
    caption_dropout: Share = 0.0
    """Share of the captions that are dropped from items that have tags too, so that tags alone mean something."""


class DiaModel(Section):
    """Text encoder and code decoder of the `dia` family (`models/dia.py`)."""

    weights: str | None = None
    """Folder of weights to start from (`partimento weights import`: Dia, MusicGen; or of a run, `weights export`). What
    they are decides the architecture then, and only what says how they are trained may be given beside."""
    width: Positive = 256
    layers: Positive = 6
    heads: Positive = 4
    kv_heads: Positive | None = None
    """Groups of keys and values of the self attention; all heads have their own by default."""
    head_width: Positive | None = None
    """width / heads unless given."""
    feedforward: Positive | None = None
    """Inner width of the SwiGLU blocks; 8/3 x width, rounded to 32, by default."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    qk_norm: bool = True
    attention_scale: float | None = None
    """Factor of the attention scores, of both networks: 1/sqrt(head width) unless given. Published Dia has 1.0, which a
    training from scratch does not survive."""
    cross_attention_rope: bool = False
    """Rotate queries and keys of the cross attention too, as Dia's weights of April 2025 were trained."""
    text_width: Positive = 128
    text_layers: Positive = 2
    text_heads: Positive = 4
    text_feedforward: Positive | None = None
    text_length: Positive | None = None
    """Ids of a text at most: a tag is one with `tag_tokens`, otherwise every byte of UTF-8 is. 64 with tag tokens and
    256 without by default (never more than the weights have been given for)."""
    tag_tokens: bool = True
    """Give each tag of the pack an id of its own. Without, tags are spelled, and unknown ones can be asked for."""
    null: Literal["empty", "zeros"] = "empty"
    """What an item is told that lost its condition: nothing at all, or zeros in place of its text (published Dia)."""
    pattern: Literal["delay", "parallel", "flat", "dia"] | list[int] | None = None
    """How the K codebooks are laid out over steps: a name, or one delay a codebook. For stereo codes a name stands for
    that pattern in each channel. By default that of the weights, else delay."""
    freeze: list[str] = []
    """Weights of `weights` that are not trained: those whose name matches one of these regular expressions. They are
    not in the checkpoints either, which name their folder."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Train adapters of this rank beside frozen weights (LoRA); 0 trains the weights themselves."""
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    """Adapters count alpha / rank; alpha is the rank unless given."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lora_targets: Annotated[list[Literal["attention", "cross", "feedforward", "head"]], Field(min_length=1)] = [
        "attention",
        "cross",
    ]

    @model_validator(mode="after")
    def _architecture_is_of_the_weights(self) -> DiaModel:
        beside = {"weights", "pattern", "dropout", "text_length", "freeze"}
        # Compared with the defaults: a run stores its configuration with all of them.
        changed = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if self.weights is None and (self.freeze or self.lora_rank):
            raise ValueError("model.freeze and model.lora_rank keep weights as they are: give model.weights")
        if not self.lora_rank and (given := sorted(name for name in changed if name.startswith("lora_"))):
            raise ValueError(f"model.{given[0]} means nothing without adapters: give model.lora_rank")
        if self.weights is not None and (given := sorted(n for n in changed - beside if not n.startswith("lora_"))):
            raise ValueError(f"model.{given[0]} is decided by model.weights: give one of the two")
        return self


class MotModel(Section):
    """A frozen Llama that plays: audio rows pass experts of their own (`models/mixture.py`)."""

    backbone: str
    """Llama 3: a folder of transformers (`save_pretrained`), a name that `hf download` has fetched, or, to plan without
    weights, one of the published shapes (Llama-3.2-1B, Llama-3.2-3B, Llama-3.1-8B)."""
    weights: str | None = None
    """Folder of what was trained beside this backbone before (`partimento weights export`), to begin with."""
    experts: Literal["feedforward", "bottleneck", "lora", "full", "feedforward_copy", "none"] = "feedforward"
    """What audio rows pass in every layer. feedforward: adapter down, a feed-forward block of `expert_width` and
    `expert_inner`, adapter up. bottleneck: two matrices of `rank` beside attention and feed-forward. lora: low-rank
    adapters beside every matrix. feedforward_copy, full: copies of Llama's own feed-forward, of its whole block (the
    full mixture of transformers). none: Llama's own only."""
    experts_from: str | None = None
    """MusicGen whose feed-forward blocks become the experts', layer by layer: a folder, a name in the hub's cache, or,
    to plan, musicgen-small, musicgen-medium or musicgen-large. Its width and inner width are taken."""
    place: Literal["beside", "instead"] = "beside"
    """beside: added to what Llama's own feed-forward gives, from zero, so that the first step is Llama's. instead: in
    its place (experts = "feedforward" only)."""
    expert_width: Positive = 1024
    expert_inner: Positive = 4096
    rank: Positive = 16
    """Of the experts `bottleneck` and `lora`."""
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    """LoRA counts alpha / rank; alpha is the rank unless given."""
    vocabulary: Literal["own", "shared"] = "own"
    """own: every codebook has ids of its own. shared: one block of ids for all of them, which only the order of a flat
    grid tells apart."""
    pattern: Literal["delay", "parallel", "flat", "dia"] | list[int] = "delay"
    """How the K codebooks are laid out over steps: a name, or one delay a codebook."""
    train_backbone: Literal["none", "head", "all"] = "none"
    """What of Llama itself is trained: nothing, its output matrix of the text (by what `caption_share` tells), or
    everything."""
    freeze: list[str] = []
    """More that is not trained: names that match one of these regular expressions, of what came from `backbone` or
    `experts_from` (what was drawn at random must be trained, for no checkpoint keeps what is frozen)."""
    text_length: Positive = 64
    """Ids of a text at most, its first mark counted."""
    caption_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the items with words that are learned the other way round: the sound is heard, its words are told."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _said_once(self) -> MotModel:
        changed = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        means = {
            "expert_width": ("feedforward",),
            "expert_inner": ("feedforward",),
            "experts_from": ("feedforward",),
            "rank": ("bottleneck", "lora"),
            "lora_alpha": ("lora",),
        }
        for name, kinds in means.items():
            if name in changed and self.experts not in kinds:
                raise ValueError(f'model.{name} means nothing with model.experts = "{self.experts}"')
        if self.experts_from is not None and (given := sorted(changed & {"expert_width", "expert_inner"})):
            raise ValueError(f"model.{given[0]} is decided by model.experts_from: give one of the two")
        if self.place == "instead" and self.experts not in ("feedforward", "feedforward_copy"):
            raise ValueError(f'model.place = "instead" means nothing with model.experts = "{self.experts}"')
        if self.train_backbone == "head" and not self.caption_share:
            raise ValueError('model.train_backbone = "head" learns from words that are told: give model.caption_share')
        if self.vocabulary == "shared" and self.pattern != "flat":
            raise ValueError('model.vocabulary = "shared" needs model.pattern = "flat", one codebook a row')
        return self
