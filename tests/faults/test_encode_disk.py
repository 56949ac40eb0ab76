"""A disk that fails at the n-th operation of an encode, for n = 1, 2, 3, ... until it gets through (as SQLite is
tested): each failure is SYS002, what is visible is whole, and a later call completes the same pack."""

import errno
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from partimento import commit
from partimento.codecs import encode as encoding
from partimento.codecs import journal, worker
from partimento.codecs.encode import encode
from partimento.codecs.worker import Task
from partimento.errors import PartimentoError
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec


class LoudnessCodec:
    """One book: the mean level of each 10 ms, in 256 steps."""

    spec = CodecSpec("test_encode_disk:open_codec", "0" * 64, 8000, Fraction(100), (256,))
    context_frames = 0

    def encode(self, wave_BCN):
        frames = self.spec.frames(wave_BCN.shape[-1])
        cut = torch.nn.functional.pad(wave_BCN[:, 0], (0, frames * 80 - wave_BCN.shape[-1])).reshape(-1, frames, 80)
        return (cut.abs().mean(-1, keepdim=True).clamp(0, 1) * 255).round().long()

    def decode(self, codes_BTK):
        return (codes_BTK.float() / 255).transpose(1, 2).repeat_interleave(80, dim=-1)


def open_codec():
    return LoudnessCodec()


CODEC = "test_encode_disk:open_codec"


class InThisProcess:
    """Stands in for the pool, so that faults can be put into the process that writes."""

    def __init__(self, setup, pack, jobs, devices):
        self.setup, self.pack, self.jobs, self.devices = setup, pack, jobs, devices

    def run(self, units, listener):
        encoder = worker.Worker(self.setup, self.pack, lambda *_: None)
        for unit in units:
            journal.write(self.pack, encoder.encode_unit(Task(unit, {})))
            listener.unit(unit)


class Disk:
    """Counts writes, fsyncs and renames, and fails from the n-th on (a full disk stays full)."""

    def __init__(self, monkeypatch):
        self.fails_at = self.count = 0
        self._real_fsync, self._real_replace = os.fsync, os.replace
        monkeypatch.setattr(commit, "_write", self._write)
        monkeypatch.setattr(commit.os, "fsync", self._fsync)
        monkeypatch.setattr(commit.os, "replace", self._replace)

    def _strike(self):
        self.count += 1
        if self.fails_at and self.count >= self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write(self, path, content):
        content = content if isinstance(content, bytes) else b"".join(content)
        try:
            self._strike()
        except OSError:
            Path(path).write_bytes(content[: len(content) // 2])  # a full disk takes a part
            raise
        Path(path).write_bytes(content)

    def _fsync(self, handle):
        self._strike()
        self._real_fsync(handle)

    def _replace(self, source, target):
        self._strike()
        self._real_replace(source, target)


def music(folder, count=10):
    folder.mkdir()
    for i in range(count):
        samples = np.random.default_rng(i).uniform(-0.5, 0.5, 4000 + 90 * i).astype(np.float32)
        soundfile.write(folder / f"{i}.wav", samples, 8000)
    return folder


def visible(pack):
    files = (p for p in sorted(pack.rglob("*")) if p.is_file() and commit.TMP not in p.name)
    return {str(p.relative_to(pack)): p.read_bytes() for p in files}


def test_the_disk_fails_at_every_operation_once(tmp_path, monkeypatch):
    folder = music(tmp_path / "music")
    monkeypatch.setattr(encoding, "Pool", InThisProcess)
    encode([folder], tmp_path / "whole", codec=CODEC)
    whole = visible(tmp_path / "whole")
    disk = Disk(monkeypatch)
    for n in range(1, 200):
        pack = tmp_path / f"pack{n}"
        disk.fails_at, disk.count = n, 0
        try:
            encode([folder], pack, codec=CODEC)
        except PartimentoError as err:
            assert err.code == "SYS002" and err.next
        else:
            break
        seen = visible(pack)
        assert all(whole[name] == data for name, data in seen.items())
        disk.fails_at = 0
        encode([folder], pack, codec=CODEC)
        assert visible(pack) == whole
    assert n > 20  # it did fail in many places before it got through
    assert visible(pack) == whole


def test_a_file_system_that_is_really_full(tmp_path):
    """Needs the right to mount; the test above covers the same where there is none."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        folder = music(tmp_path / "music", 40)
        ballast = place / "ballast"
        ballast.write_bytes(b"0" * 12 * 4096)
        with pytest.raises(PartimentoError, match="SYS002"):
            encode([folder], place / "pack", codec=CODEC, jobs=1)
        ballast.write_bytes(b"0" * 4 * 4096)
        with pytest.raises(PartimentoError, match="SYS002"):
            encode([folder], place / "pack", codec=CODEC, jobs=1)
        finished = [p.name for p in (place / "pack/journal").glob("0*.json")]
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", place], check=True)
        report = encode([folder], place / "pack", codec=CODEC, jobs=1)
        assert finished and report.made == report.shards - len(finished)
        assert Pack.open(place / "pack", verify="full")
    finally:
        subprocess.run(["umount", place], check=True)
