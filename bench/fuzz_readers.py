"""The readers that bench/fuzz.py attacks: how each opens, what valid files look like, what a valid read must hold."""

from __future__ import annotations

import copy
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from partimento import commit
from partimento.codecs import labels
from partimento.errors import PartimentoError
from partimento.tokens import manifest, npq, npqtext
from partimento.tokens.convert import array, inside_parquet, inside_torch
from partimento.tokens.npq import NpqFile
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter

SPEC = CodecSpec("fuzz", "0" * 64, 44100, Fraction(44100, 512), (1024, 1024, 16))
Rng = np.random.Generator


class WrongDataError(Exception):
    """A read that succeeded and should not have, or gave something else than was written."""


@dataclass
class Target:
    """`read(content)` puts the bytes where the reader looks and reads all; `twist(rng)` makes a malformed input that
    keeps the outer form (checksums, containers), so that the inner checks are met."""

    seeds: list[bytes]
    read: Callable[[bytes], None]
    twist: Callable[[Rng], bytes] | None = None


@dataclass(frozen=True)
class Reader:
    name: str
    open: Callable[[Path], Target]


def make_pack(folder: Path) -> tuple[Pack, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, SPEC, clips_per_shard=3)
    codes = [np.stack([rng.integers(0, v, n) for v in SPEC.cardinalities], 1) for n in (40, 7, 90, 33, 1)]
    for number, codes_TK in enumerate(codes):
        labelled = {"tags": ["techno", "é"], "caption": "a, b", "licence": "CC0-1.0"} if number % 2 else {}
        writer.add(codes_TK, clip=f"clip {number}", source=f"song {number // 2}", **labelled)  # type: ignore[arg-type]
    return writer.finish(), codes


def read_pack(folder: Path) -> list[np.ndarray]:
    """All that a user of a pack looks at."""
    pack = Pack.open(folder)
    clips = pack.clips
    for name in ("clip", "source", "tags", "caption", "licence", "origin", "sha256", "split"):
        list(getattr(clips, name))
    found = [np.array(pack.read(number)) for number in range(len(clips))]
    for codes_TK, frames in zip(found, clips.frames, strict=True):
        if codes_TK.shape != (frames, pack.spec.codebooks) or (codes_TK >= pack.spec.cardinalities).any():
            raise WrongDataError(f"codes {codes_TK.shape} that the table and the codec do not allow")
    return found


def shard(folder: Path) -> Target:
    """A shard file whose bytes changed under an unchanged pack: either the very codes or an error."""
    pack, codes = make_pack(folder)
    file = folder / next(iter(pack.shards.values())).file

    def read(content: bytes) -> None:
        file.write_bytes(content)
        for found, written in zip(read_pack(folder), codes, strict=True):
            if not np.array_equal(found, written):
                raise WrongDataError("codes that were never written")

    return Target([file.read_bytes()], read)


def sealed(content: dict[str, Any]) -> bytes:
    """A pack.json with fingerprint and checksum of its own content."""
    try:
        content["fingerprint"] = manifest.fingerprint(content)
        content["checksum"] = manifest.checksum(content)
        return commit.record_bytes(content)
    except (KeyError, TypeError, ValueError, AttributeError):
        return json.dumps(content).encode()  # too broken for a seal


def odd_value(rng: Rng, old: Any) -> Any:
    choices: list[Any] = [
        None, -1, 0, 1, 2**31, 2**63, 2**70, 1e308, True, "", "x" * 300, "../../etc/passwd", "/abs", "\x00", [], {},
        [[]] * 50, old, [old] * 3, str(old), float("1e-300"), -(2**40),
    ]  # fmt: skip
    return choices[int(rng.integers(0, len(choices)))]


