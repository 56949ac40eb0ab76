"""A pack gives back what was put in, and every kind of damage is a coded error that names the piece."""

import itertools
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packs import SPEC, codes, write_pack

from partimento import commit, keyed
from partimento.errors import PartimentoError, explanations
from partimento.tokens import pack as packs
from partimento.tokens import splits
from partimento.tokens.clips import SPLITS, ClipRow
from partimento.tokens.pack import Pack
from partimento.tokens.verify import verify
from partimento.tokens.writer import PackWriter

LENGTHS = (40, 7, 25, 60, 33, 1, 50, 12, 80, 21)


@pytest.fixture
def folder(tmp_path):
    write_pack(tmp_path / "pack", LENGTHS)
    return tmp_path / "pack"


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x01
    path.write_bytes(bytes(content))


def raises(code):
    assert code in explanations()
    return pytest.raises(PartimentoError, match=code)


def test_read_gives_what_was_written(folder):
    pack = Pack.open(folder, verify="full")
    assert pack.spec == SPEC and len(pack.clips) == len(LENGTHS) and len(pack.shards) == 3
    for i, frames in enumerate(LENGTHS):
        np.testing.assert_array_equal(pack.read(i), codes(frames, i))
        np.testing.assert_array_equal(pack.read(i, frames // 2, frames), codes(frames, i)[frames // 2 :])
    assert pack.read(0).dtype == np.uint16
    assert pack.read(0, 3, 3).shape == (0, 3)
    with pytest.raises(ValueError):
        pack.read(0, 0, 41)
    assert pack.clip_number("000003") == 3
    assert pack.totals["frames"] == sum(LENGTHS) and pack.totals["clips"] == len(LENGTHS)


def test_equal_input_is_equal_bytes_and_another_code_another_fingerprint(tmp_path):
    first, again = write_pack(tmp_path / "a"), write_pack(tmp_path / "b")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert [(tmp_path / "a" / f).read_bytes() for f in files] == [(tmp_path / "b" / f).read_bytes() for f in files]
    assert first.fingerprint == again.fingerprint
    assert write_pack(tmp_path / "c", (40, 8)).fingerprint != write_pack(tmp_path / "d", (40, 9)).fingerprint
    tagged = write_pack(tmp_path / "e", (40, 8), tags=[["x"], []])
    assert tagged.fingerprint != write_pack(tmp_path / "f", (40, 8), tags=[["y"], []]).fingerprint


def test_vocabulary_is_of_the_train_split_and_captions_and_infinities_survive(tmp_path):
    writer = PackWriter(tmp_path, SPEC)
    for i in range(12):
        writer.add(codes(9, i), tags=[f"tag {i}"], caption="ein Lied" if i else None)
    pack = writer.finish()
    valid = set(pack.split("valid"))
    assert valid and pack.tag_vocabulary == sorted(f"tag {i}" for i in range(12) if i not in valid)
    assert pack.clips.caption[:2] == [None, "ein Lied"]
    row = ClipRow("a", "a", 0, 0, 1, 1, loudness=float("-inf"), peak=-1.5, tags=("x",))
    assert ClipRow.from_json(json.loads(json.dumps(row.to_json(), allow_nan=False))) == row


def sides(rows):
    """[(source, split)] of rows (source, sha256)."""
    names, hashes = zip(*rows, strict=True)
    source = pa.chunked_array([pa.array(names)])
    found = splits.split(source, hashes)
    # As it is read from a table: in pieces, each with a dictionary of its own.
    pieces = pa.chunked_array([pa.array(names[at : at + 7]).dictionary_encode() for at in range(0, len(names), 7)])
    np.testing.assert_array_equal(found, splits.split(pieces, iter(hashes)))
    counts = splits.sources(source, found)
    assert counts["valid"] == len({one for (one, _), side in zip(rows, found, strict=True) if side})
    return [(one, SPLITS[side]) for (one, _), side in zip(rows, found, strict=True)]


def test_split_by_source_is_stable_and_never_empty():
    def rows(names):
        return [(name, f"{name}{i}") for name in names for i in range(3)]

    names = [f"song {i}" for i in range(400)]
    found = dict(sides(rows(names)))
    assert 20 < sum(side == "valid" for side in found.values()) < 60
    assert sides(rows(names)) == [(name, found[name]) for name in names for _ in range(3)]
    half = dict(sides(rows(names[::2])))
    assert all(found[name] == side for name, side in half.items())
    for count in range(2, 12):
        for shift in range(20):
            assert {side for _, side in sides(rows(names[shift : shift + count]))} == {"train", "valid"}
    assert {side for _, side in sides(rows(["one"]))} == {"train"}


def test_copies_of_a_file_fall_on_the_same_side():
    copies = sides([(f"source {i}", f"{i // 2}") for i in range(200)] + [("none a", None), ("none b", None)])
    assert [side for _, side in copies[:200:2]] == [side for _, side in copies[1:200:2]]
    assert {side for _, side in copies} == {"train", "valid"}
    # Chains: a-b share x, b-c share y, so a, b and c are one, and go where the first of their names goes.
    for names in itertools.permutations(["a", "b", "c"]):
        a, b, c = names
        others = [(f"other {i}", f"o{i}") for i in range(40)]
        chained = dict(sides([(a, "x"), (b, "x"), (b, "y"), (c, "y"), *others]))
        alone = dict(sides([("a", "x"), *others]))
        assert {chained[name] for name in "abc"} == {alone["a"]}


def test_the_split_is_what_it_was_when_it_was_written_row_by_row():
    """An oracle that was written before the columnar one."""
    rng = np.random.default_rng(3)
    for trial in range(30):
        rows = [(f"s{rng.integers(30)}", f"h{rng.integers(60 + 40 * trial)}") for _ in range(40)]
        parent = {source: source for source, _ in rows}

        def root(source, parent=parent):
            while parent[source] != source:
                source = parent[source]
            return source

        first_with = {}
        for source, sha in rows:
            a, b = root(source), root(first_with.setdefault(sha, source))
            parent[max(a, b)] = min(a, b)
        names = sorted({root(s) for s, _ in rows}, key=lambda name: (keyed.uniform("split", name), name))
        valid = {name for name in names if keyed.uniform("split", name) < 0.1}
        if len(names) > 1:
            valid = (valid or {names[0]}) - ({names[-1]} if len(valid) == len(names) else set())
        else:
            valid = set()
        assert sides(rows) == [(s, "valid" if root(s) in valid else "train") for s, _ in rows]


def test_not_a_pack(tmp_path):
    with raises("PACK001"):
        Pack.open(tmp_path)
    (tmp_path / "journal").mkdir()
    with raises("PACK001") as err:
        Pack.open(tmp_path)
    assert "not finished" in err.value.message


@pytest.mark.parametrize("how", ["checksum", "torn", "empty", "list", "edited"])
def test_changed_pack_json(folder, how):
    path = folder / "pack.json"
    content = json.loads(path.read_text())
    if how == "checksum":
        content["totals"]["frames"] += 1
        commit.record(path, content)
    elif how == "edited":  # someone recomputes the checksum, but the data stay the same
        content["shards"][0]["sha256"] = "0" * 64
        content["checksum"] = packs.checksum(content)
        commit.record(path, content)
    else:
        path.write_bytes({"torn": path.read_bytes()[:-40], "empty": b"", "list": b"[]"}[how])
    with raises("PACK002"):
        Pack.open(folder)


def test_truncated_or_missing_tables(folder):
    path = folder / "clips.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with raises("PACK003"):
        Pack.open(folder)
    path.unlink()
    with raises("PACK003"):
        Pack.open(folder)
    path.write_bytes(whole)
    (folder / "rejects.jsonl").write_text("{}")
    assert verify(folder, full=False).ok
    assert [d["code"] for d in verify(folder).damage] == ["PACK003"]


def test_every_byte_of_a_shard_counts(folder):
    """A flipped bit anywhere: lazy reading notices in header, codes and checksums, `verify` notices everywhere."""
    path = folder / "shards/000001.bin"
    size = path.stat().st_size
    for at in [*range(0, 64, 5), 63, 64, size // 2, size - 17, size - 16, size - 1]:
        flip(path, at)
        pack = Pack.open(folder)
        with raises("PACK004") as err:
            for clip in range(len(LENGTHS)):
                pack.read(clip)
        assert "000001.bin" in str(err.value) and err.value.next
        assert "PACK004" in {d["code"] for d in verify(folder).damage}
        flip(path, at)
    assert verify(folder).ok


def test_damage_names_the_clip_and_spares_the_others(folder):
    shard = folder / "shards/000000.bin"
    flip(shard, 64 + 2 * 3 * (40 + 7 + 3))  # frame 3 of clip 2
    pack = Pack.open(folder)
    for clip in (0, 1, 3, 4):
        pack.read(clip)
    with raises("PACK004") as err:
        pack.read(2, 20, 21)
    assert err.value.context["clip"] == "000002"
    with raises("PACK004"):
        Pack.open(folder, verify="full")
    Pack.open(folder, verify="quick")


def test_missing_truncated_and_foreign_shards(folder):
    victim = folder / "shards/000001.bin"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-7])
    with raises("PACK004"):
        Pack.open(folder, verify="quick")
    shutil.copy(folder / "shards/000000.bin", victim)
    with raises("PACK004"):
        Pack.open(folder, verify="quick")
    victim.unlink()
    with raises("PACK005"):
        Pack.open(folder).read(5)


def test_verify_lists_all_damage(folder):
    (folder / "shards/000002.bin").unlink()
    flip(folder / "shards/000000.bin", 70)
    flip(folder / "shards/000000.bin", 64 + 6 * 60)
    flip(folder / "shards/000001.bin", 3)
    found = verify(folder)
    assert not found.ok and sorted(d["code"] for d in found.damage) == ["PACK004"] * 3 + ["PACK005"]
    json.dumps(found.to_json())
    assert packs.inspect(folder)["totals"]["clips"] == len(LENGTHS)


def test_codes_out_of_range_are_refused_on_write_and_on_read(tmp_path):
    writer = PackWriter(tmp_path / "bad", SPEC)
    wrong = codes(5, 0)
    wrong[3, 2] = 12
    writer.add(wrong)
    with raises("PACK006") as err:
        writer.finish()
    assert "codebook 2" in err.value.message
    # A pack whose codec is said to have smaller books than the codes need.
    write_pack(tmp_path / "pack")
    path = tmp_path / "pack/pack.json"
    content = json.loads(path.read_text())
    content["codec"]["cardinalities"] = [16, 8, 12]
    content["fingerprint"] = packs.fingerprint(content)
    content["checksum"] = packs.checksum(content)
    commit.record(path, content)
    with raises("PACK006"):
        Pack.open(tmp_path / "pack").read(0)


def test_unknown_clip_and_empty_split(tmp_path):
    pack = write_pack(tmp_path, (5,))
    with raises("PACK019"):
        pack.clip_number("nobody")
    with raises("PACK008"):
        pack.split("valid")


def everything(folder):
    pack = Pack.open(folder)
    return [pack.read(clip).tolist() for clip in range(len(pack.clips))], pack.clips.tags, pack.clips.split, pack.spec


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_ever_reads_as_other_codes(folder, data):
    """Whatever happens to the bytes: a coded error, or exactly what was written."""
    whole = everything(folder)
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    content = path.read_bytes()
    at = data.draw(st.integers(0, max(0, len(content) - 1)))
    how = data.draw(st.sampled_from(["flip", "cut", "insert", "zero", "swap"]))
    changed = {
        "flip": lambda: content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :],
        "cut": lambda: content[:at],
        "insert": lambda: content[:at] + data.draw(st.binary(min_size=1, max_size=9)) + content[at:],
        "zero": lambda: content[:at] + bytes(len(content[at:])),
        "swap": lambda: content[at:] + content[:at],
    }
    try:
        path.write_bytes(changed[how]() if content else b"x")
        try:
            assert everything(folder) == whole
        except PartimentoError as err:
            assert err.code in explanations() and err.code.startswith("PACK")
        if path.read_bytes() != content:
            assert not verify(folder).ok
    finally:
        path.write_bytes(content)


def test_a_cut_that_leaves_valid_json_is_seen(tmp_path):
    pack = write_pack(tmp_path)
    place = pack.path / "pack.json"
    place.write_bytes(place.read_bytes()[:-1])
    assert not verify(pack.path).ok
