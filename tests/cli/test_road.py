"""The road as a user walks it: every command in order, in one process, on a few short loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from partimento.cli.main import main
from partimento.tokens.pack import Pack

CONFIG = """
family = "rvq"
[data]
pack = "pack"
window = 48
null_share = 0.2
[model]
width = 32
layers = 2
heads = 2
[optim]
batch = 2
warmup = 1
[train]
steps = 3
valid_every = 3
valid_items = 4
save_every = 2
log_every = 1
[demo]
seconds = 0.3
temperatures = [1.0]
recordings = "music"
"""


class Shell:
    """Runs commands; gives (exit status, the JSON on stdout)."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: str | Path) -> tuple[int, dict]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, args), "--json"])
        out = self.capsys.readouterr().out
        return int(ended.value.code or 0), json.loads(out.strip().splitlines()[-1])

    def ok(self, *args: str | Path) -> dict:
        status, found = self(*args)
        assert status == 0, found
        return found

    def fails(self, code: str, *args: str | Path) -> dict:
        status, found = self(*args)
        assert status != 0 and found["error"]["code"] == code, found
        assert found["error"]["next"], "every error says what to do next"
        return found["error"]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from partimento.audio.synth import render_band
    from partimento.codecs.encode import encode
    from partimento.config import load
    from partimento.training.engine import train

    here = tmp_path_factory.mktemp("road")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        render_band(Path("music"), 6, 0, seconds=2.0)
        encode(["music"], "pack", jobs=1)
        (here / "a.toml").write_text(CONFIG)
        train(load("a.toml"), run="a")
        train(load("a.toml", ["data.null_share=0.0", "demo.temperatures=[]"]), run="nonull")
    return here


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_encode_again_does_nothing(shell: Shell, place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place / "pack").rglob("*")}
    assert shell.ok("encode", "music", "--to", "pack")["made"] == 0
    assert {path: path.stat().st_mtime_ns for path in (place / "pack").rglob("*") if path in before} == before


def test_pack_commands(shell: Shell) -> None:
    assert shell.ok("pack", "inspect", "pack")["codec"]["codec"] == "resident-44k"
    assert shell.ok("pack", "verify", "pack")["ok"]
    stats = shell.ok("pack", "stats", "pack")
    assert len(stats["usage"]) == 9 and stats["baselines"]["bigram_bits_per_second"] > 0


def test_decode_gives_the_exact_length(shell: Shell, place: Path) -> None:
    files = shell.ok("decode", "pack", "--to", "back")["files"]
    originals = sorted((place / "music").glob("*.flac"))
    assert len(files) == len(originals)
    for original in originals:
        decoded = [file for file in files if original.stem in file]
        assert soundfile.info(decoded[0]).frames == soundfile.info(original).frames


def test_preflight_passes(shell: Shell) -> None:
    found = shell.ok("preflight", "a.toml", "data.window=32")
    assert found["passed"] and {check["name"] for check in found["checks"]} >= {"data", "disk", "initial loss"}


def test_a_finished_run_is_not_trained_again(shell: Shell, place: Path) -> None:
    shell.ok("train", "a.toml", "--run", "a")
    weights = place / "runs/a/checkpoints/step-000000003/model.safetensors"
    before = weights.stat().st_mtime_ns
    shell.ok("train", "a.toml", "--run", "a")
    assert weights.stat().st_mtime_ns == before


def test_sample_is_reproducible_and_traced(shell: Shell, place: Path) -> None:
    tags = Pack.open(place / "pack").tag_vocabulary[:1]
    args = ("sample", "runs/a", "--seconds", "0.4", "--tags", tags[0], "--guidance", "2", "--count", "2")
    first = shell.ok(*args, "--to", "out1")["samples"]
    again = shell.ok(*args, "--to", "out2")["samples"]
    assert [one["seed"] for one in first] == [0, 1] and first == again
    one, two = (soundfile.read(place / "out1" / entry["file"])[0] for entry in first)
    assert np.array_equal(one, soundfile.read(place / "out2" / again[0]["file"])[0])
    assert len(one) != len(two) or not np.array_equal(one, two)
    beside = json.loads((place / "out1" / first[0]["file"]).with_suffix(".json").read_text())
    assert beside["tags"] == tags and beside["guidance"] == 2 and len(beside["weights_sha256"]) == 64


