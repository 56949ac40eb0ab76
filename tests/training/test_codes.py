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
from torch.nn import functional

from partimento import commit
from partimento.audio import files
from partimento.codecs.codec import decode_whole
from partimento.config import RvqConfig, parse
from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs.events import curve, read_events
from partimento.sampling import probe
from partimento.sampling.rules import Rules
from partimento.tokens import counting
from partimento.tokens.edits import edit
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training.ema import judged
from partimento.training.engine import train
from partimento.training.player import Player
from partimento.training.tasks.codes import CodesTask

SPEC = CodecSpec("toy", "ab" * 32, 8000, Fraction(50), (16, 16, 16))


class ToyCodec:
    """Each frame sounds as a level that follows its first code."""

    context_frames = 0

    def __init__(self, spec: CodecSpec = SPEC) -> None:
        self.spec = spec

    def encode(self, wave_BCN: torch.Tensor) -> torch.Tensor:
        raise AssertionError("demos decode only")

    def decode(self, codes_BTK: torch.Tensor) -> torch.Tensor:
        return (codes_BTK[:, None, :, 0].float() / 16).repeat_interleave(160, dim=-1)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_pack(folder: Path, *, seed: int = 0, tags: bool = True) -> Path:
    """Twelve clips of a noisy cycle: predictable from the frame before, not from counts alone."""
    rng = np.random.default_rng(seed)
    writer = PackWriter(folder, SPEC)
    for clip in range(12):
        frames = int(rng.integers(150, 320))
        walk = (np.arange(frames) * (1 + clip % 2) + rng.integers(0, 12)) % 12
        codes_TK = np.stack([walk, (walk + 3) % 12, (walk * 5) % 12], axis=1)
        noise = rng.random(codes_TK.shape) < 0.1
        codes_TK[noise] = rng.integers(0, 12, int(noise.sum()))
        writer.add(codes_TK, clip=f"clip{clip}.wav", tags=["fast" if clip % 2 else "slow"] if tags else [])
    writer.finish()
    return folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("data") / "pack")


def config(pack: Path, **sections: dict[str, Any]) -> RvqConfig:
    tree: dict[str, Any] = {
        "family": "rvq",
        "data": {"pack": str(pack), "window": 32, "tag_dropout": 0.1},
        "model": {"width": 32, "layers": 2, "heads": 2, "dropout": 0.1},
        "optim": {"batch": 4, "lr": 0.01, "warmup": 5, "ema": 0.9},
        "train": {"steps": 8, "valid_every": 4, "save_every": 4, "log_every": 2, "valid_items": 10, "device": "cpu"},
        "demo": {"seconds": 1.0, "seeds": [0, 1]},
    }
    for name, values in sections.items():
        tree[name] |= values
    made = parse(tree)
    assert isinstance(made, RvqConfig)
    return made


def task(pack: Path, **sections: dict[str, Any]) -> CodesTask:
    torch.manual_seed(0)
    return CodesTask(config(pack, **sections), torch.device("cpu"))


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
    assert task_.baselines() != counting.baselines(task_.pack).to_json()  # five windows are not the whole split


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


def test_an_unknown_demo_tag_is_told_before_the_training(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="TOKEN003"):
        train(config(pack, demo={"tags": ["fats"]}), runs=tmp_path)
    with pytest.raises(PartimentoError, match="TOKEN003"):
        train(config(pack, model={"tags": False}, demo={"tags": ["fast"]}), runs=tmp_path)


def test_a_window_longer_than_every_clip_is_told(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="PACK007"):
        train(config(pack, data={"window": 1000}), runs=tmp_path)


def test_an_untagged_pack_trains_unconditionally(tmp_path: Path) -> None:
    bare = write_pack(tmp_path / "bare", tags=False)
    run = train(config(bare, train={"steps": 2}, demo={"seconds": 0.2}), runs=tmp_path)
    events = read_events(run.events_path)
    assert curve(events, "train", "null_share") == []
    assert checkpoint.load(checkpoint.newest(run.checkpoints_path), ()).state["description"]["tags"] == []


@pytest.mark.parametrize("pattern", ["flat", "parallel", [0, 2, 5]])
def test_every_pattern_trains_and_plays(pack: Path, tmp_path: Path, pattern: Any) -> None:
    run = train(config(pack, model={"pattern": pattern}, train={"steps": 2}, demo={"seconds": 0.3}), runs=tmp_path)
    assert (run.demos_path / "step-000000002" / "demos.json").exists()


