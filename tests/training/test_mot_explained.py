"""`explain-loss` on a real run of the mot family: the description of its checkpoint is the one that it reads."""

from __future__ import annotations

import math
from pathlib import Path

import mot_toy

from partimento.lab.explainloss.explain import explain_loss
from partimento.lab.facts import what
from partimento.models.mixture import MixtureModel
from partimento.training.engine import train


def test_a_mixture_is_held_against_its_book_and_tells_what_is_frozen(tmp_path: Path) -> None:
    pack, llama = mot_toy.write_pack(tmp_path / "pack"), tmp_path / "llama"
    mot_toy.write_llama(llama)
    made = mot_toy.config(pack, llama, model={"caption_share": 0.3})
    run = train(made, runs=tmp_path / "runs", run="toy")
    found = explain_loss(run.path)
    module = mot_toy.task(made).module
    frozen = sum(weight.numel() for weight in module.parameters() if not weight.requires_grad)
    assert frozen == found.figures["frozen"] and frozen > 0
    assert found.figures["trained"] == run.record["parameters"]
    rows = {row["module"]: row for row in found.figures["modules"]}
    assert {name for name, row in rows.items() if row["frozen"]} == {name for name in rows if ".llama." in name}
    prose = " ".join(next(part for part in found.parts if part.title == "What the number is").prose)
    assert isinstance(module, MixtureModel)
    ids = module.llama.config.vocabulary
    assert f"Not ln {ids + 48} = {math.log(ids + 48):.2f}" in prose and "ln 16 = 2.77" in prose
    assert "30 % of the items with words" in prose and f"ln {ids} = {math.log(ids):.2f}" in prose
    assert found.figures["caption_ce"] is not None and found.missing == []
    assert math.isfinite(found.figures["share"])
    assert what(run).startswith(
        "A code model upon llama, with feed-forward experts for audio, delay pattern, trained on"
    )
