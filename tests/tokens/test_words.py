"""Words become ids as Dia's tokenizer makes them, and come back; what cannot be told is said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.errors import PartimentoError
from partimento.tokens.text import MARKS, ByteText, TagWords, Words

plain = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=60)


@settings(deadline=None)
@given(plain, st.lists(st.sampled_from(["[S1]", "[S2]"]), max_size=3))
def test_bytes_are_those_of_transformers(text: str, marks: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    line = " ".join([*marks, text])
    theirs = transformers.DiaTokenizer()(line)["input_ids"]
    languages = [mark for mark in MARKS if mark not in ("[S1]", "[S2]")]
    if any(mark in line for mark in languages) or "<pad>" in line:
        return  # Dia's own tokenizer spells languages
    assert ByteText(1024).ids(Words(text=line)) == theirs


def test_languages_are_one_id_each() -> None:
    assert ByteText(16).ids(Words(text="[de]Lied")) == [4, *b"Lied"]
    assert len(set(MARKS.values())) == len(MARKS) and max(MARKS.values()) < 32


def test_tags_are_ids_of_their_own_or_spelled() -> None:
    known = ByteText(16, ("fast", "slow"))
    assert known.vocabulary == 258
    assert known.ids(Words(("slow", "fast"), "ah")) == [257, 256, *b"ah"]
    assert known.ids(Words(("slow", "unheard of"))) == [257], "a tag of a clip that the model has no id for"
    assert ByteText(64).ids(Words(("slow", "fast"), "ah")) == list(b"slow, fast. ah")
    assert ByteText(64).ids(Words(("slow",))) == list(b"slow")
    text_BM, mask_BM = known.batch([Words(("fast",), "x" * 40), Words()])
    assert text_BM.shape == mask_BM.shape == (2, 16) and mask_BM.sum(1).tolist() == [16, 0]
    assert known.cut(Words(text="x" * 17)) and not known.cut(Words(text="x" * 16))


def test_parse_and_print() -> None:
    assert Words.parse(" techno,  A  minor, techno | a | b ") == Words(("techno", "A minor"), "a | b")
    assert Words.parse("| [S1] hm") == Words((), "[S1] hm")
    assert not Words.parse("") and not Words.parse(" , | ") and Words.parse("a")
    assert str(Words(("a", "b"), "c")) == "a, b | c" and Words.parse(str(Words(("a",), "c"))) == Words(("a",), "c")


@pytest.mark.parametrize("text", ["\x00", "a\x01b", "\x1b[31m", "caf\udce9"])
def test_what_is_no_plain_text_is_refused(text: str) -> None:
    with pytest.raises(PartimentoError) as refused:
        ByteText(64).require(Words(text=text))
    assert refused.value.code == "TEXT002"
    with pytest.raises(PartimentoError) as refused:
        ByteText(64).require(Words(tags=(f"tag{text}",)))
    assert refused.value.code == "TEXT002"


def test_a_prompt_is_never_cut_in_silence() -> None:
    coder = ByteText(8, ("fast",))
    assert coder.require(Words(("fast",), " 1234567 ")).text == "1234567"
    with pytest.raises(PartimentoError) as refused:
        coder.require(Words(("fast",), "12345678"))
    assert refused.value.code == "TEXT001" and "9 ids" in refused.value.message
    with pytest.raises(PartimentoError) as refused:
        ByteText(8).require(Words(text="é" * 5))
    assert refused.value.code == "TEXT001", "a letter of two bytes is two ids"
    with pytest.raises(PartimentoError) as refused:
        coder.require(Words(("fsat",)))
    assert refused.value.code == "TOKEN003" and "'fast'" in refused.value.message


def test_models_without_text_say_so() -> None:
    words = TagWords(("a", "b"))
    (tags_BG,) = words.batch([Words(("b",)), Words()])
    assert tags_BG.tolist() == [[0, 1], [0, 0]]
    with pytest.raises(PartimentoError) as refused:
        words.require(Words(text="slow"))
    assert refused.value.code == "TEXT003"


def test_control_characters_in_a_caption_are_not_read_as_speakers() -> None:
    """A clip's caption is as it is: byte 1 is the id of [S1], and must come from that mark only."""
    coder = ByteText(length=8)
    text_BM, mask_BM = coder.batch([Words(text="a\x01\x00b\n"), Words(text="[S1]a")])
    assert text_BM[0, :3].tolist() == [97, 98, 10] and int(mask_BM[0].sum()) == 3
    assert text_BM[1, :2].tolist() == [1, 97]