def test_continue_keeps_the_beginning(shell: Shell, place: Path) -> None:
    music = sorted((place / "music").glob("*.flac"))[0]
    (entry,) = shell.ok("sample", "runs/a", "--to", "on", "--seconds", "0.3", "--continue", music)["samples"]
    assert entry["continued"]["seconds"] == pytest.approx(soundfile.info(music).duration, abs=512 / 44100)
    played = soundfile.read(place / "on" / entry["file"])[0]
    decoded_file = shell.ok("decode", music, "--to", "through")["files"][0]
    decoded = soundfile.read(decoded_file)[0]
    # The codec's own round trip, but for the last frames, which hear what follows.
    same = len(decoded) - 20 * 512
    assert np.allclose(played[:same], decoded[:same], atol=2e-3)


def test_report_and_score(shell: Shell, place: Path) -> None:
    page = place / shell.ok("report", "runs/a")["report"]
    assert "bits per second" in page.read_text()
    scores = shell.ok("score", "music", "--against", "pack", "--run", "runs/a")["scores"]
    of_run = scores[0]
    assert of_run["name"] == "a" and of_run["verdict"]
    assert {one["name"].split("/")[0] for one in scores if one["measures"]} == {"step-000000003", "music"}
    assert all(one["measures"]["seconds"] > 0.2 for one in scores if one["measures"])
    assert [one["name"] for one in scores if one["sets"]][-1] == "6 files"


def test_codec_commands(shell: Shell) -> None:
    assert shell.ok("codec", "list")["codecs"][0]["books"] == 9
    found = shell.ok("codec", "check", "music")
    assert found["mel7"] < found["mel7_low_pass"]
    error = shell.fails("CODEC011", "codec", "check", "music", "--layout", "left-right")
    assert "music" in error["where"] and "--upmix" in error["next"]
    assert shell.ok("codec", "check", "music", "--layout", "left-right", "--upmix")["mel7"] > 0


def test_score_counts_what_it_could_not_read(shell: Shell, place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    shell.fails("LAB008", "score", tmp_path / "bad.wav", next((place / "music").glob("*.flac")))


@pytest.mark.parametrize(
    ("code", "args"),
    [
        ("SYS004", ("encode", "nowhere", "--to", "p2")),
        ("AUDIO001", ("encode", "pack", "--to", "p2")),
        ("PACK010", ("encode", "back-to-front.flac", "--to", "pack")),
        ("PACK001", ("train", "a.toml", "data.pack=music")),
        ("PACK007", ("train", "a.toml", "data.window=100000")),
        ("CONFIG002", ("train", "a.toml", "data.windw=3")),
        ("CONFIG001", ("train", "absent.toml")),
        ("TRAIN001", ("train", "a.toml", "optim.lr=0.5", "--run", "a")),
        ("TOKEN003", ("sample", "runs/a", "--to", "x", "--tags", "tecno")),
        ("RUN001", ("sample", "music", "--to", "x")),
        ("RUN001", ("report", "music")),
        ("SAMPLE002", ("sample", "runs/a", "--to", "x", "--guidance", "3", "--seconds", "0.2")),
        ("SAMPLE005", ("sample", "runs/nonull", "--to", "x", "--seconds", "0.2")),
        ("SYS006", ("sample", "runs/a", "--to", "x", "--temperature", "-1")),
        ("SYS006", ("encode",)),
        ("SYS006", ("trian",)),
        ("SYS005", ("explain", "NOPE123")),
    ],
)
def test_rubbish_ends_in_one_coded_error(shell: Shell, place: Path, code: str, args: tuple[str, ...]) -> None:
    if "back-to-front.flac" in args:
        soundfile.write(place / "back-to-front.flac", np.zeros(1000, dtype=np.float32), 44100)
    shell.fails(code, *args)


def test_a_damaged_pack_is_listed_and_refused(shell: Shell, place: Path) -> None:
    shard = next((place / "pack/shards").glob("*.bin"))
    whole = shard.read_bytes()
    broken = bytearray(whole)
    broken[200] ^= 1
    shard.write_bytes(bytes(broken))
    try:
        shell.fails("PACK021", "pack", "verify", "pack")
        status, found = shell("train", "a.toml", "demo.temperatures=[]", "train.seed=5")
        assert status == 4 and found["error"]["code"] in {"PACK004", "PACK006"}
    finally:
        shard.write_bytes(whole)
    assert shell.ok("pack", "verify", "pack")["ok"]


def test_a_missing_checkpoint_names_the_command_that_goes_on(shell: Shell, place: Path) -> None:
    from partimento.config import load
    from partimento.runs.run import Run

    Run.create(place / "runs", load("a.toml"), run_id="empty")
    error = shell.fails("CKPT003", "sample", "runs/empty", "--to", "x")
    assert error["next"].startswith("partimento train ")
