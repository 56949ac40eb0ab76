"""The order of checkpoints, and which of the first cannot be told apart."""

import csv

import pytest
from compare_fakes import make

from partimento.errors import PartimentoError
from partimento.lab.compared.rank import rank


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Hundreds of small files; what they hold is tested, not that they are durable."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_checkpoints_are_ranked_over_runs_with_intervals_over_seeds(tmp_path):
    runs = [
        make(tmp_path, f"{name}{seed}", seed=seed, adds=adds, noise=2.0, optim__lr=lr)
        for seed in range(3)
        for name, adds, lr in (("a", 0.0, 0.1), ("b", -50.0, 0.2))
    ]
    found = rank(runs, csv=tmp_path / "r.csv")
    assert [(place.cell, place.step) for place in found.places] == [
        ("lr 0.2", 100),
        ("lr 0.2", 50),
        ("lr 0.1", 100),
        ("lr 0.1", 50),
    ]
    assert all(len(place.checkpoints) == 3 and place.half for place in found.places)
    assert [place.tied for place in found.places] == [None, False, False, False]
    assert found.places[2].behind.low < 50 < found.places[2].behind.high
    assert "over its seeds" in found.sentence
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [row["step"] for row in rows] == ["100", "50", "100", "50"] and rows[0]["tied"] == ""


def test_what_cannot_be_told_apart_is_said(tmp_path):
    runs = [
        make(tmp_path, f"{name}{seed}", seed=seed, noise=30.0, optim__lr=lr, steps=(100,))
        for seed in range(3)
        for name, lr in (("a", 0.1), ("b", 0.2))
    ]
    found = rank(runs)
    assert found.places[1].tied and "cannot be told from the next one" in found.sentence


def test_of_one_seed_clips_alone_speak_and_without_them_nothing(tmp_path):
    found = rank([make(tmp_path, "a", noise=1.0)])
    assert found.places[1].tied is False and "one seed says nothing of other seeds" in found.sentence
    bare = rank([make(tmp_path, "b", kept=False)])
    assert bare.places[1].tied is None and "not known" in bare.sentence


def test_any_recorded_figure_and_a_direction(tmp_path):
    run = make(tmp_path, "a")
    assert [place.step for place in rank([run], metric="train.loss").places] == [100, 50]
    assert [place.step for place in rank([run], metric="train.loss", highest=True).places] == [50, 100]
    assert rank([run], metric="ce_K.1").places[0].step == 100
    with pytest.raises(PartimentoError, match="LAB078"):
        rank([run], metric="nothing")
