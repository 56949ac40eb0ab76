"""Judging by fakes whose verdict is known: one that does nothing, one that halves the error, one that makes NaN."""

import dataclasses
import json

import numpy as np
import pytest
from restored_fakes import RATE, Network, NoisePairs, gentle_shift, held, tune

from partimento.errors import PartimentoError
from partimento.lab.restored import predictors, tables
from partimento.lab.restored.evaluate import sentence, strides_of
from partimento.lab.restored.held import Held
from partimento.lab.restored.judge import WHO, Judge, probes
from partimento.lab.restored.metrics import CEILING_DB, METRICS
from partimento.training.tasks.crops import Recording
from partimento.waveform.generators import GeneratorConfig

SHIFTS = (-12.0, 0.0, 7.0)


def same(wave_CN):
    return wave_CN


class Halving:
    """Halves the error of what it is given: it knows the recordings."""

    def __init__(self, found: Held) -> None:
        self.known = [recording.wave_N for recording in found.pairs.recordings("held_out")]

    def __call__(self, wave_CN):
        nearest = min(
            (one for one in self.known if len(one) == wave_CN.shape[1]), key=lambda one: self.far(one, wave_CN)
        )
        return ((wave_CN + nearest) / 2).astype(np.float32)

    @staticmethod
    def far(one, wave_CN):
        return float(np.abs(one - wave_CN).mean())


def judged(restore, found=None, **given):
    found = found or held()
    judge = Judge(restore, RATE, shift=gentle_shift, strides=(2, 8), **given)
    return list(judge.records(found.pieces(RATE, 99), SHIFTS))


def row(rows, **wanted):
    (found,) = [one for one in rows if all(getattr(one, name) == value for name, value in wanted.items())]
    return found


def test_one_that_does_nothing_makes_no_difference():
    rows = tables.rows(judged(same), METRICS)
    for one in rows:
        assert one.difference.mean == one.difference.low == one.difference.high == 0, one
        assert one.improves is None and one.better == 0
        assert one.input == one.output and one.subtraction == one.identity
    assert {one.protocol for one in rows} == {"round trip", "in use"}
    assert {one.semitones for one in rows if one.protocol == "round trip"} == {None, -12, 0, 7}
    assert {one.semitones for one in rows if one.protocol == "in use"} == {None, -12, 7}, "by nothing both are one"


def test_one_that_halves_the_error_is_better_by_6_decibels():
    found = held(6)
    rows = tables.rows(judged(Halving(found), found), METRICS)
    for shift in (-12.0, 7.0):
        one = row(rows, protocol="round trip", semitones=shift, metric="snr", set="all")
        assert one.difference.mean == pytest.approx(20 * np.log10(2), abs=1e-3)
        assert one.improves is True and one.better == 1 and one.difference.n == 6 and one.undefined == 0
        assert one.identity.mean == CEILING_DB
        # It takes half of the error away, so what it changed is as large as what is left.
        assert one.subtraction.mean == pytest.approx(one.output.mean, abs=1e-3)
        assert row(rows, protocol="round trip", semitones=shift, metric="mel7", set="all").improves is True
    assert "round trip: the 7-scale mel distance is under the input's at 2 of 2 shifts" in sentence(rows)


def test_a_worse_one_is_called_worse():
    rng = np.random.default_rng(0)
    rows = tables.rows(judged(lambda wave: wave + 0.05 * rng.standard_normal(wave.shape)), METRICS)
    one = row(rows, protocol="round trip", semitones=7.0, metric="mel7", set="all")
    assert one.improves is False and one.better == 0 and one.difference.low > 0
    assert "over it at 2" in sentence(rows)


def test_tables_hold_what_is_theirs_alone():
    found = held(8, kinds=("tunes", "band"))
    records = judged(Halving(found), found)
    rows = tables.rows(records, METRICS)
    for kind in ("tunes", "band"):
        own = [record for record in records if record.kind == kind]
        alone = [dataclasses.replace(one, set=kind) for one in tables.rows(own, METRICS) if one.set == "all"]
        assert [one for one in rows if one.set == kind] == alone
        assert {one.difference.n for one in alone} == {4}
    assert {one.difference.n for one in rows if one.set == "all"} == {8}


def test_clips_of_one_source_are_one_source():
    found = held(3, clips=2)
    one = row(
        tables.rows(judged(same, found), METRICS), protocol="round trip", semitones=7.0, metric="mel7", set="all"
    )  # fmt: skip
    assert one.difference.n == 3 and one.pieces == 6


def test_what_is_undefined_is_counted_and_in_no_figure():
    recordings = [Recording(f"{n}", "x", tune(n) * (n > 0), "0", f"{n}") for n in range(3)]
    rows = tables.rows(judged(same, Held(NoisePairs(recordings), "")), METRICS)
    one = row(rows, protocol="round trip", semitones=7.0, metric="si_sdr", set="all")
    assert (one.difference.n, one.pieces, one.undefined) == (2, 3, 1)
    distance = row(rows, protocol="round trip", semitones=7.0, metric="mel7", set="all")
    assert (distance.difference.n, distance.undefined) == (3, 0)


