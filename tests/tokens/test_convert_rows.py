"""Parquet rows: the three declared forms, every refusal, and parity with what pyarrow itself reads."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from foreign import codes, raises, rejects

from partimento.tokens.convert import inside_parquet
from partimento.tokens.convert.build import build_pack
from partimento.tokens.convert.sniff import sniff
from partimento.tokens.pack import Pack


def torch_bytes(array):
    content = io.BytesIO()
    torch.save(torch.from_numpy(array), content)
    return content.getvalue()


def npy_bytes(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def test_musiccaps_rows(tmp_path):
    arrays = [codes(500 + i, 4, i, 2048) for i in range(40)]
    lists = [array.T.tolist() for array in arrays]
    lists[7] = None
    lists[8] = [[1, 2], [3]] * 2
    lists[9] = [[1, None, 3]] * 4
    lists[10] = [[5000]] * 4
    lists[11] = [[-1]] * 4
    lists[12] = []
    lists[13] = [[]] * 4
    table = pa.table(
        {
            "ytid": [f"vid{i % 38}" for i in range(40)],  # two videos twice
            "caption": [f"piece {i}" if i else None for i in range(40)],
            "aspect_list": ["['slow piano', \"don't\"]", "not a list", *(["[1, 2]"] + ["['x']"] * 37)],
            "start_s": [30] * 40,
            "end_s": [40] * 40,
            "n_codebooks": [4] * 40,
            "seq_length": [{10: 1, 11: 1, 14: 7}.get(i, 500 + i) for i in range(40)],
            "is_audioset_eval": [True] * 40,
            "audio_codes": pa.array(lists, pa.list_(pa.list_(pa.int64()))),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=13)
    assert sniff(tmp_path / "rows.parquet") == "rows"
    report = build_pack(tmp_path / "rows.parquet", tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack", verify="full")
    assert pack.clips.clip[0] == "vid0" == pack.clips.source[0] and len(pack.clips) == 29 == report.clips
    for number, name in enumerate(pack.clips.clip):
        np.testing.assert_array_equal(pack.read(number), arrays[int(name[3:])])
    assert pack.clips.tags[0] == ["slow piano", "don't"] and pack.clips.tags[1] == ["not a list"]
    assert pack.clips.caption[0] is None and pack.clips.caption[1] == "piece 1"
    assert pack.clips.origin[1] == "video vid1, 30 to 40 s"
    assert (pack.spec.sample_rate, pack.spec.frame_rate, pack.spec.cardinalities) == (32000, 50, (2048,) * 4)
    found = {int(file.split("row ")[1]): code for file, code in rejects(tmp_path / "pack").items()}
    expected = dict.fromkeys((7, 8, 9, 12, 13, 14), "CONVERT003") | dict.fromkeys((10, 11), "CONVERT006")
    assert found == expected | {2: "PACK013", 38: "CONVERT014", 39: "CONVERT014"}


def test_tensor_rows_in_each_declared_form(tmp_path):
    arrays = [codes(20 + i, 18, i).astype(np.int16) for i in range(5)]
    forms = {
        "nested": lambda a: a.tolist(),
        "torch": torch_bytes,
        "npy": npy_bytes,
        "raw": lambda a: a.astype("<i2").tobytes(),
    }
    source = tmp_path / "in"
    source.mkdir()
    for form, cell in forms.items():
        columns = {
            "id": [f"{form} {i}" for i in range(5)],
            "filename": [f"secret song {i}.mp3" for i in range(5)],
            "tags": ["piano, calm", "", None, "drums", "bass"],
            "tensor": [cell(array) for array in arrays],
        }
        if form == "raw":
            columns["shape"] = [list(array.shape) for array in arrays]
        pq.write_table(pa.table(columns), source / f"{form}.parquet")
    build_pack(source, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack", verify="full")
    assert len(pack.clips) == 20 and pack.spec.books == (9, 9)
    for form in forms:
        numbers = [pack.clip_number(f"{form} {i}") for i in range(5)]
        for number, array in zip(numbers, arrays, strict=True):
            np.testing.assert_array_equal(pack.read(number), array)
        assert [pack.clips.tags[n] for n in numbers] == [["piano", "calm"], [], [], ["drums"], ["bass"]]
        assert [pack.clips.caption[n] for n in numbers] == ["piano, calm", None, None, "drums", "bass"]


def test_bytes_that_nothing_declares_are_refused_and_names_come_from_file_names(tmp_path):
    good = codes(20)
    cells = {
        "good": npy_bytes(good),
        "bare": good.astype("<i2").tobytes(),
        "legacy": b"\x80\x02]q\x00.",
        "cut": npy_bytes(good)[:-1],
        "wide": npy_bytes(good[:, :8]),
        "float": npy_bytes(good.astype(np.float32)),
        "empty": b"",
    }
    table = pa.table({"filename": [f"x/{name}.pt" for name in cells], "tensor": list(cells.values())})
    pq.write_table(table, tmp_path / "rows.parquet")
    build_pack(tmp_path, tmp_path / "pack")
    assert list(Pack.open(tmp_path / "pack").clips.clip) == ["good"]
    assert list(rejects(tmp_path / "pack").values()) == ["CONVERT003"] * 6


def test_tables_of_other_columns_and_types_are_refused(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    tables = [
        {"id": ["a"]},
        {"codes": [[[1]]], "tensor": [[[1]]]},
        {"audio_codes": [[1, 2]]},
        {"audio_codes": ["text"]},
        {"audio_codes": [[["1"]]]},
        {"audio_codes": [[[1.5]]]},
        {"tensor": [7]},
        {"audio_codes": [[[1]] * 4], "ytid": [[b"x"]]},
        {"audio_codes": [[[1]] * 4], "caption": [3]},
        {"audio_codes": [[[1]] * 4], "ytid": ["good"]},
    ]
    for number, columns in enumerate(tables):
        pq.write_table(pa.table(columns), source / f"{number}.parquet")
    build_pack(source, tmp_path / "pack")
    assert list(Pack.open(tmp_path / "pack").clips.clip) == ["good"]
    found = list(rejects(tmp_path / "pack").values())
    assert found == ["CONVERT003"] * 8 + ["PACK013"]


def test_damaged_tables_are_one_reject_each(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    table = pa.table({"ytid": ["a", "b"], "audio_codes": [codes(50, 4, i, 2048).T.tolist() for i in range(2)]})
    pq.write_table(table, source / "a.parquet")
    whole = (source / "a.parquet").read_bytes()
    (source / "cut.parquet").write_bytes(whole[:-5])
    (source / "empty.parquet").write_bytes(b"")
    (source / "foot.parquet").write_bytes(whole[:4] + b"\xff" * 200 + b"PAR1")
    build_pack(source, tmp_path / "pack")
    assert list(Pack.open(tmp_path / "pack").clips.clip) == ["a", "b"]
    damaged = ("cut.parquet", "empty.parquet", "foot.parquet")
    assert rejects(tmp_path / "pack") == dict.fromkeys(damaged, "CONVERT003")


def test_a_row_of_more_codes_than_any_recording_is_refused_before_they_are_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(inside_parquet, "_MOST_CODES", 199)
    table = pa.table({"audio_codes": [codes(n, 4).T.tolist() for n in (49, 50)]})
    pq.write_table(table, tmp_path / "a.parquet")
    _, first, second = inside_parquet.records(tmp_path / "a.parquet")
    assert first[1].shape == (49, 4) and second[1] is None and "200 codes" in second[0]["refused"][1]


def test_a_zip_inside_of_a_row_is_checked_like_a_file(tmp_path):
    content = bytearray(torch_bytes(codes(20).astype(np.int16)))
    at = bytes(content).index(codes(20).astype("<i2").tobytes()[:16])
    content[at] ^= 1
    pq.write_table(pa.table({"tensor": [bytes(content)]}), tmp_path / "rows.parquet")
    with raises("CONVERT009") as caught:
        build_pack(tmp_path, tmp_path / "pack")
    assert "checksum" in caught.value.why
