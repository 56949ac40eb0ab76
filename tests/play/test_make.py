"""`sample` and `again`: files, what they say of themselves, resuming, continuing, and what goes wrong."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from playable import WINDOW, make_run

from partimento import commit
from partimento.audio import files
from partimento.errors import PartimentoError
from partimento.play import again, sample
from partimento.progress import Quiet
from partimento.sampling.sheet import Ending

RATE = 44100
FRAME = 512 / RATE

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="compiled steps need a compiler")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_run(root, "a")
    make_run(root, "d", "dia")
    make_run(root, "nonull", null_share=0.0)
    make_run(root, "noema", ema=False)
    make_run(root, "other", seed=1)
    make_run(root, "endless", "dia", ending=Ending("never"))
    for family in ("rvq", "dia"):
        make_run(root, f"wide-{family}", family, model={"width": 192, "layers": 3, "heads": 4})
    return root


def play(run: Path, to: Path, **options: Any) -> list[dict[str, Any]]:
    return sample(run, to, **{"seconds": 0.3, "tags": ["techno"], **options})


def fails(code: str, run: Path, to: Path, **options: Any) -> PartimentoError:
    before = sorted(to.rglob("*")) if to.is_dir() else None
    with pytest.raises(PartimentoError) as caught:
        play(run, to, **options)
    assert caught.value.code == code, caught.value
    assert caught.value.next
    assert (sorted(to.rglob("*")) if to.is_dir() else None) == before, "nothing is half written"
    return caught.value


def samples(folder: Path, entry: dict[str, Any]) -> np.ndarray:
    return soundfile.read(folder / entry["file"], dtype="int16", always_2d=True)[0]


def write_wave(path: Path, seconds: float, rate: int = RATE, channels: int = 1, level: float = 0.3) -> Path:
    noise = np.random.default_rng(0).uniform(-level, level, (round(seconds * rate), channels)).astype(np.float32)
    soundfile.write(path, noise, rate)
    return path


def test_files_say_how_they_were_made(runs: Path, tmp_path: Path) -> None:
    (made,) = play(runs / "a", tmp_path, tags=["techno", "A minor"], guidance=2.0, temperature=0.9, seed=4)
    assert made["frames_asked"] == made["frames"] == round(0.3 / FRAME) and made["seconds_asked"] == 0.3
    assert made["seconds"] == pytest.approx(made["frames"] * FRAME) and not made["ended"]
    file = tmp_path / made["file"]
    assert len(samples(tmp_path, made)) == made["frames"] * 512
    beside = json.loads(file.with_suffix(".json").read_text())
    assert beside == {key: value for key, value in made.items() if key != "state"}
    inside = files.tags(file)
    told = json.loads(inside["comment"])
    assert told.items() <= beside.items()
    assert told["tags"] == ["techno", "A minor"] and told["weights_sha256"] == commit.sha256(
        runs / "a/checkpoints/step-000000007/ema.safetensors"
    )
    assert {"run", "checkpoint", "codec", "temperature", "guidance", "seed", "torch", "device"} <= told.keys()
    assert inside["title"] == "techno, A minor" and inside["software"].startswith("partimento")
    if shutil.which("ffprobe"):
        command = ["ffprobe", "-v", "error", "-show_entries", "format_tags", "-of", "json", str(file)]
        seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert json.loads(seen["format"]["tags"]["comment"]) == told


def test_the_same_request_is_the_same_files_and_seeds_differ(runs: Path, tmp_path: Path) -> None:
    one, two = play(runs / "a", tmp_path / "x", count=2)
    same = play(runs / "a", tmp_path / "y", count=2)
    assert [(tmp_path / "x" / e["file"]).read_bytes() for e in (one, two)] == [
        (tmp_path / "y" / e["file"]).read_bytes() for e in same
    ]
    assert one["samples_sha256"] != two["samples_sha256"]
    (raw,) = play(runs / "a", tmp_path / "x", weights="raw")
    assert raw["file"] != one["file"] and raw["samples_sha256"] != one["samples_sha256"]


@needs_compiler
@pytest.mark.parametrize("family", ["rvq", "dia"])
def test_what_is_played_does_not_depend_on_the_batch(runs: Path, tmp_path: Path, family: str) -> None:
    """Compiled, to the last bit. (Not compiled, up to the rounding of matrix products of other shapes.)"""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("techno\nbright, C# major\n" + ("techno | a dark pulse\n" if family == "dia" else "A minor\n"))
    asked = {"tags": (), "prompts": prompts, "guidance": [1.0, 3.0], "count": 2, "seconds": 0.4}
    together = play(runs / f"wide-{family}", tmp_path / "8", batch=8, **asked)
    alone = play(runs / f"wide-{family}", tmp_path / "1", batch=1, **asked)
    assert len(together) == 12 and {e["batch"] for e in together} == {6} and {e["batch"] for e in alone} == {1}
    assert [e["file"] for e in together] == [e["file"] for e in alone]
    assert [e["samples_sha256"] for e in together] == [e["samples_sha256"] for e in alone]
    assert len({e["samples_sha256"] for e in together}) == 12, "each is another music"


def test_names_do_not_depend_on_the_order_of_the_grid(runs: Path, tmp_path: Path) -> None:
    one = play(runs / "a", tmp_path, dry_run=True, temperature=[0.5, 1.0], guidance=[1.0, 2.0])
    two = play(runs / "a", tmp_path, dry_run=True, temperature=[1.0, 0.5], guidance=[2.0, 1.0])
    assert {e["file"] for e in one} == {e["file"] for e in two} and one != two
    longer = play(runs / "a", tmp_path, dry_run=True, seconds=0.5)
    other_run = play(runs / "other", tmp_path, dry_run=True)
    assert not {e["file"] for e in one} & {longer[0]["file"], other_run[0]["file"]}, "other music, other names"


def test_a_dry_run_writes_nothing_and_says_what_is_there(runs: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    assert [e["state"] for e in play(runs / "a", to, count=2, dry_run=True)] == ["missing"] * 2
    assert not to.exists()
    play(runs / "a", to, count=1)
    assert [e["state"] for e in play(runs / "a", to, count=2, dry_run=True)] == ["there", "missing"]


def test_an_interrupted_grid_goes_on(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = play(runs / "a", tmp_path / "whole", count=6, batch=2)
    from partimento.play import make

    real, calls = make.play_items, []

    def killed(source: Any, items: Any, *rest: Any) -> Any:
        calls.append(items)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(source, items, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(make, "play_items", killed)
        with pytest.raises(KeyboardInterrupt):
            play(runs / "a", tmp_path / "out", count=6, batch=2)
    kept = play(runs / "a", tmp_path / "out", count=6, dry_run=True)
    assert [e["state"] for e in kept] == ["there"] * 4 + ["missing"] * 2, "both whole batches are kept"
    untouched = (tmp_path / "out" / kept[0]["file"]).stat().st_mtime_ns
    (tmp_path / "out" / kept[1]["file"]).write_bytes(b"cut")
    (tmp_path / "out" / kept[2]["file"]).with_suffix(".json").unlink()
    (tmp_path / "out" / kept[3]["file"]).with_suffix(".json").write_text('{"request": 3}')
    resumed = play(runs / "a", tmp_path / "out", count=6, batch=4)
    assert [e["state"] for e in resumed] == ["there"] + ["played"] * 5
    assert [e["samples_sha256"] for e in resumed] == [e["samples_sha256"] for e in whole]
    assert (tmp_path / "out" / kept[0]["file"]).stat().st_mtime_ns == untouched
    assert not list((tmp_path / "out").glob("*.tmp*"))


@pytest.mark.parametrize("family", ["a", "endless"])
def test_music_far_beyond_the_window(runs: Path, tmp_path: Path, family: str) -> None:
    seconds = 10 * WINDOW * FRAME
    both = play(runs / family, tmp_path / "2", seconds=seconds, count=2)
    (alone,) = play(runs / family, tmp_path / "1", seconds=seconds, seed=1)
    assert alone["frames"] == 10 * WINDOW and alone["samples_sha256"] == both[1]["samples_sha256"]
    codes = samples(tmp_path / "2", both[0])
    assert len(codes) == 10 * WINDOW * 512


@pytest.mark.parametrize("family", ["a", "d"])
def test_a_sample_is_played_again_from_what_it_says(runs: Path, tmp_path: Path, family: str) -> None:
    text = {"prompt": "a slow waltz"} if family == "d" else {}
    options: dict[str, Any] = {"guidance": 2.5, "temperature": 0.8, "top_p": 0.9, "min_p": 0.01, "count": 3, **text}
    made = play(runs / family, tmp_path, **options)[1]
    for file in (tmp_path / made["file"], (tmp_path / made["file"]).with_suffix(".json")):
        found = again(file, run=runs / family)
        assert found.equal and found.samples_sha256 == made["samples_sha256"] and found.file is None
        found.check()
    kept = again(tmp_path / made["file"], run=runs / family, to=tmp_path)
    assert kept.file is not None and kept.file.name.endswith("_again.flac") and kept.file.exists()
    assert json.loads(files.tags(kept.file)["comment"])["request"] == made["request"]


def test_again_finds_the_run_and_tells_other_audio(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = play(runs / "a", tmp_path)
    shutil.copytree(runs, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert again(tmp_path / made["file"]).equal
    beside = (tmp_path / made["file"]).with_suffix(".json")
    beside.write_text(beside.read_text().replace(made["samples_sha256"], "0" * 64).replace(made["torch"], "0.4"))
    found = again(beside)
    assert not found.equal and found.differs == {"torch": ("0.4", made["torch"])}
    with pytest.raises(PartimentoError, match=r"(?s)SAMPLE036.*torch 0.4 ->"):
        found.check()


def test_again_refuses_what_it_cannot_play(runs: Path, tmp_path: Path) -> None:
    (made,) = play(runs / "a", tmp_path)
    file = tmp_path / made["file"]
    for code, path, run in (
        ("SAMPLE035", file, None),
        ("SAMPLE035", file, tmp_path),
        ("SAMPLE035", file, runs / "other"),
        ("SYS004", tmp_path / "absent.json", runs / "a"),
        ("SAMPLE034", write_wave(tmp_path / "other.flac", 0.1), runs / "a"),
        ("AUDIO002", runs / "a/run.json.flac", runs / "a"),
    ):
        if path.name == "run.json.flac":
            shutil.copy(runs / "a/run.json", path)
        with pytest.raises(PartimentoError, match=code):
            again(path, run=run)
    beside = json.loads(file.with_suffix(".json").read_text())
    for key, value in (
        ("run", "../a"),
        ("checkpoint", 3),
        ("batch", 10**9),
        ("weights", "fp8"),
        ("tags", 3),
        ("schema", 1),
        ("seed", "x"),
        ("continued", {}),
        ("decoded_by", 0),
    ):
        changed = tmp_path / "changed.json"
        changed.write_text(json.dumps({**beside, key: value}))
        with pytest.raises(PartimentoError, match="SAMPLE034"):
            again(changed, run=runs / "a")
    for content in ("[]", "{", "{}", '"x"'):
        changed.write_text(content)
        with pytest.raises(PartimentoError, match="SAMPLE034"):
            again(changed, run=runs / "a")


def test_playing_on_from_other_rates_and_channels(runs: Path, tmp_path: Path) -> None:
    song = write_wave(tmp_path / "song.wav", 0.5, rate=22050, channels=2)
    (made,) = play(runs / "a", tmp_path / "out", continue_from=song)
    prompt = made["continued"]
    assert prompt["frames"] == int(0.5 / FRAME) and prompt["seconds"] == pytest.approx(prompt["frames"] * FRAME)
    assert made["frames"] == prompt["frames"] + made["frames_asked"], "seconds count what is added"
    assert made["file"].startswith("song-continued_techno_") and prompt["sha256"] == commit.sha256(song)
    with pytest.raises(PartimentoError, match="SAMPLE035"):
        again(tmp_path / "out" / made["file"], run=runs / "a")
    assert again(tmp_path / "out" / made["file"], run=runs / "a", continue_from=song).equal
    shutil.copy(song, tmp_path / "out")
    assert again(tmp_path / "out" / made["file"], run=runs / "a").equal
    write_wave(tmp_path / "out/song.wav", 0.4)
    with pytest.raises(PartimentoError, match="SAMPLE035"):
        again(tmp_path / "out" / made["file"], run=runs / "a")


def test_playing_on_from_more_than_the_window(runs: Path, tmp_path: Path) -> None:
    """Ten windows of prompt, and half a window added: the model sees the last of it."""
    song = write_wave(tmp_path / "song.wav", 10 * WINDOW * FRAME)
    (made,) = play(runs / "endless", tmp_path, continue_from=song, seconds=WINDOW / 2 * FRAME)
    assert made["frames"] == 10 * WINDOW + WINDOW // 2
    (short,) = play(runs / "d", tmp_path, continue_from=write_wave(tmp_path / "b.wav", FRAME * 2.7))
    assert short["continued"]["frames"] == 2


def damaged(path: Path) -> Path:
    """Prompt audio that is no music, by the name of the file."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (RATE // 2, 1)).astype(np.float32)
    if path.stem == "short":
        soundfile.write(path, noise[:300], RATE)
    elif path.stem == "silent":
        soundfile.write(path, noise * 0, RATE)
    elif path.stem == "nan":
        noise[100] = np.nan
        soundfile.write(path, noise, RATE, subtype="FLOAT")
    elif path.stem == "cut":
        soundfile.write(path, noise, RATE)
        path.write_bytes(path.read_bytes()[: RATE // 4])
    elif path.stem == "text":
        path.write_text("this is no audio")
    elif path.stem == "empty":
        path.touch()
    elif path.stem == "header":
        with wave.open(str(path), "wb") as out:
            out.setparams((1, 2, RATE, 0, "NONE", ""))
    return path


@pytest.mark.parametrize(
    ("code", "stem"),
    [
        ("SAMPLE033", "short"),
        ("SAMPLE033", "silent"),
        ("AUDIO006", "nan"),
        ("AUDIO004", "cut"),
        ("AUDIO002", "text"),
        ("AUDIO003", "empty"),
        ("AUDIO007", "header"),
        ("SYS004", "absent"),
    ],
)
def test_prompt_audio_that_cannot_be_played_on_from(runs: Path, tmp_path: Path, code: str, stem: str) -> None:
    fails(code, runs / "a", tmp_path / "out", continue_from=damaged(tmp_path / f"{stem}.wav"))


def test_what_cannot_be_played(runs: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    error = fails("TOKEN003", runs / "a", to, tags=["tecno"])
    assert "techno" in error.message
    fails("TOKEN003", runs / "d", to, tags=["tecno"])
    fails("TEXT003", runs / "a", to, prompt="a slow waltz")
    fails("TEXT001", runs / "d", to, prompt="endless " * 1000)
    fails("TEXT002", runs / "d", to, prompt="a \x07 bell")
    fails("TEXT002", runs / "d", to, prompt="half \udc80")
    fails("SAMPLE002", runs / "d", to, tags=(), guidance=[1.0, 3.0])
    fails("SAMPLE002", runs / "a", to, tags=(), prompt="  ", guidance=3.0)
    fails("SAMPLE005", runs / "nonull", to, guidance=2.0)
    fails("SAMPLE005", runs / "nonull", to, tags=())
    fails("CKPT004", runs / "noema", to)
    fails("SAMPLE030", runs / "a", to, batch=0)
    fails("TRAIN005", runs / "a", to, device="cuda" if not torch.cuda.is_available() else "tpu")
    fails("RUN001", tmp_path, to)
    assert not to.exists()


def test_an_empty_prompt_is_the_null_condition(runs: Path, tmp_path: Path) -> None:
    (made,) = play(runs / "d", tmp_path, tags=(), prompt=" \n ")
    assert made["file"].startswith("unconditional_") and made["tags"] == [] and made["text"] == ""


def test_a_run_that_does_not_play(tmp_path: Path, runs: Path) -> None:
    run = tmp_path / "codec"
    shutil.copytree(runs / "a", run)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "family": "codec"}))
    fails("SAMPLE032", run, tmp_path / "out")
    shutil.rmtree(run / "checkpoints")
    (run / "run.json").write_text(json.dumps(record))
    fails("CKPT003", run, tmp_path / "out")


