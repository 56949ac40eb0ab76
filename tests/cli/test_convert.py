"""`pack import`, `pack export` and `convert` as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from partimento.cli.main import main
from partimento.codecs.codec import decode_whole, open_codec
from partimento.codecs.imports import import_pack
from partimento.errors import PartimentoError
from partimento.tokens import npq, npqtext
from partimento.tokens.npq import NpqFile
from partimento.tokens.pack import Pack
from partimento.tokens.tags import read_aliases
from partimento.tokens.writer import PackWriter


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture(scope="module")
def resident():
    return open_codec()


def resident_pack(folder: Path, spec: object) -> Pack:
    writer = PackWriter(folder, spec)  # type: ignore[arg-type]
    for i, name in enumerate(("one", "../two", "sub/three.wav")):
        rng = np.random.default_rng(i)
        codes = np.stack([rng.integers(0, v, 20 + i) for v in spec.cardinalities], axis=1)  # type: ignore[attr-defined]
        samples = spec.samples(20 + i) - 7  # type: ignore[attr-defined]
        writer.add(codes, clip=name, tags=["piano"], caption="x", licence="CC0-1.0", samples=samples, source="song")
    return writer.finish()


def test_a_pack_goes_out_and_comes_back(tmp_path, capsys, resident):
    pack = resident_pack(tmp_path / "pack", resident.spec)
    status, out, err = run(
        capsys, "pack", "export", tmp_path / "pack", "--to", tmp_path / "out", "--format", "npq1", "-q"
    )
    assert (status, err) == (0, "") and (tmp_path / "out" / "__" / "two.npq").is_file()
    assert len(out.splitlines()) == 3
    status, out, err = run(capsys, "pack", "import", tmp_path / "out", "--to", tmp_path / "back", "--json", "-q")
    found = json.loads(out)
    assert (status, found["clips"], found["rejects"], found["assumed"]) == (0, 3, {}, [])
    back = Pack.open(tmp_path / "back", verify="full")
    assert back.spec == pack.spec
    for name in pack.clips.clip:
        np.testing.assert_array_equal(back.read(back.clip_number(name)), pack.read(pack.clip_number(name)))
    status, out, _ = run(capsys, "pack", "import", tmp_path / "out", "--to", tmp_path / "back")
    assert status == 2 and "CONVERT012" in _


def test_audio_out_is_what_the_codec_decodes_with_its_exact_length(tmp_path, capsys, resident):
    pack = resident_pack(tmp_path / "pack", resident.spec)
    for format in ("wav", "flac"):
        folder = tmp_path / format
        args = ("pack", "export", tmp_path / "pack", "--to", folder, "--format", format, "--clip", "../two", "-q")
        assert run(capsys, *args)[0] == 0
        wave, rate = soundfile.read(folder / "__" / f"two.{format}", dtype="float32")
        expected = decode_whole(resident, pack.read(1), samples=int(pack.clips.samples[1]))
        assert rate == resident.spec.sample_rate and len(wave) == int(pack.clips.samples[1])
        np.testing.assert_allclose(wave, np.clip(expected[0], -1, 1), atol=1.1 / 2**15)
        row = json.loads((folder / "tags.jsonl").read_text())
        assert (row["file"], row["tags"], row["licence"]) == (f"__/two.{format}", ["piano"], "CC0-1.0")


def test_the_named_codec_is_held_against_the_files(tmp_path, resident):
    spec = resident.spec
    k, cardinality = spec.codebooks, spec.cardinalities[0]
    codes = np.random.default_rng(0).integers(0, cardinality, (40, k))
    for name, fps in (("good", float(spec.frame_rate)), ("bad", 50.0)):
        (tmp_path / name).mkdir()
        file = NpqFile(codes, spec.cardinalities, fps, 0.0, k, 0, "mono", "npq1")
        npq.write(tmp_path / name / "a.npq", file, version="npq1")
    report = import_pack(tmp_path / "good", tmp_path / "pack", codec="resident-44k")
    assert Pack.open(tmp_path / "pack").spec == spec and report.assumed == []
    with pytest.raises(PartimentoError, match="CONVERT007"):
        import_pack(tmp_path / "bad", tmp_path / "other", codec="resident-44k")
    with pytest.raises(PartimentoError, match="CONVERT007"):
        import_pack(tmp_path / "good", tmp_path / "other", codec="resident-44k", sample_rate=44100)
    assert not (tmp_path / "other").exists()


def test_single_files_and_wrong_rates(tmp_path, capsys):
    file = NpqFile(np.array([[221], [0]]), (1024,), 50.0, 0.0, 1, 0, "mono", "npq1")
    npq.write(tmp_path / "a.npq", file, version="npq1")
    status, out, _ = run(capsys, "convert", tmp_path / "a.npq", tmp_path / "a.txt")
    assert status == 0 and "text" in out and (tmp_path / "a.txt").read_text().endswith("\n\na6X\na0\n")
    assert json.loads(run(capsys, "convert", tmp_path / "a.txt", tmp_path / "b.npq2", "--json")[1])["format"] == "npq2"
    np.save(tmp_path / "c.npy", np.zeros((100, 7), dtype=np.int16))
    status, _, err = run(capsys, "pack", "import", tmp_path / "c.npy", "--to", tmp_path / "pack", "-q")
    assert status == 2 and "CONVERT004" in err
    rates = ("--sample-rate", 44100, "--frame-rate", "44100/512", "--cardinality", 256)
    status, out, _ = run(capsys, "pack", "import", tmp_path / "c.npy", "--to", tmp_path / "pack", *rates, "-q")
    assert status == 0 and "11025/128 frames/s" in out
    assert run(capsys, "pack", "import", tmp_path / "c.npy", "--to", tmp_path / "p", "--frame-rate", "0/0")[0] == 2


def test_a_killed_import_leaves_nothing_visible_and_the_next_one_cleans_up(tmp_path):
    (tmp_path / "in").mkdir()
    file = NpqFile(np.zeros((50, 9), dtype=np.int64), (1024,) * 9, 50.0, 0.0, 9, 0, "mono", "npq1")
    npq.write(tmp_path / "in" / "a.npq", file, version="npq1")
    code = (
        "import os, sys\nfrom partimento.tokens import writer\nfrom partimento.tokens.convert.build import build_pack\n"
        "writer.finish = lambda *a, **k: os.kill(os.getpid(), 9)\nbuild_pack(sys.argv[1], sys.argv[2])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "in", tmp_path / "pack"], capture_output=True)
    assert done.returncode == -9 and not (tmp_path / "pack").exists()
    assert len(list(tmp_path.iterdir())) == 2  # what it was writing, under a temporary name
    import_pack(tmp_path / "in", tmp_path / "pack")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "pack"]


def test_a_name_that_is_not_text_costs_its_file_only(tmp_path, capsys):
    for name in ("one.npq", os.fsdecode(b"caf\xe9.npq")):
        write(tmp_path / "in" / name)
    status, out, _ = run(capsys, "pack", "import", tmp_path / "in", "--to", tmp_path / "pack", "--json", "-q")
    assert (status, json.loads(out)["rejects"]) == (0, {"CONVERT014": 1})
    assert list(Pack.open(tmp_path / "pack", verify="full").clips.clip) == ["one"]
    reject = json.loads((tmp_path / "pack" / "rejects.jsonl").read_text(encoding="utf-8"))
    assert os.fsencode(reject["file"]) == b"caf\xe9.npq"


def test_inspect_tells_what_an_npq_file_says(tmp_path, capsys):
    write(tmp_path / "a.npq")
    status, out, _ = run(capsys, "pack", "inspect", tmp_path / "a.npq", "--json")
    assert status == 0 and json.loads(out) == npq.describe(tmp_path / "a.npq")
    (tmp_path / "b.npq").write_bytes((tmp_path / "a.npq").read_bytes()[:-3])
    status, out, _ = run(capsys, "pack", "inspect", tmp_path / "b.npq", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (4, "NPQ003")


def test_what_is_damaged_is_told_to_machines_in_one_object(tmp_path, capsys, resident):
    pack = resident_pack(tmp_path / "pack", resident.spec)
    (tmp_path / "pack" / pack.shards[0].file).unlink()
    status, out, err = run(capsys, "pack", "verify", tmp_path / "pack", "--json")
    found = json.loads(out)
    assert (status, err, found["ok"], found["error"]["code"]) == (4, "", False, "PACK021")
    assert [one["code"] for one in found["damage"]] == ["PACK005"]


def test_what_the_text_form_loses_is_told(tmp_path, capsys):
    write(tmp_path / "a.npq")
    status, out, _ = run(capsys, "convert", tmp_path / "a.npq", tmp_path / "a.txt", "--json")
    assert (status, json.loads(out)["lost"]) == (0, None)
    file = npq.read(tmp_path / "a.npq")
    npq.write(tmp_path / "b.npq", replace(file, fps=86.1328125, kbps=12.5), version="npq1")
    status, out, _ = run(capsys, "convert", tmp_path / "b.npq", tmp_path / "b.txt", "--json")
    assert (status, json.loads(out)["lost"]) == (0, ["the bitrate", "the frame rate beyond four decimals"])


def test_a_pipe_is_refused_and_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "a.npq")
    assert run(capsys, "convert", tmp_path / "a.npq", tmp_path / "a.txt")[0] == 3
    with pytest.raises(PartimentoError, match="SYS004"):
        npqtext.read(tmp_path / "a.npq")
    with pytest.raises(PartimentoError, match="TAGS001"):
        read_aliases(tmp_path / "a.npq")


def write(path: Path) -> None:
    codes_TK = np.arange(20, dtype=np.uint16).reshape(10, 2)
    npq.write(path, NpqFile(codes_TK, (1024, 1024), 50.0, 0.0, 2, 0, "mono", "npq1"), version="npq1")
