"""The doctor on logs that never were: what is planted is named, what is healthy gives nothing, and it says when."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import doctor_fakes as fakes
import numpy as np
import pytest

from partimento.lab.doctor import memory, onset, pictures, planned, robust, steps
from partimento.lab.doctor.finding import LIKELY
from partimento.lab.doctor.log import Series


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawings take most of the time, and one test looks at them."""
    if request.node.name != "test_the_evidence_of_a_divergence_is_drawn":
        monkeypatch.setattr(pictures, "curve", lambda *args, **kwargs: None)


@pytest.mark.parametrize("name", fakes.HEALTHY)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_log_gives_no_diagnosis(tmp_path: Path, name: str, seed: int) -> None:
    found = fakes.diagnosed(fakes.patient(fakes.HEALTHY[name], seed, tmp_path))
    assert [one for one in found if one.confidence >= LIKELY] == []


PLANTED = [(name, number) for name, plans in fakes.DISEASES.items() for number in range(len(plans))]


@pytest.mark.parametrize(("name", "number"), PLANTED)
def test_a_disease_is_named_at_every_strength(tmp_path: Path, name: str, number: int) -> None:
    found = fakes.diagnosed(fakes.patient(fakes.DISEASES[name][number], 3, tmp_path))
    assert name in [one.disease for one in found[:2] if one.confidence >= LIKELY]


@pytest.mark.slow
@pytest.mark.parametrize("name", fakes.HEALTHY)
def test_forty_healthy_logs_give_no_diagnosis(tmp_path: Path, name: str) -> None:
    for seed in range(40):
        found = fakes.diagnosed(fakes.patient(fakes.HEALTHY[name], 100 + seed, tmp_path / str(seed)))
        assert [one for one in found if one.confidence >= LIKELY] == []


def first(found: Any, disease: str) -> Any:
    return next(one for one in found if one.disease == disease)


@pytest.mark.parametrize("strength", [1.5, 4.0])
def test_the_onset_and_the_first_book_are_told(tmp_path: Path, strength: float) -> None:
    """Book 2 is planted to rise from step 600 on, the others from 660 on, and the norm with the first."""
    plan = dataclasses.replace(fakes.DISEASES["divergence"][0], strength=strength)
    one = fakes.patient(plan, 0, tmp_path)
    found = first(fakes.diagnosed(one), "divergence")
    began = onset.onset(one.log.loss[1])
    assert began is not None and 550 <= began <= 680
    said = " ".join(evidence.text for evidence in found.evidence)
    assert "codebook 2 left its level first" in said and found.where == f"step {began:,.0f}"


def test_a_curve_that_stays_has_no_onset() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = np.arange(200.0)
        assert onset.onset(Series(x, 5 + 2 * np.exp(-x / 30) + 0.05 * rng.normal(size=200))) is None


def test_what_a_rollback_mended_is_a_remark_with_its_reason(tmp_path: Path) -> None:
    found = first(fakes.diagnosed(fakes.patient(fakes.HEALTHY["rolled back"], 0, tmp_path)), "divergence")
    assert found.confidence < LIKELY
    assert "the loss left its level" in found.evidence[0].text and "mended" in (found.where or "")


def test_skips_that_a_rollback_answered_are_a_remark(tmp_path: Path) -> None:
    """The run goes back from 500 to 400, and one step of the same stretch is skipped once more."""

    def skipped_again(events: list[dict[str, Any]], plan: fakes.Plan) -> list[dict[str, Any]]:
        again = fakes.rolled_back(events, plan)
        begun = next(place for place, event in enumerate(again) if event["kind"] == "rollback")
        skip = {"loss": 900.0, "norm": 90.0, "loss_limit": 5.5, "norm_limit": 4.0}
        return [
            {**event, "skip": skip} if place > begun and event["kind"] == "train" and event["step"] == at else event
            for place, event in enumerate(again)
        ]

    for at, likely in ((470, False), (570, True)):
        found = fakes.diagnosed(fakes.patient(fakes.Plan(log=skipped_again), 0, tmp_path / str(at)))
        assert (first(found, "late_spike").confidence >= LIKELY) == likely


def test_a_rollback_that_leads_nowhere_is_a_divergence(tmp_path: Path) -> None:
    def gave_up(events: list[dict[str, Any]], plan: fakes.Plan) -> list[dict[str, Any]]:
        kept = [event for event in fakes.rolled_back(events, plan) if event["step"] <= 450 or event["kind"] == "train"]
        return [*(event for event in kept if event["step"] <= 500), {"kind": "end", "step": 450, "reason": "TRAIN004"}]

    found = first(fakes.diagnosed(fakes.patient(fakes.Plan(log=gave_up), 0, tmp_path)), "divergence")
    assert found.confidence >= 0.9


def test_a_loss_that_is_no_number_at_the_end_is_a_divergence(tmp_path: Path) -> None:
    def nan(events: list[dict[str, Any]], plan: fakes.Plan) -> list[dict[str, Any]]:
        for event in events:
            if event["kind"] == "train" and event["step"] > 900:
                event |= {"loss": None, "ce_K": [None] * 4, "grad_norm": None}
        return events

    found = fakes.diagnosed(fakes.patient(fakes.Plan(log=nan), 0, tmp_path))
    assert found[0].disease == "divergence" and "no finite value" in found[0].evidence[0].text


# -- memory --------------------------------------------------------------------------------------------------------


