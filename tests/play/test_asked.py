"""What is asked: the grid, prompts from files, names of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partimento.errors import PartimentoError
from partimento.play.asked import UNGUIDED, Asked, Guidance, Item, Rules
from partimento.play.make import asked
from partimento.play.names import name, slug
from partimento.play.prompts import read_prompts
from partimento.tokens.text import Words

TECHNO, WALTZ = Words(("techno",)), Words((), "a waltz")


def fails(code: str, **options: object) -> PartimentoError:
    with pytest.raises(PartimentoError) as caught:
        asked(**options)  # type: ignore[arg-type]
    assert caught.value.code == code and caught.value.next
    return caught.value


def test_the_grid_is_every_combination_once() -> None:
    wanted = Asked(words=(TECHNO, WALTZ), temperatures=(0.8, 1.0), scales=(1.0, 3.0), seed=5, count=3)
    items = wanted.items()
    assert len(items) == len(set(items)) == 2 * 2 * 2 * 3
    assert [item.seed for item in items[:4]] == [5, 6, 7, 5]
    assert {item.words for item in items[:12]} == {TECHNO}, "prompts change last"
    assert {(i.rules.temperature, i.guidance.scale) for i in items} == {(0.8, 1), (0.8, 3), (1, 1), (1, 3)}


def test_the_same_thing_twice_is_played_once() -> None:
    assert len(asked(tags=["techno"], temperature=[1, 1.0], guidance=[2, 2.0]).items()) == 1


def test_greedy_playing_has_one_seed() -> None:
    items = Asked(temperatures=(0.0, 1.0), seed=3, count=2).items()
    assert [(item.rules.temperature, item.seed) for item in items] == [(0, 3), (1, 3), (1, 4)]


def test_an_empty_prompt_beside_others_is_played_once_without_guidance() -> None:
    items = Asked(words=(TECHNO, Words()), scales=(1.0, 3.0), count=2).items("filter")
    assert [item.guidance for item in items if not item.words] == [UNGUIDED] * 2
    assert [item.guidance.scale for item in items if item.words] == [1, 1, 3, 3]
    (alone,) = Asked(scales=(3.0,)).items()
    assert alone.guidance.scale == 3, "alone it is refused later, by name"


def test_the_rule_of_guidance_is_the_models_unless_asked_for() -> None:
    (model,) = Asked(scales=(3.0,)).items("filter")
    (own,) = Asked(scales=(3.0,), guidance_rule="mix").items("filter")
    assert (model.guidance.rule, own.guidance.rule) == ("filter", "mix")
    (plain,) = Asked(scales=(1.0,), guidance=Guidance(fade="linear"), guidance_rule="mix").items("filter")
    assert plain.guidance == UNGUIDED, "where nothing is guided, how is no difference"


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("SAMPLE030", {"seconds": 0}),
        ("SAMPLE030", {"seconds": 1e9}),
        ("SAMPLE030", {"seconds": float("nan")}),
        ("SAMPLE030", {"count": 0}),
        ("SAMPLE030", {"count": 10**9}),
        ("SAMPLE030", {"temperature": []}),
        ("SAMPLE030", {"prompts": "x", "tags": ["techno"]}),
        ("SAMPLE001", {"temperature": -0.5}),
        ("SAMPLE001", {"temperature": [1.0, float("nan")]}),
        ("SAMPLE001", {"temperature": 1e-320}),
        ("SAMPLE001", {"top_p": 0.0}),
        ("SAMPLE001", {"top_k": -1}),
        ("SAMPLE001", {"min_p": 2.0}),
        ("SAMPLE010", {"guidance": [1.0, float("nan")]}),
        ("SAMPLE010", {"guidance": -1.0}),
        ("SAMPLE010", {"guidance_from": 0.7, "guidance_to": 0.3}),
        ("SAMPLE010", {"guidance_top_k": 1}),
    ],
)
def test_what_cannot_be_asked(code: str, options: dict[str, object]) -> None:
    fails(code, **options)


def test_an_item_comes_back_from_its_json() -> None:
    item = Item(
        Words(("techno", "A minor"), "dunkel, é"),
        Rules(temperature=0.7, top_k=20, top_p=0.9, min_p=0.05),
        Guidance(3.0, "filter", 30, "linear", 0.1, 0.9),
        -4,
    )
    assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item


def test_prompts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    lines = ["techno, A minor | a dark pulse", "", " |  a waltz ", "|", '{"tags": ["x", " x "], "text": "y"}', "techno"]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, lines[-1]]).encode())
    assert read_prompts(path) == (
        Words(("techno", "A minor"), "a dark pulse"),
        WALTZ,
        Words(),
        Words(("x",), "y"),
        TECHNO,
    )


@pytest.mark.parametrize(
    ("content", "where", "why"),
    [
        (b"techno\nd\xfcster\n", ":2", "not UTF-8"),
        (b"techno\n{bad\n", ":2", "none"),
        (b'{"tag": ["a"]}', ":1", "in JSON"),
        (b'{"tags": "a"}', ":1", "in JSON"),
        (b'{"tags": [1]}', ":1", "not a string"),
        (b"{" * 100_000, ":1", "none"),
        (b"\n \n", "", "no prompt"),
        (b"", "", "no prompt"),
    ],
)
def test_a_bad_file_of_prompts_names_the_line(tmp_path: Path, content: bytes, where: str, why: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    error = fails("SAMPLE031", prompts=path)
    assert error.where == f"{path}{where}" and why in str(error.why)


def test_a_file_of_prompts_that_cannot_be_read(tmp_path: Path) -> None:
    fails("SAMPLE031", prompts=tmp_path / "absent.txt")
    fails("SAMPLE031", prompts=tmp_path)


def item_of(words: Words, seed: int = 0) -> Item:
    return Item(words, Rules(temperature=0.8), Guidance(3), seed)


def test_a_name_says_what_is_in_the_file() -> None:
    assert name(item_of(Words(("techno", "C# minor")), 7), "ab" * 32) == "techno-C#-minor_t0.8_g3_s7_abababab"
    assert name(item_of(Words()), "ab" * 32) == "unconditional_t0.8_g3_s0_abababab"
    assert name(item_of(Words()), "ab" * 32, "my song").startswith("my-song-continued_t0.8")
    assert name(item_of(WALTZ), "ab" * 32, "...").startswith("continued_a-waltz_")


@given(st.text(max_size=300), st.text(max_size=50) | st.none())
def test_names_are_safe_on_any_file_system(text: str, continued: str | None) -> None:
    made = name(item_of(Words((), text)), "0" * 64, continued)
    assert len(made.encode("utf-8", "surrogatepass")) < 180 and made.isprintable()
    assert not set(made) & set('/\\:*?"<>|\0 \n') and made[0] not in ".-~"
    assert made.encode("utf-8").decode() == made


def test_slugs_keep_whole_characters() -> None:
    assert slug("ä" * 100, 5) == "ää" and slug("../../etc/passwd") == "etc-passwd" and slug("- #1. -") == "1"
