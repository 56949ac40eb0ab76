"""The data page says what is wrong at its top, works offline, and trusts no text."""

from fractions import Fraction

import numpy as np
import pytest
from test_report import ATTACK, Page

from partimento.lab.datapage import datapage, length
from partimento.tokens.spec import CodecSpec
from partimento.tokens.stats import stats
from partimento.tokens.writer import PackWriter

SPEC = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (64, 64, 64))


def phrase(frames, seed):
    rng = np.random.default_rng(seed)
    palette, follows = rng.integers(0, 64, (24, 3)), rng.integers(0, 24, (24, 3))
    states = [int(rng.integers(24))]
    while len(states) < frames:
        states.append(int(follows[states[-1], rng.integers(3)]))
    return palette[states]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """The page of a pack with copies, noise, silence, odd licences and hostile names."""
    folder = tmp_path_factory.mktemp("data")
    writer = PackWriter(folder / "bad", SPEC)
    for seed in range(40):
        codes_TK = phrase(300, seed)
        if seed % 4 == 0:
            codes_TK = np.concatenate([np.full((30, 3), 7), codes_TK])
        writer.add(codes_TK, clip=f"{ATTACK}{seed}", source=f"s{seed}", tags=[ATTACK, "piano"], licence=ATTACK)
    for seed in range(20):
        writer.add(phrase(300, seed)[40:], clip=f"copy {seed}", licence="CC BY-NC 4.0")
    for seed in range(2):
        writer.add(np.random.default_rng(seed).integers(0, 64, (900, 3)), clip=f"noise {seed}")
    found = stats(writer.finish(), window=64)
    path = datapage(found, folder / "bad.html")
    return found, path.read_text(encoding="utf-8")


def test_what_is_wrong_stands_first(bad):
    found, text = bad
    said = Page(text).text
    grave = [one for one in found.findings if one.level == "bad"]
    assert {one.kind for one in grave} >= {"leak", "noise_clips_uniform"}
    assert f"{len(grave)} things wrong" in said and said.index("things wrong") < said.index("Findings")
    for one in found.findings:
        assert one.text[1:] in said and one.why[1:] in said, one.kind
        assert not one.next or one.next in said
    assert said.index(found.findings[0].text[1:]) < said.index(found.findings[-1].text[1:])


def test_every_part_is_there(bad):
    found, text = bad
    page = Page(text)
    for words in (
        "62 clips of 62 sources", "train / valid", "uniform noise", "Standing still", "Crop starts", "not understood",
        "Draws of each frame", "Entropy of each book", "Frequency of codes", "Length of the clips", "noise 0", "copy 3",
        "bigram, held out: to be beaten", found.fingerprint, "partimento pack verify", "7 7 7", "Lift",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.tags.count("svg") == 7  # loudness and peak were not measured, which is said
    assert page.text.count("Not measured") == 2


def test_it_reaches_for_nothing_outside_and_runs_nothing(bad):
    _, text = bad
    page = Page(text)
    assert "script" not in page.tags and "audio" not in page.tags and "img" not in page.tags
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src"):
            assert value.startswith("#"), (tag, name, value)
    assert "default-src 'none'" in text and "url(http" not in text and "@import" not in text


def test_text_is_escaped(bad):
    _, text = bad
    assert ATTACK not in text and "&lt;script&gt;" in text


def test_a_good_pack_is_called_good(tmp_path):
    writer = PackWriter(tmp_path / "good", SPEC)
    for seed in range(20):
        writer.add(phrase(300, seed), tags=["piano"], licence="CC0-1.0")
    found = stats(writer.finish(), window=64, epochs=9)
    said = Page(datapage(found, tmp_path / "good.html").read_text(encoding="utf-8")).text
    assert "nothing wrong found" in said and "None found among 20 clips" in said
    assert (
        "wrong" not in said.replace("nothing wrong found", "").replace("Wrong makes", "").lower().split("findings")[0]
    )


def test_a_page_without_anything_to_draw(tmp_path):
    """One clip: no held-out split, no window, no tags; each gap says what it is."""
    writer = PackWriter(tmp_path / "one", SPEC)
    writer.add(phrase(9, 1))
    found = stats(writer.finish(), window=4000)
    said = Page(datapage(found, tmp_path / "one.html").read_text(encoding="utf-8")).text
    for words in ("there is no held-out split"[1:], "4000 steps is longer than every clip", "No clip has a tag"):
        assert words in said


def test_lengths():
    assert [length(s) for s in (0.4, 90, 7200, 36_000_000)] == ["0.4 s", "1.5 min", "2.0 h", "10,000.0 h"]
