from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from small_mixture import mixture
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.transplant import transplant


@dataclass(frozen=True)
class Donor:
    source: str
    names_L: tuple[tuple[str, str], ...]
    up_L: tuple[Tensor, ...]
    down_L: tuple[Tensor, ...]


def donor(layers: int, width: int = 16, inner: int = 24) -> Donor:
    torch.manual_seed(3)
    names = tuple((f"layers.{n}.fc1.weight", f"layers.{n}.fc2.weight") for n in range(layers))
    ups, downs = (tuple(torch.randn(shape) for _ in names) for shape in ((inner, width), (width, inner)))
    return Donor("small", names, ups, downs)


def test_layer_by_layer_and_every_tensor_is_reported() -> None:
    model, source = mixture(), donor(3)
    drawn = {name: tensor.clone() for name, tensor in model.decoder.experts.state_dict().items()}
    report = transplant(model.decoder, source)
    for layer, expert in enumerate(model.decoder.experts):
        assert torch.equal(expert.up.weight, source.up_L[layer])
        assert torch.equal(expert.down.weight, source.down_L[layer])
        assert torch.equal(expert.narrow.weight, drawn[f"{layer}.narrow.weight"]) and not expert.widen.weight.any()
    assert {row.name for row in report.rows} == {f"experts.{name}" for name in drawn}
    assert all(tuple(drawn[row.name.removeprefix("experts.")].shape) == row.shape for row in report.rows)
    assert len(report.taken) == 4 and report.unused == (2,)
    assert all(row.why for row in report.rows if row.origin is None)
    printed = str(report)
    assert "layers.1.fc2.weight" in printed and "16 x 24" in printed and "4 of 8 tensors from small" in printed
    assert report.to_json()["rows"][1]["origin"] == "layers.0.fc1.weight"


def test_a_layer_is_random_only_where_it_was_told_to_be() -> None:
    model = mixture()
    drawn = model.decoder.experts[1].up.weight.clone()
    with pytest.raises(PartimentoError, match="MODEL041") as caught:
        transplant(model.decoder, donor(1))
    assert "layer 1" in str(caught.value)
    report = transplant(model.decoder, donor(1), random=[1])
    assert torch.equal(model.decoder.experts[1].up.weight, drawn)
    assert [row.layer for row in report.rows if "told" in row.why] == [1, 1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"up_L": (torch.randn(24, 16), torch.randn(24, 17))}, "layers.1.fc1"),
        ({"down_L": (torch.randn(16, 24), torch.full((16, 24), torch.nan))}, "finite"),
    ],
)
def test_nothing_is_copied_where_one_does_not_fit(change: dict[str, Any], word: str) -> None:
    model = mixture()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PartimentoError) as caught:
        transplant(model.decoder, replace(donor(2), **change))
    assert caught.value.code == "MODEL041" and word in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("kind", "options"), [("lora", {}), ("feedforward", {"activation": "swiglu"})])
def test_other_experts_have_no_place_for_them(kind: str, options: dict[str, str]) -> None:
    with pytest.raises(PartimentoError, match="MODEL041"):
        transplant(mixture(kind, **options).decoder, donor(2))
    with pytest.raises(PartimentoError, match="MODEL041"):
        transplant(mixture().decoder, donor(2), random=[5])
