"""Losses: finite on what files hold, the same for an item alone, and combined at the wave as described."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from partimento.waveform.adversarial import (
    accuracy,
    discriminator_loss,
    feature_loss,
    generator_loss,
    mean_scores,
)
from partimento.waveform.discriminators import AdversaryConfig, Discriminators, Seen, audible
from partimento.waveform.losses import combine, distances, negative_si_sdr, pull
from partimento.waveform.ramp import ramp

ALL = ("mel", "stft", "wave", "si_sdr")
TINY = AdversaryConfig(periods=(2, 3), period_width=2, windows=(64,), window_width=2, rates=(2,), rate_width=4)


def noise(*shape: int, seed: int = 0, scale: float = 0.1) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adversary() -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(TINY)


SILENCE, SOUND = torch.zeros(1, 3000), noise(1, 3000)
CASES = {
    "silence for silence": (SILENCE, SILENCE),
    "silence for sound": (SILENCE, SOUND),
    "sound for silence": (SOUND, SILENCE),
    "equal": (SOUND, SOUND),
    "nearly equal": (SOUND, SOUND + noise(1, 3000, seed=2, scale=1e-8)),
    "clipped": (noise(1, 3000, scale=3.0).clamp(-1, 1), noise(1, 3000, scale=3.0)),
    "constant": (torch.full((1, 3000), 0.5), SOUND),
    "under the smallest normal number": (torch.full((1, 3000), 1e-40), SOUND),
    "fading out": (SOUND * torch.logspace(0, -46, 3000), SOUND),
    "faint": (1e-25 * SOUND, 1e-25 * noise(1, 3000, seed=1)),
    "loud": (1e4 * SOUND, 1e4 * noise(1, 3000, seed=1)),
    "one sample": (torch.ones(1, 1), -torch.ones(1, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_distances_and_their_gradients_are_finite(case: str) -> None:
    made, target = CASES[case]
    made = made.clone().requires_grad_()
    parts = distances(made, target, 44100, ALL)
    gradients = pull({name: part_B.sum() for name, part_B in parts.items()}, made)
    for name in ALL:
        assert parts[name].shape == (1,)
        assert torch.isfinite(parts[name]).all(), name
        assert torch.isfinite(gradients[name]).all(), name
    if case in ("equal", "silence for silence"):
        assert float(parts["mel"].detach() + parts["stft"].detach() + parts["wave"].detach()) == 0
        assert all(not gradients[name].any() for name in ("mel", "stft", "wave"))


@pytest.mark.parametrize("case", [case for case, (made, _) in CASES.items() if made.shape[1] >= 100])
def test_opinions_and_their_gradients_are_finite_and_nothing_where_nothing_is_heard(case: str) -> None:
    made, target = CASES[case]
    judges, made = adversary(), made.clone().requires_grad_()
    real, fake = judges(target), judges(made)
    heard_B = audible(target) & audible(made)
    for loss_B in (generator_loss(fake), feature_loss(real, fake), discriminator_loss(real, fake)):
        assert torch.isfinite(loss_B).all()
        (gradient,) = torch.autograd.grad((loss_B * heard_B).sum(), made, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert bool(gradient.any()) == bool(heard_B.any() and not (loss_B == 0).any())


def test_silent_items_weigh_nothing_among_others() -> None:
    judges = adversary()
    target = torch.cat([SOUND, SILENCE, noise(1, 3000, seed=4)])
    made = noise(3, 3000, seed=5).requires_grad_()
    heard_B = audible(target)
    assert heard_B.tolist() == [True, False, True]
    real, fake = judges(target), judges(made)
    (gradient,) = torch.autograd.grad(((generator_loss(fake) + feature_loss(real, fake)) * heard_B).sum(), made)
    assert not gradient[1].any() and gradient[0].any() and gradient[2].any()


def test_an_item_does_not_depend_on_the_others() -> None:
    judges, made, target = adversary(), noise(3, 900), noise(3, 900, seed=1)
    parts, one = distances(made, target, 44100, ALL), distances(made[1:2], target[1:2], 44100, ALL)
    for name in ALL:
        assert torch.allclose(parts[name][1:2], one[name], rtol=1e-5), name
    real, fake = judges(target), judges(made)
    real_1, fake_1 = judges(target[1:2]), judges(made[1:2])
    pairs = [
        (discriminator_loss(real, fake), discriminator_loss(real_1, fake_1)),
        (generator_loss(fake), generator_loss(fake_1)),
        (feature_loss(real, fake), feature_loss(real_1, fake_1)),
        (mean_scores(fake).T, mean_scores(fake_1).T),
    ]
    for together, alone in pairs:
        assert together.shape[0] == 3
        assert torch.allclose(together[1:2], alone, rtol=1e-5, atol=1e-7)


def test_distances_are_those_wanted_in_their_order() -> None:
    assert list(distances(SOUND, SOUND, 44100, ["wave", "mel"])) == ["wave", "mel"]
    with pytest.raises(ValueError, match="equal shapes"):
        distances(SOUND, SOUND[:, 1:], 44100, ["wave"])
    with pytest.raises(KeyError, match="phase"):
        distances(SOUND, SOUND, 44100, ["phase"])


def test_si_sdr_does_not_see_scale_and_offset() -> None:
    made, target = noise(1, 5000, seed=1).double() + 0.5 * SOUND[:, :1].double(), noise(1, 5000).double()
    made = target + 0.1 * made
    plain = float(negative_si_sdr(made, target))
    assert float(negative_si_sdr(0.3 * made + 0.2, target - 0.4)) == pytest.approx(plain, abs=1e-3)
    assert plain == pytest.approx(-20, abs=0.5)


def test_features_are_the_inner_maps_and_the_real_is_not_moved() -> None:
    def seen(value: float) -> list[Seen]:
        maps = [torch.full((2, 3), value, requires_grad=True), torch.full((2, 4, 5), 2 * value, requires_grad=True)]
        return [Seen("period 2", torch.full((2, 1, 7), 100 * value), maps)]

    real, fake = seen(1.0), seen(3.0)
    loss_B = feature_loss(real, fake)
    assert loss_B.tolist() == [2 + 4, 2 + 4]
    loss_B.sum().backward()
    assert real[0].maps[0].grad is None
    gradient = fake[0].maps[0].grad
    assert gradient is not None and torch.allclose(gradient, torch.full((2, 3), 1 / 3))


def test_losses_of_half_precision_are_summed_in_full() -> None:
    score = torch.full((1, 1, 4001), 0.01, dtype=torch.bfloat16)
    maps = [torch.full((1, 4001), 1.0, dtype=torch.bfloat16)]
    seen = [Seen("rate 1", score, maps)]
    other = [Seen("rate 1", score, [maps[0] - 0.0078125])]
    exact = float(score[0, 0, 0].float())
    assert discriminator_loss(seen, seen).dtype == torch.float32
    assert float(generator_loss(seen)) == pytest.approx((1 - exact) ** 2, rel=1e-6)
    assert float(discriminator_loss(seen, seen)) == pytest.approx((1 - exact) ** 2 + exact**2, rel=1e-6)
    assert float(feature_loss(seen, other)) == pytest.approx(0.0078125, rel=1e-6)


def test_accuracy_is_the_share_that_is_right() -> None:
    real = torch.tensor([[0.9, 0.4, 0.5], [0.6, 0.1, 0.6]])
    fake = torch.tensor([[0.1, 0.6, 0.5], [0.4, 0.2, 0.0]])
    right = accuracy(real, fake)
    assert right.real_B.tolist() == [1, 0, 0.5]
    assert right.fake_B.tolist() == [1, 0.5, 0.5]


def test_different_discriminators_are_not_compared() -> None:
    seen, other = Seen("period 2", torch.zeros(1, 1), []), Seen("period 3", torch.zeros(1, 1), [])
    with pytest.raises(ValueError, match="different discriminators"):
        discriminator_loss([seen], [other])
    with pytest.raises(ValueError):
        feature_loss([seen, seen], [seen])


def test_a_ramp_goes_from_one_to_the_other() -> None:
    assert ramp(3, 0.7) == 3.0
    assert [ramp([3000.0, 750.0], progress) for progress in (0, 0.5, 1)] == pytest.approx([3000, 1500, 750])
    assert [ramp((0.0, 8.0), progress) for progress in (0, 0.25, 1)] == [0, 2, 8]
    assert [ramp((8.0, 0.0), progress) for progress in (0, 0.25, 1)] == [8, 6, 0]
    assert ramp((1.0, 4.0), 1.5) == 4.0 and ramp((1.0, 4.0), -1) == 1.0  # a run that is prolonged


def test_pull_is_each_gradient_and_moves_nothing_else() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    made = scale * noise(2, 50)
    judge = torch.nn.Linear(50, 1)
    opinion = judge(made).sum()
    parts = {"wave": made.abs().mean(), "adversarial": opinion, "features": opinion.square()}
    gradients = pull(parts, made)
    assert torch.allclose(gradients["wave"], made.sign() / 100)
    assert torch.allclose(gradients["adversarial"], judge.weight.expand(2, 50))
    assert torch.allclose(gradients["features"], 2 * opinion * judge.weight.expand(2, 50))
    assert judge.weight.grad is None and scale.grad is None
    made.backward(gradients["wave"])  # the graph behind the wave is kept
    assert scale.grad is not None and float(scale.grad) == pytest.approx(float(made.detach().abs().mean()) / 2)


def test_fixed_weights_are_factors() -> None:
    gradients = {"mel": noise(3, 40), "wave": noise(3, 40, seed=1)}
    gradient, sizes = combine(gradients, {"mel": 15.0, "wave": torch.tensor(2.0)})
    assert torch.allclose(gradient, 15 * gradients["mel"] + 2 * gradients["wave"])
    assert float(sizes["mel"]) == pytest.approx(float(gradients["mel"].norm(dim=1).mean()))


def test_balanced_weights_are_shares_whatever_the_scale() -> None:
    gradients = {"mel": noise(3, 40), "wave": noise(3, 40, seed=1)}
    weights = {"mel": 3.0, "wave": 1.0}
    gradient, sizes = combine(gradients, weights, {})
    expected = 0.75 * gradients["mel"] / sizes["mel"] + 0.25 * gradients["wave"] / sizes["wave"]
    assert torch.allclose(gradient, expected)
    scaled, _ = combine({"mel": 1e3 * gradients["mel"], "wave": 1e-4 * gradients["wave"]}, weights, {})
    assert torch.allclose(scaled, expected, rtol=1e-4)
    known, _ = combine(gradients, weights, {"mel": torch.tensor(2.0), "wave": torch.tensor(0.0)})
    assert torch.allclose(known, 0.75 * gradients["mel"] / 2 + 0.25 * gradients["wave"] / sizes["wave"])


def test_balancing_survives_parts_without_a_gradient() -> None:
    gradients = {"mel": torch.zeros(2, 40), "wave": noise(2, 40)}
    for weights in ({"mel": 1.0, "wave": 1.0}, {"mel": 1.0, "wave": 0.0}, {"mel": 0.0, "wave": 0.0}):
        gradient, sizes = combine(gradients, weights, {})
        assert torch.isfinite(gradient).all()
        assert bool(gradient.any()) == (weights["wave"] > 0)
        assert float(sizes["mel"]) == 0
