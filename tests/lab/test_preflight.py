"""The overfit check passes on a sound model and catches each fault it is there for. (The cheap checks: test_checks.)"""

from fractions import Fraction

import numpy as np
import pytest

from partimento.config import parse
from partimento.errors import PartimentoError, explanations
from partimento.lab import overfit as module
from partimento.lab.overfit import compare
from partimento.lab.preflight import overfit
from partimento.models.conditions import Told
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training.player import Player

SPEC = CodecSpec("fake", "0" * 64, 8000, Fraction(20), (12, 12, 12))


@pytest.fixture
def pack(tmp_path):
    rng = np.random.default_rng(3)
    writer = PackWriter(tmp_path / "pack", SPEC)
    for number in range(6):
        codes = rng.integers(0, 12, (40 + number, 3)) if number else np.zeros((60, 3), int)
        tags = ["piano"] if number % 2 else ["drums", "fast"]
        writer.add(codes, clip=f"c{number}", tags=tags, caption="a clip" if number == 3 else None)
    writer.finish()
    return tmp_path / "pack"


def dia(pack, **model):
    tiny = {"width": 32, "layers": 2, "heads": 2, "text_width": 32, "text_layers": 1, "text_heads": 2, **model}
    return parse({
        "family": "dia", "data": {"pack": str(pack), "window": 32}, "model": tiny, "demo": {"temperatures": []},
        "train": {"device": "cpu"},
    })  # fmt: skip


def config(pack, **model):
    tiny = {"width": 32, "layers": 2, "heads": 2, **model}
    return parse({
        "family": "rvq", "data": {"pack": str(pack), "window": 32}, "model": tiny, "demo": {"temperatures": []},
        "train": {"device": "cpu"},
    })  # fmt: skip


@pytest.fixture(autouse=True)
def fast(request, monkeypatch):
    """Tiny models learn at a higher rate."""
    if "slow" in request.keywords:
        return
    monkeypatch.setattr(module, "LEARNING", module.LEARNING.model_copy(update={"lr": 1e-2}))


@pytest.mark.parametrize(
    "model", [{}, {"tags": False, "dropout": 0.3}, {"pattern": "flat"}, {"positions": "sinusoidal"}]
)
def test_a_sound_model_gives_the_clip_back(pack, model):
    result = overfit(config(pack, **model), seconds=1.5, minutes=2)
    assert result.equal == 1 and result.first_mismatch is None and result.teacher_forced == 1
    assert result.frames == 30 and result.codebooks == 3 and result.audio_seconds == 1.5
    assert result.clip != "c0"  # silence is no test
    assert result.steps > 10  # nothing is known before it is learned


def test_it_repeats_itself_bit_for_bit(pack):
    first, second = (overfit(config(pack), seconds=1, minutes=2) for _ in range(2))
    assert (first.steps, first.loss) == (second.steps, second.loss)


@pytest.mark.parametrize(
    "model", [{}, {"tag_tokens": False, "text_length": 24, "dropout": 0.2}, {"pattern": "flat", "null": "zeros"}]
)
def test_a_model_that_reads_text_gives_the_clip_back_for_its_words(pack, model):
    result = overfit(dia(pack, **model), seconds=1.5, minutes=2)
    assert result.equal == 1 and result.first_mismatch is None
    assert result.clip != "c0" and result.words in ("drums, fast", "piano", "piano | a clip")


def test_it_repeats_itself_bit_for_bit_with_text(pack):
    first, second = (overfit(dia(pack), seconds=1, minutes=2) for _ in range(2))
    assert (first.steps, first.loss) == (second.steps, second.loss)


@pytest.mark.parametrize("make", [config, dia])
def test_another_condition_is_caught(pack, monkeypatch, make):
    # Training tells one thing, playing another: the fault of system A.
    told = Player.told

    def other(self, words_B):
        right, null = told(self, words_B)
        condition = None if right.condition_BD is None else right.condition_BD + 1
        memory = None if right.memory_BMD is None else -30 * right.memory_BMD
        return Told(condition, memory, right.mask_BM), null

    monkeypatch.setattr(Player, "told", other)
    monkeypatch.setattr(module, "TRIES", 2)
    with pytest.raises(PartimentoError) as err:
        overfit(make(pack), seconds=1.5, minutes=2)
    assert err.value.code == "LAB002"
    assert err.value.context["result"]["first_mismatch"] is not None
    assert err.value.context["result"]["equal"] < 1


def test_a_model_that_does_not_learn_in_time(pack):
    with pytest.raises(PartimentoError) as err:
        overfit(config(pack), seconds=1.5, minutes=0)
    assert err.value.code == "LAB001"
    assert err.value.context["result"]["teacher_forced"] < 1


def test_compare_finds_the_first_difference():
    codes = np.arange(12).reshape(4, 3)
    assert compare(codes, codes.copy()) == (1.0, None)
    wrong = codes.copy()
    wrong[2, 1] = wrong[3, 0] = 99
    assert compare(codes, wrong) == (10 / 12, (2, 1))
    assert compare(codes, codes[:2]) == (0.5, (2, 0))  # ended too early
    assert compare(codes, np.vstack([codes, codes])) == (1.0, (4, 0))  # played on


def test_every_code_is_explained():
    assert {f"LAB00{number}" for number in (1, 2, 3, 4, 6, 7)} <= explanations().keys()


@pytest.mark.slow
def test_five_seconds_of_noise_come_back_from_the_default_model(tmp_path):
    """The size that users run: 431 frames x 9 books of 1024, nothing to guess by, in under five minutes."""
    spec = CodecSpec("fake", "0" * 64, 44100, Fraction(44100, 512), (1024,) * 9)
    rng = np.random.default_rng(0)
    writer = PackWriter(tmp_path / "pack", spec)
    for _ in range(2):
        writer.add(rng.integers(0, 1024, (600, 9)), tags=["noise"])
    writer.finish()
    result = overfit(tmp_path / "pack")
    assert (result.frames, result.codebooks, result.equal) == (431, 9, 1.0)
    assert result.seconds < 300
