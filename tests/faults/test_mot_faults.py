"""The nine faults that cost the mixture's ancestor its sound, each planted on purpose in the code that is there now.

fault   what was done                                     who names it
D1      keys and values detached, read out of a cache     the audit before step 1 (TRAIN081); MODEL042
D2      interleaved codes reshaped to [K, T]              TOKEN022, TOKEN021; a prompt that does not come back
D3      new input rows frozen                             TRAIN071; the audit of a resume (TRAIN084)
        new input rows left out of the checkpoint         TRAIN003
D4      biases that the source has not, or has            TRAIN071, WEIGHTS024
        layers that the source does not fill              MODEL041; the audit of a resume (TRAIN084)
D5      one block of ids for books on one row             CONFIG003; TOKEN022
D6      output rows frozen and zero                       TRAIN071; the audit before step 1 (TRAIN084)
        rows of text trained without a gradient           CONFIG003; the audit (TRAIN080, or a note on decay)
D7      noise where data is missing                       PACK005, PACK004; explain-loss (noise)
D8      arguments that do not exist                       CONFIG002, MODEL043
        labels shifted twice, first code masked           the check "targets" of preflight
        a model of which nothing is trained               TRAIN059, TRAIN080
D9      pads attended                                     the check "text" of preflight
        other positions in training than in playing       the check "cache" of preflight
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from partimento.config import MotConfig
from partimento.errors import PartimentoError
from partimento.lab.explainloss.explain import explain_loss
from partimento.lab.preflight import Check, preflight
from partimento.models import mixture_decoder
from partimento.models.conditions import Prefix
from partimento.models.experts import FeedforwardExpert
from partimento.models.linear import Linear
from partimento.models.mixture import MixtureModel
from partimento.models.mixture_config import MixtureConfig
from partimento.models.mixture_decoder import MixtureDecoder
from partimento.runs import checkpoint
from partimento.runs.events import read_events
from partimento.runs.published import WEIGHTS
from partimento.runs.run import Run
from partimento.sampling import sheet
from partimento.sampling.rules import Rules
from partimento.tokens.pack import Pack
from partimento.tokens.vocabulary import AudioVocabulary
from partimento.tokens.writer import PackWriter
from partimento.training import mixing
from partimento.training.engine import train
from partimento.training.objective import CodesObjective
from partimento.training.player import Player
from partimento.training.state import State
from partimento.training.tasks.codes import CodesTask

sys.path.append(str(Path(__file__).parents[1] / "training"))
import codes_toy
from mot_toy import config, task, write_llama, write_musicgen, write_pack

LONG = {"steps": 20, "log_every": 20, "valid_every": 1000, "save_every": 1000}
STOPPED = {"max_minutes": 1e-9}  # ends after its first step


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: codes_toy.ToyCodec())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("data") / "pack")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder)
    return folder


@pytest.fixture(scope="module")
def musicgen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("musicgen")
    write_musicgen(folder, whole=False)
    return folder


def refused(code: str, work: Callable[[], Any]) -> PartimentoError:
    with pytest.raises(PartimentoError) as caught:
        work()
    assert caught.value.code == code, str(caught.value)
    return caught.value


def failing(made: MotConfig, runs: Path) -> dict[str, Check]:
    """The checks of preflight that fail."""
    return {check.name: check for check in preflight(made, runs=runs) if check.status == "failed"}


def newest(run: Run) -> Path:
    found = checkpoint.newest(run.checkpoints_path, note=print)
    assert found is not None
    return found


def after_making(patch: pytest.MonkeyPatch, owner: type[nn.Module], change: Callable[..., None]) -> None:
    """`change(module)` at the end of every construction of `owner`."""
    init = owner.__init__

    def changed(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        change(self)

    patch.setattr(owner, "__init__", changed)


def unchecked(patch: pytest.MonkeyPatch) -> None:
    """Without the check that what is frozen can be read again: what the next guard says."""
    patch.setattr(mixing, "_check_frozen", lambda *_, **__: None)


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
    seen = mixture_decoder._Seen.__call__

    def written(self: Any, layer: int, key: Tensor, value: Tensor) -> Any:
        return seen(self, layer, key.detach(), value.detach())

    monkeypatch.setattr(mixture_decoder._Seen, "__call__", written)
    made = config(pack, llama, model=model)
    err = refused("TRAIN081", lambda: train(made, runs=tmp_path))
    assert err.context["names"] == where and "keys and values" in err.message
    assert failing(made, tmp_path / "preflight")["gradients"].code == "TRAIN081"


def test_d1_a_cache_in_training(pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def through_a_cache(self: MixtureDecoder, grid: Tensor, targets: Tensor, *_: Any, prefix: Prefix, **__: Any) -> Any:
        return self(grid, prefix=prefix, cache=self.make_cache(len(grid), grid.shape[1]))

    monkeypatch.setattr(MixtureDecoder, "loss", through_a_cache)
    refused("MODEL042", lambda: train(config(pack, llama), runs=tmp_path))


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