def test_demos_hold_what_the_report_shows(pack: Path, tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    demo = {"tags": ["fast"], "recordings": str(recordings)}
    probe_task = task(pack)
    name = probe_task.pack.clips.clip[probe_task._demos.clip]
    wave_CN = np.zeros((2, 16000), dtype=np.float32)
    recordings.mkdir()
    files.write(recordings / name, wave_CN, 8000)
    run = train(config(pack, demo=demo), runs=tmp_path)
    (folder,) = run.demos_path.iterdir()
    told = json.loads((folder / "demos.json").read_text())
    assert told["step"] == 8 and "is not the file that was encoded" in told["original_missing"]
    entries = told["demos"]
    played = [(e["weights"], e["temperature"], e["seed"]) for e in entries if e["kind"] == "played"]
    expected = {("ema", 0.0, 0), ("ema", 0.5, 0), ("ema", 0.5, 1), ("ema", 1.0, 0), ("ema", 1.0, 1), ("raw", 1.0, 0)}
    assert set(played) == expected | {("raw", 1.0, 1)} and len(played) == 7
    assert sorted(e["kind"] for e in entries if e["kind"] != "played") == ["continuation", "reconstruction"]
    for entry in entries:
        audio = files.read(folder / entry["file"])
        assert audio.sample_rate == 8000 and audio.wave_CN.shape[-1] == entry["frames"] * 160
        metrics = entry["metrics"]
        assert len(metrics["entropy_K"]) == len(metrics["coverage_K"]) == len(metrics["repetition"]) == 3
        assert (
            metrics["peak"] == pytest.approx(float(np.abs(audio.wave_CN).max()), abs=1e-4) and metrics["clipped"] == 0
        )
    assert {f.name for f in folder.iterdir()} == {e["file"] for e in entries} | {"demos.json"}
    (continuation,) = [e for e in entries if e["kind"] == "continuation"]
    assert continuation["prompt"] == f"{name}, first 2.0 s" and continuation["frames"] > 100
    # Its beginning is the recording's.
    codes_TK = probe_task.pack.read(probe_task._demos.clip, 0, 100)
    begin = files.read(folder / continuation["file"]).wave_CN[:, :16000]
    np.testing.assert_allclose(begin, decode_whole(ToyCodec(), codes_TK), atol=1e-4)


def test_metrics_of_a_continuation_are_of_what_was_played(pack: Path, tmp_path: Path) -> None:
    demos = task(pack)._demos
    rng = np.random.default_rng(0)
    codes_TK = np.concatenate([np.zeros((40, 3), dtype=np.int64), rng.integers(0, 16, (60, 3))])
    metrics = demos._write(tmp_path / "a.flac", codes_TK, prompt=40)["metrics"]
    assert metrics["entropy_K"] == probe.entropy(codes_TK[40:], 16).tolist()


def test_the_original_is_shown_where_it_is_the_file_that_was_encoded(tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    writer = PackWriter(tmp_path / "pack", SPEC)
    rng = np.random.default_rng(0)
    for clip in range(6):
        writer.add(rng.integers(0, 12, (200, 3)), clip=f"{clip}.wav")
        files.write(recordings / f"{clip}.wav", rng.uniform(-0.5, 0.5, (2, 44100)).astype(np.float32), 11025)
    writer._rows = [
        type(row)(**{**row.__dict__, "sha256": commit.sha256(recordings / row.clip)}) for row in writer._rows
    ]
    writer.finish()
    made = config(tmp_path / "pack", train={"steps": 1}, demo={"recordings": str(recordings), "seconds": 1.0})
    run = train(made, runs=tmp_path)
    folder = run.demos_path / "step-000000001"
    told = json.loads((folder / "demos.json").read_text())
    assert told["original_missing"] is None and told["demos"][0]["kind"] == "original"
    audio = files.read(folder / "original.flac")
    assert audio.wave_CN.shape == (2, 11025)
    source = files.read(recordings / told["demos"][0]["clip"]).wave_CN[:, :11025]
    np.testing.assert_allclose(audio.wave_CN, source, atol=1e-4)


def test_demos_are_the_same_whoever_asks_and_touch_no_generator(pack: Path, tmp_path: Path) -> None:
    run = train(config(pack), runs=tmp_path)
    task_ = task(pack)
    path = checkpoint.newest(run.checkpoints_path)
    told = json.loads((run.demos_path / "step-000000008" / "demos.json").read_text())["demos"]
    before = torch.get_rng_state()
    for weights in ("ema", "raw"):
        player = Player.from_checkpoint(path, weights)
        items = player.play(frames=50, seeds=[0, 1], rules=Rules(temperature=1.0))
        for seed, item in enumerate(items):
            (entry,) = [
                e
                for e in told
                if e["kind"] == "played" and (e["weights"], e["temperature"], e["seed"]) == (weights, 1.0, seed)
            ]
            wave_CN = files.read(run.demos_path / "step-000000008" / entry["file"]).wave_CN
            np.testing.assert_allclose(wave_CN, decode_whole(ToyCodec(), item.codes_TK.numpy()), atol=1e-4)
    assert task_.description == Player.from_checkpoint(path).description()
    task_.demos(tmp_path / "again", 8, lambda which: judged(task_.module, None))
    assert torch.equal(before, torch.get_rng_state())


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
