"""Dropping damaged shards leaves a valid pack, never less than there was before the commit."""

import json
import os

import numpy as np
import pytest
from packs import codes, write_pack

from partimento.cli.main import main
from partimento.errors import PartimentoError
from partimento.tokens import repair
from partimento.tokens.edits import edit
from partimento.tokens.pack import Pack
from partimento.tokens.verify import verify

LENGTHS = (40, 7, 25, 60, 33, 1, 50, 12, 80, 21)


@pytest.fixture
def folder(tmp_path):
    write_pack(tmp_path / "pack", LENGTHS)
    shard = tmp_path / "pack/shards/000001.bin"
    content = bytearray(shard.read_bytes())
    content[70] ^= 1
    shard.write_bytes(content)
    return tmp_path / "pack"


def test_drop_takes_the_clips_of_the_shard_out(folder):
    was = Pack.open(folder)
    assert {number: len(found) for number, found in repair.damaged(was).items()} == {1: 1}
    made = repair.drop(folder, [1])
    assert verify(folder).ok and not (folder / "shards/000001.bin").exists()
    kept = [0, 1, 2, 3, 8, 9]
    assert made.clips.clip == [f"{i:06d}" for i in kept] and made.fingerprint != was.fingerprint
    for number, i in enumerate(kept):
        np.testing.assert_array_equal(made.read(number), codes(LENGTHS[i], i))
        assert made.clips.split[number] == was.clips.split[i], "a clip never changes sides"
        assert made.clip_number(f"{i:06d}") == number
    assert made.ensure(np.arange(6)).all()
    assert made.totals["clips"] == 6 and made.totals["frames"] == sum(LENGTHS[i] for i in kept)
    assert made.totals["rejects"] == {"PACK043": 4}
    lines = [json.loads(line) for line in (folder / "rejects.000001.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["000004", "000005", "000006", "000007"]
    assert made.history[-1]["what"] == "drop" and made.history[-1]["was"] == was.fingerprint
    # It is a pack like any other: it can be edited and lose more.
    edit(folder, {"000009": {"tags": ["waltz"]}}, why="tags")
    last = repair.drop(folder, [0])
    assert last.clips.clip == ["000008", "000009"] and last.clips.tags[1] == ["waltz"] and verify(folder).ok
    assert last.totals["rejects"] == {"PACK043": 8} and len(last.history) == 3


@pytest.mark.parametrize("shards", [[7], [], [0, 1, 2], [-1]])
def test_what_cannot_be_dropped(folder, shards):
    before = sorted(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    with pytest.raises(PartimentoError, match="PACK044"):
        repair.drop(folder, shards)
    assert sorted(p.read_bytes() for p in folder.rglob("*") if p.is_file()) == before


class Killed(BaseException):
    pass


def test_killed_at_any_moment_it_is_the_old_pack_or_the_new(tmp_path, monkeypatch):
    turn, outcomes = 0, []
    while True:
        folder = tmp_path / str(turn)
        write_pack(folder, LENGTHS)
        count, done = 0, True
        with monkeypatch.context() as patch:

            def counted(real, last=turn):
                def call(*args, **kwargs):
                    nonlocal count
                    count += 1
                    if count > last:
                        raise Killed
                    return real(*args, **kwargs)

                return call

            for name in ("rename", "replace", "unlink", "fsync"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                repair.drop(folder, [1])
            except Killed:
                done = False
        pack = Pack.open(folder, verify="full")
        outcomes.append(len(pack.clips))
        if len(pack.clips) == 10:
            assert (folder / "shards/000001.bin").exists()
        if done:
            break
        turn += 1
    assert outcomes[0] == 10 and outcomes[-1] == 6 and outcomes == sorted(outcomes, reverse=True) and turn > 8


def run(capsys, *args):
    with pytest.raises(SystemExit) as ended:
        main(["pack", "repair", *map(str, args)])
    return int(ended.value.code or 0), capsys.readouterr()


def test_the_command(folder, capsys):
    before = (folder / "pack.json").read_bytes()
    for dry in ([], ["--dry-run"], ["--drop", "--dry-run"], ["--from", "nowhere", "--dry-run"]):
        status, told = run(capsys, folder, *dry)
        assert status == 0 and "PACK004" in told.out and "4 clips" in told.out
        assert ("--drop" in told.out) == ("--from" not in dry) and ("--from" in told.out) == ("--drop" not in dry)
    assert run(capsys, folder, "--drop", "--from", "x")[0] == run(capsys, folder, "--shards", "x")[0] == 2
    assert run(capsys, folder, "--shards", "9")[0] == 2
    assert (folder / "pack.json").read_bytes() == before
    found = json.loads(run(capsys, folder, "--drop", "--json")[1].out)
    assert (
        found["done"] == "dropped" and found["shards"] == [1] and Pack.open(folder).fingerprint == found["fingerprint"]
    )
    assert "no shard is damaged" in run(capsys, folder)[1].out and verify(folder).ok
    assert "dropped" in run(capsys, folder, "--drop", "--shards", "0")[1].out and len(Pack.open(folder).clips) == 2
