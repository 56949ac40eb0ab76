from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from partimento.config import config_hash, load, parse
from partimento.errors import PartimentoError
from partimento.runs.run import Run, resume_command

CONFIG = parse({"family": "rvq", "data": {"pack": "p"}, "optim": {"lr": 0.5}})


def test_ids_count_on(tmp_path: Path) -> None:
    ids = [Run.create(tmp_path, CONFIG, name=name).id for name in (None, "Delay: ablation!", None)]
    assert re.fullmatch(r"\d{8}_rvq_001", ids[0])
    assert re.fullmatch(r"\d{8}_rvq_002_delay_ablation", ids[1])
    assert ids[2].endswith("_003")


def test_runs_made_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(Run.create(tmp_path, CONFIG).id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8


def test_the_record_holds_what_reproduces_the_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path, CONFIG, hypothesis="high rates fail", extra={"identity": {"fingerprint": "f"}})
    again = Run.open(run.path)
    assert again.record == run.record
    record = again.record
    assert record["config"] == CONFIG.model_dump(mode="json") and record["config_hash"] == config_hash(CONFIG)
    assert record["hypothesis"] == "high rates fail" and record["identity"]["fingerprint"] == "f"
    assert record["packages"]["torch"] and record["partimento"] and record["seeds"]["train"] == 0
    assert "high rates fail" in (run.path / "notes.md").read_text()
    # The stored command resumes with the stored configuration.
    words = shlex.split(record["resume"])
    assert words[:2] == ["partimento", "train"] and words[words.index("--run") + 1] == run.id
    assert load(words[2]) == CONFIG


def test_the_usual_place_needs_no_option() -> None:
    assert resume_command(Path("runs/a b")) == "partimento train 'runs/a b/config.json' --run 'a b'"


@pytest.mark.parametrize("run_id", ["", ".", "../up", "a/b", ".hidden", "x.tmp", "a\nb", "-r"])
def test_an_id_must_be_the_name_of_a_folder(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(PartimentoError, match="RUN004"):
        Run.create(tmp_path, CONFIG, run_id=run_id)


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    Run.create(tmp_path, CONFIG, run_id="a")
    with pytest.raises(PartimentoError, match="RUN005"):
        Run.create(tmp_path, CONFIG, run_id="a")


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="RUN001"):
        Run.open(tmp_path / "nowhere")
    run = Run.create(tmp_path, CONFIG)
    for content in ("{", "[]", json.dumps({"id": "x"}), "\x00"):
        (run.path / "run.json").write_text(content)
        with pytest.raises(PartimentoError, match="RUN002"):
            Run.open(run.path)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("config", "train", "steps"), "many", 'config.train.steps cannot be "many"'),
        (("config", "data", "pack"), 7, "config.data.pack cannot be 7"),
        (("config", "model"), [1], "config.model cannot be [1]"),
        (("config",), 3, "config cannot be 3"),
        (("identity",), [1], "identity cannot be [1]"),
        (("identity",), {"fingerprint": 7}, "identity.fingerprint cannot be 7"),
        (("created",), None, "created cannot be null"),
        (("parameters",), True, "parameters cannot be true"),
    ],
)
def test_an_entry_of_another_kind_is_damage(tmp_path: Path, keys: tuple[str, ...], value: object, said: str) -> None:
    with pytest.raises(PartimentoError) as caught:
        Run.open(_changed(tmp_path, keys, value))
    assert caught.value.code == "RUN002" and caught.value.why == said


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("family",), "of tomorrow"),
        (("config", "model", "of_tomorrow"), 1),
        (("config", "optim", "name"), "of tomorrow"),
        (("config", "optim", "lr"), 1),
        (("config", "train"), {}),
    ],
)
def test_what_another_version_may_have_written_is_none(tmp_path: Path, keys: tuple[str, ...], value: object) -> None:
    changed = _changed(tmp_path, keys, value)
    assert Run.open(changed).record == json.loads((changed / "run.json").read_text())  # as it was, nothing filled in


def _changed(root: Path, keys: tuple[str, ...], value: object) -> Path:
    run = Run.create(root, CONFIG)
    record = json.loads((run.path / "run.json").read_text())
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (run.path / "run.json").write_text(json.dumps(record))
    return run.path


def test_a_run_can_be_read_without_torch(tmp_path: Path) -> None:
    run = Run.create(tmp_path, CONFIG)
    code = (
        "import sys; from partimento.runs import run, events, checkpoint, provenance; "
        f"r = run.Run.open({str(run.path)!r}); events.read_events(r.events_path); "
        "checkpoint.best(r.checkpoints_path); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
