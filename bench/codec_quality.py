"""What codecs keep of recordings that they were not trained on, beside a low-pass, Opus and MP3 that are made here.

    python bench/codec_quality.py --folders loops tunes my/recordings/speech          the codec in the package
    python bench/codec_quality.py --codec resident-44k --codec my_codec --folders ...   before and after, side by side

Judged is what `data` of --config holds out (the split goes by the hash of a file's name), so a codec of that recipe
has not heard it; --folders replaces its folders. Rows:

codec       with all its books, then 6, 4, 2. Rates: nominal, and what the codes' entropy would need: book by book
            (unigram), and given the code before (bigram), each half of the sources told by the other half.
low-pass    nothing above 2 kHz.
opus, mp3   libopus at 8 and 16 kbit/s, LAME at 32, through ffmpeg (mono). The rate is that of the packets they made.

Columns, all on the same samples at 44.1 kHz, moved to where the cross-correlation with the original is highest:
mel7   the distance of DAC's seven mel scales, mean over sources (files, or songs of the band) [95 %, bootstrap]; then
       its paired difference to Opus at 16 kbit/s: below 0 is better than Opus. All kinds together: they count alike.
mel    audiotools' default mel distance (150 mels of 2048 samples, 80 of 512), STFT its default STFT distance: the
       settings of the published figures that are printed beside.
SI-SDR median in dB.
lines  share of recordings with a steady line of 6 dB or more over its surroundings that the original does not have.

Then white noise, silence and sines through each row, entropy of the books, and speeds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.audio import files
from partimento.audio.spectra import MEL7_FLOOR, mel7, mel_filters, si_sdr, stft
from partimento.codecs.codec import Codec, decode_whole, encode_whole, open_codec
from partimento.codecs.layout import coarser
from partimento.codecs.measure import lag, low_pass, usage
from partimento.config import CodecConfig, load
from partimento.keyed import permute
from partimento.lab.restored import lines
from partimento.lab.restored.intervals import paired_bootstrap
from partimento.tokens.counting import Counts, bigram_ce, fit, unigram_ce
from partimento.training.tasks.crops import Recording, gather

RATE = 44100
MOST_LAG = 4000  # samples; an MP3's delay is some 1100
LINE_DB = 6.0
REFERENCE = "opus 16k"
Wave = NDArray[np.float32]

# waveform.md 1.2: voidful/Codec-SUPERB cfccafc 2026-05, results/codec-superb-tiny, music.
PUBLISHED = [
    ("DAC 44 kHz, 8 kbit/s", 0.899, 1.881),
    ("DAC 16 kHz, 6 kbit/s", 0.741, 1.727),
    ("EnCodec 24 kHz, 24 kbit/s", 1.246, 3.586),
    ("EnCodec 24 kHz, 6 kbit/s", 1.391, 3.713),
    ("EnCodec 24 kHz, 1.5 kbit/s", 1.640, 3.967),
    ("WavTokenizer, 0.9 kbit/s", 1.198, 3.611),
]


@dataclass(frozen=True)
class Judged:
    """One recording through one row."""

    kind: str
    source: str
    seconds: float
    bits: float
    mel7: float
    mel: float
    stft: float
    si_sdr: float | None
    line: float | None


@dataclass
class Row:
    """A way to code: `code` gives what came out, of any length and delay, and the bits that it took."""

    name: str
    code: Callable[[Wave], tuple[Wave, float]]
    judged: list[Judged] = field(default_factory=list)


# --- the ways --------------------------------------------------------------------------------------------------------


class Through:
    """A codec's rows: each wave is encoded once for all of them. Other rates than 44.1 kHz are resampled both ways."""

    def __init__(self, name: str) -> None:
        self.codec: Codec = open_codec(name)
        self.name = Path(name).name
        self.codes: defaultdict[tuple[str, str], list[NDArray[np.int64]]] = defaultdict(list)
        self._last: tuple[Wave, NDArray[np.int64], int] | None = None

    def rows(self) -> Iterator[Row]:
        most = self.codec.spec.codebooks
        for books in [most, *(b for b in (6, 4, 2) if b < most)]:
            yield Row(f"{self.name}, {books} books", partial(self._code, books=books))

    def note(self, kind: str, source: str) -> None:
        """Keep the codes of the wave that was coded last, for entropies."""
        assert self._last is not None
        self.codes[kind, source].append(self._last[1])

    def _code(self, wave_N: Wave, books: int) -> tuple[Wave, float]:
        spec = self.codec.spec
        if self._last is None or self._last[0] is not wave_N:
            inside_1N = files.resample(wave_N[None], RATE, spec.sample_rate)
            self._last = wave_N, encode_whole(self.codec, inside_1N), inside_1N.shape[1]
        _, codes_TK, samples = self._last
        fewer, columns = coarser(self.codec, books)
        made_1N = decode_whole(fewer, codes_TK[:, columns], samples=samples)
        bits = len(codes_TK) * sum(np.log2(fewer.spec.cardinalities))
        return files.resample(made_1N, spec.sample_rate, RATE)[0], float(bits)


