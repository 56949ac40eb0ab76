"""The doctor's frame: what a patient is, how findings are ranked, and what is shown of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import doctor_fakes as fakes
import pytest
import torch
from click.testing import CliRunner

from partimento.cli.main import cli
from partimento.errors import PartimentoError
from partimento.lab.doctor import doctor as frame
from partimento.lab.doctor import onset
from partimento.lab.doctor.doctor import doctor, ranked
from partimento.lab.doctor.finding import LEVELS, Evidence, Examined, Finding, diseases
from partimento.lab.doctor.page import page
from partimento.lab.doctor.patient import Patient, Snapshot
from partimento.lab.doctor.text import against, line_of, summary, text
from partimento.runs import checkpoint


def found(disease: str, confidence: float, told: str = "seen") -> Finding:
    return Finding(disease, confidence, (Evidence(f"{told}."),))


def saved(folder: Path, step: int, score: float | None = None, scale: float = 1.0, **state: object) -> Path:
    weights = {"blocks.0.w": scale * torch.ones(3, 4), "blocks.1.w": torch.ones(2, 2), "head.weight": torch.ones(2)}
    return checkpoint.save(folder, step, {"model": weights}, {"step": step, "score": score, **state})


# -- words ---------------------------------------------------------------------------------------------------


def test_every_disease_has_all_its_words() -> None:
    for one in diseases().values():
        assert one.level and set(one.level) <= set(LEVELS)
        for words in (one.what, one.looks_like_if_wrong, one.change):
            assert words.endswith((".", ".)")) and "  " not in words, (one.id, words)
        assert not one.name.endswith(".") and one.page == f"docs/doctor/{one.id}.md"
        assert one.id not in one.hides


def test_no_two_diseases_hide_each_other() -> None:
    for one in diseases().values():
        assert all(one.id not in diseases()[other].hides for other in one.hides), one.id


def test_a_finding_has_a_known_disease_and_a_share_for_confidence() -> None:
    with pytest.raises(KeyError, match="melancholy"):
        found("melancholy", 0.5)
    with pytest.raises(ValueError, match="confidence"):
        found("plateau", 1.2)


# -- ranking -------------------------------------------------------------------------------------------------


def test_a_consequence_stands_behind_its_likely_cause() -> None:
    order = [one.disease for one in ranked([found("plateau", 0.9), found("noise_data", 0.6), found("recompiles", 0.7)])]
    assert order == ["recompiles", "noise_data", "plateau"]
    order = [one.disease for one in ranked([found("plateau", 0.9), found("noise_data", 0.3)])]
    assert order == ["plateau", "noise_data"]  # an unlikely cause explains nothing


def test_what_two_examiners_found_is_one_finding() -> None:
    (one,) = ranked([found("plateau", 0.6, "a"), found("plateau", 0.8, "b"), found("plateau", 0.8, "b")])
    assert 0.8 < one.confidence < 1 and [evidence.text for evidence in one.evidence] == ["b.", "a."]


# -- patients ------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_patient(tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="DOC001"):
        doctor(tmp_path)


def test_a_run_knows_its_checkpoints(tmp_path: Path) -> None:
    run = fakes.patient(fakes.Plan(), 0, tmp_path).path
    for step, score in ((100, 3.0), (200, 2.0), (300, 2.0), (400, None)):
        saved(run / "checkpoints", step, score)
    state = run / "checkpoints" / "step-000000400" / "state.json"
    state.write_text(state.read_text().replace("400", "401"))
    one = Patient.open(run)
    assert [snapshot.step for snapshot in one.snapshots] == [100, 200, 300, None]
    assert one.newest and one.newest.step == 300 and one.previous and one.previous.step == 200
    assert one.best and one.best.step == 300 and one.snapshots[-1].why  # of two as good, the later one
    assert one.from_scratch and one.family == "rvq" and one.pack is None and "gone" in (one.pack_missing or "")


def test_tensors_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, 7)
    one = Snapshot.read(path)
    part = one.part("model")
    assert part is not None and one.part("ema") is None and one.damage is None
    monkeypatch.setattr("partimento.runs.tensorfiles.read", lambda *args: pytest.fail("all of it was read"))
    assert part.shapes["blocks.0.w"] == (3, 4) and len(part) == 3
    assert torch.equal(part["head.weight"], torch.ones(2))
    with pytest.raises(KeyError):
        part["tail"]


def test_a_part_that_is_no_safetensors_file_is_an_error_of_its_reader(tmp_path: Path) -> None:
    path = saved(tmp_path, 7)
    (path / "model.safetensors").write_bytes(b"torn")
    one = Snapshot.read(path)
    assert one.step == 7 and "bytes" in (one.damage or "")
    part = one.part("model")
    assert part is not None
    with pytest.raises(PartimentoError, match="DOC002"):
        part["head.weight"]


def test_an_older_schema_is_migrated(tmp_path: Path) -> None:
    path = saved(tmp_path, 7)
    for name in ("state.json", "manifest.json"):
        content = json.loads((path / name).read_text())
        content["schema"] = 2
        if name == "manifest.json":
            from partimento import commit

            digest = commit.sha256(path / "state.json")
            content["files"]["state.json"] = {"bytes": (path / "state.json").stat().st_size, "sha256": digest}
        (path / name).write_text(json.dumps(content))
    one = Snapshot.read(path)
    assert one.schema == 2 and one.state is not None and one.state["alarms"] == {}
    part = one.part("model")
    assert part is not None and part["blocks.1.w"].shape == (2, 2)


def test_two_checkpoints_are_one_patient_in_order(tmp_path: Path) -> None:
    later, earlier = saved(tmp_path, 9, scale=2.0), saved(tmp_path, 4)
    one = doctor(later, earlier)
    assert one.step == 9 and one.other is None and one.kind == "checkpoint"
    assert any("checkpoint alone" in line for line in one.missing)


def test_the_part_that_moved_most_is_named(tmp_path: Path) -> None:
    run = fakes.patient(fakes.DISEASES["divergence"][2], 0, tmp_path).path
    saved(run / "checkpoints", 500)
    saved(run / "checkpoints", 900, scale=5.0)
    one = Patient.open(run)
    told, why = onset.first_layers(one, 610.0)
    assert told is not None and why is None and "steps 500 and 900" in told and "blocks.0 (4)" in told
    assert onset.first_layers(one, 950.0)[0] is None


# -- the whole -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.patient(fakes.DISEASES["divergence"][2], 0, tmp_path_factory.mktemp("sick") / "sick").path


def test_a_part_that_cannot_be_read_is_a_line_and_not_the_end(sick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from partimento.lab.doctor import speed

    def torn(patient: Patient) -> Examined:
        raise PartimentoError("DOC002", "the part model cannot be read", why="it is torn")

    monkeypatch.setattr(speed, "examine", torn)
    one = doctor(sick)
    assert one.findings[0].disease == "divergence"
    assert any("DOC002" in line and "speed" in line for line in one.missing)


def test_what_is_shown_has_evidence_doubt_and_one_change(sick: Path, tmp_path: Path) -> None:
    one = doctor(sick)
    shown = re.sub(r"\s+", " ", text(one))
    words = diseases()["divergence"]
    for part in (
        words.name,
        words.what,
        words.looks_like_if_wrong,
        words.change,
        words.page,
        one.fine[0],
        one.missing[0],
    ):
        assert re.sub(r"\s+", " ", part) in shown
    assert one.findings[0].evidence[0].text in shown and summary(one) in shown

    html = page(one, tmp_path / "doctor.html").read_text(encoding="utf-8")
    assert "<svg" in html and words.change in html.replace("&#39;", "'")
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']+""", html) and "http" not in html.replace(
        "http-equiv", ""
    )


