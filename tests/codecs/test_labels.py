import gzip
import json
import os
import signal

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partimento.audio import embedded
from partimento.audio.files import read
from partimento.codecs.labels import Labels, manifest_files
from partimento.errors import PartimentoError
from partimento.tokens import labelfiles
from partimento.tokens.licence import parse


def put(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def table(path, *rows):
    return put(path, "".join(json.dumps(row) + "\n" for row in rows))


def sound(path, **strings):
    path.parent.mkdir(parents=True, exist_ok=True)
    opus = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    with soundfile.SoundFile(path, "w", 48000, 1, **opus) as file:
        for name, value in strings.items():
            setattr(file, name, value)
        file.write(np.zeros(4000, np.float32))
    return path


def test_each_place_gives_way_to_those_before_it(tmp_path):
    """One recording with labels everywhere; they are taken away one by one, first to last."""
    root = tmp_path / "audio"
    song = sound(root / "sub" / "a.flac", genre="inside")
    far = tmp_path / "audio" / "audio_prompts" / "a_prompt.txt"
    places = [
        ("tags.jsonl", table(root / "sub" / "tags.jsonl", {"file": "a.flac", "tags": ["near"]})),
        ("tags.jsonl", table(root / "tags.jsonl", {"file": "sub/a.flac", "tags": ["top"]})),
        ("manifest", table(root / "sub" / "data.jsonl", {"path": "a.flac", "duration": 0.5, "tags": "listed"})),
        ("metadata.json", put(root / "sub" / "metadata.json", {"a.flac": {"text": "meta", "sr": 8000}})),
        ("json", put(root / "sub" / "a.json", {"tags": ["beside"]})),
        ("prompt", put(root / "sub" / "a.txt", "one")),
        ("prompt", put(root / "sub" / "a_prompt.txt", "two")),
        ("prompt", put(root / "sub" / "prompts" / "a.txt", "three")),
        ("prompt", put(root / "sub" / "prompts" / "a_prompt.txt", "four")),
        ("prompt", put(far, "five")),
    ]
    wanted = ["near", "top", "beside", "meta", "beside", "one", "two", "three", "four", "five"]
    for (kind, place), tag in zip(places, wanted, strict=True):
        labels = Labels(root)
        assert labels.of(song)["tags"] == [tag] and dict(labels.kinds) == {kind: 1}
        place.unlink()
    assert Labels(root).look(song) == ("file tags", {"tags": ["inside"]})
    sound(song)
    assert Labels(root).look(song) == ("none", {})  # and not ["a"]


def test_a_name_is_no_prompt_and_an_empty_prompt_is_no_tag(tmp_path):
    song = sound(tmp_path / "sad piano.wav")
    put(tmp_path / "sad piano.txt", " \n,, ")
    assert Labels(tmp_path).look(song) == ("none", {})
    put(tmp_path / "prompts" / "sad piano.txt", "\ufeffslow,\n solo ,,slow")  # the next place is looked at
    kind, labels = Labels(tmp_path).look(song)
    assert kind == "prompt" and labels["tags"] == ["slow", "solo"]
    table(tmp_path / "tags.jsonl", {"file": "sad piano.wav", "tags": ["", " "]})
    assert Labels(tmp_path).look(song) == ("tags.jsonl", {"tags": []})  # somebody said that it has none


def test_audiocraft_manifest_and_the_json_beside_a_recording(tmp_path):
    song, bare = sound(tmp_path / "electro_1.wav"), sound(tmp_path / "bare.wav")
    rows = [{"path": str(file), "duration": 0.5, "sample_rate": 8000, "amplitude": None} for file in (song, bare)]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    put(tmp_path / "data.jsonl.gz", gzip.compress(content.encode()))
    info = {"key": "C minor", "artist": "Voyager I", "sample_rate": 48000, "file_extension": "mp3", "bpm": "120.0"}
    info |= {
        "description": "A cool song.",
        "keywords": "bright, pulsing",
        "genre": "electronic",
        "title": "Enracinement",
    }
    put(tmp_path / "electro_1.json", info | {"name": "electro_1", "instrument": "Mix", "moods": ["uplifting"]})
    labels = Labels(tmp_path)
    assert labels.of(song) == {
        "tags": ["electronic", "bright", "pulsing", "uplifting", "Mix", "120 bpm", "C minor"],
        "caption": "A cool song.",
        "origin": "Voyager I - Enracinement",
    }
    assert labels.of(bare) == {} and labels.kinds == {"manifest": 1, "none": 1}
    empty = dict.fromkeys(info, "") | {"moods": None, "bpm": None}
    put(tmp_path / "electro_1.json", empty)
    assert Labels(tmp_path).of(song) == {}


def test_json_of_ours_of_stable_audio_and_of_others(tmp_path):
    ours = {
        "tags": "harp,  solo",
        "caption": "a harp",
        "license": "BY",
        "source": "s",
        "origin": "http://a",
        "key": "C",
    }
    for name, content, wanted in [
        (
            "a",
            ours,
            {"tags": ["harp", "solo"], "caption": "a harp", "licence": "BY", "source": "s", "origin": "http://a"},
        ),
        ("b", {"prompt": "rain on tin", "seconds_total": 4, "path": "/x"}, {"caption": "rain on tin"}),
        ("c", {"fps": 3, "beats": [1, 2]}, {"tags": ["from txt"], "caption": "from txt"}),
        ("d", {"tags": []}, {"tags": []}),
    ]:
        song = sound(tmp_path / f"{name}.wav")
        put(tmp_path / f"{name}.json", content)
        put(tmp_path / f"{name}.txt", "from txt")
        assert Labels(tmp_path).of(song) == wanted


def test_tags_inside_of_files(tmp_path):
    strings = {"title": "T", "artist": "A", "album": "B", "genre": "Jazz; Bossa  Nova/Samba, Jazz"}
    for suffix in ("flac", "ogg", "opus"):
        more = {"license": "CC BY 4.0", "copyright": "(c) 2001 X"}
        song = sound(tmp_path / f"a.{suffix}", **strings, **more)
        assert Labels(tmp_path).of(song) == {
            "tags": ["Jazz", "Bossa Nova", "Samba"],
            "licence": "CC BY 4.0",
            "origin": "A - B - T",
        }
    for suffix in ("wav", "mp3"):
        song = sound(tmp_path / f"b.{suffix}", **strings)
        assert Labels(tmp_path).of(song) == {"tags": ["Jazz", "Bossa Nova", "Samba"], "origin": "A - B - T"}
    notice = sound(tmp_path / "c.flac", copyright="(c) 2001 X")
    assert Labels(tmp_path).of(notice) == {"licence": "(c) 2001 X"}  # what it allows, nobody can parse
    with pytest.raises(PartimentoError, match="LICENCE001"):
        parse(Labels(tmp_path).of(notice)["licence"])


def test_a_damaged_file_has_no_label_error_and_one_audio_error(tmp_path, capfd):
    whole = sound(tmp_path / "a.flac", genre="Jazz").read_bytes()
    broken = {"cut.flac": whole[:60], "empty.flac": b"", "noise.mp3": os.urandom(4000), "text.wav": b"hello"}
    broken |= {"head.mp3": b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(100), "x.m4a": b"\0\0\0\x18ftypM4A "}
    for name, content in broken.items():
        path = put(tmp_path / name, content)
        assert Labels(tmp_path).look(path) == ("none", {})
    assert capfd.readouterr() == ("", "")  # what decoders say on stderr is told with the audio
    for name in broken:
        with pytest.raises(PartimentoError, match="AUDIO0"):
            read(tmp_path / name)
    assert embedded.read(put(tmp_path / "odd.raw", b"1234")) == {}
    assert Labels(tmp_path).of(tmp_path / "a.flac")["tags"] == ["Jazz"]


def test_pipes_are_not_waited_for(tmp_path):
    song = sound(tmp_path / "a.wav")
    for name in ("tags.jsonl", "a.txt", "a.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(PartimentoError, match="(?s)PACK013.*" + name):
            Labels(tmp_path).of(song)
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / "b.wav")
    assert embedded.read(tmp_path / "b.wav") == {}


def test_a_reader_of_tags_that_dies_or_hangs_costs_one_file(tmp_path):
    song = sound(tmp_path / "a.flac", genre="Jazz")
    reader = embedded.Reader(stall_seconds=0.3)
    reader.child.command = ["sleep", "60"]
    assert reader.strings(song) == {}
    reader.child.command = embedded.Reader().child.command
    reader.child._stall = 20
    assert reader.strings(song) == {"genre": "Jazz"}
    os.kill(reader.child.process.pid, signal.SIGKILL)
    assert reader.strings(song) in ({}, {"genre": "Jazz"})
    assert reader.strings(song) == {"genre": "Jazz"}
    reader.close()


def test_aliases_and_files_that_a_table_names_in_vain(tmp_path):
    song = sound(tmp_path / "sub" / "a.wav")
    table(tmp_path / "tags.jsonl", {"file": "sub/a.wav", "tags": ["voice", "no voice", "vocals"]}, {"file": "gone.wav"})
    labels = Labels(tmp_path, aliases={"voice": "vocals"})
    assert labels.of(song)["tags"] == ["vocals", "no voice"]
    assert labels.unused({song}) == ["gone.wav"]
    assert Labels(tmp_path / "elsewhere").of(song) == {}  # the root bounds where tables are looked for


def test_manifests_given_by_name(tmp_path):
    songs = [sound(tmp_path / "audio" / name) for name in ("b.wav", "a.wav")]
    rows = [
        {"path": "audio/b.wav", "duration": 1},
        {"file": "audio/../audio/a.wav", "tags": ["x"]},
        {"path": str(songs[1]), "tags": ["x"]},
    ]
    for path in (
        table(tmp_path / "list.jsonl", *rows),
        put(tmp_path / "l.jsonl.gz", gzip.compress("\n".join(map(json.dumps, rows)).encode())),
        put(tmp_path / "list.json", rows),
    ):
        assert manifest_files(path) == sorted(songs)
        labels = Labels(tmp_path / "audio", manifest=path)
        assert labels.of(songs[1])["tags"] == ["x"] and labels.of(songs[0]) == {}
    missing = table(tmp_path / "m.jsonl", *rows, {"path": "no.wav"}, {"path": "z.zip:a.wav"})
    with pytest.raises(PartimentoError, match="TAGS002") as err:
        manifest_files(missing)
    assert "no.wav" in err.value.why and "zip" in err.value.why and "2 file" in err.value.message
    with pytest.raises(PartimentoError, match="TAGS002"):
        manifest_files(put(tmp_path / "none.jsonl"))
    for content in ("{}", "[3]", "3", "[", '["a"]'):
        with pytest.raises(PartimentoError, match="PACK013"):
            manifest_files(put(tmp_path / "bad.json", content))


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"3",
        b'{"tags": []}',
        b'{"file": ""}',
        b'{"file": 3}',
        b'{"file": "a.wav", "tags": [1]}',
        b'{"file": "a.wav", "tags": {"a": 1}}',
        b'{"file": "a.wav", "source": 3}',
        b'{"file": "a.wav", "caption": ["x"]}',
        b'{"file": "a.wav", "bpm": "fast"}',
        b'{"file": "a.wav", "bpm": NaN}',
        b'{"file": "a.wav", "bpm": true}',
        b'{"file": "a.wav", "genre": {}}',
        b'{"file": "a.wav", "tags": ["\\ud800"]}',
        b'{"file": "\\ud800.wav"}',
        b'{"file": "a\\u0000.wav"}',
        b'{"file": "a.wav", "tags": ["\xff"]}',
        b'{"file": "first.wav", "tags": ["other"]}',
        b'{"file": "a.wav", "x": ' + b"[" * 100_000,
        b'{"file": "a.wav", "x": ' + b"9" * 10_000 + b"}",
        b'{"file": "a.wav", "x": "' + b"y" * labelfiles.LONGEST_LINE + b'"}',
    ],
    ids=lambda line: line[:40].decode("ascii", "replace"),
)
def test_a_table_that_is_malformed_names_its_line(tmp_path, line):
    song = sound(tmp_path / "a.wav")
    path = put(tmp_path / "tags.jsonl", b'\xef\xbb\xbf{"file": "first.wav"}\n\n' + line)
    with pytest.raises(PartimentoError, match="PACK013") as err:
        Labels(tmp_path).of(song)
    assert err.value.where == f"{path}, line 3"


