"""Packs on far stores: an S3-compatible server and fsspec's memory, read through the cache."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from packs import write_pack

from partimento.codecs import mend
from partimento.codecs.encode import encode
from partimento.codecs.exports import export_pack
from partimento.errors import PartimentoError
from partimento.tokens import edits, far, relabel, repair, select
from partimento.tokens.convert.build import build_pack
from partimento.tokens.manifest import inspect
from partimento.tokens.pack import Pack
from partimento.tokens.verify import verify

BUCKET = "packs"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARTIMENTO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server of our own (moto), empty, found through fsspec's environment as a user would set it."""
    import boto3
    import fsspec.config
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    before = dict(os.environ)
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_DEFAULT_REGION="us-east-1")
    fsspec.config.conf["s3"] = {"endpoint_url": endpoint}
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}"
    fsspec.config.conf.pop("s3")
    os.environ.clear()
    os.environ.update(before)
    server.stop()


def all_codes(pack: Pack) -> list[np.ndarray]:
    return [np.asarray(pack.read(clip)) for clip in range(len(pack.clips))]


def same(one: Pack, other: Pack) -> bool:
    return one.fingerprint == other.fingerprint and all(
        np.array_equal(a, b) for a, b in zip(all_codes(one), all_codes(other), strict=True)
    )


def test_a_pack_on_s3_is_the_pack(s3: str, tmp_path: Path, cache: Path) -> None:
    local = write_pack(tmp_path / "here")
    written = far.copy(tmp_path / "here", f"{s3}/mine")
    assert written > sum(shard.bytes for shard in local.shards.values())

    pack = Pack.open(f"{s3}/mine")
    assert list(cache.rglob("*.bin")) == []  # tables only, so far
    pack.read(0)
    assert len(list(cache.rglob("*.bin"))) == 1
    assert same(local, pack)
    assert len(list(cache.rglob("*.bin"))) == len(local.shards)
    assert Pack.open(Path(f"{s3}/mine"), verify="full").fingerprint == local.fingerprint  # Path eats a slash

    far.copy(f"{s3}/mine", tmp_path / "back")
    assert same(local, Pack.open(tmp_path / "back", verify="full"))
    assert far.copy(f"{s3}/mine", tmp_path / "back") == 0  # all is there already


def test_a_second_reader_needs_the_store_no_more_for_its_shards(s3: str, tmp_path: Path) -> None:
    import fsspec

    write_pack(tmp_path / "here")
    far.copy(tmp_path / "here", f"{s3}/second")
    first = all_codes(Pack.open(f"{s3}/second"))
    store = fsspec.filesystem("s3")
    for file in store.find(f"{BUCKET}/second/shards"):
        store.rm(file)
    again = all_codes(Pack.open(f"{s3}/second"))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_damage_in_the_store_is_named_and_never_enters_the_cache(tmp_path: Path, cache: Path) -> None:
    import fsspec

    local = write_pack(tmp_path / "here")
    far.copy(tmp_path / "here", "memory://damaged")
    store = fsspec.filesystem("memory")
    name = next(iter(local.shards.values())).file
    content = bytearray(store.cat(f"/damaged/{name}"))
    content[100] ^= 1
    store.pipe(f"/damaged/{name}", bytes(content))
    pack = far.open_pack("memory://damaged", pause=0.01)
    with pytest.raises(PartimentoError) as caught:
        pack.read(0)
    assert caught.value.code == "FAR004"
    assert "memory://damaged" in (caught.value.where or "")
    assert not list(cache.rglob("000000.bin"))
    store.rm(f"/damaged/{name}")
    with pytest.raises(PartimentoError) as caught:
        far.open_pack("memory://damaged", pause=0.01).read(0)
    assert caught.value.code == "FAR001"


def test_a_url_without_a_pack() -> None:
    with pytest.raises(PartimentoError) as caught:
        Pack.open("memory://nothing/here")
    assert caught.value.code == "FAR001"


def test_another_pack_is_not_written_over(tmp_path: Path) -> None:
    write_pack(tmp_path / "one")
    write_pack(tmp_path / "two", lengths=(30, 40, 50))
    far.copy(tmp_path / "one", "memory://taken")
    with pytest.raises(PartimentoError) as caught:
        far.copy(tmp_path / "two", "memory://taken")
    assert caught.value.code == "PACK010"


