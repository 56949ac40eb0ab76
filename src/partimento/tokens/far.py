"""Packs on far stores: any URL that fsspec reads (s3://, gs://, https://, ...), through a local cache of shards.

Nothing is believed because it arrived: pack.json has its own checksum, and tables and shards get their name in the
cache only if size and sha256 are the recorded ones. Shards come when they are first read.

The cache lies in $PARTIMENTO_CACHE (default ~/.cache/partimento), is shared by all processes of a machine and keeps to
$PARTIMENTO_CACHE_GB gigabytes (default 100): the shards that were not opened for the longest time go first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from partimento import commit
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens import clips as table
from partimento.tokens.manifest import parse_commit, records_of, table_of
from partimento.tokens.pack import Pack
from partimento.tokens.shards import Shard
from partimento.tokens.store import MEND, Store, is_far, is_folder, local

__all__ = ["copy", "is_far", "open_pack"]

CACHE_GB = 100.0
MOST_COMMIT = 2**30  # bytes of pack.json that are worth reading


def open_pack(
    url: str | Path,
    verify: Literal["lazy", "quick", "full"] = "lazy",
    corrupt_budget: int = 0,
    *,
    cache: Path | None = None,
    **options: Any,
) -> Pack:
    """`Pack.open` for a URL: the tables now, shards when they are first read. `options` as of `Store`.

    `verify="quick"` and `"full"` bring every shard here. Raises FAR001 to FAR005 (the store and what it gives), FAR007
    (the cache cannot hold a shard), and what `Pack.open` raises of the pack's content.
    """
    store = Store(url, **options)
    shards = _Cache(store, cache or commit.cache_home())
    content = shards.tables()
    clips = table.read(shards.folder / table_of(content))
    pack = Pack(shards.folder, content, clips, shards.fetch, corrupt_budget, name=store.url)
    shards.pack = pack
    if verify != "lazy" and (damage := pack.damage(full=verify == "full")):
        raise damage[0]
    return pack


def read_commit(url: str | Path) -> dict[str, Any]:
    """What pack.json at a URL holds, checked; nothing goes into the cache. Raises FAR001 to FAR005, PACK002."""
    return _commit(Store(url))[0]


def damage(url: str | Path, *, full: bool = True, **options: Any) -> tuple[dict[str, Any], list[PartimentoError]]:
    """pack.json of the pack at a URL, and what is wrong in the store, one error each file: its size and, if `full`, its
    sha256. Nothing is kept, and what the cache has does not count. Raises FAR001 to FAR005 of pack.json, PACK002."""
    store = Store(url, **options)
    content = _commit(store)[0]
    shards = {shard["file"]: shard for shard in content["shards"]}
    found = []
    for name, facts in {**shards, **records_of(content), **content["files"]}.items():
        try:
            store.check(name, facts["bytes"], facts["sha256"] if full else None)
        except PartimentoError as err:
            if err.code == "FAR001":
                err.next = MEND
            found.append(err)
    return content, found


def copy(source: str | Path, to: str | Path, *, progress: Progress | None = None, **options: Any) -> int:
    """Copy a pack between folders and URLs, any way round; the bytes written. pack.json comes last: it commits.

    All is hashed on the way. Raises as `open_pack`, PACK001 and others of `Pack.open`, PACK004 (a shard is damaged),
    PACK010 (another pack is there), FAR006 (the store cannot be written), SYS002 (disk).
    """
    pack = open_pack(source, **options) if is_far(source) else Pack.open(source)
    target: Store | Path = local(to) if is_folder(to) else Store(to, **options)
    commit_bytes = (pack.path / "pack.json").read_bytes()
    if _differs(target, commit_bytes):
        raise PartimentoError(
            "PACK010", f"another pack is at {to}", where=str(to), next="choose another place, or delete that one first"
        )
    progress, written = progress or Quiet(), 0
    for done, (number, shard) in enumerate(pack.shards.items(), 1):
        pack.shard_codes(number)  # brings a far one here
        written += _put(pack, target, shard.file, shard.sha256)
        progress.update(done, len(pack.shards), megabytes=round(written / 1e6))
    for name, facts in {**records_of(pack.content), **pack.content["files"]}.items():
        written += _put(pack, target, name, facts["sha256"])
    return written + _put(pack, target, "pack.json", hashlib.sha256(commit_bytes).hexdigest())


def _put(pack: Pack, target: Store | Path, name: str, sha256: str) -> int:
    """One file to its place, hashed before it goes; 0 where it is there already (what a store holds is sent again)."""
    if isinstance(target, Path) and (target / name).is_file() and commit.sha256(target / name) == sha256:
        return 0
    folder, size = pack.path, (pack.path / name).stat().st_size
    if commit.sha256(folder / name) != sha256:
        raise pack.damaged(name, "its sha256 is another than the recorded one")
    if isinstance(target, Store):
        target.send(folder / name, name)
    else:
        commit.file(target / name, lambda tmp: _copy_file(folder / name, tmp))
    return size


def _copy_file(source: Path, to: Path) -> None:
    with source.open("rb") as reader, to.open("wb") as writer:
        while block := reader.read(2**22):
            writer.write(block)


def _differs(target: Store | Path, commit_bytes: bytes) -> bool:
    """Whether there is a pack at the target, and another one."""
    if isinstance(target, Path):
        return (target / "pack.json").is_file() and (target / "pack.json").read_bytes() != commit_bytes
    if not target.exists("pack.json"):
        return False
    size = target.size("pack.json")
    return size != len(commit_bytes) or target.read("pack.json", 0, size, size) != commit_bytes


def _commit(store: Store) -> tuple[dict[str, Any], bytes]:
    """pack.json, checked, and its bytes."""
    size = store.size("pack.json")
    if size > MOST_COMMIT:
        raise PartimentoError(
            "FAR004", f"pack.json claims {size} bytes", where=store.where("pack.json"), next="check the URL"
        )
    raw = store.read("pack.json", 0, size, size)
    return parse_commit(raw, store.where("pack.json")), raw


class _Cache:
    """The local folder of one far pack, filled on demand: a pack with holes in place of shards that were not read yet.

    The folder's name is a hash of URL and pack.json, so a pack that changed meets no shard of its old self.
    """

    def __init__(self, store: Store, home: Path) -> None:
        self._store = store
        self._home = home / "packs"
        self.pack: Pack | None = None
        self._most = float(os.environ.get("PARTIMENTO_CACHE_GB", CACHE_GB)) * 1e9

    def tables(self) -> dict[str, Any]:
        """Bring pack.json and the clip table; the content of pack.json, checked."""
        content, raw = _commit(self._store)
        self.folder = self._home / hashlib.sha256(self._store.url.encode() + b"\0" + raw).hexdigest()[:24]
        for name, facts in {**records_of(content), **content["files"]}.items():
            self.bring(name, facts)
        if not (self.folder / "pack.json").exists():
            commit.data(self.folder / "pack.json", raw)
        return content

    def bring(self, name: str, facts: dict[str, Any]) -> None:
        file = self.folder / name
        if not (file.is_file() and commit.sha256(file) == facts["sha256"]):
            self._store.bring(name, file, facts["bytes"], facts["sha256"])

    def fetch(self, shard: Shard) -> None:
        """Have this shard here. One process of the machine brings it, the others wait for that."""
        file = self.folder / shard.file
        with self._lock(shard):
            if not (file.is_file() and file.stat().st_size == shard.bytes):
                self._make_room(shard.bytes)
                self._store.bring(shard.file, file, shard.bytes, shard.sha256)
        os.utime(file)  # it was used now: `_make_room` goes by this

    @contextlib.contextmanager
    def _lock(self, shard: Shard) -> Iterator[None]:
        path = self.folder / (shard.file + ".lock")
        with commit.disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _make_room(self, wanted: int) -> None:
        """Remove the shards of any pack that were not opened for longest. Where one is still mapped its pages live on
        (in this process until the pack lets go of it), so a reader never sees a shard vanish."""
        if wanted > self._most:
            raise PartimentoError(
                "FAR007",
                f"a shard of {wanted / 1e9:.1f} GB is larger than the whole cache",
                where=str(self._home),
                why=f"PARTIMENTO_CACHE_GB allows {self._most / 1e9:g}",
                next="give the cache more room: PARTIMENTO_CACHE_GB=200",
            )
        held = []
        for file in self._home.glob("*/shards/*.bin"):
            with contextlib.suppress(FileNotFoundError):  # another process makes room too
                facts = file.stat()
                held.append((facts.st_mtime, facts.st_size, file))
        total = sum(size for _, size, _ in held)
        for _, size, file in sorted(held):
            if total + wanted <= self._most:
                break
            if self.pack is not None and file.parent.parent == self.folder:
                self.pack.release(int(file.stem))
            file.unlink(missing_ok=True)
            total -= size
