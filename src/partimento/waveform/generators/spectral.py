"""A network between STFT frames: what it adds to each complex bin is of the size that is there already.

    wave [B, N] -> frames, FFT -> features [B, T, 3 F] -> ConvNeXt blocks -> gain and complex shape [B, T, 3 F]
                -> spectrum of what is added -> inverse FFT, overlap-add -> wave [B, N]

Spectra span 100 dB, so a network that made bins as they are would be exact at the loud ones only; here a bin of -90 dB
is corrected as easily as one of -10 dB. What is wrong is magnitudes above all, and to change one by adding to the
complex bin a network would have to multiply by its phase: so each bin has a gain, and what is added comes on top,
turned by the phase that is there. With a phase of its own it was worse (mel7 0.929 against 0.923, of an input of 0.985,
after 700 steps, one seed; gains alone 0.928), and a part that is the same in every frame is a standing line. Phase goes
in as real and imaginary parts of a unit size, where it has no jumps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partimento.models.linear import Linear
from partimento.waveform.blocks import Block, full_precision
from partimento.waveform.generators.common import Generator, GeneratorConfig

OVERLAP = 4  # frames that a sample lies in
KERNEL, EXPANSION = 7, 3
POWER_FLOOR = 1e-12  # a bin of one rounding to 16 bits, where 1 is a sine of full scale
USUAL, SPREAD = -8.0, 3.0  # of the natural log of a bin's magnitude in music, roughly
MOST = 4.0  # natural log of a gain, which no training should reach and no sum overflow from


class SpectralNet(Generator):
    """Hann windows of four hops. `multiple` is the hop."""

    taper_W: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        window, width = OVERLAP * config.hop, config.width
        bins = window // 2 + 1
        self.register_buffer("taper_W", torch.hann_window(window, dtype=torch.float64).float(), persistent=False)
        self.enter = Linear(3 * bins, width)
        self.blocks = nn.ModuleList(Block(width, EXPANSION, KERNEL) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.head = Linear(width, 3 * bins)
        self._begin_as_identity(self.head)
        self.multiple = config.hop
        # A sample lies in 4 frames; each sees `reach` more on its sides, one of them by the local magnitude. The first
        # sample of a window has weight 0, so one sample less on both ends.
        reach = 1 + KERNEL // 2 * config.blocks
        self.context = (reach + OVERLAP) * config.hop - 2

    def make(self, wave_BN: Tensor) -> Tensor:
        with full_precision(wave_BN):
            spectrum_BTF = analyse(wave_BN, self.taper_W)
            real, imaginary = spectrum_BTF.real, spectrum_BTF.imag
            power = real.square() + imaginary.square()
            level = torch.sqrt(_smooth(power) + POWER_FLOOR)
            loudness = (0.5 * torch.log(power + POWER_FLOOR) - USUAL) / SPREAD
            features_BTF = torch.cat([loudness, real / level, imaginary / level], -1)
        x_BTD = self.enter(features_BTF)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        with full_precision(wave_BN):
            gain, real, imaginary = self.head(self.norm(x_BTD.to(wave_BN.dtype))).chunk(3, -1)
            shape_BTF = torch.complex(real, imaginary)
            if self.config.residual:
                unit_BTF = spectrum_BTF / torch.sqrt(power + POWER_FLOOR)
                made_BTF = spectrum_BTF * torch.expm1(gain.clamp(max=MOST)) + level * shape_BTF * unit_BTF
            else:
                made_BTF = (USUAL + SPREAD * gain).clamp(max=MOST).exp() * shape_BTF
            return synthesize(made_BTF, self.taper_W)


def analyse(wave_BN: Tensor, taper_W: Tensor) -> Tensor:
    """Complex spectrum [B, N / hop + 3, F] of windows of W = 4 hop; a sine of amplitude 1 has magnitude 1.

    Frame t begins 3 - t hops before the wave, so that each of its samples, the first and the last too, lies in four
    frames; outside is silence. N is a multiple of the hop.
    """
    W = len(taper_W)
    hop = W // OVERLAP
    padded = F.pad(wave_BN, (W - hop, W - hop))
    frames_BTW = padded.unfold(-1, W, hop) * (taper_W * (2 / taper_W.sum()))
    return torch.fft.rfft(frames_BTW)


def synthesize(spectrum_BTF: Tensor, taper_W: Tensor) -> Tensor:
    """The wave [B, N] of which `analyse` gives this spectrum; of what is no spectrum of a wave, the wave with the
    nearest one (Griffin and Lim, 1984: windowed again and divided by the sum of squares, 3/2 for Hann)."""
    W = len(taper_W)
    hop = W // OVERLAP
    frames_BTW = torch.fft.irfft(spectrum_BTF, W) * (taper_W * (taper_W.sum() / 3))
    parts = frames_BTW.unflatten(-1, (OVERLAP, hop)).unbind(2)
    blocks = frames_BTW.shape[1] - OVERLAP + 1
    # Block b of the wave is the last quarter of frame b, the third of frame b + 1, ...
    added = [part[:, OVERLAP - 1 - quarter :][:, :blocks] for quarter, part in enumerate(parts)]
    return sum(added[1:], added[0]).flatten(1)


def _smooth(power_BTF: Tensor) -> Tensor:
    """Mean over 3 frames and 3 bins: a bin between two loud ones may be as loud."""
    return F.avg_pool2d(power_BTF[:, None], 3, stride=1, padding=1)[:, 0]