def test_other_malformed_labels(tmp_path):
    song = sound(tmp_path / "a.wav")
    for name, content in [
        ("a.json", "{"),
        ("a.json", "[1]"),
        ("a.json", '{"tags": 3}'),
        ("a.json", b'{"caption": "\xff"}'),
        ("a.json", '{"caption": "' + "x" * labelfiles.LARGEST_TEXT + '"}'),
        ("a.txt", b"\xff\xfea"),
        ("a.txt", "x," * labelfiles.LARGEST_TEXT),
        ("metadata.json", '{"a.wav": {"text": "\\ud800"}}'),
        ("metadata.json", "{"),
        ("data.jsonl.gz", gzip.compress(b'{"path": "a.wav"}')[:-6]),
        ("data.jsonl.gz", b"\x1f\x8b" + bytes(40)),
        ("data.jsonl", b"\0"),
    ]:
        path = put(tmp_path / name, content)
        with pytest.raises(PartimentoError, match="PACK013") as err:
            Labels(tmp_path).of(song)
        assert name in err.value.where
        path.unlink()
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(PartimentoError, match="PACK013"):
        Labels(tmp_path).of(song)


def test_a_gzip_bomb_ends_soon(tmp_path):
    line = b'{"path": "a.wav", "tags": ["' + b" " * 500_000 + b'"]}\n'
    bomb = put(tmp_path / "data.jsonl.gz", gzip.compress(line * 400))  # 200 MB in 200 kB
    assert bomb.stat().st_size < 300_000
    with pytest.raises(PartimentoError, match="PACK013") as err:
        manifest_files(bomb)
    assert "unpacks" in err.value.why
    number = int(err.value.where.rpartition(" ")[2])
    assert number * len(line) < 100e6


