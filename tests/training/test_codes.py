"""The task of code models, on a small real pack: its figures against plain loops, its demos, its resume."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes_toy import SPEC, ToyCodec, config, task, write_pack
from torch.nn import functional

from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs.events import curve, read_events
from partimento.sampling.rules import Rules
from partimento.tokens import counting
from partimento.tokens.edits import edit
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.training.engine import train
from partimento.training.player import Player


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("data") / "pack")


def test_a_model_of_a_cycle_beats_both_baselines(pack: Path, tmp_path: Path) -> None:
    run = train(config(pack, train={"steps": 120, "valid_every": 60}, demo={"temperatures": []}), runs=tmp_path)
    events = read_events(run.events_path)
    (baseline,) = [event for event in events if event["kind"] == "baseline"]
    bits = curve(events, "valid", "bits_per_second", weights="ema")
    assert bits[-1][1] < baseline["bigram_bits_per_second"] < baseline["unigram_bits_per_second"]
    assert len(baseline["data_entropy_K"]) == 3
    (record,) = [
        event for event in events if event["kind"] == "valid" and event["step"] == 120 and event["weights"] == "ema"
    ]
    assert record["bits_per_second"] == pytest.approx(50 * sum(record["ce_K"]) / math.log(2))
    assert min(record["entropy_K"]) >= 0 and max(record["entropy_K"]) <= math.log(16)
    assert 0 < curve(events, "train", "null_share")[-1][1] < 1
    assert run.record["identity"]["codec_weights"] == SPEC.weights and run.record["parameters"] > 1000


@pytest.mark.parametrize("pattern", ["delay", "flat", "parallel"])
def test_model_and_baselines_are_scored_on_the_same_codes(pack: Path, pattern: str) -> None:
    task_ = task(pack, model={"pattern": pattern}, train={"valid_items": 5})
    seen = [0, 0, 0]
    for batch in task_.valid:
        for book in range(3):
            seen[book] += int((batch.grid_BSK[:, 1:, book] < 16).sum())
    assert [sum(last - first for _, first, last in spans) for spans in task_._valid_targets] == seen
    task_.objective.eval()
    assert task_.evaluate()["codes"] == sum(seen)
    whole = counting.baselines(task_.pack)
    assert task_.baselines()["unigram_ce_K"] != whole.unigram_ce_K  # five windows are not the whole split


def test_the_figures_are_plain_cross_entropies(pack: Path) -> None:
    """Against a loop over rows and books, in float64, without weights, smoothing or padding."""
    task_ = task(pack)
    task_.objective.eval()
    with torch.no_grad():
        figures = task_.evaluate()
        sums, entropies, counts, eos = [0.0] * 3, [0.0] * 3, [0] * 3, []
        for batch in task_.valid:
            condition_BD = task_.module.condition(batch.tags_BG, batch.keep_B)
            logits = task_.module(batch.grid_BSK[:, :-1], condition_BD=condition_BD).double()
            for item in range(len(logits)):
                for step in range(logits.shape[1]):
                    for book in range(3):
                        target = int(batch.grid_BSK[item, step + 1, book])
                        if target <= 16:
                            ce = float(functional.cross_entropy(logits[item, step, book], torch.tensor(target)))
                            if target < 16:
                                sums[book] += ce
                                p = functional.softmax(logits[item, step, book, :16], dim=-1)
                                entropies[book] -= float((p * p.log()).sum())
                                counts[book] += 1
                            else:
                                eos.append(ce)
    assert figures["ce_K"] == pytest.approx([s / n for s, n in zip(sums, counts, strict=True)], rel=1e-5)
    assert figures["entropy_K"] == pytest.approx([e / n for e, n in zip(entropies, counts, strict=True)], rel=1e-5)
    assert figures["codes"] == sum(counts)
    assert eos, "some windows should hold an end"
    assert figures["eos_ce"] == (pytest.approx(float(np.mean(eos)), rel=1e-5) if eos else None)


def test_count_is_what_the_loss_sums_over(pack: Path) -> None:
    task_ = task(pack, model={"dropout": 0.0})
    for step in range(20):
        batch = task_.batch(step, 0)
        total, sums = task_.objective(*task_.inputs(batch))
        # An untrained model finds all outputs about equally likely.
        assert float(total.detach()) / task_.count(batch) == pytest.approx(math.log(17), rel=0.1)
        assert float(sums["tokens"]) == task_.count(batch)
        assert float(sums["null_items"] / sums["items"]) == pytest.approx(batch.null_share)


def test_a_validation_has_the_longest_windows_in_the_smallest_batch(pack: Path) -> None:
    """Of a curriculum: each alone fits the device, the longest windows in the largest batch may not."""
    alone, staged = task(pack), task(pack, train={"stages": [{"start": 2, "window": 64, "batch": 2}]})
    assert {tuple(batch.grid_BSK.shape[:2]) for batch in alone.valid} == {(4, 33)}
    assert {tuple(batch.grid_BSK.shape[:2]) for batch in staged.valid} == {(2, 65)}


def test_accumulated_gradients_are_those_of_the_whole_batch(pack: Path) -> None:
    """4 x batch 2 against batch 8, divided by the tokens of the whole step; windows at ends hold fewer tokens."""
    grads = []
    for optim in ({"batch": 8, "accumulate": 1}, {"batch": 2, "accumulate": 4}):
        task_ = task(pack, optim=optim, model={"dropout": 0.0})
        task_.module.train()
        batches = [task_.batch(4, micro) for micro in range(optim["accumulate"])]
        tokens = sum(task_.count(batch) for batch in batches)
        for batch in batches:
            (task_.objective(*task_.inputs(batch))[0] / tokens).backward()
        grads.append({name: weight.grad for name, weight in task_.module.named_parameters()})
    assert len({task_.count(batch) for batch in batches}) > 1, "the windows should differ in tokens"
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=2e-4, atol=2e-7, msg=name)


def test_resume_is_bit_for_bit_and_looking_does_not_disturb(pack: Path, tmp_path: Path) -> None:
    """One run in one go without a look; one in two pieces, with validation, demos and checkpoints everywhere."""
    rare = {"valid_every": 100, "save_every": 100}
    quiet = train(config(pack, train=rare, demo={"temperatures": []}), runs=tmp_path, run="quiet")
    busy = config(pack, train={"valid_every": 1, "save_every": 1, "keep": 20}, demo={"every": 2, "seconds": 0.2})
    run = train(busy, runs=tmp_path, run="busy")
    for path in checkpoint.visible(run.checkpoints_path)[3:]:
        checkpoint.set_aside(path)
    again = train(busy, runs=tmp_path, run="busy")
    assert [event["step"] for event in read_events(again.events_path) if event["kind"] == "resume"] == [3]
    traces = [curve(read_events(r.events_path), "train", "loss") for r in (quiet, again)]
    assert traces[0] == traces[1]
    ends = [checkpoint.load(checkpoint.visible(r.checkpoints_path)[-1]).parts for r in (quiet, again)]
    assert ends[0].keys() == ends[1].keys() == {"model", "ema", "optimizer", "guard"}
    for part in ends[0]:
        for name, tensor in ends[0][part].items():
            torch.testing.assert_close(ends[1][part][name], tensor, rtol=0, atol=0, equal_nan=True)


def test_a_changed_pack_under_an_old_checkpoint_is_refused(tmp_path: Path) -> None:
    quick = {"steps": 2, "valid_items": 2}
    train(config(write_pack(tmp_path / "a"), train=quick, demo={"temperatures": []}), runs=tmp_path, run="r")
    other = config(write_pack(tmp_path / "b", seed=1), train=quick, demo={"temperatures": []})
    with pytest.raises(PartimentoError, match="TRAIN002") as caught:
        train(other, runs=tmp_path, run="r")
    assert "fingerprint" in caught.value.message
    # The same pack at another place is the same data.
    (tmp_path / "a").rename(tmp_path / "moved")
    train(config(tmp_path / "moved", train=quick, demo={"temperatures": []}), runs=tmp_path, run="r")


def test_a_refused_resume_says_that_tags_were_edited(tmp_path: Path) -> None:
    quick = config(write_pack(tmp_path / "a"), train={"steps": 2, "valid_items": 2}, demo={"temperatures": []})
    train(quick, runs=tmp_path, run="r")
    name = Pack.open(tmp_path / "a").clips.clip[0]
    edit(tmp_path / "a", {name: {"caption": "a waltz"}}, why="captions written")
    train(quick, runs=tmp_path, run="r")  # no model has seen a caption: it is the same data
    edit(tmp_path / "a", {name: {"tags": ["waltz"]}}, why="a wrong tag")
    with pytest.raises(PartimentoError, match="TRAIN002") as caught:
        train(quick, runs=tmp_path, run="r")
    assert "since then: edit (a wrong tag)" in (caught.value.why or "")


def test_another_codec_is_refused_before_the_training(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CodecSpec("toy", "cd" * 32, 8000, Fraction(50), SPEC.cardinalities)
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec(other))
    with pytest.raises(PartimentoError, match="TRAIN007"):
        train(config(pack), runs=tmp_path)
    assert not list(tmp_path.glob("*rvq*")), "no run is begun that cannot end"


def test_a_window_longer_than_every_clip_is_told(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="PACK007"):
        train(config(pack, data={"window": 1000}), runs=tmp_path)


def test_an_untagged_pack_trains_unconditionally(tmp_path: Path) -> None:
    bare = write_pack(tmp_path / "bare", tags=False)
    run = train(config(bare, train={"steps": 2}, demo={"seconds": 0.2}), runs=tmp_path)
    events = read_events(run.events_path)
    assert curve(events, "train", "null_share") == []
    assert checkpoint.load(checkpoint.newest(run.checkpoints_path), ()).state["description"]["words"]["tags"] == []


@pytest.mark.parametrize("pattern", ["flat", "parallel", [0, 2, 5]])
def test_every_pattern_trains_and_plays(pack: Path, tmp_path: Path, pattern: Any) -> None:
    run = train(config(pack, model={"pattern": pattern}, train={"steps": 2}, demo={"seconds": 0.3}), runs=tmp_path)
    assert (run.demos_path / "step-000000002" / "demos.json").exists()


def test_a_player_without_averages_must_be_asked_for_the_raw_ones(pack: Path, tmp_path: Path) -> None:
    run = train(config(pack, optim={"ema": 0.0}, train={"steps": 2}, demo={"seconds": 0.2}), runs=tmp_path)
    path = checkpoint.newest(run.checkpoints_path)
    with pytest.raises(PartimentoError, match="CKPT004"):
        Player.from_checkpoint(path)
    assert len(Player.from_checkpoint(path, "raw").play(frames=10, seeds=[3], rules=Rules())) == 1
    told = json.loads((run.demos_path / "step-000000002" / "demos.json").read_text())["demos"]
    assert {e["weights"] for e in told if e["kind"] == "played"} == {"raw"}


def test_a_selection_bounds_the_training_the_vocabulary_and_the_identity(pack: Path) -> None:
    opened = Pack.open(pack)
    tags = opened.clips.tags
    held_out = tags[int(opened.split("valid")[0])][0]
    task_ = task(pack, data={"with_tags": [held_out]})
    assert {tags[clip][0] for clip, _ in task_.batch(0, 0).items + task_.valid[0].items} == {held_out}
    assert task_.train.tag_vocabulary == [held_out] and task_.module.config.tags == 1
    assert task_.identity["selection"]["with_tags"] == [held_out] and "selection" not in task(pack).identity
    assert task_.baselines() != task(pack).baselines()
    assert task_._demos is not None and tags[task_._demos.clip][0] == held_out
    with pytest.raises(PartimentoError, match="TAGS003"):
        task(pack, data={"with_tags": ["fas"]})
    with pytest.raises(PartimentoError, match="TAGS008"):
        task(pack, data={"licence": "attribution"})
    with pytest.raises(PartimentoError, match="LICENCE004"):
        task(pack, data={"licence": "attributoin"})


def test_a_budget_bears_damage_and_logs_it(tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "pack")
    opened = Pack.open(folder)
    clip = int(opened.split("train")[2])
    with (folder / opened.shards[int(opened.clips.shard[clip])].file).open("r+b") as stream:
        stream.seek(64 + 6 * int(opened.clips.first_frame[clip]))
        stream.write(b"\x0f")
    quiet = {"demo": {"temperatures": []}}
    with pytest.raises(PartimentoError, match="PACK004"):
        train(config(folder, train={"steps": 40}, **quiet), runs=tmp_path / "strict")
    run = train(config(folder, data={"corrupt_budget": 1}, train={"steps": 40}, **quiet), runs=tmp_path / "budget")
    assert curve(read_events(run.events_path), "train", "corrupt_clips")[-1][1] == 1
