"""An evaluation from end to end by a fake restorer: files, page, text; the page is offline and trusts no text."""

import json
from functools import partial

import numpy as np
import pytest
import soundfile
from restored_fakes import RATE, gentle_shift, held, restorer, tune
from test_report import ATTACK, Page

from partimento.errors import PartimentoError
from partimento.lab.restored import evaluate as module
from partimento.lab.restored import judge
from partimento.lab.restored.evaluate import evaluate
from partimento.lab.restored.held import from_data, from_files
from partimento.lab.restored.text import text
from partimento.sound_settings import PairData
from partimento.training.pairwriting import write_pairs
from partimento.training.tasks.crops import is_held_out


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_restorer", lambda *_: restorer(lambda wave: 0.9 * wave))
        patch.setattr(module, "_held", lambda *_: held(6, kinds=("tunes", ATTACK)))
        patch.setattr(module, "Judge", partial(judge.Judge, shift=gentle_shift))
        folder = tmp_path_factory.mktemp("evaluation")
        return evaluate(folder / "weights", to=folder / "found", limit=5)


def test_files_hold_what_was_found(found):
    figures = json.loads((found.folder / "figures.json").read_text())
    assert figures["schema"] == 1 and figures["about"]["recordings"] == 5
    assert figures["about"]["semitones"] == [-12, 0, 7] and figures["about"]["strides"] == [2, 4, 16]
    assert {row["metric"] for row in figures["rows"]} >= {"mel7", "si_sdr", "lsd", "lsd_1000"}
    assert all(row["difference"]["n"] <= 5 for row in figures["rows"])
    records = [json.loads(line) for line in (found.folder / "records.jsonl").read_text().splitlines()]
    assert len(records) == 5 * (3 + 2) * 4
    assert figures == json.loads(json.dumps(found.to_json()))


def test_the_page_is_offline_and_shows_what_was_found(found):
    html = (found.folder / "evaluation.html").read_text()
    page = Page(html)
    for words in ("Round trip", "In use", "Artifacts", "Identity", "Subtraction", "SI-SDR", found.sentence[1:40]):
        assert words.lower() in page.text.lower(), words
    assert html.count("<audio") == html.count("data:audio/flac;base64,") == 15, "a triplet for each recording"
    assert html.count("<svg") >= 10
    assert ATTACK not in html and "Only " in page.text
    assert "http://" not in html.replace("http://www.w3.org", "") and "https://" not in html


def test_the_text_has_input_identity_and_baseline_in_every_table(found):
    said = text(found)
    tables = [part for part in said.split("\n\n") if " is better)" in part]
    assert len(tables) == 6, "three figures at this rate, two protocols"
    for table in tables:
        assert all(word in table for word in ("input", "output", "identity", "subtraction", "95 % interval", "sources"))
    assert "WORSE" in said and "note: " in said


def test_an_exported_restorer_needs_a_folder_and_recordings(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "load_restorer", lambda *_: restorer())
    for given, code in (
        ({}, "LAB034"),
        ({"to": tmp_path}, "LAB030"),
        ({"to": tmp_path, "pairs": "a", "against": ["b"]}, "LAB030"),
    ):
        with pytest.raises(PartimentoError) as caught:
            evaluate(tmp_path, **given)
        assert caught.value.code == code


def test_recordings_of_a_folder_are_read_and_what_cannot_be_is_told(tmp_path):
    for number in range(3):
        wave = np.stack([tune(number), tune(number + 9)], 1)
        soundfile.write(tmp_path / f"{number}.flac", wave, RATE)
    (tmp_path / "broken.flac").write_bytes(b"nothing")
    found = from_files([tmp_path], "clean", 8000, True, (7.0,), 9)
    pieces = found.pieces(8000, 9)
    assert sorted(piece.recording.source for piece in pieces) == ["0.flac", "1.flac", "2.flac"]
    assert all(piece.length == 8000 for piece in pieces)
    damaged_N, target_N = pieces[0].pair(7.0)
    assert damaged_N.shape == target_N.shape == (8000,) and not np.array_equal(damaged_N, target_N)
    assert pieces[0].pair(0)[0] is pieces[0].pair(0)[1] or np.array_equal(*pieces[0].pair(0))
    assert any("broken.flac" in doubt for doubt in found.doubts)
    assert len(from_files([tmp_path], "clean", 8000, True, (7.0,), 2).pieces(8000, 9)) == 2
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "broken.flac").write_bytes(b"nothing")
    with pytest.raises(PartimentoError) as caught:
        from_files([tmp_path / "only"], "clean", 8000, True, (7.0,), 2)
    assert caught.value.code == "LAB030"


def test_written_pairs_are_judged_by_their_held_out_side(tmp_path):
    names = [f"{number}.wav" for number in range(40)]
    chosen = [next(name for name in names if is_held_out(name) is side) for side in (True, False)]
    (tmp_path / "music").mkdir()
    for number, name in enumerate(chosen):
        soundfile.write(tmp_path / "music" / name, tune(number), RATE)
    write_pairs([tmp_path / "music"], tmp_path / "pairs", semitones=(-3.0, 5.0), sample_rate=RATE, jobs=1)
    data = PairData(pairs=str(tmp_path / "pairs"), sample_rate=RATE)
    found = from_data(data)
    (piece,) = found.pieces(RATE, 9, seconds=0.5)
    assert piece.recording.source == chosen[0] and found.pairs.semitones == [-3, 5]
    damaged_N, target_N = piece.pair(5.0)
    around_N, inside = piece.around(RATE)
    assert np.abs(target_N).max() > 0.05, "written recordings are not held in memory, but they are not silent"
    assert np.array_equal(piece.pair(0)[0], target_N) and np.array_equal(around_N[inside], target_N)
    assert 1e-3 < np.abs(damaged_N - target_N).mean() < 0.2
    with pytest.raises(PartimentoError) as caught:
        from_data(data, semitones=(5.0, 0.0, 7.0))
    assert caught.value.code == "LAB030" and "+7" in caught.value.why