def test_the_command_ends_well_with_findings(sick: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["doctor", str(sick), "--to", str(tmp_path / "page.html"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["findings"][0]["disease"] == "divergence" and told["page"].endswith("page.html")
    assert {"evidence", "confidence", "looks_like_if_wrong", "change", "where"} <= told["findings"][0].keys()
    assert told["fine"] and told["missing"] and told["kind"] == "run"


def test_a_second_run_is_examined_too(sick: Path, tmp_path: Path) -> None:
    well = fakes.patient(fakes.HEALTHY["cosine"], 0, tmp_path / "well").path
    one = doctor(sick, well)
    assert one.other is not None and "divergence" not in [finding.disease for finding in one.other.findings]
    assert "only in the first: " in against(one, one.other)
    assert "Nothing is wrong that the doctor knows of" in summary(one.other) or one.other.diagnoses
    assert line_of(one.findings[0]).startswith(diseases()["divergence"].name)


def test_a_run_that_goes_on_is_called_so(tmp_path: Path) -> None:
    run = fakes.patient(fakes.HEALTHY["cosine"], 0, tmp_path / "run").path
    assert doctor(run).ended and "not ended" not in text(doctor(run))
    log = run / "events.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    one = doctor(run)
    assert not one.ended and "not ended)" in text(one) and one.to_json()["ended"] is False
    log.write_text("")
    young = doctor(run)
    assert young.step is None and "It has made no step yet" in summary(young)


def test_the_diagnoses_of_a_second_run_are_told(sick: Path, tmp_path: Path) -> None:
    well = fakes.patient(fakes.HEALTHY["cosine"], 0, tmp_path / "well").path
    shown = re.sub(r"\s+", " ", text(doctor(well, sick)))
    other = doctor(sick)
    assert line_of(other.diagnoses[0]) in shown and "only in the second: The loss diverges" in shown
    html = page(doctor(well, sick), tmp_path / "two.html").read_text(encoding="utf-8")
    assert line_of(other.diagnoses[0]).replace(" %", "\N{NO-BREAK SPACE}%") in html


def test_percent_is_written_in_one_way() -> None:
    one = frame.spaced(Examined((found("plateau", 0.6, "5% apart, 10 % more"),), ("7%.",), ("all of 3%",)))
    assert one.findings[0].evidence[0].text == "5 % apart, 10 % more."
    assert one.fine == ("7 %.",) and one.missing == ("all of 3 %",)


def test_a_report_has_the_lines_of_the_log(sick: Path, tmp_path: Path) -> None:
    from partimento.lab.report import report

    record = json.loads((sick / "run.json").read_text())
    for name, part in (("run.json", {**record, "hypothesis": None}), ("config.json", record["config"])):
        (sick / name).write_text(json.dumps(part))
    html = report(sick, tmp_path / "report.html").read_text(encoding="utf-8")
    assert line_of(doctor(sick).findings[0])[:60] in html and f"partimento doctor {sick}" in html


def test_all_examiners_are_there() -> None:
    from importlib import import_module

    for name in frame.EXAMINERS:
        assert callable(import_module(f"partimento.lab.doctor.{name}").examine)


def test_torn_lines_of_the_log_are_told(sick: Path) -> None:
    log = sick / "events.jsonl"
    first, *rest = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([first, b"\x00\xff rubbish\n", b'{"kind": \n', *rest]))
    assert any("2 lines of the log" in line for line in doctor(sick).missing)
