"""Paired metrics against slow loops in float64 numpy, and against closed forms. Tolerances are stated at each."""

import math

import numpy as np
import pytest
from scipy import signal

from partimento.lab.restored.metrics import BANDS, BY_NAME, CEILING_DB, OCTAVES, aligned, best, compare, lag

RATE = 44100


def noise(N, seed=0, level=0.1):
    return level * np.random.default_rng(seed).standard_normal(N)


def music(N, rate=RATE):
    n = np.arange(N)
    tones = sum(np.sin(2 * np.pi * f / rate * n) / (k + 1) for k, f in enumerate((110, 221, 447, 901, 3520)))
    return 0.1 * tones * (0.6 + 0.4 * np.sin(2 * np.pi * 3 / rate * n)) + noise(N, 5, 0.003)


def slow_spectrum(wave_N):
    """[frames][bins] magnitudes by a plain loop; a full-scale sine has 1."""
    padded = np.pad(wave_N, 1024, mode="reflect")
    taper = signal.get_window("hann", 2048)
    return [np.abs(np.fft.rfft(padded[s : s + 2048] * taper)) * 4 / 2048 for s in range(0, len(padded) - 2047, 512)]


def slow_lsd(made_N, target_N, low=0.0, high=math.inf, rate=RATE):
    frames = []
    for made, target in zip(slow_spectrum(made_N), slow_spectrum(target_N), strict=True):
        squares = []
        for place in range(1025):
            if low <= place * rate / 2048 < high:
                ratio = 20 * math.log10(max(made[place], 1e-5) / max(target[place], 1e-5))
                squares.append(ratio * ratio)
        frames.append(math.sqrt(sum(squares) / len(squares)))
    return sum(frames) / len(frames)


@pytest.fixture(scope="module")
def pair():
    target_N = music(24000)
    b, a = signal.butter(2, 3000, fs=RATE)
    return signal.lfilter(b, a, target_N) + noise(24000, 1, 0.002), target_N


@pytest.fixture(scope="module")
def found(pair):
    return compare(*pair, RATE).figures


def test_log_spectral_distances_are_those_of_a_slow_loop(pair, found):
    assert found["lsd"] == pytest.approx(slow_lsd(*pair), abs=2e-3)  # dB; spectra of float32
    assert found["lsd_high"] == pytest.approx(slow_lsd(*pair, low=8000), abs=2e-3)
    for name, hertz in zip(BANDS, OCTAVES, strict=True):
        slow = slow_lsd(*pair, low=hertz / math.sqrt(2), high=hertz * math.sqrt(2))
        assert found[name] == pytest.approx(slow, abs=2e-3), name


def test_spectral_convergence_is_that_of_a_slow_loop(pair, found):
    made, target = (np.array(slow_spectrum(wave)) for wave in pair)
    assert found["convergence"] == pytest.approx(np.sqrt(((target - made) ** 2).sum() / (target**2).sum()), rel=1e-4)


def test_ratios_are_those_of_loops_over_the_aligned_samples(pair):
    made_N, target_N = pair
    found = compare(np.pad(made_N, (37, 0))[: len(made_N)], target_N, RATE)
    late = found.lag
    made, target = made_N[: len(made_N) - 37][late - 37 :], target_N[: len(target_N) - late]
    made = made[: len(target)]
    error = signal_ = 0.0
    for m, t in zip(made.tolist(), target.tolist(), strict=True):
        error += (m - t) ** 2
        signal_ += t * t
    assert found.figures["snr"] == pytest.approx(10 * math.log10(signal_ / error), abs=1e-9)
    m, t = made - made.mean(), target - target.mean()
    projected = (m @ t) / (t @ t) * t
    slow = 10 * math.log10((projected @ projected) / ((m - projected) @ (m - projected)))
    assert found.figures["si_sdr"] == pytest.approx(slow, abs=1e-9)
    assert found.figures["l1"] == pytest.approx(np.abs(made - target).mean(), rel=1e-12)


def test_si_sdr_of_noise_that_is_orthogonal_is_its_ratio():
    n = np.arange(20000)
    target_N, other_N = np.sin(2 * np.pi * 100 * n / 20000), np.sin(2 * np.pi * 300 * n / 20000)
    for ratio in (0.0, 10.0, 40.0):
        made_N = 0.3 * (target_N + 10 ** (-ratio / 20) * other_N)
        assert compare(made_N, target_N, RATE).figures["si_sdr"] == pytest.approx(ratio, abs=1e-6)