MUTATIONS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)
TABLE = b'{"file": "a.wav", "tags": ["x", "y"], "bpm": 90}\n{"path": "b.wav", "file": "b.wav", "caption": "\xc3\xa9"}\n'


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MUTATIONS, st.integers(0, 200), st.binary(max_size=20), st.booleans())
def test_mutated_tables_are_read_or_refused(tmp_path, mutations, cut, extra, packed):
    raw = bytearray(gzip.compress(TABLE, mtime=0) if packed else TABLE)
    for place, value in mutations:
        raw[place % len(raw)] = value
    content = bytes(raw[: len(raw) - cut % len(raw)]) + extra
    for name in ("tags.jsonl", "data.jsonl"):
        put(tmp_path / name, content)
        try:
            _, labels = Labels(tmp_path).look(tmp_path / "a.wav")
            assert set(labels) <= set(labelfiles.FIELDS)
            assert all(isinstance(tag, str) and tag.strip() == tag for tag in labels.get("tags", ()))
        except PartimentoError as err:
            assert err.code == "PACK013" and err.where
        (tmp_path / name).unlink()


@pytest.mark.slow
def test_ten_thousand_malformed_labels(tmp_path):
    """Each file that can hold labels, mutated: a coded error, or labels of the right kinds."""
    rng = np.random.default_rng(0)
    row = {"tags": ["x", "é"], "caption": "c", "licence": "CC0", "source": "s", "origin": "o"}
    valid = {
        "tags.jsonl": json.dumps({"file": "a.wav", **row}).encode() + b"\n" + b'{"file": "b.wav", "bpm": 90}\n',
        "data.jsonl.gz": gzip.compress(json.dumps({"path": "a.wav", "duration": 1.0, "genre": "g"}).encode(), mtime=0),
        "metadata.json": json.dumps({"a.wav": {"text": "x, y", "sr": 1}}).encode(),
        "a.json": json.dumps({"moods": ["x"], "bpm": "90", "key": "C", "description": "d", "title": "t"}).encode(),
        "a.txt": "x, é\ny".encode(),
    }
    refused = 0
    for number in range(10_000):
        name = list(valid)[number % len(valid)]
        raw = bytearray(valid[name])
        for _ in range(rng.integers(1, 6)):
            at, kind = int(rng.integers(0, len(raw) or 1)), rng.integers(0, 4)
            if kind == 0 and raw:
                raw[at % len(raw)] = rng.integers(0, 256)
            elif kind == 1:
                del raw[at : at + int(rng.integers(1, 9))]
            elif kind == 2:
                raw[at:at] = rng.bytes(int(rng.integers(1, 9)))
            else:
                raw[at:at] = raw[: int(rng.integers(0, 40))]
        path = put(tmp_path / name, bytes(raw))
        try:
            _, labels = Labels(tmp_path).look(tmp_path / "a.wav")
        except PartimentoError as err:
            assert err.code == "PACK013" and name in err.where
            refused += 1
        else:
            assert set(labels) <= set(labelfiles.FIELDS)
            assert all(isinstance(tag, str) for tag in labels.get("tags", ()))
            assert all(isinstance(labels[key], str) for key in labels.keys() - {"tags"})
            json.dumps(labels, ensure_ascii=False).encode()
        path.unlink()
    assert 2000 < refused < 9500


