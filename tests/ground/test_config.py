from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partimento import config
from partimento.errors import PartimentoError

MINIMAL = 'family = "rvq"\n[data]\npack = "packs/x"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL)
    return path


def failure(path: Path, *overrides: str) -> PartimentoError:
    with pytest.raises(PartimentoError) as caught:
        config.load(path, overrides)
    return caught.value


def test_defaults_and_overrides(file: Path) -> None:
    found = config.load(file, ["optim.lr=3e-4", "model.pattern=[0, 2, 3]", "demo.prompts=['techno']", "train.steps=7"])
    assert isinstance(found, config.RvqConfig)
    assert (found.optim.lr, found.model.pattern, found.train.steps) == (3e-4, [0, 2, 3], 7)
    assert found.demo.prompts == ["techno"]


def test_a_json_file_means_the_same(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "run.json"
    other.write_text(json.dumps({"family": "rvq", "data": {"pack": "packs/x"}}))
    assert config.load(other) == config.load(file)


def test_unknown_key_names_the_nearest_with_file_and_line(file: Path) -> None:
    file.write_text(MINIMAL + "\n[optim]\n# a comment\nlearning_rat = 3\nlr_ = 1e-3\n")
    err = failure(file)
    assert err.code == "CONFIG002"
    file.write_text(MINIMAL + "\n[optim]\n# a comment\nwarm_up = 3\n")
    err = failure(file)
    assert "optim.warmup" in err.message and err.where == f"{file}, line 7"


def test_a_key_of_another_section_is_found(file: Path) -> None:
    assert "'optim.lr'" in failure(file, "train.lr=3.0").message


def test_an_override_is_named_as_the_place(file: Path) -> None:
    err = failure(file, "optim.lr=fast")
    assert (err.code, err.where) == ("CONFIG003", "command line: optim.lr=fast")


@pytest.mark.parametrize("override", ["train.steps=2.5", 'train.steps="3"', "optim.lr=-1.0", "model.pattern=zigzag"])
def test_types_and_ranges_are_strict(file: Path, override: str) -> None:
    assert failure(file, override).code == "CONFIG003"


def test_stages_out_of_order_are_told_without_the_whole_configuration(file: Path) -> None:
    err = failure(file, "train.stages=[{start=40},{start=20}]")
    assert err.code == "CONFIG003" and err.message.startswith("train.stages start at [40, 20]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.wave=[1,2,3]", "'loss.wave' is [1, 2, 3]"),
        ("loss.mel=0 loss.wave=0", "loss.mel, stft, wave and si_sdr are all 0"),
        ("loss.mel=[0,0] loss.wave=0", "loss.mel, stft, wave and si_sdr are all 0"),
        ("adversary.periods=[2,2]", "adversary.periods names one twice"),
        ("data.sample_rate=1", "'data.sample_rate' is 1"),
        ("data.folders=[]", "there is nothing to train on"),
        ("adversary.start=-1", "'adversary.start' is -1"),
    ],
)
def test_what_a_restorer_cannot_be_is_told_in_a_line(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "clean.toml"
    path.write_text('family = "restore"\n[data]\nfolders = ["x"]\n')
    err = failure(path, *override.split())
    assert err.code == "CONFIG003" and err.message.startswith(message)


@pytest.mark.parametrize("override", ["steps", "=3", "a b=3", "family.x=3"])
def test_malformed_overrides(file: Path, override: str) -> None:
    assert failure(file, override).code == "CONFIG004"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"family = ", b"[data\n"])
def test_unreadable_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    assert failure(path).code == "CONFIG001"
    assert failure(tmp_path / "absent.toml").code == "CONFIG001"


def test_missing_and_unknown_family(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[data]\npack='p'\n")
    assert failure(path).code == "CONFIG003"
    assert failure(path, "family=opera").code == "CONFIG003"


def test_the_resolved_configuration_reads_back_to_itself(file: Path, tmp_path: Path) -> None:
    first = config.load(file, ["model.width=64"])
    frozen = tmp_path / "frozen.json"
    frozen.write_text(json.dumps(first.model_dump(mode="json")))
    again = config.load(frozen)
    assert again == first and config.config_hash(again) == config.config_hash(first)
    assert config.config_hash(first) != config.config_hash(config.load(file))


def test_schema_names_every_key() -> None:
    schema = json.dumps(config.json_schema())
    for section in (config.CodesData, config.DecoderModel, config.Optim, config.Train, config.Demo):
        for key in section.model_fields:
            assert f'"{key}"' in schema


@given(st.text(max_size=60))
def test_any_override_text_ends_in_a_configuration_or_a_coded_error(text: str) -> None:
    tree = {"family": "rvq", "data": {"pack": "p"}}
    try:
        config.parse(tree, [text])
    except PartimentoError as err:
        assert err.code.startswith("CONFIG")
