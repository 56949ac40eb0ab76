"""The nine faults that cost the mixture's ancestor its sound, each planted on purpose in the code that is there now.

fault   what was done                                     who names it
D1      keys and values detached, read out of a cache     the audit before step 1 (TRAIN081); MODEL042
        the same in a softmax of one's own                the audit before step 1 (TRAIN085)
        what is heard, or told, detached                  the audit of each loss alone (TRAIN081)
D2      interleaved codes reshaped to [K, T]              TOKEN022, TOKEN021; the check "prompt" of preflight
D3      new input rows frozen                             TRAIN071; the audit of a resume (TRAIN084)
        new input rows left out of the checkpoint         TRAIN003
D4      biases that the source has not, or has            TRAIN071, WEIGHTS024
        layers that the source does not fill              MODEL041; the audit of a resume (TRAIN084)

D5 to D9 are in test_mot_faults_5_to_9.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mot_planting import (
    LONG,
    STOPPED,
    after_making,
    config,
    failing,
    newest,
    refused,
    task,
    unchecked,
    write_musicgen,
)
from torch import Tensor, nn

from partimento.errors import PartimentoError
from partimento.models import experts, mixture_decoder
from partimento.models import llama as stock
from partimento.models.conditions import Prefix, Told
from partimento.models.experts import FeedforwardExpert
from partimento.models.mixture import MixtureModel
from partimento.models.mixture_decoder import MixtureDecoder
from partimento.runs.events import read_events
from partimento.runs.published import WEIGHTS
from partimento.sampling import sheet
from partimento.sampling.rules import Rules
from partimento.tokens.vocabulary import AudioVocabulary
from partimento.training import mixing
from partimento.training.engine import train
from partimento.training.player import Player
from partimento.training.state import State

pytestmark = pytest.mark.usefixtures("one_thread")


def test_without_a_fault_nothing_is_named(pack: Path, llama: Path, tmp_path: Path) -> None:
    made = config(pack, llama, train=LONG)
    assert failing(made, tmp_path / "preflight") == {}
    found = read_events(train(made, runs=tmp_path).events_path)
    assert [event["when"] for event in found if event["kind"] == "flow"] == ["before", "after"]
    assert not [event for event in found if event["kind"] == "note"]


# D1


@pytest.mark.parametrize(
    ("model", "where"),
    [
        ({}, ["decoder.llama.blocks.0", "decoder.llama.blocks.1"]),
        ({"experts": "lora", "rank": 2}, ["decoder.llama.blocks.0", "decoder.llama.blocks.1"]),
        ({"experts": "full"}, ["decoder.experts.0.block", "decoder.experts.1.block"]),
    ],
)
def test_d1_keys_and_values_out_of_a_cache(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], where: list[str]
) -> None:
    seen = mixture_decoder.BehindText.__call__

    def written(self: Any, key: Tensor, value: Tensor) -> Any:
        return seen(self, key.detach(), value.detach())

    monkeypatch.setattr(mixture_decoder.BehindText, "__call__", written)
    made = config(pack, llama, model=model)
    err = refused("TRAIN081", lambda: train(made, runs=tmp_path))
    assert err.context["names"] == where and "keys and values" in err.message
    assert failing(made, tmp_path / "preflight")["gradients"].code == "TRAIN081"


def test_d1_a_cache_in_training(pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def through_a_cache(self: MixtureDecoder, grid: Tensor, targets: Tensor, *_: Any, prefix: Prefix, **__: Any) -> Any:
        return self(grid, prefix=prefix, cache=self.make_cache(len(grid), grid.shape[1]))

    monkeypatch.setattr(MixtureDecoder, "loss", through_a_cache)
    refused("MODEL042", lambda: train(config(pack, llama), runs=tmp_path))


def by_hand(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """`attend`, with keys and values out of a cache."""
    repeat = query.shape[1] // key.shape[1]
    key, value = (tensor.detach().repeat_interleave(repeat, dim=1) for tensor in (key, value))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() if mask is None else mask
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2).flatten(2)


def test_d1_keys_and_values_out_of_a_cache_where_nobody_looks(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (stock, experts):
        monkeypatch.setattr(module, "attend", by_hand)
    err = refused("TRAIN085", lambda: train(config(pack, llama), runs=tmp_path))
    assert (err.context["seen"], err.context["wanted"]) == (0, 2)
    assert failing(config(pack, llama), tmp_path / "preflight")["gradients"].code == "TRAIN085"


def cut(prefix: Prefix) -> Prefix:
    keys_L, values_L = ([layer.detach() for layer in layers] for layers in (prefix.keys_L, prefix.values_L))
    return Prefix(keys_L, values_L, prefix.mask_BM, prefix.count_B)


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("feedforward", ["decoder.experts.0"]),
        ("full", ["decoder.experts.0", "decoder.experts.1 (keys)", "decoder.experts.1 (values)"]),
    ],
)
def test_d1_what_is_heard_is_detached_and_captions_teach_nothing(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, where: list[str]
) -> None:
    listen = MixtureDecoder.listen

    def out_of_a_cache(self: MixtureDecoder, *heard: Any) -> Any:
        return tuple([tensor.detach() for tensor in layers] for layers in listen(self, *heard))

    monkeypatch.setattr(MixtureDecoder, "listen", out_of_a_cache)
    made = config(pack, llama, model={"experts": kind, "caption_share": 0.5})
    err = refused("TRAIN081", lambda: train(made, runs=tmp_path))
    assert err.context["names"] == ["decoder.embedding", *where] and "the loss of the captions alone" in err.message
    assert "the loss of the captions alone" in failing(made, tmp_path / "preflight")["gradients"].found


@pytest.mark.parametrize(
    ("kind", "where"),
    [("none", []), ("full", [f"decoder.llama.blocks.{name}" for name in ("0", "1 (keys)", "1 (values)")])],
)
def test_d1_what_is_told_is_detached_and_the_sound_teaches_no_text(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, where: list[str]
) -> None:
    told = MixtureModel.told

    def out_of_a_cache(self: MixtureModel, *text: Tensor) -> Told:
        prefix = told(self, *text).prefix
        assert prefix is not None
        return Told(prefix=cut(prefix))

    monkeypatch.setattr(MixtureModel, "told", out_of_a_cache)
    made = config(pack, llama, model={"experts": kind, "train_backbone": "all", "caption_share": 0.5})
    err = refused("TRAIN081", lambda: train(made, runs=tmp_path))
    assert err.context["names"] == ["decoder.llama.embedding.weight", *where] and "of the sound alone" in err.message
    assert "of the sound alone" in failing(made, tmp_path / "preflight")["gradients"].found


# D2


def scrambled(codes_BTK: Tensor) -> Tensor:
    """What is interleaved frame by frame, read as [K, T]."""
    B, T, K = codes_BTK.shape
    return codes_BTK.reshape(B, K, T).transpose(1, 2)


def test_d2_a_reshape_in_place_of_the_inverse(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = task(config(pack, llama, model={"pattern": "flat"}))
    prompt_BTK = torch.from_numpy(made.pack.read(0, 0, 6).astype(np.int64))[None]
    # One code a row: 8 frames of a window of 24 rows.
    asked: dict[str, Any] = {"frames": 7, "seeds": [0], "rules": Rules(temperature=0.0), "prompt_BTK": prompt_BTK}
    assert torch.equal(made.player.play(**asked)[0].codes_TK[:6], prompt_BTK[0])
    revert = sheet.revert
    monkeypatch.setattr(sheet, "revert", lambda *args, **kwargs: scrambled(revert(*args, **kwargs)))
    try:
        assert not torch.equal(made.player.play(**asked)[0].codes_TK[:6], prompt_BTK[0])
    except PartimentoError as err:  # where a code of one book is none of another
        assert err.code == "TOKEN002"
    assert "prompt" in failing(config(pack, llama, model={"pattern": "flat"}), tmp_path)
    vocabulary = AudioVocabulary(60, 3, 16)
    ids = vocabulary.ids(prompt_BTK[0])
    assert torch.equal(vocabulary.codes(ids), prompt_BTK[0])
    refused("TOKEN022", lambda: vocabulary.codes(ids.view(3, 6).T.flatten()))
    refused("TOKEN021", lambda: vocabulary.ids(vocabulary.codes(ids).T))


# D3


def freeze_rows(model: MixtureModel) -> None:
    model.decoder.embedding.requires_grad_(False)


def test_d3_new_input_rows_that_are_frozen(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_making(monkeypatch, MixtureModel, freeze_rows)
    err = refused("TRAIN071", lambda: train(config(pack, llama), runs=tmp_path))
    assert "decoder.embedding" in err.message
    unchecked(monkeypatch)
    train(config(pack, llama, train=STOPPED), runs=tmp_path, run="r")
    draw = torch.nn.init.normal_
    after_making(monkeypatch, MixtureModel, lambda model: draw(model.decoder.embedding))
    monkeypatch.setattr(MixtureDecoder, "initialise", lambda self: None)  # drawn otherwise at every start
    err = refused("TRAIN084", lambda: train(config(pack, llama), runs=tmp_path, run="r"))
    assert "decoder.embedding" in err.context["names"]


def test_d3_new_input_rows_that_are_left_out_of_the_checkpoint(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = State.save

    def by_names(self: State, *args: Any) -> Any:
        parts, state = save(self, *args)
        kept = ("narrow", "widen", "up", "down", "head")
        return {
            part: {n: t for n, t in named.items() if part not in ("model", "ema") or any(k in n for k in kept)}
            for part, named in parts.items()
        }, state

    monkeypatch.setattr(State, "save", by_names)
    run = train(config(pack, llama, train=STOPPED), runs=tmp_path, run="r")
    for work in (
        lambda: Player.from_checkpoint(newest(run)),
        lambda: train(config(pack, llama), runs=tmp_path, run="r"),
    ):
        assert "decoder.embedding" in refused("TRAIN003", work).message


# D4


def test_d4_biases_that_the_source_has_not(
    pack: Path, llama: Path, musicgen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def biased(expert: FeedforwardExpert) -> None:
        expert.up.bias = nn.Parameter(torch.randn(expert.up.out_features), requires_grad=False)

    after_making(monkeypatch, FeedforwardExpert, biased)
    made = config(pack, llama, model={"experts_from": str(musicgen)})
    assert "decoder.experts.0.up.bias" in refused("TRAIN071", lambda: train(made, runs=tmp_path)).message


def test_d4_biases_and_layers_of_the_source(pack: Path, llama: Path, musicgen: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "musicgen"
    shutil.copytree(musicgen, other)
    named = load_file(other / WEIGHTS)
    inner = named["model.decoder.layers.0.fc1.weight"].shape[0]
    save_file({**named, "model.decoder.layers.0.fc1.bias": torch.zeros(inner)}, other / WEIGHTS, {"format": "pt"})
    err = refused("WEIGHTS024", lambda: task(config(pack, llama, model={"experts_from": str(other)})))
    assert "fc1.bias" in str(err)
    write_musicgen(tmp_path / "short", layers=1)
    err = refused("MODEL041", lambda: task(config(pack, llama, model={"experts_from": str(tmp_path / "short")})))
    assert "layer 1" in str(err)


def test_d4_an_import_that_fills_nothing(
    pack: Path, llama: Path, musicgen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen experts that keep what was drawn, and draw anew at every start."""
    transplant, starts = mixing.transplant, iter(range(9))

    def nothing(decoder: MixtureDecoder, donor: Any) -> Any:
        report = transplant(decoder, donor)
        generator = torch.Generator().manual_seed(next(starts))
        with torch.no_grad():
            for expert in decoder.experts:
                expert.up.weight.normal_(generator=generator)  # type: ignore[union-attr,operator]
        return report

    monkeypatch.setattr(mixing, "transplant", nothing)
    model = {"experts_from": str(musicgen), "freeze": [r"experts\.\d+\.(up|down)\."]}
    train(config(pack, llama, model=model, train=STOPPED), runs=tmp_path, run="r")
    err = refused("TRAIN084", lambda: train(config(pack, llama, model=model), runs=tmp_path, run="r"))
    assert err.context["names"] == ["decoder.experts.0.up.weight", "decoder.experts.1.up.weight"]
