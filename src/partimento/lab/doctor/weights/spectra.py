"""Singular values of a matrix, as few as a diagnosis needs.

Shapes: R rows, C columns, N singular values, H the random mixtures of rows that a large matrix is looked at through.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from partimento.keyed import torch_generator

EXACT = 384
"""Up to this many rows or columns (the smaller of the two) all singular values are computed."""
MIXTURES = 256
_ROUNDS = 12


@dataclass(frozen=True)
class Spectrum:
    """`rank` is the effective rank exp(H(s / sum s)) of the singular values s (Roy and Vetterli 2007), `top` the share
    of the largest one in the squared Frobenius norm, `largest` its value. `full` is what the rank could be."""

    rank: float
    top: float
    largest: float
    full: int


@torch.no_grad()
def spectrum(matrix_RC: Tensor) -> Spectrum | None:
    """None for a matrix of zeros. A large matrix is seen through MIXTURES random mixtures of its rows (Halko et al.
    2011): a rank far below that is kept, a higher one reads as at most MIXTURES, which is then `full`."""
    matrix = matrix_RC.float()
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    norm = float(matrix.norm())
    if not norm:
        return None
    full, largest = len(matrix), None
    if full > EXACT:
        mixed_HR = torch.randn(MIXTURES, full, generator=torch_generator(0, "spectrum")) / MIXTURES**0.5
        matrix, full, largest = mixed_HR @ matrix, MIXTURES, spectral_norm(matrix)
    # Of the Gram matrix in float64: several times as fast as the values themselves, and exact to 1e-7 of the largest.
    wide = matrix.double()
    values_N = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0).sqrt()
    largest = float(values_N[-1]) if largest is None else largest
    share_N = (values_N / values_N.sum()).double()
    entropy = -torch.special.xlogy(share_N, share_N).sum()
    return Spectrum(float(entropy.exp()), min(1.0, (largest / norm) ** 2), largest, full)


@torch.no_grad()
def spectral_norm(matrix_RC: Tensor) -> float:
    """The largest singular value, by power iteration from a keyed start: a few percent low at worst."""
    vector_C = torch.randn(matrix_RC.shape[1], generator=torch_generator(0, "power"))
    value = 0.0
    for _ in range(_ROUNDS):
        out_R = matrix_RC @ (vector_C / vector_C.norm().clamp(min=1e-30))
        value = float(out_R.norm())
        if not value:
            return 0.0
        vector_C = matrix_RC.T @ (out_R / value)
    return value
