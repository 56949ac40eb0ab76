"""DAC's residual vector quantizer (Kumar et al., 2023): books looked up in few dimensions, by direction alone.

Each stage projects what is left of the latent to `factor` dimensions, finds the code whose direction is nearest, and
projects that code's vector (with its own length) back. Projections and books learn by gradient; that alone collapses
within short budgets, so books are started by k-means, and dead codes restarted from data, as in `quantizer`.
Everything here runs in the precision of its input and is meant for float32 or float64 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partimento.waveform.quantizer import Quantized, Total, Usage, alone, drawn, from_first, kmeans, usage

COMMIT, CODEBOOK = 0.25, 1.0  # descript-audio-codec conf/final/44khz.yml


@dataclass
class _Notes:
    """What the forward passes since the last update gave to each code, and the projected residuals they saw."""

    counts_KV: Tensor
    projected_KNF: Tensor


class Stage(nn.Module):
    """One book of V vectors of `factor` dimensions, and the projections D -> factor -> D around it."""

    def __init__(self, cardinality: int, latent: int, factor: int) -> None:
        super().__init__()
        self.inward = nn.Linear(latent, factor)
        self.outward = nn.Linear(factor, latent)
        self.book = nn.Embedding(cardinality, factor)


class FactorisedQuantizer(nn.Module):
    """`codebooks` stages of `cardinality` vectors of `factor` dimensions for latents of width `latent`.

    Until `start`, latents pass the projections unquantized, which learn to keep them.
    """

    counts_KV: Tensor
    started: Tensor

    def __init__(self, codebooks: int, cardinality: int, latent: int, factor: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage(cardinality, latent, factor) for _ in range(codebooks))
        self.register_buffer("counts_KV", torch.zeros(codebooks, cardinality))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._notes: _Notes | None = None

    def forward(self, latent_BTD: Tensor, books_B: Tensor | None = None) -> Quantized:
        """Quantize; item b is given its first books_B[b] stages only (all of them by default).

        The commitment is 0.25 commit + 1.0 codebook, DAC's weights: the mean squared distances between each used
        stage's projected input and its code's vector, with the gradient to the one and to the other, summed over stages
        and averaged over items. DAC itself is a loss weight of 1 for it beside 15 for the mel distance.
        """
        residual, total = latent_BTD, torch.zeros_like(latent_BTD)
        commitment = latent_BTD.new_zeros(())
        codes: list[Tensor] = []
        inputs: list[Tensor] = []
        for k, stage in enumerate(self._stages):
            input_BTF = stage.inward(residual)
            if self.started:
                code_BT = same_direction(input_BTF.detach(), stage.book.weight)
                vector_BTF = stage.book(code_BT)
                commit_B = (input_BTF - vector_BTF.detach()).square().mean((1, 2))
                codebook_B = (vector_BTF - input_BTF.detach()).square().mean((1, 2))
                error_B = COMMIT * commit_B + CODEBOOK * codebook_B
                # Through every stage, as DAC does: what later stages are left with is a function of this one's input.
                vector_BTF = input_BTF + (vector_BTF - input_BTF).detach()
            else:
                code_BT = torch.zeros_like(input_BTF[..., 0], dtype=torch.int64)
                vector_BTF = input_BTF
                error_B = 0.0 * stage.book.weight.sum().expand(len(latent_BTD))  # a gradient for all, as DDP expects
            made_BTD = stage.outward(vector_BTF)
            residual = residual - made_BTD
            if books_B is not None:
                made_BTD = made_BTD * (books_B > k)[:, None, None]
                error_B = error_B * (books_B > k)
            total = total + made_BTD
            commitment = commitment + error_B.mean()
            codes.append(code_BT)
            inputs.append(input_BTF.detach())
        if self.training and self.started:
            self._note(inputs, codes)
        return Quantized(total, torch.stack(codes, -1), commitment)

    @torch.no_grad()
    def encode(self, latent_BTD: Tensor) -> Tensor:
        """codes [B, T, K]; the module has the precision of the latents."""
        residual, codes = latent_BTD, []
        for stage in self._stages:
            code_BT = same_direction(stage.inward(residual), stage.book.weight)
            codes.append(code_BT)
            residual = residual - stage.outward(stage.book(code_BT))
        return torch.stack(codes, -1)

    def decode(self, codes_BTK: Tensor) -> Tensor:
        """latents [B, T, D]: the sum of the coded vectors; K may be smaller than the number of books (a lower rate)."""
        stages = self._stages[: codes_BTK.shape[-1]]
        parts = [stage.outward(stage.book(codes_BTK[..., k])) for k, stage in enumerate(stages)]
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def start(
        self, latent_ND: Tensor, generator: torch.Generator, rounds: int = 10, total: Total = alone, rank: int = 0
    ) -> None:
        """Set every book by k-means, in direction, on the projections of what the books before it left of these latents
        (N >= cardinality). Of several ranks all get the books of rank 0; `total` sums a tensor over them."""
        residual = latent_ND
        for k, stage in enumerate(self._stages):
            projected_NF = stage.inward(residual)
            book_VF, counts_V = kmeans(projected_NF, stage.book.num_embeddings, generator, rounds, find=same_direction)
            stage.book.weight.copy_(book_VF)
            self.counts_KV[k] = counts_V.clamp(min=1.0)
            residual = residual - stage.outward(stage.book(same_direction(projected_NF, book_VF)))
        from_first([*(stage.book.weight for stage in self._stages), self.counts_KV], total, rank)
        self.started.fill_(True)

    @torch.no_grad()
    def update(
        self,
        decay: float,
        dead_below: float,
        generator: torch.Generator,
        total: Total = alone,
        rank: int = 0,
        world: int = 1,
    ) -> int:
        """Count what was noted since the last update, and restart dead codes from it; returns how many.

        Dead codes, ranks and errors are as in `ResidualQuantizer.update`; living codes are moved by the optimizer.
        """
        notes, self._notes = self._notes, None
        if notes is None:
            return 0
        self.counts_KV.lerp_(total(notes.counts_KV), 1 - decay)
        uniform = self.counts_KV.sum(1, keepdim=True) / self.counts_KV.shape[1]
        dead_KV = self.counts_KV < dead_below * uniform
        fresh_KVF = drawn(notes.projected_KNF, self.counts_KV.shape[1], generator, total, rank, world)
        self.counts_KV.copy_(torch.where(dead_KV, uniform.expand_as(self.counts_KV), self.counts_KV))
        for stage, dead_V, fresh_VF in zip(self._stages, dead_KV, fresh_KVF, strict=True):
            stage.book.weight.copy_(torch.where(dead_V[:, None], fresh_VF, stage.book.weight))
        return int(dead_KV.sum())

    def usage(self, dead_below: float) -> Usage:
        """Of the running counts; used is a code with at least `dead_below` of the uniform share."""
        return usage(self.counts_KV, dead_below)

    @torch.no_grad()
    def begin_with_books(self) -> None:
        """Take books that were loaded without their running counts as started, each code seen once."""
        self.counts_KV.fill_(1.0)
        self.started.fill_(True)

    def forget(self) -> None:
        """Drop what was noted since the last update (an optimizer step that was skipped)."""
        self._notes = None

    @property
    def _stages(self) -> Sequence[Stage]:
        return cast("Sequence[Stage]", self.stages)

    @torch.no_grad()
    def _note(self, inputs: list[Tensor], codes: list[Tensor]) -> None:
        rows_KNF = torch.stack(inputs).flatten(1, 2)
        codes_KN = torch.stack(codes).flatten(1)
        counts_KV = torch.zeros_like(self.counts_KV).scatter_add_(1, codes_KN, torch.ones_like(rows_KNF[..., 0]))
        before = self._notes
        if before is None:
            self._notes = _Notes(counts_KV, rows_KNF)
        else:
            self._notes = _Notes(before.counts_KV + counts_KV, torch.cat([before.projected_KNF, rows_KNF], 1))


def same_direction(vectors: Tensor, book_VF: Tensor) -> Tensor:
    """Index of the row of the book with the most similar direction (cosine), for vectors [..., F]."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    return (F.normalize(flat, dim=1) @ F.normalize(book_VF, dim=1).T).argmax(1).reshape(vectors.shape[:-1])