def test_rising_alone_is_never_a_diagnosis(tmp_path: Path) -> None:
    """Held-out rises, and what was seen has not come again: from scratch, that is no failure, and it says why."""
    plan = fakes.Plan(change=fakes.known, valid=fakes.by_heart, strength=1.0, frames=2_000_000)
    found = first(fakes.diagnosed(fakes.patient(plan, 0, tmp_path)), "overfitting")
    assert found.confidence < LIKELY
    assert any(evidence.text == memory.FROM_SCRATCH for evidence in found.evidence)


def test_a_rise_that_the_training_shares_is_no_memory(tmp_path: Path) -> None:
    plan = fakes.Plan(
        {"optim.schedule": "constant"}, change=fakes.by_heart, valid=fakes.by_heart, strength=0.5, frames=40_000
    )
    found = [one for one in fakes.diagnosed(fakes.patient(plan, 0, tmp_path)) if one.disease == "overfitting"]
    assert all(one.confidence < LIKELY for one in found)


def test_one_clip_by_heart_is_meant(tmp_path: Path) -> None:
    def one_clip(events: list[dict[str, Any]], plan: fakes.Plan) -> list[dict[str, Any]]:
        events[1]["train_clips"] = 1
        return events

    plan = fakes.Plan(change=fakes.known, valid=fakes.by_heart, strength=3.0, frames=500, log=one_clip)
    found = first(fakes.diagnosed(fakes.patient(plan, 0, tmp_path)), "overfitting")
    assert found.confidence < LIKELY and "one clip" in found.evidence[-1].text


def test_a_loss_that_was_not_divided_is_told(tmp_path: Path) -> None:
    def inflated(events: list[dict[str, Any]], plan: fakes.Plan) -> list[dict[str, Any]]:
        return [{**e, "loss": 4 * e["loss"]} if e["kind"] == "train" else e for e in events]

    found = fakes.diagnosed(fakes.patient(fakes.Plan(log=inflated), 0, tmp_path))
    assert found[0].disease == "loss_of_other_targets" and "4.00 times" in found[0].evidence[0].text


# -- standing still --------------------------------------------------------------------------------------------------


def test_the_end_of_a_cosine_is_no_plateau(tmp_path: Path) -> None:
    """Flat for its last third, where its rate is next to nothing."""
    plan = fakes.Plan({"optim.min_lr": 0.0}, work=5.0)
    assert all(one.disease != "plateau" for one in fakes.diagnosed(fakes.patient(plan, 0, tmp_path)))


def test_who_has_learned_first_may_stand(tmp_path: Path) -> None:
    plan = fakes.Plan({"optim.schedule": "constant"}, work=400.0)
    found = [one for one in fakes.diagnosed(fakes.patient(plan, 0, tmp_path)) if one.disease == "plateau"]
    assert all(one.confidence < LIKELY for one in found)
    assert not found or "it has learned first" in found[0].evidence[1].text


def test_the_slope_covers_the_truth_and_ignores_outliers() -> None:
    rng = np.random.default_rng(1)
    x = np.arange(80.0)
    covered = 0
    for _ in range(40):
        y = 0.01 * x + 0.2 * rng.normal(size=80)
        y[::13] += 30.0
        found = robust.slope(x, y)
        assert abs(found.value - 0.01) < 0.006
        covered += found.low <= 0.01 <= found.high
    assert covered >= 34


# -- steps -----------------------------------------------------------------------------------------------------------


def test_the_noise_scale_of_known_gradients(tmp_path: Path) -> None:
    """Gradients of a known mean and covariance in 200 dimensions: squares of micro-batches and of steps."""
    mean, deviation, small, parts = 0.3, 2.0, 2, 4

    def squares(line: dict[str, Any], rng: np.random.Generator, plan: fakes.Plan) -> None:
        micro = mean / 200**0.5 + deviation / 200**0.5 * rng.normal(size=(fakes.EVERY, parts, small, 200)).mean(axis=2)
        line["noise_small"] = float((micro[:, 0] ** 2).sum(1).mean())
        line["noise_big"] = float((micro.mean(axis=1) ** 2).sum(1).mean())

    plan = fakes.Plan({"optim.batch": small, "optim.accumulate": parts, "train.steps": 4000}, change=squares)
    found = steps.noise_scale(fakes.patient(plan, 0, tmp_path).log)
    assert found is not None
    assert found[0] == pytest.approx(deviation**2 / mean**2, rel=0.25) and found[1] == small * parts


def test_a_rollback_and_a_stage_lower_the_rate_by_plan(tmp_path: Path) -> None:
    for name in ("rolled back", "stages"):
        seen = planned.examine(fakes.patient(fakes.HEALTHY[name], 0, tmp_path / name))
        assert "The logged rate is that of the schedule at every step." in seen.fine


def test_what_was_not_logged_is_said(tmp_path: Path) -> None:
    def bare(events: list[dict[str, Any]], plan: fakes.Plan) -> list[dict[str, Any]]:
        kept = ("kind", "step", "time", "loss")
        return [{key: event[key] for key in kept if key in event} for event in events if event["kind"] == "train"]

    one = fakes.patient(fakes.Plan(log=bare), 0, tmp_path)
    assert fakes.diagnosed(one) == ()
    from importlib import import_module

    from partimento.lab.doctor.doctor import LOG

    missing = " ".join(
        text for name in LOG for text in import_module(f"partimento.lab.doctor.{name}").examine(one).missing
    )
    for what in ("Overfitting", "Clipping", "noise scale", "Data stalls", "Recompiles", "schedule", "Position", "past"):
        assert what in missing, what


def test_the_evidence_of_a_divergence_is_drawn(tmp_path: Path) -> None:
    found = fakes.diagnosed(fakes.patient(fakes.DISEASES["divergence"][2], 0, tmp_path))
    assert (found[0].evidence[0].chart or "").startswith("<svg")
