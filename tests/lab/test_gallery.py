"""The table of the demos, their figures under each sound, and their curves: whole, old, and damaged."""

import itertools
import json

import numpy as np
import pytest
import soundfile
from lab_fakes import BOOKS, DATA, log_played, make_run, music
from test_report import page

from partimento.lab import demofigures, gallery
from partimento.lab.demotable import table, told
from partimento.runs.events import EventLog, read_events

PROMPTS = (["techno", "A minor"], ["waltz"], [])


def entry(file="a.flac", **other):
    words = {"tags": ["techno"], "text": ""}
    usual = {"kind": "played", "weights": "ema", "temperature": 1.0, "guidance": 1.0, "seed": 0, "words": words}
    return {"file": file, **usual, **other}


def grid():
    """3 prompts x 3 temperatures x 2 guidances x 2 seeds, averaged, and raw at 1, as training plays them."""
    found = []
    ways = [("ema", 0.0), ("ema", 0.5), ("ema", 1.0), ("raw", 1.0)]
    for (weights, temperature), guidance, tags, seed in itertools.product(ways, (1.0, 3.0), PROMPTS, (7, 10)):
        if (temperature == 0 and seed != 7) or (guidance != 1 and not tags):
            continue
        name = f"{weights}_{'-'.join(tags)}_t{temperature:g}_g{guidance:g}_seed{seed}.flac"
        words = {"tags": tags, "text": ""}
        found.append(entry(name, weights=weights, temperature=temperature, guidance=guidance, seed=seed, words=words))
    return found


def put(run, step, content, files=()):
    folder = run.demos_path / f"step-{step:09d}"
    folder.mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "demos.json").write_text(text)
    for name in files:
        soundfile.write(folder / name, music(1, 0.3), 44100)
    return folder


# The table


def test_prompts_and_seeds_are_rows_and_ways_of_playing_columns():
    found = table([(one, one["file"]) for one in grid()])
    assert [(head.title, head.weights, head.guidance) for head in found.heads] == [
        ("Temperature 0", "EMA weights", ["guidance 1", "guidance 3"]),
        ("Temperature 0.5", "EMA weights", ["guidance 1", "guidance 3"]),
        ("Temperature 1", "EMA weights", ["guidance 1", "guidance 3"]),
        ("Temperature 1", "raw weights", ["guidance 1", "guidance 3"]),
    ]
    assert found.columns == 8
    assert [(row.prompt, row.first, row.rows, row.seed) for row in found.rows] == [
        (prompt, seed == "7", 2, seed) for prompt in ("techno, A minor", "waltz", "") for seed in ("7", "10")
    ]
    for row in found.rows:  # every row fills all columns, counting what reaches over from the row above
        assert len(row.cells) == 8 - (0 if row.first else 2 if row.prompt else 1)
    greedy = found.rows[0].cells[0]
    assert greedy.item == "ema_techno-A minor_t0_g1_seed7.flac" and greedy.rows == 2
    assert found.rows[1].cells[0].item == "ema_techno-A minor_t0.5_g1_seed10.flac"
    assert [cell.why for cell in found.rows[4].cells] == ["", "nothing to guide to"] * 4
    shown = [cell.item for row in found.rows for cell in row.cells if cell.item is not None]
    assert sorted(shown) == sorted(one["file"] for one in grid())


def test_nothing_is_lost_that_a_table_has_no_place_for():
    twice = [entry("a"), entry("b"), entry("c", guidance=None), {"file": "d"}, entry("e", seed=[1], weights={"x": 1})]
    found = table([(one, one["file"]) for one in twice])
    shown = [cell.item for row in found.rows for cell in row.cells if cell.item is not None]
    assert sorted(shown) == ["a", "b", "c", "d", "e"]
    names = {name for head in found.heads for name in (head.title, head.weights, *head.guidance)}
    assert {"Temperature not recorded", "weights not recorded", "guidance not recorded"} <= names
    assert table([]).rows == []


