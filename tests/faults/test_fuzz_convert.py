"""Ten thousand malformed inputs for each reader of foreign codes: a coded error or a valid read, nothing else.

Inputs are valid files of every layout, changed by a keyed generator: bits flipped, bytes overwritten by edge values,
cut, doubled, spliced with another file. The readers of torch files and Parquet run in their child process, which must
not be lost to more than a few of them and must stay in its bounds.

    python -m pytest tests/faults/test_fuzz_convert.py -m slow -s
"""

from __future__ import annotations

import io
import json
import resource
import struct
import zipfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from partimento import keyed
from partimento.errors import PartimentoError, explanations
from partimento.tokens import npq, npqtext
from partimento.tokens.convert.array import as_codes, frame_major, of_npy
from partimento.tokens.convert.child import Reader
from partimento.tokens.convert.exported import read_spec
from partimento.tokens.convert.labels import Beside
from partimento.tokens.npq import NpqFile

COUNT = 10_000
EDGES = [struct.pack("<I", n) for n in (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)]
CODES = np.random.default_rng(0).integers(0, 1024, (40, 9))


def saved(writer, value):
    content = io.BytesIO()
    writer(content, value)
    return content.getvalue()


def table(columns, **options):
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content, **options)
    return content.getvalue()


def npq_seeds():
    stereo = NpqFile(CODES[:, :5], (1024,) * 5, 86.1328125, 64.0, 3, 2, "mid-side", "npq2")
    mono = NpqFile(CODES, (1024,) * 9, 86.1328125, 64.0, 9, 0, "mono", "npq1")
    body = CODES.astype("<u2").tobytes()
    return [
        npq.serialise(mono, version="npq1", where=""),
        npq.serialise(stereo, version="npq2", where=""),
        b"NPQ1" + struct.pack("<iffi9i", 9, 86.13, 64.0, 40, *(1024,) * 9) + body,
        b"NPQ1" + struct.pack("<if9ii", 9, 86.13, *(1024,) * 9, 40) + body,
    ]


def text_seeds():
    files = [npq.parse(seed, where="") for seed in npq_seeds()[:2]]
    return [npqtext.serialise(file, src_file="x", where="") for file in files]


def npy_seeds():
    arrays = (CODES.T[None].astype(np.int16), CODES.astype(np.int64), np.asfortranarray(CODES.astype(">i4")))
    return [saved(np.save, array) for array in arrays]


def pt_seeds():
    tensors = (torch.from_numpy(CODES).to(torch.int16), torch.from_numpy(np.tile(CODES, 2)))
    return [saved(lambda stream, value: torch.save(value, stream), tensor) for tensor in tensors]


def pickle_seeds():
    """The program inside of a torch file, of several protocols' worth of opcodes."""
    tensor = torch.from_numpy(CODES).to(torch.int16)
    values = [tensor, tensor.T, {"a": [torch.ones(2), (1, 2.0, "x", None)]}, torch.nn.Parameter(torch.ones(3))]
    return [part_of(saved(lambda stream, value: torch.save(value, stream), value), "data.pkl") for value in values]


def part_of(content, name):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return next(archive.read(part) for part in archive.namelist() if part.endswith("/" + name))


