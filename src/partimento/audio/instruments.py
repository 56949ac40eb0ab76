"""The band's tuned instruments: one function a timbre, from (frequency, length, velocity) to a mono wave.

Four kinds of synthesis, all vectorised over the samples of a note:
harmonics with a moving brightness (what a filter sweep does to a saw), frequency modulation (Chowning 1973), plucked
strings (Karplus and Strong 1983) and plain additive partials. Levels are set later, in the mix, part by part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RATE = 44100
TOP_HZ = 16000.0  # no partial above this, so nothing folds at half the sample rate

Wave = NDArray[np.float64]
Play = Callable[[float, float, float, np.random.Generator], Wave]


def times(seconds: float) -> Wave:
    return np.arange(max(1, round(seconds * RATE))) / RATE


def envelope(hold: float, attack: float, decay: float, sustain: float, release: float) -> Wave:
    """Attack (linear), decay to `sustain` and release (both exponential), in seconds; length hold + 4 release."""
    t = times(hold)
    level = sustain + (1 - sustain) * np.exp(-np.maximum(t - attack, 0) / decay)
    level *= np.minimum(1, t / attack)
    tail = level[-1] * np.exp(-times(4 * release) / release)
    whole = np.concatenate([level, tail])
    fade = min(len(whole), 64)
    whole[-fade:] *= np.linspace(1, 0, fade)
    return whole


def harmonics(phase_N: Wave, shape_H: Wave, brightness: float | Wave, top_hz: float) -> Wave:
    """sum over h of shape[h-1] * brightness**h * sin(h * phase), by the Chebyshev recurrence (two products a harmonic).

    `brightness` may move with time, as the cutoff of a filter does; `top_hz` is the highest fundamental in the note.
    """
    count = max(1, min(len(shape_H), int(TOP_HZ / top_hz)))
    step, square = 2 * brightness * np.cos(phase_N), np.square(brightness)
    before, now = np.zeros_like(phase_N), brightness * np.sin(phase_N)
    total = shape_H[0] * now
    for amplitude in shape_H[1:count]:
        before, now = now, step * now - square * before
        if amplitude:
            total += amplitude * now
    return total


def saw(count: int) -> Wave:
    return 1 / np.arange(1, count + 1)


def square(count: int) -> Wave:
    h = np.arange(1, count + 1)
    return np.where(h % 2 == 1, 1 / h, 0.0)


def vibrato(freq: float, t: Wave, hz: float, cents: float, onset: float) -> Wave:
    """Phase of a note whose vibrato grows in over `onset` seconds."""
    depth = (2 ** (cents / 1200) - 1) * np.minimum(1, t / onset)
    return 2 * np.pi * np.cumsum(freq * (1 + depth * np.sin(2 * np.pi * hz * t))) / RATE


def noise(n: int, low: float, high: float, rng: np.random.Generator) -> Wave:
    """White noise between two frequencies (Hz), soft skirts, unit RMS."""
    size = 1 << max(6, (n - 1).bit_length())  # a fast length for the FFT
    spectrum = np.fft.rfft(rng.standard_normal(size))
    f = np.fft.rfftfreq(size, 1 / RATE)
    spectrum *= 1 / np.sqrt((1 + (low / np.maximum(f, 1)) ** 6) * (1 + (f / high) ** 6))
    wave = np.fft.irfft(spectrum, size)[:n]
    return wave / max(np.sqrt(np.mean(wave**2)), 1e-9)


def pluck(freq: float, seconds: float, damping: float, bright: float, rng: np.random.Generator) -> Wave:
    """Karplus-Strong: noise of one period, each period the damped mean of neighbours in the one before.

    The loop delay is a whole number of samples plus the half sample of the mean; the rest of the tuning is made good
    by reading the string slightly faster or slower.
    """
    period = max(2, int(RATE / freq - 0.5))
    stretch = freq * (period + 0.5) / RATE
    n = round(seconds * RATE * stretch) + 2
    blocks = -(-n // period)
    string = np.zeros((blocks + 1, period))
    burst = rng.uniform(-1, 1, period)
    blur = 1 + int((1 - bright) * period / 8)
    burst = np.convolve(np.concatenate([burst, burst]), np.ones(blur) / blur, "same")[:period]
    string[0] = burst - burst.mean()
    keep = np.exp(-damping * period / RATE)
    for b in range(1, blocks + 1):
        last = string[b - 1]
        string[b, 1:] = keep * 0.5 * (last[1:] + last[:-1])
        # The neighbour of a period's first sample is the last sample of the period before it.
        string[b, 0] = keep * 0.5 * (last[0] + (string[b - 2, -1] if b > 1 else last[-1]))
    flat = string[1:].ravel()
    at = np.arange(round(seconds * RATE)) * stretch
    return np.interp(at, np.arange(len(flat)), flat)


def _released(wave: Wave, hold: float, release: float) -> Wave:
    """Let a ringing note die from `hold` seconds on."""
    t = np.arange(len(wave)) / RATE
    return wave * np.exp(-np.maximum(t - hold, 0) / release)


def saw_bass(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, 0.003, 0.25, 0.6, 0.03)
    t = np.arange(len(amp)) / RATE
    sweep = 0.55 + (0.28 + 0.12 * velocity) * np.exp(-t / 0.09)
    return amp * harmonics(2 * np.pi * freq * t, saw(40), sweep, freq) / 0.6


def sub_bass(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, 0.008, 0.8, 0.7, 0.06)
    phase = 2 * np.pi * freq * np.arange(len(amp)) / RATE
    return amp * harmonics(phase, np.array([1.0, 0.25, 0.12, 0.05]), 0.9, freq)


def reese_bass(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, 0.006, 1.0, 0.85, 0.05)
    t = np.arange(len(amp)) / RATE
    bright = 0.8 + 0.08 * np.sin(2 * np.pi * 1.5 * t)
    voices = [harmonics(2 * np.pi * freq * d * t + p, saw(28), bright, freq) for d, p in [(0.992, 0), (1.008, 2)]]
    return amp * (voices[0] + voices[1] + 0.8 * np.sin(2 * np.pi * freq * t))


def upright_bass(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, 0.006, 0.5, 0.25, 0.06)
    t = np.arange(len(amp)) / RATE
    bend = 2 * np.pi * freq * (t + 0.0012 * np.exp(-t / 0.03))
    body = harmonics(bend, np.array([1.0, 0.8, 0.45, 0.3, 0.2, 0.12, 0.08, 0.05]), 0.6 + 0.35 * np.exp(-t / 0.12), freq)
    thump = noise(len(t), 60, 900, rng) * np.exp(-t / 0.012) * 0.25 * velocity
    return amp * body + thump * amp


def electric_bass(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    string = _released(pluck(freq, hold + 0.15, 1.2, 0.35 + 0.3 * velocity, rng), hold, 0.03)
    t = np.arange(len(string)) / RATE
    return string + 0.25 * np.sin(2 * np.pi * freq * t) * np.exp(-t / 0.6) * _released(np.ones_like(t), hold, 0.03)


def pad(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, min(0.25, hold / 2), 2.0, 0.8, 0.25)
    t = np.arange(len(amp)) / RATE
    bright = 0.62 + 0.15 * np.minimum(1, t / 1.0)
    spread = [(0.9965, 0.3), (1.0, 1.9), (1.004, 4.1)]
    return amp * sum(harmonics(2 * np.pi * freq * d * t + p, saw(14), bright, freq) for d, p in spread)


def strings(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, min(0.12, hold / 3), 2.0, 0.85, 0.15)
    t = np.arange(len(amp)) / RATE
    voices = [vibrato(freq * d, t, hz, 9, 0.3) for d, hz in [(0.998, 5.1), (1.002, 5.7)]]
    return amp * sum(harmonics(phase, saw(18), 0.86, freq) for phase in voices)


def organ(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, 0.008, 1.0, 0.95, 0.02)
    t = np.arange(len(amp)) / RATE
    phase = vibrato(freq / 2, t, 6.2, 6, 0.05)  # drawbars 16' 8' 5 1/3' 4' 2 2/3' 2' over the half frequency
    shape = np.zeros(16)
    shape[[0, 1, 2, 3, 5, 7, 11]] = [0.8, 1.0, 0.6, 0.7, 0.35, 0.4, 0.2]
    return amp * harmonics(phase, shape, 1.0, freq / 2)


def accordion(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, 0.035, 1.0, 0.9, 0.04)
    t = np.arange(len(amp)) / RATE
    h = np.arange(1, 21)
    shape = np.where(h % 2 == 1, 1.0, 0.55) / h**0.7
    reeds = [harmonics(2 * np.pi * freq * d * t, shape, 0.86, freq) for d in (1.0, 1.0065)]
    return amp * (reeds[0] + reeds[1])


def piano(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    """Stiff-string partials h * sqrt(1 + B h^2), struck at 1/8 of the string; high ones die first."""
    ring = 1.8 * (220 / freq) ** 0.5
    t = times(hold + 0.25)
    total = np.zeros_like(t)
    for h in range(1, 15):
        f = freq * h * np.sqrt(1 + 0.0004 * h * h)
        if f > TOP_HZ / 1.5:
            break
        strike = abs(np.sin(np.pi * h / 8.3)) / h ** (1.35 - 0.45 * velocity)
        total += strike * np.sin(2 * np.pi * f * t) * np.exp(-t * (1 + 0.35 * h) / ring)
    hammer = noise(len(t), 300, 3500, rng) * np.exp(-t / 0.008) * 0.08
    return _released((total + hammer) * np.minimum(1, t / 0.002), hold, 0.06)


def electric_piano(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    t = times(hold + 0.25)
    index = (0.4 + 1.1 * velocity) * np.exp(-t / 0.5)
    body = np.sin(2 * np.pi * freq * t + index * np.sin(2 * np.pi * freq * t))
    tine = 0.18 * velocity * np.sin(2 * np.pi * freq * 14 * t) * np.exp(-t / 0.06) if freq * 14 < TOP_HZ else 0.0
    tremolo = 1 + 0.15 * np.sin(2 * np.pi * 4.5 * t)
    return _released((body * np.exp(-t / 1.1) + tine) * np.minimum(1, t / 0.002) * tremolo, hold, 0.07)


def nylon_guitar(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    return _released(pluck(freq, hold + 0.3, 2.2, 0.25 + 0.4 * velocity, rng), hold, 0.07)


def steel_guitar(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    """The string under the distortion, which is applied to the whole part (chords must distort together)."""
    string = pluck(freq, hold + 0.12, 0.5, 0.8, rng)
    return _released(string, hold, 0.025)


def lead_guitar(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, 0.005, 1.5, 0.7, 0.04)
    phase = vibrato(freq, np.arange(len(amp)) / RATE, 5.5, 25, 0.35)
    return amp * harmonics(phase, saw(24), 0.93, freq)


def square_lead(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, 0.004, 0.3, 0.6, 0.06)
    t = np.arange(len(amp)) / RATE
    return amp * harmonics(2 * np.pi * freq * t, square(25), 0.8 + 0.15 * np.exp(-t / 0.1), freq)


def saw_lead(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, 0.01, 0.5, 0.75, 0.08)
    t = np.arange(len(amp)) / RATE
    voices = [vibrato(freq * d, t, 5.0, 8, 0.3) for d in (0.996, 1.005)]
    return amp * sum(harmonics(phase, saw(24), 0.9 + 0.06 * np.exp(-t / 0.15), freq) for phase in voices)


def flute(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, min(0.05, hold / 3), 1.0, 0.9, 0.05)
    phase = vibrato(freq, np.arange(len(amp)) / RATE, 5.2, 14, 0.3)
    breath = noise(len(amp), freq, 6000, rng) * 0.04
    return amp * (harmonics(phase, np.array([1.0, 0.35, 0.15, 0.05, 0.02]), 0.8 + 0.15 * velocity, freq) + breath)


def saxophone(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, min(0.03, hold / 3), 0.8, 0.8, 0.04)
    t = np.arange(len(amp)) / RATE
    h = np.arange(1, 21) * freq
    formants = np.exp(-(((h[:, None] - [600, 1400, 2700]) / [400, 500, 900]) ** 2)).sum(1)
    shape = (0.15 + formants) / np.arange(1, 21) ** 0.6
    growl = 0.9 + 0.06 * np.exp(-t / 0.05) * velocity
    breath = noise(len(amp), 1500, 6000, rng) * 0.03
    return amp * (harmonics(vibrato(freq, t, 5.0, 16, 0.4), shape, growl, freq) + breath)


def violin(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    amp = envelope(hold, min(0.07, hold / 3), 2.0, 0.9, 0.06)
    t = np.arange(len(amp)) / RATE
    h = np.arange(1, 25) * freq
    body = 0.5 + np.exp(-(((h[:, None] - [480, 1100, 2900]) / [120, 300, 700]) ** 2)).sum(1)
    return amp * harmonics(vibrato(freq, t, 5.8, 18, 0.25), saw(24) * body, 0.95, freq)


def vibraphone(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    """Bar tuned to 1 : 4 : 10, with the turning fans' tremolo."""
    t = times(hold + 0.8)
    bars = [(1, 1.0, 1.4), (4, 0.3, 0.4), (10, 0.12, 0.08)]
    tone = sum(a * np.sin(2 * np.pi * freq * r * t) * np.exp(-t / d) for r, a, d in bars if freq * r < TOP_HZ)
    return _released(tone * np.minimum(1, t / 0.002) * (1 + 0.3 * np.sin(2 * np.pi * 5.5 * t)), hold, 0.3)


