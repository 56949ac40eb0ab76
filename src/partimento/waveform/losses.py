"""What a wave is judged by in training: distances to what it should be, and how their gradients are combined."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from partimento.audio.spectra import mel7, stft

STFT_WINDOWS = (2048, 512)
MAGNITUDE_FLOOR = 1e-5
POWER_FLOOR = 1e-10  # about the power of one rounding to 16 bits
NORM_FLOOR = 1e-12
FAINTEST = 1e-20  # samples under it are taken for 0


def distances(made_BN: Tensor, target_BN: Tensor, sample_rate: int, wanted: Collection[str]) -> dict[str, Tensor]:
    """The wanted distances of each item [B], in their order: "mel" (`mel7`), "stft", "wave" (mean |difference|),
    "si_sdr" (negative, dB). Finite, with finite gradients, for silence and for equal waves too.

    To be called without autocast. Raises ValueError if the shapes are not equal, KeyError for an unknown name.
    """
    if made_BN.shape != target_BN.shape:
        raise ValueError(f"distances are between equal shapes, not {list(made_BN.shape)} and {list(target_BN.shape)}")
    made_BN = _without_subnormal(made_BN)
    known: dict[str, Callable[[], Tensor]] = {
        "mel": lambda: mel7(made_BN, target_BN, sample_rate),
        "stft": lambda: stft_distance(made_BN, target_BN),
        "wave": lambda: (made_BN - target_BN).abs().mean(1),
        "si_sdr": lambda: negative_si_sdr(made_BN, target_BN),
    }
    return {name: known[name]() for name in wanted}


def stft_distance(made_BN: Tensor, target_BN: Tensor) -> Tensor:
    """[B]: the sum over windows of 2048 and 512 (hop a quarter) of mean |difference of log10 max(X, 1e-5)^2| and
    mean |difference of X|, X the magnitudes, not scaled (audiotools, MultiScaleSTFTLoss with its defaults)."""
    total_B = made_BN.new_zeros(len(made_BN))
    for window in STFT_WINDOWS:
        made, target = (stft(wave_BN, window, window // 4).abs() for wave_BN in (made_BN, target_BN))
        logs = made.clamp(min=MAGNITUDE_FLOOR).log10() - target.clamp(min=MAGNITUDE_FLOOR).log10()
        total_B = total_B + 2 * logs.abs().mean((1, 2)) + (made - target).abs().mean((1, 2))
    return total_B


def negative_si_sdr(made_BN: Tensor, target_BN: Tensor) -> Tensor:
    """[B]: minus the scale-invariant signal-to-distortion ratio in dB, means removed (Le Roux et al., 2019).

    1e-10 is added to every power, so that silence and equal waves have a finite one: near that floor (-100 dB) it is
    no longer scale-invariant.
    """
    made_BN = made_BN - made_BN.mean(-1, keepdim=True)
    target_BN = target_BN - target_BN.mean(-1, keepdim=True)
    power_B1 = target_BN.square().mean(-1, keepdim=True)
    share_B1 = (made_BN * target_BN).mean(-1, keepdim=True) / (power_B1 + POWER_FLOOR)
    signal_B = (share_B1 * target_BN).square().mean(-1)
    noise_B = (made_BN - share_B1 * target_BN).square().mean(-1)
    return 10 * ((noise_B + POWER_FLOOR).log10() - (signal_B + POWER_FLOOR).log10())


def _without_subnormal(wave_BN: Tensor) -> Tensor:
    """The same wave, its gradient too, with zeros for what is fainter than 1e-20: torch's gradient of |z| is not finite
    where a bin is subnormal, as where the tail of a filter fades out."""
    held_BN = wave_BN.detach()
    return wave_BN - held_BN.where(held_BN.abs() < FAINTEST, 0.0)


def pull(parts: Mapping[str, Tensor], made_BN: Tensor) -> dict[str, Tensor]:
    """The gradient [B, N] of each part (0-D) at the wave, which has to require gradients. Nothing else is given one.

    Parts may share what lies between them and the wave; the graph behind the wave is kept.
    """
    last = len(parts) - 1
    return {
        name: torch.autograd.grad(part, made_BN, retain_graph=number < last)[0]
        for number, (name, part) in enumerate(parts.items())
    }


def combine(
    gradients: Mapping[str, Tensor],
    weights: Mapping[str, float | Tensor],
    norms: Mapping[str, float | Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(the gradient [B, N] to be sent back through the network, how large each part's is in this batch): sizes are the
    mean over the items of the L2 norm over the samples, before any weight.

    Without `norms` the sum of weight * gradient. With them (running means of those sizes; where one is 0, or lacking,
    the present size) the sum of weight / (sum of weights) * gradient / norm: each part has its weight's share of a
    gradient of norm 1, whatever its scale (audiocraft's Balancer; Defossez et al., 2022).
    """
    sizes = {name: gradient_BN.norm(dim=1).mean() for name, gradient_BN in gradients.items()}
    factors = {name: torch.as_tensor(weights[name]).to(size) for name, size in sizes.items()}
    if norms is not None:
        total = torch.stack(list(factors.values())).sum().clamp(min=NORM_FLOOR)
        for name, size in sizes.items():
            norm = torch.as_tensor(norms.get(name, 0.0)).to(size)
            norm = torch.where(norm > 0, norm, size)
            factors[name] = factors[name] / total / (norm + NORM_FLOOR)
    scaled = [factors[name] * gradient_BN for name, gradient_BN in gradients.items()]
    return torch.stack(scaled).sum(0), sizes