def lossy(name: str, options: list[str], suffix: str, bits_of: Callable[[bytes], float]) -> Row:
    """A coder of ffmpeg's."""

    def code(wave_N: Wave) -> tuple[Wave, float]:
        with tempfile.TemporaryDirectory() as folder:
            original, coded, back = (Path(folder) / one for one in ("in.wav", f"coded{suffix}", "back.wav"))
            files.write(original, wave_N[None], RATE, "FLOAT")
            ffmpeg(["-i", str(original), "-ac", "1", *options, str(coded)])
            ffmpeg(["-i", str(coded), "-c:a", "pcm_f32le", str(back)])
            audio = files.read(back)
            made_N = files.resample(files.to_mono(audio.wave_CN), audio.sample_rate, RATE)[0]
            return made_N, bits_of(coded.read_bytes())

    return Row(name, code)


def ffmpeg(arguments: list[str]) -> None:
    done = subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ffmpeg failed: {done.stderr.strip()[-500:]}")


def ogg_payload_bits(content: bytes) -> float:
    """Bits of the audio packets of an Ogg stream: without page headers, and without the two packets of headers."""
    at, page, total = 0, 0, 0
    while at < len(content):
        lacing = content[at + 27 : at + 27 + content[at + 26]]
        total += sum(lacing) if page >= 2 else 0  # OpusHead and OpusTags have a page each
        at, page = at + 27 + len(lacing) + sum(lacing), page + 1
    return 8.0 * total


def other_rows() -> Iterator[Row]:
    yield Row("low-pass 2 kHz", lambda wave_N: (low_pass(torch.from_numpy(wave_N)[None], RATE)[0].numpy(), np.nan))
    if shutil.which("ffmpeg") is None:
        raise SystemExit("ffmpeg is not installed (Debian, Ubuntu: apt install ffmpeg)")
    for rate in ("8k", "16k"):
        yield lossy(f"opus {rate}", ["-c:a", "libopus", "-b:a", rate], ".opus", ogg_payload_bits)
    yield lossy(
        "mp3 32k", ["-c:a", "libmp3lame", "-b:a", "32k", "-write_xing", "0"], ".mp3", lambda mp3: 8.0 * len(mp3)
    )


# --- judging ---------------------------------------------------------------------------------------------------------


def aligned(made_N: Wave, wave_N: Wave) -> Wave:
    """As long as the original, and where it correlates with it most."""
    late = lag(torch.from_numpy(made_N)[None], torch.from_numpy(wave_N)[None], MOST_LAG) or 0
    made_N = made_N[late:] if late > 0 else np.pad(made_N, (-late, 0))
    return np.pad(made_N, (0, max(0, len(wave_N) - len(made_N))))[: len(wave_N)].astype(np.float32)


