"""Kill -9 at random moments of an encode, until so many kills are done; then hold what is left against an encode that
nobody disturbed.

    python bench/kill_encode.py [--kills 50] [--files 48] [--codec kill_encode:toy] [--jobs 2] [--seed 0]

After each kill every file that is visible (not *.tmp*) must be byte-identical to the undisturbed pack's: a torn file
would differ. Each time an encode gets through, the whole pack must be; then the next one starts from nothing. Prints a
table, and a JSON line last. Exit status 1 if anything differed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from partimento import commit, keyed
from partimento.commit import TMP
from partimento.progress import Quiet


def toy() -> Any:
    """A codec that takes its time and depends on nothing: 16 kHz, hop 320, two books of 256.

    Opening it also makes the disk of its process slow, or hardly any kill would fall into a write.
    """
    import torch

    commit._write = _write_slowly

    from partimento.tokens.spec import CodecSpec

    class Toy:
        spec = CodecSpec("kill_encode:toy", "0" * 64, 16000, Fraction(50), (256, 256))
        context_frames = 0

        def encode(self, wave_BCN: torch.Tensor) -> torch.Tensor:
            time.sleep(0.06)
            frames = self.spec.frames(wave_BCN.shape[-1])
            cut = torch.nn.functional.pad(wave_BCN[:, 0], (0, frames * 320 - wave_BCN.shape[-1])).reshape(
                -1, frames, 320
            )
            return ((torch.stack([cut.mean(-1), cut[..., 0]], -1).clamp(-1, 1) + 1) * 127.5).round().long()

        def decode(self, codes_BTK: torch.Tensor) -> torch.Tensor:
            return (codes_BTK[..., 1].float() / 127.5 - 1)[:, None, :, None].expand(-1, 1, -1, 320).flatten(2)

    return Toy()


def _write_slowly(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        for start in range(0, len(content), 1 + len(content) // 10):
            stream.write(content[start : start + 1 + len(content) // 10])
            stream.flush()
            time.sleep(0.02)


def make_music(folder: Path, count: int) -> None:
    import soundfile

    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 16000 + 777 * number).astype(np.float32)
        soundfile.write(folder / f"{number:03d}.wav", noise, 16000)
    (folder / "broken.wav").write_bytes(b"RIFF but not a WAV")  # so that there is a reject to keep
    rows = ({"file": f"{number:03d}.wav", "tags": [f"tag {number % 3}"]} for number in range(count))
    (folder / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def contents(pack: Path) -> dict[str, bytes]:
    return {str(path.relative_to(pack)): path.read_bytes() for path in sorted(pack.rglob("*")) if path.is_file()}


class Encoder:
    """An encode in a process group of its own."""

    def __init__(self, music: Path, pack: Path, codec: str, jobs: int) -> None:
        command = [sys.executable, __file__, "--child", str(music), str(pack), codec, str(jobs)]
        self.process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)

    def reaches(self, phase: str) -> None:
        """Wait until it says that it begins (`begin`), or that the first recording is coded (`work`), or it ends."""
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline().strip()) and line != phase:
            pass

    def wait(self) -> None:
        if self.process.wait() != 0:
            raise SystemExit(f"an undisturbed encode failed with status {self.process.returncode}")

    def kill_after(self, seconds: float) -> bool:
        """True if it was still at work then."""
        try:
            if self.process.wait(timeout=seconds) != 0:
                raise SystemExit(f"an encode failed by itself with status {self.process.returncode}")
            return False
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return True


class Phases(Quiet):
    """Tells the parent where the encode is."""

    def __init__(self) -> None:
        self.said = False

    def update(self, done: float, total: float, **facts: str | float | int) -> None:
        self._say()

    def stage(self, name: str, why: str = "") -> None:
        if name == "commit":
            self._say()

    def _say(self) -> None:
        if not self.said:
            print("work", flush=True)
        self.said = True


def child(music: str, pack: str, codec: str, jobs: str) -> None:
    from partimento.codecs.encode import encode

    print("begin", flush=True)
    encode([music], pack, codec=codec, jobs=int(jobs), progress=Phases())


def run(kills: int, files: int, codec: str, jobs: int, seed: int, base: Path) -> dict[str, Any]:
    music, pack = base / "music", base / "pack"
    make_music(music, files)
    encoder = Encoder(music, base / "whole", codec, jobs)
    encoder.reaches("begin")
    start = time.monotonic()
    encoder.reaches("work")
    work = time.monotonic()
    encoder.wait()
    span = {"begin": time.monotonic() - start, "work": time.monotonic() - work}
    whole = contents(base / "whole")
    print(f"undisturbed: {span['begin']:.2f} s, of which {span['work']:.2f} s at work, {len(whole)} files\n")
    print(f"{'kill':>4} {'since':>6} {'after':>7} {'shards':>7} {'records':>8} {'left .tmp':>9}  visible files")
    began = time.monotonic()
    killed = completed = torn = left_behind = 0
    while killed < kills or not completed:
        encoder = Encoder(music, pack, codec, jobs)
        # Every fourth falls anywhere, start-up and looking back included; the others while shards are written.
        phase = "work" if (killed + completed) % 4 else "begin"
        delay = keyed.uniform("kill", seed, killed, completed) * span[phase]
        encoder.reaches(phase)
        hit = encoder.kill_after(delay if killed < kills else 600)
        seen = contents(pack) if pack.exists() else {}
        visible = {name: data for name, data in seen.items() if TMP not in name and name != "encode.lock"}
        bad = sorted(name for name, data in visible.items() if whole.get(name) != data)
        torn += len(bad)
        if hit:
            killed += 1
            tmp = sum(TMP in name for name in seen)
            left_behind += tmp
            shards, records = (sum(name.startswith(kind) for name in visible) for kind in ("shards/", "journal/0"))
            verdict = f"DIFFER: {bad}" if bad else "ok"
            print(f"{killed:4d} {phase:>6} {delay:6.2f}s {shards:7d} {records:8d} {tmp:9d}  {verdict}", flush=True)
        else:
            completed += 1
            same = seen == whole
            torn += not same
            print(f"     complete {completed}: {'byte-identical' if same else 'DIFFERENT'}")
            shutil.rmtree(pack)
    return {
        "bench": "kill_encode",
        "codec": codec,
        "kills": killed,
        "completed": completed,
        "differing_files": torn,
        "tmp_files_left_by_kills": left_behind,
        "identical": torn == 0,
        "files": len(whole),
        "undisturbed_seconds": round(span["begin"], 2),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--files", type=int, default=48)
    parser.add_argument("--codec", default="kill_encode:toy")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        result = run(given.kills, given.files, given.codec, given.jobs, given.seed, Path(base))
    print(json.dumps(result))
    return 0 if result["identical"] else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
