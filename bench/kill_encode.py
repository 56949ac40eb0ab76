"""Kill -9 at random moments of an encode, until so many kills are done; then hold what is left against an encode that
nobody disturbed.

    python bench/kill_encode.py [--kills 50] [--claim-kills 50] [--files 48] [--codec kill_encode:toy] [--jobs 2]

First a plain encode is killed, then, of two that share the work with --claim, one or the other, while the other one
goes on. After each kill every file that is visible (not *.tmp*) must be byte-identical to the undisturbed pack's: a
torn file would differ. Each time an encode gets through, the whole pack must be; then the next one starts from nothing.
Prints a table, and a JSON line last. Exit status 1 if anything differed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


def _write_slowly(path: Path, content: bytes | Sequence[bytes | memoryview]) -> None:
    content = content if isinstance(content, bytes) else b"".join(content)
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
    found = {}
    for path in sorted(pack.rglob("*")) if pack.exists() else ():
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # of those who are still at work
            found[str(path.relative_to(pack))] = path.read_bytes()
    return found


def visible(seen: dict[str, bytes]) -> dict[str, bytes]:
    """Without what readers never look at."""
    return {n: data for n, data in seen.items() if TMP not in n and ".lock" not in n and not n.startswith("claims/")}


class Encoder:
    """An encode in a process group of its own."""

    def __init__(self, music: Path, pack: Path, codec: str, jobs: int, claim: bool = False) -> None:
        command = [sys.executable, __file__, "--child", str(music), str(pack), codec, str(jobs), "claim" * claim]
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


def child(music: str, pack: str, codec: str, jobs: str, claim: str) -> None:
    from partimento.codecs.encode import encode

    print("begin", flush=True)
    encode([music], pack, codec=codec, jobs=int(jobs), claim=bool(claim), progress=Phases())


@dataclass
class Tally:
    """What was seen, of one way to encode."""

    whole: dict[str, bytes]
    killed: int = 0
    completed: int = 0
    torn: int = 0
    left_behind: int = 0

    def look(self, pack: Path, since: str, delay: float) -> None:
        """After a kill: what is visible must be what it is in the whole pack."""
        seen = contents(pack)
        there = visible(seen)
        bad = sorted(name for name, data in there.items() if self.whole.get(name) != data)
        tmp = sum(TMP in name for name in seen)
        self.killed += 1
        self.torn += len(bad)
        self.left_behind += tmp
        shards, records = (sum(name.startswith(kind) for name in there) for kind in ("shards/", "journal/0"))
        verdict = f"DIFFER: {bad}" if bad else "ok"
        print(f"{self.killed:4d} {since:>6} {delay:6.2f}s {shards:7d} {records:8d} {tmp:9d}  {verdict}", flush=True)

    def complete(self, pack: Path) -> None:
        same = contents(pack) == self.whole
        self.completed += 1
        self.torn += not same
        print(f"     complete {self.completed}: {'byte-identical' if same else 'DIFFERENT'}", flush=True)
        shutil.rmtree(pack)


def kill_one(tally: Tally, kills: int, start: Callable[[bool], Encoder], pack: Path, seed: int, span: Any) -> None:
    """A plain encode, killed and started again."""
    while tally.killed < kills or (kills and not tally.completed):
        encoder = start(False)
        # Every fourth falls anywhere, start-up and looking back included; the others while shards are written.
        phase = "work" if (tally.killed + tally.completed) % 4 else "begin"
        delay = keyed.uniform("kill", seed, tally.killed, tally.completed) * span[phase]
        encoder.reaches(phase)
        if encoder.kill_after(delay if tally.killed < kills else 600):
            tally.look(pack, phase, delay)
        else:
            tally.complete(pack)


def kill_of_two(tally: Tally, kills: int, start: Callable[[bool], Encoder], pack: Path, seed: int, span: Any) -> None:
    """Two that share the work; one is killed and replaced while the other goes on."""
    pair: list[Encoder] = []
    while tally.killed < kills or (kills and not tally.completed):
        pair += [start(True) for _ in range(2 - len(pair))]
        number = int(keyed.uniform("victim", seed, tally.killed, tally.completed) * 2)
        phase = "work" if (tally.killed + tally.completed) % 4 else "begin"
        if phase == "begin":
            pair[-1].reaches(phase)
        else:
            pair[number].reaches(phase)
        delay = keyed.uniform("kill of two", seed, tally.killed, tally.completed) * span[phase] / 2
        if pair[number].kill_after(delay if tally.killed < kills else 600):
            tally.look(pack, phase, delay)
        pair.pop(number)
        if (pack / "pack.json").exists():
            for one in pair:
                one.wait()
            pair.clear()
            start(True).wait()  # whoever comes last takes away what the killed left
            tally.complete(pack)
    for one in pair:
        one.wait()


def run(kills: int, claim_kills: int, files: int, codec: str, jobs: int, seed: int, base: Path) -> dict[str, Any]:
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
    print(f"undisturbed: {span['begin']:.2f} s, of which {span['work']:.2f} s at work, {len(whole)} files")
    began = time.monotonic()
    tallies = {"plain": Tally(whole), "claim": Tally(whole)}
    for name, wanted, kill in (("plain", kills, kill_one), ("claim", claim_kills, kill_of_two)):
        head = f"{'kill':>4} {'since':>6} {'after':>7} {'shards':>7} {'records':>8} {'left .tmp':>9}  visible files"
        print(f"\n{name}\n{head}")
        kill(tallies[name], wanted, lambda claim: Encoder(music, pack, codec, jobs, claim), pack, seed, span)
    torn = sum(tally.torn for tally in tallies.values())
    return {
        "bench": "kill_encode",
        "codec": codec,
        "kills": sum(tally.killed for tally in tallies.values()),
        "claim_kills": tallies["claim"].killed,
        "completed": sum(tally.completed for tally in tallies.values()),
        "differing_files": torn,
        "tmp_files_left_by_kills": sum(tally.left_behind for tally in tallies.values()),
        "identical": torn == 0,
        "files": len(whole),
        "undisturbed_seconds": round(span["begin"], 2),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--claim-kills", type=int, default=50)
    parser.add_argument("--files", type=int, default=48)
    parser.add_argument("--codec", default="kill_encode:toy")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        result = run(given.kills, given.claim_kills, given.files, given.codec, given.jobs, given.seed, Path(base))
    print(json.dumps(result))
    return 0 if result["identical"] else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
