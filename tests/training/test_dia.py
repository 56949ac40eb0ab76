"""The `dia` family on the engine: it learns what its words mean, and is told the same null everywhere."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_codes import SPEC, ToyCodec
from torch import Tensor

from partimento.config import DiaConfig, parse
from partimento.errors import PartimentoError
from partimento.models.conditions import Told
from partimento.models.dia import TextModel
from partimento.runs import checkpoint, published
from partimento.runs.events import curve, read_events
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.tokens.text import NO_WORDS, Words
from partimento.tokens.writer import PackWriter
from partimento.training import building
from partimento.training.engine import train
from partimento.training.player import Player
from partimento.training.publish import export_weights
from partimento.training.tasks.codes import CodesTask

GREEDY = Rules(temperature=0.0)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cycles whose stride is the clip's tag, up or down by its caption."""
    folder = tmp_path_factory.mktemp("data") / "pack"
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, SPEC)
    for clip in range(24):
        stride = (1 + clip % 2) * (1 if clip % 4 < 2 else -1)
        walk = (np.arange(int(rng.integers(150, 250))) * stride + rng.integers(0, 12)) % 12
        codes_TK = np.stack([walk, (walk + 3) % 12, (walk * 5) % 12], axis=1)
        caption = {0: "climbing", 1: "falling"}[clip % 4 // 2]
        writer.add(codes_TK, clip=f"clip{clip}.wav", tags=["fast" if clip % 2 else "slow"], caption=caption)
    writer.finish()
    return folder


def config(pack: Path, **sections: dict[str, Any]) -> DiaConfig:
    tree: dict[str, Any] = {
        "family": "dia",
        "data": {"pack": str(pack), "window": 24, "null_share": 0.2},
        "model": {"width": 32, "layers": 2, "heads": 2, "text_width": 16, "text_layers": 1, "text_heads": 2},
        "optim": {"batch": 8, "lr": 0.01, "warmup": 5, "ema": 0.9},
        "train": {"steps": 8, "valid_every": 4, "save_every": 4, "log_every": 2, "valid_items": 10, "device": "cpu"},
        "demo": {"temperatures": []},
    }
    for name, values in sections.items():
        tree[name] |= values
    made = parse(tree)
    assert isinstance(made, DiaConfig)
    return made


def player_of(run: Path) -> Player:
    found = checkpoint.newest(run / "checkpoints", note=print)
    assert found is not None
    return Player.from_checkpoint(found)


def strides(codes_TK: Tensor) -> Tensor:
    """Of the cycle in book 0, once it is settled."""
    return (codes_TK[8:, 0].diff() % 12).mode().values


@pytest.mark.parametrize("tag_tokens", [True, False])
def test_it_plays_what_tags_and_text_ask_for(pack: Path, tmp_path: Path, tag_tokens: bool) -> None:
    asked = config(
        pack,
        data={"window": 12},
        # With delays a row shows several frames of the cycle, and there is nothing left to be told.
        model={"tag_tokens": tag_tokens, "text_length": 24, "pattern": "parallel"},
        train={"steps": 250, "valid_every": 250, "save_every": 250},
    )
    run = train(asked, runs=tmp_path)
    share = [value for _, value in curve(read_events(run.events_path), "train", "null_share")]
    assert abs(np.mean(share) - 0.2) < 0.05
    player = player_of(run.path)
    words = {1: "slow | climbing", 2: "fast | climbing", 11: "slow | falling", 10: "fast | falling"}
    played = player.play(
        frames=40,
        seeds=range(4),
        rules=GREEDY,
        words=[Words.parse(line) for line in words.values()],
        guidance=Guidance(2.0),
    )
    assert [int(strides(one.codes_TK)) for one in played] == list(words)
    alone = player.play(frames=40, seeds=[2], rules=GREEDY, words=Words.parse(words[11]), guidance=Guidance(2.0))
    assert torch.equal(alone[0].codes_TK, played[2].codes_TK), "an item does not depend on its batch"


def test_the_null_condition_is_one(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dropped item is told in training, what one without words is told in a validation, and what the player
    tells for the other side of the guidance are the same tensors, for both kinds of null."""
    for kind in ("empty", "zeros"):
        torch.manual_seed(0)
        task = CodesTask(config(pack, model={"null": kind}), torch.device("cpu"))
        batch = next(b for step in range(50) if not (b := task.batch(step, 0)).keep_B.all() and b.keep_B.any())
        seen: list[Told] = []
        told = TextModel.told

        def spy(self: TextModel, *args: Tensor) -> Told:
            seen.append(told(self, *args))  # noqa: B023
            return seen[-1]  # noqa: B023

        monkeypatch.setattr(TextModel, "told", spy)
        task.objective.train()(*task.inputs(batch))
        monkeypatch.setattr(TextModel, "told", told)
        (trained,) = seen
        dropped = int((~batch.keep_B).nonzero()[0])
        null = task.player.told([batch.words_B[dropped]])[1]
        other = task.player.told([NO_WORDS])[0]
        for one in (null, other) if kind == "empty" else (null,):
            assert one.mask_BM is not None and trained.mask_BM is not None
            assert torch.equal(one.mask_BM[0], trained.mask_BM[dropped])
            assert torch.equal(one.memory_BMD[0], trained.memory_BMD[dropped])
        assert bool(null.mask_BM.any()) == (kind == "zeros")
        assert bool(other.mask_BM.all()) == (kind == "zeros")
        kept = int(batch.keep_B.nonzero()[0])
        mine = task.player.told([batch.words_B[kept]])[0]
        assert torch.equal(mine.memory_BMD[0], trained.memory_BMD[kept])


def test_resume_is_bit_for_bit(pack: Path, tmp_path: Path) -> None:
    whole = train(config(pack, model={"dropout": 0.1}), runs=tmp_path / "a", run="r")
    train(config(pack, model={"dropout": 0.1}, train={"max_minutes": 1e-9}), runs=tmp_path / "b", run="r")
    parts = train(config(pack, model={"dropout": 0.1}), runs=tmp_path / "b", run="r")
    one, two = (checkpoint.newest(run.path / "checkpoints", note=print) for run in (whole, parts))
    assert one is not None and two is not None and one.name == two.name
    for part in ("model", "ema", "optimizer"):
        first, second = (checkpoint.load(path, (part,)).parts[part] for path in (one, two))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_stored_is_enough_to_play(pack: Path, tmp_path: Path) -> None:
    run = train(config(pack), runs=tmp_path)
    found = checkpoint.newest(run.path / "checkpoints", note=print)
    assert found is not None
    stored = checkpoint.load(found, ()).state["description"]
    assert stored["family"] == "dia" and stored["guidance"] == {"convention": "u + s (c - u)", "rule": "mix"}
    assert stored["null_share"] == pytest.approx(0.2) and stored["model"]["null"] == "empty"
    assert stored["words"] == {"kind": "bytes", "length": 64, "tags": ["fast", "slow"]}
    player = player_of(run.path)
    assert player.description() == stored


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"demo": {"temperatures": [1.0], "prompts": ["fsat"]}}, "TOKEN003"),
        ({"demo": {"temperatures": [1.0], "prompts": ["| " + "x" * 99]}}, "TEXT001"),
        (
            {"demo": {"temperatures": [1.0], "prompts": ["fast"], "guidance": [3.0]}, "data": {"null_share": 0.0}},
            "SAMPLE005",
        ),
        ({"demo": {"temperatures": [1.0]}, "data": {"null_share": 0.0}}, "SAMPLE005"),
        ({"model": {"freeze": ["encoder"]}}, "CONFIG003"),
        ({"model": {"weights": "w", "width": 64}}, "CONFIG003"),
        ({"model": {"weights": "w", "lora_alpha": 8.0}}, "CONFIG003"),
    ],
)
def test_what_cannot_be_is_told_before_the_first_step(
    pack: Path, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(PartimentoError) as refused:
        train(config(pack, **changes), runs=tmp_path)
    assert refused.value.code == code


def test_long_captions_are_cut_and_counted(pack: Path) -> None:
    torch.manual_seed(0)
    task = CodesTask(config(pack, model={"text_length": 8}), torch.device("cpu"))  # a tag and "falling", not "climbing"
    climbing = sum(task.pack.clips.caption[clip] == "climbing" for clip in task.train.clips.tolist())
    assert task.notes == [f"{climbing} of {len(task.train.clips)} texts are longer than 8 ids, and are cut there"]
    assert not CodesTask(config(pack), torch.device("cpu")).notes


def test_who_never_met_a_caption_is_not_asked_to_read(pack: Path, tmp_path: Path) -> None:
    """Bytes that were never told mean nothing; spelled tags are bytes."""
    asked = Words(("fast",), "climbing")
    for changes, reads in (({}, True), ({"data": {"text": "tags"}}, False)):
        for spelled in (False, True):
            task = CodesTask(config(pack, model={"tag_tokens": not spelled}, **changes), torch.device("cpu"))
            assert task.player.require(Words(("fast",))) and building.coder(task.coder.to_json()) == task.coder
            if reads or spelled:
                assert task.player.require(asked) == asked
                continue
            with pytest.raises(PartimentoError) as refused:
                task.player.require(asked)
            assert refused.value.code == "TEXT003"
    run = train(config(pack, data={"text": "tags"}), runs=tmp_path)
    assert not player_of(run.path).coder.reads
    export_weights(run.path, tmp_path / "start")
    for text in ("tags", "both"):
        tree = started(pack, tmp_path / "start").model_dump(mode="json")
        tree["data"]["text"] = text
        assert CodesTask(parse(tree), torch.device("cpu")).coder.reads == (text == "both"), "captions teach it"


@pytest.fixture(scope="module")
def weights(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of a run, to start others from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())
        folder = tmp_path_factory.mktemp("weights")
        run = train(config(pack), runs=folder)
        export_weights(run.path, folder / "start")
    return folder / "start"


def started(pack: Path, weights: Path, **model: Any) -> DiaConfig:
    tree = config(pack).model_dump(mode="json")
    return parse({**tree, "model": {"weights": str(weights), **model}})  # type: ignore[return-value]


def parts_of(run: Path, part: str) -> dict[str, Tensor]:
    found = checkpoint.newest(run / "checkpoints", note=print)
    assert found is not None
    return checkpoint.load(found, (part,)).parts[part]


def test_a_fine_tune_begins_with_the_weights(pack: Path, weights: Path, tmp_path: Path) -> None:
    base = published.read(weights)
    torch.manual_seed(5)
    task = CodesTask(started(pack, weights), torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(task.module.parameters(), base.module().parameters(), strict=True))
    assert task.player.knows_null and task.coder == base.coder()
    run = train(started(pack, weights), runs=tmp_path)
    player = player_of(run.path)
    assert player.description()["base"]["sha256"] == base.sha256
    assert len(player.play(frames=10, seeds=[1], rules=GREEDY, words=Words(("fast",)))[0].codes_TK) <= 10


def test_adapters_are_all_that_is_trained_and_kept(pack: Path, weights: Path, tmp_path: Path) -> None:
    run = train(started(pack, weights, lora_rank=2), runs=tmp_path)
    kept = parts_of(run.path, "model")
    assert kept and all("lora" in name for name in kept)
    assert any(bool(value.any()) for name, value in kept.items() if name.endswith("lora_B")), "they learned something"
    assert set(parts_of(run.path, "ema")) == set(kept)
    player, base = player_of(run.path), dict(published.read(weights).module().named_parameters())
    merged = dict(player.module.named_parameters())
    assert merged.keys() == base.keys(), "merged for playing"
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed and all(".attention." in name or ".cross." in name for name in changed)
    export_weights(run.path, tmp_path / "out")
    again = dict(published.read(tmp_path / "out").module().named_parameters())
    assert all(torch.equal(again[name], merged[name]) for name in merged)


def test_a_run_with_frozen_weights_needs_their_folder(pack: Path, weights: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(weights, start)
    run = train(started(pack, start, freeze=["^encoder"]), runs=tmp_path / "runs")
    assert not any(name.startswith("encoder") for name in parts_of(run.path, "model"))
    start.rename(tmp_path / "elsewhere")
    with pytest.raises(PartimentoError) as refused:
        player_of(run.path)
    assert refused.value.code == "WEIGHTS001"
    moved = started(pack, tmp_path / "elsewhere", freeze=["^encoder"])
    train(moved, runs=tmp_path / "runs", run=run.id)  # goes on: the contents count, not the place
    with pytest.raises(PartimentoError) as refused:
        train(started(pack, weights, freeze=["no such weight"]), runs=tmp_path / "runs2")
    assert refused.value.code == "TRAIN059"


def test_a_window_longer_than_the_weights_have_positions_for(pack: Path, weights: Path, tmp_path: Path) -> None:
    tree = started(pack, weights).model_dump(mode="json")
    tree["data"]["window"] = 25
    with pytest.raises(PartimentoError) as refused:
        train(parse(tree), runs=tmp_path)
    assert refused.value.code == "MODEL004" and not list(tmp_path.iterdir()), "before there is a run"


def test_a_run_that_trained_everything_needs_no_folder(pack: Path, weights: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(weights, start)
    run = train(started(pack, start), runs=tmp_path / "runs")
    before = player_of(run.path).module.state_dict()
    shutil.rmtree(start)
    after = player_of(run.path).module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in after)


def as_stereo(mono: Pack, to: Path, layout: str, books: tuple[int, int]) -> Path:
    """The same codes in both channels, where they have as many books."""
    spec = CodecSpec("toy", "ab" * 32, 8000, Fraction(50), (16,) * sum(books), layout=layout, books=books)
    writer = PackWriter(to, spec)
    for clip in range(len(mono.clips)):
        codes_TK = mono.read(clip, 0, int(mono.clips.frames[clip]))
        both_TK = np.hstack([codes_TK, codes_TK])[:, : sum(books)]
        writer.add(both_TK, clip=mono.clips.clip[clip], tags=mono.clips.tags[clip], caption=mono.clips.caption[clip])
    writer.finish()
    return to


@pytest.mark.parametrize(
    "model", [{"freeze": ["^encoder", "blocks"]}, {"lora_rank": 2, "lora_targets": ["attention", "head"]}]
)
def test_frozen_weights_of_stereo_from_mono_are_the_same_for_playing(
    pack: Path, weights: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    """What the player rebuilds (mono made stereo, frozen, adapters merged) scores what the training measured."""
    stereo = as_stereo(Pack.open(pack), tmp_path / "stereo", "left-right", (3, 3))
    run = train(started(stereo, weights, **model), runs=tmp_path)
    measured = [ce for _, ce in curve(read_events(run.events_path), "valid", "ce_K")][-1]
    task = CodesTask(started(stereo, weights), torch.device("cpu"))
    task.module.load_state_dict(player_of(run.path).module.state_dict())
    task.objective.eval()
    with torch.no_grad():
        assert task.evaluate()["ce_K"] == pytest.approx(measured, abs=1e-5)


def test_columns_of_another_meaning_are_refused(pack: Path, tmp_path: Path) -> None:
    """As many books in all, but not of the same channels."""
    mono = Pack.open(pack)
    config_ = config(as_stereo(mono, tmp_path / "stereo", "left-right", (3, 3)), train={"steps": 2})
    export_weights(train(config_, runs=tmp_path).path, tmp_path / "weights")
    for number, (layout, books) in enumerate([("mid-side", (3, 3)), ("left-right", (4, 2))]):
        other = as_stereo(mono, tmp_path / f"other{number}", layout, books)
        with pytest.raises(PartimentoError) as refused:
            CodesTask(started(other, tmp_path / "weights"), torch.device("cpu"))
        assert refused.value.code == "TRAIN058"


@pytest.mark.parametrize(
    ("codec", "tags", "notes"),
    [
        (("toy", "ab" * 32), ["fast"], []),
        (("toy", "cd" * 32), ["fast"], ["another toy"]),
        (("other", "cd" * 32), ["fast"], ["of toy"]),
        (("toy", "ab" * 32), ["fast", "dark"], ["1 of 2 tags have no id in the weights, and are not told: dark"]),
    ],
)
def test_what_weights_cannot_know_of_a_pack_is_said(
    weights: Path, tmp_path: Path, codec: tuple[str, str], tags: list[str], notes: list[str]
) -> None:
    writer = PackWriter(tmp_path / "pack", CodecSpec(*codec, 8000, Fraction(50), (16,) * 3))
    for clip in range(24):
        writer.add(np.random.default_rng(clip).integers(0, 16, (100, 3)), clip=f"clip{clip}.wav", tags=tags)
    writer.finish()
    found = CodesTask(started(tmp_path / "pack", weights), torch.device("cpu")).notes
    assert len(found) == len(notes) and all(note in one for one, note in zip(found, notes, strict=True))


@pytest.mark.parametrize(("layout", "books"), [("left-right", (3, 3)), ("mid-side", (3, 2))])
def test_stereo_begins_with_the_loss_of_mono(
    pack: Path, weights: Path, tmp_path: Path, layout: str, books: tuple[int, int]
) -> None:
    mono = Pack.open(pack)
    spec = CodecSpec("toy", "ab" * 32, 8000, Fraction(50), (16,) * sum(books), layout=layout, books=books)
    writer = PackWriter(tmp_path / "stereo", spec)
    for clip in range(len(mono.clips)):
        codes_TK = mono.read(clip, 0, int(mono.clips.frames[clip]))
        other_TK = codes_TK if layout == "left-right" else np.full((len(codes_TK), books[1]), clip % 16)
        tags, caption = mono.clips.tags[clip], mono.clips.caption[clip]
        writer.add(np.hstack([codes_TK, other_TK]), clip=mono.clips.clip[clip], tags=tags, caption=caption)
    writer.finish()
    figures = {}
    for folder in (pack, tmp_path / "stereo"):
        task = CodesTask(started(folder, weights), torch.device("cpu"))
        task.objective.eval()
        with torch.no_grad():
            figures[folder] = task.evaluate()["ce_K"]
        assert (len(task.notes) == 1) == (folder != pack)
    both = figures[tmp_path / "stereo"]
    assert both[:3] == pytest.approx(figures[pack], abs=1e-5)
    if layout == "left-right":
        assert both[3:] == pytest.approx(figures[pack], abs=1e-5)


@pytest.mark.parametrize(
    ("codec", "rate", "what"), [("toy", 16000, "sample rate"), ("resident-44k", 8000, "codec toy")]
)
def test_weights_of_other_codes_are_refused(weights: Path, tmp_path: Path, codec: str, rate: int, what: str) -> None:
    writer = PackWriter(tmp_path / "pack", CodecSpec(codec, "ab" * 32, rate, Fraction(50), (16,) * 3))
    for clip in range(12):
        writer.add(np.zeros((100, 3)), clip=f"{clip}.wav")
    writer.finish()
    with pytest.raises(PartimentoError) as refused:
        CodesTask(started(tmp_path / "pack", weights), torch.device("cpu"))
    assert refused.value.code == "TRAIN058" and what in refused.value.message
