"""Discriminators of waves, with the structure of DAC's: by period, by resampled rate, and by bands of a complex STFT.

    wave [B, N] -> levelled -> each discriminator -> inner maps, and a last map of scores (real: 1, made: 0)

Structure and channel plans: descript-audio-codec, dac/model/discriminator.py (Kumar et al., 2023), whose parts go back
to HiFi-GAN (Kong et al., 2020), MelGAN (Kumar et al., 2019) and EnCodec (Defossez et al., 2022). With widths of 32, 32
and 16 the channels are DAC's. There is no weight norm: a kernel is one matrix, so that Muon can train it, and what a
checkpoint holds is what computes (DAC's kernels are g * v / |v|).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partimento.waveform.blocks import full_precision

SLOPE = 0.1  # of the leaky ReLU
PEAK = 0.8  # every wave is brought to it: discriminators do not hear loudness
AUDIBLE = 1e-3  # peak (-60 dBFS) under which levelling would bring up little but the noise of rounding
BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))  # of half the sample rate
# The resampler's windowed sinc: zero crossings on each side, and cutoff as a share of the new half rate (julius's).
ZEROS = 24
CUTOFF = 0.945


@dataclass(frozen=True)
class AdversaryConfig:
    """Which discriminators there are (one for each period, STFT window and divisor of the rate), and how wide.

    Raises ValueError if there are none, or two of a kind are the same.
    """

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_width: int = 32
    windows: tuple[int, ...] = (2048, 1024, 512)
    window_width: int = 32
    rates: tuple[int, ...] = ()
    rate_width: int = 16

    def __post_init__(self) -> None:
        for name, least in (("periods", 2), ("windows", 32), ("rates", 1)):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(set(values)) < len(values) or any(value < least for value in values):
                raise ValueError(f"{name} are to be different, and {least} at least: {list(values)}")
        if min(self.period_width, self.window_width, self.rate_width) < 1:
            raise ValueError("a discriminator has one channel at least")
        if not (self.periods or self.windows or self.rates):
            raise ValueError("an adversary needs a period, a window or a rate")


@dataclass(frozen=True)
class Seen:
    """What one discriminator sees in waves: `score` its last map, `maps` the inner ones; the first dimension is B."""

    name: str
    score: Tensor
    maps: list[Tensor]


class _Discriminator(Protocol):
    """shortest: the least N from which on every wave can be seen."""

    shortest: int

    def __call__(self, wave_BN: Tensor) -> tuple[Tensor, list[Tensor]]: ...


class Discriminators(nn.Module):
    """All discriminators. Convolutions may run in half precision (autocast); levelling, STFT and resampling never do.

    `names` are "period 2", "window 2048", "rate 1", ..., in the order of what `forward` gives. `shortest` is the least
    number of samples that all of them can see (1153 with a window of 2048).
    """

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__()
        self.config = config
        members: dict[str, nn.Module] = {}
        for period in config.periods:
            members[f"period_{period}"] = PeriodDiscriminator(period, config.period_width)
        for rate in config.rates:
            members[f"rate_{rate}"] = RateDiscriminator(rate, config.rate_width)
        for window in config.windows:
            members[f"window_{window}"] = WindowDiscriminator(window, config.window_width)
        self.names = tuple(name.replace("_", " ") for name in members)
        self.members = nn.ModuleDict(members)
        self.shortest = max(member.shortest for member in self._each())

    def forward(self, wave_BN: Tensor) -> list[Seen]:
        """What each sees in waves [B, N]; item b does not depend on the others. Raises ValueError if N < shortest."""
        if wave_BN.ndim != 2 or wave_BN.shape[1] < self.shortest:
            raise ValueError(
                f"these discriminators see waves [B, N] of {self.shortest} samples or more, not {list(wave_BN.shape)}"
            )
        with full_precision(wave_BN):
            level_BN = levelled(wave_BN)
        seen = [member(level_BN) for member in self._each()]
        return [Seen(name, score, maps) for name, (score, maps) in zip(self.names, seen, strict=True)]

    def _each(self) -> list[_Discriminator]:
        return cast(list[_Discriminator], list(self.members.values()))


def levelled(wave_BN: Tensor) -> Tensor:
    """Each item without its mean, at a peak of 0.8, in float32 at least (DAC's `preprocess`)."""
    wave_BN = wave_BN.to(torch.promote_types(wave_BN.dtype, torch.float32))
    wave_BN = wave_BN - wave_BN.mean(-1, keepdim=True)
    return PEAK * wave_BN / (wave_BN.abs().amax(-1, keepdim=True) + 1e-9)


def audible(wave_BN: Tensor) -> Tensor:
    """bool [B]: which items are loud enough (a peak of -60 dBFS, mean removed) for an adversary to judge.

    In the others levelling brings up the noise of rounding, and multiplies gradients as much: they are to weigh 0 in
    each adversarial loss, whether it is the target that is silent or what was made.
    """
    wave_BN = wave_BN.detach().float()
    return (wave_BN - wave_BN.mean(-1, keepdim=True)).abs().amax(-1) > AUDIBLE


class PeriodDiscriminator(nn.Module):
    """Sees every `period`-th sample as a column: convolutions over time, none across the columns.

    The wave is reflected up to the next multiple of the period, and by a whole period where it is one already, as in
    DAC. Maps are [B, C, L, period].
    """

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        self.shortest = period + 1
        channels = (1, width, 4 * width, 16 * width, 32 * width, 32 * width)
        strides = (3, 3, 3, 3, 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], (5, 1), (stride, 1), padding=(2, 0))
            for i, stride in enumerate(strides)
        )
        self.head = nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, wave_BN: Tensor) -> tuple[Tensor, list[Tensor]]:
        B, N = wave_BN.shape
        wave_BN = _reflected(wave_BN, 0, self.period - N % self.period)
        maps = _through(self.layers, wave_BN.reshape(B, 1, -1, self.period))
        return self.head(maps[-1]), maps


