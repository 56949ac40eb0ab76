"""What is said of the loss of a restorer and of a codec: its parts add up to it, and each figure has its yardstick."""

import math
import subprocess
import sys

import pytest
from lab_fakes import make_run

from partimento.lab.explainloss.composed import compose
from partimento.lab.explainloss.explain import explain_loss
from partimento.lab.explainloss.record import read
from partimento.lab.explainloss.terminal import terminal
from partimento.lab.report import report
from partimento.runs.events import EventLog, read_events

DATA = {"band_loops": 4}


def restorer(tmp_path, **config):
    return make_run(tmp_path, family="restore", data=DATA, **config)


def composed(run):
    (line,) = [event for event in read_events(run.events_path) if event["kind"] == "train"]
    return compose(read(run, read_events(run.events_path)), line)


def judged(run, value, before=1.0, step=600, **more):
    log = EventLog(run.events_path)
    if before is not None:
        log.append("baseline", 0, input_mel7=before, input_mel7_by_semitones={"-12": 1.2, "+12": 0.8})
    log.append("train", step, loss=15 * value, mel7=value, pull_mel=300.0)
    log.append("valid", step, weights="ema", mel7=value, si_sdr=-20.0, **more)
    return explain_loss(run.path)


def test_the_parts_add_up_to_the_loss(tmp_path):
    """The middle of ten steps up to step 100 of 200, of weights that fall from 100 to 1 evenly in the logarithm."""
    wave = 100 * 0.01 ** (94.5 / 199)
    train = {"steps": 200, "log_every": 10}
    run = restorer(tmp_path, train=train, loss={"mel": 15.0, "wave": [100.0, 1.0], "stft": 2.0})
    loss = 15 * 0.8 + wave * 0.05 + 2 * 0.3
    EventLog(run.events_path).append(
        "train", 100, loss=loss, mel7=0.8, wave=0.05, stft=0.3, pull_mel=90.0, pull_wave=10.0, pull_stft=0.0
    )
    found = composed(run)
    assert found.rest == pytest.approx(0, abs=1e-9)
    assert {term.name: term.weight for term in found.terms} == pytest.approx({"mel": 15, "stft": 2, "wave": wave})
    assert sum(term.share for term in found.terms) == pytest.approx(1)
    assert {term.name: term.pull_share for term in found.terms} == pytest.approx({"mel": 0.9, "stft": 0, "wave": 0.1})


def test_what_the_log_adds_up_over_moving_weights_is_told_as_a_rest(tmp_path):
    run = restorer(tmp_path, train={"steps": 200, "log_every": 10}, loss={"wave": 0.0})
    EventLog(run.events_path).append("train", 150, loss=10.0, mel7=0.6)
    assert composed(run).rest == pytest.approx(1.0)
    assert "The parts leave +1.000 of the loss" in terminal(explain_loss(run.path))


@pytest.mark.parametrize("taken", [0.0, 0.5, 1.0])
def test_an_adversary_weighs_what_it_adds(tmp_path, taken):
    run = restorer(tmp_path, adversary={"start": 10}, loss={"wave": 0.0, "adversarial": 2.0, "features": 4.0})
    opinions = taken * (2 * 1.5 + 4 * 3.0)
    EventLog(run.events_path).append(
        "train", 100, loss=15 * 0.6 + opinions, mel7=0.6, adversarial=1.5, features=3.0, opinions=opinions
    )
    found = composed(run)
    assert found.rest == pytest.approx(0)
    assert {term.name: term.weight for term in found.terms} == {
        "mel": 15,
        "adversarial": 2 * taken,
        "features": 4 * taken,
    }


def test_of_an_older_log_the_weight_of_an_adversary_that_is_being_taken_in_is_unknown(tmp_path):
    run = restorer(tmp_path, adversary={"start": 50})  # a warm-up of 100 steps
    EventLog(run.events_path).append("train", 100, loss=12.0, mel7=0.6, wave=0.0, adversarial=1.5, features=3.0)
    found = composed(run)
    assert found.rest is None and [term.weight for term in found.terms][2:] == [None, None]


