"""What the examiners of weights measure, against closed forms and against the optimizers themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from partimento.config import Optim, parse
from partimento.lab.doctor.weights import profile, rates, rows, spectra
from partimento.lab.doctor.weights.case import graded, named
from partimento.lab.doctor.weights.expected import Starts
from partimento.lab.doctor.weights.moving import _since
from partimento.models import lora
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.dia import TextModel
from partimento.models.text import TextConfig
from partimento.training.groups import claim
from partimento.training.optim import EPSILON, Optimizers

BETAS = (0.9, 0.95)


def test_the_update_is_what_torch_makes_of_the_moments() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(24, 40))
    optimizer = torch.optim.AdamW([weight], lr=3e-3, betas=BETAS, weight_decay=0.0)
    for _ in range(7):
        before = weight.detach().clone()
        weight.grad = torch.randn(24, 40) * 0.1
        optimizer.step()
    state = optimizer.state[weight]
    found = profile.adam_figures(state["exp_avg"], state["exp_avg_sq"], int(state["step"]), BETAS, sharp=True)
    moved = before - weight.detach()
    assert 3e-3 * found.update == pytest.approx(profile.rms(moved), rel=1e-4)
    assert found.sharp == pytest.approx(float(torch.linalg.matrix_norm(moved, 2)) / 3e-3 * (40 / 24) ** 0.5, rel=0.05)
    assert found.zero == found.tiny == 0.0 and found.steps == 7


def test_the_epsilon_is_the_optimizers() -> None:
    assert profile.EPSILON == EPSILON


def test_the_update_of_muon_is_known_without_its_gradient() -> None:
    torch.manual_seed(0)
    for shape in ((24, 40), (64, 16)):
        layer = nn.Linear(shape[1], shape[0], bias=False)
        optim = Optim(name="muon", muon_lr=0.05, weight_decay=0.0)
        optimizers = Optimizers(nn.Sequential(layer), optim)
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.randn(shape)
        optimizers.step(torch.tensor(False), 1.0)
        moved = before - layer.weight.detach()
        momentum = optimizers.state()["0.weight.momentum"]
        found = profile.muon_figures(momentum)
        assert found.update == rates.muon_rms(shape)
        assert 0.05 * found.update == pytest.approx(profile.rms(moved), rel=0.25)  # Newton and Schulz's scatter
        effect = float(torch.linalg.matrix_norm(moved, 2)) * (shape[1] / shape[0]) ** 0.5
        assert 0.05 * found.sharp == pytest.approx(effect, rel=0.3)
    assert profile.muon_figures(torch.zeros(3, 4)) == profile.Momentum(0.0, 0.0, 0.0)


@pytest.mark.parametrize("since", [0, 1, 9])
def test_one_gradient_leaves_its_mark_in_every_element(since: int) -> None:
    """Then |m| / sqrt(v) is (1 - b1) / sqrt(1 - b2) (b1 / sqrt(b2))^n everywhere, n steps later."""
    torch.manual_seed(0)
    m, v = torch.zeros(32, 32), torch.zeros(32, 32)
    for step in range(200):
        gradient = torch.randn(32, 32) * (1e4 if step == 199 - since else 1.0)
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
        if step == 150:
            calm = profile.adam_figures(m, v, 151, BETAS, sharp=False)
    found = profile.adam_figures(m, v, 200, BETAS, sharp=False)
    assert found.coherence == pytest.approx(0.1 / 0.05**0.5 * (0.9 / 0.95**0.5) ** since, rel=0.05)
    assert found.spread < 0.1 < 0.6 < calm.spread < 0.9  # of half a normal distribution it is sqrt(pi / 2 - 1)
    assert _since(found.coherence, BETAS, 200) == since


def test_moments_of_nothing() -> None:
    zero = torch.zeros(4, 4)
    found = profile.adam_figures(zero, zero, 12, BETAS, sharp=True)
    assert found.zero == 1.0 and found.update == 0.0 and found.sharp is None


def test_effective_ranks_in_closed_form() -> None:
    torch.manual_seed(0)
    even = torch.linalg.qr(torch.randn(40, 20))[0]
    found = spectra.spectrum(even)
    assert found is not None
    assert found.rank == pytest.approx(20, rel=1e-4) and found.top == pytest.approx(1 / 20, rel=1e-4)
    two = torch.randn(30, 2) @ torch.randn(2, 50)
    found = spectra.spectrum(two)
    assert found is not None and found.rank <= 2.001 and found.full == 30
    shares = torch.tensor([4.0, 1.0]) / 5
    diagonal = spectra.spectrum(torch.diag(torch.tensor([4.0, 1.0])))
    assert diagonal is not None and diagonal.largest == pytest.approx(4)
    assert diagonal.rank == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-5)
    assert spectra.spectrum(torch.zeros(3, 3)) is None


def test_a_large_matrix_through_mixtures_of_its_rows() -> None:
    torch.manual_seed(0)
    full = torch.randn(500, 600)
    low = torch.randn(500, 8) @ torch.randn(8, 600)
    seen, flat = spectra.spectrum(full), spectra.spectrum(low)
    assert seen is not None and flat is not None
    assert seen.full == spectra.MIXTURES and seen.rank > 0.8 * seen.full
    assert 6 < flat.rank < 8.001
    assert seen.largest == pytest.approx(float(torch.linalg.matrix_norm(full, 2)), rel=0.05)


@pytest.mark.parametrize("text", [False, True])
def test_the_expected_deviations_are_those_that_are_drawn(text: bool) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"codebooks": 4, "rows": 64, "outputs": 62, "width": 64, "layers": 3, "heads": 4}
    if text:
        encoder = TextConfig(vocabulary=300, length=16, width=64, layers=2, heads=4)
        decoder = DecoderConfig(**shape, cross_width=64)
        tree = {"encoder": {"kind": "bytes", **encoder.to_json()}, "decoder": decoder.to_json(), "null": "zeros"}
        module: nn.Module = TextModel.from_json(tree)
        starts = Starts({"family": "dia"}, {"model": tree})
    else:
        decoder = DecoderConfig(**shape, tags=40, positions="learned", norm="layer", bias=True)
        module = CodeDecoder(decoder)
        starts = Starts({"family": "rvq"}, {"decoder": decoder.to_json()})
    assert starts.why is None
    for name, weight in module.named_parameters():
        start = starts.of(name, tuple(weight.shape))
        assert start is not None, name
        actual = float((weight.detach() - start.mean).square().mean().sqrt())
        assert actual == pytest.approx(start.std, rel=0.02 + 3 / weight.numel() ** 0.5, abs=1e-9), name


def test_adapters_begin_as_they_are_drawn() -> None:
    torch.manual_seed(0)
    module = CodeDecoder(DecoderConfig(codebooks=2, rows=20, outputs=18, width=128, layers=1, heads=4))
    lora.adapt(module, 16, 16.0, 0.0, ("attention",))
    starts = Starts({"family": "dia", "model": {"weights": "somewhere"}}, {})
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            start = starts.of(name, tuple(weight.shape))
            assert start is not None
            assert profile.rms(weight.detach()) == pytest.approx(start.std, rel=0.1, abs=1e-9)
    assert starts.of("head.weight", (36, 128)) is None and starts.why is not None


def test_what_is_taken_from_other_weights_has_no_expected_size() -> None:
    told = {"decoder": {"layers": 2}}
    assert Starts({"family": "dia", "model": {"weights": "a"}}, told).of("decoder.norm.weight", (8,)) is None
    mot = Starts({"family": "mot", "model": {"backbone": "a"}}, told)
    assert mot.of("decoder.experts.0.norm.weight", (8,)) is None
    begin = mot.of("decoder.experts.0.lora_B.down", (8, 4))
    assert begin is not None and begin.std == 0
    sound = Starts({"family": "restore", "model": {}}, {})
    begin = sound.of("blocks.0.norm.weight", (8,))
    assert begin is not None and (begin.std, begin.mean) == (0, 1) and sound.why is not None


def test_rows_dead_twice_and_loud() -> None:
    torch.manual_seed(0)
    layout = rows.Layout("input rows", 2, 10, (8, 6))
    weight, square = torch.randn(20, 16), torch.rand(20, 16)
    square[[3, 9, 12]] = 0  # 9 is a special of book 0
    weight[11] = weight[14]
    weight[15] = weight[14] * (1 + 1e-5)
    weight[6] *= 50
    weight[[18, 19]] = weight[0].clone()  # specials of book 1
    found = rows.read(weight, square, layout)
    assert found.dead == [[3], [2]]
    assert found.alike == [[], [[1, 4, 5]]]
    assert list(found.loud[0]) == [6] and not found.loud[1]
    assert found.untouched_rms == pytest.approx(float(weight[[3, 9, 12]].square().mean().sqrt()))
    assert rows.read(weight, None, layout).dead is None
    zeros = rows.read(torch.zeros(20, 16), None, layout)
    assert zeros.alike == [[], []]


def test_layouts_of_the_three_families() -> None:
    spec = {"cardinalities": [16, 16, 8]}
    decoder = {"codebooks": 3, "rows": 19, "outputs": 17}
    for told in ({"decoder": decoder}, {"model": {"decoder": decoder}}, {"mixture": {"decoder": decoder}}):
        found = rows.layouts({**told, "spec": spec})
        assert found["embedding"].codes == (16, 16, 8) and found["head.weight"].rows == 17
    shared = rows.layouts({"mixture": {"decoder": {**decoder, "vocabulary": "shared"}}, "spec": spec})
    assert shared["embedding"].books == 1 and shared["embedding"].codes == (16,)
    assert rows.layouts({"network": {}}) == {}
    assert rows.layout_of("decoder.embedding", (57, 8), found) == found["embedding"]
    assert rows.layout_of("encoder.embedding", (57, 8), found) is None
    assert rows.layout_of("decoder.embedding", (58, 8), found) is None


def test_rates_by_name_are_those_of_the_claims() -> None:
    optim = Optim(name="muon", groups=[{"pattern": "0", "lr": 0.1}, {"pattern": "bias", "weight_decay": 0.5}])  # type: ignore[list-item]
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    for one in claim(module, optim):
        assert rates.peak(one.name, one.optimizer, optim) == pytest.approx(one.rate)
        assert rates.decay(one.name, tuple(one.parameter.shape), optim) >= one.weight_decay


def test_the_course_of_a_rate() -> None:
    tree = {"family": "rvq", "data": {"pack": "p"}, "train": {"steps": 100}}
    constant = parse({**tree, "optim": {"schedule": "constant", "warmup": 0}})
    course = rates.Course(constant, {"step": 40, "rollbacks": [{}]})
    assert course.last == course.highest == 0.5 and course.path == pytest.approx(20)
    linear = parse({**tree, "optim": {"schedule": "linear", "warmup": 10}})
    course = rates.Course(linear, {"step": 100})
    assert course.highest == 1 and course.last == pytest.approx(1 / 90) and course.path == pytest.approx(5.5 + 45.5)
    assert rates.Course(linear, {"step": 0}).path == 0


def test_grades_and_names() -> None:
    points = ((1.0, 0.2), (0.0, 0.8))
    assert [graded(value, points) for value in (-1, 0, 0.5, 1, 9)] == pytest.approx([0.8, 0.8, 0.5, 0.2, 0.2])
    assert named(["blocks.0.up", "blocks.1.up", "head"]) == "blocks.*.up (2), head"
    assert named(["blocks.0.up", "head"]) == "blocks.0.up, head"
    assert math.isclose(graded(2, [(1, 0), (3, 1)]), 0.5)
