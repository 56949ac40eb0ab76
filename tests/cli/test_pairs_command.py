"""`partimento pairs`: from the command line to what training reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from partimento.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, args)))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "takes"
    root.mkdir()
    for number in range(8):
        wave_N = 0.1 * np.random.default_rng(number).standard_normal(4000)
        soundfile.write(root / f"take{number}.wav", wave_N, 16000)
    return root


def pairs(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    status, out, err = run(capsys, "pairs", *args, "--json")
    assert status == 0, err
    return json.loads(out)


def test_a_dry_run_then_the_pairs(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    given = (folder, "--to", tmp_path / "p", "--task", "unshift", "--semitones", "-5,12", "--sample-rate", 8000)
    foretold = pairs(capsys, *given, "--dry-run")
    assert foretold["dry_run"] and foretold["pairs"] == 16 and not (tmp_path / "p").exists()
    made = pairs(capsys, *given, "--jobs", 1)
    assert made["pairs"] == 16 and made["train"] + made["held_out"] == 8 and made["held_out"] > 0
    assert made["bytes"] == pytest.approx(foretold["bytes"], rel=0.02)
    lines = (tmp_path / "p" / "pairs.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["semitones"] == [-5, 12] and len(lines) == 17
    up = next(row for row in map(json.loads, lines[1:]) if row["semitones"] == 12)
    assert up["target"].endswith("_original+12.wav")  # without what the shift has pushed out of the band
    status, out, _ = run(capsys, "pairs", *given, "--jobs", 1, "-q")
    assert status == 0 and "reused" in out and "data.pairs" in out


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (("--semitones", "a,b"), "SYS006"),
        (("--semitones", "nan"), "SYS006"),
        (("--semitones", "3,30"), "AUDIO041"),
        (("--task", "reverb"), "SYS006"),
    ],
)
def test_wrong_options_end_in_one_coded_error(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, given: tuple[str, ...], code: str
) -> None:
    status, _, err = run(capsys, "pairs", folder, "--to", tmp_path / "p", *given)
    assert status == 2 and f"error[{code}]" in err and not (tmp_path / "p").exists()


def test_folders_without_audio(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, _, err = run(capsys, "pairs", tmp_path / "empty", "--to", tmp_path / "p")
    assert status == 3 and "AUDIO001" in err