def test_what_an_item_was_told_is_one_line():
    assert told({"words": {"tags": ["a", "b"], "text": "so it goes"}}) == "a, b | so it goes"
    assert told({"words": {"tags": [], "text": "so"}}) == "so"
    assert told({"tags": ["techno", "128 bpm"]}) == "techno, 128 bpm", "from before there were words"
    for nothing in ({}, {"words": {}}, {"words": None}, {"words": 3}, {"tags": "x"}, {"words": {"tags": 3, "text": 0}}):
        assert told(nothing) == ""


def test_a_whole_grid_is_on_the_page(tmp_path):
    made = make_run(tmp_path)
    items = grid()
    put(made, 600, {"step": 600, "demos": items, "data": DATA}, [one["file"] for one in items])
    found = page(made)
    assert found.tags.count("audio") == len(items) == 35
    assert "Told Seed Temperature 0 EMA weights Temperature 0.5 EMA weights" in found.text
    assert found.text.count("nothing to guide to") == 8 and found.text.count("the same for every seed") == 5
    preloads = {value for tag, name, value in found.attributes if (tag, name) == ("audio", "preload")}
    assert preloads == {"none"}, "a page of a hundred sounds does not decode them all"


def test_older_steps_are_folded(tmp_path):
    made = make_run(tmp_path)
    for step in (100, 200, 300):
        put(made, step, {"step": step, "demos": [entry()]}, ["a.flac"])
    found = page(made)
    assert found.text.index("Demos of step 300.") < found.text.index("Demos of step 200") < found.text.index("step 100")
    folded = [found.text.count(f"Demos of step {step}") for step in (100, 200)]
    assert folded == [1, 1] and found.tags.count("details") >= 2


# Figures


def test_figures_stand_under_each_sound_beside_those_of_the_data(tmp_path):
    made = make_run(tmp_path)
    metrics = {
        "entropy_K": [1.0, 2.0], "coverage_K": [0.001, 0.003], "repetition_K": [0.25, 0.75], "silence": 0.125,
        "model_entropy_K": [3.0, None],
    }  # fmt: skip
    put(made, 600, {"demos": [entry(metrics=metrics)], "data": DATA}, ["a.flac"])
    text = page(made).text
    assert "entropy 1.50 used 0.2 % repeats 50 % silent 12 % unsure 3.00" in text
    assert "low coverage" in text, "1.5 nats are less than half of the data's 4.8"


def test_silence_is_measured_on_the_file_where_it_was_not_recorded(tmp_path):
    made = make_run(tmp_path)
    folder = put(made, 600, {"demos": [entry(metrics={"entropy_K": [2.0]})]})
    soundfile.write(folder / "a.flac", np.concatenate([music(1, 0.5), np.zeros(66150, np.float32)]), 44100)
    text = page(made).text
    assert "entropy 2.00 used – repeats – silent 75 %" in text
    assert "The data's own figures were not recorded" in text


@pytest.mark.parametrize(
    "metrics",
    [None, 3, [], "x", {"entropy_K": None}, {"entropy_K": "12"}, {"entropy_K": [None, "a", {}]}, {"silence": "x"},
     {"entropy_K": {"a": 1}, "coverage_K": 3, "repetition_K": [[1]], "model_entropy_K": [True]}],
)  # fmt: skip
def test_damaged_figures_are_missing_figures(tmp_path, metrics):
    made = make_run(tmp_path)
    put(made, 600, {"demos": [entry(metrics=metrics)], "data": metrics if isinstance(metrics, dict) else None})
    text = page(made).text
    assert "entropy – used – repeats – silent –" in text and "unsure" not in text.split("Figures, means")[0]
    assert "the file a.flac is missing" in text


def test_figures_that_are_not_finite_are_missing_figures(tmp_path):
    made = make_run(tmp_path)
    text = '{"demos": [{"file": "a.flac", "metrics": {"entropy_K": [NaN, Infinity], "silence": NaN}}], "data": {}}'
    put(made, 600, text)
    assert "entropy – used – repeats – silent –" in page(made).text


