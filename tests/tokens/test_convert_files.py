"""Imports of NPQ, .pt and .npy: what is read, what is assumed and said, what becomes a reject, what is never run."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from foreign import codes, raises, rejects, tree

from partimento.errors import PartimentoError
from partimento.tokens import npq, npqtext
from partimento.tokens.convert import grouping
from partimento.tokens.convert.array import frame_major, of_npy
from partimento.tokens.convert.build import build_pack, peek
from partimento.tokens.convert.child import Reader
from partimento.tokens.convert.facts import Given
from partimento.tokens.convert.item import snap
from partimento.tokens.convert.sniff import sniff
from partimento.tokens.npq import NpqFile
from partimento.tokens.pack import Pack


def npq_file(folder, name, frames=20, *, k=9, k_side=0, fps=86.1328125, version="npq1", seed=0):
    mode = "mid-side" if k_side else "mono"
    file = NpqFile(codes(frames, k + k_side, seed), (1024,) * (k + k_side), fps, 128.0, k, k_side, mode, version)
    npq.write(folder / name, file, version=version)
    return file


def pt_file(path, array, dtype=torch.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(array).to(dtype), path)


# --- NPQ


def test_a_folder_of_npq_of_every_form(tmp_path):
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    a = npq_file(source, "a.npq", 30)
    b = npq_file(source / "sub", "b.npq", 10, fps=86.20, seed=1)  # what the frame rate is after chunked coding
    text = NpqFile(codes(5, 9, 2), (1024,) * 9, 86.1328, 0.0, 9, 0, "mono", "npq1")
    npqtext.write(source / "c.txt", text, src_file="c")
    v0 = codes(7, 9, 3)
    head = struct.pack("<iffi9i", 9, 86.1328125, 64.0, 7, *(1024,) * 9)
    (source / "d.npq").write_bytes(b"NPQ1" + head + v0.astype("<u2").tobytes() + b"!!")
    npq_file(source, "e.npq", 20, k=4)
    (source / "f.npq").write_bytes((source / "a.npq").read_bytes()[:-1])
    (source / "g.npq").write_bytes(b"junk")
    (source / "h.npq").write_bytes((source / "a.npq").read_bytes()[: 21 + 36])
    (source / "a.txt").write_text("piano, calm")
    (source / ".hidden.npq").write_bytes(b"junk")
    assert sniff(source) == "npq"
    report = build_pack(source, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack", verify="full")
    assert list(pack.clips.clip) == ["a", "c", "d", "sub/b"]
    for name, array in {"a": a.codes_TK, "c": text.codes_TK, "d": v0, "sub/b": b.codes_TK}.items():
        np.testing.assert_array_equal(pack.read(pack.clip_number(name)), array)
    assert rejects(tmp_path / "pack") == {
        "e.npq": "CONVERT005", "f.npq": "NPQ003", "g.npq": "NPQ001", "h.npq": "NPQ003",
    }  # fmt: skip
    spec = pack.spec
    assert (spec.codec, spec.weights, spec.sample_rate, spec.frame_rate) == ("unknown", "", 44100, Fraction(44100, 512))
    assert (spec.layout, spec.cardinalities) == ("mono", (1024,) * 9)
    assert report.assumed == ["sample_rate"] == pack.content["inputs"]["import"]["assumed"]
    assert report.notes == {
        "2 trailing byte(s) were passed over": 1,
        "the frame rate 86.2 was taken as 11025/128": 1,
    }
    assert pack.content["inputs"]["import"]["notes"] == report.notes
    assert pack.clips.tags[0] == ["piano", "calm"] and pack.clips.caption[0] == "piano, calm"
    assert pack.clips.caption[1] is None  # the text of codes is nobody's prompt
    assert pack.clips.samples[0] == 30 * 512
    assert (report.clips, report.frames, report.files) == (4, 52, 8)
    assert report.rejects == {"CONVERT005": 1, "NPQ001": 1, "NPQ003": 2}


def test_mid_and_side_keep_their_books_and_do_not_mix_with_mono(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    file = npq_file(source, "a.npq", 30, k=9, k_side=4, version="npq2")
    npq_file(source, "b.npq", 30, k=13)
    npq_file(source, "c.npq", 30, k=8, k_side=5, version="npq2")
    build_pack(source, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    assert (pack.spec.layout, pack.spec.books, pack.spec.codebooks) == ("mid-side", (9, 4), 13)
    np.testing.assert_array_equal(pack.read(0), file.codes_TK)
    assert rejects(tmp_path / "pack")["c.npq"] == "CONVERT005" and len(pack.clips) >= 1


def test_books_choose_among_several_and_what_is_given_overrules_what_is_assumed(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    npq_file(source, "a.npq", 20, k=4, fps=50.0)
    npq_file(source, "b.npq", 20, k=9, fps=75.0)
    report = build_pack(source, tmp_path / "pack", given=Given(books=9, sample_rate=24000))
    assert report.assumed == [] and report.codec["sample_rate"] == 24000 and report.codec["frame_rate"] == [75, 1]
    assert Pack.open(tmp_path / "pack").clips.clip[0] == "b"
    with raises("CONVERT012"):
        build_pack(source, tmp_path / "pack")


def test_two_imports_are_byte_identical_and_a_dry_run_tells_the_same_and_writes_nothing(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for i in range(6):
        npq_file(source, f"song{i % 3}_{i // 3}.npq", 10 + i, seed=i)
    (source / "z.npq").write_bytes(b"NPQ1")
    dry = build_pack(source, tmp_path / "a", dry_run=True)
    assert not (tmp_path / "a").exists()
    first = build_pack(source, tmp_path / "a")
    build_pack(source, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert {**dry.to_json(), "dry_run": False} == first.to_json()
    assert first.grouped_by == "song stem: 3 songs of 6 clips"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "in"]


def test_clips_of_equal_codes_share_a_side(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for i in range(12):
        npq_file(source, f"{chr(97 + i)}.npq", 20, seed=i % 2)
    build_pack(source, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    sides = list(pack.clips.split)
    assert len(set(sides[0::2])) == len(set(sides[1::2])) == 1 and set(sides) == {"train", "valid"}


def test_nothing_is_an_error_and_leaves_nothing(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    with raises("CONVERT001"):
        build_pack(source, tmp_path / "pack")
    (source / "a.npq").write_bytes(b"NPQ1")
    with raises("CONVERT009") as caught:
        build_pack(source, tmp_path / "pack")
    assert "NPQ003" in caught.value.why
    npq_file(source, "b.npq")
    np.save(source / "c.npy", codes(9))
    with raises("CONVERT001") as caught:
        build_pack(source, tmp_path / "pack")
    assert "--kind" in caught.value.next
    dry = build_pack(source, tmp_path / "pack", kind="npq", dry_run=True)
    assert dry.clips == 1 and dry.notes == {"a file of the kind npy was passed over": 1}
    with raises("SYS004"):
        build_pack(tmp_path / "nowhere", tmp_path / "pack")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_frame_rates_snap_to_codecs_in_use_and_others_stay():
    assert snap(86.20) == (Fraction(44100, 512), "the frame rate 86.2 was taken as 11025/128")
    assert snap(86.1328125) == (Fraction(44100, 512), None)
    assert snap(float(np.float32(50))) == (Fraction(50), None)
    assert snap(86.5)[0] == Fraction(86.5) and snap(87.0) == (Fraction(87), None)


@pytest.mark.parametrize(
    ("name", "song"),
    [
        ("song_01", "song"), ("song-part2", "song"), ("a/song.chunk_003", "a/song"), ("song", "song"), ("12", "12"),
        ("Loop 4", "Loop"), ("song part", "song part"), ("99 luftballons 3", "99 luftballons"),
    ],
)  # fmt: skip
def test_song_stems(name, song):
    assert grouping.stem(name) == song


def test_numbers_of_a_collection_are_no_pieces_of_one_song():
    names = [f"sample_{i:06d}" for i in range(9)]
    assert grouping.sources(names) == (names, "file")
    assert grouping.sources(names, "stem")[0] == ["sample"] * 9
    assert grouping.sources(["a_1", "a_2", "a_3", "b_1"]) == (["a", "a", "a", "b"], "song stem: 2 songs of 4 clips")


# --- .pt


def test_pt_columns_labels_and_lengths(tmp_path):
    source = tmp_path / "in"
    arrays = {f"song{i}": codes(20 + i, 18, i) for i in range(6)}
    arrays["song5"][:, 9:] = arrays["song5"][:, :9]
    for i, (name, array) in enumerate(arrays.items()):
        pt_file(source / f"{name}.pt", array, torch.int16 if i % 2 else torch.int64)
    (source / "metadata.json").write_text(
        json.dumps(
            {
                "song0.pt": {"text": "piano, calm", "sr": 44100, "channels": 2, "length": 20},
                "song1.pt": {"text": "", "sr": 44100, "channels": 2, "length": 21 * 512 - 7},
                "song2.pt": {"sr": 44100, "length": 7},
            }
        )
    )
    (source / "prompts").mkdir()
    for name in ("song0.txt", "song1.txt", "prompts/song1.txt", "prompts/song2.txt", "prompts/song2_prompt.txt"):
        (source / name).write_text(f"from {name}")
    (source / "prompts/song3_prompt.txt").write_text("drums,\nbass")
    report = build_pack(source, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack", verify="full")
    for number, array in enumerate(arrays.values()):
        np.testing.assert_array_equal(pack.read(number), array)
    assert (pack.spec.layout, pack.spec.books, pack.spec.frame_rate) == ("left-right", (9, 9), Fraction(44100, 512))
    assert list(pack.clips.caption) == [
        "piano, calm", "from song1.txt", "from prompts/song2.txt", "drums,\nbass", None, None,
    ]  # fmt: skip
    assert pack.clips.tags[3] == ["drums", "bass"] and pack.clips.tags[4] == []
    assert list(pack.clips.samples) == [20 * 512, 21 * 512 - 7, 22 * 512, 23 * 512, 24 * 512, 25 * 512]
    assert report.prompts == {
        "<stem>.txt": 1, "metadata.json": 1, "none": 2, "prompts/<stem>.txt": 1, "prompts/<stem>_prompt.txt": 1,
    }  # fmt: skip
    assert len(report.notes) == 2 and set(report.notes.values()) == {1}
    assert not any("song" in (caption or "").replace("from", "").split(".")[0] for caption in pack.clips.caption[3:])


def pickled(path, mark):
    class Touch:
        def __reduce__(self):
            import os

            return (os.system, (f"touch {mark}",))

    content = io.BytesIO()
    torch.save({"x": 1}, content)
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Touch(), 2) if name.endswith("data.pkl") else old.read(name))


def expanded(path):
    torch.save(torch.zeros(1, 9, dtype=torch.int16).expand(2**40, 9), path)


def compressed(path):
    content = io.BytesIO()
    torch.save(torch.zeros(500, 9, dtype=torch.int16), content)
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def test_pt_files_that_are_refused_each_cost_themselves_only(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    pt_file(source / "good_a.pt", codes(20))
    pt_file(source / "good_b.pt", codes(21), torch.int64)
    pickled(source / "pickle.pt", tmp_path / "touched")
    expanded(source / "expanded.pt")
    compressed(source / "compressed.pt")
    whole = (source / "good_a.pt").read_bytes()
    (source / "cut.pt").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    at = whole.index(codes(20).astype("<i2").tobytes()[:16])
    flipped[at] ^= 1
    (source / "flipped.pt").write_bytes(bytes(flipped))
    (source / "empty.pt").write_bytes(b"")
    (source / "legacy.pt").write_bytes(b"\x80\x02]q\x00.")
    for name, value in {
        "dict": {"codes": torch.zeros(3, 9, dtype=torch.int16)},
        "float": torch.zeros(3, 9),
        "wide": torch.zeros(3, 8, dtype=torch.int16),
        "deep": torch.zeros(1, 3, 9, dtype=torch.int16),
        "none": torch.zeros(0, 9, dtype=torch.int16),
        "sparse": torch.zeros(3, 9, dtype=torch.int16).to_sparse(),
        "negative": torch.full((3, 9), -1, dtype=torch.int16),
        "special": torch.full((3, 9), 1025, dtype=torch.int16),
        "stereo": torch.zeros(3, 18, dtype=torch.int16),
    }.items():
        torch.save(value, source / f"{name}.pt")
    report = build_pack(source, tmp_path / "pack", given=Given(books=9))
    found = rejects(tmp_path / "pack")
    assert not (tmp_path / "touched").exists()
    pack = Pack.open(tmp_path / "pack", verify="full")
    assert list(pack.clips.clip) == ["good_a", "good_b"] and report.files == 18
    refused = {"pickle", "expanded", "compressed", "cut", "flipped", "empty", "legacy", "dict", "float", "wide", "deep"}
    expected = {f"{name}.pt": "CONVERT003" for name in refused | {"sparse"}}
    expected |= {"none.pt": "CONVERT005", "stereo.pt": "CONVERT005"}
    expected |= {"negative.pt": "CONVERT006", "special.pt": "CONVERT006"}
    assert found == expected
    reasons = (tmp_path / "pack" / "rejects.jsonl").read_text(encoding="utf-8")
    assert "weights_only" not in reasons, "torch recommends to run what is in the file"


@pytest.mark.parametrize("rate", ["Infinity", "-Infinity", "NaN", "1e400", "44100.5", "0", "true"])
def test_a_rate_that_is_none_costs_its_file_only(tmp_path, rate):
    source = tmp_path / "in"
    source.mkdir()
    pt_file(source / "bad.pt", codes(20))
    pt_file(source / "good.pt", codes(21))
    (source / "metadata.json").write_text(f'{{"bad.pt": {{"sr": {rate}}}}}')
    build_pack(source, tmp_path / "pack")
    assert rejects(tmp_path / "pack") == {"bad.pt": "CONVERT003"}


def test_peek_tells_that_no_clip_has_the_books_asked_for(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    pt_file(source / "a.pt", codes(20))
    with pytest.raises(PartimentoError, match="none has 4 books"):
        peek(source, books=4)


def test_unreadable_labels_end_the_import(tmp_path):
    source = tmp_path / "in"
    pt_file(source / "a.pt", codes(20))
    for content in ('{"a.pt": [1]}', "[]", "{", '{"a.pt": {"text": 3}}', '{"a.pt": {"tags": [3]}}', "[" * 100_000):
        (source / "metadata.json").write_text(content)
        with raises("PACK013"):
            build_pack(source, tmp_path / "pack")
    (source / "metadata.json").write_text('{"a.pt": {"sr": "44100"}}')
    with raises("CONVERT009"):
        build_pack(source, tmp_path / "pack")
    (source / "metadata.json").write_text('{"a.pt": {"sr": 16000}}')
    with raises("CONVERT004"):
        build_pack(source, tmp_path / "pack")


CRASHING = """
import json, os, sys, time, struct
for line in sys.stdin.buffer:
    path = os.path.basename(json.loads(line)["path"])
    if "crash" in path: os.kill(os.getpid(), 11)
    if "hang" in path: time.sleep(60)
    if "lie" in path: os.write(1, struct.pack("<cQ", b"F", 1 << 60)); time.sleep(60)
    if "shape" in path:
        body = b'{"shape": [1000, 9]}'
        os.write(1, struct.pack("<cQ", b"F", len(body)) + body + struct.pack("<cQ", b"C", 2) + b"ab")
    os.write(1, struct.pack("<cQ", b"E", 0))
