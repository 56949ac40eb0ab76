import pytest

from partimento.lab.verdict import judge, latest


def valid(step, bits, weights="ema"):
    return {"kind": "valid", "step": step, "time": 0.0, "weights": weights, "bits_per_second": bits}


def baseline(unigram=900.0, bigram=800.0):
    return {
        "kind": "baseline",
        "step": 0,
        "time": 0.0,
        "unigram_bits_per_second": unigram,
        "bigram_bits_per_second": bigram,
    }


@pytest.mark.parametrize(
    ("bits", "beats", "words"),
    [
        (720.0, True, "beats the bigram by 10.0 %"),
        (799.9, True, "by less than 0.1 %"),
        (800.0, False, "beats the unigram, but not the bigram"),
        (850.0, False, "it is behind by 6.2 %"),
        (950.0, False, "beats neither"),
    ],
)
def test_against_the_baselines(bits, beats, words):
    verdict = judge([baseline(), valid(100, bits)])
    assert verdict.beats_bigram is beats
    assert words in verdict.sentence
    assert "step 100" in verdict.sentence and "EMA" in verdict.sentence


def test_ema_is_preferred_and_named():
    events = [baseline(), valid(100, 700.0, "raw"), valid(100, 710.0, "ema")]
    assert judge(events).bits_per_second == 710.0
    only_raw = judge(events[:2])
    assert only_raw.weights == "raw" and "raw weights" in only_raw.sentence


def test_last_counts_and_best_is_named():
    verdict = judge([baseline(), valid(100, 760.0), valid(200, 700.0), valid(300, 790.0)])
    assert (verdict.step, verdict.bits_per_second) == (300, 790.0)
    assert (verdict.best_step, verdict.best_bits_per_second) == (200, 700.0)
    assert "step 200: 700.0" in verdict.remark and "by heart" in verdict.remark
    assert judge([baseline(), valid(100, 760.0), valid(200, 700.0)]).remark is None
    assert "under the bigram" in judge([baseline(), valid(100, 790.0), valid(200, 810.0)]).remark


def test_a_step_logged_again_after_a_resume_wins():
    verdict = judge([baseline(), valid(100, 760.0), valid(200, 1.0), valid(200, 700.0)])
    assert verdict.bits_per_second == 700.0 and verdict.validations == 2


def test_missing_is_no_verdict():
    assert judge([]).beats_bigram is None
    assert judge([valid(100, 700.0)]).beats_bigram is None
    assert "no baseline" in judge([valid(100, 700.0)]).sentence
    lost = judge([baseline(), valid(100, None)])
    assert lost.bits_per_second is None and lost.bigram_bits_per_second == 800.0


def test_latest_selects():
    events = [valid(200, 1.0), valid(100, 2.0), valid(200, 3.0, "raw")]
    assert latest(events, "valid", weights="ema")["bits_per_second"] == 1.0
    assert latest(events, "train") is None
