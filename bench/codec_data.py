"""The recordings that the codec in the package is trained on, beside loops, tunes and the band; made anew by a seed.

    python bench/codec_data.py --to my/recordings                  80 minutes of sound, in less than one
    partimento train configs/experiments/resident_44k.toml \\
        'data.folders=["my/recordings/speech","my/recordings/renders","my/recordings/instruments"]'

speech       espeak-ng (Debian: espeak-ng) reads sentences of five languages, put together here, in many voices.
renders      fluidsynth (Debian: fluidsynth, fluid-soundfont-gm) plays phrases, which are written here as MIDI, with
             FluidR3 (MIT): all 128 General MIDI programs and the drums, by themselves and in small bands.
instruments  the band's own instruments and drums one by one, scales, glides, noise, sweeps, clicks in silence.

Equal arguments and equal versions of these programs give equal samples. Last, DIR/recordings.json says what was used;
the same is printed as one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import commit
from partimento.audio import files
from partimento.audio.drums import KITS
from partimento.audio.instruments import INSTRUMENTS, RATE, harmonics, noise, saw, square, times
from partimento.keyed import numpy_rng, permute

Wave = NDArray[np.float64]
Rng = np.random.Generator
SHARES = {"speech": 0.25, "renders": 0.5625, "instruments": 0.1875}  # of all minutes: 20, 45 and 15 of 80
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")  # where Debian's package puts it

# --- speech ----------------------------------------------------------------------------------------------------------

# Every sentence is one of each column, in order.
SENTENCES: dict[str, list[str]] = {
    "en": [
        "Yesterday|Every morning|After the storm|In the quiet valley|Just before midnight|Once a year|On the far shore",
        "the old clockmaker|a choir of frogs|my youngest sister|the night train|a stubborn mule|our neighbour's cello",
        "measures|forgets|whistles at|quickly crosses|cheerfully describes|carries|shakes",
        "seven heavy boxes|the frozen lake|a thousand small bells|nothing but fog|the judge's umbrella|fresh bread",
        "without asking why.|and laughs.|for three pence a dozen.|until the village sleeps.|as though it were June!",
    ],
    "de": [
        "Gestern|Jeden Morgen|Nach dem Gewitter|Kurz vor Mitternacht|Im stillen Tal|Einmal im Jahr|Auf der Wiese",
        "misst|vergisst|beschreibt|trägt|überquert|zeichnet|bewundert",
        "der alte Uhrmacher|ein Chor von Fröschen|meine jüngste Schwester|der Nachtzug|das störrische Pferd",
        "sieben schwere Kisten|den gefrorenen See|tausend kleine Glocken|frisches Brot|nichts als Nebel|zwölf Äpfel",
        "und lacht dabei.|ohne zu fragen.|bis das Dorf schläft.|für drei Groschen.|als wäre schon Juni!",
    ],
    "it": [
        "Ieri|Ogni mattina|Dopo il temporale|Poco prima di mezzanotte|Nella valle tranquilla|Una volta all'anno",
        "il vecchio orologiaio|un coro di rane|mia sorella minore|il treno notturno|un mulo testardo",
        "misura|dimentica|attraversa|descrive|porta con sé|ascolta",
        "sette casse pesanti|il lago gelato|mille piccole campane|soltanto nebbia|pane fresco|l'ombrello giallo",
        "senza chiedere perché.|e ride.|finché il paese dorme.|per tre soldi.|come se fosse giugno!",
    ],
    "es": [
        "Ayer|Cada mañana|Después de la tormenta|Poco antes de medianoche|En el valle tranquilo|Una vez al año",
        "el viejo relojero|un coro de ranas|mi hermana menor|el tren nocturno|un burro terco",
        "mide|olvida|cruza|describe|lleva|escucha",
        "siete cajas pesadas|el lago helado|mil campanas pequeñas|solamente niebla|pan fresco|el paraguas amarillo",
        "sin preguntar por qué.|y se ríe.|hasta que el pueblo duerme.|por tres monedas.|¡como si fuera junio!",
    ],
    "fr": [
        "Hier|Chaque matin|Après l'orage|Peu avant minuit|Dans la vallée tranquille|Une fois par an",
        "le vieil horloger|un chœur de grenouilles|ma plus jeune sœur|le train de nuit|un âne têtu",
        "mesure|oublie|traverse|décrit|emporte|écoute",
        "sept lourdes caisses|le lac gelé|mille petites cloches|rien que du brouillard|du pain frais|un parapluie",
        "sans demander pourquoi.|et rit.|jusqu'à ce que le village dorme.|pour trois sous.|comme en plein juin !",
    ],
}
VOICES = ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "whisper", "croak"]


def speech(index: int, seed: int, scratch: Path) -> tuple[str, Wave]:
    """One sentence or two in one voice, some 4 to 12 s."""
    rng = numpy_rng("speech", seed, index)
    language = list(SENTENCES)[index % len(SENTENCES)]
    voice = VOICES[permute(index // len(SENTENCES) % len(VOICES), len(VOICES), "voices", seed)]
    text = " ".join(
        " ".join(str(rng.choice(column.split("|"))) for column in SENTENCES[language])
        for _ in range(int(rng.integers(1, 3)))
    )
    path = scratch / f"speech{index}.wav"
    pace, pitch = str(int(rng.integers(120, 220))), str(int(rng.integers(15, 86)))
    execute(["espeak-ng", "-v", f"{language}+{voice}", "-s", pace, "-p", pitch, "-w", str(path), text])
    return f"{language}_{voice}", heard(path)


# --- renders ---------------------------------------------------------------------------------------------------------

Note = tuple[float, float, int, int, int]  # beat, beats, channel, key, velocity
SCALES = ([0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10], [0, 2, 3, 5, 7, 9, 10], [0, 2, 4, 7, 9])
DRUM_CHANNEL = 9
TAIL_SECONDS = 1.5


def midi(notes: list[Note], programs: dict[int, int], tempo: float) -> bytes:
    """A standard MIDI file, format 0, 96 ticks a beat, that ends TAIL_SECONDS after the last note."""
    events = [(0, 0, bytes([0xC0 | channel, program])) for channel, program in programs.items()]
    for beat, beats, channel, key, velocity in notes:
        start, end = round(96 * beat), round(96 * (beat + beats))
        events += [
            (start, 2, bytes([0x90 | channel, key, velocity])),
            (max(end, start + 1), 1, bytes([0x80 | channel, key, 0])),
        ]
    events.sort()
    events.append((events[-1][0] + round(96 * TAIL_SECONDS * tempo / 60), 0, b"\xff\x2f\x00"))
    track, now = b"\x00\xff\x51\x03" + round(60e6 / tempo).to_bytes(3, "big"), 0
    for tick, _, message in events:
        track += length(tick - now) + message
        now = tick
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + struct.pack(">I", len(track)) + track


def length(number: int) -> bytes:
    """MIDI's variable-length number: seven bits a byte, all but the last marked."""
    digits = bytes([number & 0x7F])
    while number := number >> 7:
        digits = bytes([0x80 | number & 0x7F]) + digits
    return digits