"""


def test_a_reader_that_crashes_hangs_or_lies_is_one_error_and_the_next_file_gets_another(tmp_path):
    with Reader(stall_seconds=1.0, command=[sys.executable, "-c", CRASHING]) as reader:
        for name in ("crash", "hang", "lie", "shape"):
            with raises("CONVERT008"):
                list(reader.records("pt", tmp_path / name))
            assert list(reader.records("pt", tmp_path / "fine")) == []


# --- .npy


def test_npy_maps(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    arrays = {f"id{i}": codes(200 + i, 4, i, 2048) for i in range(5)}
    np.save(source / "id0.npy", arrays["id0"].T[None])
    np.save(source / "id1.npy", arrays["id1"].T.astype(np.int32))
    np.save(source / "id2.npy", arrays["id2"].astype(">i2"))
    np.save(source / "id3.npy", np.asfortranarray(arrays["id3"]))
    np.save(source / "other.npy", arrays["id4"].T[None])
    np.save(source / "shape.npy", arrays["id4"].T[None])
    np.save(source / "float.npy", arrays["id4"].astype(float))
    np.save(source / "object.npy", np.array([[1, None]], dtype=object), allow_pickle=True)
    np.save(source / "square.npy", codes(4, 4))
    np.save(source / "big.npy", arrays["id4"] + 2000)
    (source / "cut.npy").write_bytes((source / "id0.npy").read_bytes()[:-1])
    header = b"{'descr': '<i2', 'fortran_order': False, 'shape': (4, 4611686018427387904), }\n"
    (source / "bomb.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    (source / "metadata.json").write_text(
        json.dumps(
            {
                "id0": {"encoded_file": "id0.npy", "shape": [1, 4, 200], "caption": "a harp, alone"},
                "real": {"encoded_file": "/elsewhere/enc/other.npy", "caption": "a flute"},
                "shape": {"encoded_file": "shape.npy", "shape": [1, 4, 7]},
            }
        )
    )
    report = build_pack(source, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack", verify="full")
    assert list(pack.clips.clip) == ["id0", "id1", "id2", "id3", "other"]
    for number, array in enumerate(arrays.values()):
        np.testing.assert_array_equal(pack.read(number), array)
    assert (pack.spec.sample_rate, pack.spec.frame_rate, pack.spec.cardinalities) == (32000, 50, (2048,) * 4)
    assert report.assumed == ["cardinalities", "frame_rate", "sample_rate"]
    assert list(pack.clips.caption) == ["a harp, alone", None, None, None, "a flute"]
    found = rejects(tmp_path / "pack")
    assert found.pop("big.npy") == "CONVERT006" and set(found.values()) == {"CONVERT003"}
    assert set(found) == {f"{n}.npy" for n in ("shape", "float", "object", "square", "cut", "bomb")}


def test_npy_of_an_unknown_codec_asks_for_its_rates(tmp_path):
    np.save(tmp_path / "a.npy", codes(100, 8, cardinality=500))
    assert peek(tmp_path).codebooks == 8
    with raises("CONVERT004"):
        build_pack(tmp_path, tmp_path / "pack")
    given = Given(sample_rate=24000, frame_rate=Fraction(75), cardinality=500)
    assert build_pack(tmp_path / "a.npy", tmp_path / "pack", given=given).codec["cardinalities"] == [500] * 8


@pytest.mark.parametrize(
    ("shape", "books", "expected"),
    [
        ((1, 4, 100), None, (100, 4)), ((4, 100), None, (100, 4)), ((100, 4), None, (100, 4)),
        ((9, 4), 9, (4, 9)), ((9, 4), 4, (9, 4)), ((9, 4), None, (9, 4)), ((4, 4), 4, None), ((40, 50), None, None),
        ((40, 50), 40, (50, 40)), ((2, 4, 100), None, None), ((100,), None, None), ((0, 4), None, None),
        ((1, 40, 2), None, None),
    ],
)  # fmt: skip
def test_orientation(shape, books, expected):
    array = np.arange(int(np.prod(shape))).reshape(shape)
    if expected is None:
        with raises("CONVERT003"):
            frame_major(array, books, where="x")
        return
    turned = frame_major(array, books, where="x")
    assert turned.shape == expected
    np.testing.assert_array_equal(turned, array.reshape(array.shape[-2:]).T if turned.shape != shape else array)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (5,), ()])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_arrays_are_those_of_numpy(shape, order):
    content = io.BytesIO()
    np.save(content, np.asarray(np.arange(int(np.prod(shape))).reshape(shape), dtype=np.int32, order=order))
    again = of_npy(content.getvalue(), where="x")
    np.testing.assert_array_equal(again, np.load(io.BytesIO(content.getvalue())))


def test_a_pack_is_not_imported_but_said_to_be_one(tmp_path):
    source = tmp_path / "codes"
    source.mkdir()
    file = NpqFile(codes(30, 2), (1024, 1024), 86.1328125, 0.0, 2, 0, "mono", "npq1")
    npq.write(source / "a.npq", file, version="npq1")
    build_pack(source, tmp_path / "pack")
    with pytest.raises(PartimentoError, match="is a pack already"):
        build_pack(tmp_path / "pack", tmp_path / "again")