def test_a_manifest_as_a_source_names_the_recordings_and_their_labels(tmp_path):
    from partimento.codecs import inputs

    (tmp_path / "audio" / "deep").mkdir(parents=True)
    for name in ("a.wav", "deep/b.wav", "not_chosen.wav"):
        soundfile.write(tmp_path / "audio" / name, np.zeros(800, np.float32), 8000)
    manifest = tmp_path / "egs.jsonl"
    rows = [{"path": "audio/a.wav", "duration": 0.1, "keywords": "techno, fast"}, {"path": "audio/deep/b.wav"}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = inputs.collect([manifest])
    assert [file.clip for file in found.files] == ["audio/a.wav", "audio/deep/b.wav"]
    assert found.files[0].tags == ("techno", "fast")
    assert any(note.startswith("labels from: manifest") for note in found.notes)

    elsewhere = tmp_path / "lists" / "egs.jsonl"
    elsewhere.parent.mkdir()
    elsewhere.write_text("".join(json.dumps({**row, "path": f"../{row['path']}"}) + "\n" for row in rows))
    assert [file.clip for file in inputs.collect([elsewhere]).files] == ["a.wav", "deep/b.wav"]

    elsewhere.write_text(json.dumps({"path": "../audio/gone.wav"}) + "\n")
    with pytest.raises(PartimentoError) as caught:
        inputs.collect([elsewhere])
    assert caught.value.code == "TAGS002"
