"""`explain-loss` on a real run of the mot family: the description of its checkpoint is the one that it reads."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import mot_toy
import pytest
import torch

from partimento.lab.explainloss.explain import explain_loss
from partimento.lab.facts import what
from partimento.models.mixture import MixtureModel
from partimento.tokens.subwords import SubwordText
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
    words = next(part for part in found.parts if part.title == "The words, told from the sound")
    known = [row[1] for row in words.rows]
    assert known[:3] == [math.log(ids), found.figures["unigram_caption_ce"], found.figures["llama_caption_ce"]]
    assert known[4] == found.figures["caption_ce"] and None not in known
    assert math.isfinite(found.figures["share"])
    assert what(run).startswith(
        "A code model upon llama, with feed-forward experts for audio, delay pattern, trained on"
    )


def test_the_floors_of_words_are_those_of_a_plain_count_and_of_the_stock_model(tmp_path: Path) -> None:
    """Against a loop over the clips, and transformers' Llama, which returns the mean loss of its labels."""
    from transformers import LlamaForCausalLM

    pack, llama = mot_toy.write_pack(tmp_path / "pack"), tmp_path / "llama"
    mot_toy.write_llama(llama)
    made = mot_toy.task(mot_toy.config(pack, llama, model={"caption_share": 0.3}))
    found, bos, coder = made.baselines(), made.module.llama.config.bos, made.coder  # type: ignore[union-attr]
    assert isinstance(made.module, MixtureModel) and isinstance(coder, SubwordText)
    seen: Counter[int] = Counter()
    for clip in made.train.clips.tolist():
        seen.update([*coder.ids(made.train.words_of(clip))[1:], bos])
    total, kinds, size = sum(seen.values()), len(seen), made.module.llama.config.vocabulary
    held = [words for batch in made.valid for words in batch.words_B if words]
    stock = LlamaForCausalLM.from_pretrained(llama).eval()
    counted, alone, count = 0.0, 0.0, 0
    for words in held:
        ids = [*coder.ids(words), bos]
        counted -= sum(math.log((seen[number] + kinds / size) / (total + kinds)) for number in ids[1:])
        with torch.no_grad():
            alone += float(stock(torch.tensor([ids]), labels=torch.tensor([ids])).loss) * (len(ids) - 1)
        count += len(ids) - 1
    assert count > 10
    assert found["unigram_caption_ce"] == pytest.approx(counted / count, rel=1e-6)
    assert found["llama_caption_ce"] == pytest.approx(alone / count, rel=1e-4)
    assert "unigram_caption_ce" not in mot_toy.task(mot_toy.config(pack, llama)).baselines()
