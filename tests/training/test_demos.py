"""Demos: what is asked is played, under its name, with its figures and the data's; the training does not notice."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes_toy import SPEC, ToyCodec, config, task, write_pack

from partimento import commit
from partimento.audio import files
from partimento.codecs.codec import decode_whole
from partimento.config import Demo
from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs import demos as sheet
from partimento.runs.events import curve, read_events
from partimento.sampling import probe
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.tokens.pack import Pack
from partimento.tokens.text import Words
from partimento.tokens.writer import PackWriter
from partimento.training.demos import _at_once, _beside, figures
from partimento.training.demos.figures import Yardstick
from partimento.training.demos.plan import MOST_ITEMS, rounds, slugs
from partimento.training.ema import judged
from partimento.training.engine import train
from partimento.training.player import Player

DIA = {"width": 32, "layers": 2, "heads": 2, "dropout": 0.1, "text_width": 16, "text_layers": 1, "text_heads": 2}


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


def content(folder: Path) -> Any:
    return json.loads((folder / "demos.json").read_text())


def played(told: Any) -> dict[tuple[Any, ...], Any]:
    """The items played from nothing by (weights, temperature, guidance, seed, words); none twice."""
    found = {
        (e["weights"], e["temperature"], e["guidance"], e["seed"], str(Words(tuple(e["words"]["tags"])))): e
        for e in told["demos"]
        if e["kind"] == "played"
    }
    assert len(found) == sum(e["kind"] == "played" for e in told["demos"])
    return found


# What is asked


def test_every_prompt_is_played_at_every_temperature_guidance_and_seed(pack: Path, tmp_path: Path) -> None:
    demo = {"prompts": ["fast", "slow", ""], "guidance": [1.0, 3.0], "seeds": [0, 7], "seconds": 0.2}
    run = train(config(pack, demo=demo, train={"steps": 2}), runs=tmp_path)
    folder = run.demos_path / "step-000000002"
    found = played(content(folder))
    expected = set()
    for words in ("fast", "slow", ""):
        for scale in (1.0, 3.0) if words else (1.0,):  # nothing has nothing to be guided to
            expected.add(("ema", 0.0, scale, 0, words))  # greedy is the same for every seed
            for seed in (0, 7):
                expected |= {(w, t, scale, seed, words) for w, t in (("ema", 0.5), ("ema", 1.0), ("raw", 1.0))}
    assert set(found) == expected
    assert found["ema", 1.0, 3.0, 7, "fast"]["file"] == "ema_fast_t1_g3_seed7.flac"
    assert found["ema", 0.0, 1.0, 0, ""]["file"] == "ema_null_t0_g1_seed0.flac"
    assert {f.name for f in folder.iterdir()} == {e["file"] for e in content(folder)["demos"]} | {"demos.json"}


def test_an_item_is_what_the_player_plays_alone(pack: Path, tmp_path: Path) -> None:
    """Prompts, seeds and weights do not get mixed up in the batches."""
    demo = {"prompts": ["fast", "", "slow"], "guidance": [2.0], "seeds": [4, 1], "temperatures": [1.0], "seconds": 0.5}
    run = train(config(pack, demo=demo, train={"steps": 4}), runs=tmp_path)
    folder = run.demos_path / "step-000000004"
    found = played(content(folder))
    assert {scale for _, _, scale, _, words in found if words} == {2.0}
    for weights in ("ema", "raw"):
        player = Player.from_checkpoint(checkpoint.newest(run.checkpoints_path), weights)  # type: ignore[arg-type]
        for words, scale in (("fast", 2.0), ("slow", 2.0), ("", 1.0)):
            for seed in (4, 1):
                (item,) = player.play(
                    frames=25, seeds=[seed], rules=Rules(), words=Words.parse(words), guidance=Guidance(scale)
                )
                wave_CN = files.read(folder / found[weights, 1.0, scale, seed, words]["file"]).wave_CN
                np.testing.assert_allclose(wave_CN, decode_whole(ToyCodec(), item.codes_TK.numpy()), atol=1e-4)


def test_captions_are_prompts_of_the_dia_family(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack", captions=True)
    demo = {"prompts": ["fast | a fast cycle", "| a slow cycle", ""], "guidance": [1.0, 3.0], "seconds": 0.2}
    run = train(config(pack, "dia", model=DIA, demo=demo, train={"steps": 2}), runs=tmp_path)
    told = content(run.demos_path / "step-000000002")
    words = {(tuple(e["words"]["tags"]), e["words"]["text"]) for e in told["demos"] if e["kind"] == "played"}
    assert words == {(("fast",), "a fast cycle"), ((), "a slow cycle"), ((), "")}
    assert any(e["file"] == "ema_fast-a-fast-cycle_t1_g3_seed0.flac" for e in told["demos"])
    (continuation,) = [e for e in told["demos"] if e["kind"] == "continuation"]
    opened = Pack.open(pack)
    place = list(opened.clips.clip).index(continuation["clip"])
    assert continuation["words"] == {"tags": list(opened.clips.tags[place]), "text": opened.clips.caption[place]}


def test_a_caption_that_the_model_cannot_read_whole_is_left_out_of_the_continuation(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack", captions=True)
    demos = task(pack, "dia", model={**DIA, "text_length": 4})._demos
    assert demos is not None and demos.words is not None
    assert demos.words.tags in (("fast",), ("slow",)) and demos.words.text == ""


def test_what_cannot_be_asked_is_told_before_the_training(pack: Path, tmp_path: Path) -> None:
    for code, sections in (
        ("TOKEN003", {"demo": {"prompts": ["fats"]}}),
        ("TOKEN003", {"model": {"tags": False}, "demo": {"prompts": ["fast"]}}),
        ("TEXT003", {"demo": {"prompts": ["fast | with a caption"]}}),
        ("SAMPLE005", {"demo": {"prompts": ["fast", ""]}, "data": {"null_share": 0.0}}),
        ("SAMPLE005", {"demo": {"prompts": ["fast"], "guidance": [3.0]}, "data": {"null_share": 0.0}}),
        ("SAMPLE002", {"demo": {"prompts": [""], "guidance": [1.0, 3.0]}}),
        ("SAMPLE010", {"demo": {"prompts": ["fast"], "guidance": [math.nan]}}),
        ("SAMPLE010", {"demo": {"prompts": ["fast"], "guidance": [-1.0]}}),
        ("SAMPLE001", {"demo": {"temperatures": [math.inf]}}),
    ):
        with pytest.raises(PartimentoError, match=code):
            train(config(pack, **sections), runs=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir()), "no run is begun that cannot end"


def test_without_a_null_what_has_words_is_played(pack: Path, tmp_path: Path) -> None:
    only = {"prompts": ["fast"], "seconds": 0.2}
    run = train(config(pack, demo=only, data={"null_share": 0.0}, train={"steps": 1}), runs=tmp_path)
    assert {key[4] for key in played(content(run.demos_path / "step-000000001"))} == {"fast"}


def test_batches_are_small_and_nothing_is_asked_twice(pack: Path) -> None:
    player = task(pack).player
    many = Demo(prompts=["fast", "slow", "fast ", ""], seeds=[*range(9), 3], temperatures=[1.0, 1.0, 0.0])
    found = rounds(many, player, averaged=True)
    assert max(len(round_.items) for round_ in found) == MOST_ITEMS
    stems = [round_.stem(item) for round_ in found for item in round_.items]
    assert len(stems) == len(set(stems)) == 3 * (9 + 1 + 9)
    assert {round_.weights for round_ in rounds(many, player, averaged=False)} == {"raw"}


def test_raw_weights_play_at_the_highest_temperature_where_there_is_no_1(pack: Path) -> None:
    found = rounds(Demo(temperatures=[0.0, 0.7]), task(pack).player, averaged=True)
    assert [(r.weights, r.temperature) for r in found] == [("ema", 0.0), ("ema", 0.7), ("raw", 0.7)]


def test_slugs_are_safe_short_and_different() -> None:
    words = [
        Words(("techno", "A minor")),
        Words(("techno",), "a dark pulse"),
        Words(),
        Words(("null",)),
        Words(("a", "b")),
        Words((), "A b!"),
        Words((), "../../etc/passwd"),
        Words((), "静かな夜"),
        Words((), "夜"),
        Words((), "é".join("abc")),
        Words((), "x" * 300),
        Words((), "x" * 299),
    ]
    names = slugs(words)
    assert names[:3] == ["techno-a-minor", "techno-a-dark-pulse", "null"]
    assert names[3].startswith("null-") and names[4].startswith("a-b-") and names[6] == "etc-passwd"
    assert len(set(names)) == len(names)
    for name in names:
        assert 0 < len(name) <= 47 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"), name
    assert slugs([words[7]]) == [names[7]], "its own name does not depend on the others"


# What is kept


def test_demos_hold_what_the_report_shows(pack: Path, tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    demo = {"prompts": ["fast"], "recordings": str(recordings)}
    demos = task(pack)._demos
    assert demos is not None
    name = demos.pack.clips.clip[demos.clip]
    recordings.mkdir()
    files.write(recordings / name, np.zeros((2, 16000), dtype=np.float32), 8000)
    run = train(config(pack, demo=demo), runs=tmp_path)
    (folder,) = run.demos_path.glob("step-*")
    told = content(folder)
    assert told["step"] == 8 and "is not the file that was encoded" in told["original_missing"]
    entries = told["demos"]
    assert sorted(e["kind"] for e in entries if e["kind"] != "played") == ["continuation", "reconstruction"]
    for entry in entries:
        audio = files.read(folder / entry["file"])
        assert audio.sample_rate == 8000 and audio.wave_CN.shape[-1] == entry["frames"] * 160
        metrics = entry["metrics"]
        assert len(metrics["entropy_K"]) == len(metrics["coverage_K"]) == len(metrics["repetition_K"]) == 3
        assert 0 <= metrics["silence"] <= 1
        peak = float(np.abs(audio.wave_CN).max())
        assert metrics["peak"] == pytest.approx(peak, abs=1e-4) and metrics["clipped"] == 0
    (continuation,) = [e for e in entries if e["kind"] == "continuation"]
    assert continuation["prompt"] == f"{name}, first 2.0 s" and continuation["frames"] > 100
    assert continuation["words"] == demos.player.require(Words(demos.pack.clips.tags[demos.clip])).to_json()
    # Its beginning is the recording's.
    codes_TK = demos.pack.read(demos.clip, 0, 100)
    begin = files.read(folder / continuation["file"]).wave_CN[:, :16000]
    np.testing.assert_allclose(begin, decode_whole(ToyCodec(), codes_TK), atol=1e-4)


def test_metrics_of_a_continuation_are_of_what_was_played(pack: Path, tmp_path: Path) -> None:
    demos = task(pack)._demos
    assert demos is not None
    rng = np.random.default_rng(0)
    codes_TK = np.concatenate([np.zeros((40, 3), dtype=np.int64), rng.integers(1, 16, (60, 3))])  # silence, then sound
    metrics = demos._write(tmp_path / "a.flac", codes_TK, prompt=40)["metrics"]
    assert metrics["entropy_K"] == probe.entropy(codes_TK[40:], 16).tolist() and metrics["silence"] == 0
    metrics = demos._write(tmp_path / "b.flac", codes_TK)["metrics"]
    assert metrics["silence"] == pytest.approx(0.4, abs=0.03)


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
    told = content(folder)
    assert told["original_missing"] is None and told["demos"][0]["kind"] == "original"
    audio = files.read(folder / "original.flac")
    assert audio.wave_CN.shape == (2, 11025)
    source = files.read(recordings / told["demos"][0]["clip"]).wave_CN[:, :11025]
    np.testing.assert_allclose(audio.wave_CN, source, atol=1e-4)


# What is measured


def test_the_log_has_the_figures_of_every_step(pack: Path, tmp_path: Path) -> None:
    demo = {"prompts": ["fast", "slow", ""], "guidance": [1.0, 3.0], "seeds": [0, 1], "every": 2, "seconds": 0.5}
    run = train(config(pack, demo=demo, train={"steps": 4}), runs=tmp_path)
    events = read_events(run.events_path)
    points = curve(events, "demo_figures", "entropy_K", weights="ema", temperature=1.0, guidance=3.0, told=True)
    assert [step for step, _ in points] == [2, 4]
    items = [
        e["metrics"]
        for key, e in played(content(run.demos_path / "step-000000004")).items()
        if key[:3] == ("ema", 1.0, 3.0)
    ]
    assert len(items) == 4
    np.testing.assert_allclose(points[-1][1], np.mean([item["entropy_K"] for item in items], axis=0))
    where = {"weights": "ema", "temperature": 1.0, "guidance": 3.0, "told": True}
    for name in ("entropy", "coverage", "repetition", "model_entropy"):
        mean = np.mean([item[f"{name}_K"] for item in items])
        assert curve(events, "demo_figures", name, **where)[-1][1] == pytest.approx(mean)
    silence = np.mean([item["silence"] for item in items])
    assert curve(events, "demo_figures", "silence", **where)[-1][1] == pytest.approx(silence)
    groups = {
        (e["weights"], e["temperature"], e["guidance"], e["told"]): e["items"]
        for e in events
        if e["kind"] == "demo_figures" and e["step"] == 4
    }
    assert groups["ema", 0.0, 1.0, True] == 2 and groups["ema", 1.0, 1.0, False] == 2 and len(groups) == 12
    data = curve(events, "demo_data", "entropy_K")
    assert [step for step, _ in data] == [2, 4] and data[0][1] == data[1][1]


def test_the_yardstick_is_of_held_out_windows_as_long_as_the_demos(pack: Path, tmp_path: Path) -> None:
    opened = Pack.open(pack)
    clips = opened.split("valid")
    yardstick = Yardstick(opened, ToyCodec(), clips, 50)  # type: ignore[arg-type]
    found = yardstick.figures(tmp_path / "data.json")
    windows = yardstick._windows()
    assert {clip for clip, _, _ in windows} <= set(clips.tolist()) and {n for _, _, n in windows} == {50}
    codes = [opened.read(clip, first, first + 50) for clip, first, _ in windows]
    assert found is not None and found["items"] == len(windows) and found["frames"] == 50
    np.testing.assert_allclose(found["entropy_K"], np.mean([probe.entropy(c, 16) for c in codes], axis=0))
    np.testing.assert_allclose(found["coverage_K"], np.mean([probe.coverage(c, 16) for c in codes], axis=0))
    assert found["repetition"] == pytest.approx(
        np.mean([probe.repetition(c[:, book]) for c in codes for book in range(3)])
    )


def test_the_yardstick_is_worked_out_once_and_again_where_it_is_of_others(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, path = Pack.open(pack), tmp_path / "data.json"
    clips = opened.split("valid")
    first = Yardstick(opened, ToyCodec(), clips, 50).figures(path)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(figures, "decode_whole", lambda *_: pytest.fail("decoded again"))
        assert Yardstick(opened, ToyCodec(), clips, 50).figures(path) == first  # type: ignore[arg-type]
    longer = Yardstick(opened, ToyCodec(), clips, 80).figures(path)  # type: ignore[arg-type]
    assert longer is not None and first is not None and longer["frames"] == 80
    assert longer["entropy"] > first["entropy"], "more codes show more of their entropy"
    path.write_text("{ torn")
    assert Yardstick(opened, ToyCodec(), clips, 50).figures(path) == first  # type: ignore[arg-type]
    whole = Yardstick(opened, ToyCodec(), clips, 10_000).figures(tmp_path / "b.json")  # type: ignore[arg-type]
    assert whole is not None and whole["items"] == 1
    assert whole["frames"] == max(int(opened.clips.frames[clip]) for clip in clips)


def test_what_is_undefined_is_none_and_never_zero() -> None:
    short = figures.of_codes(np.zeros((3, 2), dtype=np.int64), SPEC)
    assert short["repetition_K"] == [None, None] and short["entropy_K"] == [0.0, 0.0]
    assert figures.of_codes(np.zeros((0, 2), dtype=np.int64), SPEC)["entropy_K"] == [None, None]
    assert figures.of_sound(np.zeros((1, 0), dtype=np.float32), 8000) == {"silence": None}
    assert figures.of_sound(np.full((1, 9), np.nan, dtype=np.float32), 8000) == {"silence": None}
    row = figures.together([short, {"entropy_K": [None, 2.0], "silence": 0.5}])
    assert row["entropy_K"] == [0.0, 1.0] and row["entropy"] == 0.5 and row["silence"] == 0.5
    assert row["repetition_K"] == [None, None] and row["repetition"] is None and "model_entropy" not in row


# What is left as it was


def test_demos_touch_no_generator_and_no_weight(pack: Path, tmp_path: Path) -> None:
    task_ = task(pack, demo={"prompts": ["fast", ""], "seconds": 0.2})
    weights = {name: tensor.clone() for name, tensor in task_.module.state_dict().items()}

    def states() -> list[Any]:
        numpy_state = np.random.get_state()  # noqa: NPY002
        return [torch.get_rng_state().tolist(), random.getstate(), numpy_state[1].tolist(), numpy_state[2:]]

    before = states()
    task_.module.train()
    task_.demos(tmp_path, 8, lambda which: judged(task_.module, None))
    assert states() == before and task_.module.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in task_.module.state_dict().items())


@pytest.mark.parametrize("family", ["rvq", "dia"])
def test_the_training_is_the_same_bits_with_demos_and_without(pack: Path, tmp_path: Path, family: str) -> None:
    sections: dict[str, Any] = {"train": {"steps": 4}} | ({"model": DIA} if family == "dia" else {})
    demo = {"prompts": ["fast", ""], "guidance": [1.0, 2.0], "every": 1, "seconds": 0.2}
    heard = train(config(pack, family, demo=demo, **sections), runs=tmp_path, run="heard")
    quiet = train(config(pack, family, demo={"temperatures": []}, **sections), runs=tmp_path, run="quiet")
    assert len(list(heard.demos_path.glob("step-*"))) == 4 and not list(quiet.demos_path.iterdir())
    one, other = (
        checkpoint.load(checkpoint.newest(run.checkpoints_path), ("model", "ema", "optimizer")).parts
        for run in (heard, quiet)
    )
    for part in one:
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part]), part


def test_the_same_demos_come_out_again(pack: Path, tmp_path: Path) -> None:
    run = train(config(pack, train={"steps": 2}, demo={"seconds": 0.4}), runs=tmp_path)
    player = Player.from_checkpoint(checkpoint.newest(run.checkpoints_path), "raw")
    task_ = task(pack, demo={"seconds": 0.4}, optim={"ema": 0.0})
    task_.module.load_state_dict(player.module.state_dict())
    path = task_.demos(tmp_path / "again", 2, lambda which: judged(task_.module, None))
    again = played(content(path))
    for key, entry in played(content(run.demos_path / "step-000000002")).items():
        if key[0] == "raw":
            assert again[key]["metrics"]["entropy_K"] == entry["metrics"]["entropy_K"]
    assert task_.description == player.description()


# Beside


def test_decoding_is_beside_where_the_model_is_elsewhere() -> None:
    with _beside(torch.device("cpu")) as submit:
        assert submit is _at_once and submit(lambda: {"a": 1}).result() == {"a": 1}
    with _beside(torch.device("cuda")) as submit:  # nothing is put on it
        waiting = [submit(lambda number=number: {"n": number}) for number in range(20)]  # type: ignore[misc]
        assert [one.result()["n"] for one in waiting] == list(range(20))


def test_demos_that_were_decoded_beside_are_the_same(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_ = task(pack, demo={"prompts": ["fast", ""], "seconds": 0.3})
    using = lambda which: judged(task_.module, None)  # noqa: E731
    here = task_.demos(tmp_path / "here", 8, using)
    monkeypatch.setattr("partimento.training.demos._beside", lambda _: _beside(torch.device("cuda")))
    beside = task_.demos(tmp_path / "beside", 8, using)
    assert {f.name: f.read_bytes() for f in here.iterdir()} == {f.name: f.read_bytes() for f in beside.iterdir()}


def test_an_error_in_between_leaves_no_folder(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task_ = task(pack, demo={"seconds": 0.2})
    assert task_._demos is not None

    def full(file: Path, *_: Any) -> int:
        raise PartimentoError("SYS002", "the disk is full", where=str(file), next="free some space")

    monkeypatch.setattr("partimento.training.demos.files.write", full)
    with pytest.raises(PartimentoError, match="SYS002"):
        task_.demos(tmp_path, 8, lambda which: judged(task_.module, None))
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


# The sheet


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", '{"step": 1}', '{"demos": 3}', '{"demos": [3]}', '{"demos": [{"kind": "played"}]}',
     '{"demos": [{"file": 3}]}', '{"demos": [], "figures": [1]}', '{"demos": [], "data": []}', "\x00\xff",
     '{"demos": ' + "[" * 100_000],
)  # fmt: skip
def test_a_sheet_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "demos.json").write_text(text, encoding="utf-8")
    with pytest.raises(PartimentoError, match="TRAIN070"):
        sheet.read(tmp_path)
    with pytest.raises(PartimentoError, match="it is missing"):
        sheet.read(tmp_path / "nowhere")


def test_a_sheet_holds_no_number_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "demos.json").write_text(
        '{"demos": [{"file": "a", "metrics": {"silence": NaN, "peak": 1e999}}], "data": {"entropy": -Infinity},'
        ' "figures": [{"weights": "ema"}], "step": "3"}'
    )
    found = sheet.read(tmp_path)
    assert found.items[0]["metrics"] == {"silence": None, "peak": None} and found.step is None
    assert list(found.events()) == [("demo_data", {"entropy": None}), ("demo_figures", {"weights": "ema"})]
    (tmp_path / "demos.json").write_text(json.dumps({"step": 3, "demos": []}))  # from before there were figures
    assert list(sheet.read(tmp_path).events()) == []
