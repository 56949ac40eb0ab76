"""Encode: what goes in comes out exactly, nothing is skipped silently, and a second run changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from toycodec import ToyCodec

from partimento.codecs import inputs, pool
from partimento.codecs.encode import decode, encode
from partimento.codecs.worker import Setup
from partimento.errors import PartimentoError, explanations
from partimento.tokens import pack as packs
from partimento.tokens.pack import Pack
from partimento.tokens.verify import verify

CODEC = "toycodec:open_toy"


def wave(seed, seconds=1.0, rate=8000, channels=1, first=0.0):
    samples = np.random.default_rng(seed).uniform(-0.4, 0.4, (round(seconds * rate), channels)).astype(np.float32)
    samples[0] = first
    return samples


def music(folder, count=10, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        soundfile.write(folder / f"{i:02d}.wav", wave(i, seconds=0.5 + 0.11 * i, **changes), changes.get("rate", 8000))
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def raises(code):
    assert code in explanations()
    return pytest.raises(PartimentoError, match=code)


class Listener:
    def __init__(self):
        self.stages, self.updates, self.notes = [], [], []

    def stage(self, name, why=""):
        self.stages.append(name)

    def update(self, done, total, **facts):
        self.updates.append((done, total, facts))

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One encode of ten recordings, used by the tests that only look."""
    base = tmp_path_factory.mktemp("encode")
    music(base / "music")
    listener = Listener()
    report = encode([base / "music"], base / "pack", codec=CODEC, jobs=2, progress=listener)
    return base, report, listener


def test_the_pack_holds_the_codes_of_each_recording_and_its_exact_length(done):
    base, report, _ = done
    pack = Pack.open(base / "pack", verify="full")
    assert pack.clips.clip == [f"{i:02d}.wav" for i in range(10)]
    for i, name in enumerate(pack.clips.clip):
        samples, _ = soundfile.read(base / "music" / name, dtype="float32")
        assert pack.clips.samples[i] == len(samples)
        expected = ToyCodec().encode(torch.from_numpy(samples)[None, None])[0].numpy()
        np.testing.assert_array_equal(pack.read(i), expected)
        assert pack.clips.sha256[i] and pack.clips.peak[i] < 0
    assert (report.clips, report.files, report.shards, report.made) == (10, 10, 2, 2)
    assert report.fingerprint == pack.fingerprint and report.rejects == {}
    assert sorted(p.name for p in (base / "pack").iterdir()) == [
        "clips.parquet", "journal", "pack.json", "rejects.jsonl", "shards",
    ]  # fmt: skip
    json.dumps(report.to_json())


def test_progress_tells_how_fast_and_how_long(done):
    _, _, listener = done
    assert listener.stages == ["find", "encode", "commit"]
    assert [update[:2] for update in listener.updates] == [(i + 1, 10) for i in range(10)]
    assert set(listener.updates[-1][2]) == {"clips_per_second", "times_real_time", "eta_seconds"}


def test_a_second_run_does_nothing_and_no_place_or_time_is_kept(done, tmp_path):
    base, report, _ = done
    before = contents(base / "pack")
    stamps = {p: p.stat().st_mtime_ns for p in (base / "pack").rglob("*")}
    again = encode([base / "music"], base / "pack", codec=CODEC)
    assert again.made == 0 and again.fingerprint == report.fingerprint
    assert contents(base / "pack") == before
    assert {p: p.stat().st_mtime_ns for p in (base / "pack").rglob("*") if p.is_file()}.items() <= stamps.items()
    elsewhere = music(tmp_path / "moved")
    encode([elsewhere], tmp_path / "pack", codec=CODEC, jobs=1)
    assert contents(tmp_path / "pack") == before
    assert not any(str(base).encode() in content for content in before.values())


