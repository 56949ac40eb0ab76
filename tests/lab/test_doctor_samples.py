"""Faults of what was played, planted in the figures of real demos, and copies that were planted in their sound."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from memorised_fakes import SPEC, Levels, music
from memorised_fakes import write_pack as write_music

sys.path.append(str(Path(__file__).parents[1] / "training"))

import codes_toy

from partimento import commit
from partimento.audio import files
from partimento.config import parse
from partimento.lab.doctor import samples
from partimento.lab.doctor.finding import LIKELY
from partimento.lab.doctor.patient import Patient
from partimento.lab.memorised.ears import Ears
from partimento.runs.run import Run
from partimento.training.engine import train

DATA = {
    "items": 8, "frames": 250.0, "silence": 0.02, "entropy": 4.0, "entropy_K": [3.8, 4.0, 4.2],
    "coverage": 0.5, "coverage_K": [0.5] * 3, "repetition": 0.02, "repetition_K": [0.02] * 3,
}  # fmt: skip


def item(temperature=1.0, guidance=1.0, *, entropy=1.0, coverage=1.0, repetition=0.02, silence=0.02, told=True, **more):
    """One that was played; entropy and coverage as parts of the data's own."""
    metrics = {
        "entropy_K": [entropy * value for value in DATA["entropy_K"]],
        "coverage_K": [coverage * 0.5] * 3,
        "repetition_K": [repetition] * 3,
        "model_entropy_K": [4.0] * 3,
        "silence": silence,
        "peak": 0.0004 if silence > 0.5 else 0.6,
        "clipped": 0,
    }
    words = {"tags": ["piano"] if told else [], "text": ""}
    asked = {"kind": "played", "weights": "ema", "temperature": temperature, "guidance": guidance, "words": words}
    return (
        {"file": f"t{temperature}-g{guidance}.flac", "seconds": 5.0, "ended": False, "metrics": metrics} | asked | more
    )


LADDER = [item(0.0, entropy=0.95, repetition=0.2), item(0.5), item(1.0)]


def make_run(tmp_path, items, *, sheet_data=DATA, null_share=0.1, log=()):
    tree = {"family": "rvq", "data": {"pack": "gone", "null_share": null_share}, "demo": {"seconds": 5.0}}
    run = Run.create(tmp_path, parse(tree), run_id="r", extra={"identity": {}})
    folder = run.demos_path / "step-000000100"
    folder.mkdir(parents=True)
    commit.record(folder / "demos.json", {"schema": 2, "step": 100, "demos": items, "data": sheet_data, "figures": []})
    return Patient.open(run.path)


def named(patient):
    return {one.disease: one.confidence for one in samples.examine(patient).findings}


def likely(patient):
    return {name for name, confidence in named(patient).items() if confidence >= LIKELY}


def test_healthy_demos_are_said_to_be_fine(tmp_path):
    found = samples.examine(make_run(tmp_path, [*LADDER, item(1.0, 3.0, entropy=0.85, coverage=0.9)]))
    assert found.findings == ()
    told = " ".join(found.fine)
    for word in ("No collapse", "No loops", "The demos sound", "lively", "not worse than guidance 1", "none at once"):
        assert word in told
    assert any("copies" in one and "gone" in one for one in found.missing)


def test_collapse_at_the_usual_temperature(tmp_path):
    patient = make_run(tmp_path, [item(0.0, entropy=0.05, repetition=0.95), item(1.0, entropy=0.3, repetition=0.2)])
    found = samples.examine(patient).findings
    assert [(one.disease, one.where) for one in found] == [
        ("entropy_collapse", "temperature 1, guidance 1, ema weights")
    ]
    assert found[0].confidence >= 0.9 and "<svg" in found[0].evidence[0].chart


@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_demos_that_are_only_cold_have_collapsed(tmp_path, temperature):
    patient = make_run(tmp_path, [item(temperature, entropy=0.1, repetition=0.9)])
    assert likely(patient) >= {"entropy_collapse"}


def test_a_few_frames_have_little_entropy_and_no_collapse(tmp_path):
    found = samples.examine(make_run(tmp_path, [item(1.0, entropy=0.5, frames=20)]))
    assert "entropy_collapse" not in {one.disease for one in found.findings}
    assert any("20 frames" in one for one in found.missing)


