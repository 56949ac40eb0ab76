"""Edits change the clip table and nothing else, whole or not at all, and are never lost."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from packs import SPEC, codes, write_pack

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import edits
from partimento.tokens.clips import ClipRow
from partimento.tokens.edits import edit
from partimento.tokens.far import copy
from partimento.tokens.pack import Pack
from partimento.tokens.publish import locked
from partimento.tokens.shards import Shard
from partimento.tokens.verify import verify
from partimento.tokens.writer import PackWriter, finish


@pytest.fixture
def folder(tmp_path):
    write_pack(tmp_path / "pack")
    return tmp_path / "pack"


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_edit_changes_what_it_says_and_leaves_a_record(folder):
    before, was = files(folder), Pack.open(folder)
    made = edit(folder, {"000003": {"caption": "a waltz", "licence": None}, "000004": {"origin": "x.org"}}, why="typos")
    assert made.fingerprint == was.fingerprint, "captions and origins are not what a model learns from"
    assert made.clips.caption[:5] == [None, None, None, "a waltz", None] and made.clips.origin[4] == "x.org"
    assert made.clips.tags == was.clips.tags and made.clips.split == was.clips.split
    tagged = edit(folder, {"000001": {"tags": ["waltz", "piano"]}}, why="wrong tags")
    assert tagged.fingerprint != was.fingerprint and tagged.clips.tags[1] == ["waltz", "piano"]
    assert tagged.clips.caption[3] == "a waltz"
    assert [entry["why"] for entry in tagged.history] == ["typos", "wrong tags"]
    assert tagged.history[1]["was"] == was.fingerprint and tagged.history[1]["fingerprint"] == tagged.fingerprint
    after = files(folder)
    assert {name for name in before if after.get(name) != before[name]} == {"pack.json", "clips.parquet"}
    assert set(after) - set(before) == {"clips.000002.parquet", "edits/000001.json", "edits/000002.json"}
    assert verify(folder).ok
    record = json.loads(after["edits/000002.json"])
    assert record["changes"] == {"000001": {"tags": ["waltz", "piano"]}}
    assert record["clips_sha256_was"] == made.content["files"]["clips.000001.parquet"]["sha256"]


def test_a_copy_has_the_records_of_the_edits_too(folder, tmp_path):
    edit(folder, {"000001": {"tags": ["waltz"]}}, why="waltz")
    copy(folder, tmp_path / "copy")
    assert files(tmp_path / "copy") == files(folder) and verify(tmp_path / "copy").ok


def test_nothing_to_change_is_no_edit(folder):
    before = files(folder)
    assert edit(folder, {"000001": {"tags": ["piano"], "caption": None}}, why="again").history == []
    assert edit(folder, {}, why="none").history == [] and files(folder) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"nobody": {"caption": "x"}},
        {"000001": {"frames": 3}},
        {"000001": {"split": "valid"}},
        {"000001": {"tags": "piano"}},
        {"000001": {"tags": [3]}},
        {"000001": {"tags": None}},
        {"000001": {"caption": 7}},
        {"000002": {"caption": "fine"}, "nobody": {"caption": "x"}},
    ],
    ids=str,
)
def test_a_wrong_edit_changes_nothing(folder, changes):
    before = files(folder)
    with pytest.raises(PartimentoError, match="PACK045"):
        edit(folder, changes, why="wrong")
    assert files(folder) == before


class Killed(BaseException):
    pass


def test_killed_at_any_moment_it_is_the_old_pack_or_the_new(tmp_path, monkeypatch):
    """Every file operation of an edit is in turn the last one that happens."""

    def attempt(folder, last):
        count = 0
        real = {name: getattr(os, name) for name in ("rename", "replace", "unlink", "fsync")}

        def counted(name):
            def call(*args, **kwargs):
                nonlocal count
                if count >= last:
                    raise Killed
                count += 1
                return real[name](*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, counted(name))
            try:
                edit(folder, {"000001": {"tags": ["waltz"]}}, why="waltz")
            except Killed:
                return False
        return True

    seen, last = [], 0
    while True:
        folder = tmp_path / str(last)
        write_pack(folder)
        old = Pack.open(folder)
        done = attempt(folder, last)
        pack = Pack.open(folder, verify="full")
        assert verify(folder).ok
        seen.append(pack.clips.tags[1])
        assert seen[-1] == (["waltz"] if pack.history else ["piano"])
        assert (pack.fingerprint == old.fingerprint) == (not pack.history)
        # Whatever was left behind is in nobody's way.
        again = edit(folder, {"000001": {"tags": ["tango"]}}, why="tango")
        assert again.clips.tags[1] == ["tango"] and verify(folder).ok
        if done:
            break
        last += 1
    assert last > 8 and seen[0] == ["piano"] and seen[-1] == ["waltz"]
    assert seen == sorted(seen), "once it is committed it stays"


def test_one_at_a_time(folder):
    with locked(folder), pytest.raises(PartimentoError, match="PACK047"):
        edit(folder, {"000001": {"caption": "x"}}, why="x")
    assert edit(folder, {"000001": {"caption": "x"}}, why="x").clips.caption[1] == "x"
    assert not (folder / "pack.lock").exists()


def test_readers_never_meet_a_pack_in_between(folder):
    """A thread opens the pack again and again while it is edited."""
    stop, wrong = threading.Event(), []

    def look():
        while not stop.is_set():
            try:
                pack = Pack.open(folder)
                assert pack.clips.caption[1] in {None, *map(str, range(30))} and pack.clips.tags[1] == ["piano"]
            except (PartimentoError, AssertionError) as err:
                wrong.append(err)

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(30):
        edit(folder, {"000001": {"caption": str(turn)}}, why="turn")
    stop.set()
    reader.join()
    assert wrong == []


def given(pack):
    """What an encode would give to `finish` again."""
    names = ("clip", "source", "shard", "first_frame", "frames", "samples", "sha256", "caption")
    rows = [ClipRow(**{name: getattr(pack.clips, name)[i] for name in names}) for i in range(len(pack.clips))]
    return rows, [Shard(**shard) for shard in pack.content["shards"]]


def test_edits_survive_when_the_pack_is_made_again(tmp_path):
    writer = PackWriter(tmp_path, SPEC, clips_per_shard=4)
    for i in range(9):
        writer.add(codes(20 + i, i), caption="as encoded")
    rows, shard_list = given(writer.finish())
    edit(tmp_path, {"000001": {"tags": ["waltz"], "caption": "one"}}, why="first")
    edit(tmp_path, {"000001": {"caption": "two"}, "000002": {"licence": None, "tags": ["x"]}}, why="second")
    before = files(tmp_path)
    finish(tmp_path, SPEC, rows, shard_list)
    assert files(tmp_path) == before, "making it again changes nothing at all"
    (tmp_path / "pack.json").unlink()  # lost: the records alone bring the edits back
    (tmp_path / "clips.000002.parquet").unlink()
    again = finish(tmp_path, SPEC, rows, shard_list)
    assert again.clips.caption[:3] == ["as encoded", "two", "as encoded"] and again.clips.tags[1:3] == [
        ["waltz"],
        ["x"],
    ]
    assert [entry["edit"] for entry in again.history] == ["000001", "000002"] and verify(tmp_path).ok
    assert json.loads(before["pack.json"])["fingerprint"] == again.fingerprint
    rows.pop()  # another pack now: the history says so
    other = finish(tmp_path, SPEC, rows[:8], shard_list[:2])
    assert [entry["what"] for entry in other.history] == ["edit", "edit", "encode"] and verify(tmp_path).ok
    assert other.history[-1]["was"] == again.fingerprint


def test_a_pack_that_cannot_be_read_for_a_moment_is_not_made_without_its_history(folder, monkeypatch):
    edit(folder, {"000001": {"tags": ["waltz"]}}, why="waltz")
    rows, shard_list = given(Pack.open(folder))
    before, real = files(folder), Path.open

    def fail(path, *args, **kwargs):
        if path.name == "pack.json":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(PartimentoError, match="SYS002"):
        patch.setattr(Path, "open", fail)
        finish(folder, SPEC, rows, shard_list)
    assert files(folder) == before


def test_a_lost_or_changed_record_is_seen(folder):
    edit(folder, {"000001": {"tags": ["waltz"]}}, why="waltz")
    rows, shard_list = given(Pack.open(folder))
    record = folder / "edits/000001.json"
    whole = record.read_bytes()
    tree = json.loads(whole)
    tree["changes"]["000001"]["tags"] = ["forged"]
    for content in (None, whole[:-30], b"[]", b"[" * 100_000, commit.record_bytes(tree)):
        if content is None:
            record.unlink()
        else:
            record.write_bytes(content)
        assert [one["code"] for one in verify(folder).damage] == ["PACK046"]
        assert Pack.open(folder).clips.tags[1] == ["waltz"], "the pack can still be read"
        with pytest.raises(PartimentoError, match="PACK046"):
            finish(folder, SPEC, rows, shard_list)
    record.write_bytes(whole)
    assert verify(folder).ok and edits.read_record(folder, "000001")["why"] == "waltz"


def test_what_a_killed_edit_left_is_swept_by_the_next(folder):
    import subprocess
    import sys

    with commit.scratch(folder / "clips.parquet") as tmp:
        name = tmp.name
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = [folder / name.replace(str(os.getpid()), gone.stdout.decode().strip()), folder / "edits" / "x.tmp"]
    left[1] = left[1].with_name(left[0].name)
    for place in left:
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"half")
    edit(folder, {"000003": {"caption": "a waltz"}}, why="typos")
    assert not any(place.exists() for place in left)


@pytest.mark.parametrize("change", [{"tags": ["\ud800"]}, {"caption": "half \udc00"}])
def test_half_a_character_is_no_label(folder, change):
    before = files(folder)
    with pytest.raises(PartimentoError, match="PACK045"):
        edit(folder, {"000003": change}, why="typos")
    with pytest.raises(PartimentoError, match="PACK045"):
        edit(folder, {"000003": {"caption": "a waltz"}}, why=os.fsdecode(b"caf\xe9"))
    assert files(folder) == before
