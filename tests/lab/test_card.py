"""A run leaves as a directory for a model hub, and everything that takes weights takes it back."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from card_toys import FAMILIES, Toys, code_run, recording, with_toy_codec, write_pack

from partimento import commit
from partimento.cli.main import main
from partimento.codecs.resident import read_network
from partimento.errors import PartimentoError
from partimento.lab.card import publish
from partimento.play import sample
from partimento.play.restoring import restore
from partimento.progress import Quiet
from partimento.runs import adapters, exported, judged, published
from partimento.training.restorer import read_folder


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return Toys(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="module")
def exports(toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exports of rvq and dia, not to be changed."""
    folder = tmp_path_factory.mktemp("exports")
    for family in ("rvq", "dia"):
        publish(toys.run(family).path, folder / family)
    return folder


class Notes(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def code_of(error: pytest.ExceptionInfo[PartimentoError]) -> str:
    return error.value.code


def python_of(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lines_of_the_card_work_without_the_run(
    family: str, toys: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another folder, under the name of the export; of a mixture the backbone is where it was."""
    with_toy_codec(monkeypatch)
    name = f"my-{family}"
    told = publish(toys.run(family).path, tmp_path / "out" / name)
    assert told["card"] == "written" and told["source"]["run"] == toys.run(family).id
    assert any("adapter.json" in note for note in told["notes"]) == (family == "mot"), "it names the backbone's folder"
    away = tmp_path / "away"
    shutil.move(tmp_path / "out", away)
    hidden = toys.run(family).path.with_name("hidden")
    toys.run(family).path.rename(hidden)
    try:
        monkeypatch.chdir(away)
        recording(away)
        within: dict[str, object] = {}
        exec(python_of((away / name / "README.md").read_text()).replace("FOLDER", "toy"), within)
    finally:
        hidden.rename(toys.run(family).path)
    if family == "codec":
        assert within["heard_1N"].shape == within["wave_1N"].shape  # type: ignore[attr-defined]
    elif family == "restore":
        assert (away / "restored" / "recording.wav").is_file()
    else:
        (made,) = within["made"]  # type: ignore[misc,has-type]
        assert 0 < made["seconds"] < 5.1 and (away / "played" / made["file"]).is_file()
    read = {"dia": published.read, "mot": adapters.read, "restore": read_folder, "codec": read_network}
    if family in read:  # what model.weights reads
        read[family](away / name)  # type: ignore[operator]


@pytest.mark.parametrize("family", ["rvq", "dia"])
def test_an_export_plays_what_its_run_plays(
    family: str, toys: Toys, exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_toy_codec(monkeypatch)
    options = {"tags": ["slow"], "seconds": 0.5, "guidance": 2.0, "device": "cpu", "compile": False}
    ours = sample(toys.run(family).path, tmp_path / "a", **options)[0]
    theirs = sample(exports / family, tmp_path / "b", **options)[0]
    assert ours["samples_sha256"] == theirs["samples_sha256"]
    assert (theirs["run"], theirs["checkpoint"]) == (ours["run"], ours["checkpoint"])


def test_a_training_begins_with_it_under_its_name_on_the_hub(
    exports: Path, toys: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `hf download` leaves it: links to files that are named by their hash."""
    with_toy_codec(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--me--music"
    (place / "blobs").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc").mkdir(parents=True)
    for file in (exports / "dia").iterdir():
        blob = place / "blobs" / commit.sha256(file)
        shutil.copyfile(file, blob)
        (place / "snapshots" / "abc" / file.name).symlink_to(blob)
    assert published.read("me/music").folder == place / "snapshots" / "abc"
    pack = Path(toys.run("dia").record["config"]["data"]["pack"])
    (tmp_path / "on.toml").write_text(
        f'family = "dia"\n[data]\npack = "{pack}"\nwindow = 24\n[model]\nweights = "me/music"\n[optim]\nbatch = 1\n'
        'ema = 0.0\n[demo]\ntemperatures = []\n[train]\nsteps = 1\nvalid_items = 1\ndevice = "cpu"\n'
    )
    with pytest.raises(SystemExit) as ended:
        main(["train", "on.toml", "--run", "on", "-q", "--json"])
    assert not ended.value.code, capsys.readouterr().out
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["weights", "inspect", "me/music", "--json"])
    seen = json.loads(capsys.readouterr().out)["export"]
    assert not ended.value.code and seen["card"]["metrics"][0]["type"] == "bits_per_second" and not seen["edited"]
    told = publish(tmp_path / "runs" / "on", tmp_path / "again", weights="raw")
    assert told["source"]["weights"] == "raw"
    assert "Begun as the weights me/music, whose licence is not known" in (tmp_path / "again/README.md").read_text()


@pytest.mark.parametrize("family", ["rvq", "dia"])
def test_what_was_changed_is_refused_by_name_and_a_card_may_be_edited(
    family: str, exports: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exports / family, folder)
    for name in exported.read(folder).files:
        before = (folder / name).read_bytes()
        for content in (before[:-2] + bytes([before[-2] ^ 1]) + before[-1:], before[:-1]):
            (folder / name).write_bytes(content)
            with pytest.raises(PartimentoError) as caught:
                sample(folder, tmp_path / "x", seconds=0.1, device="cpu")
            told = f"{caught.value.message} {caught.value.where} {caught.value.why}"
            assert code_of(caught) in ("PUB002", "WEIGHTS002") and name in told
        (folder / name).unlink()
        with pytest.raises(PartimentoError) as caught:
            sample(folder, tmp_path / "x", seconds=0.1, device="cpu")
        assert code_of(caught) == "PUB002" and name in caught.value.message
        (folder / name).write_bytes(before)
    (folder / "README.md").write_text("mine\n")
    (folder / "report.html").unlink()
    exported.located(folder)
    assert exported.edited(exported.read(folder)) == {"README.md": "changed", "report.html": "missing"}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"schema": 2}', "\x00", '{"schema": 1, "family": 1, "layout": "x", "source": {}, "card": {}}'],
)
def test_a_record_that_is_rubbish_is_one_error(content: str, exports: Path, tmp_path: Path) -> None:
    shutil.copytree(exports / "rvq", tmp_path / "copy")
    (tmp_path / "copy" / exported.RECORD).write_text(content)
    with pytest.raises(PartimentoError) as caught:
        exported.located(tmp_path / "copy")
    assert code_of(caught) == "PUB001"


def test_a_record_that_lists_what_is_outside_is_refused(exports: Path, tmp_path: Path) -> None:
    shutil.copytree(exports / "rvq", tmp_path / "copy")
    file = tmp_path / "copy" / exported.RECORD
    tree = json.loads(file.read_text())
    tree["files"]["../x"] = tree["files"]["player.json"]
    file.write_text(json.dumps(tree))
    with pytest.raises(PartimentoError) as caught:
        exported.read(tmp_path / "copy")
    assert code_of(caught) == "PUB001" and "../x" in str(caught.value.why)


def test_a_player_that_says_nothing_is_refused(exports: Path, tmp_path: Path) -> None:
    """Without partimento.json nobody has listed it."""
    shutil.copytree(exports / "rvq", tmp_path / "copy")
    (tmp_path / "copy" / exported.RECORD).unlink()
    (tmp_path / "copy" / "player.json").write_text('{"schema": 1, "description": {}, "source": {}, "sha256": ""}')
    with pytest.raises(PartimentoError) as caught:
        sample(tmp_path / "copy", tmp_path / "x", seconds=0.1, device="cpu")
    assert code_of(caught) == "PUB003"


def test_the_card_says_licences_and_guesses_none(exports: Path) -> None:
    card = (exports / "dia" / "README.md").read_text()
    assert "license: unknown" in card and "No licence of the weights was given" in card
    assert "**Share-alike**" in card and "| CC BY-SA 4.0 | CC BY-SA 4.0 |" in card
    assert "ask Joe \\| nicely | not understood: read it yourself" in card
    assert "no licence given | unknown: nobody has said" in card
    assert "To be named" in card and "https://example.org/" not in card, "only every fourth clip asks, all even"
    assert not (exports / "dia" / "ATTRIBUTION.tsv").read_text().count("CC0")


def test_many_who_are_to_be_named_have_a_file(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack", clips=40, licences=("CC BY 4.0",))
    run = code_run(tmp_path, "rvq", pack=pack, steps=1, valid_every=1, save_every=1)
    publish(run.path, tmp_path / "out", licence="CC BY 4.0")
    rows = (tmp_path / "out" / "ATTRIBUTION.tsv").read_text().splitlines()
    card = (tmp_path / "out" / "README.md").read_text()
    trained = int(re.search(r"(\d+) clips of", card)[1])  # type: ignore[index]
    assert 20 < trained < 40 and len(rows) == 1 + trained
    assert rows[1].split("\t")[2:] == ["CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/", "1"]
    assert f"{trained} sources are to be named: [ATTRIBUTION.tsv]" in card and "license: cc-by-4.0" in card


def test_figures_are_those_that_were_kept(toys: Toys, exports: Path) -> None:
    run = toys.run("dia")
    kept = judged.read(judged.steps(run.path)[4]).items
    sources: dict[str, list[float]] = {}
    clips: dict[tuple[str, str], list[float]] = {}
    for clip, source, size, value in zip(
        kept.clips, kept.sources, kept.sizes, kept.values["bits_per_second"], strict=True
    ):
        totals = clips.setdefault((clip, source), [0.0, 0.0])
        totals[0] += value or 0.0
        totals[1] += size
    for (_, source), (value, size) in clips.items():
        sources.setdefault(source, []).append(kept.scale["bits_per_second"] * value / size)
    (metric,) = exported.read(exports / "dia").card["metrics"]
    assert metric["mean"]["mean"] == pytest.approx(np.mean([np.mean(values) for values in sources.values()]))
    assert metric["mean"]["n"] == len(sources)
    events = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    (valid,) = [one for one in events if one["kind"] == "valid" and one["weights"] == "ema" and one["step"] == 4]
    assert metric["value"] == valid["bits_per_second"]
    card = (exports / "dia" / "README.md").read_text()
    assert f"{valid['bits_per_second']:,.1f} bits/s" in card and "bigram: pairs of codes, counted" in card


def test_what_is_gone_is_said_to_be_unknown(toys: Toys, tmp_path: Path) -> None:
    shutil.copytree(toys.run("rvq").path, tmp_path / "r")
    for name in ("validation", "demos"):
        shutil.rmtree(tmp_path / "r" / name, ignore_errors=True)
    pack = Path(toys.run("rvq").record["config"]["data"]["pack"])
    pack.rename(pack.with_name("elsewhere"))
    notes = Notes()
    try:
        publish(tmp_path / "r", tmp_path / "out", progress=notes)
    finally:
        pack.with_name("elsewhere").rename(pack)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "unknown: the pack is not at its place any more" in card and "**Unknown**" in card
    assert "No interval can be given: figures of single held-out items were not kept." in card
    assert "bits/s | unknown | unknown | unknown |" in card
    assert any("of the data the card says little" in note for note in notes.notes)
    events = (tmp_path / "r" / "events.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "r" / "events.jsonl").write_text("".join(line for line in events if '"valid"' not in line))
    publish(tmp_path / "r", tmp_path / "unjudged")
    card = (tmp_path / "unjudged" / "README.md").read_text()
    assert "were not measured on held-out data" in card and "model-index" not in card
    assert "nothing says how good it is" in card
    (tmp_path / "r" / "events.jsonl").unlink()
    publish(tmp_path / "r", tmp_path / "unlogged")
    shutil.rmtree(tmp_path / "r" / "checkpoints")
    with pytest.raises(PartimentoError) as caught:
        publish(tmp_path / "r", tmp_path / "none")
    assert code_of(caught) == "CKPT003" and not (tmp_path / "none").exists()


def test_a_codec_without_its_recordings_has_no_figures(toys: Toys, tmp_path: Path) -> None:
    takes = toys.run("codec").path.parents[1] / "takes"
    takes.rename(takes.with_name("gone"))
    try:
        publish(toys.run("codec").path, tmp_path / "out")
    finally:
        takes.with_name("gone").rename(takes)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "unknown, since the recordings could not be read" in card and "pipeline_tag: feature-extraction" in card
    assert json.loads((tmp_path / "out" / "card.json").read_text())["licence"] is None


def test_the_same_again_keeps_what_was_edited(toys: Toys, tmp_path: Path) -> None:
    run, out = toys.run("rvq"), tmp_path / "out"
    publish(run.path, out, licence="mit")
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    assert publish(run.path, out)["card"] == "written"
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first, "the licence stays, too"
    (out / "README.md").write_text("mine\n")
    (out / "report.html").unlink()
    for _ in range(2):
        told = publish(run.path, out)
        assert told["card"] == "kept" and "edited by hand" in told["notes"][0]
        assert (out / "README.md").read_text() == "mine\n" and (out / "report.html").is_file()
        assert (out / "README.generated.md").read_bytes() == first["README.md"]
    exported.located(out)
    for other in ({"weights": "raw"}, {"layout": "transformers"}):
        with pytest.raises(PartimentoError) as caught:
            publish(run.path, out, **other)  # type: ignore[arg-type]
        assert code_of(caught) == "WEIGHTS008" and (out / "README.md").read_text() == "mine\n"
    (out / "model.safetensors").write_bytes(b"no")
    with pytest.raises(PartimentoError) as caught:
        publish(run.path, out)
    assert code_of(caught) == "PUB002"
    (tmp_path / "else").mkdir()
    with pytest.raises(PartimentoError) as caught:
        publish(run.path, tmp_path / "else")
    assert code_of(caught) == "WEIGHTS008"


@pytest.mark.parametrize("name", ["", "1", "a\nb", "x" * 101, "---"])
def test_a_licence_has_a_name(name: str, toys: Toys, tmp_path: Path) -> None:
    with pytest.raises(PartimentoError) as caught:
        publish(tmp_path, tmp_path / "out", licence=name)
    assert code_of(caught) == "PUB004" and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_or_without_room_nothing_is_there(toys: Toys, tmp_path: Path) -> None:
    """kill -9 while the documents are written; then a limit on the size of files in place of a full disk."""
    script = textwrap.dedent(
        """
        import os, resource, signal, sys
        from partimento.errors import PartimentoError
        import partimento.lab.card.export as module
        how, run, out = sys.argv[1:]
        if how == "kill":
            module.readme = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        else:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(how), int(how)))
        try:
            module.publish(run, out)
        except PartimentoError as err:
            print(err.code)
        """
    )
    run, out = toys.run("rvq").path, tmp_path / "out"
    for how, said in (("kill", ""), ("3000", "SYS002"), ("60000", "SYS002")):
        done = subprocess.run(
            [sys.executable, "-c", script, how, str(run), str(out)], capture_output=True, text=True, timeout=120
        )
        assert done.stdout.strip() == said, done.stderr
        assert done.returncode == (-signal.SIGKILL if how == "kill" else 0) and not out.exists()
    publish(run, out)
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_restored_by_an_export_as_by_its_run(toys: Toys, tmp_path: Path) -> None:
    publish(toys.run("restore").path, tmp_path / "out")
    recording(tmp_path)
    (made,) = restore(tmp_path / "out", [tmp_path / "recording.wav"], tmp_path / "a")
    assert made.state == "made"
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    (tmp_path / "out" / "card.json").write_text(json.dumps({**card, "semitones": [1.0]}))
    with pytest.raises(PartimentoError) as caught:
        restore(tmp_path / "out", [tmp_path / "recording.wav"], tmp_path / "b")
    assert code_of(caught) == "PUB002" and "card.json" in caught.value.message
