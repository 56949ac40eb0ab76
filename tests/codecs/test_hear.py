"""Recordings on their way to the codec: decoders that die or hang cost one recording, memory stays bounded."""

import dataclasses
import json
import os
import sys
import time

import numpy as np
import pytest
import soundfile
from test_encode import CODEC, contents, music, wave
from toycodec import ToyCodec

from partimento import commit
from partimento.audio import files
from partimento.audio.child import Decoder
from partimento.audio.loudness import loudness, peak_dbfs
from partimento.codecs import hear, inputs, worker
from partimento.codecs.encode import encode
from partimento.codecs.hear import Ahead, Hearing
from partimento.codecs.worker import Setup, Task
from partimento.errors import PartimentoError
from partimento.tokens.pack import Pack

SPEC = ToyCodec().spec


def test_heard_block_by_block_is_what_is_heard_at_once(tmp_path):
    soundfile.write(tmp_path / "a.flac", wave(1, seconds=9.3, rate=44100, channels=2), 44100)
    (file,) = inputs.collect([tmp_path]).files
    hearing = Hearing(file, SPEC, False, Decoder())
    got_CN = np.concatenate(list(hearing), axis=1)
    audio = files.read(file.path)
    expected_CN = files.resample(files.to_mono(audio.wave_CN), 44100, 8000)
    np.testing.assert_array_equal(got_CN, expected_CN)
    was = hearing.heard
    assert (was.samples, was.channels, was.sample_rate, was.done) == (expected_CN.shape[1], 2, 44100, "downmixed")
    assert was.loudness == pytest.approx(loudness(audio.wave_CN, 44100), abs=1e-9)
    assert was.peak == peak_dbfs(audio.wave_CN) and was.sha256 == commit.sha256(file.path)


def test_readers_are_ahead_in_order_and_only_so_far(tmp_path, monkeypatch):
    monkeypatch.setattr(hear, "ROOM_SECONDS", 1)
    for i in range(5):
        soundfile.write(tmp_path / f"{i}.wav", wave(i, seconds=40, first=i / 10), 8000)
    found = inputs.collect([tmp_path]).files
    channels = Ahead(SPEC, False, 2).open(found)
    while not all(channel._blocks for channel in channels[:2]):
        time.sleep(0.01)
    time.sleep(0.2)
    assert all(channel._held <= 8000 + 131072 for channel in channels)
    assert not any(channel._blocks for channel in channels[2:])  # both readers wait until the codec takes something
    channels[0].close()  # not wanted any more
    for i, channel in list(enumerate(channels))[1:]:
        got_CN = np.concatenate(list(channel), axis=1)
        assert got_CN.shape == (1, 320_000) and got_CN[0, 0] == pytest.approx(i / 10, abs=1e-4)
        assert channel.heard.samples == 320_000


SCRIPT = """
import os, sys, time
from pathlib import Path
from partimento import isolated
from partimento.audio import child

real, seen = child.stream, Path(sys.argv[1])

def stream(path, *rest):
    with seen.open("a") as log:
        log.write(path.name + "\\n")
    times = seen.read_text().splitlines().count(path.name)
    if "dies" in path.name or ("once" in path.name and times == 1):
        os.abort()
    if "hangs" in path.name:
        time.sleep(600)
    return real(path, *rest)

child.stream = stream
isolated.serve(child.answer)
"""


def test_a_decoder_that_dies_or_hangs_is_tried_again_and_costs_one_recording(tmp_path, monkeypatch):
    folder = music(tmp_path / "music", 3)
    for i, name in enumerate(("00 dies.wav", "01 hangs.wav", "02 once.wav")):
        soundfile.write(folder / name, wave(i), 8000)
    log = tmp_path / "log"
    command = [sys.executable, "-c", SCRIPT, str(log)]
    monkeypatch.setattr(hear, "Decoder", lambda: Decoder(stall_seconds=3.0, command=command))
    (tmp_path / "pack").mkdir()
    said = []
    work = inputs.plan(inputs.collect([folder]), SPEC)
    encoder = worker.Worker(Setup(CODEC), tmp_path / "pack", lambda *message: said.append(message))
    record = encoder.encode_unit(Task(work.units[0], {}))
    assert [(r["file"], r["code"]) for r in record.rejects] == [
        ("00 dies.wav", "AUDIO009"),
        ("01 hangs.wav", "AUDIO009"),
    ]
    assert "SIGABRT" in record.rejects[0]["reason"] and "gave nothing" in record.rejects[1]["reason"]
    assert record.hashes == {name: commit.sha256(folder / name) for name in ("00 dies.wav", "01 hangs.wav")}
    assert [row.clip for row in record.clips] == ["00.wav", "01.wav", "02 once.wav", "02.wav"]
    tries = log.read_text().splitlines()
    assert [tries.count(name) for name in ("00 dies.wav", "01 hangs.wav", "02 once.wav", "00.wav")] == [2, 2, 2, 1]
    assert [message[3] for message in said if message[0] == "clip"].count("AUDIO009") == 2