def bell(freq: float, hold: float, velocity: float, rng: np.random.Generator) -> Wave:
    t = times(hold + 1.5)
    index = (1.0 + 1.5 * velocity) * np.exp(-t / 0.4)
    tone = np.sin(2 * np.pi * freq * t + index * np.sin(2 * np.pi * freq * 3.5 * t))
    return _released(
        (tone + 0.5 * np.sin(2 * np.pi * freq * t)) * np.exp(-t / 0.9) * np.minimum(1, t / 0.002), hold + 0.3, 0.4
    )


def around(loop_N: Wave, before: int) -> tuple[Wave, int]:
    """A loop with its own end put before it, and a fast FFT length for the whole: filters then meet no seam."""
    n = len(loop_N) + before
    return np.pad(loop_N, (before, 0), mode="wrap"), 1 << (n - 1).bit_length()


def distort(loop_CN: Wave, drive: float) -> Wave:
    """Amplifier and cabinet: saturation of the whole part, then a band from 80 Hz to 4.5 kHz."""
    out_CN = np.empty_like(loop_CN)
    loud = np.sqrt(np.mean(loop_CN**2)) + 1e-9
    for channel, loop_N in enumerate(loop_CN):
        whole, size = around(np.tanh(drive * loop_N / loud), RATE // 10)
        f = np.fft.rfftfreq(size, 1 / RATE)
        band = 1 / np.sqrt((1 + (80 / np.maximum(f, 1)) ** 4) * (1 + (f / 4500) ** 6))
        out_CN[channel] = np.fft.irfft(np.fft.rfft(whole, size) * band, size)[RATE // 10 : len(whole)]
    return out_CN


INSTRUMENTS: dict[str, Play] = {
    "saw bass": saw_bass,
    "sub bass": sub_bass,
    "reese bass": reese_bass,
    "upright bass": upright_bass,
    "electric bass": electric_bass,
    "pad": pad,
    "strings": strings,
    "organ": organ,
    "accordion": accordion,
    "piano": piano,
    "electric piano": electric_piano,
    "nylon guitar": nylon_guitar,
    "distorted guitar": steel_guitar,
    "lead guitar": lead_guitar,
    "square lead": square_lead,
    "saw lead": saw_lead,
    "flute": flute,
    "saxophone": saxophone,
    "violin": violin,
    "vibraphone": vibraphone,
    "bell": bell,
}
DRIVE = {"distorted guitar": 2.5, "lead guitar": 1.5}  # parts that go through the amplifier as a whole
