"""D5 to D9 of the faults that cost the mixture's ancestor its sound, planted on purpose. (D1 to D4: test_mot_faults.)

fault   what was done                                     who names it
D5      one block of ids for books on one row             CONFIG003; TOKEN022
D6      output rows frozen and zero                       TRAIN071; the audit before step 1 (TRAIN084)
        rows of text trained without a gradient           CONFIG003; the audit (TRAIN080, or a note on decay)
D7      noise where data is missing                       PACK005, PACK004; explain-loss (noise)
D8      arguments that do not exist                       CONFIG002, MODEL043
        labels shifted twice, first code masked           the check "targets" of preflight, of codes and of words
        a model of which nothing is trained               TRAIN059, TRAIN080
D9      pads attended                                     the check "text" of preflight; of words "targets"
        other positions in training than in playing       the check "cache" of preflight
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mot_planting import LONG, after_making, codes_toy, config, failing, refused, task, unchecked
from torch import Tensor, nn
from torch.nn import functional

from partimento.lab.explainloss.explain import explain_loss
from partimento.models import mixture, mixture_decoder
from partimento.models.conditions import Prefix
from partimento.models.linear import Linear
from partimento.models.mixture import MixtureModel
from partimento.models.mixture_config import MixtureConfig
from partimento.models.mixture_decoder import MixtureDecoder
from partimento.runs.events import read_events
from partimento.tokens.pack import Pack
from partimento.tokens.vocabulary import AudioVocabulary
from partimento.tokens.writer import PackWriter
from partimento.training.engine import train
from partimento.training.objective import CodesObjective
from partimento.training.tasks.codes import CodesTask

pytestmark = pytest.mark.usefixtures("one_thread")


# D5


@pytest.mark.parametrize("pattern", ["delay", "parallel"])
def test_d5_one_block_for_books_on_one_row(pack: Path, llama: Path, pattern: str) -> None:
    err = refused("CONFIG003", lambda: config(pack, llama, model={"vocabulary": "shared", "pattern": pattern}))
    assert "vocabulary" in str(err) and "flat" in str(err)


def test_d5_a_book_that_only_its_place_tells() -> None:
    """With a block for each book, a code at the place of another is refused; with one for all, it is played."""
    codes_TK = torch.tensor([[1, 2, 3], [4, 5, 6]])
    for kind, refuses in (("own", True), ("shared", False)):
        vocabulary = AudioVocabulary(60, 3, 16, kind)  # type: ignore[arg-type]
        late = vocabulary.ids(codes_TK).roll(1)
        if refuses:
            assert "place 0 " in (refused("TOKEN022", lambda v=vocabulary, i=late: v.codes(i)).where or "")
        else:
            assert not torch.equal(vocabulary.codes(late), codes_TK)


# D6


def empty_head(model: MixtureModel) -> None:
    nn.init.zeros_(model.decoder.head.weight.requires_grad_(False))


def test_d6_output_rows_that_are_frozen_and_zero(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initialise = MixtureDecoder.initialise

    def drawn(self: MixtureDecoder) -> None:
        initialise(self)
        nn.init.zeros_(self.head.weight)

    monkeypatch.setattr(MixtureDecoder, "initialise", drawn)
    after_making(monkeypatch, MixtureModel, empty_head)
    err = refused("TRAIN071", lambda: train(config(pack, llama), runs=tmp_path))
    assert "decoder.head.weight" in err.message
    unchecked(monkeypatch)
    err = refused("TRAIN084", lambda: train(config(pack, llama), runs=tmp_path))
    assert err.context["names"] == ["decoder.head.weight"] and "zero everywhere" in err.message


def test_d6_rows_of_text_are_trained_and_nothing_teaches_them(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused("CONFIG003", lambda: config(pack, llama, model={"train_backbone": "head"}))
    made = config(pack, llama, model={"train_backbone": "head", "caption_share": 0.3})
    monkeypatch.setattr(CodesTask, "_both_ways", False)
    err = refused("TRAIN080", lambda: train(made, runs=tmp_path))
    assert err.context["names"] == ["decoder.llama.head.weight"]


class Whole(Linear):
    """Rows of text and of audio in one matrix, of which the softmax sees those of audio."""

    text = 60

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., self.text :]

    def matrix(self) -> Tensor:
        return super().matrix()[self.text :]


def test_d6_rows_of_text_that_weight_decay_takes_away(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(decoder: MixtureDecoder) -> None:
        rows = decoder.config.blocks * decoder.config.outputs
        decoder.head = Whole(decoder.config.llama.width, Whole.text + rows, bias=False)
        decoder.initialise()

    after_making(monkeypatch, MixtureDecoder, whole)
    found = read_events(train(config(pack, llama, train=LONG), runs=tmp_path).events_path)
    (note,) = [event["text"] for event in found if event["kind"] == "note"]
    assert note.startswith("decoder.head.weight: 60 of 111 rows got no gradient") and "weight decay" in note


# D7


def test_d7_data_that_is_missing_is_an_error(pack: Path, llama: Path, tmp_path: Path) -> None:
    mine = tmp_path / "pack"
    shutil.copytree(pack, mine)
    (shard,) = (mine / "shards").iterdir()
    shard.unlink()
    err = refused("PACK005", lambda: train(config(mine, llama), runs=tmp_path))
    assert shard.name in str(err)


def test_d7_noise_in_its_place_is_not_the_data(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Pack._open_shard

    def fallback(self: Pack, number: int) -> Any:
        codes, checks = opened(self, number)
        return np.random.default_rng(0).integers(0, 16, codes.shape).astype(codes.dtype), checks

    monkeypatch.setattr(Pack, "_open_shard", fallback)
    refused("PACK004", lambda: train(config(pack, llama), runs=tmp_path))


def test_d7_noise_that_was_encoded_is_told(llama: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = PackWriter(tmp_path / "noise", codes_toy.SPEC)
    for clip in range(24):
        writer.add(rng.integers(0, 16, (1500, 3)), clip=f"clip{clip}", caption="dummy")
    writer.finish()
    run = train(config(tmp_path / "noise", llama, train=LONG | {"valid_every": 20}), runs=tmp_path)
    found = explain_loss(run.path)
    assert found.figures["noise"] is True and not found.good
    assert any("looks like noise" in line for line in found.verdict)


# D8


def test_d8_arguments_that_do_not_exist(pack: Path, llama: Path) -> None:
    err = refused("CONFIG002", lambda: config(pack, llama, model={"use_audio_expert": True}))
    assert "use_audio_expert" in str(err)
    stored = task(config(pack, llama)).module.to_json()["decoder"]
    refused("MODEL043", lambda: MixtureConfig.from_json({**stored, "n_modalities": 2}))
    experts = {**stored["experts"], "audio_expert_dim": 1024}
    refused("MODEL043", lambda: MixtureConfig.from_json({**stored, "experts": experts}))


def test_d8_labels_that_are_shifted_twice(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = MixtureDecoder.loss

    def shifted(self: MixtureDecoder, rows: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Any:
        return loss(self, rows[:, :-1], targets[:, 1:], *args, **kwargs)

    monkeypatch.setattr(MixtureDecoder, "loss", shifted)
    assert "targets" in failing(config(pack, llama), tmp_path)

    def rolled(self: MixtureDecoder, rows: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As many codes, of the row after the next."""
        return loss(self, rows, targets.roll(-1, 1), *args, **kwargs)

    monkeypatch.setattr(MixtureDecoder, "loss", rolled)
    assert "cross entropy of the next row" in failing(config(pack, llama), tmp_path)["targets"].found