def test_damaged_pieces_are_made_anew_and_only_those(tmp_path):
    music(tmp_path / "music")
    pack = tmp_path / "pack"
    encode([tmp_path / "music"], pack, codec=CODEC, jobs=1)
    whole = contents(pack)
    for victim in ("shards/000001.bin", "pack.json", "clips.parquet", "rejects.jsonl", "journal/000000.json"):
        for change in ("cut", "gone"):
            if change == "cut":
                (pack / victim).write_bytes(whole[victim][: len(whole[victim]) // 2] + b"?")
            else:
                (pack / victim).unlink()
            report = encode([tmp_path / "music"], pack, codec=CODEC, jobs=1)
            assert report.made == (victim == "shards/000001.bin")
            if not victim.startswith("journal"):
                assert contents(pack) == whole
            else:  # a finished pack does not need its journal
                (pack / victim).write_bytes(whole[victim])


def test_other_input_labels_or_codec_are_refused(done, tmp_path):
    base, _, _ = done
    pack = base / "pack"
    more = music(tmp_path / "more", 11)
    with raises("PACK010") as err:
        encode([more], pack, codec=CODEC)
    assert "files" in err.value.why
    same = music(tmp_path / "tagged")
    (same / "tags.jsonl").write_text('{"file": "00.wav", "tags": ["x"]}\n')
    with raises("PACK010") as err:
        encode([same], pack, codec=CODEC)
    assert "labels" in err.value.why
    with raises("PACK010") as err:
        encode([base / "music"], pack, codec="toycodec:open_other")
    assert "codec" in err.value.why
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("dear")
    with raises("PACK010"):
        encode([base / "music"], tmp_path / "full", codec=CODEC)
    assert Pack.open(pack, verify="full")


def test_nothing_to_encode(tmp_path):
    with raises("SYS004"):
        encode([tmp_path / "nowhere"], tmp_path / "pack", codec=CODEC)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PartimentoError, match="AUDIO001"):
        encode([tmp_path / "empty"], tmp_path / "pack", codec=CODEC)
    assert not (tmp_path / "pack").exists()


def test_rejects_have_reasons_and_all_rejected_is_an_error(tmp_path):
    folder = music(tmp_path / "music", 3)
    (folder / "noise.wav").write_bytes(b"this is not audio" * 9)
    (folder / "zero.flac").write_bytes(b"")
    report = encode([folder], tmp_path / "pack", codec=CODEC, jobs=1)
    rejects = [json.loads(line) for line in (tmp_path / "pack/rejects.jsonl").read_text().splitlines()]
    assert [r["file"] for r in rejects] == ["noise.wav", "zero.flac"]
    assert all(r["code"] in explanations() and r["reason"] and str(tmp_path) not in r["reason"] for r in rejects)
    assert report.clips == 3 and sum(report.rejects.values()) == 2 and Pack.open(tmp_path / "pack")
    for path in folder.glob("[0-9]*.wav"):
        path.unlink()
    with raises("PACK012") as err:
        encode([folder], tmp_path / "none", codec=CODEC, jobs=1)
    assert "noise.wav" in err.value.why and not (tmp_path / "none/pack.json").exists()


def test_what_is_no_file_or_no_longer_readable_is_a_reject(tmp_path):
    folder = music(tmp_path / "music", 3)
    os.mkfifo(folder / "pipe.wav")
    (folder / "endless.wav").symlink_to("/dev/zero")
    (folder / "gone.wav").write_bytes(b"not audio")
    report = encode([folder], tmp_path / "pack", codec=CODEC, jobs=1)
    assert report.clips == 3 and report.rejects == {"AUDIO002": 1, "SYS004": 2}
    later = (time.time() + 10,) * 2
    os.utime(folder / "pipe.wav", later)
    assert encode([folder], tmp_path / "pack", codec=CODEC, jobs=1).made == 0
    (folder / "01.wav").unlink()
    os.mkfifo(folder / "01.wav")
    os.utime(folder / "01.wav", later)
    with raises("PACK010"):  # another size
        encode([folder], tmp_path / "pack", codec=CODEC, jobs=1)


def test_resampling_and_downmix_are_counted(tmp_path):
    folder = music(tmp_path / "music", 2)
    soundfile.write(folder / "wide.wav", wave(7, channels=2), 8000)
    soundfile.write(folder / "fast.wav", wave(8, rate=16000), 16000)
    encode([folder], tmp_path / "pack", codec=CODEC, jobs=1)
    pack = Pack.open(tmp_path / "pack")
    assert (pack.content["inputs"]["downmixed"], pack.content["inputs"]["resampled"]) == (1, 1)
    assert pack.clips.samples[pack.clip_number("fast.wav")] == 8000


def test_crashes_and_faults_of_a_recording_do_not_end_the_job(tmp_path):
    folder = music(tmp_path / "music", 9)
    soundfile.write(folder / "03.wav", wave(3, first=0.5), 8000)
    soundfile.write(folder / "05.wav", wave(3, first=-0.5), 8000)
    report = encode([folder], tmp_path / "pack", codec="toycodec:open_trap", jobs=2)
    rejects = [json.loads(line) for line in (tmp_path / "pack/rejects.jsonl").read_text().splitlines()]
    assert [(r["file"], r["code"]) for r in rejects] == [("03.wav", "PACK015"), ("05.wav", "PACK015")]
    assert "signal 6" in rejects[0]["reason"] and "exit status 1" in rejects[1]["reason"]
    assert report.clips == 7 and Pack.open(tmp_path / "pack", verify="full")


class Heard(pool.Listener):
    def __init__(self, seen):
        self.seen = seen

    def clip(self, unit, index, seconds, reject):
        self.seen.append(index)


def test_a_hanging_codec_is_ended(tmp_path):
    folder = music(tmp_path / "music", 3)
    work = inputs.plan(inputs.collect([folder]), ToyCodec().spec)
    seen = []
    (tmp_path / "pack").mkdir()
    workers = pool.Pool(Setup("toycodec:open_hang"), tmp_path / "pack", 1, step_seconds=2.0)
    workers.run(work.units, Heard(seen))
    record = json.loads((tmp_path / "pack/journal/000000.json").read_text())
    assert [(r["file"], r["code"]) for r in record["rejects"]] == [("01.wav", "PACK016")]
    assert sorted(set(seen)) == [0, 1, 2] and len(record["clips"]) == 2


def test_codecs_that_do_not_work(tmp_path):
    folder = music(tmp_path / "music", 2)
    for name in ("toycodec:nothing", "nomodule:open", "toycodec:open_broken"):
        with raises("PACK020"):
            encode([folder], tmp_path / "pack", codec=name)
    with pytest.raises(PartimentoError, match="CODEC003"):
        encode([folder], tmp_path / "pack", codec=CODEC, layout="stereo")
    with raises("PACK012") as err:
        encode([folder], tmp_path / "wild", codec="toycodec:open_wild", jobs=1)
    assert "PACK006" in err.value.why
    with raises("PACK018"):
        (tmp_path / "x").mkdir()
        work = inputs.plan(inputs.collect([folder]), ToyCodec().spec)
        pool.Pool(Setup("toycodec:dies_at_the_start"), tmp_path / "x", 1).run(work.units, pool.Listener())


def in_another_process(tmp_path, folder):
    """A slow encode of `folder` into tmp_path/pack, begun."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from partimento.codecs.encode import encode
from partimento.codecs.worker import Setup
from partimento.errors import PartimentoError
if __name__ == "__main__":
    try:
        encode([{str(folder)!r}], {str(tmp_path / "pack")!r}, codec="toycodec:open_slow", jobs=1)
    except PartimentoError as err:
        print(err.code)
"""
    (tmp_path / "other.py").write_text(script)
    other = subprocess.Popen([sys.executable, tmp_path / "other.py"], stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "pack/journal/000000.json").exists():
        assert other.poll() is None
        time.sleep(0.01)
    return other


def test_two_encodes_into_one_folder_do_not_meet_and_ctrl_c_keeps_what_is_done(tmp_path):
    folder = music(tmp_path / "music", 60)
    other = in_another_process(tmp_path, folder)
    with raises("PACK014"):
        encode([folder], tmp_path / "pack", codec="toycodec:open_slow")
    other.send_signal(signal.SIGINT)
    assert other.communicate()[0].strip() == "SYS003" and other.returncode == 0
    kept = len(list((tmp_path / "pack/journal").glob("0*.json")))
    report = encode([folder], tmp_path / "pack", codec="toycodec:open_slow")
    assert kept >= 1 and report.made == report.shards - kept
    assert not list((tmp_path / "pack").rglob("*.tmp*")) and not (tmp_path / "pack/encode.lock").exists()


def test_ctrl_c_shows_one_error_and_no_trace_of_any_process(tmp_path):
    folder = music(tmp_path / "music", 3)
    command = [sys.executable, "-m", "partimento", "encode", str(folder), "--to", str(tmp_path / "pack")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as person:
        for line in person.stderr:
            if line.startswith("== encode"):  # the processes are about to start
                break
        time.sleep(0.5)
        os.killpg(person.pid, signal.SIGINT)
        said = person.stderr.read()
    assert person.returncode == 130 and "Traceback" not in said and said.startswith("error[SYS003]")


def test_dry_run_refuses_what_the_encode_would(done, tmp_path):
    base, _, _ = done
    for to, codec in [(base / "pack", "toycodec:open_other"), (base / "music", CODEC)]:
        with raises("PACK010") as err:
            encode([base / "music"], to, codec=codec, dry_run=True)
    assert "delete" not in err.value.next  # that folder holds the recordings
    (tmp_path / "a file").write_text("")
    with raises("SYS002"):
        encode([base / "music"], tmp_path / "a file", codec=CODEC)


def test_dry_run_estimates_and_writes_nothing(tmp_path):
    folder = music(tmp_path / "music", 4)
    (folder / "bad.wav").write_bytes(b"RIFF")
    report = encode([folder], tmp_path / "pack", codec=CODEC, dry_run=True)
    assert report.dry_run and not (tmp_path / "pack").exists()
    assert (report.files, report.clips, sum(report.rejects.values())) == (5, 4, 1)
    real = encode([folder], tmp_path / "pack", codec=CODEC, jobs=1)
    assert report.seconds == pytest.approx(real.seconds, abs=0.01)
    assert (report.frames, report.bytes) == (real.frames, real.bytes)


def test_decode_gives_the_exact_length(done, tmp_path):
    base, _, _ = done
    pack = Pack.open(base / "pack")
    written = decode(base / "pack", tmp_path / "out")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in written] == [f"{i:02d}.wav.wav" for i in range(10)]
    for number, path in enumerate(written):
        assert soundfile.info(path).frames == pack.clips.samples[number]
    (one,) = decode(base / "pack", tmp_path / "one.flac", clip="03.wav")
    assert one == tmp_path / "one.flac" and soundfile.info(one).frames == pack.clips.samples[3]
    (trip,) = decode(base / "music/03.wav", tmp_path / "trip", codec=CODEC)
    assert soundfile.info(trip).frames == pack.clips.samples[3]
    with raises("PACK019"):
        decode(base / "pack", tmp_path, clip="nobody.wav")
    with raises("PACK009"):
        decode(base / "pack", tmp_path, codec="toycodec:open_other")
    with raises("SYS004"):
        decode(base / "nowhere", tmp_path)


def test_verify_after_encode(done):
    base, _, _ = done
    assert verify(base / "pack").ok
    assert packs.inspect(base / "pack")["inputs"]["grouped_by"] == {".": "file"}


# What is found, and how it is cut.


def touch(path: Path, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"0" * size)
    return path


def test_labels_come_from_the_nearest_table_then_from_sidecars(tmp_path):
    for name in ("a.wav", "b.wav", "c.wav", "sub/d.wav", "sub/e.wav", "f.wav"):
        touch(tmp_path / name)
    rows = [{"file": "a.wav", "tags": ["drums", " 120  bpm", ""], "source": "one", "licence": "CC0"}]
    rows += [{"file": "sub/d.wav", "tags": ["top"], "source": "two"}, {"file": "gone.wav", "tags": []}]
    (tmp_path / "tags.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "sub/tags.jsonl").write_text('{"file": "d.wav", "tags": ["near"], "source": "two"}\n')
    (tmp_path / "b.txt").write_text("piano, slow\nsolo")
    (tmp_path / "b.json").write_text('{"tags": "harp", "caption": "a harp", "license": "BY", "other": 3}')
    (tmp_path / "c.txt").write_text("piano, slow\nsolo")
    found = inputs.collect([tmp_path])
    by = {file.clip: file for file in found.files}
    assert list(by) == sorted(by) == ["a.wav", "b.wav", "c.wav", "f.wav", "sub/d.wav", "sub/e.wav"]
    assert by["a.wav"].tags == ("drums", "120 bpm") and by["a.wav"].licence == "CC0" and by["a.wav"].source == "one"
    assert by["b.wav"].tags == ("harp",) and by["b.wav"].caption == "a harp" and by["b.wav"].licence == "BY"
    assert by["c.wav"].tags == ("piano", "slow", "solo") and by["c.wav"].source == "c.wav"
    assert by["sub/d.wav"].tags == ("near",) and by["sub/d.wav"].source == "two"
    assert by["f.wav"].tags == () and found.grouped_by == {".": "source"}
    assert "gone.wav" in found.notes[0]
    assert found.notes[1:] == ["labels from: tags.jsonl 2, none 2, json 1, prompt 1"]


def test_a_source_that_all_share_is_a_credit_line(tmp_path):
    for name in ("a.wav", "b.wav"):
        touch(tmp_path / name)
    (tmp_path / "tags.jsonl").write_text(
        "".join(json.dumps({"file": f, "source": "us"}) + "\n" for f in ("a.wav", "b.wav"))
    )
    found = inputs.collect([tmp_path])
    assert [file.source for file in found.files] == ["a.wav", "b.wav"] and found.grouped_by == {".": "file"}


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"tags": []}', '{"file": "a.wav", "tags": [1]}', '{"file": "a.wav", "source": 3}']
)
def test_labels_that_cannot_be_read(tmp_path, line):
    touch(tmp_path / "a.wav")
    (tmp_path / "tags.jsonl").write_text('{"file": "a.wav"}\n' + line)
    with raises("PACK013") as err:
        inputs.collect([tmp_path])
    assert "line 2" in err.value.where


