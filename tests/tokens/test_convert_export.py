"""Exports: each format comes back as it was, and no name leaves the folder or takes another's place."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest
from foreign import raises, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partimento.errors import PartimentoError
from partimento.progress import Quiet
from partimento.tokens import npq
from partimento.tokens.convert.build import build_pack
from partimento.tokens.convert.export import export_codes, place
from partimento.tokens.convert.single import convert
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter, finish

SPECS = {
    "mono": CodecSpec("toy", "0" * 64, 44100, Fraction(44100, 512), (16, 300, 12)),
    "left-right": CodecSpec("toy", "1" * 64, 8000, Fraction(50), (16, 12, 16, 12), "left-right", (2, 2)),
    "mid-side": CodecSpec("dac-44k", "2" * 64, 44100, Fraction(44100, 512), (1024,) * 5, "mid-side", (3, 2)),
}
FIELDS = ("source", "samples", "tags", "caption", "licence", "origin", "sha256", "loudness", "peak", "frames", "split")
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def write(folder, spec, clips):
    """A pack of {name: labels}, codes drawn by their number."""
    writer = PackWriter(folder, spec)
    for number, (name, labels) in enumerate(clips.items()):
        rng = np.random.default_rng(number)
        frames = labels.pop("frames", 5 + number)
        writer.add(np.stack([rng.integers(0, v, frames) for v in spec.cardinalities], axis=1), clip=name, **labels)
    return writer.finish()


def export(pack, to, format):
    return export_codes(pack, to, format, range(len(pack.clips)), Quiet())


def content(pack):
    return {
        name: (pack.read(i).tolist(), {field: getattr(pack.clips, field)[i] for field in FIELDS})
        for i, name in enumerate(pack.clips.clip)
    }


@st.composite
def packs(draw):
    layout = draw(st.sampled_from(sorted(SPECS)))
    names = draw(st.lists(text.filter(lambda t: t.strip(". /")), min_size=1, max_size=4, unique=True))
    labels = st.fixed_dictionaries(
        {
            "tags": st.lists(text.filter(bool), max_size=3),
            "caption": st.none() | text,
            "licence": st.none() | st.just("CC-BY-4.0"),
            "source": text.filter(bool),
            "frames": st.integers(1, 9),
        }
    )
    return SPECS[layout], {name: draw(labels) for name in names}


@given(packs())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_npq_and_text_come_back_whole(tmp_path_factory, made):
    spec, clips = made
    folder = tmp_path_factory.mktemp("x")
    pack = write(folder / "pack", spec, clips)
    for format in {"mono": ("npq1", "npq2", "text"), "mid-side": ("npq2", "text")}.get(spec.layout, ()):
        try:
            export(pack, folder / format, format)
        except PartimentoError as err:
            assert err.code == "CONVERT010"  # two names that become one
            assert not (folder / format).exists()
            continue
        build_pack(folder / format, folder / f"{format}.pack")
        again = Pack.open(folder / f"{format}.pack", verify="full")
        assert again.spec == spec and content(again) == content(pack)


def rich(folder, spec):
    """A pack with every label there is."""
    pack = write(
        folder,
        spec,
        {
            "a/first": {"tags": ["piano", " with, comma"], "caption": " two\nlines ", "samples": 5 * 100 + 3},
            "../second": {"licence": "CC-BY-4.0", "source": "song"},
            "third.wav": {"source": "song"},
        },
    )
    rows = [
        table_row(
            pack, i, loudness=(-20.5, float("-inf"), None)[i], peak=(-1.0, None, 0.25)[i], origin=(None, "x://y", "")[i]
        )
        for i in range(3)
    ]
    (folder / "pack.json").unlink()
    return finish(folder, spec, rows, list(pack.shards.values()))


def table_row(pack, i, **changes):
    from partimento.tokens.clips import ClipRow

    names = ("clip", "source", "shard", "first_frame", "frames", "samples", "sha256", "tags", "caption", "licence")
    values = {name: getattr(pack.clips, name)[i] for name in names}
    whole = {name: int(values[name]) for name in ("shard", "first_frame", "frames", "samples")}
    return ClipRow(**{**values, **whole, "tags": tuple(values["tags"]), **changes})


@pytest.mark.parametrize(
    ("layout", "format"),
    [("mono", "npq1"), ("mono", "npq2"), ("mono", "text"), ("mid-side", "npq2"), ("mid-side", "text")]
    + [(layout, "parquet") for layout in SPECS],
)
def test_every_label_comes_back_and_exports_are_deterministic(tmp_path, layout, format):
    pack = rich(tmp_path / "pack", SPECS[layout])
    names = export(pack, tmp_path / "out", format)
    export(pack, tmp_path / "again", format)
    assert tree(tmp_path / "out") == tree(tmp_path / "again") and set(names) < set(tree(tmp_path / "out"))
    build_pack(tmp_path / "out", tmp_path / "back")
    back = Pack.open(tmp_path / "back", verify="full")
    assert back.spec == pack.spec and content(back) == content(pack)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "back", "out", "pack"]


def test_parquet_is_what_pyarrow_reads(tmp_path):
    pack = rich(tmp_path / "pack", SPECS["left-right"])
    export(pack, tmp_path / "out", "parquet")
    table = pq.read_table(tmp_path / "out" / "codes.parquet")
    assert table.column("clip").to_pylist() == list(pack.clips.clip)
    for i, rows in enumerate(table.column("codes").to_pylist()):
        assert rows == pack.read(i).tolist()
    assert json.loads(table.schema.metadata[b"partimento"])["codec"]["books"] == [2, 2]


def test_what_a_format_cannot_say_is_refused_and_leaves_nothing(tmp_path):
    for layout, format in (
        ("left-right", "npq1"),
        ("left-right", "npq2"),
        ("left-right", "text"),
        ("mid-side", "npq1"),
    ):
        pack = write(tmp_path / layout / format, SPECS[layout], {"a": {}})
        with raises("NPQ005"):
            export(pack, tmp_path / "out", format)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("clip", "file"),
    [
        ("a", "a.npq"), ("a/b.wav", "a/b.wav.npq"), ("/etc/x", "_/etc/x.npq"), ("../../x", "__/__/x.npq"),
        ("a\\..\\b", "a_.._b.npq"), ("c:x", "c_x.npq"), ("a\0b", "a_b.npq"), ("..", "__.npq"), ("a//b", "a/_/b.npq"),
    ],
)  # fmt: skip
def test_names_stay_inside(tmp_path, clip, file):
    path = place(tmp_path, clip, ".npq")
    assert path.relative_to(tmp_path).as_posix() == file
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert len(place(tmp_path, "é" * 400, ".npq").name.encode()) < 200


def test_two_clips_of_one_file_name_are_refused(tmp_path):
    pack = write(tmp_path / "pack", SPECS["mono"], {"a:b": {}, "a_b": {}})
    with raises("CONVERT010"):
        export(pack, tmp_path / "out", "npq1")
    assert not (tmp_path / "out").exists()
    export_codes(pack, tmp_path / "out", "npq1", [1], Quiet())
    with raises("CONVERT010"):
        export_codes(pack, tmp_path / "out", "npq1", [0], Quiet())


def test_what_was_changed_beside_an_export_is_found_out(tmp_path):
    pack = rich(tmp_path / "pack", SPECS["mono"])
    export(pack, tmp_path / "out", "npq1")
    (tmp_path / "out" / "third.wav.npq").unlink()
    report = build_pack(tmp_path / "out", tmp_path / "back")
    assert report.rejects == {"CONVERT002": 1} and report.clips == 2
    for broken in ("{}", "[]", '{"format": "partimento export", "codec": {}}', "{"):
        (tmp_path / "out" / "export.json").write_text(broken)
        with pytest.raises(PartimentoError, match=r"CONVERT002|PACK013"):
            build_pack(tmp_path / "out", tmp_path / "again")
    (tmp_path / "out" / "export.json").unlink()
    assert build_pack(tmp_path / "out", tmp_path / "again").codec["codec"] == "unknown"
    (tmp_path / "out" / "metadata.jsonl").write_text('{"file": "a/first.npq", "samples": 10000000}\n')
    assert build_pack(tmp_path / "out", tmp_path / "third").rejects == {"CONVERT005": 1}
    for line in (
        '{"file": 3}',
        '{"file": "a", "samples": -1}',
        '{"file": "a", "peak": "x"}',
        '{"file": "a", "tags": [1]}',
    ):
        (tmp_path / "out" / "metadata.jsonl").write_text(line)
        with raises("PACK013"):
            build_pack(tmp_path / "out", tmp_path / "fourth")


def test_single_files(tmp_path):
    pack = rich(tmp_path / "pack", SPECS["mid-side"])
    export(pack, tmp_path / "out", "npq2")
    source = tmp_path / "out" / "a" / "first.npq"
    assert convert(source, tmp_path / "a.txt")["format"] == "text"
    assert convert(tmp_path / "a.txt", tmp_path / "b.npq")["format"] == "npq2"
    np.testing.assert_array_equal(npq.read(tmp_path / "b.npq").codes_TK, pack.read(0))
    with raises("NPQ005"):
        convert(source, tmp_path / "c.npq1")
    with raises("CONVERT013"):
        convert(source, tmp_path / "c.wav")
    with raises("CONVERT010"):
        convert(source, tmp_path / "a.txt")
    with raises("NPQ001"):
        convert(tmp_path / "pack" / "pack.json", tmp_path / "d.txt")
