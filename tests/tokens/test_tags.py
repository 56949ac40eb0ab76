from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partimento.errors import PartimentoError
from partimento.tokens import tags
from partimento.tokens.spellings import alike


def test_clean_and_multi_hot():
    assert tags.clean([" B  major", "", "drums", "B major", "b major"]) == ("B major", "drums", "b major")
    np.testing.assert_array_equal(tags.multi_hot(["b", "zz", "b"], ["a", "b"]), np.float32([0, 1]))


def test_unknown_tags_name_the_nearest():
    vocabulary = ["112 bpm", "drawbar organ", "drums", "nylon guitar"]
    assert tags.require(["drums ", "112 bpm"], vocabulary) == ("drums", "112 bpm")
    for wrong, right in (("drum", "drums"), ("guitar", "nylon guitar"), ("DRUMS", "drums")):
        with pytest.raises(PartimentoError, match="TOKEN003") as err:
            tags.require([wrong], vocabulary)
        assert repr(right) in err.value.message
    with pytest.raises(PartimentoError, match="TOKEN003"):
        tags.require(["drums"], [])


NAMES = st.lists(st.text(min_size=1, max_size=6), max_size=12, unique=True)
KEYS = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40))


@given(NAMES, KEYS, st.floats(0, 1), st.booleans(), st.one_of(st.none(), st.integers(0, 12)))
def test_augment_is_a_pure_function_that_only_takes_away(names, key, dropout, shuffle, limit):
    found = tags.augment(names, *key, dropout=dropout, shuffle=shuffle, limit=limit)
    assert found == tags.augment(tuple(names), *key, dropout=dropout, shuffle=shuffle, limit=limit)
    assert set(found) <= set(names) and len(set(found)) == len(found)
    if limit is not None:
        assert len(found) <= limit
    if not shuffle:
        assert list(found) == sorted(found, key=names.index)
    # What comes after does not change what came before: dropout, then the order, then the limit.
    dropped = tags.augment(names, *key, dropout=dropout)
    ordered = tags.augment(names, *key, dropout=dropout, shuffle=shuffle)
    assert sorted(dropped) == sorted(ordered) and ordered[:limit] == found


@given(NAMES, KEYS)
def test_the_shuffled_order_does_not_depend_on_the_order_given(names, key):
    assert tags.augment(names, *key, shuffle=True) == tags.augment(names[::-1], *key, shuffle=True)


@given(NAMES, KEYS, st.floats(0, 1), st.text(min_size=1, max_size=6))
def test_whether_a_tag_is_dropped_does_not_depend_on_its_neighbours(names, key, dropout, other):
    alone = {name for name in names if tags.augment([name], *key, dropout=dropout)}
    assert alone == set(tags.augment([*names, other], *key, dropout=dropout)) - ({other} - set(names))


def test_augment_edges_and_frequencies():
    names = ["a", "b", "c", "d"]
    assert tags.augment(names, 1) == tuple(names) == tags.augment(names, 1, dropout=0.0)
    assert tags.augment(names, 1, dropout=1.0) == () == tags.augment(names, 1, limit=0)
    for wrong in ({"dropout": 1.5}, {"dropout": -0.1}, {"limit": -1}):
        with pytest.raises(ValueError):
            tags.augment(names, 1, **wrong)
    n = 8000
    kept = Counter(name for i in range(n) for name in tags.augment(names, 7, i, dropout=0.3))
    assert all(abs(kept[name] / n - 0.7) < 4 * (0.21 / n) ** 0.5 for name in names)
    # The limit comes after the shuffle: every tag is the one that is left equally often. Before it, "a" always was.
    first = Counter(tags.augment(names, 7, i, shuffle=True, limit=1)[0] for i in range(n))
    assert all(abs(first[name] / n - 0.25) < 4 * (0.1875 / n) ** 0.5 for name in names)
    orders = Counter(tags.augment(names[:3], i, shuffle=True) for i in range(n))
    assert len(orders) == 6 and all(abs(count / n - 1 / 6) < 0.02 for count in orders.values())


def test_aliases(tmp_path):
    path = tmp_path / "aliases.toml"
    path.write_text('[aliases]\n"voice" = "vocals"\n" sung  voice" = "vocals"\n"b minor" = "B minor"\n')
    aliases = tags.read_aliases(path)
    assert aliases == {"voice": "vocals", "sung voice": "vocals", "b minor": "B minor"}
    assert tags.apply_aliases(["piano", "sung  voice", "vocals", "Voice", "no voice"], aliases) == (
        "piano",
        "vocals",
        "Voice",  # case is kept and matters
        "no voice",  # no part of a tag is replaced
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[aliases]\n"a" = "b"\n"b" = "c"\n', "chain"),
        ('[aliases]\n"b" = "c"\n"a" = "b"\n', "chain"),
        ('[aliases]\n"a" = "b"\n"b" = "a"\n', "cycle"),
        ('[aliases]\n"a" = "a"\n', "cycle"),
        ('[aliases]\n"a" = " a "\n', "cycle"),
        ('[aliases]\n"a" = "b"\n" a" = "c"\n', "two aliases"),
        ('[aliases]\n"a" = ""\n', "empty"),
        ('[aliases]\n" " = "a"\n', "empty"),
        ('[aliases]\n"a" = 3\n', "not a string"),
        ('"a" = "b"\n', "one table"),
        ('[aliases]\n"a" = "b"\n[other]\n', "one table"),
        ("[aliases", None),
        (b"[aliases]\n'a' = '\xff'\n", None),
        ("x = " + "[" * 5000, None),
    ],
)
def test_aliases_that_cannot_be_used(tmp_path, text, why):
    path = tmp_path / "aliases.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PartimentoError, match="TAGS001") as err:
        tags.read_aliases(path)
    assert err.value.where == str(path) and (why is None or why in err.value.why)
    with pytest.raises(PartimentoError, match="TAGS001"):
        tags.read_aliases(tmp_path / "none.toml")


def test_spellings_that_may_be_one():
    counts = {"vocals": 9, "voice": 4, "no vocals": 3, "Hip Hop": 1, "hip-hop": 5, "112 bpm": 3, "120 bpm": 2}
    counts |= {"electric guitar": 8, "electric guitars": 1, "C major": 2, "C minor": 2, "bass": 3, "brass": 2}
    found = {(pair.other, pair.tag): pair.why for pair in alike(counts)}
    assert found == {
        ("Hip Hop", "hip-hop"): "case or signs",
        ("electric guitars", "electric guitar"): "singular and plural",
        ("voice", "vocals"): "spelt alike",
    }
    assert alike({}) == [] and alike({"!": 1, "?": 2}) == []
