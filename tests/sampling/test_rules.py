from __future__ import annotations

import numpy as np
import pytest
import torch

from partimento.errors import PartimentoError
from partimento.sampling.rules import Noise, Rules, draw, probabilities


def brute_force(logits: np.ndarray, rules: Rules) -> np.ndarray:
    """One row at a time, one id at a time, in float64."""
    scaled = logits.astype(np.float64) / rules.temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    if rules.top_k:
        kth = sorted(p, reverse=True)[min(rules.top_k, len(p)) - 1]
        p = np.array([value if value >= kth else 0.0 for value in p])
        p /= p.sum()
    if rules.top_p < 1:
        kept, total = np.zeros_like(p), 0.0
        for index in sorted(range(len(p)), key=lambda i: -p[i]):
            kept[index] = p[index]
            total += p[index]
            if total >= rules.top_p:
                break
        p = kept / kept.sum()
    if rules.min_p:
        p = np.array([value if value >= rules.min_p * p.max() else 0.0 for value in p])
        p /= p.sum()
    return p


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 3, 40, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-6])
@pytest.mark.parametrize("min_p", [0.0, 0.1, 0.7, 1.0])
def test_against_brute_force(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    rules = Rules(temperature, top_k, top_p, min_p)
    logits = 3 * torch.randn(4, 5, 40, generator=torch.Generator().manual_seed(top_k))
    logits[0, 0, 7] = -torch.inf  # a banned id
    got = probabilities(logits, rules)
    for b in range(4):
        for k in range(5):
            expected = brute_force(logits[b, k].numpy(), rules)
            np.testing.assert_allclose(got[b, k].numpy(), expected, atol=2e-6)
            assert ((got[b, k].numpy() > 0) == (expected > 0)).all()


def test_top_p_keeps_the_first_over_the_threshold() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    kept = probabilities(logits, Rules(top_p=0.6))
    torch.testing.assert_close(kept, torch.tensor([0.625, 0.375, 0, 0]))
    assert probabilities(logits, Rules(top_p=0.4)).tolist() == [1, 0, 0, 0]


def test_top_k_keeps_ties_of_the_last() -> None:
    assert probabilities(torch.tensor([1.0, 0, 0, -1]), Rules(top_k=2)).count_nonzero() == 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "rules", [Rules(0.7, 9, 0.8, 0.05), Rules(1.3, 0, 0.95, 0.2), Rules(2.0, 25), Rules(min_p=0.1)]
)
def test_against_the_warpers_of_transformers(rules: Rules, seed: int) -> None:
    """In the order in which their `generate` applies them. Tolerance: float32 rounding, 1e-6."""
    warpers = pytest.importorskip("transformers").generation.logits_process
    scores = 4 * torch.randn(64, 50, generator=torch.Generator().manual_seed(seed))
    expected = warpers.TemperatureLogitsWarper(rules.temperature)(None, scores) if rules.temperature != 1 else scores
    if rules.top_k:
        expected = warpers.TopKLogitsWarper(rules.top_k)(None, expected)
    if rules.top_p < 1:
        expected = warpers.TopPLogitsWarper(rules.top_p)(None, expected)
    if rules.min_p:
        expected = warpers.MinPLogitsWarper(rules.min_p)(None, expected)
    got = probabilities(scores, rules)
    assert torch.equal(got > 0, expected > -torch.inf)
    assert (got > 0).sum() < got.numel() / 1.5
    torch.testing.assert_close(got, expected.softmax(-1), rtol=0, atol=1e-6)


def test_min_p_is_relative_to_the_likeliest() -> None:
    p = torch.tensor([0.5, 0.25, 0.2, 0.05])
    torch.testing.assert_close(probabilities(p.log(), Rules(min_p=0.45)), torch.tensor([2 / 3, 1 / 3, 0, 0]))
    # After top-k and top-p, whichever of the rules is the strictest decides.
    assert probabilities(p.log(), Rules(top_k=1, min_p=0.1)).count_nonzero() == 1
    assert probabilities(p.log(), Rules(top_p=0.99, min_p=0.45)).count_nonzero() == 2
    assert probabilities(torch.tensor([1.0, 1.0, 0.9]), Rules(min_p=1.0)).count_nonzero() == 2


def test_tiny_temperature_is_the_argmax_without_overflow() -> None:
    logits = torch.tensor([[[1.0, 3.0, 2.999, -torch.inf]]])
    assert probabilities(logits, Rules(temperature=1e-30)).tolist() == [[[0, 1, 0, 0]]]
    assert draw(logits, Rules(temperature=0.0), torch.zeros(1, 1)).item() == 1


def test_draw_follows_the_distribution_and_never_takes_what_is_impossible() -> None:
    p = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    logits = p.log().expand(1, 20000, 6)
    uniform = torch.rand(1, 20000, generator=torch.Generator().manual_seed(0))
    seen = draw(logits, Rules(), uniform).flatten().bincount(minlength=6) / 20000
    torch.testing.assert_close(seen, p, atol=0.015, rtol=0)
    assert seen[p == 0].sum() == 0
    edges = torch.tensor([[0.0, 1 - 2**-23]])
    assert draw(logits[:, :2], Rules(), edges).tolist() == [[1, 4]]


def test_noise_belongs_to_the_item() -> None:
    device = torch.device("cpu")
    together, alone = Noise([3, 4, 5], 2, device), Noise([4], 2, device)
    for step in (0, 1, 63, 64, 200, 5):
        assert torch.equal(together.at(step)[1], alone.at(step)[0])
    values = torch.stack([together.at(step) for step in range(300)])
    assert values.min() >= 0 and values.max() < 1
    assert values.flatten().unique().numel() > 0.99 * values.numel()
    assert float(values.mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"min_p": float("nan")},
    ],
)
def test_rules_out_of_range(wrong: dict) -> None:
    with pytest.raises(PartimentoError, match="SAMPLE001"):
        Rules(**wrong)


@pytest.mark.parametrize("rules", [Rules(), Rules(0.0), Rules(0.7, 3, 0.9, 0.1)])
def test_logits_that_are_no_numbers_give_no_code(rules: Rules) -> None:
    logits = torch.zeros(1, 4, 5)
    logits[0, 0, 2] = torch.nan
    logits[0, 1] = -torch.inf
    logits[0, 2, 1] = torch.inf
    assert draw(logits, rules, torch.full((1, 4), 0.3))[0, :3].tolist() == [5, 5, 5]
    assert draw(logits, rules, torch.full((1, 4), 0.3))[0, 3] < 5