def test_a_file_that_changes_while_it_is_read(tmp_path):
    folder = music(tmp_path / "music", 1)
    (file,) = inputs.collect([folder]).files
    hearing = Hearing(file, SPEC, False, Decoder())
    with pytest.raises(PartimentoError, match="PACK031"):
        for _ in hearing:
            os.utime(file.path, (1, 1))
    assert hearing.heard is None
    file.path.unlink()
    with pytest.raises(PartimentoError, match="SYS004"):
        next(iter(Hearing(file, SPEC, False, Decoder())))


def test_faults_of_a_reader_reach_the_one_who_asked(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a defect")

    folder = music(tmp_path / "music", 1)
    monkeypatch.setattr(hear, "arrange", broken)
    (channel,) = Ahead(SPEC, False, 1).open(inputs.collect([folder]).files)
    with pytest.raises(ZeroDivisionError):
        list(channel)


def test_two_channels_and_upmix_are_counted_and_never_silent(tmp_path):
    folder = music(tmp_path / "music", 2)
    soundfile.write(folder / "wide.wav", wave(7, channels=2), 8000)
    soundfile.write(folder / "six.wav", wave(7, channels=6), 8000)
    report = encode([folder], tmp_path / "pack", codec=CODEC, layout="left-right", books=(2, 1), jobs=1)
    assert report.clips == 1 and report.rejects == {"CODEC011": 3} and report.upmixed == 0
    spec = Pack.open(tmp_path / "pack").spec
    assert (spec.layout, spec.books, spec.codebooks) == ("left-right", (2, 1), 3)
    report = encode([folder], tmp_path / "up", codec=CODEC, layout="left-right", books=(2, 1), upmix=True, jobs=1)
    assert (report.clips, report.upmixed, report.downmixed) == (3, 2, 0) and report.rejects == {"CODEC011": 1}
    with pytest.raises(PartimentoError, match="PACK010"):
        encode([folder], tmp_path / "up", codec=CODEC, layout="left-right", books=(2, 1), jobs=1)


def test_licences_and_aliases(tmp_path):
    folder = music(tmp_path / "music", 3)
    rows = [
        {"file": "00.wav", "licence": "CC BY 4.0", "tags": ["dnb"], "origin": "https://a.example/0"},
        {"file": "01.wav", "licence": "CC BY-NC 4.0"},
    ]
    (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "aliases.toml").write_text('[aliases]\ndnb = "drum and bass"\n')
    report = encode(
        [folder], tmp_path / "pack", codec=CODEC, jobs=1, licence="attribution", aliases=tmp_path / "aliases.toml"
    )
    assert report.clips == 1 and report.rejects == {"LICENCE002": 1, "LICENCE003": 1}
    pack = Pack.open(tmp_path / "pack")
    assert list(pack.clips.tags[0]) == ["drum and bass"] and pack.clips.origin[0] == "https://a.example/0"
    before = contents(tmp_path / "pack")
    with pytest.raises(PartimentoError, match="PACK010"):  # other labels make it another work
        encode([folder], tmp_path / "pack", codec=CODEC, jobs=1)
    assert contents(tmp_path / "pack") == before


def test_the_devices_of_a_machine(monkeypatch):
    monkeypatch.setattr(worker.torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(worker.torch.cuda, "is_available", lambda: False)
    assert worker.devices("auto") == ["cpu"] and worker.devices("cuda") == ["cuda"]
    with pytest.raises(PartimentoError, match="CODEC010"):
        worker.devices("abacus")
    with pytest.raises(PartimentoError, match="CODEC010"):
        Setup(CODEC, device="cuda").open()
    monkeypatch.setattr(worker.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(worker.torch.cuda, "device_count", lambda: 3)
    assert worker.devices("auto") == ["cuda:0", "cuda:1", "cuda:2"] and worker.devices("cpu") == ["cpu"]
    setup = dataclasses.replace(Setup(CODEC), device="cuda:1")
    assert setup.versions()["device"] == "cuda"
