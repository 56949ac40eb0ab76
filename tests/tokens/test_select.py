"""Choosing clips, and labels out of a pack and back into it."""

import json

import numpy as np
import pytest
from packs import SPEC, codes

from partimento.errors import PartimentoError
from partimento.tokens import edits, relabel, select
from partimento.tokens.licence import Allowed
from partimento.tokens.pack import Pack
from partimento.tokens.select import Selection
from partimento.tokens.verify import verify
from partimento.tokens.writer import PackWriter

LICENCES = ["CC BY 4.0", "CC-BY-NC-4.0", None, "all rights reserved", "CC0", "CC BY-SA 3.0", "CC BY-ND 4.0"]
TAGS = [["vocals", "piano"], ["no vocals", "piano"], ["piano"], [], ["vocals", "drums"], ["voice"]]


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    writer = PackWriter(tmp_path_factory.mktemp("pack") / "p", SPEC, clips_per_shard=7)
    for i in range(40):
        labels = {"tags": TAGS[i % len(TAGS)], "licence": LICENCES[i % len(LICENCES)], "caption": f"number {i}"}
        writer.add(
            codes(3 + i % 5, i), clip=f"c{i:02d}", source=f"s{i // 2}", origin="here" if i % 3 else None, **labels
        )
    return writer.finish()


def test_tags_are_matched_whole(pack):
    found = Selection(without_tags=("vocals",)).clips(pack)
    assert [i % 6 for i in found[:6]] == [1, 2, 3, 5, 1, 2]  # "no vocals" and "voice" stay
    for with_tags in ((), ("piano",), ("vocals", "piano")):
        for without in ((), ("vocals",), ("no vocals", "drums")):
            wanted = [
                i for i, tags in enumerate(pack.clips.tags) if {*with_tags} <= {*tags} and not {*without} & {*tags}
            ]
            if wanted:
                assert Selection(with_tags, without).clips(pack).tolist() == wanted
    assert len(Selection().clips(pack)) == 40
    for selection in (Selection(with_tags=("vocal",)), Selection(without_tags=("Vocals",))):
        with pytest.raises(PartimentoError, match=r"TAGS003.*did you mean 'vocals'"):
            selection.clips(pack)
    with pytest.raises(PartimentoError, match="TAGS008") as err:
        Selection(with_tags=("drums",), without_tags=("vocals",)).clips(pack)
    assert "lacks a tag" in err.value.why and "that was to be left out" in err.value.why


def test_licences_that_are_missing_or_unclear_are_not_free(pack):
    for text, wanted in [
        ("attribution,share-alike", {"CC BY 4.0", "CC0", "CC BY-SA 3.0"}),
        ("none", {"CC0"}),
        (
            "attribution,share-alike,non-commercial,no-derivatives",
            {"CC BY 4.0", "CC-BY-NC-4.0", "CC0", "CC BY-SA 3.0", "CC BY-ND 4.0"},
        ),
    ]:
        choice = Selection(licence=Allowed.parse(text)).choose(pack)
        assert {pack.clips.licence[i] for i in choice.clips} == wanted
        assert choice.left_out["LICENCE003"] == 6 and choice.left_out["LICENCE001"] == 6
        assert sum(choice.left_out.values()) + len(choice.clips) == 40


def test_splits(pack):
    sides = pack.clips.split_codes
    allowed = Selection(("piano",), (), Allowed())
    both = [allowed.clips(pack, name) for name in ("train", "valid")]
    assert sorted(np.concatenate(both)) == allowed.clips(pack).tolist()
    assert (sides[both[0]] == 0).all() and (sides[both[1]] == 1).all()
    choice = Selection(splits=("valid",)).choose(pack)
    assert choice.clips.tolist() == np.flatnonzero(sides == 1).tolist() and set(choice.left_out) == {"TAGS006"}


def test_a_new_pack_of_some_clips(pack, tmp_path):
    selection = Selection(("piano",), ("vocals",), Allowed())
    made = select.write(pack, tmp_path / "new", selection)
    chosen = selection.clips(pack)
    assert 2 < len(chosen) < 20 and len(made.clips) == len(chosen)
    for number, clip in enumerate(chosen.tolist()):
        np.testing.assert_array_equal(made.read(number), pack.read(clip))
        for name in (
            "clip",
            "source",
            "split",
            "samples",
            "sha256",
            "tags",
            "caption",
            "licence",
            "origin",
            "attribution",
        ):
            assert getattr(made.clips, name)[number] == getattr(pack.clips, name)[clip], name
    assert verify(tmp_path / "new").ok
    assert made.content["inputs"]["parent"] == pack.fingerprint
    assert made.content["inputs"]["selection"]["without_tags"] == ["vocals"]
    rejects = [json.loads(line) for line in (tmp_path / "new" / "rejects.jsonl").read_text().splitlines()]
    assert {row["file"] for row in rejects} == set(pack.clips.clip) - set(made.clips.clip)
    assert {row["file"]: row["code"] for row in rejects}["c00"] == "TAGS004"
    assert made.content["totals"]["rejects"] == selection.choose(pack).left_out
    assert made.content["totals"]["sources"] == len({pack.clips.source[i] for i in chosen.tolist()})
    again = select.write(pack, tmp_path / "again", selection)
    assert again.fingerprint == made.fingerprint
    for file in (tmp_path / "new").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "new")).read_bytes()
    # All of it: the same codes in the same shards.
    whole = select.write(pack, tmp_path / "whole", Selection())
    assert whole.fingerprint == pack.fingerprint