@pytest.mark.parametrize("shift", ["labels", "text"])
def test_d8_labels_of_words_that_are_shifted_once_more(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: str
) -> None:
    made = config(pack, llama, model={"caption_share": 0.5})
    assert failing(made, tmp_path) == {}
    if shift == "labels":  # as many, each of the id after the next

        def rolled(logits_NV: Tensor, labels_N: Tensor, **rest: Any) -> Tensor:
            return functional.cross_entropy(logits_NV, labels_N.roll(-1), **rest)

        namespace = SimpleNamespace(pad=functional.pad, cross_entropy=rolled)
        monkeypatch.setattr(mixture, "functional", namespace)
        word = "the cross entropy of the next"
    else:
        loss = MixtureModel.caption_loss
        fewer = lambda self, grid, text, mask: loss(self, grid, text[:, 1:], mask[:, 1:])  # noqa: E731
        monkeypatch.setattr(MixtureModel, "caption_loss", fewer)
        word = "ids of words are scored"
    assert word in failing(made, tmp_path)["targets"].found


def test_d8_a_mask_that_hides_the_first_code(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = MixtureDecoder.loss

    def masked(self: MixtureDecoder, rows: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Any:
        first = torch.arange(targets.shape[1])[None, :, None] == 0
        return loss(self, rows, torch.where(first, self.config.pad_row, targets), *args, **kwargs)

    monkeypatch.setattr(MixtureDecoder, "loss", masked)
    check = failing(config(pack, llama), tmp_path)["targets"]
    assert "codes are scored, and the batch holds" in check.found


def test_d8_a_model_of_which_nothing_is_trained(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(pack, llama, model={"experts": "none"})
    with monkeypatch.context() as patch:
        after_making(patch, MixtureModel, lambda model: model.requires_grad_(False))
        assert "nothing is left to train" in str(refused("TRAIN059", lambda: train(made, runs=tmp_path)))
    after_making(monkeypatch, CodesObjective, lambda objective: objective.requires_grad_(False))
    assert "no parameter is trained" in refused("TRAIN080", lambda: train(made, runs=tmp_path)).message


# D9


def test_d9_pads_that_are_attended(pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = mixture_decoder.behind
    monkeypatch.setattr(mixture_decoder, "behind", lambda mask, steps: behind(torch.ones_like(mask), steps))
    check = failing(config(pack, llama), tmp_path)["text"]
    assert "ids behind the end of a text move the logits" in check.found


def test_d9_positions_behind_the_pads_in_training_only(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = MixtureDecoder._rows

    def padded(self: MixtureDecoder, grid: Tensor, prefix: Prefix, cache: Any, *args: Any) -> Tensor:
        if cache is None:
            count = torch.full_like(prefix.count_B, prefix.mask_BM.shape[1])
            prefix = Prefix(prefix.keys_L, prefix.values_L, prefix.mask_BM, count)
        return rows(self, grid, prefix, cache, *args)

    monkeypatch.setattr(MixtureDecoder, "_rows", padded)
    assert "teacher forcing" in failing(config(pack, llama), tmp_path)["cache"].found


def test_d9_words_behind_rows_that_are_pads(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = mixture_decoder.behind
    monkeypatch.setattr(mixture, "behind", lambda mask, steps: behind(torch.ones_like(mask), steps))
    found = failing(config(pack, llama, model={"caption_share": 0.5}, data={"window": 140}), tmp_path)
    assert "the loss of the words is" in found["targets"].found
