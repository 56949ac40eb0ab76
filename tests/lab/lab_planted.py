"""Faults that cost others weeks, planted in the program one at a time: which check of preflight must name each.

The names in front are those of the defects that they repeat.
"""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from partimento.config import parse
from partimento.models import initialise
from partimento.models.attention import Memory, SelfAttention
from partimento.models.conditions import Told
from partimento.models.decoder import CodeDecoder
from partimento.models.dia import TextModel
from partimento.models.layers import FeedForward
from partimento.models.text import TextEncoder
from partimento.runs import published
from partimento.tokens import draw as drawing
from partimento.tokens import patterns
from partimento.tokens.draw import Draw
from partimento.tokens.patterns import Pattern
from partimento.tokens.places import Places
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training import building, optim
from partimento.training.player import Player

SPEC = CodecSpec("fake", "0" * 64, 8000, Fraction(20), (12, 12, 12))
OF_SOUND = {"length", "delay", "identity", "players"}  # checks that are asked of other families only
OF_MOT = {"backbone", "experts", "vocabulary"}
TINY = {
    "rvq": {"width": 32, "layers": 2, "heads": 2},
    "dia": {"width": 32, "layers": 2, "heads": 2, "text_width": 32, "text_layers": 1, "text_heads": 2},
}


def make_pack(path, *, still=False, copies=False, words=True, seed=3):
    rng = np.random.default_rng(seed)
    writer = PackWriter(path, SPEC)
    shared = rng.integers(0, 12, (150, 3))
    for number in range(8):
        codes = rng.integers(0, 12, (200 + number, 3))
        if copies:
            codes[:150] = shared
        if still:
            codes[:150] = 0
        tags = ["piano"] if number % 2 else ["drums", "fast"]
        writer.add(codes, clip=f"c{number}", tags=tags if words else [], caption=f"clip {number}" if words else None)
    writer.finish()
    return path


def config(pack, family="rvq", **overrides):
    """section__key=value over a tiny model."""
    tree = {
        "family": family,
        "data": {"pack": str(pack), "window": 32},
        "model": dict(TINY[family]),
        "optim": {"lr": 3e-3},
        "train": {"device": "cpu"},
        "demo": {"temperatures": []},
    }
    for name, value in overrides.items():
        section, key = name.split("__")
        tree.setdefault(section, {})[key] = value
    return parse(tree)