def test_several_sources_keep_apart_and_overlaps_count_once(tmp_path):
    for name in ("x/take/a.wav", "y/take/a.wav", "y/take/deep/b.wav"):
        touch(tmp_path / name)
    found = inputs.collect(
        [tmp_path / "x/take", tmp_path / "y/take", tmp_path / "y/take/deep", tmp_path / "x/take/a.wav"]
    )
    assert [file.clip for file in found.files] == ["take-2/a.wav", "take-2/deep/b.wav", "take/a.wav"]


def test_units_are_cut_by_count_and_size_and_depend_on_the_input_alone(tmp_path):
    spec = ToyCodec().spec

    def files(count, size=10, tag=()):
        return inputs.Inputs([inputs.Input(f"{i:05d}", Path("/nowhere"), size, "s", tag) for i in range(count)], {})

    assert [len(u.files) for u in inputs.plan(files(20), spec).units] == [8, 8, 4]
    assert [len(u.files) for u in inputs.plan(files(5, 40 * 2**20), spec).units] == [1] * 5
    many = inputs.plan(files(20_000), spec)
    assert len(many.units) <= inputs.MOST_UNITS and sum(len(u.files) for u in many.units) == 20_000
    one, same = inputs.plan(files(20), spec), inputs.plan(files(20), spec)
    assert [u.id for u in one.units] == [u.id for u in same.units] and len({u.id for u in one.units}) == 3
    others = (files(21), files(20, 11), files(20, tag=("x",)))
    assert all(inputs.plan(other, spec).units[0].id != one.units[0].id for other in others)
    assert inputs.plan(files(20), ToyCodec(weights="2" * 64).spec).units[0].id != one.units[0].id


