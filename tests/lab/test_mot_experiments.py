"""The experiment files of the mot family are planned from published shapes alone: no weights, and no pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from partimento.config import MotConfig, load
from partimento.lab.plan import plan
from partimento.lab.plan.text import number

FOLDER = Path(__file__).parents[2] / "configs" / "experiments"


@pytest.mark.parametrize("name", ["mot_flat", "mot_delay", pytest.param("mot_full", marks=pytest.mark.slow)])
def test_the_figures_in_its_head_are_planned(name: str) -> None:
    file = FOLDER / f"{name}.toml"
    shapes = ["model.backbone=Llama-3.2-1B"]
    shapes += [] if name == "mot_full" else ["model.experts_from=musicgen-small"]
    config = load(file, shapes)
    assert isinstance(config, MotConfig)
    found, told = plan(config, codec="encodec-32k"), file.read_text()
    memory = found.options[0].memory
    figures: list[Any] = [number(found.parameters), f"{memory.total / 1e9:.1f} GB"]
    figures += [number(found.trainable)] if name != "mot_flat" else [f"{memory.weights / 1e9:.2f} GB"]
    assert [figure for figure in figures if figure not in told] == []
    if name == "mot_flat":
        adapters, output, rows = (
            sum(row["parameters"] for row in found.optimizers if any(part in row["names"][0] for part in parts))
            for parts in (("narrow", "widen"), ("head",), ("embedding",))
        )
        assert adapters == 67_108_864 and output == (128_256 + 2049) * 2048 and rows == 2051 * 2048
        assert round((adapters + output) / 1e6, 1) == 334.0 and adapters + output + rows == found.trainable
