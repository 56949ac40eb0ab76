"""`pack stats` as it is called: text, JSON and the page."""

import json

import pytest
from click.testing import CliRunner
from songs import SPEC, song

from partimento.cli.packs.stats import command
from partimento.tokens.writer import PackWriter


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stats") / "pack"
    writer = PackWriter(folder, SPEC)
    for seed in range(30):
        writer.add(song(200, seed), clip=f"song {seed}", tags=["piano", "slow"] if seed % 2 else [])
    for seed in range(15):
        writer.add(song(200, seed)[50:], clip=f"copy {seed}")
    writer.finish()
    return folder


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_text_names_what_is_wrong_last(pack):
    said = run(pack, "--window", "64", "-q").output
    for words in ("45 from 45 sources", "bigram", "piano", "song 0", "copy 0", "near-duplicates", "lift"):
        assert words in said, words
    tail = said[said.rindex("tags together") :]
    assert "BAD   " in tail and "share passages with training clips" in tail and "next: " in tail


def test_json_and_page(pack, tmp_path):
    page = tmp_path / "new folder" / "page.html"
    done = run(pack, "--window", "64", "--json", "-q", "--html", page, "--sample", "40", "--seed", "3", "--epochs", "2")
    found = json.loads(done.output)
    assert found["sample"]["clips"] == 40 and found["draw"]["seed"] == 3 and found["draw"]["epochs"] == 2
    assert found["duplicates"]["pairs"] > 5 and len(found["usage"]) == 3
    assert [one["level"] for one in found["findings"]] == sorted(
        (one["level"] for one in found["findings"]), key=["bad", "warn", "note"].index
    )
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