def test_a_copy_that_broke_off_is_no_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from partimento.tokens.store import Store

    local = write_pack(tmp_path / "here")
    send, sent = Store.send, []

    def breaks_off(self: Store, file: Path, name: str) -> None:
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(name)
        send(self, file, name)

    monkeypatch.setattr(Store, "send", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        far.copy(tmp_path / "here", "memory://half")
    with pytest.raises(PartimentoError) as caught:
        Pack.open("memory://half")
    assert caught.value.code == "FAR001"
    monkeypatch.setattr(Store, "send", send)
    far.copy(tmp_path / "here", "memory://half")
    assert same(local, Pack.open("memory://half"))


def test_a_small_cache_lets_the_oldest_shards_go(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = write_pack(tmp_path / "here", lengths=[200] * 12, clips_per_shard=2)
    far.copy(tmp_path / "here", "memory://small")
    largest = max(shard.bytes for shard in local.shards.values())
    monkeypatch.setenv("PARTIMENTO_CACHE_GB", str(2.5 * largest / 1e9))
    pack = far.open_pack("memory://small")
    for _ in range(2):
        for clip in (0, 11, 5, 2, 8, 11, 0):
            assert np.array_equal(pack.read(clip), local.read(clip))
            assert sum(file.stat().st_size for file in cache.rglob("*.bin")) <= 2.5 * largest
    monkeypatch.setenv("PARTIMENTO_CACHE_GB", str(0.5 * largest / 1e9))
    with pytest.raises(PartimentoError) as caught:
        far.open_pack("memory://small", cache=tmp_path / "tiny").read(0)
    assert caught.value.code == "FAR007"


def _read_all(url: str, endpoint: str, start: object, done: object) -> None:
    import fsspec.config

    fsspec.config.conf["s3"] = {"endpoint_url": endpoint}
    start.wait()  # type: ignore[attr-defined]
    all_codes(Pack.open(url))
    done.put(True)  # type: ignore[attr-defined]


def test_processes_share_a_cache(s3: str, tmp_path: Path) -> None:
    import fsspec.config

    write_pack(tmp_path / "here", lengths=[50] * 8, clips_per_shard=1)
    far.copy(tmp_path / "here", f"{s3}/shared")
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(2), context.Queue()
    endpoint = fsspec.config.conf["s3"]["endpoint_url"]
    readers = [context.Process(target=_read_all, args=(f"{s3}/shared", endpoint, start, done)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0, 0]


def test_verify_looks_at_the_store_and_not_at_the_cache(tmp_path: Path) -> None:
    import fsspec

    local = write_pack(tmp_path / "here")
    far.copy(tmp_path / "here", "memory://checked")
    all_codes(Pack.open("memory://checked"))
    assert verify("memory://checked").ok
    store, shard = fsspec.filesystem("memory"), next(iter(local.shards.values()))
    content = bytearray(store.cat(f"/checked/{shard.file}"))
    content[100] ^= 1
    store.pipe(f"/checked/{shard.file}", bytes(content))
    assert verify("memory://checked", full=False).ok
    assert [one["code"] for one in verify("memory://checked").damage] == ["FAR004"]
    store.rm(f"/checked/{shard.file}")
    assert [one["code"] for one in verify("memory://checked", full=False).damage] == ["FAR001"]


def test_a_url_names_itself_and_not_its_cache(tmp_path: Path, cache: Path) -> None:
    from partimento.tokens.stats import stats

    local = write_pack(tmp_path / "here")
    far.copy(tmp_path / "here", "memory://named")
    pack = Pack.open("memory://named")
    assert stats(pack).path == pack.name == "memory://named"
    assert inspect("memory://named") == {**inspect(tmp_path / "here"), "path": "memory://named"}
    pack.read(0)
    shard = cache / "packs" / pack.path.name / local.shards[0].file
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(PartimentoError) as caught:
        Pack.open("memory://named").read(0)
    assert caught.value.code == "PACK004" and f"rm {shard}" in (caught.value.next or "")
    shard.unlink()
    assert same(local, Pack.open("memory://named"))


def test_a_damaged_pack_is_not_copied(tmp_path: Path) -> None:
    local = write_pack(tmp_path / "here")
    shard = tmp_path / "here" / local.shards[0].file
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(PartimentoError) as caught:
        far.copy(tmp_path / "here", tmp_path / "there")
    assert caught.value.code == "PACK004" and "pack repair" in (caught.value.next or "")
    assert not (tmp_path / "there/pack.json").exists()


def test_a_file_url_is_a_folder_for_all_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    local = write_pack(tmp_path / "here")
    far.copy(tmp_path / "here", f"file://{tmp_path}/new/there")
    assert same(local, Pack.open(f"file://{tmp_path}/new/there"))
    name = local.clips.clip[0]
    edited = edits.edit(f"file://{tmp_path}/new/there", {name: {"caption": "slow"}}, why="heard")
    assert edited.clips.caption[0] == "slow" == Pack.open(tmp_path / "new/there", verify="full").clips.caption[0]
    assert not (tmp_path / "file:").exists()


def test_nothing_is_made_or_changed_at_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    local = write_pack(tmp_path / "here")
    url = Path("s3://packs/mine")  # as the command line gives it
    for make in (
        lambda: edits.edit(url, {}, why="heard"),
        lambda: repair.drop(url, [0]),
        lambda: relabel.export(local, url),
        lambda: select.write(local, url, select.Selection()),
        lambda: build_pack(tmp_path, url),
        lambda: export_pack(tmp_path / "here", url, "npq1"),
        lambda: mend.repair(url, [tmp_path]),
        lambda: encode([tmp_path], url),
    ):
        with pytest.raises(PartimentoError) as caught:
            make()
        assert caught.value.code == "FAR008"
    assert [item.name for item in tmp_path.iterdir()] == ["here"]
