"""Restoring in chunks against the whole at once, and memory over length; on this CPU.

    python bench/restore_long.py                                   every network as designed: half a minute
    python bench/restore_long.py --nets spectral --minutes 1,60    a minute and an hour through one: 3 minutes
    python bench/restore_long.py --restorer FOLDER                 a run, or a folder of weights

The networks have random weights, also in the last layer, which begins at zero: what they make is noise, but it hangs on
all that they hear. The sound is the synthetic band. Printed are:

reach     samples on each side that one sample of output depends on
seams     largest difference to the whole at once, in dB below its peak
x CPU     seconds of one channel restored per second of CPU, in chunks
silence   dBFS of what the network itself makes of silence, which `restore` keeps silent
MB        most memory of the command that restores a stereo FLAC of this length (the process, without its decoder)

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partimento.audio import stream
from partimento.audio.synth import band
from partimento.training.restorer import CARD, WEIGHTS, load_restorer, write_folder
from partimento.waveform.generators import Generator, GeneratorConfig, make_generator
from partimento.waveform.restore import restore_stream

NETS = ("spectral", "dac", "convnext", "patch", "melgan")
RATE = 44100


@dataclass
class Result:
    name: str
    parameters: int
    reach: int
    seams_db: float
    x_cpu_time: float
    silence_dbfs: float
    megabytes: dict[str, float] = field(default_factory=dict)


def music(seconds: float) -> NDArray[np.float32]:
    """Loops of the band, one after the other, [1, N]."""
    parts: list[NDArray[np.float32]] = []
    while sum(len(part) for part in parts) < seconds * RATE:
        parts.append(band(0, len(parts)).wave_CN[0])
    return np.concatenate(parts)[None, : round(seconds * RATE)]


def drawn(net: str) -> Generator:
    torch.manual_seed(0)
    made = make_generator(GeneratorConfig.of(net))
    for weight in made.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    return made.eval().requires_grad_(False)


def measure(name: str, generator: Generator, seconds: float) -> Result:
    wave_CN = music(seconds)
    whole = generator(torch.from_numpy(wave_CN)).numpy()
    began = time.process_time()
    made = np.concatenate(list(restore_stream(generator, [wave_CN])), axis=1)
    took = time.process_time() - began
    silence = generator(torch.zeros(1, 4 * generator.context + RATE)).abs().max()
    return Result(
        name,
        sum(parameter.numel() for parameter in generator.parameters()),
        generator.context,
        _db(np.abs(made - whole).max() / np.abs(whole).max()),
        seconds / took,
        _db(float(silence)),
    )


def _db(ratio: float) -> float:
    return float(20 * np.log10(max(ratio, 1e-10)))


def memory(restorer: Path, minutes: float, folder: Path) -> float:
    """Peak of the command in MB, over a FLAC of that many minutes."""
    source = folder / f"{minutes:g}min.flac"
    minute_CN = np.repeat(music(60), 2, axis=0)
    part_CN = minute_CN[:, : round(60 * RATE * min(1.0, minutes))]
    stream.write(source, (part_CN for _ in range(max(1, round(minutes)))), RATE)
    out = folder / f"{restorer.name}-{minutes:g}"
    command = [sys.executable, "-m", "partimento", "restore", str(restorer), str(source), "--to", str(out), "-q"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    source.unlink()
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--restorer", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument(
        "--minutes", default="", help="Lengths of files, for memory; with several, of the first network."
    )
    asked = parser.parse_args()
    minutes = [float(part) for part in asked.minutes.split(",") if part]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for net in [""] if asked.restorer else asked.nets.split(","):
            if asked.restorer:
                found, path = load_restorer(asked.restorer), asked.restorer
                result = measure(found.name, found.generator, asked.seconds)
            else:
                generator, path = drawn(net), folder / net
                _write(path, generator)
                result = measure(net, generator, asked.seconds)
            for length in minutes:
                result.megabytes[f"{length:g} min"] = memory(path, length, folder)
            results.append(result)
            print(_line(result), flush=True)
    print(
        json.dumps({"seconds": asked.seconds, "threads": torch.get_num_threads(), "nets": [asdict(r) for r in results]})
    )


def _write(path: Path, generator: Generator) -> None:
    told: dict[str, Any] = {"generator": generator.config.to_json(), "sample_rate": RATE}
    write_folder(path, generator, {**told, "task": "clean", "semitones": [12.0], "full_band": True})
    assert {file.name for file in path.iterdir()} == {WEIGHTS, CARD}


def _line(result: Result) -> str:
    memory = "  ".join(f"{length}: {megabytes:.0f} MB" for length, megabytes in result.megabytes.items())
    return (
        f"{result.name:10} {result.parameters / 1e6:5.1f} M  reach {result.reach:6}  seams {result.seams_db:7.1f} dB"
        f"  x CPU {result.x_cpu_time:5.1f}  silence {result.silence_dbfs:6.1f} dBFS  {memory}"
    )


if __name__ == "__main__":
    main()