def test_loops(tmp_path):
    patient = make_run(tmp_path, [item(1.0, entropy=0.9, repetition=0.7), item(0.0, entropy=0.8, repetition=0.9)])
    (found,) = samples.examine(patient).findings
    assert found.disease == "repetition" and found.confidence >= 0.7 and "<svg" in found.evidence[0].chart


def test_music_of_loops_may_loop(tmp_path):
    data = DATA | {"repetition": 0.6, "repetition_K": [0.6] * 3}
    assert named(make_run(tmp_path, [item(1.0, repetition=0.7)], sheet_data=data)) == {}


def test_silence(tmp_path):
    found = named(make_run(tmp_path, [item(1.0, silence=0.9), item(1.0, silence=1.0)]))
    assert found["silent_samples"] >= 0.8
    quiet = DATA | {"silence": 0.8}
    assert "silent_samples" not in named(make_run(tmp_path / "b", [item(1.0, silence=0.9)], sheet_data=quiet))


@pytest.mark.parametrize(("valid", "sure"), [(4.0, True), (4.49, False)])
def test_greedy_playing_fails_for_who_has_learned(tmp_path, valid, sure):
    """A model that is not past counting plays the commonest code, and that is no disease."""
    patient = make_run(tmp_path, [item(0.0, entropy=0.1, repetition=0.95), item(1.0, entropy=1.05)])
    patient.events[:] = [
        {"kind": "baseline", "step": 0, "unigram_ce_K": [5.0] * 3, "bigram_ce_K": [4.5] * 3},
        {"kind": "valid", "step": 100, "weights": "ema", "ce_K": [valid] * 3},
    ]
    confidence = named(patient)["greedy_fails"]
    assert (confidence >= LIKELY) == sure


def test_demos_that_end_at_once(tmp_path):
    ended = [item(1.0, seconds=0.08, ended=True), item(1.0, seconds=0.06, ended=True)]
    assert named(make_run(tmp_path, ended))["wrong_ends"] < LIKELY  # it may be a pack of short sounds
    assert "wrong_ends" not in named(make_run(tmp_path / "b", [item(1.0, seconds=4.0, ended=True)]))
    pack = codes_toy.write_pack(tmp_path / "pack")  # of clips of some 5 s
    patient = Patient.open(toy_run(tmp_path / "c", pack).path)
    patient.sheets.append((tmp_path, sheet(patient, ended)))
    assert named(patient)["wrong_ends"] >= 0.8
    frames = np.ones_like(patient.pack.clips.frames)
    object.__setattr__(patient.pack.clips, "frames", frames)
    assert "wrong_ends" not in named(patient)


def test_demos_that_never_end(tmp_path):
    pack = codes_toy.write_pack(tmp_path / "pack")  # of clips of some 5 s
    patient = Patient.open(toy_run(tmp_path, pack).path)
    patient.sheets.append((tmp_path, sheet(patient, [item(1.0, seconds=30.0)])))
    assert named(patient)["wrong_ends"] >= LIKELY
    patient.sheets.append((tmp_path, sheet(patient, [item(1.0, seconds=5.0)])))
    assert "wrong_ends" not in named(patient)


def sheet(patient, items):
    from partimento.runs.demos import Sheet

    return Sheet(200, items, None, None, DATA, [])


def test_guidance_without_a_null_condition(tmp_path):
    patient = make_run(tmp_path, [item(1.0, 1.0), item(1.0, 3.0)], null_share=0.0)
    assert named(patient) == {"guidance_without_null": 0.9}


def test_guidance_that_makes_it_worse(tmp_path):
    worse = {"entropy": 0.4, "coverage": 0.3, "repetition": 0.3}
    items = [item(0.7), item(1.0), item(0.7, 3.0, **worse), item(1.0, 3.0, **worse)]
    found = [one for one in samples.examine(make_run(tmp_path, items)).findings if one.disease == "null_mismatch"]
    assert found and found[0].confidence >= 0.6 and "guidance 1 and 3" in found[0].evidence[0].text
    mixed = [item(1.0), item(1.0, 3.0, **worse), item(0.7), item(0.7, 3.0)]
    assert "null_mismatch" not in named(make_run(tmp_path / "b", mixed))


