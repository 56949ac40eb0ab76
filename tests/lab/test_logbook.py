"""The research log: pages of days and runs, from files, beside what people write and do to them."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from compare_fakes import make
from lab_fakes import finish_run

from partimento.errors import PartimentoError
from partimento.lab.logbook import entry, pages, trials
from partimento.lab.logbook.blocks import Block, Hand
from partimento.lab.logbook.diagnosed import diagnosed
from partimento.lab.logbook.drawings import standalone
from partimento.lab.logbook.gather import commits, experiments, nearest
from partimento.lab.logbook.html import html
from partimento.lab.logbook.logbook import log
from partimento.runs.events import EventLog
from partimento.runs.run import Run

TODAY = datetime.date.today()


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs that differ in their dropout; the working directory is no repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entry, "diagnosed", lambda path: ["Nothing is wrong."])  # the doctor has tests of its own
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    made = finish_run(tmp_path / "runs")
    other = Run.create(
        tmp_path / "runs",
        _config(made, {"model": {"dropout": 0.5}}),
        run_id="20260315_rvq_005_dropout",
        hypothesis="More dropout helps | a lot <!-- partimento:end head -->",
        extra={"identity": made.record["identity"], "parameters": 9_512_448},
    )
    shutil.copy(made.events_path, other.events_path)
    EventLog(other.events_path).append("alarm", 600, alarm="plateau", text="the loss stands still", remedy="stop")
    return tmp_path


def _config(run: Run, changes: dict):
    from partimento.config import parse

    tree = dict(run.record["config"])
    for section, values in changes.items():
        tree[section] = {**tree[section], **values}
    return parse(tree)


def test_a_day_a_run_and_the_index(two: Path) -> None:
    made = log(runs="runs", to="log")
    assert [path.name for path in made.pages] == [f"{TODAY}.md", f"{TODAY}.html", "index.md", "index.html"]
    text = (two / "log" / f"{TODAY}.md").read_text()
    for heading in ("Goal", "Experiments", "Comparison", "Key insights", "Questions", "Plan for tomorrow", "Commits"):
        assert text.count(f"\n## {heading}\n") == 1
    assert "### 20260315\\_rvq\\_005\\_dropout" in text and "Delays help." in text
    assert "| `model.dropout` | `0.5` |" in text  # what differs from the nearest run
    assert "plateau: the loss stands still" in text
    assert "More dropout helps \\| a lot" in text and text.count("<!-- partimento:end head -->") == 1
    assert re.search(r"\| `20260315_rvq_004_delay` \| `0.0` \| 600 \| \*\*[\d,.]+\*\* \| [\d.]+ %", text)
    assert "Not known: fatal: not a git repository" in text
    shown = re.findall(r"!\[.*?\]\((pictures/[^)]+\.svg)\)", text)
    assert len(shown) == 4 and all((two / "log" / place).is_file() for place in shown)
    log("20260315_rvq_004_delay", "runs", "log")
    log("all", "runs", "log")
    index = (two / "log" / "index.md").read_text()
    assert f"[{TODAY}]({TODAY}.md)" in index and "(runs/20260315_rvq_004_delay.md)" in index
    assert (two / "log" / "runs" / "20260315_rvq_004_delay.html").exists()


def test_writing_again_changes_nothing_and_keeps_the_hand(two: Path) -> None:
    log(runs="runs", to="log")
    page = two / "log" / f"{TODAY}.md"
    first = page.read_bytes()
    assert log(runs="runs", to="log").notes == () and page.read_bytes() == first
    text = page.read_text().replace("how will it be known?*\n", "how will it be known?*\n\nDropout *decides*.\n")
    text = text.replace("More dropout helps", "I never thought that more dropout helps")
    page.write_text(text)
    page.chmod(0o640)
    EventLog(two / "runs" / "20260315_rvq_004_delay" / "events.jsonl").append("note", 600, text="one more line")
    made = log(runs="runs", to="log")
    after = page.read_text()
    assert "Dropout *decides*." in after and "I never thought" in after and "one more line" in after
    assert any("run:20260315_rvq_005_dropout was edited by hand and is kept" in note for note in made.notes)
    assert page.stat().st_mode & 0o777 == 0o640
    assert "Dropout *decides*." in (two / "log" / "index.md").read_text().replace("\\", "")


def test_pages_that_cannot_be_merged_are_left_and_the_new_one_is_beside(tmp_path: Path) -> None:
    page = tmp_path / "day.md"
    parts: list[Block | Hand] = [Block("head", "# New")]
    cases = {
        "by hand": (b"Written by me.\n", lambda: None),
        "no end": (b"<!-- partimento:begin head 0123456789abcdef -->\nmine\n", lambda: None),
        "not UTF-8": (b"caf\xe9\n", lambda: None),
        "read-only": (b"<!-- partimento:begin head 0123456789abcdef -->\n<!-- partimento:end head -->\n",
                      lambda: page.chmod(0o444)),
        "editor": (b"mine\n", lambda: (tmp_path / ".day.md.swp").write_bytes(b"vim")),
    }  # fmt: skip
    for why, (content, prepare) in cases.items():
        for left in tmp_path.iterdir():
            left.unlink()
        page.write_bytes(content)
        prepare()
        made = pages.write(page, parts)
        assert page.read_bytes() == content, why
        assert made.path == tmp_path / "day.new.md" and "# New" in made.path.read_text()
        assert len(made.notes) == 1 and why in made.notes[0] and "day.new.md" in made.notes[0]
    again = pages.write(page, [Block("head", "# Newer")])  # the one beside is a page too
    assert again.path.name == "day.new.md" and "# Newer" in again.path.read_text()
    assert not list(tmp_path.glob("*.tmp*")) and not list(tmp_path.glob("*.lock"))


def test_no_place_is_left(tmp_path: Path) -> None:
    for name in ("day.md", "day.new.md", "day.new2.md", "day.new3.md", "day.new4.md"):
        (tmp_path / name).write_text("mine\n")
    with pytest.raises(PartimentoError) as caught:
        pages.write(tmp_path / "day.md", [Block("head", "# New")])
    assert caught.value.code == "LAB092"
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine\n"}


def test_an_emacs_lock_is_a_dangling_link(tmp_path: Path) -> None:
    pages.write(tmp_path / "day.md", [Block("head", "# One")])
    (tmp_path / ".#day.md").symlink_to("someone@somewhere.1:2")
    assert "open in an editor" in pages.write(tmp_path / "day.md", [Block("head", "# Two")]).notes[0]


def test_a_save_between_reading_and_writing_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "day.md"
    pages.write(page, [Block("head", "# One")])
    saves = iter([b"\nsaved meanwhile\n"])
    real = pages.merge

    def merge_late(text, blocks):
        merged = real(text, blocks)
        for more in saves:
            page.write_bytes(page.read_bytes() + more)
        return merged

    monkeypatch.setattr(pages, "merge", merge_late)
    pages.write(page, [Block("head", "# Two")])
    assert "saved meanwhile" in page.read_text() and "# Two" in page.read_text()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.md"
    pages.write(real, [Block("head", "# One")])
    (tmp_path / "day.md").symlink_to(real)
    pages.write(tmp_path / "day.md", [Block("head", "# Two")])
    assert (tmp_path / "day.md").is_symlink() and "# Two" in real.read_text()


def test_html_that_was_edited_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "day.html"
    pages.write_whole(page, "<!doctype html>\n<p>one</p>\n")
    assert pages.write_whole(page, "<!doctype html>\n<p>two</p>\n").path == page
    page.write_text(page.read_text().replace("two", "mine"))
    assert pages.write_whole(page, "<!doctype html>\n<p>three</p>\n").path.name == "day.new.html"
    assert "mine" in page.read_text()


def test_the_html_asks_nothing_of_the_outside_and_runs_nothing(two: Path) -> None:
    log(runs="runs", to="log")
    text = (two / "log" / f"{TODAY}.html").read_text()
    assert text.count('src="data:image/svg+xml;base64,') == 4
    assert not re.search(r"<script|src=\"(?!data:)|<link|@import|url\(", text)
    attack = "# T\n\n<script>alert(1)</script>\n\n![x](https://example.org/x.png) ![y](../secret.svg)\n\n"
    attack += "[z](javascript:alert(1))\n"
    (two / "secret.svg").write_text("<svg/>")
    made = html(attack, two / "log", "log")
    assert "<script" not in made and 'src="http' not in made and 'href="javascript' not in made
    assert made.count("is not in this page") == 2


def test_a_picture_alone_has_its_own_colours() -> None:
    made = standalone('<svg viewBox="0 0 400 200" role="img" class="chart"><path fill="var(--ink)"/></svg>')
    assert 'xmlns="http://www.w3.org/2000/svg"' in made and 'width="400"' in made and "--ink:#1c1b19" in made
    import xml.etree.ElementTree as tree

    tree.fromstring(made)


def test_a_day_knows_nothing_of_the_next(two: Path) -> None:
    found, problems = experiments(two / "runs")
    later = dict(found[0].events[-1], time=found[0].events[-1]["time"] + 2 * 86400, kind="note", text="later")
    with found[0].run.events_path.open("a") as file:
        import json

        file.write(json.dumps(later) + "\n")
    found, problems = experiments(two / "runs")
    then = found[0].until(TODAY)
    assert then is not None and then.later and "later" not in str(then.events)
    assert found[0].until(TODAY - datetime.timedelta(days=900)) is None and problems == []


def test_a_damaged_run_is_named_and_the_rest_is_written(two: Path) -> None:
    (two / "runs" / "broken").mkdir()
    (two / "runs" / "broken" / "run.json").write_text("{")
    log(runs="runs", to="log")
    assert "cannot be read: broken" in (two / "log" / f"{TODAY}.md").read_text()


def test_the_nearest_run(two: Path) -> None:
    found, _ = experiments(two / "runs")
    assert nearest(found[0], found) is None
    other, rows = nearest(found[1], found) or pytest.fail("there is one")
    assert other.run.id == "20260315_rvq_004_delay" and [row[0] for row in rows] == ["model.dropout"]


def test_commits_of_a_day(tmp_path: Path) -> None:
    def git(*arguments: str, **environment: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True,
                       env={**os.environ, **environment})  # fmt: skip

    git("init", "-q")
    for day, subject in (("2026-03-14", "before"), ("2026-03-15", "a | b"), ("2026-03-16", "after")):
        at = f"{day}T12:00:00"
        git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", subject,
            GIT_COMMITTER_DATE=at, GIT_AUTHOR_DATE=at)  # fmt: skip
    rows = commits(datetime.date(2026, 3, 15), tmp_path).rows
    assert [row[1:] for row in rows] == [("12:00", "a | b")]


def test_neither_a_day_nor_a_run(two: Path) -> None:
    for what in ("2026-13-01", "nothing", "2026-02-30"):
        with pytest.raises(PartimentoError) as caught:
            log(what, "runs", "log")
        assert caught.value.code == "LAB093"


def test_the_doctors_lines_and_what_it_could_not_do(tmp_path: Path) -> None:
    said, *found = diagnosed(finish_run(tmp_path / "runs").path)
    assert said.endswith(".") and all(re.search(r"\(\d+ %", line) for line in found)
    (line,) = diagnosed(tmp_path / "nothing")
    assert "could not be examined" in line and "DOC001" in line


def test_the_runs_of_an_ablation_are_one_section_with_its_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "diagnosed", lambda path: ["Nothing is wrong."])
    for seed in range(2):
        for name, lr in (("low", 0.1), ("high", 0.2)):
            make(tmp_path / "runs" / "rates", f"{name}_{seed}", seed=seed, adds=100 * lr, optim__lr=lr)
    asked = {"config": "c.toml", "changes": ["a.b=1"], "vary": ["optim.lr=0.1,0.2"], "seeds": 3, "hypothesis": "less"}
    planned = [{"run": f"{name}_{seed}"} for name in ("low", "high") for seed in range(3)]
    (tmp_path / "runs" / "rates" / "ablation.json").write_text(json.dumps({**asked, "runs": planned}))
    page = log(None, "runs", "log").pages[0].read_text()
    assert "1 ablation of 4 runs;" in page and page.count("\n### ") == 1
    assert "**Status:** 4 of 6 runs finished, 2 not begun" in page
    assert "--vary optim.lr=0.1,0.2" in page and "--hypothesis less" in page and "lowest: lr 0.1" in page
    assert (
        "| lr 0.1 | 2 |" in page
        and re.search(r"lr 0.. against lr 0..", page)
        and "- all 4 runs: Nothing is wrong." in page
    )
    drawn = [re.sub(r"\s+", " ", path.read_text()) for path in (tmp_path / "log" / "pictures").iterdir()]
    for text in drawn:
        ElementTree.fromstring(text)  # browsers show nothing of a picture that is not well-formed
    assert any("lr 0.1</text></svg>" in text or "lr 0.2</text></svg>" in text for text in drawn)  # the legend
    (tmp_path / "runs" / "rates" / "ablation.json").write_text("{")
    again = log(None, "runs", "log").pages[0].read_text()
    assert "not known: ablation.json cannot be read" in again
