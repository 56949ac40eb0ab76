"""However an encode is divided, the pack is byte-identical, folder for folder."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_encode import CODEC, contents, music, raises

from partimento.codecs import journal, mend
from partimento.codecs.encode import encode, repair
from partimento.errors import PartimentoError
from partimento.tokens.pack import Pack
from partimento.tokens.verify import verify

HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Twenty-six recordings in four units, one of them no audio, and their undisturbed pack."""
    base = tmp_path_factory.mktemp("shards")
    music(base / "music", 26)
    (base / "music/bad.wav").write_bytes(b"RIFF but no more")
    (base / "music/tags.jsonl").write_text('{"file": "03.wav", "tags": ["x"]}\n')
    report = encode([base / "music"], base / "whole", codec=CODEC, jobs=1)
    assert (report.shards, report.clips, sum(report.rejects.values())) == (4, 26, 1)
    return base


def test_by_shards_in_any_order(base, tmp_path):
    for name, order in {"a": (1, 2, 3), "b": (3, 1, 2)}.items():
        reports = [encode([base / "music"], tmp_path / name, codec=CODEC, jobs=1, shard=(i, 3)) for i in order]
        assert [report.waiting for report in reports] == [4 - len([n for n in range(4) if n % 3 + 1 in order[:k]])
                                                          for k in (1, 2, 3)]  # fmt: skip
        assert [report.fingerprint is None for report in reports] == [True, True, False]
        assert contents(tmp_path / name) == contents(base / "whole")
    again = encode([base / "music"], tmp_path / "a", codec=CODEC, shard=(2, 3))
    assert again.made == 0 and again.fingerprint and contents(tmp_path / "a") == contents(base / "whole")


def test_more_parts_than_units_and_two_jobs(base, tmp_path):
    for i in range(6, 0, -1):
        report = encode([base / "music"], tmp_path / "pack", codec=CODEC, jobs=2, shard=(i, 6))
    assert report.waiting == 0 and contents(tmp_path / "pack") == contents(base / "whole")
    for wrong in ((0, 3), (4, 3), (1, 0)):
        with raises("PACK032"):
            encode([base / "music"], tmp_path / "x", codec=CODEC, shard=wrong)
    with raises("PACK032"):
        encode([base / "music"], tmp_path / "x", codec=CODEC, shard=(1, 2), claim=True)


def start(base, pack, codec=CODEC, **options):
    script = f"""
import sys
sys.path.insert(0, {HERE!r})
from partimento.codecs.encode import encode
if __name__ == "__main__":
    print(encode([{str(base / "music")!r}], {str(pack)!r}, codec={codec!r}, jobs=1, **{options!r}).waiting)
"""
    path = pack.parent / "other.py"
    path.write_text(script)
    return subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)


def test_two_that_claim_at_the_same_time(base, tmp_path):
    others = [start(base, tmp_path / "pack", claim=True) for _ in range(2)]
    waiting = [int(other.communicate()[0]) for other in others]
    assert 0 in waiting and all(other.returncode == 0 for other in others)
    assert contents(tmp_path / "pack") == contents(base / "whole")


def test_a_plain_encode_and_one_that_claims_do_not_meet(base, tmp_path):
    other = start(base, tmp_path / "pack", codec="toycodec:open_slow", claim=True)
    while not list((tmp_path / "pack").glob("journal/0*.json")):
        assert other.poll() is None
        time.sleep(0.01)
    with raises("PACK014"):
        encode([base / "music"], tmp_path / "pack", codec="toycodec:open_slow")
    other.communicate()


def test_killed_claims_need_no_lease(base, tmp_path):
    pack = tmp_path / "pack"
    other = start(base, pack, codec="toycodec:open_slow", claim=True)
    while not list(pack.glob("claims/0*")):
        assert other.poll() is None
        time.sleep(0.01)
    other.kill()
    other.wait()
    began = time.monotonic()
    assert encode([base / "music"], pack, codec="toycodec:open_slow", jobs=1, claim=True).waiting == 0
    assert time.monotonic() - began < 30
    assert sorted(path.name for path in pack.iterdir()) == [
        "clips.parquet", "journal", "pack.json", "rejects.jsonl", "shards",
    ]  # fmt: skip
    assert Pack.open(pack, verify="full")


def test_those_that_share_must_be_alike(base, tmp_path, monkeypatch):
    encode([base / "music"], tmp_path / "pack", codec=CODEC, jobs=1, shard=(1, 2))
    path = tmp_path / "pack/journal/000000.json"
    record = json.loads(path.read_text())
    record["versions"]["torch"] = "0.1"
    del record["checksum"]
    path.write_text(json.dumps({**record, "checksum": journal.checksum(record)}))
    with raises("PACK030") as err:
        encode([base / "music"], tmp_path / "pack", codec=CODEC, jobs=1, shard=(2, 2))
    assert "torch: 0.1 there" in err.value.why
    encode([base / "music"], tmp_path / "pack", codec=CODEC, jobs=1)  # a plain one makes it anew
    assert contents(tmp_path / "pack") == contents(base / "whole")


