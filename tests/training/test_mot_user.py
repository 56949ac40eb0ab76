"""What a user of the mot family meets: a backbone that changed beside its run, packs and folders that do not fit."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partimento.errors import PartimentoError
from partimento.lab.preflight import preflight
from partimento.runs.backbones import read_llama
from partimento.runs.run import Run
from partimento.sampling.rules import Rules
from partimento.tokens.text import Words
from partimento.tokens.writer import PackWriter
from partimento.training.engine import train
from partimento.training.player import Player
from partimento.training.publish import export_weights

sys.path.append(str(Path(__file__).parent))
import codes_toy
from mot_toy import config, task, write_llama, write_musicgen, write_pack

STOPPED = {"max_minutes": 1e-9}  # ends after its first step


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("data") / "pack")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    write_llama(tmp_path / "llama")
    return tmp_path / "llama"


def refused(code: str, work: Callable[[], Any]) -> PartimentoError:
    with pytest.raises(PartimentoError) as caught:
        work()
    assert caught.value.code == code, str(caught.value)
    return caught.value


def newest(run: Run) -> Path:
    return sorted(run.checkpoints_path.iterdir())[-1]


def swap_letters(folder: Path) -> None:
    """The same ids, of other letters: nothing but the words can tell."""
    file = folder / "tokenizer.json"
    tree = json.loads(file.read_text())
    letters = tree["model"]["vocab"]
    letters["a"], letters["w"] = letters["w"], letters["a"]
    file.write_text(json.dumps(tree))


def test_a_run_plays_wherever_the_command_is_given(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(config(pack, Path("llama"), train=STOPPED), runs=tmp_path / "runs", run="r")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(Player.from_checkpoint(newest(run)).coder.batch([Words.parse("| climbing")])[0]) == 1


def test_a_run_whose_backbone_moved_plays_once_the_command_of_the_error_was_given(
    pack: Path, llama: Path, tmp_path: Path
) -> None:
    run = train(config(pack, llama, train=STOPPED), runs=tmp_path / "runs", run="r")
    plain = Player.from_checkpoint(newest(run)).description()
    away = tmp_path / "other disk"
    llama.rename(away)
    told = refused("WEIGHTS020", lambda: Player.from_checkpoint(newest(run)))
    assert told.next == f"ln -s NEW_FOLDER {llama}"
    subprocess.run(told.next.replace("NEW_FOLDER", shlex.quote(str(away))), shell=True, check=True)
    player = Player.from_checkpoint(newest(run))
    assert player.description() == plain
    assert (
        len(player.play(frames=4, seeds=[1], rules=Rules(temperature=0.0), words=Words.parse("| climbing"))[0].codes_TK)
        <= 4
    )


def test_a_backbone_of_the_hub_is_looked_up_again(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cache(name: str) -> Path:
        """Another user's, say."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / name))
        return tmp_path / name / "models--them--llama"

    one = cache("one")
    (one / "refs").mkdir(parents=True)
    (one / "refs" / "main").write_text("abc")
    shutil.copytree(llama, one / "snapshots" / "abc")
    run = train(config(pack, Path("them/llama"), train=STOPPED), runs=tmp_path / "runs", run="r")
    assert Player.from_checkpoint(newest(run)).how["base"]["folder"] == str(one / "snapshots" / "abc")
    two = cache("two")
    two.parent.mkdir()
    one.rename(two)
    player = Player.from_checkpoint(newest(run))
    assert player.how["base"]["folder"] == player.how["words"]["folder"] == str(two / "snapshots" / "abc")
    assert (
        len(player.play(frames=4, seeds=[1], rules=Rules(temperature=0.0), words=Words.parse("| climbing"))[0].codes_TK)
        <= 4
    )
    shutil.rmtree(two)
    assert refused("WEIGHTS020", lambda: Player.from_checkpoint(newest(run))).next == "hf download them/llama"


def test_another_tokenizer_is_refused(pack: Path, llama: Path, tmp_path: Path) -> None:
    made = config(pack, llama, train=STOPPED)
    run = train(made, runs=tmp_path, run="r")
    swap_letters(llama)
    for work in (
        lambda: Player.from_checkpoint(newest(run)),
        lambda: export_weights(run.path, tmp_path / "out"),
    ):
        assert "other ids" in str(refused("WEIGHTS022", work).why)
    err = refused("TRAIN002", lambda: train(made, runs=tmp_path, run="r"))
    assert "tokenizer" in err.message and "model.backbone" in str(err.next)
    assert not (tmp_path / "out").exists()


def test_weights_that_were_learned_with_another_tokenizer_are_refused(pack: Path, llama: Path, tmp_path: Path) -> None:
    run = train(config(pack, llama, train=STOPPED), runs=tmp_path)
    export_weights(run.path, tmp_path / "beside")
    begins = config(pack, llama, model={"weights": str(tmp_path / "beside")})
    task(begins)
    swap_letters(llama)
    assert "another tokenizer.json" in refused("TRAIN073", lambda: task(begins)).message


def test_another_config_json_is_refused(pack: Path, llama: Path, tmp_path: Path) -> None:
    """Rotary base and epsilon are in no tensor."""
    made = config(pack, llama, train=STOPPED)
    train(made, runs=tmp_path, run="r")
    file = llama / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rms_norm_eps": 1e-3}))
    assert "config.json" in refused("TRAIN002", lambda: train(made, runs=tmp_path, run="r")).message


def test_another_source_of_what_was_trained_is_named(pack: Path, llama: Path, tmp_path: Path) -> None:
    write_musicgen(tmp_path / "musicgen", whole=False)
    made = config(pack, llama, model={"experts_from": str(tmp_path / "musicgen")}, train=STOPPED)
    train(made, runs=tmp_path, run="r")
    write_musicgen(tmp_path / "musicgen", whole=False, seed=7)
    err = refused("TRAIN002", lambda: train(made, runs=tmp_path, run="r"))
    assert "experts" in err.message and "model.experts_from" in str(err.next)


def test_runs_from_before_the_tokenizer_was_kept_go_on(pack: Path, llama: Path, tmp_path: Path) -> None:
    from partimento.training.state import check_identity

    check_identity({"fingerprint": "a"}, {"fingerprint": "a", "tokenizer": "b", "backbone": "c"})
    refused("TRAIN002", lambda: check_identity({"tokenizer": "a"}, {"tokenizer": "b"}))


def test_a_broken_tokenizer_and_another_architecture_say_where(llama: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(llama, other)
    (other / "tokenizer.json").write_text("{")
    err = refused("WEIGHTS023", lambda: read_llama(other).coder(8))
    assert str(other) in str(err.where) and "import" not in str(err.next)
    tree = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**tree, "model_type": "mistral"}))
    assert str(other) in str(refused("MODEL040", lambda: read_llama(other)).where)


def test_a_pack_without_words_is_said_to_have_none(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: codes_toy.ToyCodec())
    writer, rng = PackWriter(tmp_path / "silent", codes_toy.SPEC), np.random.default_rng(0)
    for clip in range(12):
        writer.add(rng.integers(0, 12, (100, 3)), clip=f"clip{clip}")
    writer.finish()
    made = config(tmp_path / "silent", llama)
    assert any("no clip has tags or a caption" in note for note in task(made).notes)
    found = {check.name: check for check in preflight(made, runs=tmp_path / "runs")}
    assert found["words"].status == "warn" and (found["text"].status, found["text"].found) == (
        "skipped",
        "no clip has words",
    )