def test_names_and_links_and_notes_of_one_recording_cost_it_alone(tmp_path):
    folder = music(tmp_path / "music", 3)
    (folder / "broken.wav").symlink_to(tmp_path / "gone.wav")
    (folder / "latin.wav").write_bytes((folder / "00.wav").read_bytes())
    (folder / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    odd = os.fsencode(folder) + b"/odd\xff.wav"
    with open(odd, "wb") as file:  # noqa: PTH123 - pathlib has no names of bytes
        file.write((folder / "01.wav").read_bytes())
    report = encode([folder], tmp_path / "pack", codec=CODEC, jobs=1)
    assert report.rejects == {"PACK013": 1, "PACK038": 1, "SYS004": 1} and report.clips == 3
    rejects = {row["file"]: row["code"] for row in map(json.loads, (tmp_path / "pack/rejects.jsonl").open())}
    assert rejects == {"broken.wav": "SYS004", "latin.wav": "PACK013", "odd\\xff.wav": "PACK038"}
    assert encode([folder], tmp_path / "pack", codec=CODEC, jobs=1).made == 0


def test_decode_passes_over_no_option(tmp_path):
    folder = music(tmp_path / "music", 1)
    encode([folder], tmp_path / "pack", codec=CODEC, jobs=1)
    for source, to, options in (
        (tmp_path / "pack", "out", {"upmix": True}),
        (tmp_path / "pack", "out", {"layout": "mid-side"}),
        (folder / "00.wav", "out", {"clip": "00.wav", "codec": CODEC}),
        (tmp_path / "pack", "out.mp3", {"clip": "00.wav"}),
    ):
        with raises("SYS006"):
            decode(source, tmp_path / to, **options)
    assert not (tmp_path / "out.mp3").exists() and not (tmp_path / "out").exists()


def test_a_dry_run_needs_no_gpu(tmp_path):
    """Tasks for GPUs are submitted from machines that have none."""
    folder = music(tmp_path / "music", 1)
    assert encode([folder], tmp_path / "pack", codec=CODEC, device="cuda:0", dry_run=True).clips == 1