def test_demos_from_before_there_were_words_are_shown(tmp_path):
    made = make_run(tmp_path)
    metrics = {"entropy_K": [3.0] * BOOKS, "coverage_K": [0.1] * BOOKS, "repetition": [0.25] * BOOKS}
    old = {"kind": "played", "file": "a.flac", "weights": "ema", "temperature": 1.0, "guidance": 1.0, "seed": 0}
    old |= {"tags": ["techno"], "prompt": None, "ended": True, "metrics": metrics}
    continued = {**old, "kind": "continuation", "file": "b.flac", "prompt": "clip3, first 2.0 s"}
    put(made, 600, {"step": 600, "demos": [old, continued], "original_missing": "gone"}, ["a.flac", "b.flac"])
    text = page(made).text
    for words in (
        "techno 0 ", "entropy 3.00 used 10 % repeats 25 %", "clip3, first 2.0 s", "told techno", "the model ended it",
        "The original recording is not shown: gone.", "Not logged: no demos were made, or by a version",
    ):  # fmt: skip
        assert words in text, words


def test_why_nothing_was_continued_is_said(tmp_path):
    made = make_run(tmp_path)
    put(made, 600, {"demos": [], "continuation_missing": "playing without words needs the null condition (SAMPLE005)"})
    assert "No held-out recording was continued: playing without words needs" in page(made).text


@pytest.mark.parametrize("content", ["", "[", "[]", '{"demos": {}}', '{"demos": [1]}', '{"demos": [{"file": null}]}'])
def test_a_damaged_step_is_named_and_the_others_are_shown(tmp_path, content):
    made = make_run(tmp_path)
    put(made, 600, content)
    put(made, 500, {"demos": [entry()]}, ["a.flac"])
    (made.demos_path / "step-000000400").mkdir()
    (made.demos_path / "step-xyz").mkdir()
    (made.demos_path / "data.json").write_text("{")
    found = page(made)
    assert found.tags.count("audio") == 1
    for step in ("000000600", "000000400", "xyz"):
        assert f"step-{step}/demos.json cannot be read" in found.text, step


def test_a_sound_that_is_a_folder_is_named(tmp_path):
    made = make_run(tmp_path)
    (put(made, 600, {"demos": [entry()]}) / "a.flac").mkdir()
    assert "Nothing to hear: " in page(made).text


def test_the_codec_family_shows_its_pairs(tmp_path):
    made = make_run(tmp_path, family="codec", data={"band_loops": 4}, train={})
    pairs = [(f"{n}_{kind}.flac", kind) for n in range(2) for kind in ("original", "reconstruction")]
    items = [{"file": name, "kind": kind, "weights": "ema", "prompt": f"song{name[0]}"} for name, kind in pairs]
    put(made, 600, {"step": 600, "demos": items}, [name for name, _ in pairs])
    found = page(made)
    assert found.tags.count("audio") == 4 and "Played from nothing" not in found.text
    assert "song1" in found.text and "in figures" not in found.text


# Curves


def figures_of(tmp_path, **how):
    tmp_path.mkdir(exist_ok=True)
    log = EventLog(tmp_path / "events.jsonl")
    for step in how.pop("steps", (100, 200)):
        log_played(log, step, step / 200, **how)
    events = read_events(log.path)
    return {figure.title: figure for figure in demofigures.played(events)}, log


def test_there_is_a_curve_of_each_measure_against_the_data(tmp_path):
    found, _ = figures_of(tmp_path)
    assert list(found) == [
        "Entropy of what was played", "Codes that are used", "Repetition", "Silence", "How unsure the model was",
        "Entropy by codebook", "Entropy of what was played, per codebook",
    ]  # fmt: skip
    svg = found["Entropy of what was played"].svg
    for label in ("T 0 · g 1", "T 0 · g 3", "T 0.5 · g 1", "T 1 · g 3", "T 1 · g 1 raw", "data"):
        assert f">{label}<" in svg, label
    assert "T 1 · g 3 raw" not in svg
    assert all("8 held-out windows" in found[name].caption for name in ("Repetition", "Silence"))
    one, _ = figures_of(tmp_path / "one", guidances=(1.0,), steps=(100,))
    assert ">T 0.5<" in one["Repetition"].svg and "Entropy of what was played, per codebook" not in one