def test_splits_stay_what_they_were_even_where_a_hash_would_say_otherwise(pack, tmp_path):
    made = select.write(pack, tmp_path / "new", Selection(splits=("valid",)))
    assert set(made.clips.split) == {"valid"} and made.content["splits"]["train"]["clips"] == 0


def test_nothing_is_written_over_or_left_half(pack, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(PartimentoError, match="TAGS009"):
        select.write(pack, tmp_path / "there", Selection())
    with pytest.raises(PartimentoError, match="TAGS008"):
        select.write(pack, tmp_path / "none", Selection(("drums", "piano")))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_damaged_codes_are_not_copied(pack, tmp_path):
    copy = select.write(pack, tmp_path / "copy", Selection())
    shard = tmp_path / "copy" / "shards" / "000001.bin"
    raw = bytearray(shard.read_bytes())
    raw[70] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(PartimentoError, match=r"PACK00[46]"):
        select.write(copy, tmp_path / "new", Selection())
    assert not (tmp_path / "new").exists()


# ---- labels out and in -----------------------------------------------------------------------------------------


@pytest.fixture
def own(pack, tmp_path):
    return select.write(pack, tmp_path / "own", Selection())


def test_labels_go_out_and_come_back_as_they_were(own, tmp_path):
    assert relabel.export(own, tmp_path / "labels.jsonl") == 40
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert rows[1] == {
        "clip": "c01",
        "tags": TAGS[1],
        "caption": "number 1",
        "licence": "CC-BY-NC-4.0",
        "origin": "here",
    }
    found = relabel.changes(own, tmp_path / "labels.jsonl")
    assert found.wanted == {} and found.rows == 40
    with pytest.raises(PartimentoError, match="TAGS009"):
        relabel.export(own, tmp_path / "labels.jsonl")


def test_only_what_is_given_and_differs_changes(own, tmp_path):
    rows = [
        {"clip": "c01", "caption": " as it is\n", "tags": TAGS[1]},
        {"file": "c02", "license": "CC0"},
        {"clip": "c03", "caption": None, "tags": "slow,  soft"},
        {"clip": "c04", "caption": "number 4"},
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = relabel.changes(own, tmp_path / "l.jsonl")
    assert found.wanted == {
        "c01": {"caption": " as it is\n"},
        "c02": {"licence": "CC0"},
        "c03": {"caption": None, "tags": ["slow", "soft"]},
    }
    assert found.before["c03"] == {"caption": "number 3", "tags": []}
    assert found.by_field == {"tags": 1, "caption": 2, "licence": 1} and found.rows == 4
    edited = edits.edit(own.path, found.wanted, why="test")
    assert edited.clips.caption[1] == " as it is\n" and edited.clips.caption[3] is None
    assert edited.clips.tags[3] == ["slow", "soft"] and edited.clips.attribution[2] is False
    assert relabel.changes(Pack.open(own.path), tmp_path / "l.jsonl").wanted == {}


def test_aliases_map_the_tags_of_all_clips(own, tmp_path):
    found = relabel.changes(own, None, {"voice": "vocals"})
    assert found.wanted == {f"c{i:02d}": {"tags": ["vocals"]} for i in range(5, 40, 6)}
    (tmp_path / "l.jsonl").write_text('{"clip": "c00", "tags": ["voice", "x"]}\n{"clip": "c01", "origin": "there"}\n')
    both = relabel.changes(own, tmp_path / "l.jsonl", {"voice": "vocals"})
    assert both.wanted["c00"] == {"tags": ["vocals", "x"]} and both.wanted["c01"] == {"origin": "there"}
    assert len(both.wanted) == len(found.wanted) + 2


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ('{"clip": "nope", "caption": "x"}', "TAGS007"),
        ('{"caption": "x"}', "TAGS007"),
        ('{"clip": 3}', "TAGS007"),
        ('{"clip": "c00", "tag": ["x"]}', "TAGS007"),
        ('{"clip": "c00", "source": "x"}', "TAGS007"),
        ('{"clip": "c00", "file": "c01"}', "TAGS007"),
        ('{"clip": "c00", "licence": "a", "license": "b"}', "TAGS007"),
        ('{"clip": "c00"}\n{"clip": "c00"}', "TAGS007"),
        ('{"clip": "c00", "tags": [3]}', "PACK013"),
        ('{"clip": "c00", "caption": 3}', "PACK013"),
        ('{"clip": "c00", "caption": "\\ud800"}', "PACK013"),
        ("[", "PACK013"),
    ],
)
def test_changes_that_cannot_be_used(own, tmp_path, row, code):
    (tmp_path / "l.jsonl").write_text(row)
    with pytest.raises(PartimentoError, match=code) as err:
        relabel.changes(own, tmp_path / "l.jsonl")
    assert "l.jsonl" in err.value.where
    with pytest.raises(PartimentoError, match="SYS004"):
        relabel.changes(own, tmp_path / "none.jsonl")