def phrase(
    part: str, channel: int, bars: int, chords: list[int], scale: list[int], root: int, rng: Rng
) -> Iterator[Note]:
    """What one player plays in `bars` bars of four beats over one chord (a step of the scale) a bar."""

    def tone(step: int, low: int, high: int) -> int:
        key = root + 12 * (step // len(scale)) + scale[step % len(scale)]
        while key < low:
            key += 12
        while key >= high:
            key -= 12
        return key

    loud = int(rng.integers(45, 115))
    step = int(rng.integers(0, 8))
    low = int(rng.choice([36, 48, 55, 60, 72])) if part == "melody" else int(rng.choice([48, 55, 60]))
    grid = float(rng.choice([0.25, 0.5, 0.5, 1.0]))
    held = float(rng.choice([0.4, 0.8, 1.0, 1.4]))
    for bar in range(bars):
        chord = [chords[bar] + third for third in (0, 2, 4)]
        strokes = int(rng.choice([1, 2, 4]))
        for place in np.arange(0, 4, {"chords": 4 / strokes, "bass": 1.0}.get(part, grid)):
            velocity = int(np.clip(loud + rng.normal(0, 10), 12, 127))
            at = 4 * bar + float(place)
            if part == "chords":
                for third in chord:
                    yield at, 4 / strokes * min(held, 1.0), channel, tone(third, low, low + 24), velocity
            elif part == "bass" and rng.random() < 0.85:
                yield at, held, channel, tone(int(rng.choice([chord[0], chord[0], chord[2]])), 28, 45), velocity
            elif part == "arpeggio":
                yield (
                    at,
                    grid * held,
                    channel,
                    tone(chord[round(at / grid) % 3] + step % 2 * 7, low, low + 24),
                    velocity,
                )
            elif part == "melody" and rng.random() < 0.75:
                step += int(rng.integers(-2, 3))
                yield at, grid * held * int(rng.choice([1, 1, 2])), channel, tone(step, low, low + 24), velocity


def drumming(bars: int, rng: Rng) -> Iterator[Note]:
    """A groove of kick, snare and cymbals on General MIDI's keys, with a few other drums strewn in."""
    cymbal = int(rng.choice([42, 44, 51, 70, 54]))
    others = rng.choice(np.arange(35, 82), 3)
    for at in np.arange(0, 4 * bars, 0.5):
        beat = at % 4
        for key, chance in ((36, 0.9 * (beat in (0, 2)) + 0.1), (38, 0.9 * (beat in (1, 3)) + 0.03), (cymbal, 0.85)):
            if rng.random() < chance:
                yield float(at), 0.25, DRUM_CHANNEL, key, int(rng.integers(40, 120))
        if rng.random() < 0.12:
            yield float(at) + 0.25, 0.25, DRUM_CHANNEL, int(rng.choice(others)), int(rng.integers(40, 120))


def render(index: int, seed: int, scratch: Path, soundfont: Path) -> tuple[str, Wave]:
    """A phrase of 8 to 12 s: every program in turn, half of the time by itself, else with up to three others."""
    rng = numpy_rng("render", seed, index)
    tempo = float(rng.integers(66, 168))
    bars = max(1, round(float(rng.uniform(7, 10)) * tempo / 240))
    scale, root = SCALES[int(rng.integers(len(SCALES)))], int(rng.integers(48, 60))
    chords = [int(rng.choice([0, 3, 4, 5, 1])) for _ in range(bars)]
    lead = permute(index % 128, 128, "programs", seed, index // 128)
    programs, notes = {0: lead}, list[Note]()
    together = rng.random() < 0.5
    first = str(rng.choice(["chords", "melody", "arpeggio"]))
    for channel, part in enumerate([first, "bass", "chords", "arpeggio"] if together else [first]):
        if channel and rng.random() < 0.3:
            continue
        programs.setdefault(channel, int(rng.integers(32, 40) if part == "bass" else rng.integers(128)))
        notes += phrase(part, channel, bars, chords, scale, root, rng)
    if together or rng.random() < 0.15:
        notes += drumming(bars, rng)
        programs[DRUM_CHANNEL] = int(rng.choice([0, 0, 8, 16, 24, 25, 32, 40]))  # FluidR3's drum kits
    if not notes:  # every stroke of a melody may fall out
        notes = [(0.0, 4.0 * bars, 0, root, 80)]
    song, wave = scratch / f"render{index}.mid", scratch / f"render{index}.wav"
    song.write_bytes(midi(notes, programs, tempo))
    room, chorus = str(int(rng.random() < 0.5)), str(int(rng.random() < 0.5))
    options = ["-o", "synth.dynamic-sample-loading=1", "-R", room, "-C", chorus, "-g", "0.3", "-r", str(RATE)]
    execute(["fluidsynth", "-ni", *options, "-F", str(wave), str(soundfont), str(song)])
    return f"program{lead:03d}_{'band' if together else first}", heard(wave)[
        : round((4 * bars * 60 / tempo + TAIL_SECONDS) * RATE)
    ]


# --- instruments -----------------------------------------------------------------------------------------------------


def hertz(key: float) -> float:
    return float(440 * 2 ** ((key - 69) / 12))


def place(sounds: list[tuple[float, Wave]], seconds: float) -> Wave:
    """Sounds at their times (s), summed."""
    whole = np.zeros(round(seconds * RATE))
    for at, wave in sounds:
        start = round(at * RATE)
        piece = wave[: max(0, len(whole) - start)]
        whole[start : start + len(piece)] += piece
    return whole


def notes_of(name: str, keys: list[list[int]], step: float, hold: float, seconds: float, rng: Rng) -> Wave:
    """Chords (of one key or more) of one instrument of the band, `step` seconds apart."""
    play = INSTRUMENTS[name]
    level = [float(10 ** (rng.uniform(-18, 0) / 20)) for _ in keys]
    return place(
        [
            (0.05 + step * n, level[n] * play(hertz(key), hold, float(rng.uniform(0.2, 1)), rng))
            for n, chord in enumerate(keys)
            for key in chord
        ],
        seconds,
    )


def single(seconds: float, rng: Rng, name: str) -> Wave:
    low = 28 if "bass" in name else 48
    keys = [[int(rng.integers(low, low + 36))] for _ in range(int(rng.integers(3, 7)))]
    step = seconds / len(keys)
    return notes_of(name, keys, step, step * float(rng.uniform(0.2, 0.7)), seconds, rng)


def scales(seconds: float, rng: Rng, name: str) -> Wave:
    scale, root = SCALES[int(rng.integers(len(SCALES)))], int(rng.integers(33, 66))
    keys = [[root + 12 * (n // len(scale)) + scale[n % len(scale)]] for n in range(15)]
    step = seconds / 16
    return notes_of(name, keys[:: int(rng.choice([-1, 1]))], step, 0.9 * step, seconds, rng)


def accords(seconds: float, rng: Rng, name: str) -> Wave:
    roots = rng.integers(43, 64, 4)
    keys = [[int(root) + third for third in (0, int(rng.choice([3, 4])), 7, 12)] for root in roots]
    return notes_of(name, keys, seconds / 4, 0.7 * seconds / 4, seconds, rng)


def glides(seconds: float, rng: Rng, name: str) -> Wave:
    """A tone whose frequency wanders between a few places, over up to five octaves."""
    t = times(seconds)
    at = np.interp(t, np.linspace(0, seconds, 5), rng.uniform(30, 96, 5))
    phase = 2 * np.pi * np.cumsum(hertz(0) * 2 ** (at / 12)) / RATE
    shape = [np.ones(1), saw(30), square(25)][int(rng.integers(3))]
    return harmonics(phase, shape, float(rng.uniform(0.75, 0.95)), hertz(float(at.max())))


def sweeps(seconds: float, rng: Rng, name: str) -> Wave:
    """A sine that rises or falls through the whole range, evenly in the logarithm."""
    t = times(seconds)
    phase = np.cumsum(20 * (18000 / 20) ** (t / seconds)) * 2 * np.pi / RATE
    return np.sin(phase)[:: int(rng.choice([-1, 1]))]


def noises(seconds: float, rng: Rng, name: str) -> Wave:
    """Bursts and beds of noise of many bands, levels and lengths."""
    sounds = []
    for at in np.sort(rng.uniform(0, seconds - 0.2, int(rng.integers(3, 12)))):
        n = round(float(rng.choice([0.02, 0.1, 0.4, 1.5, 3.0])) * RATE)
        low = float(rng.choice([20, 200, 1000, 4000]))
        wave = noise(n, low, min(20000.0, low * float(rng.choice([2, 6, 40]))), rng)
        decay = float(rng.choice([0.03, 0.3, 10.0]))
        fade = np.minimum(1, np.minimum(np.arange(n), np.arange(n)[::-1]) / 200)
        sounds.append(
            (float(at), 10 ** (rng.uniform(-25, 0) / 20) * wave * fade * np.exp(-np.arange(n) / RATE / decay))
        )
    return place(sounds, seconds)


def steady(seconds: float, rng: Rng, name: str) -> Wave:
    """White noise, or one to four steady sines, or both: what shows every line that a codec adds."""
    t = times(seconds)
    sines = sum(
        10 ** (rng.uniform(-20, 0) / 20) * np.sin(2 * np.pi * 40 * 2 ** rng.uniform(0, 8.5) * t + rng.uniform(0, 6.28))
        for _ in range(int(rng.integers(1, 5)))
    )
    which = int(rng.integers(3))
    return np.asarray((which != 0) * sines + (which != 1) * 0.3 * rng.standard_normal(len(t)))


def clicks(seconds: float, rng: Rng, name: str) -> Wave:
    """Silence with clicks of one sample to 2 ms."""
    wave = np.zeros(round(seconds * RATE))
    for at in rng.integers(0, len(wave) - 100, int(rng.integers(4, 40))):
        wave[at : at + int(rng.choice([1, 3, 20, 88]))] += rng.uniform(-1, 1)
    return wave


def drums(seconds: float, rng: Rng, name: str) -> Wave:
    kit = KITS[str(rng.choice(sorted(KITS)))]
    step = float(rng.choice([0.09, 0.2, 0.5]))
    strokes = [str(rng.choice(sorted(kit))) for _ in range(int(seconds / step))]
    return place([(step * n, rng.uniform(0.1, 1) * kit[stroke](rng)) for n, stroke in enumerate(strokes)], seconds)


EXERCISES: list[Callable[[float, Rng, str], Wave]] = [
    single, scales, accords, drums, glides, noises, single, scales, drums, sweeps, steady, clicks,
]  # fmt: skip


def instrument(index: int, seed: int) -> tuple[str, Wave]:
    """Seven to nine seconds of one exercise; the instruments take turns."""
    rng = numpy_rng("instruments", seed, index)
    exercise = EXERCISES[index % len(EXERCISES)]
    names = sorted(INSTRUMENTS)
    name = names[permute(index % len(names), len(names), "instruments", seed, index // len(names))]
    played = exercise(float(rng.uniform(7, 9)), rng, name)
    of = f"_{name.replace(' ', '-')}" if exercise in (single, scales, accords) else ""
    return f"{exercise.__name__}{of}", played


# --- writing ---------------------------------------------------------------------------------------------------------


def execute(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with status {done.returncode}: {done.stderr.strip()[-500:]}")


def heard(path: Path) -> Wave:
    """What a program wrote, as mono at 44.1 kHz without the constant part that some programs have; deletes its file."""
    audio = files.read(path)
    path.unlink()
    wave = files.resample(files.to_mono(audio.wave_CN), audio.sample_rate, RATE)[0].astype(np.float64)
    size = 1 << (len(wave) - 1).bit_length()
    above = 1 / np.sqrt(1 + (10 / np.maximum(np.fft.rfftfreq(size, 1 / RATE), 1e-3)) ** 4)
    return np.fft.irfft(np.fft.rfft(wave, size) * above, size)[: len(wave)]


def write(
    folder: Path, kind: str, minutes: float, seed: int, make: Callable[[int], tuple[str, Wave]]
) -> dict[str, Any]:
    """Write `kind` until it has its minutes; each recording's peak is put somewhere between -24 dB and full scale."""

    def one(index: int) -> tuple[int, str]:
        name, wave = make(index)
        peak = float(np.abs(wave).max())
        if peak == 0:
            raise SystemExit(f"recording {index} of {kind} is silent")
        gain = 10 ** (-24 * numpy_rng("level", seed, kind, index).random() ** 2 / 20) * 0.98 / peak
        path = folder / kind / f"{kind}_{seed}_{index:04d}_{name}.flac"
        files.write(path, (gain * wave).astype(np.float32)[None], RATE)
        return len(wave), hashlib.sha256(path.read_bytes()).hexdigest()

    samples, digests, number = 0, hashlib.sha256(), 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        while samples < minutes * 60 * RATE:  # in rounds of one size, so that the result does not depend on the cores
            for count, digest in threads.map(one, range(number, number + 16)):
                samples += count
                digests.update(digest.encode())
            number += 16
    return {"recordings": number, "seconds": round(samples / RATE), "sha256": digests.hexdigest()}


def version(program: str) -> str:
    """First line that a program says of itself; ends this one if it is not there."""
    if shutil.which(program) is None:
        raise SystemExit(f"{program} is not installed (Debian, Ubuntu: apt install {program})")
    return subprocess.run([program, "--version"], capture_output=True, text=True).stdout.splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--to", type=Path, required=True, help="folder; its speech, renders and instruments are made anew"
    )
    parser.add_argument("--minutes", type=float, default=80.0, help="of sound, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT)
    given = parser.parse_args()
    versions = [version("espeak-ng"), version("fluidsynth")]
    if not given.soundfont.is_file():
        raise SystemExit(f"{given.soundfont} is not there (Debian, Ubuntu: apt install fluid-soundfont-gm)")
    taken = [kind for kind in SHARES if (given.to / kind).exists()]
    if taken:
        raise SystemExit(f"{given.to} already holds {', '.join(taken)}: delete them, or write elsewhere")
    written: dict[str, Any] = {"seed": given.seed, "minutes": given.minutes, "made_with": versions}
    written["soundfont_sha256"] = commit.sha256(given.soundfont)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        makers: dict[str, Callable[[int], tuple[str, Wave]]] = {
            "speech": lambda index: speech(index, given.seed, scratch),
            "renders": lambda index: render(index, given.seed, scratch, given.soundfont),
            "instruments": lambda index: instrument(index, given.seed),
        }
        for kind, make in makers.items():
            written[kind] = write(given.to, kind, given.minutes * SHARES[kind], given.seed, make)
            print(f"{kind}: {written[kind]['recordings']} recordings, {written[kind]['seconds']} s", flush=True)
    commit.record(given.to / "recordings.json", written)
    print(json.dumps(written))


if __name__ == "__main__":
    main()