def make_weights(path, heads=2, **facts):
    """A folder of weights of a tiny Dia, for the codes of SPEC."""
    text = {"vocabulary": 256, "length": 32, "width": 32, "layers": 1, "heads": 2, "qk_norm": False}
    codes = {
        "codebooks": 3, "rows": 15, "outputs": 13, "width": 32, "layers": 2, "heads": heads, "cross_width": 32,
        "qk_norm": False, "max_positions": 512,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TextModel.from_json({"encoder": {"kind": "bytes", **text}, "decoder": codes, "null": "zeros"})
    told = {
        "kind": "dia",
        "generation": "0626",
        "model": model.to_json(),
        "delays": [0, 1, 2],
        "specials": {"eos": 12, "pad": 13, "bos": 14},
        "ending": {"eos": "argmax", "tail": "end"},
        "guidance_rule": "filter",
        "null_trained": True,
        "words": {"kind": "bytes", "length": 32},
        "codec": {
            "name": None, "sample_rate": 8000, "frame_rate": [20, 1], "cardinality": 12, "codebooks": 3,
            "layout": "mono", "books": [],
        },
        "source": {},
        "licence": None,
    }  # fmt: skip
    published.save(path, model, published.Facts.model_validate_json(json.dumps(told | facts)))
    return path


def weighted(pack, weights, **overrides):
    """section__key=value over a training that starts from a folder of weights."""
    tree = {
        "family": "dia",
        "data": {"pack": str(pack), "window": 32},
        "model": {"weights": str(weights)},
        "optim": {"lr": 3e-3},
        "train": {"device": "cpu"},
        "demo": {"temperatures": []},
    }
    for name, value in overrides.items():
        section, key = name.split("__")
        tree[section][key] = value
    return parse(tree)


def _a1_every_crop_at_frame_0(patch):
    define = Places.define
    at_start = lambda self, index, attempt=0: (define(self, index, attempt)[0], np.zeros_like(index))  # noqa: E731
    patch.setattr(Places, "define", at_start)
    return {"crops": "one place"}


def _crops_of_another_place(patch):
    grids = Draw._grids
    patch.setattr(Draw, "_grids", lambda self, clip, start: grids(self, clip, np.maximum(0, start - 1)))
    return {"crops": "other codes", "ends": "belongs"}


def _epochs_alike(patch):
    define = Places.define
    patch.setattr(Places, "define", lambda self, index, attempt=0: define(self, index % self.slots, attempt))
    return {"crops": "two epochs"}


def _a3_wrong_fan_in(patch):
    # [D, H, E] taken for a convolution: fans D E and H E in place of H E and D.
    def spoil(decoder):
        for block in decoder.blocks:
            rows, width = block.attention.qkv.weight.shape
            kernel = torch.empty(width, 3, rows // 3)
            nn.init.xavier_uniform_(kernel)
            with torch.no_grad():
                block.attention.qkv.weight.copy_(kernel.flatten(1).T)

    plain, by_fan_in = CodeDecoder.initialise, initialise.by_fan_in
    patch.setattr(CodeDecoder, "initialise", lambda self: (plain(self), spoil(self)))
    patch.setattr(initialise, "by_fan_in", lambda module: (by_fan_in(module), spoil(module.decoder)))
    return {"init": "blocks"}


def _a6_another_null_in_playing(patch):
    # Training tells nothing at all, playing zeros in place of the text (or of the learned vector).
    told = Player.told

    def other(self, words_B):
        right, null = told(self, words_B)
        condition = None if null.condition_BD is None else torch.zeros_like(null.condition_BD)
        memory = None if null.memory_BMD is None else torch.zeros_like(null.memory_BMD)
        return right, Told(condition, memory, right.mask_BM)

    patch.setattr(Player, "told", other)
    return {"null condition": "guidance's unconditional branch"}


def _a7_eos_at_the_end_of_every_crop(patch):
    grids = Draw._grids

    def ended(self, clip, start):
        found = grids(self, clip, start)
        found[:, -1] = self.specials.eos
        return found

    patch.setattr(Draw, "_grids", ended)
    return {"ends": "belongs", "crops": "other codes"}


def _g2_eos_in_one_row(patch):
    arrange = patterns.arrange

    def together(frames_BNK, start_B, steps, pattern, specials):
        grid_BSK = arrange(frames_BNK, start_B, steps, pattern, specials)
        grid_BSK[(grid_BSK == specials.eos).any(axis=2)] = specials.eos
        return grid_BSK

    patch.setattr(patterns, "arrange", together)
    patch.setattr(drawing, "arrange", together)
    return {"ends": "belongs"}


def _a8_last_codes_lost_by_the_pattern(patch):
    # A grid as long as its clip; where a few frames are played it is whole.
    plain = Pattern.steps_many
    cut = lambda self, frames, ends: plain(self, frames, ends) - self.max_delay * (np.asarray(frames) > 100)  # noqa: E731
    patch.setattr(Pattern, "steps_many", cut)
    return {"ends": "in no window"}


def _a9_windows_rounded(patch):
    build = Draw.__init__
    rounded = lambda self, *args, window, **rest: build(self, *args, window=window // 20 * 20, **rest)  # noqa: E731
    patch.setattr(Draw, "__init__", rounded)
    return {"data": "32 steps was asked for, and the model is given 20"}


def _a12_whole_batches_dropped(patch):
    many = drawing.keyed.uniform_many

    def by_batch(index, *parts):
        return many(np.asarray(index) // 8 if parts[0] == "null" else index, *parts)

    patch.setattr(drawing.keyed, "uniform_many", by_batch)
    return {"dropping": "batches"}


def _n4_share_inverted(patch):
    items = Draw.items
    turned = lambda self, index: [one._replace(keep=not one.keep) for one in items(self, index)]  # noqa: E731
    patch.setattr(Draw, "items", turned)
    return {"dropping": "90"}


def _a26_nothing_mixes_over_time(patch):
    patch.setattr(SelfAttention, "forward", lambda self, x, *_: self.out(self.qkv(x)[..., : x.shape[-1]]))
    return {"receptive field": "1", "gradients": "(keys)"}


def _the_mask_shows_the_future(patch):
    attend = functional.scaled_dot_product_attention
    patch.setattr(
        functional,
        "scaled_dot_product_attention",
        lambda *args, **rest: attend(*args, **{**rest, "is_causal": False}),
    )
    return {"causality": "earlier logits", "cache": "teacher forcing"}


def _n5_padding_is_read(patch):
    forward = TextEncoder.forward
    patch.setattr(TextEncoder, "forward", lambda self, text, mask: forward(self, text, torch.ones_like(mask)))
    return {"text": "behind the end"}


def _text_is_not_read(patch):
    patch.setattr(Memory, "read", lambda self, layer, cross, x_BSD, start, cache: torch.zeros_like(x_BSD))
    return {"text": "the same logits", "gradients": "nothing of the loss depends on it"}


def _n11_a_layer_of_playing_only(patch):
    forward = CodeDecoder.forward

    def other(self, grid_BSK, *, cache=None, **rest):
        logits = forward(self, grid_BSK, cache=cache, **rest)
        return logits if cache is None else logits * 1.01

    patch.setattr(CodeDecoder, "forward", other)
    return {"cache": "teacher forcing"}


def _unused_parameter(patch):
    build = CodeDecoder.__init__

    def with_spare(self, shape):
        build(self, shape)
        self.spare = nn.Parameter(torch.randn(64, 64) * 0.02)

    patch.setattr(CodeDecoder, "__init__", with_spare)
    return {"gradients": "spare"}


def _frozen_layer_left_trainable(patch):
    forward = FeedForward.forward

    def frozen(self, x_BSD):
        with torch.no_grad():
            return forward(self, x_BSD)

    patch.setattr(FeedForward, "forward", frozen)
    return {"gradients": "blocks.0.feedforward.down.weight"}


def _frozen_weight_changed(patch):
    """With the text encoder frozen."""
    told = TextModel.told

    def noting(self, *condition, **rest):
        if self.training:
            with torch.no_grad():
                self.encoder.embedding.mul_(1.001)
        return told(self, *condition, **rest)

    patch.setattr(TextModel, "told", noting)
    return {"frozen": "encoder.embedding"}


def _bf16_moment(patch):
    slots = optim._adamw_slots
    patch.setattr(
        optim, "_adamw_slots", lambda parameter: slots(parameter) | {"exp_avg_sq": parameter.detach().bfloat16()}
    )
    return {"types": "moment"}


def _a4_narrow_heads(patch):
    shape = building.DecoderConfig
    patch.setattr(building, "DecoderConfig", lambda **rest: shape(**{**rest, "head_width": 8}))
    return {"shape": "2 heads of 8"}


def _d1_keys_and_values_cut_off(patch):
    project = SelfAttention.project

    def detached(self, *args):
        query, key, value = project(self, *args)
        return query, key.detach(), value.detach()

    patch.setattr(SelfAttention, "project", detached)
    return {"gradients": "the keys and values of"}


def _d8_labels_shifted_twice(patch):
    loss = CodeDecoder.loss
    twice = lambda self, rows, targets, *args, **rest: loss(self, rows[:, :-1], targets[:, 1:], *args, **rest)  # noqa: E731
    patch.setattr(CodeDecoder, "loss", twice)
    return {"targets": "codes are scored"}


BOTH = {
    plant.__name__.strip("_"): plant
    for plant in (
        _a1_every_crop_at_frame_0,
        _crops_of_another_place,
        _epochs_alike,
        _a3_wrong_fan_in,
        _a4_narrow_heads,
        _a6_another_null_in_playing,
        _a7_eos_at_the_end_of_every_crop,
        _g2_eos_in_one_row,
        _a8_last_codes_lost_by_the_pattern,
        _a9_windows_rounded,
        _a12_whole_batches_dropped,
        _n4_share_inverted,
        _the_mask_shows_the_future,
        _n11_a_layer_of_playing_only,
        _unused_parameter,
        _frozen_layer_left_trainable,
        _bf16_moment,
        _d1_keys_and_values_cut_off,
        _d8_labels_shifted_twice,
    )
}
WITHOUT_QK_NORM = {"a26_nothing_mixes_over_time": _a26_nothing_mixes_over_time}
WITH_TEXT = {"n5_padding_is_read": _n5_padding_is_read, "text_is_not_read": _text_is_not_read}
WITH_FROZEN_ENCODER = {"frozen_weight_changed": _frozen_weight_changed}