def twist_tree(tree: Any, rng: Rng) -> Any:
    """A copy of a JSON tree with one to three of its nodes replaced, removed or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        node, parents = tree, list[tuple[Any, Any]]()
        while isinstance(node, dict | list) and len(node) and (not parents or rng.random() < 0.75):
            key: Any = (
                int(rng.integers(0, len(node))) if isinstance(node, list) else list(node)[rng.integers(len(node))]
            )
            parents.append((node, key))
            node = node[key]
        if not parents:
            return odd_value(rng, tree)
        parent, key = parents[-1]
        action = rng.random()
        if action < 0.7:
            parent[key] = odd_value(rng, node)
        elif action < 0.85:
            del parent[key]
        elif isinstance(parent, list):
            parent.append(node)
        else:
            parent[str(key) + "x"] = node
    return tree


def pack_json(folder: Path) -> Target:
    make_pack(folder)
    file = folder / "pack.json"
    whole = file.read_bytes()
    tree = json.loads(whole)

    def read(content: bytes) -> None:
        file.write_bytes(content)
        read_pack(folder)

    def twist(rng: Rng) -> bytes:
        twisted = twist_tree(tree, rng)
        return sealed(twisted) if isinstance(twisted, dict) else json.dumps(twisted).encode()

    return Target([whole], read, twist)


def clip_table(folder: Path) -> Target:
    """clips.parquet under a pack.json that was sealed for it: only what the reader itself checks stands between."""
    make_pack(folder)
    tree = json.loads((folder / "pack.json").read_bytes())
    name = manifest.table_of(tree)
    whole = (folder / name).read_bytes()
    table = pq.read_table(io.BytesIO(whole))

    def read(content: bytes) -> None:
        (folder / name).write_bytes(content)
        content_tree = copy.deepcopy(tree)
        content_tree["files"][name] = {"bytes": len(content), "sha256": commit.sha256(folder / name)}
        (folder / "pack.json").write_bytes(sealed(content_tree))
        read_pack(folder)

    def twist(rng: Rng) -> bytes:
        rows = table.to_pylist()
        for _ in range(int(rng.integers(1, 4))):
            row = rows[int(rng.integers(0, len(rows)))]
            key = list(row)[int(rng.integers(0, len(row)))]
            row[key] = odd_value(rng, row[key])
        sink = io.BytesIO()
        try:
            made = pa.Table.from_pylist(rows, schema=table.schema if rng.random() < 0.8 else None)
            pq.write_table(made, sink)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return whole[: int(rng.integers(0, len(whole)))]
        return sink.getvalue()

    return Target([whole], read, twist)


def npq_file(_: Path) -> Target:
    rng = np.random.default_rng(1)

    def file(version: str, k_mid: int, k_side: int, vocab: int, frames: int) -> NpqFile:
        codes_TK = rng.integers(0, vocab, (frames, k_mid + k_side)).astype(
            np.uint8 if vocab <= 256 else np.uint16 if vocab <= 65536 else np.uint32
        )
        mode: Any = "mid-side" if k_side else "mono"
        return NpqFile(codes_TK, (vocab,) * (k_mid + k_side), 86.1, 320.0, k_mid, k_side, mode, version)  # type: ignore[arg-type]

    seeds = [
        npq.serialise(file("npq1", 9, 0, 1024, 30), version="npq1", where="seed"),
        npq.serialise(file("npq1", 2, 0, 200, 5), version="npq1", where="seed"),
        npq.serialise(file("npq1", 1, 0, 70000, 9), version="npq1", where="seed"),
        npq.serialise(file("npq2", 9, 4, 1024, 20), version="npq2", where="seed"),
    ]

    def read(content: bytes) -> None:
        _check_npq(npq.parse(content, where="input"))

    return Target(seeds, read)


def _check_npq(file: NpqFile) -> None:
    if file.codes_TK.shape[1] != len(file.vocab) or file.k_mid + file.k_side != len(file.vocab):
        raise WrongDataError(f"codes {file.codes_TK.shape} of {len(file.vocab)} books")
    if len(file.codes_TK) and (file.codes_TK.max(0) >= np.asarray(file.vocab)).any():
        raise WrongDataError("a code above its book")
    if not np.isfinite(file.fps) or file.fps <= 0:
        raise WrongDataError(f"frame rate {file.fps}")


def npq_text(folder: Path) -> Target:
    seeds = [
        npqtext.serialise(npq.parse(seed, where="seed"), src_file="a.npq", where="seed")
        for seed in npq_file(folder).seeds
        if seed[:4] == b"NPQ1"
    ]

    def read(content: bytes) -> None:
        _check_npq(npqtext.parse(content, where="input"))

    return Target(seeds, read)


def inside(name: str, records: Any, seeds: list[bytes], folder: Path, twist: Any = None) -> Target:
    """What `pack import` runs in its child process, here without that second wall: what it refuses is a reject."""

    def read(content: bytes) -> None:
        (folder / name).write_bytes(content)
        for said, codes_TK in records(folder / name):
            if said.get("refused"):
                raise PartimentoError("CONVERT003", str(said["refused"]))
            if codes_TK is not None and (codes_TK.ndim != 2 or codes_TK.dtype != np.uint16):
                raise WrongDataError(f"codes {codes_TK.shape} {codes_TK.dtype}")

    return Target(seeds, read, twist)


def rows(folder: Path) -> Target:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 1024, (3, 40, 9)).astype(np.int16)
    tensors = [{"id": str(n), "filename": f"{n}.wav", "tags": "a, b", "tensor": codes[n].tolist()} for n in range(3)]
    caps = [
        {"ytid": "x", "caption": "a sound", "aspect_list": "['a']", "start_s": 0, "end_s": 10,
         "audio_codes": rng.integers(0, 2048, (4, 50)).tolist()}
    ]  # fmt: skip
    made = []
    for table in (tensors, caps):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(table), sink)
        made.append(sink.getvalue())

    def twist(rng: Rng) -> bytes:
        table = copy.deepcopy(tensors if rng.random() < 0.5 else caps)
        sink = io.BytesIO()
        try:
            pq.write_table(pa.Table.from_pylist(twist_tree(table, rng)), sink)
        except (pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError, KeyError):
            return made[0][: int(rng.integers(0, len(made[0])))]
        return sink.getvalue()

    return inside("data.parquet", inside_parquet.records, made, folder, twist)


def torch_file(folder: Path) -> Target:
    seeds = []
    for columns in (9, 18):
        sink = io.BytesIO()
        torch.save(torch.randint(0, 1024, (30, columns), dtype=torch.int16), sink)  # what system A wrote
        seeds.append(sink.getvalue())
    return inside("clip.pt", inside_torch.records, seeds, folder)


def npy_file(_: Path) -> Target:
    sink = io.BytesIO()
    np.save(sink, np.random.default_rng(3).integers(0, 2048, (1, 4, 60)).astype(np.int64))

    def read(content: bytes) -> None:
        codes = array.of_npy(content, where="input")
        if codes.dtype.kind not in "iu":
            raise WrongDataError(f"codes of {codes.dtype}")

    return Target([sink.getvalue()], read)


LABELS: list[dict[str, Any]] = [
    {"file": "a.wav", "tags": ["techno", "128 bpm"], "caption": "x", "licence": "CC0-1.0", "source": "s"},
    {"path": "b/c.flac", "duration": 3.5, "sample_rate": 44100, "amplitude": None, "weight": 1.0},
]


def label_table(name: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        key = "file" if name == "tags.jsonl" else "path"
        valid = [json.dumps({**row, key: row.get("file", row.get("path"))}) for row in LABELS]
        valid_text = ("\n".join(valid) + "\n").encode()
        packed = name.endswith(".gz")

        def read(content: bytes) -> None:
            (folder / name).write_bytes(content)
            if name == "tags.jsonl":
                labels.Labels(folder).of(folder / "a.wav")
            else:
                labels.read_manifest(folder / name)

        def twist(rng: Rng) -> bytes:
            lines = [json.dumps(twist_tree({**row, key: "a.wav"}, rng)) for row in LABELS]
            made = "\n".join(lines).encode()
            return gzip.compress(made) if packed else made

        return Target([gzip.compress(valid_text) if packed else valid_text], read, twist)

    return make


READERS = [
    Reader("pack shard", shard),
    Reader("pack.json", pack_json),
    Reader("clip table", clip_table),
    Reader("tags.jsonl", label_table("tags.jsonl")),
    Reader("manifest", label_table("data.jsonl")),
    Reader("manifest .gz", label_table("data.jsonl.gz")),
    Reader("npq", npq_file),
    Reader("npq text", npq_text),
    Reader("parquet rows", rows),
    Reader(".pt", torch_file),
    Reader(".npy", npy_file),
]