def test_what_was_told_nothing_is_drawn_where_nothing_was_told(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    way = {"weights": "raw", "temperature": 1.0, "guidance": 1.0, "silence": 0.5}
    log.append("demo_figures", 10, told=False, entropy=1.0, **way)
    (entropy, *_) = demofigures.played(read_events(log.path))
    assert ">T 1<" in entropy.svg and "not recorded" in entropy.caption
    log.append("demo_figures", 10, told=True, entropy=None, **way)
    titles = {figure.title: figure for figure in demofigures.played(read_events(log.path))}
    assert titles["Entropy of what was played"].svg is None
    assert "Not recorded" in titles["Entropy of what was played"].caption
    assert titles["Silence"].svg is not None


def test_damaged_lines_of_the_log_draw_what_there_is(tmp_path):
    found, log = figures_of(tmp_path)
    for values in (
        {}, {"weights": 3, "temperature": 1.0, "guidance": 1.0},
        {"weights": "ema", "temperature": "hot", "guidance": 0},
        {"weights": "ema", "temperature": 1.0, "guidance": 1.0, "told": True, "entropy": "x", "entropy_K": [1, "x"]},
    ):  # fmt: skip
        log.append("demo_figures", 300, **values)
    log.append("demo_data", 300, entropy="x", entropy_K={"a": 1}, items="many")
    again = {figure.title: figure for figure in demofigures.played(read_events(log.path))}
    assert list(again) == list(found) and all(figure.svg for figure in again.values())


def test_a_run_without_demos_says_so(tmp_path):
    (only,) = demofigures.played([])
    assert only.svg is None and only.caption.startswith("Not logged")


def test_a_share_never_rounds_to_nothing():
    assert [gallery.percent(share) for share in (0, 0.002, 0.094, 0.0996, 0.5, 1)] == [
        "0 %", "0.2 %", "9.4 %", "10 %", "50 %", "100 %",
    ]  # fmt: skip


# What a restorer was given, made, and should have made


def test_triplets_stand_side_by_side_in_their_order(tmp_path):
    run = make_run(tmp_path)
    demos = []
    for recording, shift in (("tune.flac", 7.0), ("tune.flac", -12.0), ("other.flac", 7.0)):
        for kind in ("target", "output", "input"):
            name = f"{recording}_{shift:g}_{kind}.flac"
            distance = {"input": 1.25, "output": 0.75, "target": 0.0}[kind]
            demos.append({"file": name, "kind": kind, "weights": "ema", "prompt": recording, "semitones": shift,
                          "metrics": {"mel7": distance}})  # fmt: skip
    put(run, 5, {"step": 5, "demos": demos}, [one["file"] for one in demos])
    (found,) = gallery.read_demos(run.demos_path, None, 10**9)
    assert [(group.title, group.why) for group in found.triplets] == [
        ("tune.flac", "shifted by +7 semitones"),
        ("tune.flac", "shifted by -12 semitones"),
        ("other.flac", "shifted by +7 semitones"),
    ]
    for group in found.triplets:
        assert [card.title for card in group.cards] == ["As it came", "As it was restored", "As it should be"]
        assert [card.subtitle for card in group.cards] == ["", "EMA weights", ""]
        assert [card.figures for card in group.cards] == [
            [("mel distance", "1.250")], [("mel distance", "0.750")], [("mel distance", "0.000")],
        ]  # fmt: skip
        assert all(card.spectrogram and card.audio for card in group.cards)
    assert found.groups == {} and not found.table.rows, "they stand nowhere else"
    html = page(run).text
    assert html.index("tune.flac") < html.index("As it came") < html.index("As it was restored")
    assert html.count("As it should be") == 3 and "Mel distance: the 7-scale" in html


def test_a_triplet_without_its_facts_says_so(tmp_path):
    run = make_run(tmp_path)
    put(run, 5, {"step": 5, "demos": [{"file": "a.flac", "kind": "output"}, {"file": "b.flac", "kind": "input"}]})
    (found,) = gallery.read_demos(run.demos_path, None, 10**9)
    (group,) = found.triplets
    assert (group.title, group.why) == ("recording not named", "shift not recorded")
    assert [card.kind for card in group.cards] == ["input", "output"]
    assert all("missing" in card.problem and card.figures == [("mel distance", None)] for card in group.cards)