def zipped(program, whole):
    """A torch file with another program in it, and right checksums, so that torch itself must deal with it."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(content, "w") as new:
        for part in old.namelist():
            new.writestr(part, program if part.endswith("/data.pkl") else old.read(part))
    return content.getvalue()


def read_pickle(path, reader):
    path.write_bytes(zipped(path.read_bytes(), WHOLE))
    read_pt(path, reader)


def parquet_seeds():
    lists = pa.array([CODES[:, :4].T.tolist()] * 20, pa.list_(pa.list_(pa.int16())))
    return [
        table({"ytid": [f"v{i}" for i in range(20)], "caption": ["a"] * 20, "audio_codes": lists}),
        table({"id": [1, 2], "tags": ["a,b", None], "tensor": [npy_seeds()[1]] * 2}, compression="zstd"),
        table({"clip": ["a"], "tags": [["x"]], "codes": [CODES.tolist()]}, use_dictionary=False, version="1.0"),
    ]


def label_seeds():
    entry = {"text": "piano, calm", "sr": 44100, "length": 40, "encoded_file": "a.npq", "shape": [1, 4, 9]}
    row = {"file": "a.npq", "clip": "a", "samples": 99, "tags": ["x"], "loudness": -20.5, "caption": "é"}
    codec = {
        "codec": "x",
        "weights": "",
        "sample_rate": 8000,
        "frame_rate": [50, 1],
        "cardinalities": [4],
        "layout": "mono",
    }
    trees = [{"a.npq": entry}, row, {"format": "partimento export", "codec": codec}]
    return [json.dumps(tree).encode() for tree in trees]


def mutated(seeds, number, reader):
    draw = keyed.numpy_rng("fuzz", reader, number)
    content = bytearray(seeds[int(draw.integers(len(seeds)))])
    for _ in range(int(draw.integers(1, 5))):
        at = int(draw.integers(len(content))) if content else 0
        kind = int(draw.integers(6))
        if kind == 0 and content:
            content[at] ^= 1 << int(draw.integers(8))
        elif kind == 1 and content:
            content[at] = int(draw.integers(256))
        elif kind == 2:
            edge = EDGES[int(draw.integers(len(EDGES)))]
            content[at : at + 4] = edge[: int(draw.integers(1, 5))]
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            del content[at : at + int(draw.integers(1, 9))]
        else:
            other = seeds[int(draw.integers(len(seeds)))]
            content[at:at] = other[int(draw.integers(len(other))) :][: int(draw.integers(1, 64))]
    return bytes(content)


def sound(codes_TK, limit=65536):
    assert codes_TK.ndim == 2 and codes_TK.dtype.kind == "u" and (codes_TK.size == 0 or int(codes_TK.max()) < limit)


def read_npq(path, reader):
    file = npq.read(path)
    assert (file.codes_TK < np.asarray(file.vocab)).all() and file.codes_TK.nbytes <= path.stat().st_size


def read_text(path, reader):
    file = npqtext.read(path)
    assert (file.codes_TK < np.asarray(file.vocab)).all() and file.codes_TK.size <= path.stat().st_size


def read_npy(path, reader):
    sound(as_codes(frame_major(of_npy(path.read_bytes(), where="x"), None, where="x"), where="x"))


def read_pt(path, reader):
    for _, codes_TK in reader.records("pt", path):
        sound(codes_TK)
        assert codes_TK.shape[1] in (9, 18) and codes_TK.nbytes <= path.stat().st_size


def read_parquet(path, reader):
    for said, codes_TK in reader.records("rows", path):
        if "refused" in said:
            assert said["refused"][0] in explanations()
        if codes_TK is not None:
            sound(codes_TK)


def read_labels(path, reader):
    content, folder = path.read_bytes(), path.parent
    beside = folder / ("metadata.json", "metadata.jsonl", "export.json")[len(content) % 3]
    beside.write_bytes(content)
    try:
        if beside.name == "export.json":
            read_spec(folder, "npq", [])
        else:
            labels = Beside(folder).of(folder / "a.npq")
            assert labels.samples is None or labels.samples > 0
    finally:
        beside.unlink()


WHOLE = pt_seeds()[0]
READERS = {
    "npq": (npq_seeds, read_npq),
    "text": (text_seeds, read_text),
    "npy": (npy_seeds, read_npy),
    "pt": (pt_seeds, read_pt),
    "pickle": (pickle_seeds, read_pickle),
    "parquet": (parquet_seeds, read_parquet),
    "labels": (label_seeds, read_labels),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_malformed_inputs(tmp_path, name):
    seeds, read = READERS[name][0](), READERS[name][1]
    ends: Counter[str] = Counter()
    path = tmp_path / "input"
    with Reader(stall_seconds=20) as reader:
        for seed in seeds:
            path.write_bytes(seed)
            try:
                read(path, reader)
            except PartimentoError as err:
                assert name in ("labels", "pickle"), err
        for number in range(COUNT):
            path.write_bytes(mutated(seeds, number, name))
            try:
                read(path, reader)
                ends["valid"] += 1
            except PartimentoError as err:
                assert err.code in explanations()
                ends[err.code] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{name}: {sum(ends.values())} inputs, {dict(ends.most_common())}; peak memory {peak:.0f} MB")
    assert sum(ends.values()) == COUNT and ends["CONVERT008"] <= COUNT // 200
