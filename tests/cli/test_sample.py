"""`partimento sample` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from partimento.cli.main import main

sys.path.append(str(Path(__file__).parents[1] / "play"))
from playable import make_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from partimento.sampling.sheet import Ending

    here = tmp_path_factory.mktemp("place")
    make_run(here / "runs", "a", "dia", ending=Ending("never"))
    return here


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["sample", *args])
    out = capsys.readouterr()
    return int(ended.value.code or 0), out.out, out.err


def ok(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    status, out, err = run(capsys, *args, "--json")
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


GRID = ("--temperature", "0.8,1", "--guidance", "1,3", "--seconds", "0.2")


def test_a_grid_of_prompts(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    (place / "prompts.txt").write_text('techno | a dark pulse\n| a waltz\n{"tags": ["A minor"]}\n')
    args = ("runs/a", "--to", "grid", "--prompts", "prompts.txt", *GRID, "--seed", "5", "--count", "2")
    status, out, _ = run(capsys, *args, "--dry-run")
    assert status == 0 and out.count("missing") == 24 and not (place / "grid").exists()
    made = ok(capsys, *args)["samples"]
    assert len(made) == len(list((place / "grid").glob("*.flac"))) == 24
    asked = {(e["text"], *e["tags"], e["temperature"], e["guidance"], e["seed"]) for e in made}
    assert len(asked) == 24 and ("a waltz", 0.8, 3.0, 6) in asked
    status, out, err = run(capsys, *args)
    assert status == 0 and out.count(" there ") == 24 and "24 are there already" in err
    assert "17 frames" in err and "0.197 s" in err, "what seconds were rounded to is said"


def test_one_prompt_of_tags_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--tags", "techno, A minor", "--prompt", "dark [S1]", "--min-p", "0.05", "--top-k", "40", "--top-p", "0.9")
    schedule = ("--guidance-rule", "filter", "--guidance-top-k", "30", "--guidance-fade", "linear")
    part = ("--guidance-from", "0.1", "--guidance-to", "0.9", "--guidance", "3", "--weights", "raw")
    (made,) = ok(capsys, "runs/a", "--to", "one", "--seconds", "0.2", *args, *schedule, *part)["samples"]
    assert (made["tags"], made["text"], made["min_p"], made["top_k"]) == (["techno", "A minor"], "dark [S1]", 0.05, 40)
    assert made["guidance_rule"] == "filter" and made["guidance_to"] == 0.9 and made["weights"] == "raw"
    found = ok(capsys, "--again", f"one/{made['file']}")
    assert found["equal"] and found["samples_sha256"] == made["samples_sha256"]
    status, out, _ = run(capsys, "runs/a", "--again", f"one/{made['file']}", "--to", "more")
    assert status == 0 and out.startswith("the same audio as one/") and "_again.flac" in out


def test_other_audio_is_a_failure(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    (made,) = ok(capsys, "runs/a", "--to", "other", "--seconds", "0.2")["samples"]
    beside = (place / "other" / made["file"]).with_suffix(".json")
    beside.write_text(beside.read_text().replace(made["samples_sha256"], "0" * 64))
    status, out, _ = run(capsys, "--again", str(beside), "--json")
    found = json.loads(out)
    assert status == 4 and found["error"]["code"] == "SAMPLE036" and not found["equal"]
    status, out, err = run(capsys, "--again", str(beside))
    assert status == 4 and "other audio" in out and "SAMPLE036" in err


@pytest.mark.parametrize(
    ("code", "args"),
    [
        ("SYS006", ("runs/a",)),
        ("SYS006", ("--to", "x")),
        ("SYS006", ("runs/a", "--to", "x", "--temperature", "-1")),
        ("SYS006", ("runs/a", "--to", "x", "--temperature", "1,nan")),
        ("SYS006", ("runs/a", "--to", "x", "--temperature", "1,,2")),
        ("SYS006", ("runs/a", "--to", "x", "--guidance", "x")),
        ("SYS006", ("runs/a", "--to", "x", "--top-p", "0")),
        ("SYS006", ("runs/a", "--to", "x", "--tags", "a", "--tags", "b")),
        ("SYS006", ("runs/a", "--to", "x", "--count", "0")),
        ("SYS006", ("runs/a", "--to", "x", "--seconds", "0")),
        ("SAMPLE030", ("runs/a", "--to", "x", "--seconds", "1e9")),
        ("SAMPLE030", ("runs/a", "--to", "x", "--prompts", "p", "--prompt", "y")),
        ("SAMPLE031", ("runs/a", "--to", "x", "--prompts", "absent")),
        ("SAMPLE002", ("runs/a", "--to", "x", "--prompt", "", "--guidance", "1,3")),
        ("TEXT001", ("runs/a", "--to", "x", "--prompt", "endless " * 999)),
        ("SYS002", ("runs/a", "--to", "runs/a/run.json", "--seconds", "0.2")),
        ("SYS006", ("runs/a", "--stream", "--to", "x")),
        ("SYS006", ("runs/a", "--again", "x.flac", "--seed", "4")),
        ("SYS004", ("--again", "absent.flac")),
        ("SAMPLE034", ("--again", "runs/a/config.json")),
        ("RUN001", ("runs/b", "--to", "x")),
    ],
)
def test_rubbish_ends_in_one_coded_error(
    capsys: pytest.CaptureFixture[str], place: Path, code: str, args: tuple[str, ...]
) -> None:
    status, out, _ = run(capsys, *args, "--json")
    error = json.loads(out.strip().splitlines()[-1])["error"]
    assert status != 0 and error["code"] == code and error["next"]
    assert not (place / "x").exists()


def shell(*args: str, **how: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "partimento", "sample", "runs/a", "--stream", "--tags", "techno", *args]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, **how)


def test_the_reader_of_a_stream_leaves() -> None:
    playing = shell("--seconds", "600", stdout=subprocess.PIPE)
    assert playing.stdout is not None and playing.stderr is not None
    begin = playing.stdout.read(100_000)
    playing.stdout.close()
    err = playing.stderr.read().decode()
    assert playing.wait(60) == 0 and "Traceback" not in err and "Exception" not in err and begin[:4] == b"RIFF"


def test_ctrl_c_ends_a_stream_cleanly(place: Path) -> None:
    path = place / "stopped.wav"
    with path.open("wb") as out:
        playing = shell("--seconds", "600", stdout=out)
        until = time.monotonic() + 60
        while path.stat().st_size < 100_000 and time.monotonic() < until:
            time.sleep(0.05)
        playing.send_signal(signal.SIGINT)
        err = playing.communicate(timeout=60)[1].decode()
    assert "first audio after" in err and "x real time" in err
    assert playing.returncode == 130 and "stopped after" in err and "Traceback" not in err and "error[" not in err
    played = soundfile.read(path, dtype="int16")[0]
    assert len(played) > 10_000 and np.abs(played).max() > 0