class RateDiscriminator(nn.Module):
    """Hears the wave at 1/`rate` of its sample rate, through strided grouped convolutions. Maps are [B, C, L]."""

    def __init__(self, rate: int, width: int) -> None:
        super().__init__()
        self.rate = self.shortest = rate
        channels = (width, 4 * width, 16 * width, 64 * width, 64 * width)
        # Groups of four channels, except of a first layer whose width is no multiple of four.
        grouped = [
            nn.Conv1d(C, channels[i + 1], 41, 4, padding=20, groups=1 if C % 4 else C // 4)
            for i, C in enumerate(channels[:-1])
        ]
        first, last = nn.Conv1d(1, width, 15, padding=7), nn.Conv1d(channels[-1], channels[-1], 5, padding=2)
        self.layers = nn.ModuleList([first, *grouped, last])
        self.head = nn.Conv1d(channels[-1], 1, 3, padding=1)

    def forward(self, wave_BN: Tensor) -> tuple[Tensor, list[Tensor]]:
        with full_precision(wave_BN):
            wave_BN = decimated(wave_BN, self.rate)
        maps = _through(self.layers, wave_BN[:, None])
        return self.head(maps[-1]), maps


class WindowDiscriminator(nn.Module):
    """Sees the complex STFT (hop a quarter of the window) in five bands, each by a stack of its own, under one head.

    Maps are [B, C, T, F] with T = ceil(N / hop), band after band.
    """

    def __init__(self, window: int, width: int) -> None:
        super().__init__()
        self.window = window
        self.hop = window // 4
        self.shortest = self._shortest()
        bins = window // 2 + 1
        self.edges = [(int(low * bins), int(high * bins)) for low, high in BANDS]
        self.bands = nn.ModuleList(_band(width) for _ in BANDS)
        self.head = nn.Conv2d(width, 1, (3, 3), padding=(1, 1))

    def forward(self, wave_BN: Tensor) -> tuple[Tensor, list[Tensor]]:
        with full_precision(wave_BN):
            spectrum_B2TF = self.spectrum(wave_BN)
        maps: list[Tensor] = []
        tops: list[Tensor] = []
        for (low, high), band in zip(self.edges, self.bands, strict=True):
            maps += _through(cast(nn.ModuleList, band), spectrum_B2TF[..., low:high])
            tops.append(maps[-1])
        return self.head(torch.cat(tops, -1)), maps

    def spectrum(self, wave_BN: Tensor) -> Tensor:
        """Real and imaginary part [B, 2, ceil(N / hop), window // 2 + 1]: periodic Hann, not scaled.

        Frame t begins at t * hop of the wave reflected by (window - hop) / 2, which is what audiotools calls
        `match_stride`: its centred frames but for the two at each end.
        """
        left, right = self._margins(wave_BN.shape[1])
        taper = torch.hann_window(self.window, periodic=True, dtype=wave_BN.dtype, device=wave_BN.device)
        padded = _reflected(wave_BN, left, right)
        spectrum = torch.stft(padded, self.window, self.hop, window=taper, center=False, return_complex=True)
        return torch.view_as_real(spectrum).permute(0, 3, 2, 1)

    def _margins(self, samples: int) -> tuple[int, int]:
        left = (self.window - self.hop) // 2
        return left, self.window - self.hop - left + -samples % self.hop

    def _shortest(self) -> int:
        samples = self.window  # longer than any margin
        while max(self._margins(samples - 1)) < samples - 1:
            samples -= 1
        return samples


def decimated(wave_BN: Tensor, rate: int) -> Tensor:
    """The wave [B, N // rate] at 1/rate of its sample rate, without what is above the new half rate.

    A Hann-windowed sinc of 24 zero crossings on each side, cut off at 0.945 of the new half rate, gain 1 at 0 Hz, ends
    repeated: the kernel of julius (Defossez, `resample_frac`), with which audiotools resamples. Sample i lies at
    i * rate.
    """
    if rate == 1:
        return wave_BN
    reach = math.ceil(ZEROS * rate / CUTOFF)
    place = torch.arange(-reach, reach + 1, dtype=torch.float64, device=wave_BN.device) * (CUTOFF / rate)
    kernel = torch.sinc(place) * (place.clamp(-ZEROS, ZEROS) * (math.pi / 2 / ZEROS)).cos().square()
    kernel = (kernel / kernel.sum()).to(wave_BN.dtype)
    ends = wave_BN[:, :1].expand(-1, reach), wave_BN[:, -1:].expand(-1, reach)
    padded = torch.cat([ends[0], wave_BN, ends[1]], -1)
    return F.conv1d(padded[:, None], kernel[None, None], stride=rate)[:, 0, : wave_BN.shape[1] // rate]


def _band(width: int) -> nn.ModuleList:
    inner = [nn.Conv2d(width, width, (3, 9), (1, 2), padding=(1, 4)) for _ in range(3)]
    first = nn.Conv2d(2, width, (3, 9), padding=(1, 4))
    return nn.ModuleList([first, *inner, nn.Conv2d(width, width, (3, 3), padding=(1, 1))])


def _through(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    for layer in layers:
        x = F.leaky_relu(layer(x), SLOPE)
        maps.append(x)
    return maps


def _reflected(wave_BN: Tensor, left: int, right: int) -> Tensor:
    """Reflection at the ends, which are not repeated. F.pad's gradient is added up in no fixed order on a GPU, so that
    a run would not resume bit for bit."""
    before, after = wave_BN[:, 1 : left + 1].flip(-1), wave_BN[:, wave_BN.shape[1] - 1 - right : -1].flip(-1)
    return torch.cat([before, wave_BN, after], -1)