def mel_of_audiotools(made_BN: Tensor, target_BN: Tensor) -> Tensor:
    """[B]: audiotools' MelSpectrogramLoss with its defaults, log10 of squares and plain magnitudes."""
    total_B = made_BN.new_zeros(len(made_BN))
    for window, mels in ((2048, 150), (512, 80)):
        filters = mel_filters(RATE, window, mels).to(made_BN)
        one, two = (filters @ stft(wave_BN, window, window // 4).abs() for wave_BN in (made_BN, target_BN))
        logs = one.clamp(min=MEL7_FLOOR).log10() - two.clamp(min=MEL7_FLOOR).log10()
        total_B = total_B + 2 * logs.abs().mean((1, 2)) + (one - two).abs().mean((1, 2))
    return total_B


def judge(row: Row, recording: Recording, wave_N: Wave) -> None:
    from partimento.waveform.losses import stft_distance

    made_N, bits = row.code(wave_N)
    made_N = aligned(made_N, wave_N)
    made, target = torch.from_numpy(made_N)[None], torch.from_numpy(wave_N)[None]
    ratio = float(si_sdr(made, target))
    line = lines.highest(made_N.astype(np.float64), wave_N.astype(np.float64), RATE)
    row.judged.append(
        Judged(
            recording.kind,
            recording.group,
            len(wave_N) / RATE,
            bits,
            float(mel7(made, target, RATE)),
            float(mel_of_audiotools(made, target)),
            float(stft_distance(made, target)),
            ratio if np.isfinite(ratio) else None,
            line.excess if line else None,
        )
    )


def bits_a_second(through: Through, kind: str | None) -> dict[str, Any]:
    """Entropy of the codes of one kind, or of all: each book's share of its maximum, and bits a second (if there are
    two sources, so that one can tell the other)."""
    spec = through.codec.spec
    by_source: defaultdict[str, list[NDArray[np.int64]]] = defaultdict(list)
    for (of_kind, source), codes in through.codes.items():
        if kind in (None, of_kind):
            by_source[f"{of_kind} {source}"] += codes
    names = sorted(by_source)
    pooled_TK = np.concatenate([one for name in names for one in by_source[name]])
    entropy_K, used_K = usage(pooled_TK, spec.cardinalities)
    rate = float(spec.frame_rate)
    rates = {"nominal": rate * float(sum(np.log2(spec.cardinalities)))}
    if len(names) > 1:
        halves = [[one for name in names[half::2] for one in by_source[name]] for half in (0, 1)]
        unigram_K, bigram_K = zip(*(told(halves, k, v) for k, v in enumerate(spec.cardinalities)), strict=True)
        rates |= {name: rate * sum(one) / np.log(2) for name, one in (("unigram", unigram_K), ("bigram", bigram_K))}
    return {
        "frames": len(pooled_TK),
        **rates,
        "entropy_share_K": [bits / np.log2(v) for bits, v in zip(entropy_K, spec.cardinalities, strict=True)],
        "used_K": used_K,
    }


def told(halves: Sequence[list[NDArray[np.int64]]], book: int, cardinality: int) -> tuple[float, float]:
    """Nats a code of one book: of each half under the other half's unigram, and under its bigram."""
    one, two = (counted(codes, book, cardinality) for codes in halves)
    strength, n, m = fit(one, two), int(one.n_V.sum()), int(two.n_V.sum())
    unigram = n * unigram_ce(two, one) + m * unigram_ce(one, two)
    bigram = n * bigram_ce(two, one, strength) + m * bigram_ce(one, two, strength)
    return unigram / (n + m), bigram / (n + m)


def counted(codes: Sequence[NDArray[np.int64]], book: int, cardinality: int) -> Counts:
    counts = Counts.none(cardinality)
    for codes_TK in codes:
        column = codes_TK[:, book].astype(np.int64)
        counts.n_V[:] += np.bincount(column, minlength=cardinality)
        np.add.at(counts.n_VV, (column[:-1], column[1:]), 1)
    return counts


def speeds(codec: Codec, wave_N: Wave, rounds: int = 3) -> dict[str, float]:
    """Seconds of sound encoded, and decoded, in a second: the best of the rounds, the machine may be shared."""
    wave_1N = files.resample(wave_N[None], RATE, codec.spec.sample_rate)
    encoding, decoding = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        codes_TK = encode_whole(codec, wave_1N)
        middle = time.perf_counter()
        decode_whole(codec, codes_TK)
        encoding.append(middle - began)
        decoding.append(time.perf_counter() - middle)
    seconds = len(wave_N) / RATE
    return {"encode": seconds / min(encoding), "decode": seconds / min(decoding)}


def probes() -> dict[str, Wave]:
    """Six seconds each of what shows every line."""
    t = np.arange(6 * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(len(t))
    chord = np.sin(2 * np.pi * np.outer([220.0, 277.2, 329.6, 1318.5], t)).sum(0)
    sounds = {"white noise": 0.1 * noise, "sine 440 Hz": 0.3 * np.sin(2 * np.pi * 440 * t), "four sines": 0.1 * chord}
    return {name: wave.astype(np.float32) for name, wave in {**sounds, "silence": 0 * t}.items()}


def probe(row: Row, name: str, wave_N: Wave) -> dict[str, float | None]:
    """The highest line (dB over its surroundings, and where); for silence what comes back (dB of full scale)."""
    made_N = aligned(row.code(wave_N)[0], wave_N).astype(np.float64)
    if name == "silence":
        return {"level": float(20 * np.log10(max(1e-9, np.sqrt(np.mean(made_N**2)))))}
    line = lines.highest(made_N, wave_N.astype(np.float64), RATE)
    return {"line": line.excess if line else None, "hertz": line.hertz if line else None}


# --- the table -------------------------------------------------------------------------------------------------------


def summary(row: Row, reference: Row, kind: str) -> dict[str, Any]:
    """Of the recordings of one kind."""
    pairs = [(one, other) for one, other in zip(row.judged, reference.judged, strict=True) if one.kind == kind]
    judged = [one for one, _ in pairs]
    values: defaultdict[str, list[float]] = defaultdict(list)
    differences: defaultdict[str, list[float]] = defaultdict(list)
    for one, other in pairs:
        values[one.source].append(one.mel7)
        differences[one.source].append(one.mel7 - other.mel7)
    ratios = [one.si_sdr for one in judged if one.si_sdr is not None]
    found = [one.line for one in judged if one.line is not None]
    return {
        "recordings": len(judged),
        "seconds": sum(one.seconds for one in judged),
        "bits_per_second": rate_of(judged),
        "mel7": paired_bootstrap(values).to_json(),
        "mel7_less_reference": paired_bootstrap(differences).to_json(),
        "mel": float(np.mean([one.mel for one in judged])),
        "stft": float(np.mean([one.stft for one in judged])),
        "si_sdr": float(np.median(ratios)) if ratios else None,
        "lines": float(np.mean([one >= LINE_DB for one in found])) if found else None,
    }


def rate_of(judged: Sequence[Judged]) -> float | None:
    """Bits a second of all together; a low-pass has none."""
    bits = sum(one.bits for one in judged)
    return None if np.isnan(bits) else bits / sum(one.seconds for one in judged)


def together(kinds: Sequence[dict[str, Any]], row: Row) -> dict[str, Any]:
    """Of all recordings: means over the kinds, whose intervals are independent; the median of SI-SDR is over all."""
    ratios = [one.si_sdr for one in row.judged if one.si_sdr is not None]
    means = {name: float(np.mean([one[name] for one in kinds])) for name in ("mel", "stft")}
    lined = [one["lines"] for one in kinds if one["lines"] is not None]
    intervals = {}
    for name in ("mel7", "mel7_less_reference"):
        mean = float(np.mean([one[name]["mean"] for one in kinds]))
        intervals[name] = {"mean": mean, "low": None, "high": None}
        if all(one[name]["low"] is not None for one in kinds):
            half = float(np.linalg.norm([(one[name]["high"] - one[name]["low"]) / 2 for one in kinds])) / len(kinds)
            intervals[name] |= {"low": mean - half, "high": mean + half}
    return {
        "recordings": len(row.judged),
        "seconds": sum(one.seconds for one in row.judged),
        "bits_per_second": rate_of(row.judged),
        **means,
        **intervals,
        "si_sdr": float(np.median(ratios)) if ratios else None,
        "lines": float(np.mean(lined)) if lined else None,
    }


def show(kind: str, rows: dict[str, dict[str, Any]]) -> None:
    first = next(iter(rows.values()))
    print(f"\n## {kind}: {first['recordings']} recordings, {first['seconds']:.0f} s\n")
    print("| | kbit/s | mel7 [95 %] | less Opus 16 [95 %] | mel | STFT | SI-SDR | lines |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        rate = "" if row["bits_per_second"] is None else f"{row['bits_per_second'] / 1000:.2f}"
        ratio = "" if row["si_sdr"] is None else f"{row['si_sdr']:.1f} dB"
        lined = "" if row["lines"] is None else f"{row['lines']:.0%}"
        print(
            f"| {name} | {rate} | {row['mel7']['mean']:.2f} {interval(row['mel7'])} | "
            f"{row['mel7_less_reference']['mean']:+.2f} {interval(row['mel7_less_reference'], '+')} | "
            f"{row['mel']:.2f} | {row['stft']:.2f} | {ratio} | {lined} |"
        )


def interval(found: dict[str, Any], sign: str = "") -> str:
    return "" if found["low"] is None else f"[{found['low']:{sign}.2f}, {found['high']:{sign}.2f}]"


def held_out(given: argparse.Namespace) -> list[Recording]:
    config = load(given.config)
    if not isinstance(config, CodecConfig):
        raise SystemExit(f"{given.config} is of the family {config.family}, not codec")
    data = config.data if given.folders is None else config.data.model_copy(update={"folders": given.folders})
    by_kind: defaultdict[str, list[Recording]] = defaultdict(list)
    for recording in gather(data, RATE).held_out:
        by_kind[recording.kind].append(recording)
    return [
        recordings[permute(place, len(recordings), "quality", kind)]
        for kind, recordings in sorted(by_kind.items())
        for place in range(min(given.limit or len(recordings), len(recordings)))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", action="append", help="name or folder; may be repeated (default: resident-44k)")
    parser.add_argument("--config", type=Path, default=Path("configs/experiments/resident_44k.toml"))
    parser.add_argument("--folders", nargs="*", help="in place of the configuration's")
    parser.add_argument("--limit", type=int, help="recordings of each kind")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each recording at most")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    codecs = [Through(name) for name in given.codec or ["resident-44k"]]
    rows = [row for through in codecs for row in through.rows()]
    rows += list(other_rows())
    reference = next(row for row in rows if row.name == REFERENCE)
    recordings = held_out(given)
    for number, recording in enumerate(recordings):
        wave_N = recording.wave_N[: round(given.seconds * RATE)]
        for row in rows:
            judge(row, recording, wave_N)
        for through in codecs:
            through.note(recording.kind, recording.group)
        print(f"\r{number + 1} of {len(recordings)}", end="", flush=True)
    kinds = sorted({recording.kind for recording in recordings})
    found: dict[str, Any] = {"kinds": {}, "codes": {}, "probes": {}, "speeds": {}}
    for kind in kinds:
        found["kinds"][kind] = {row.name: summary(row, reference, kind) for row in rows}
        show(kind, found["kinds"][kind])
    found["all"] = {row.name: together([found["kinds"][kind][row.name] for kind in kinds], row) for row in rows}
    show("all kinds", found["all"])
    print("\nPublished, of other music, by the settings of the columns mel and STFT (Codec-SUPERB, tiny, music):")
    for name, mel, distance in PUBLISHED:
        print(f"  {name:<28} mel {mel:.2f}   STFT {distance:.2f}")
    print("\nCodes: share of each book's maximum entropy, and kbit/s")
    for through in codecs:
        for which in [*kinds, None]:
            rates = bits_a_second(through, which)
            found["codes"].setdefault(through.name, {})[which or "all"] = rates
            shares = " ".join(f"{share:.0%}" for share in rates["entropy_share_K"])
            kbits = ", ".join(
                f"{name} {rates[name] / 1000:.2f}" for name in ("nominal", "unigram", "bigram") if name in rates
            )
            print(f"  {through.name:<16} {which or 'all':<22} {shares}   {kbits}   ({rates['frames']} frames)")
    print("\nSteady lines that are added, dB over their surroundings (and where), and what comes back for silence")
    for row in rows:
        found["probes"][row.name] = {name: probe(row, name, wave_N) for name, wave_N in probes().items()}
        told = [
            f"{name} {one['level']:.0f} dB"
            if "level" in one
            else f"{name} {one['line']:.0f} dB at {one['hertz']:.0f} Hz"
            for name, one in found["probes"][row.name].items()
        ]
        print(f"  {row.name:<26} {'; '.join(told)}")
    print(f"\nTimes real time, {given.threads} threads")
    loud_N = np.concatenate([recording.wave_N for recording in recordings])[: 30 * RATE]
    for through in codecs:
        found["speeds"][through.name] = speeds(through.codec, loud_N)
        print(f"  {through.name:<16} " + ", ".join(f"{k} {v:.0f} x" for k, v in found["speeds"][through.name].items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