def test_what_is_not_recorded_is_missing_and_not_fine(tmp_path):
    found = samples.examine(make_run(tmp_path, [item(1.0, entropy=0.1, repetition=0.99)], sheet_data=None))
    assert found.findings == () and not any("collapse" in one or "loops" in one for one in found.fine)
    assert sum("data's own figure is not recorded" in one for one in found.missing) >= 2


def test_a_run_that_has_played_nothing(tmp_path):
    found = samples.examine(make_run(tmp_path, [{"kind": "reconstruction", "file": "a.flac"}]))
    assert (found.findings, found.fine) == ((), ()) and "no demos" in found.missing[0]


def test_a_damaged_sheet_is_told(tmp_path):
    patient = make_run(tmp_path, LADDER)
    path = next(patient.run.demos_path.glob("step-*/demos.json"))
    path.write_text("{", encoding="utf-8")
    found = samples.examine(Patient.open(patient.path))
    assert found.fine == () and "cannot be read" in found.missing[0]


def toy_run(tmp_path, pack, **sections):
    return train(codes_toy.config(pack, **({"demo": {"temperatures": []}} | sections)), runs=tmp_path / "runs")


def test_a_real_run_with_demos_has_no_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: codes_toy.ToyCodec())
    pack = codes_toy.write_pack(tmp_path / "pack")
    run = toy_run(
        tmp_path,
        pack,
        train={"steps": 16},
        demo={"prompts": ["slow"], "guidance": [1.0, 2.0], "temperatures": [0.0, 1.0], "seeds": [0]},
    )
    found = samples.examine(Patient.open(run.path))
    assert not [one for one in found.findings if one.confidence >= LIKELY]
    assert any("No collapse" in one for one in found.fine)
    assert any("takes too long to open" in one for one in found.missing)


@pytest.fixture
def heard(monkeypatch):
    """The codec of the fakes, as one that is at hand."""
    monkeypatch.setattr("partimento.lab.doctor.samples.copies._at_hand", lambda name: True)
    monkeypatch.setattr(Ears, "codec", Levels())


def music_run(tmp_path, played):
    """A run of 30 training clips; `played` are the codes of its demos."""
    pack = write_music(tmp_path / "pack", [music(n, 500) for n in range(30)], [music(1000 + n, 500) for n in range(24)])
    tree = {"family": "rvq", "data": {"pack": str(pack.path)}, "demo": {"seconds": 4.0}}
    run = Run.create(tmp_path / "runs", parse(tree), run_id="r", extra={"identity": {"fingerprint": pack.fingerprint}})
    folder = run.demos_path / "step-000000100"
    folder.mkdir(parents=True)
    ears = Ears(SPEC)
    items = []
    for number, codes_TK in enumerate(played):
        items.append(item(1.0) | {"file": f"{number}.flac"})
        files.write(folder / f"{number}.flac", ears.sound(codes_TK), SPEC.sample_rate)
    commit.record(folder / "demos.json", {"schema": 2, "step": 100, "demos": items, "data": DATA, "figures": []})
    return Patient.open(run.path)


def test_a_copied_passage_is_found_with_its_clip(tmp_path, heard):
    copied = music(99, 400)
    copied[60:260] = music(7, 500)[120:320]
    (found,) = samples.examine(music_run(tmp_path, [music(50, 400), copied])).findings
    assert (found.disease, found.where) == ("memorised", "1.flac")
    assert found.confidence >= 0.9 and "t7 from 1.2 s on" in found.evidence[1].text


def test_demos_of_their_own_are_no_copies(tmp_path, heard):
    found = samples.examine(music_run(tmp_path, [music(50, 400), music(51, 400)]))
    assert found.findings == () and any("no copies" in one for one in found.fine)


def test_older_demos_stand_in_where_the_newest_are_of_nothing(tmp_path):
    patient = make_run(tmp_path, [item(1.0, entropy=0.1)])
    later = patient.run.demos_path / "step-000000200"
    later.mkdir()
    (later / "demos.json").write_text(json.dumps({"demos": [], "data": DATA}), encoding="utf-8")
    assert "entropy_collapse" in named(Patient.open(patient.path))


def test_a_greedy_loop_of_many_codes_is_a_remark(tmp_path):
    """Of a rhythm without its chances the entropy stays."""
    found = named(make_run(tmp_path, [item(0.0, entropy=0.9, repetition=0.95), item(1.0)]))
    assert set(found) == {"greedy_fails"} and found["greedy_fails"] < LIKELY
