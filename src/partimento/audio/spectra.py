"""Spectra: short-time Fourier transform, Slaney mel filters, the mel distance `mel7`, the MDCT with exact edges.

Everything is differentiable torch and keeps the precision of its input; nothing here is ever run in half precision.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# DAC's settings (descript-audio-codec conf/final/44khz.yml): hop = window / 4, magnitudes, log10 with a floor.
MEL7_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
MEL7_MELS = (5, 10, 20, 40, 80, 160, 320)
MEL7_FLOOR = 1e-5
_BAND = 40  # mels that are summed by one small matrix: most of the whole one is zeros


def stft(wave_BN: Tensor, window: int, hop: int) -> Tensor:
    """Complex spectrum [B, window // 2 + 1, 1 + N // hop]: periodic Hann, centred, reflected at the ends, not scaled.

    Waves too short to be reflected (N <= window // 2) are padded with zeros to window // 2 + 1 samples first.
    """
    short = window // 2 + 1 - wave_BN.shape[-1]
    if short > 0:
        wave_BN = F.pad(wave_BN, (0, short))
    taper = _hann(window, wave_BN.dtype, wave_BN.device)
    return torch.stft(wave_BN, window, hop, window=taper, center=True, pad_mode="reflect", return_complex=True)


def mel_filters(sample_rate: int, window: int, mels: int) -> Tensor:
    """Slaney's triangular filters [mels, window // 2 + 1] in float64, from 0 Hz to half the sample rate.

    The scale is linear below 1 kHz (200/3 Hz a mel) and logarithmic above (27 mels a factor of 6.4); each triangle has
    unit area over frequency in Hz (Slaney, Auditory Toolbox, 1998). Narrow filters between two bins stay empty.
    """
    edges = _mel_to_hz(torch.linspace(0.0, _hz_to_mel(sample_rate / 2), mels + 2, dtype=torch.float64))
    bins = torch.linspace(0.0, sample_rate / 2, window // 2 + 1, dtype=torch.float64)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0.0) * (2.0 / (right - left))


def log_mel(wave_BN: Tensor, sample_rate: int, window: int, mels: int) -> Tensor:
    """log10 of the mel magnitudes of `stft` at a quarter of the window, not below 1e-5: [B, mels, 1 + 4 * N // window].

    Once differentiable.
    """
    short = window // 2 + 1 - wave_BN.shape[-1]
    padded_BN = F.pad(wave_BN, (0, short)) if short > 0 else wave_BN
    padded_BN = F.pad(padded_BN, (window // 2, window // 2), mode="reflect")
    log_BTM: Tensor = _LogMel.apply(padded_BN, sample_rate, window, mels)
    return log_BTM.mT


def mel7(wave_BN: Tensor, other_BN: Tensor, sample_rate: int) -> Tensor:
    """The 7-scale mel distance of each item [B]: the sum over scales of the mean |difference of log10 mel magnitudes|.

    Windows 32 to 2048 with 5 to 320 mels, hop a quarter of the window; the log term of DAC's mel loss with its weight
    for plain magnitudes 0 (descript-audio-codec conf/final/44khz.yml; audiotools/metrics/spectral.py).
    """
    if wave_BN.shape != other_BN.shape:
        raise ValueError(f"mel7 compares equal shapes, not {tuple(wave_BN.shape)} and {tuple(other_BN.shape)}")
    total = wave_BN.new_zeros(wave_BN.shape[0])
    for window, mels in zip(MEL7_WINDOWS, MEL7_MELS, strict=True):
        one = log_mel(wave_BN, sample_rate, window, mels)
        two = log_mel(other_BN, sample_rate, window, mels)
        total = total + (one - two).abs().mean((1, 2))
    return total


class _LogMel(Function):
    """Log mel magnitudes [B, T, M] of the frames of a wave [B, P] that is padded already.

    Its gradient is written out: autograd's of a complex magnitude and of a real FFT cost thrice as much, and this is
    half of a step of a codec's training.
    """

    @staticmethod
    def forward(ctx: Any, wave_BP: Tensor, sample_rate: int, window: int, mels: int) -> Tensor:
        frames_BTW = wave_BP.unfold(-1, window, window // 4) * _hann(window, wave_BP.dtype, wave_BP.device)
        spectrum_BTF = torch.fft.rfft(frames_BTW)
        magnitude_BTF = spectrum_BTF.real.square().addcmul_(spectrum_BTF.imag, spectrum_BTF.imag).sqrt_()
        bands = _mel_bands(sample_rate, window, mels, wave_BP.dtype, wave_BP.device)
        mel_BTM = torch.cat([magnitude_BTF[..., first:last] @ filters_FM for first, last, filters_FM in bands], -1)
        mel_BTM.clamp_(min=MEL7_FLOOR)
        ctx.save_for_backward(spectrum_BTF, magnitude_BTF, mel_BTM)
        ctx.bands, ctx.samples, ctx.window = bands, wave_BP.shape[-1], window
        return mel_BTM.log10()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTM: Tensor) -> tuple[Tensor, None, None, None]:
        spectrum_BTF, magnitude_BTF, mel_BTM = ctx.saved_tensors
        window: int = ctx.window
        hop = window // 4
        grad_BTM = torch.where(mel_BTM > MEL7_FLOOR, grad_BTM / (math.log(10) * mel_BTM), 0.0)
        grad_BTF = torch.zeros_like(magnitude_BTF)
        done = 0
        for first, last, filters_FM in ctx.bands:
            mels = filters_FM.shape[1]
            grad_BTF[..., first:last] += grad_BTM[..., done : done + mels] @ filters_FM.mT
            done += mels
        grad_BTF /= magnitude_BTF.clamp(min=1e-15)  # a bin of 0 has no direction
        # rfft's transpose: irfft counts each inner bin twice, as one of a pair of conjugates.
        grad_BTF[..., 0] *= 2
        grad_BTF[..., -1] *= 2
        frames_BTW = torch.fft.irfft(spectrum_BTF * grad_BTF, window)
        frames_BTW *= _hann(window, grad_BTM.dtype, grad_BTM.device) * (window / 2)
        B, T, _ = frames_BTW.shape
        wave_BP = frames_BTW.new_zeros(B, max(ctx.samples, (T + 3) * hop))
        for phase in range(min(4, T)):  # every fourth frame: they touch and do not overlap
            lane_BTW = frames_BTW[:, phase::4]
            wave_BP[:, phase * hop :][:, : lane_BTW.shape[1] * window] += lane_BTW.flatten(1)
        return wave_BP[:, : ctx.samples], None, None, None


def si_sdr(wave_BN: Tensor, reference_BN: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio of each item [B] in dB, means removed (Le Roux et al., 2019).

    No alignment is done: our codec has no delay. A silent reference gives nan.
    """
    wave = wave_BN - wave_BN.mean(-1, keepdim=True)
    reference = reference_BN - reference_BN.mean(-1, keepdim=True)
    share = (wave * reference).sum(-1, keepdim=True) / reference.square().sum(-1, keepdim=True)
    target = share * reference
    return 10 * torch.log10(target.square().sum(-1) / (wave - target).square().sum(-1))


def mdct(wave_BN: Tensor, hop: int) -> Tensor:
    """Orthonormal MDCT [B, T, hop] with T = ceil(N / hop) frames, sine window; the last frame is padded with zeros.

    Frame t folds around t * hop and (t + 1) * hop. It is computed as a rotation of the samples on both sides of each
    inner fold followed by a DCT-IV of each segment, which is the same transform (Malvar, Signal Processing with Lapped
    Transforms, 1992). The first and the last fold are not rotated: the window is 0 outside and 1 inside, so T frames
    hold exactly T * hop samples and the wave's ends need no extra frame.
    """
    return _fold(_segments(wave_BN, hop), sign=1.0) @ _dct4(hop, wave_BN.dtype, wave_BN.device)


def mdst(wave_BN: Tensor, hop: int) -> Tensor:
    """The sine twin of `mdct` [B, T, hop]; mdct - i * mdst is a complex spectrum with the same frames and window."""
    folded = _fold(_segments(wave_BN, hop), sign=-1.0)
    return folded @ _dst4(hop, wave_BN.dtype, wave_BN.device)


def imdct(coefficients_BTM: Tensor) -> Tensor:
    """The wave [B, T * M] of which `mdct` gives these coefficients (its exact inverse, being its transpose)."""
    B, T, M = coefficients_BTM.shape
    folded = coefficients_BTM @ _dct4(M, coefficients_BTM.dtype, coefficients_BTM.device)
    return _fold(folded, sign=-1.0).reshape(B, T * M)


def _segments(wave_BN: Tensor, hop: int) -> Tensor:
    B, N = wave_BN.shape
    frames = -(-N // hop)
    return F.pad(wave_BN, (0, frames * hop - N)).reshape(B, frames, hop)


def _fold(segments_BTM: Tensor, sign: float) -> Tensor:
    """Rotate the half segments on both sides of each inner fold; sign -1 undoes sign 1."""
    half = segments_BTM.shape[-1] // 2
    angle = torch.arange(half, dtype=torch.float64, device=segments_BTM.device)
    angle = math.pi / 4 * (1 + (angle + 0.5) / half)
    near = angle.sin().to(segments_BTM.dtype)  # the window on the frame's own side of the fold, growing outwards
    far = (sign * angle.cos()).to(segments_BTM.dtype)
    before = segments_BTM[:, :-1, half:].flip(-1)  # mirrored, so that index i is i + 1/2 samples away from the fold
    after = segments_BTM[:, 1:, :half]
    first = torch.cat([segments_BTM[:, :1, :half], near * after + far * before], 1)
    second = torch.cat([(near * before - far * after).flip(-1), segments_BTM[:, -1:, half:]], 1)
    return torch.cat([first, second], -1)


# What is cached may be first asked for in inference mode, and be wanted in training later: it is never made in it.
@cache
@torch.inference_mode(False)
def _hann(window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.hann_window(window, periodic=True, dtype=torch.float64).to(device=device, dtype=dtype)


@cache
@torch.inference_mode(False)
def _mel_bands(
    sample_rate: int, window: int, mels: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[int, int, Tensor]]:
    """(first bin, end, filters [bins, mels]) of each band: a few mels on the CPU, all elsewhere (fewer launches)."""
    bands = []
    for filters_MF in mel_filters(sample_rate, window, mels).split(_BAND if device.type == "cpu" else mels):
        bins = filters_MF.any(0).nonzero()
        first, last = (int(bins[0]), int(bins[-1]) + 1) if len(bins) else (0, 0)
        bands.append((first, last, filters_MF[:, first:last].T.contiguous().to(device=device, dtype=dtype)))
    return bands


@cache
@torch.inference_mode(False)
def _dct4(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    grid = torch.arange(size, dtype=torch.float64) + 0.5
    return (math.sqrt(2 / size) * torch.cos(math.pi / size * torch.outer(grid, grid))).to(device=device, dtype=dtype)


@cache
@torch.inference_mode(False)
def _dst4(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    grid = torch.arange(size, dtype=torch.float64) + 0.5
    return (math.sqrt(2 / size) * torch.sin(math.pi / size * torch.outer(grid, grid))).to(device=device, dtype=dtype)


def _hz_to_mel(hz: float) -> float:
    if hz < 1000.0:
        return hz * 3 / 200
    return 15.0 + 27.0 / math.log(6.4) * math.log(hz / 1000.0)


def _mel_to_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15.0, mel * 200 / 3, 1000.0 * torch.exp((mel - 15.0) * (math.log(6.4) / 27.0)))
