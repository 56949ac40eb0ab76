"""From what a trunk makes of a frame to a frame of spectrum and to the wave: MDCT, or complex STFT with exact lengths.

Spectra span 100 dB. A network reaches that as a gain in the log domain, around each bin's usual magnitude, times a
shape of order one: a signed number (MDCT) or a complex one (STFT), which may shrink where its phase is not known.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from partimento.audio.spectra import imdct

POWER_FLOOR = 1e-10  # about the power of one rounding to 16 bits
GAIN_RANGE = (-14.0, 6.0)  # natural log of a coefficient's gain: from below the 16-bit floor to full scale


def mdct_wave(made_BTF: Tensor, mean_M: Tensor, scale_M: Tensor) -> Tensor:
    """wave [B, T * hop] of F = 2 hop numbers a frame: gains and shapes of its MDCT coefficients."""
    gain, shape = made_BTF.chunk(2, -1)
    return imdct(_amplitude(gain, mean_M, scale_M) * shape)


def stft_wave(made_BTF: Tensor, mean_F: Tensor, scale_F: Tensor, hop: int, span: int = 2) -> Tensor:
    """wave [B, T * hop] of 3 F numbers a frame: gains, real and imaginary parts of the shapes of its lowest F bins."""
    gain, real, imaginary = made_BTF.chunk(3, -1)
    amplitude = _amplitude(gain, mean_F, scale_F)
    return overlap_add(torch.complex(amplitude * real, amplitude * imaginary), hop, span)


def frames(wave_BN: Tensor, hop: int, span: int = 2) -> Tensor:
    """Complex spectrum [B, T, span hop / 2 + 1] of T = ceil(N / hop) frames of span hops, zeros around the wave.

    Frame t is centred in its own samples [t hop, (t + 1) hop), so that frames count samples exactly as the MDCT's do.
    White noise of deviation s has bins of root mean square s, as in an orthonormal transform. `hop` and `span` are
    even. Windows are sines where span is 2, Hann's where it is more.

    Hann windows of 4 hop need a last layer of twice the size. In short trainings they were worse in a small network
    (mel7 1.88 against 1.83) and better in one of the size of ours (1.642 against 1.657), so the small layer won.
    """
    missing = -wave_BN.shape[-1] % hop
    beside = (span - 1) * hop // 2
    padded_BN = F.pad(wave_BN, (beside, beside + missing))
    window = _window(hop, span, wave_BN.dtype, wave_BN.device)
    window = window / window.square().mean().sqrt()
    return torch.fft.rfft(padded_BN.unfold(-1, span * hop, hop) * window, norm="ortho")


def overlap_add(spectrum_BTF: Tensor, hop: int, span: int = 2) -> Tensor:
    """The wave [B, T * hop] whose `frames` are nearest to these, and the wave itself if they are frames of one.

    That is Griffin and Lim's (1984) least-squares inverse: windowed frames are added and divided by what the squared
    windows add up to, which differs at the first and the last samples only, where frames are missing. Bins above
    the last one given are 0.
    """
    B, T, _ = spectrum_BTF.shape
    window = _window(hop, span, spectrum_BTF.real.dtype, spectrum_BTF.device)
    parts = torch.fft.irfft(spectrum_BTF, span * hop, norm="ortho") * (window * window.square().mean().sqrt())
    squares = window.square().expand(1, T, -1)
    return (_added(parts, hop) / _added(squares, hop)).reshape(B, T * hop)


def log_magnitude(real: Tensor, imaginary: Tensor) -> Tensor:
    return 0.5 * torch.log(real.square() + imaginary.square() + POWER_FLOOR)


def statistics(log_BTF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [F] of each bin's log magnitude, near-silent frames apart. ValueError if all are silent."""
    log_NF = log_BTF.flatten(0, 1)
    heard_NF = log_NF[log_NF.mean(1) > -9.0]
    if len(heard_NF) < 2:
        raise ValueError("there is nothing but silence to take the statistics of")
    return heard_NF.mean(0), heard_NF.std(0).clamp(min=0.1)


def _amplitude(gain: Tensor, mean_F: Tensor, scale_F: Tensor) -> Tensor:
    return (mean_F + scale_F * gain).clamp(*GAIN_RANGE).exp()


def _added(parts_BTW: Tensor, hop: int) -> Tensor:
    """[B, T * hop] of frames [B, T, span hop] that begin hop apart, without the (span - 1) hop / 2 before and after."""
    B, T, W = parts_BTW.shape
    span = W // hop
    pieces = parts_BTW.unflatten(-1, (span, hop)).unbind(2)
    total = sum(F.pad(piece, (0, 0, number, span - 1 - number)) for number, piece in enumerate(pieces))
    assert isinstance(total, Tensor)
    return total.reshape(B, -1)[:, (span - 1) * hop // 2 :][:, : T * hop]


@cache
@torch.inference_mode(False)  # asked for first while evaluating, it is wanted in training too
def _window(hop: int, span: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sine [span hop], the MDCT's, where span is 2; its square (Hann's) where it is more, of less leakage."""
    place = (torch.arange(span * hop, dtype=torch.float64, device="cpu") + 0.5) / (span * hop)
    sine = torch.sin(math.pi * place)
    return (sine if span == 2 else sine.square()).to(device=device, dtype=dtype)