def test_a_discriminator_that_guesses_is_at_chance(tmp_path):
    run = restorer(tmp_path, adversary={"start": 0})
    EventLog(run.events_path).append(
        "train", 300, loss=9.0, mel7=0.6, adversary_loss=1.5, adversarial=0.75, accuracy_real=0.5, accuracy_fake=0.5,
        score_real_S=[0.5] * 3, score_fake_S=[0.5] * 3,
    )  # fmt: skip
    part = next(part for part in explain_loss(run.path).parts if part.title.startswith("The adversary"))
    for row in part.rows:
        assert row[1] == pytest.approx(row[2]), row  # now, and guessing
    assert "it guesses" in part.prose[-1]


@pytest.mark.parametrize(
    "value, good, said",
    [
        (0.5, True, "nearer than what came in"),
        (0.99, None, "Hardly begun"),
        (1.1, False, "leaving the input alone would be better"),
    ],
)
def test_a_restorer_is_held_against_its_input(tmp_path, value, good, said):
    found = judged(restorer(tmp_path), value)
    assert found.good is good and said in found.verdict[2]
    assert f"{100 * (1 - value):.1f} %" in found.verdict[1]


def test_a_shift_that_is_harmed_is_named(tmp_path):
    found = judged(restorer(tmp_path), 0.8, mel7_by_semitones={"-12": 0.7, "+12": 0.9})
    assert "at +12 semitones leaving it alone is better" in found.verdict[2]


def test_without_the_inputs_distance_nothing_is_claimed(tmp_path):
    found = judged(restorer(tmp_path), 0.5, before=None)
    assert found.good is None and "not recorded" in found.verdict[1]
    assert any("the run logged no baseline" in line for line in found.missing)


def test_a_part_that_is_not_heard_is_named(tmp_path):
    run = restorer(tmp_path)
    EventLog(run.events_path).append(
        "train", 300, loss=9.0, mel7=0.5, wave=0.1, pull_mel=400.0, pull_wave=0.117, skipped=0
    )
    found = judged(run, 0.5, step=300)
    assert "samples (L1)" not in found.verdict[2]  # the later line of the same step has no such part
    other = restorer(tmp_path / "other")
    log = EventLog(other.events_path)
    log.append("baseline", 0, input_mel7=1.0)
    log.append("train", 300, loss=9.0, mel7=0.5, wave=0.1, pull_mel=400.0, pull_wave=0.117)
    log.append("valid", 300, weights="ema", mel7=0.5)
    assert "Hardly heard of the loss: samples (L1)" in explain_loss(other.path).verdict[2]


def test_a_codec_before_its_codes_is_too_young_and_later_has_yardsticks(tmp_path):
    run = make_run(tmp_path, family="codec", data=DATA, optim={"warmup": 10})
    log = EventLog(run.events_path)
    log.append("train", 100, loss=60.0, mel7=2.0, wave=0.01, commitment=0.0, pull_mel=300.0, pull_wave=9.0)
    assert "before codes are used (from step 150 on)" in explain_loss(run.path).verdict[2]
    log.append("train", 600, loss=40.0, mel7=1.4, wave=0.01, commitment=0.5, pull_mel=300.0, pull_wave=9.0)
    for step, value in ((300, 1.6), (600, 1.5)):
        log.append("valid", step, weights="ema", mel7=value, mel7_by_kind={"band": value})
    found = explain_loss(run.path)
    assert "Opus at 16 kbit/s 1.02" in found.verdict[1] and "Still getting better" in found.verdict[2]
    terms = {term["name"]: term["product"] for term in found.figures["composed"]["terms"]}
    assert terms["commitment"] == pytest.approx(3.75 * 0.5) and found.good is None
    assert found.figures["epochs"] is None and found.figures["targets"] is None


def test_a_loss_that_was_never_finite_is_not_zero(tmp_path):
    run = restorer(tmp_path)
    EventLog(run.events_path).append("train", 300, loss=math.nan, mel7=math.nan)
    found = explain_loss(run.path)
    assert found.figures["loss"] is None and found.figures["composed"] is None
    assert any("not finite" in line for line in found.missing)
    assert "No loss was logged" in found.verdict[0]
    report(run.path)


def test_the_page_of_a_restorer_has_it_without_torch(tmp_path):
    run = restorer(tmp_path)
    judged(run, 0.8)
    code = (
        "import sys; from partimento.lab.report import report; "
        f"report({str(run.path)!r}); assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    page = (run.path / "report.html").read_text()
    assert "What the loss is made of" in page and "Mel distances to hold it against" in page
