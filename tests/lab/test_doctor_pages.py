"""The pages of the diseases: each is there with its picture, says what diseases.toml says, and leads nowhere wrong."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from partimento.lab.doctor.finding import diseases
from partimento.lab.doctor.pictures import Bar, bars

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import doctor_pages as pages

REPO = Path(__file__).parents[2]
FOLDER, INDEX = REPO / "docs" / "doctor", REPO / "docs" / "doctor.md"


@pytest.mark.parametrize("one", diseases().values(), ids=lambda one: one.id)
def test_a_disease_has_a_page_with_its_words_and_a_picture(one) -> None:
    text = (FOLDER / f"{one.id}.md").read_text(encoding="utf-8")
    assert pages.words(text) == pages.words(pages.page(one, "")), "run bench/doctor.py --words"
    assert f"![{one.name}]({one.id}.svg)" in text and "What was planted there: " in text
    picture = ElementTree.parse(FOLDER / f"{one.id}.svg").getroot()
    assert picture.tag.endswith("svg") and len(list(picture.iter())) > 4
    drawn = (FOLDER / f"{one.id}.svg").read_text(encoding="utf-8")
    assert "var(" not in drawn and 'href="http' not in drawn


def test_there_is_no_page_of_what_is_no_disease() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(diseases())


def test_links_of_the_pages_resolve() -> None:
    for path in (INDEX, *FOLDER.glob("*.md")):
        text = re.sub(r"(?s)```.*?```", "", path.read_text(encoding="utf-8"))
        links = re.findall(r"\]\(([^)\s]+)\)", text)
        assert links, path
        for link in links:
            if not link.startswith("https://"):
                assert (path.parent / link.partition("#")[0]).is_file(), f"{path.name}: {link}"


def test_sources_are_pages_or_addresses() -> None:
    for one in diseases().values():
        assert one.source and one.rule.endswith((".", ".)")), one.id
        for source in one.source:
            assert (REPO / "docs" / source).is_file() or re.fullmatch(r".+: https://\S+", source), source


def test_the_index_is_that_of_diseases_toml() -> None:
    text = INDEX.read_text(encoding="utf-8")
    assert pages.index() in text, "run bench/doctor.py --words"
    for one in diseases().values():
        assert text.count(f"| [`{one.id}`](doctor/{one.id}.md) | {one.name} |") == 1


def test_pages_name_nothing_of_the_machine_that_made_them() -> None:
    for path in (INDEX, *FOLDER.iterdir()):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(tmp|home|work|root|Users)/", text), path.name


def test_the_marks_of_a_page_are_looked_for(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: bench/doctor.py -->\nold\n<!-- end of figures -->\nafter\n")
    pages.fill(page, "figures", "new")
    made = "before\n<!-- figures: bench/doctor.py -->\n\nnew\n\n<!-- end of figures -->\nafter\n"
    assert page.read_text() == made
    with pytest.raises(ValueError, match="diseases"):
        pages.fill(page, "diseases", "new")


def test_bars_are_a_drawing_of_their_own() -> None:
    drawn = bars("a < b", [Bar("one & two", 3.0), Bar("a name that is far too long for its place", 0.0, odd=True)])
    assert drawn is not None and bars("nothing", []) is None
    told = pages.standalone(drawn)
    root = ElementTree.fromstring(told)
    assert [node.text for node in root.iter() if node.text][:2] == ["a < b", "one & two"] and "…" in told
    widths = [float(node.get("width", "0")) for node in root.iter() if node.tag.endswith("rect")]
    assert widths[0] > 200 and widths[1] == 1.0
    with pytest.raises(ValueError, match="size"):
        pages.standalone("<svg></svg>")
