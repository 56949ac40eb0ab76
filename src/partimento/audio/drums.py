"""The band's drums: three kits made of falling sines and filtered noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from partimento.audio.instruments import RATE, Wave, noise, times

Strike = Callable[[np.random.Generator], Wave]


def kick(rng: np.random.Generator, *, low: float, sweep: float, fall: float, ring: float, click: float) -> Wave:
    """A sine that falls to `low` Hz from `low + sweep` within `fall` seconds."""
    t = times(4.5 * ring)
    phase = 2 * np.pi * (low * t + sweep * fall * (1 - np.exp(-t / fall)))
    beater = noise(len(t), 1200, 6000, rng) * np.exp(-t / 0.004) * click
    return _faded(np.sin(phase) * np.exp(-t / ring) + beater)


def snare(rng: np.random.Generator, *, tone: float, ring: float, wires: float, low: float, high: float) -> Wave:
    t = times(5 * max(ring, wires))
    shell = np.sin(2 * np.pi * tone * t) + 0.6 * np.sin(2 * np.pi * tone * 1.59 * t)  # first modes of a drum head
    rattle = noise(len(t), low, high, rng) * np.exp(-t / wires)
    return _faded(0.45 * shell * np.exp(-t / ring) + 0.55 * rattle)


def clap(rng: np.random.Generator) -> Wave:
    t = times(0.5)
    hands = sum(np.where(t >= s, np.exp(-(t - s) / 0.006), 0.0) for s in (0.0, 0.011, 0.022))
    room = np.where(t >= 0.03, np.exp(-(t - 0.03) / 0.08), 0.0)
    return _faded(noise(len(t), 900, 4200, rng) * (hands + 0.8 * room) * 0.6)


def rim(rng: np.random.Generator) -> Wave:
    t = times(0.12)
    return _faded((np.sin(2 * np.pi * 1700 * t) + 0.7 * np.sin(2 * np.pi * 520 * t)) * np.exp(-t / 0.014))


def hiss(rng: np.random.Generator, *, ring: float, low: float, attack: float = 0.0005) -> Wave:
    """Hats, shakers, brushes: a burst of high noise."""
    t = times(5 * ring)
    return _faded(noise(len(t), low, 15000, rng) * np.exp(-t / ring) * np.minimum(1, t / attack) * 0.4)


def cymbal(rng: np.random.Generator, *, ring: float, ping: float) -> Wave:
    """Noise over a cluster of inharmonic partials; `ping` is the stick on a ride."""
    t = times(4 * ring)
    modes = rng.uniform(3000, 11000, 12)
    metal = sum(np.sin(2 * np.pi * f * t + p) for f, p in zip(modes, rng.uniform(0, 6.28, 12), strict=True)) / 6
    wash = noise(len(t), 4000, 15000, rng)
    stick = np.sin(2 * np.pi * 5200 * t) * np.exp(-t / 0.03) * ping
    return _faded((0.5 * metal + 0.5 * wash) * np.exp(-t / ring) * 0.35 + stick)


def tom(rng: np.random.Generator, *, low: float) -> Wave:
    return kick(rng, low=low, sweep=low * 0.6, fall=0.05, ring=0.18, click=0.1)


def _faded(wave: Wave) -> Wave:
    end = min(len(wave), RATE // 200)
    wave[-end:] *= np.linspace(1, 0, end)
    return wave


_TOMS: dict[str, Strike] = {"high tom": partial(tom, low=165), "low tom": partial(tom, low=98)}

KITS: dict[str, dict[str, Strike]] = {
    "machine": {
        "kick": partial(kick, low=48, sweep=220, fall=0.025, ring=0.16, click=0.25),
        "snare": partial(snare, tone=195, ring=0.07, wires=0.09, low=1200, high=9000),
        "clap": clap,
        "rim": rim,
        "hat": partial(hiss, ring=0.022, low=8000),
        "open hat": partial(hiss, ring=0.11, low=7000),
        "shaker": partial(hiss, ring=0.03, low=6000, attack=0.02),
        "crash": partial(cymbal, ring=0.5, ping=0.0),
        **_TOMS,
    },
    "room": {
        "kick": partial(kick, low=58, sweep=90, fall=0.02, ring=0.11, click=0.5),
        "snare": partial(snare, tone=185, ring=0.1, wires=0.14, low=900, high=7500),
        "rim": rim,
        "hat": partial(hiss, ring=0.03, low=6500),
        "open hat": partial(hiss, ring=0.16, low=6000),
        "ride": partial(cymbal, ring=0.35, ping=0.35),
        "crash": partial(cymbal, ring=0.7, ping=0.1),
        **_TOMS,
    },
    "brushes": {
        "kick": partial(kick, low=62, sweep=50, fall=0.02, ring=0.09, click=0.1),
        "snare": partial(hiss, ring=0.09, low=1800, attack=0.015),
        "rim": rim,
        "hat": partial(hiss, ring=0.04, low=5500, attack=0.003),
        "shaker": partial(hiss, ring=0.035, low=6000, attack=0.025),
        "ride": partial(cymbal, ring=0.3, ping=0.5),
        "crash": partial(cymbal, ring=0.5, ping=0.1),
        **_TOMS,
    },
}
