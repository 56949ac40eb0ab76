"""Following what was asked, runs with their demos, and the one table that help, docs and schema share."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from lab_fakes import finish_run, make_run, tone

from partimento.audio import files
from partimento.cli.main import cli
from partimento.lab.labels import Estimate
from partimento.lab.measures import Measures
from partimento.lab.score import Score, score
from partimento.lab.scores import table
from partimento.lab.scores.following import Asked, follow, of_sample, wilson
from partimento.lab.scores.music import Music
from partimento.lab.scores.sets import Distances

DOCS = Path(__file__).parents[2] / "docs" / "scores.md"


def test_words_are_understood_as_what_can_be_heard():
    asked = Asked.of(["piano", "waltz", "96 bpm", "A minor", "120 bpm"])
    assert (asked.tempo, asked.key, asked.style) == (96.0, "A minor", "waltz")
    assert asked.words == "piano, waltz, 96 bpm, A minor, 120 bpm"
    assert Asked.of(["Gb major"]).key == "F# major" and Asked.of(["D# minor"]).key == "Eb minor"
    nothing = Asked.of(["bpm", "H minor", "A", "a waltz"], "a waltz in A minor")
    assert (nothing.tempo, nothing.key, nothing.style) == (None, None, None)
    assert nothing.words == "a waltz in A minor"


def test_shares_chance_and_intervals():
    asked = [Asked.of([f"{bpm} bpm", "C major"]) for bpm in (60, 60, 90, 120)]
    sounds = ((61.0, "C major"), (120.0, "C major"), (90.0, "A minor"))
    heard = [*(Estimate(tempo, key, "rock") for tempo, key in sounds), None]
    found = follow(asked, heard)
    # Right: the first and third; the double is wrong, and what has no labels followed nothing.
    assert (found.tempo.asked, found.tempo.right, found.tempo.share) == (4, 2, 0.5)
    # Of the 12 pairs with the asks of others: the first sound is as the second was asked, the second as the fourth.
    assert found.tempo.chance == pytest.approx(2 / 12)
    assert found.key.right == 2 and found.key.chance == pytest.approx(6 / 12)
    assert found.style is None and found.clap == []
    assert follow([Asked()], [None]) is None


def test_wilson():
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 3)[0] == 0.0 and wilson(3, 3)[1] == 1.0  # exactly, or nothing would be above a chance of 0
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    with pytest.raises(ValueError):
        wilson(0, 0)


def test_what_a_sample_was_asked_lies_beside_it(tmp_path):
    record = {"request": "0" * 64, "tags": ["techno", "128 bpm"], "text": ""}
    (tmp_path / "a.json").write_text(json.dumps(record))
    assert of_sample(tmp_path / "a.flac") == Asked(tempo=128.0, style="techno", words="techno, 128 bpm")
    (tmp_path / "b.json").write_text(json.dumps({"tags": ["techno"]}))  # anybody's labels: read as `encode` reads them
    (tmp_path / "c.json").write_text("{")
    assert [of_sample(tmp_path / f"{name}.flac") for name in "bcd"] == [None] * 3


def test_labels_that_cannot_be_read_are_told_and_the_sound_is_measured(tmp_path):
    files.write(tmp_path / "a.wav", tone(1, 440)[None], 44100)
    (tmp_path / "tags.jsonl").write_text("no json\n")
    (found,) = score([tmp_path])
    assert found.measures is not None and found.error is None and found.missing["asked"].startswith("PACK013")


def test_silence_followed_nothing(tmp_path):
    files.write(tmp_path / "a.wav", np.zeros((1, 4 * 8000), np.float32), 8000)
    (tmp_path / "a.json").write_text(json.dumps({"request": "0", "tags": ["128 bpm"], "text": ""}))
    one, group = score([tmp_path])
    assert one.music.tempo_bpm is None
    assert (group.following.tempo.right, group.following.tempo.asked, group.following.tempo.chance) == (0, 1, None)


def test_a_run_is_scored_by_its_newest_demos(tmp_path):
    run = finish_run(tmp_path / "runs")
    verdict, *rest = score([run.path])
    assert verdict.name == run.id and verdict.verdict is not None and not verdict.missing
    steps = sorted(path.name for path in run.demos_path.glob("step-*"))
    sounds = [one for one in rest if one.measures]
    assert {one.name.split("/")[0] for one in sounds} == {steps[-1]}
    names = {one.name.split("/")[1] for one in sounds}
    assert {"original.flac", "t1-ema.flac", "continuation.flac"} <= names
    groups = {one.name: one.following for one in rest if one.following}
    assert f"{steps[-1]}, ema, temperature 1, guidance 1: 1 file" in groups
    assert all(one.tempo.asked == 1 and one.style.asked == 1 for one in groups.values())
    assert json.dumps([one.to_json() for one in rest], allow_nan=False)


def test_a_run_without_demos_says_so(tmp_path):
    (found,) = score([make_run(tmp_path).path])
    assert found.missing == {"demos": "the run has no demos yet"}


def test_the_table_names_every_figure_and_no_other():
    named = {group: [figure.name for figure in table.of(group)] for group in table.TITLES}
    assert named["measures"] == [one.name for one in fields(Measures)]
    assert named["music"] == [one.name for one in fields(Music)]
    assert {"frechet", "frechet_debiased", "kernel", "coverage", "coverage_alike", "density"} == {
        one.name for one in fields(Distances)
    } & set(named["sets"])
    schema = table.schema()["properties"]["scores"]["items"]
    assert set(schema["properties"]) == {one.name for one in fields(Score)}


def test_what_score_prints_is_as_its_schema_says(tmp_path):
    files.write(tmp_path / "a.wav", tone(1, 440)[None], 44100)
    (tmp_path / "b.wav").write_bytes(b"no wave")
    printed = CliRunner().invoke(cli, ["score", str(tmp_path), "--json", "-q"])
    tree, schema = json.loads(printed.stdout), json.loads(CliRunner().invoke(cli, ["score", "--schema"]).stdout)
    kinds = {"number": (int, float), "integer": int, "string": str, "object": dict, "null": type(None)}
    rows = schema["properties"]["scores"]["items"]
    for one in tree["scores"]:
        assert set(one) == set(rows["required"])
        for group in ("measures", "music"):
            if one[group] is not None:
                assert set(one[group]) == set(rows["properties"][group]["required"])
                for name, value in one[group].items():
                    allowed = rows["properties"][group]["properties"][name]["type"]
                    allowed = [allowed] if isinstance(allowed, str) else allowed
                    assert isinstance(value, tuple(np.hstack([kinds[kind] for kind in allowed]))), name
    assert printed.exception.exit_status == 3 and [one["error"] is None for one in tree["scores"]] == [True, False]


def test_docs_and_help_have_the_table():
    assert table.markdown() in DOCS.read_text(encoding="utf-8")
    shown = CliRunner().invoke(cli, ["score", "--figures"]).output
    assert all(figure.what in shown for figure in table.FIGURES)


def test_the_terminal_shows_every_part(tmp_path):
    for i in range(3):
        files.write(tmp_path / f"{i}.wav", tone(1, 200 * (i + 1))[None], 44100)
        (tmp_path / f"{i}.json").write_text(json.dumps({"request": "0", "tags": [f"{60 + 30 * i} bpm"], "text": ""}))
    shown = CliRunner().invoke(cli, ["score", str(tmp_path), "--against", str(tmp_path), "-q"]).output
    for part in (
        "range LU",
        "even beat",
        "followed what was asked",
        "0 of 3",
        "Frechet distance",
        "logmel-96",
        "note: ",
    ):
        assert part in shown
    assert "nan" not in shown and "None" not in shown
