"""What a codec's reconstruction is judged by in training: the 7-scale mel distance, the waveform, the commitment."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from partimento.audio.spectra import mel7


@dataclass(frozen=True)
class CodecLoss:
    """Each part [B] (commitment 0-D, a mean over the batch) and their weighted total [B]."""

    total_B: Tensor
    mel7_B: Tensor
    wave_l1_B: Tensor
    commitment: Tensor


def codec_loss(
    wave_BN: Tensor,
    target_BN: Tensor,
    commitment: Tensor,
    sample_rate: int,
    *,
    wave_weight: float | Tensor,
    commit_weight: float,
) -> CodecLoss:
    """mel7 + wave_weight * mean |difference of samples| + commit_weight * commitment, in the precision given (float32).

    The mel distance does not see phase; without a strong wave term early in training, phase is not learned at all.
    """
    mel7_B = mel7(wave_BN, target_BN, sample_rate)
    wave_l1_B = (wave_BN - target_BN).abs().mean(1)
    total_B = mel7_B + wave_weight * wave_l1_B + commit_weight * commitment
    return CodecLoss(total_B, mel7_B, wave_l1_B, commitment)