def test_a_folder_that_cannot_be_written(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    fails("SYS002", runs / "a", tmp_path / "file")
    fails("SYS002", runs / "a", tmp_path / "file/below")

    def denied(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", denied)
        (tmp_path / "locked").mkdir()
        fails("SYS002", runs / "a", tmp_path / "locked")


def test_a_full_disk_leaves_whole_samples_only(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = commit.place, []

    def full(tmp: Path, path: Path) -> None:
        if path.suffix == ".flac":
            written.append(path)
        if len(written) == 3:
            with commit.disk_errors(path):
                raise OSError(errno.ENOSPC, "No space left on device")
        real(tmp, path)

    with monkeypatch.context() as patch:
        patch.setattr(commit, "place", full)
        with pytest.raises(PartimentoError, match="SYS002"):
            play(runs / "a", tmp_path, count=4, batch=1)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 4 and len([n for n in left if n.endswith(".json")]) == 2
    made = play(runs / "a", tmp_path, count=4)
    assert [e["state"] for e in made] == ["there", "there", "played", "played"]


def test_one_channel_is_played_on_in_two(tmp_path: Path) -> None:
    from partimento.codecs.codec import open_codec

    run = make_run(tmp_path, "stereo", spec=open_codec(layout="mid-side", books=(3, 2)).spec)
    song = write_wave(tmp_path / "song.wav", 0.4)
    notes: list[str] = []

    class Notes(Quiet):
        def note(self, text: str) -> None:
            notes.append(text)

    (made,) = play(run.path, tmp_path / "out", continue_from=song, progress=Notes())
    heard = samples(tmp_path / "out", made)
    assert heard.shape == (made["frames"] * 512, 2) and any("upmixed" in note for note in notes)
    write_wave(tmp_path / "five.wav", 0.4, channels=5)
    fails("CODEC011", run.path, tmp_path / "no", continue_from=tmp_path / "five.wav")


@needs_compiler
def test_compiled_steps_and_narrow_weights(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (compiled,) = play(runs / "d", tmp_path)
    (slow,) = play(runs / "d", tmp_path / "slow", compile=False)
    assert compiled["compile"] and not slow["compile"] and slow["file"] == compiled["file"], "the same request"
    (narrow,) = play(runs / "d", tmp_path, precision="int8")
    assert narrow["file"] != slow["file"] and narrow["precision"] == "int8" and narrow["compile"]
    for file in (tmp_path / compiled["file"], tmp_path / narrow["file"], tmp_path / "slow" / slow["file"]):
        assert again(file, run=runs / "d").equal
    monkeypatch.setenv("CXX", "no-such-compiler")
    (plain,) = play(runs / "d", tmp_path / "plain")
    assert not plain["compile"] and plain["samples_sha256"] == slow["samples_sha256"]
