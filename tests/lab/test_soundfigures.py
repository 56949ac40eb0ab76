"""The report of a family that makes sound: two players, the input as a baseline, alarms where they are seen first."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partimento.config import parse
from partimento.lab import soundfigures
from partimento.lab.figures import Figure
from partimento.lab.report import report
from partimento.lab.score import score
from partimento.lab.verdict import judge_sound, verdict_of
from partimento.runs.events import EventLog, read_events
from partimento.runs.run import Run
from partimento.training.alarms import REMEDIES

SHIFTS = ("-7", "+3", "+12")


def make_run(root: Path, family: str, **sections: Any) -> Run:
    data = {"folders": ["my/tunes"], "band_loops": 40}
    tree = {"family": family, "data": data, "train": {"steps": 400}, **sections}
    return Run.create(root, parse(tree), run_id=f"20260315_{family}_001", extra={"parameters": 1_234_567})


def log_restoring(run: Run, *, steps: int = 400, goal: float = 0.8, adversary: int | None = 0) -> None:
    """A restorer that goes from its input's distance to `goal` of it; the adversary plays from step `adversary`."""
    rng, log = np.random.default_rng(3), EventLog(run.events_path)
    log.append("start", 0, device="cpu", threads=2)
    by = {f"{shift}": 1.0 + 0.05 * abs(float(shift)) for shift in SHIFTS}
    log.append("baseline", 0, input_mel7=1.4, input_mel7_by_semitones=by, input_si_sdr=-18.0)
    for step in range(10, steps + 1, 10):
        left = goal + (1 - goal) * math.exp(-4 * step / steps)
        noise = float(np.exp(0.2 * rng.standard_normal()))
        plays = adversary is not None and step > adversary
        told = {
            "score_real_S": (0.6 + 0.05 * rng.standard_normal(8)).tolist(),
            "score_fake_S": (0.4 + 0.05 * rng.standard_normal(8)).tolist(),
            "accuracy_real": 0.7, "accuracy_fake": 0.75, "adversary_loss": 8 * 0.42 * noise,
            "adversary_grad_norm": 3.0 * noise, "adversary_skipped": int(step > 300),
        }  # fmt: skip
        heard = {"pull_adversarial": 0.2 * noise * plays, "pull_features": 0.5 * noise * plays}
        log.append(
            "train", step, loss=20 * left, grad_norm=30 * noise, lr=1e-4 * (1 - step / steps), skipped=0,
            frames_per_second=900.0, mel7=1.4 * left * noise, wave=0.01 * left, pull_mel=3 * noise, pull_wave=1.1,
            **(heard if adversary is not None else {}), **(told if plays else {}),
        )  # fmt: skip
        if step % 100 == 0:
            for weights, worse in (("raw", 0.05), ("ema", 0.0)):
                shifts = {shift: value * (left + worse) for shift, value in by.items()}
                log.append(
                    "valid", step, weights=weights, mel7=1.4 * (left + worse), mel7_by_semitones=shifts,
                    si_sdr=-18 + 10 * (1 - left),
                )  # fmt: skip
    log.append("end", steps, reason="finished")


def alarm(run: Run, step: int, name: str, text: str = "mean scores 0.98 and 0.02") -> None:
    EventLog(run.events_path).append("alarm", step, alarm=name, text=text, remedy=REMEDIES[name])


@pytest.fixture
def restorer(tmp_path: Path) -> Run:
    run = make_run(tmp_path, "restore", adversary={"start": 0})
    log_restoring(run)
    return run


def titled(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.title: figure for figure in figures}


def drawn(figure: Figure) -> str:
    assert figure.svg is not None
    return figure.svg.replace("\n", "")


def text_of(run: Run) -> str:
    return report(run.path).read_text(encoding="utf-8")


def test_everything_of_two_players_is_drawn(restorer: Run) -> None:
    events, config = read_events(restorer.events_path), restorer.record["config"]
    learned, played = titled(soundfigures.learning(events)), titled(soundfigures.players(events, config))
    assert all(figure.svg for figure in [*learned.values(), *played.values()])
    assert {"Held-out mel distance", "Held-out SI-SDR", "Held-out mel distance by shift in semitones"} <= learned.keys()
    assert {"Distance in training: mel", "Distance in training: samples", "Learning rate"} <= learned.keys()
    assert "Distance in training: STFT" not in learned  # it was not asked for
    names = {"Who pulls how hard", "Gradient norms", "Accuracy of the adversary", "Loss of the adversary", "Scores"}
    assert played.keys() == names
    for part in ("mel", "wave", "adversarial", "features"):
        assert f">{part}<" in drawn(played["Who pulls how hard"])
    for title in ("period 11", "window 512"):
        assert title in drawn(played["Scores"])
    assert ">input<" in drawn(learned["Held-out mel distance"])
    assert "1 of the adversary" in played["Gradient norms"].caption
    assert "8 discriminators" in played["Loss of the adversary"].caption