def test_unshifting_has_one_protocol():
    records = judged(same, task="unshift")
    assert {record.protocol for record in records} == {"unshift"}


def test_every_case_has_its_four_records_and_goes_to_a_file():
    records = judged(same)
    for case in {record.case for record in records}:
        assert [record.who for record in records if record.case == case] == list(WHO)
    assert all((record.faults is None) == (record.who in ("identity", "subtraction")) for record in records)
    for record in records:
        assert json.loads(json.dumps(record.to_json(), allow_nan=False))["source"] == record.source


def test_artifacts_of_outputs_are_counted_beside_those_of_inputs():
    found = held(3, seconds=4.0)
    n = np.arange(6 * RATE)
    line = 0.01 * np.sin(2 * np.pi * 3 / 8 * n)
    counted = tables.artifacts(judged(lambda wave: wave + line[: wave.shape[1]], found))
    one = next(one for one in counted if one.artifact == "line" and one.protocol == "round trip")
    assert (one.input, one.output, one.of) == (0, 9, 9) and one.output_median > 20 and one.worst
    pop = next(one for one in counted if one.artifact == "onset_pop" and one.protocol == "round trip")
    assert (pop.input, pop.output) == (0, 0)


@pytest.mark.parametrize("broken", [lambda wave: wave * np.nan, lambda wave: wave[:, :-1]])
def test_a_restorer_that_makes_no_sound_is_an_error(broken):
    with pytest.raises(PartimentoError) as caught:
        judged(broken)
    assert caught.value.code == "LAB033" and "semitones" in caught.value.where


def test_pieces_are_the_same_each_time_and_mix_the_kinds():
    found = held(6, kinds=("a", "b", "c"))
    first, again = found.pieces(RATE, 4, seconds=0.5), found.pieces(RATE, 4, seconds=0.5)
    assert [(one.number, one.start) for one in first] == [(one.number, one.start) for one in again]
    assert len(first) == 4 and len({one.number for one in first}) == 4
    assert all(one.length == RATE // 2 for one in first)
    around_N, inside = first[0].around(RATE)
    assert np.array_equal(around_N[inside], first[0].clean(first[0].start, first[0].stop))


def test_silence_noise_and_a_sine_are_put_through():
    clean = probes(same, RATE, (8,))
    assert clean["silence_peak"] == 0 and clean["noise"]["found"] == clean["sine"]["found"] == []
    n = np.arange(4 * RATE)
    found = probes(lambda wave: wave + 0.01 * np.sin(2 * np.pi / 8 * n), RATE, (8,))
    assert found["silence_peak"] == pytest.approx(0.01, rel=1e-3)
    assert "line" in found["sine"]["found"] and found["sine"]["line_hertz"] == pytest.approx(2000, abs=2)


def test_strides_are_multiplied_up():
    assert strides_of(Network(same).config) == (2, 4, 16)
    assert strides_of(GeneratorConfig.of("spectral", hop=256)) == (256,)


# Predictors


def test_a_predictor_is_one_more_column(tmp_path, monkeypatch):
    (tmp_path / "my_judges.py").write_text(
        "def level(wave_CN, rate):\n    return abs(wave_CN).mean() if rate else None\n"
    )
    monkeypatch.chdir(tmp_path)
    (loaded,) = predictors.load(["my_judges:level"])
    records = judged(lambda wave: 2 * wave, predictors=[loaded])
    one = row(
        tables.rows(records, [loaded.metric]), protocol="round trip", semitones=7.0, metric="my_judges:level", set="all"
    )
    assert one.output.mean == pytest.approx(2 * one.input.mean, rel=1e-5) and one.improves is True


@pytest.mark.parametrize(
    "name", ["nothing_there:f", "json", ":f", "json:", "json:no_such", "json:__name__", "broken_judge:f"]
)
def test_a_predictor_that_cannot_be_loaded_is_one_clear_error(name, tmp_path, monkeypatch):
    (tmp_path / "broken_judge.py").write_text("raise KeyError('weights')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PartimentoError) as caught:
        predictors.load([name])
    assert caught.value.code == "LAB031"


def test_a_predictor_may_decline_but_not_fail():
    wave = np.zeros((1, 9), np.float32)
    assert predictors.Predictor("none", lambda wave, rate: None)(wave, RATE) is None
    assert predictors.Predictor("nan", lambda wave, rate: float("nan"))(wave, RATE) is None
    for failing in (lambda wave, rate: 1 / 0, lambda wave, rate: "good"):
        with pytest.raises(PartimentoError) as caught:
            predictors.Predictor("x", failing)(wave, RATE)
        assert caught.value.code == "LAB032"