def test_damage_by_others_is_found_at_the_commit_and_mended_by_the_next_call(base, tmp_path):
    pack = tmp_path / "pack"
    encode([base / "music"], pack, codec=CODEC, jobs=1, shard=(1, 2))
    shard = bytearray((pack / "shards/000000.bin").read_bytes())
    shard[100] ^= 1
    (pack / "shards/000000.bin").write_bytes(shard)
    with pytest.raises(PartimentoError, match="PACK004"):
        encode([base / "music"], pack, codec=CODEC, jobs=1, shard=(2, 2))
    assert not (pack / "pack.json").exists()
    assert encode([base / "music"], pack, codec=CODEC, jobs=1, claim=True).made == 1
    assert contents(pack) == contents(base / "whole")


def edit(path):
    """Other samples, the same size, a later time."""
    content = bytearray(path.read_bytes())
    content[-2:] = b"\x11\x11"
    path.write_bytes(content)
    later = time.time() + 10
    os.utime(path, (later, later))


def test_edited_recordings_are_encoded_again_until_the_pack_is_finished(tmp_path):
    folder, pack = music(tmp_path / "music", 18), tmp_path / "pack"
    encode([folder], pack, codec=CODEC, jobs=1, shard=(1, 2))  # shards 0 and 2 of 3
    edit(folder / "01.wav")
    os.utime(folder / "17.wav", (time.time() + 10,) * 2)  # touched, not changed
    report = encode([folder], pack, codec=CODEC, jobs=1)
    assert (report.shards, report.made) == (3, 2)
    encode([folder], tmp_path / "fresh", codec=CODEC, jobs=1)
    assert contents(pack) == contents(tmp_path / "fresh")
    assert encode([folder], pack, codec=CODEC, jobs=1).made == 0
    time_after = time.time() + 100
    edit(folder / "05.wav")
    os.utime(folder / "05.wav", (time_after, time_after))
    with raises("PACK033") as err:
        encode([folder], pack, codec=CODEC, jobs=1)
    assert "05.wav" in err.value.message and contents(pack) == contents(tmp_path / "fresh")


def test_dry_run_counts_what_is_done(base, tmp_path):
    encode([base / "music"], tmp_path / "pack", codec=CODEC, jobs=1, shard=(1, 2))
    before = contents(tmp_path / "pack")
    report = encode([base / "music"], tmp_path / "pack", codec=CODEC, jobs=1, dry_run=True)
    whole = Pack.open(base / "whole").totals
    assert report.dry_run and report.waiting == 2 and contents(tmp_path / "pack") == before
    assert (report.clips, report.frames, sum(report.rejects.values())) == (26, whole["frames"], 1)
    assert report.bytes == pytest.approx(whole["bytes"], rel=0.05)


# Repair.


def test_damaged_shards_are_made_again_from_the_sources(base, tmp_path):
    pack = tmp_path / "pack"
    encode([base / "music"], pack, codec=CODEC, jobs=1)
    (pack / "shards/000001.bin").unlink()
    (pack / "shards/000003.bin").write_bytes(b"rubbish")
    assert not verify(pack).ok
    assert repair(pack, [base / "music"], jobs=1) == [1, 3]
    assert contents(pack) == contents(base / "whole") and verify(pack).ok
    assert repair(pack, [base / "music"]) == []
    assert repair(pack, [base / "music"], [2]) == [2] and contents(pack) == contents(base / "whole")


def test_repair_refuses_other_sources_and_other_codes(base, tmp_path, monkeypatch):
    pack, folder = tmp_path / "pack", music(tmp_path / "music", 9)
    encode([folder], pack, codec=CODEC, jobs=1)
    (pack / "shards/000000.bin").unlink()
    before = contents(pack)
    with raises("PACK034") as err:
        repair(pack, [folder], [7])
    edit(folder / "03.wav")
    with raises("PACK034") as err:
        repair(pack, [folder], jobs=1)
    assert "03.wav" in err.value.message
    (folder / "03.wav").unlink()
    with raises("PACK034") as err:
        repair(pack, [folder], jobs=1)
    assert "not among the sources" in err.value.message
    with raises("PACK009"):
        repair(pack, [folder], codec="toycodec:open_other", jobs=1)
    assert contents(pack) == before
    music(folder, 9)
    with raises("PACK035"):
        repair(pack, [folder], codec="toycodec:open_drifted", jobs=1)
    assert contents(pack) == before
    assert repair(pack, [folder], jobs=1) == [0] and mend.repair is repair


# Submitted.


def test_submitted_to_the_local_executor(base, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    from partimento.codecs import slurm

    monkeypatch.setenv("PYTHONPATH", HERE)
    report = slurm.submit([base / "music"], tmp_path / "pack", cluster="local", tasks=2, codec=CODEC, hours=0.1)
    assert report.fingerprint and contents(tmp_path / "pack") == contents(base / "whole")
    assert (tmp_path / "pack.submit").is_dir()
    assert slurm._records(tmp_path / "pack") == 4


def test_submitting_without_submitit_or_slurm(base, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    from partimento.codecs import slurm

    monkeypatch.setenv("PATH", "")
    with raises("PACK037"):
        slurm.submit([base / "music"], tmp_path / "pack", cluster="slurm", codec=CODEC)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with raises("PACK036") as err:
        slurm.submit([base / "music"], tmp_path / "pack", codec=CODEC)
    assert "pip install" in err.value.next
