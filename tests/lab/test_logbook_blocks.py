"""Pages that a machine and a hand write together: no word of the hand is lost, whatever both do in turn."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.lab.logbook.blocks import BESIDE, Block, Broken, Hand, merge, new_page, without_marks

GOAL = Hand("Goal", "Why?")
NAMES = ["head", "run:a", "run:b", "run:c", "tail"]
TOKEN = re.compile(r"hand\d+")


def parts(*bodies: str) -> list[Block | Hand]:
    one, two, *_ = bodies
    return [Block("head", one), GOAL, Block("run:a", two)]


def machine(page: list[Block | Hand]) -> list[Block]:
    return [part for part in page if isinstance(part, Block)]


PAGE = new_page(parts("# Title", "first result"))


def test_an_untouched_page_is_the_page_that_would_be_new() -> None:
    again = merge(PAGE, machine(parts("# Title", "second result")))
    assert again.text == new_page(parts("# Title", "second result")) and again.kept == ()
    assert merge(PAGE, machine(parts("# Title", "first result"))).text == PAGE


def test_an_edited_block_is_kept_and_the_new_one_stands_behind_it_once() -> None:
    edited = PAGE.replace("first result", "first result, and I doubt it")
    once = merge(edited, machine(parts("# Title", "second result")))
    assert once.kept == ("run:a",)
    assert "I doubt it" in once.text and f"{BESIDE}\n\nsecond result" in once.text
    twice = merge(once.text, machine(parts("# Title", "third result")))
    assert "I doubt it" in twice.text and "third result" in twice.text and "second result" not in twice.text
    # The edited one taken out by hand: the machine has its block back.
    begin = twice.text.index("<!-- partimento:begin run:a")
    rest = twice.text.index("<!-- partimento:begin run:a", begin + 1)
    last = merge(twice.text[:begin] + twice.text[rest:], machine(parts("# Title", "fourth")))
    assert last.kept == () and BESIDE not in last.text and "fourth" in last.text


def test_an_edit_to_what_the_machine_would_write_is_no_edit() -> None:
    edited = PAGE.replace("first result", "second result")
    again = merge(edited, machine(parts("# Title", "second result")))
    assert again.kept == () and again.text == new_page(parts("# Title", "second result"))


def test_an_emptied_block_stays_empty() -> None:
    emptied = PAGE.replace("first result\n", "")
    again = merge(emptied, machine(parts("# Title", "second result")))
    assert again.emptied == ("run:a",) and again.text == emptied


def test_places_for_writing_are_made_once() -> None:
    without = PAGE.replace("## Goal\n\n*Why?*\n", "")
    assert without != PAGE
    assert "Goal" not in merge(without, machine(parts("# Title", "x"))).text


def test_a_new_block_leaves_notes_with_the_block_that_they_are_about() -> None:
    page = PAGE + "\nabout a\n\n### my own heading\n\n```\n# no heading\n```\nmore about a\n\n## Insights\n\nnone\n"
    blocks = [Block("head", "# Title"), Block("run:a", "first result"), Block("run:b", "another")]
    text = merge(page, blocks).text
    order = [text.index(said) for said in ("first result", "about a", "more about a", "another", "## Insights", "none")]
    assert order == sorted(order)


def test_a_new_block_before_all_others() -> None:
    text = merge(PAGE, [Block("zero", "nought"), *machine(parts("# Title", "x"))]).text
    assert text.index("nought") < text.index("# Title")


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_the_ends_of_lines_stay_as_they_are(end: str) -> None:
    page = PAGE.replace("\n", end) + f"by hand{end}"
    again = merge(page, [*machine(parts("# Title", "second\nresult")), Block("run:b", "new")]).text
    assert again.count("\n") == again.count(end) and "second" in again and f"by hand{end}" in again
    assert merge(page, machine(parts("# Title", "first result"))).kept == ()


def test_blanks_that_editors_cut_and_byte_order_marks_are_no_edits() -> None:
    blocks = [Block("a", "one  \ntwo\t\n\n\n")]
    page = "\ufeff" + new_page(blocks)
    assert merge(page, [Block("a", "three")]).kept == ()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda page: "I wrote this.\n", "no marks"),
        (lambda page: "", "no marks"),
        (lambda page: page.replace("<!-- partimento:end head -->\n", ""), "begins inside"),
        (lambda page: page.replace("<!-- partimento:begin head", "<!-- partimento:begin tail"), "ends, and"),
        (lambda page: page[: page.rindex("<!--")], "no end"),
        (lambda page: page.replace("end head -->", "end head --> x"), "looks like a mark"),
        (lambda page: re.sub(r"(begin head) \w+", r"\1", page), "without a hash"),
        (lambda page: page + "<!-- PARTIMENTO:begin -->\n", "looks like a mark"),
    ],
)
def test_marks_that_are_not_in_order(change, why: str) -> None:
    with pytest.raises(Broken, match=why):
        merge(change(PAGE), machine(parts("# Title", "x")))


def test_marks_are_not_shown() -> None:
    assert "partimento" not in without_marks(PAGE) and "first result" in without_marks(PAGE)


edits = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "append", "delete", "move", "copy", "crlf", "split", "rewrite"]),
        st.integers(0, 400),
        st.integers(0, 400),
    ),
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(edits=edits, data=st.data())
def test_what_a_hand_wrote_survives_any_sequence_of_edits_and_rewrites(edits, data) -> None:
    """The oracle knows nothing of blocks: tokens of the hand before a rewrite are there after it, in the same order."""
    page, count, written = PAGE, 0, 0
    for kind, place, other in [*edits, ("rewrite", 0, 0)]:
        lines = page.split("\n")
        at, to = place % len(lines), other % len(lines)
        token = f"hand{count}"
        count += 1
        if kind == "insert":
            lines.insert(at, token)
        elif kind == "replace":
            lines[at] = token
        elif kind == "append":
            lines[at] += f" {token}"
        elif kind == "split":
            cut = other % (len(lines[at]) + 1)
            lines[at] = f"{lines[at][:cut]}\n{token}\n{lines[at][cut:]}"
        elif kind == "delete":
            del lines[at]
        elif kind == "move":
            lines.insert(to, lines.pop(at))
        elif kind == "copy":
            lines[to:to] = lines[at : at + 6]
        elif kind == "crlf":
            lines = "\n".join(lines).replace("\r\n", "\n").replace("\n", "\r\n").split("\n")
        page = "\n".join(lines)
        if kind != "rewrite":
            continue
        names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
        written += 1
        blocks = [Block(name, f"machine {written} of {name}\n\n| a |\n| --- |") for name in sorted(names)]
        try:
            after = merge(page, blocks).text
        except Broken:
            continue  # such a page is not touched
        assert TOKEN.findall(after) == TOKEN.findall(page)
        assert merge(after, blocks).text == after  # writing again changes nothing
        page = after
