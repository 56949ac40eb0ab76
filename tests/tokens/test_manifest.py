"""pack.json may come from anywhere, with a right checksum too: what cannot be is refused before anything is opened."""

import contextlib
import copy
import json
import zlib

import numpy as np
import pytest
from packs import codes, resealed, write_pack

from partimento import commit
from partimento.errors import PartimentoError, explanations
from partimento.tokens import manifest
from partimento.tokens.pack import Pack
from partimento.tokens.shards import HEADER_BYTES
from partimento.tokens.verify import verify

LENGTHS = (40, 7, 25, 60, 33, 1, 50, 12, 80, 21)


def raises(code):
    assert code in explanations()
    return pytest.raises(PartimentoError, match=code)


def change(*path_and_value):
    *path, value = path_and_value

    def apply(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    "path",
    [
        ("shards", 0, "file", "../x.bin"),
        ("shards", 0, "file", "/etc/passwd"),
        ("shards", 0, "file", "shards/../../000000.bin"),
        ("shards", 0, "file", "shards/000001.bin"),
        ("shards", 0, "file", 3),
        ("shards", 0, "frames", -1),
        ("shards", 0, "frames", 2**60),
        ("shards", 0, "frames", 1.5),
        ("shards", 0, "frames", True),
        ("shards", 0, "bytes", 10),
        ("shards", 0, "clips", 10**9),
        ("shards", 0, "sha256", "ab"),
        ("shards", 0, {}),
        ("shards", 0, None),
        ("shards", {}),
        ("codec", "cardinalities", [2**16 + 1]),
        ("codec", "cardinalities", [1024] * 100_000),
        ("codec", "cardinalities", []),
        ("codec", "cardinalities", [16.0, 16, 12]),
        ("codec", "cardinalities", "abc"),
        ("codec", "frame_rate", [1, 0]),
        ("codec", "frame_rate", [0, 1]),
        ("codec", "frame_rate", [10**30, 1]),
        ("codec", "frame_rate", 50),
        ("codec", "sample_rate", -1),
        ("codec", "sample_rate", 10**12),
        ("codec", "codec", None),
        ("codec", None),
        ("files", {}),
        ("files", {"clips.parquet": {"bytes": 1, "sha256": "0" * 64}}),
        ("files", {"../clips.parquet": {"bytes": 1, "sha256": "0" * 64}, "rejects.jsonl": {}}),
        ("files", "clips.parquet", {"bytes": -1, "sha256": "0" * 64}),
        ("files", "more.bin", {"bytes": 1, "sha256": "0" * 64}),
        ("totals", "clips", 11),
        ("totals", "frames", -5),
        ("totals", "seconds", "long"),
        ("totals", "rejects", {"AUDIO001": -1}),
        ("splits", {"train": {}}),
        ("splits", "test", {}),
        ("clips", "x"),
        ("history", [{}]),
        ("history", [{"what": "edit", "edit": "../../1", "was": "0" * 64, "fingerprint": "0" * 64, "clips_sha256": 1}]),
        ("history", None),
        ("inputs", []),
    ],
    ids=str,
)
def test_a_pack_json_that_cannot_be_is_refused_also_with_a_right_checksum(tmp_path, path):
    write_pack(tmp_path)
    try:
        resealed(tmp_path, change(*path))
    except (TypeError, KeyError):  # it cannot even be given a fingerprint
        content = json.loads((tmp_path / "pack.json").read_text())
        change(*path)(content)
        content["checksum"] = manifest.checksum(content)
        commit.record(tmp_path / "pack.json", content)
    with raises("PACK040"):
        Pack.open(tmp_path)


def test_schema_1_is_told_what_to_do(tmp_path):
    write_pack(tmp_path)
    resealed(tmp_path, change("schema", 1))
    with raises("PACK002") as err:
        Pack.open(tmp_path)
    assert "older" in err.value.why and "encode" in err.value.next


def places(tree, path=()):
    """Every place in a JSON tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def test_any_other_value_anywhere_is_refused_or_harmless(tmp_path):
    """Each value of a valid pack.json is replaced in turn, and sealed again: a coded error, or its codes."""
    pack = write_pack(tmp_path, LENGTHS)
    values = [
        None,
        True,
        -1,
        0,
        2**63,
        10**400,
        1.5,
        1e300,
        "",
        "../../x",
        "x" * 70,
        [],
        [[]],
        {},
        {"a": {}},
        [None] * 9,
    ]
    rng = np.random.default_rng(0)
    refused = 0
    for path in list(places(pack.content)):
        for choice in rng.choice(len(values), 6, replace=False):
            content = copy.deepcopy(pack.content)
            place = content
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = values[choice]
            with contextlib.suppress(TypeError, KeyError, AttributeError):  # it cannot even be given one
                content["fingerprint"] = manifest.fingerprint(content)
            content["checksum"] = manifest.checksum(content)
            commit.record(tmp_path / "pack.json", content)
            try:
                found = Pack.open(tmp_path)
                for clip, frames in enumerate(LENGTHS):
                    assert found.read(clip).tolist() == codes(frames, clip).tolist()
                verify(tmp_path, full=False)
            except PartimentoError as err:
                assert err.code in explanations() and err.code.startswith("PACK")
                refused += 1
    assert refused > 300


def test_a_shard_header_that_lies_with_a_right_checksum_is_refused(tmp_path):
    """Any field of the header is changed, and its crc32 made right again."""
    write_pack(tmp_path, LENGTHS)
    path = tmp_path / "shards/000000.bin"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in range(0, 32):
        head = bytearray(whole[: HEADER_BYTES - 4])
        head[at] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(head) + zlib.crc32(head).to_bytes(4, "little") + whole[HEADER_BYTES:])
        with raises("PACK004"):
            Pack.open(tmp_path).read(0)


def test_the_journal_is_held_against_the_shards(tmp_path):
    pack = write_pack(tmp_path, LENGTHS)
    place = tmp_path / "journal/000000.json"
    record = {"shard": pack.content["shards"][0]}
    commit.record(place, {**record, "checksum": manifest.checksum(record)})
    assert verify(tmp_path).ok
    other = {"shard": {**record["shard"], "sha256": "0" * 64}}
    for content in ({**other, "checksum": manifest.checksum(other)}, {**record, "checksum": "x"}, [], {}):
        commit.record(place, content)
        assert [one["code"] for one in verify(tmp_path).damage] == ["PACK046"]
        assert verify(tmp_path, full=False).ok
