"""The clip table: columns that are read when they are used, and a table that may come from anywhere."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packs import SPEC, codes, resealed, write_pack

from partimento import commit
from partimento.errors import PartimentoError, explanations
from partimento.tokens import clips as table
from partimento.tokens import rows, writer
from partimento.tokens.clips import SCHEMA, ClipRow
from partimento.tokens.edits import edit
from partimento.tokens.pack import Pack
from partimento.tokens.shards import HEADER_BYTES, Shard
from partimento.tokens.writer import PackWriter, finish_table

LENGTHS = (40, 7, 25, 60, 33, 1, 50, 12, 80, 21)


def raises(code):
    assert code in explanations()
    return pytest.raises(PartimentoError, match=code)


@pytest.fixture
def pack(tmp_path):
    writer = PackWriter(tmp_path, SPEC, clips_per_shard=4)
    for i, frames in enumerate(LENGTHS):
        text = None if i % 2 else f"ein Lied {i}"
        writer.add(codes(frames, i), clip=f"{i}.wav", tags=[f"t{i % 3}"] * (i > 0), caption=text, origin=text)
    return writer.finish()


def test_columns_are_what_was_written(pack):
    clips = pack.clips
    assert list(clips.clip) == [f"{i}.wav" for i in range(10)] == clips.clip.to_list()
    assert clips.clip[3] == clips.clip[np.int64(3)] == "3.wav" and clips.clip[-1] == "9.wav"
    assert clips.clip[2:4] == ["2.wav", "3.wav"] and clips.clip.index("7.wav") == 7
    with pytest.raises(ValueError):
        clips.clip.index("nobody")
    with pytest.raises(IndexError):
        clips.clip[10]
    assert clips.tags[:3] == [[], ["t1"], ["t2"]] and clips.caption == clips.origin
    assert clips.caption[:2] == ["ein Lied 0", None] and len(clips.caption) == len(clips) == 10
    np.testing.assert_array_equal(clips.frames, LENGTHS)
    np.testing.assert_array_equal(clips.first_frame, [0, 40, 47, 72, 0, 33, 34, 84, 0, 80])
    assert clips.frames.dtype == np.int32 and not clips.frames.flags.writeable
    assert clips.split == [table.SPLITS[side] for side in clips.split_codes] and clips.split_codes.dtype == np.int8
    assert clips.licence.arrow.null_count == clips.attribution.arrow.null_count == 10
    row = ClipRow("a", "a", 0, 0, 1, 1, loudness=float("-inf"), peak=-1.5, tags=("x",), origin="https://x.org")
    assert ClipRow.from_json(json.loads(json.dumps(row.to_json(), allow_nan=False))) == row


def test_opening_reads_no_column(pack):
    again = Pack.open(pack.path)
    assert not set(vars(again.clips)) & set(SCHEMA.names)
    again.clips.frames
    assert set(vars(again.clips)) & set(SCHEMA.names) == {"frames"}


def test_numbers_beyond_31_bits_are_kept(tmp_path):
    table.read(write_table(tmp_path, samples=[2**31, 5]))
    clips = table.read(tmp_path / "t.parquet")
    assert clips.samples.dtype == np.int64 and clips.samples.tolist() == [2**31, 5]


def write_table(folder, **columns):
    """A table of two rows at folder/t.parquet, some columns of which are given."""
    whole = {
        "clip": ["a", "b"],
        "source": ["a", "b"],
        "shard": [0, 0],
        "first_frame": [0, 10],
        "frames": [10, 10],
        "samples": [1600, 1600],
        "split": ["train", "valid"],
        "tags": [["x"], []],
    }
    nulls = {name: [None, None] for name in SCHEMA.names if name not in whole}
    content = {name: {**whole, **nulls, **columns}[name] for name in SCHEMA.names}
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, SCHEMA.field(n).type) for n, c in content.items()]
    pq.write_table(pa.table(arrays, names=SCHEMA.names), folder / "t.parquet")
    return folder / "t.parquet"


def everything(clips):
    for name in (*SCHEMA.names, "split_codes"):
        column = getattr(clips, name)
        column.to_list() if isinstance(column, table.Column) else column.tolist()


@pytest.mark.parametrize(
    "columns",
    [
        {"clip": [None, "b"]},
        {"frames": [10, None]},
        {"frames": [10, -1]},
        {"first_frame": [-(2**40), 0]},
        {"split": ["train", "test"]},
        {"split": ["train", None]},
        {"tags": [["x"], None]},
        {"tags": [["x", None], []]},
        {"shard": pa.array([0, 0], pa.int64())},
        {"frames": pa.array([1.5, 2.0])},
        {"tags": pa.array(["a", "b"])},
        {"caption": pa.array([b"\xff\xfe", b"ok"], pa.binary()).view(pa.string())},
        {"source": pa.array([b"\xff\xfe", b"ok"], pa.binary()).view(pa.string())},
    ],
    ids=lambda columns: f"{next(iter(columns))}-{next(iter(columns.values()))}".replace("\n", ""),
)
def test_a_table_of_wrong_values_is_refused(tmp_path, columns):
    with raises("PACK041"):
        everything(table.read(write_table(tmp_path, **columns)))


def test_a_table_of_other_columns_is_refused(tmp_path):
    everything(table.read(write_table(tmp_path)))
    path = tmp_path / "t.parquet"
    whole = pq.read_table(path)
    for other in (
        whole.drop_columns(["tags"]),
        whole.append_column("more", whole["clip"]),
        whole.select(sorted(whole.column_names)),
        whole.rename_columns([f"{name}2" for name in whole.column_names]),
    ):
        pq.write_table(other, path)
        with raises("PACK041"):
            table.read(path)
    for content in (b"", b"PAR1", b"PAR1" * 100, b"x" * 1000):
        path.write_bytes(content)
        with raises("PACK041"):
            table.read(path)


def test_a_claim_of_very_many_rows_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "t.parquet"
    row = table.read(write_table(tmp_path))._file.read().slice(0, 1).cast(SCHEMA)
    pq.write_table(row.take(pa.array(np.zeros(10**6, dtype=np.int32))), path, compression="zstd")
    assert path.stat().st_size < 10**5
    with raises("PACK041") as err:
        table.read(path)
    assert "1000000 rows" in err.value.why


def test_mutated_tables_are_errors_or_tables(tmp_path):
    """Parquet files with bytes changed, past their hash: a coded error, or a table; no crash, no other exception."""
    pack = write_pack(tmp_path / "pack")
    whole = (pack.path / "clips.parquet").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            content[at] = rng.integers(256)
        cut = len(content) if rng.random() < 0.8 else int(rng.integers(len(content)))
        (tmp_path / "t.parquet").write_bytes(content[:cut])
        try:
            clips = table.read(tmp_path / "t.parquet")
            everything(clips)
            rows.essentials(clips.batches())
        except PartimentoError as err:
            assert err.code == "PACK041"
            refused += 1
    assert refused > 100


def test_essentials_do_not_depend_on_batches_and_depend_on_every_value(tmp_path):
    whole = table.read(write_table(tmp_path))._file.read().cast(SCHEMA)
    many = pa.concat_tables([whole] * 50)
    one = rows.essentials(many.combine_chunks().to_batches())
    assert one == rows.essentials(many.to_batches(max_chunksize=7)) == rows.essentials(many.to_batches(max_chunksize=1))
    seen = {rows.essentials(whole.to_batches())}
    for columns in (
        {"clip": ["ab", ""]},
        {"clip": ["", "ab"]},
        {"source": ["b", "a"]},
        {"frames": [10, 11]},
        {"samples": [1601, 1600]},
        {"split": ["valid", "valid"]},
        {"tags": [[], ["x"]]},
        {"tags": [["x", ""], []]},
        {"tags": [["", "x"], []]},
    ):
        write_table(tmp_path, **columns)
        seen.add(rows.essentials(pq.read_table(tmp_path / "t.parquet").cast(SCHEMA).to_batches()))
    assert len(seen) == 10
    same = write_table(tmp_path, caption=["c", "d"], licence=["l", None])
    assert rows.essentials(pq.read_table(same).cast(SCHEMA).to_batches()) in seen


def test_rows_may_come_in_any_order_and_as_an_iterator(tmp_path):
    pack = write_pack(tmp_path / "a")
    clips, shards = pack.clips, [Shard(**shard) for shard in pack.content["shards"]]
    fields = ("clip", "source", "shard", "first_frame", "frames", "samples", "sha256", "tags")
    given = [
        ClipRow(**{name: getattr(clips, name)[i] for name in fields} | {"tags": tuple(clips.tags[i])})
        for i in range(len(clips))
    ]
    for turn, order in enumerate([list(range(10)), list(range(9, -1, -1)), [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]]):
        copy = tmp_path / f"b{turn}"
        (copy / "shards").mkdir(parents=True)
        for shard in shards:
            (copy / shard.file).write_bytes((pack.path / shard.file).read_bytes())
        made = writer.finish(copy, SPEC, (given[i] for i in order), shards[::-1])
        assert made.fingerprint == pack.fingerprint and Pack.open(copy, verify="full")
        for name in ("pack.json", "clips.parquet", "rejects.jsonl"):
            assert (copy / name).read_bytes() == (pack.path / name).read_bytes()
        assert sorted(p.name for p in copy.iterdir()) == ["clips.parquet", "pack.json", "rejects.jsonl", "shards"]


def test_a_table_of_more_than_one_batch(tmp_path):
    """Batches of odd sizes in, batches of 65,536 rows out; nothing depends on their borders."""
    n, each = 150_000, 30_000
    shards = [Shard(f"shards/{s:06d}.bin", HEADER_BYTES + each * 10, each, each, "0" * 64) for s in range(5)]

    def batches(size):
        for first in range(0, n, size):
            i = np.arange(first, min(n, first + size))
            yield pa.record_batch(
                {
                    "clip": pa.array(list(map(str, i.tolist()))),
                    "source": pa.array([str(k // 7) for k in i.tolist()]),
                    "shard": pa.array((i // each).astype(np.int32)),
                    "first_frame": pa.array(i % each),
                    "frames": pa.array(np.ones(len(i), dtype=np.int64)),
                    "samples": pa.array(np.full(len(i), 160)),
                    "tags": pa.array([[f"t{k % 5}"] for k in i.tolist()]),
                }
            )

    spec = SPEC
    made = [finish_table(tmp_path / str(size), spec, batches(size), shards) for size in (n, 33_333)]
    assert (tmp_path / str(n) / "clips.parquet").read_bytes() == (tmp_path / "33333/clips.parquet").read_bytes()
    clips = made[1].clips
    assert clips.clip[149_999] == "149999" and clips.tags[70_001] == ["t1"] and clips.clip.index("65536") == 65_536
    made[1].check_places()
    assert (
        made[1].totals["sources"]
        == len({k // 7 for k in range(n)})
        == sum(made[1].content["splits"][name]["sources"] for name in table.SPLITS)
    )
    assert 0.07 < clips.split_codes.mean() < 0.13
    assert made[1].tag_vocabulary == [f"t{i}" for i in range(5)]


@pytest.mark.parametrize(
    "columns",
    [
        {"first_frame": [0, 0, 47, 72, 0, 33, 34, 84, 0, 80]},  # over one another
        {"first_frame": [0, 41, 47, 72, 0, 33, 34, 84, 0, 80]},  # a gap
        {"first_frame": [5, 45, 52, 77, 0, 33, 34, 84, 0, 80]},
        {"frames": [40, 7, 25, 61, 33, 1, 50, 12, 80, 21]},  # past the end of the shard
        {"frames": [40, 7, 25, 60, 33, 1, 50, 12, 80, 20]},
        {"frames": [40, 7, 25, 60, 33, 1, 50, 12, 80, 2**62]},
        {"shard": [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]},
        {"shard": [0, 0, 0, 0, 1, 1, 1, 1, 2, 7]},
        {"shard": [2, 2, 0, 0, 1, 1, 1, 1, 0, 0]},
    ],
)
def test_clips_that_lie_outside_of_their_shards_are_refused(tmp_path, columns):
    write_pack(tmp_path, LENGTHS)
    path = tmp_path / "clips.parquet"
    whole = pq.read_table(path)
    for name, values in columns.items():
        place = whole.column_names.index(name)
        whole = whole.set_column(place, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
    pq.write_table(whole.cast(SCHEMA), path)

    def forge(content):
        content["files"]["clips.parquet"] = {"bytes": path.stat().st_size, "sha256": commit.sha256(path)}
        content["clips"] = rows.essentials(whole.cast(SCHEMA).to_batches())

    resealed(tmp_path, forge)
    for clip in range(len(LENGTHS)):
        with raises("PACK041"):
            Pack.open(tmp_path).read(clip)
    with raises("PACK041"):
        Pack.open(tmp_path, verify="quick")


def test_a_table_with_another_number_of_rows_is_refused(tmp_path):
    write_pack(tmp_path, LENGTHS)
    path = tmp_path / "clips.parquet"
    pq.write_table(pq.read_table(path).slice(0, 9).cast(SCHEMA), path)
    file = {"bytes": path.stat().st_size, "sha256": commit.sha256(path)}
    resealed(tmp_path, lambda content: content["files"].update({"clips.parquet": file}))
    with raises("PACK041"):
        Pack.open(tmp_path)


def test_a_budget_of_damaged_clips_is_counted_and_ends(tmp_path):
    write_pack(tmp_path, LENGTHS)
    shard = tmp_path / "shards/000000.bin"
    content = bytearray(shard.read_bytes())
    content[HEADER_BYTES] ^= 1  # clip 0
    content[HEADER_BYTES + 6 * 48] ^= 1  # clip 2
    shard.write_bytes(content)
    asked = np.asarray([5, 0, 1, 2, 0])
    with raises("PACK004"):
        Pack.open(tmp_path).ensure(asked)
    with raises("PACK042"):
        Pack.open(tmp_path, corrupt_budget=1).ensure(asked)
    pack = Pack.open(tmp_path, corrupt_budget=2)
    for _ in range(2):  # a clip counts once
        assert pack.ensure(asked).tolist() == [True, False, True, False, False]
    assert [err.context["clip"] for err in pack.corrupt] == ["000000", "000002"]
    with raises("PACK004"):
        pack.read(0)
    (tmp_path / "shards/000002.bin").unlink()
    with raises("PACK042"):
        pack.ensure(np.asarray([8]))


def test_shards_come_through_fetch_and_can_be_let_go(tmp_path):
    pack = write_pack(tmp_path, LENGTHS)
    asked = []
    far = Pack(tmp_path, pack.content, pack.clips, fetch=asked.append)
    assert far.ensure(np.arange(10)).all() and [shard.file[-5] for shard in asked] == ["0", "1", "2"]
    np.testing.assert_array_equal(far.shard_codes(1)[33:34], codes(1, 5))
    assert len(asked) == 3
    far.release(1)
    far.read(5)
    assert len(asked) == 4


def test_the_terms_of_licences_are_columns(tmp_path):
    texts = ["https://creativecommons.org/licenses/by-nc-sa/4.0/", None, "all mine, I think", "CC0-1.0", "CC-BY-4.0"]
    writer = PackWriter(tmp_path, SPEC)
    for i, text in enumerate(texts):
        writer.add(codes(9, i), licence=text)
    clips = writer.finish().clips
    assert clips.licence == texts
    assert clips.attribution == [True, None, None, False, True]
    assert clips.non_commercial == [True, None, None, False, False]
    assert clips.share_alike == [True, None, None, False, False]
    assert clips.no_derivatives == [False, None, None, False, False]
    made = edit(tmp_path, {"000001": {"licence": texts[4]}, "000004": {"licence": None}}, why="asked")
    assert made.clips.attribution == [True, True, None, False, None] and made.history
