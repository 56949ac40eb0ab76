from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from small_mixture import mixture
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.transplant import paired, transplant


@dataclass(frozen=True)
class Donor:
    source: str
    width: int
    inner: int
    names_L: tuple[tuple[str, str], ...]
    up_L: tuple[Tensor, ...]
    down_L: tuple[Tensor, ...]


def donor(layers: int, width: int = 16, inner: int = 24) -> Donor:
    torch.manual_seed(3)
    names = tuple((f"layers.{n}.fc1.weight", f"layers.{n}.fc2.weight") for n in range(layers))
    ups, downs = (tuple(torch.randn(shape) for _ in names) for shape in ((inner, width), (width, inner)))
    return Donor("small", width, inner, names, ups, downs)


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
    assert report.to_json()["rows"][1]["origin"] == "layers.0.fc1.weight"


def test_the_pairs_are_known_without_weights() -> None:
    model, source = mixture(), donor(3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = paired(model.decoder, replace(source, up_L=(), down_L=()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert report == transplant(model.decoder, source)
    with pytest.raises(PartimentoError) as caught:
        paired(model.decoder, replace(source, inner=25, up_L=(), down_L=()))
    assert caught.value.code == "MODEL041" and "25 x 16" in str(caught.value)


def test_a_source_with_fewer_layers_is_refused_and_its_pairs_say_what_is_missing() -> None:
    model = mixture()
    with pytest.raises(PartimentoError, match="MODEL041") as caught:
        transplant(model.decoder, donor(1))
    assert "layer 1" in str(caught.value) and "2 layers or more" in (caught.value.next or "")
    report = paired(model.decoder, donor(1))
    assert [row.name for row in report.rows if "missing" in row.why] == [
        f"experts.1.{part}.weight" for part in ("up", "down")
    ]
    assert len(report.taken) == 2 and report.unused == ()


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


def test_other_experts_have_no_place_for_them() -> None:
    with pytest.raises(PartimentoError, match="MODEL041"):
        transplant(mixture("lora").decoder, donor(2))
