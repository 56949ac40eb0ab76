"""The head of a card, as the hub's own client reads it."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "lab"))
from card_toys import FAMILIES, Toys
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from partimento.lab.card import publish
from partimento.lab.card.front import LICENCES, licence_fields, yaml
from partimento.lab.card.readme import escaped

TASK = {"rvq": "text-to-audio", "dia": "text-to-audio", "mot": "text-to-audio", "restore": "audio-to-audio"}
TASK |= {"codec": "feature-extraction"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return Toys(tmp_path_factory.mktemp("toys"))


SLOW = {"rvq", "mot"}  # as dia, for the head of a card


@pytest.mark.parametrize("family", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in FAMILIES])
def test_the_hub_reads_the_card(family: str, toys: Toys, tmp_path: Path) -> None:
    licence = {"rvq": "cc-by-4.0", "dia": "My own, v2"}.get(family)
    publish(toys.run(family).path, tmp_path / "on: a #name", licence=licence)
    card = ModelCard.load(tmp_path / "on: a #name" / "README.md")
    data = card.data
    assert data.pipeline_tag == TASK[family] and data.library_name == "partimento" and "music" in data.tags
    expected = {"rvq": ("cc-by-4.0", None), "dia": ("other", "my-own-v2")}.get(family, ("unknown", None))
    assert (data.license, getattr(data, "license_name", None)) == expected
    if family == "restore":  # never validated
        assert not data.eval_results
        return
    assert data.model_name == "on: a #name" and data.eval_results
    for one in data.eval_results:
        assert isinstance(one, EvalResult) and one.task_type == TASK[family]
        assert isinstance(one.metric_value, float)
        assert one.dataset_name and one.dataset_split == "valid"
    again = ModelCard(str(card))
    assert again.data.to_dict() == data.to_dict()
    name, results = model_index_to_eval_results(data.to_dict()["model-index"])
    assert name == data.model_name and len(results) == len(data.eval_results)
    if family in ("rvq", "dia", "mot"):
        by_type = {one.metric_type: one for one in data.eval_results}
        assert "95 % interval" in by_type["bits_per_second_by_source"].metric_name


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_-]{2,8}", fullmatch=True), inner),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.from_regex(r"x[a-z_-]{1,8}", fullmatch=True), plain, min_size=1, max_size=4))
def test_any_plain_data_comes_back(tree: dict) -> None:
    """Through PyYAML, which the hub's client reads with."""
    import yaml as theirs

    text = yaml(tree)
    found = theirs.safe_load(text.removeprefix("---\n").rpartition("---")[0])
    assert found == tree


def test_licences_of_the_hub_keep_their_names() -> None:
    for name in LICENCES:
        assert licence_fields(name.upper()) == {"license": name}


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab1. -+=#*_`[]()<>&;|\\\\~!:\n\t\"'/$"), max_size=24))
def test_foreign_text_is_shown_as_it_is(text: str) -> None:
    """By markdown-it, in a paragraph, a list and a table."""
    plain = " ".join(text.split())
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    places = {"p": escaped(text), "li": f"- {escaped(text)}", "td": f"| a |\n|---|\n| {escaped(text)} |"}
    for tag, source in places.items():
        found = re.search(rf"<{tag}>(.*?)</{tag}>", reader.render(source), re.DOTALL)
        shown = html.unescape(found[1]) if found else ""
        assert shown == plain and "<" not in (found[1] if found else ""), (tag, source)
