"""`partimento evaluate`: results on stdout, one error in one shape, nothing heavy for help."""

import json

import pytest
import soundfile
from click.testing import CliRunner

from partimento.cli.evaluate import command
from partimento.cli.main import cli, main

torch = pytest.importorskip("torch")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder that stands for an exported restorer which does nothing, at 8 kHz, and recordings beside it."""
    from partimento.lab.restored import evaluate
    from partimento.training.restorer import Restorer
    from partimento.waveform.generators import GeneratorConfig, make_generator

    config = GeneratorConfig.of("spectral", width=8, blocks=1, hop=64)
    found = Restorer(
        generator=make_generator(config).eval(),
        sample_rate=8000,
        task="clean",
        semitones=(7.0,),
        full_band=True,
        name="idle",
        weights_sha256="0" * 64,
        card={},
        device=torch.device("cpu"),
    )
    monkeypatch.setattr(evaluate, "load_restorer", lambda *_: found)
    (tmp_path / "music").mkdir()
    for seed in range(2):
        wave = 0.1 * torch.randn(6000, generator=torch.Generator().manual_seed(seed)).numpy()
        soundfile.write(tmp_path / "music" / f"{seed}.wav", wave, 8000)
    return tmp_path


def test_a_residual_network_that_has_learned_nothing_makes_no_difference(weights):
    given = ["weights", "--to", str(weights / "found"), "--against", str(weights / "music"), "-q"]
    done = CliRunner().invoke(command, given, catch_exceptions=False)
    assert done.exit_code == 0
    assert "round trip: 7-scale mel distance (lower is better)" in done.stdout and "in use" in done.stdout
    assert done.stdout.rstrip().endswith("evaluation.html")
    found = json.loads((weights / "found" / "figures.json").read_text())
    assert all(row["difference"]["mean"] == 0 for row in found["rows"] if row["protocol"] == "round trip")
    assert {path.name for path in (weights / "found").iterdir()} == {
        "evaluation.html", "figures.json", "records.jsonl",
    }  # fmt: skip


def test_json_is_one_object(weights):
    given = ["weights", "--to", str(weights / "found"), "--against", str(weights / "music"), "--json", "-q"]
    done = CliRunner().invoke(command, [*given, "--semitones", "-5,2.5", "--limit", "1"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["about"]["semitones"] == [-5, 0, 2.5] and found["about"]["recordings"] == 1
    assert set(found["files"]) == {"evaluation.html", "figures.json", "records.jsonl"}


@pytest.mark.parametrize(
    ("given", "code", "status"),
    [
        (["--against", "music"], "LAB034", 2),
        (["--to", "found"], "LAB030", 2),
        (["--to", "found", "--against", "music", "--semitones", "7,30"], "AUDIO041", 2),
        (["--to", "found", "--against", "music", "--predictor", "nowhere:f"], "LAB031", 2),
    ],
)
def test_what_is_missing_is_said(weights, monkeypatch, capsys, given, code, status):
    monkeypatch.chdir(weights)
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "weights", *given, "-q"])
    assert caught.value.code == status and f"error[{code}]" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "x", "1,,2", "nan"])
def test_semitones_that_are_none_are_refused(text):
    done = CliRunner().invoke(cli, ["evaluate", "x", "--semitones", text])
    assert done.exit_code == 2 and "Invalid value" in done.output


def test_help_says_what_it_judges_on():
    done = CliRunner().invoke(cli, ["evaluate", "--help"])
    assert done.exit_code == 0 and all(word in done.output for word in ("--pairs", "--against", "--predictor"))