def test_a_gain_moves_the_log_spectral_distance_by_itself_and_the_si_sdr_not_at_all():
    target_N = noise(24000)  # far above the floor in every bin
    found = compare(0.5 * target_N, target_N, RATE).figures
    for name in ("lsd", "lsd_high", *BANDS):
        assert found[name] == pytest.approx(20 * math.log10(2), abs=2e-3)
    assert found["convergence"] == pytest.approx(0.5, abs=1e-6)
    assert found["snr"] == pytest.approx(20 * math.log10(2), abs=1e-9)
    assert found["si_sdr"] == CEILING_DB


@pytest.mark.parametrize("delay", [-300, -1, 0, 1, 57, 800])
def test_the_lag_is_that_of_a_slow_search(delay):
    clean_N = np.pad(noise(3000, 3), 1000)
    target_N, made_N = clean_N[1000:4000], clean_N[1000 - delay : 4000 - delay] + noise(3000, 4, 0.05)

    def likeness(late):
        made, target = aligned(made_N, target_N, late)
        return (made @ target) / math.sqrt((made @ made) * (target @ target))

    slow = max(range(-882, 883), key=lambda late: (likeness(late), -abs(late)))
    assert lag(made_N, target_N, 882) == slow == delay


def test_the_lag_of_waves_that_are_hardly_alike_is_that_of_a_slow_search():
    """They swell, so that it matters by which energies each overlap is divided."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        made_CN, target_CN = rng.standard_normal((2, 2, 60)) * np.exp(np.arange(60) / 12)
        found = {}
        for late in range(-15, 16):
            one, other = aligned(made_CN, target_CN, late)
            found[late] = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
        assert lag(made_CN, target_CN, 15) == max(found, key=found.get)


def test_a_delay_costs_the_figures_that_hear_phase_nothing():
    target_N = noise(30000, 6)
    plain, late = (compare(wave, target_N, RATE) for wave in (0.9 * target_N, np.roll(0.9 * target_N, 200)))
    assert (plain.lag, late.lag) == (0, 200)
    assert late.figures["si_sdr"] == plain.figures["si_sdr"] == CEILING_DB
    assert late.figures["snr"] == pytest.approx(20, abs=1e-6)
    assert lag(np.roll(target_N, 2000), target_N, 882) not in (2000, 882)  # beyond the reach it finds nothing there


def test_the_identity_is_the_best_there_is():
    for rate in (8000, 24000, 44100):
        for wave in (music(9000, rate), np.zeros(9000), np.full(9000, 0.1), noise(900)):
            found = compare(wave, wave, rate).figures
            assert best(wave, rate).keys() == found.keys() >= BY_NAME.keys()
            for name, value in best(wave, rate).items():
                assert found[name] == (None if value is None else pytest.approx(value, abs=1e-9)), (rate, name)


def test_silence_is_refused_and_what_is_silent_against_sound_is_the_worst():
    target_N = noise(9000)
    silent = compare(target_N, np.zeros(9000), RATE).figures
    assert {name for name, value in silent.items() if value is None} == {
        "lsd", "lsd_high", "convergence", "si_sdr", "snr", *BANDS,
    }  # fmt: skip
    assert silent["l1"] == pytest.approx(np.abs(target_N).mean())
    dumb = compare(np.zeros(9000), target_N, RATE).figures
    assert dumb["si_sdr"] == -CEILING_DB and dumb["snr"] == pytest.approx(0) and dumb["convergence"] == 1


def test_channels_are_averaged_where_they_are_defined():
    one, two = noise(9000, 1), noise(9000, 2)
    both = compare(np.stack([0.5 * one, 0.9 * two]), np.stack([one, two]), RATE).figures
    assert both["snr"] == pytest.approx((20 * math.log10(2) + 20) / 2)
    half = compare(np.stack([0.5 * one, 0 * two]), np.stack([one, 0 * two]), RATE).figures
    assert half["snr"] == pytest.approx(20 * math.log10(2))


def test_bands_that_a_rate_has_not_are_undefined():
    found = compare(noise(9000), noise(9000, 1), 8000).figures
    assert found["lsd_high"] is None and found["lsd_4000"] is None and found["lsd_16000"] is None
    assert found["lsd_2000"] is not None and compare(noise(9000), noise(9000, 1), 44100).figures["lsd_16000"]


@pytest.mark.parametrize("made", [np.zeros(5), np.full(9, np.nan), np.full(9, np.inf)])
def test_what_cannot_be_compared_is_an_error(made):
    with pytest.raises(ValueError):
        compare(made, np.zeros(9), RATE)