def test_discriminators_have_the_names_of_the_network() -> None:
    from partimento.training.tasks.sound import judges

    adversary = {"start": 0, "rates": [1, 2], "periods": [2, 3], "period_width": 1, "window_width": 1, "rate_width": 4}
    config = parse({"family": "codec", "adversary": adversary})
    found = judges(config)  # type: ignore[arg-type]
    assert found is not None and list(found.names) == soundfigures.names(config.model_dump(mode="json"))


def test_one_player_has_no_scores(tmp_path: Path) -> None:
    run = make_run(tmp_path, "restore")
    log_restoring(run, adversary=None)
    assert titled(soundfigures.players(read_events(run.events_path), {})).keys() == {
        "Who pulls how hard",
        "Gradient norms",
    }
    assert "Accuracy of the adversary" not in text_of(run)


def test_an_adversary_that_begins_late_has_a_gap(tmp_path: Path) -> None:
    run = make_run(tmp_path, "restore", adversary={"start": 200})
    log_restoring(run, adversary=200)
    found = soundfigures.players(read_events(run.events_path), run.record["config"])
    assert len(found) == 5 and all(figure.svg for figure in found)


def test_the_verdict_is_held_against_the_input(restorer: Run, tmp_path: Path) -> None:
    found = verdict_of("restore", read_events(restorer.events_path))
    assert found.good is True and found.badge == "better than its input"
    assert "has a mel distance of 1.125; the input as it is has 1.400, so it is 19.6 % nearer." in found.sentence
    assert found.sentence in text_of(restorer)
    worse = make_run(tmp_path / "worse", "restore")
    log_restoring(worse, goal=1.1)
    found = verdict_of("restore", read_events(worse.events_path))
    assert found.good is False and "further off" in found.sentence and "getting worse since" in (found.remark or "")
    assert judge_sound([]).good is None and judge_sound([]).badge == "no verdict"
    (told,) = score(run=restorer.path)
    assert told.verdict is not None and "nearer" in told.verdict.sentence


def test_a_codec_has_its_books_and_no_input(tmp_path: Path) -> None:
    run, log = make_run(tmp_path, "codec"), None
    log = EventLog(run.events_path)
    for step in (100, 200):
        log.append("train", step, loss=3.0, grad_norm=1.0, lr=1e-4, mel7=2.0, commitment=0.3, pull_mel=1.0, skipped=0)
        books = {"book_entropy_bits_K": [9.1, 8.2, 7.0], "book_used_K": [0.99, 0.9, 0.5]}
        kinds = {"tunes": 2.2, "band": 1.8}
        log.append("valid", step, weights="raw", mel7=2.0 - step / 1000, mel7_by_kind=kinds, si_sdr=1.0, **books)
    text = text_of(run)
    for words in (
        "mel distance 1.800",
        "Use of the codebooks",
        "99 %, 90 %, 50 %",
        "by kind of recording",
        "Commitment",
    ):
        assert words in text, words
    assert "Cross entropy" not in text and "bigram" not in text
    found = judge_sound(read_events(run.events_path))
    assert found.good is None and "the input" not in found.sentence


def test_alarms_stand_above_all_figures(restorer: Run) -> None:
    assert "Alarms" not in text_of(restorer)
    for step in (120, 40, 300):
        alarm(restorer, step, "adversary wins")
    alarm(restorer, 200, "norm spike", text="a <script> of 800")
    rows = soundfigures.alarms(read_events(restorer.events_path))
    assert [(row["name"], row["steps"]) for row in rows] == [("adversary wins", [40, 120, 300]), ("norm spike", [200])]
    text = text_of(restorer)
    assert text.index("Alarms") < text.index("optimizer steps") < text.index("Held-out mel distance")
    assert "steps 40, 120, 300" in text and "adversary.every=2" in text and "a &lt;script&gt; of 800" in text


def test_what_was_not_logged_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path, "restore")
    text = text_of(run)
    assert "No held-out measurement was logged" in text and text.count("Not logged") >= 4
    log = EventLog(run.events_path)
    nothing: dict[str, Any] = {"pull_mel": None, "mel7": None, "score_real_S": [None] * 8, "score_fake_S": [None] * 8}
    log.append("train", 10, loss=None, grad_norm=None, lr=1e-4, **nothing)
    log.append("valid", 10, weights="ema", mel7=None, si_sdr=None, mel7_by_semitones={"+3": None})
    assert "No held-out measurement was logged" in text_of(run)


def test_no_torch_is_needed(restorer: Run) -> None:
    code = (
        "import sys; from partimento.lab.report import report; report(sys.argv[1]);"
        "assert not {'torch', 'partimento.training.session'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(restorer.path)], check=True)
