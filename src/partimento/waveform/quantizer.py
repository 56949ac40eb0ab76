"""Residual vector quantizer: books started by k-means, moved by moving averages, dead codes restarted from data.

Stage k codes what stages 0..k-1 left over. Books are buffers and get no gradient: `forward` notes what each code was
given, `update` moves the books once an optimizer step. Codebooks that learn by gradient collapse within short budgets.
Everything here runs in the precision of its input and is meant for float32 or float64 only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

Total: TypeAlias = Callable[[Tensor], Tensor]


def alone(tensor: Tensor) -> Tensor:
    """The sum over all ranks where there is one."""
    return tensor


@dataclass(frozen=True)
class Quantized:
    """latent_BTD is the sum of the chosen vectors; in training its gradient passes straight through to the input."""

    latent_BTD: Tensor
    codes_BTK: Tensor
    commitment: Tensor


@dataclass(frozen=True)
class Usage:
    """How evenly the running averages say that each book's codes are used: entropy in bits, and the share of codes that
    are used at a given part of an even share at least."""

    entropy_K: list[float]
    used_K: list[float]


@dataclass
class _Notes:
    """What the forward passes since the last update gave to each code; a sum, so micro-batches add up."""

    counts_KV: Tensor
    sums_KVD: Tensor
    residuals_KND: Tensor


class ResidualQuantizer(nn.Module):
    """`codebooks` stages of `cardinality` vectors of width `latent`. Until `start`, latents pass unquantized."""

    books_KVD: Tensor
    counts_KV: Tensor
    sums_KVD: Tensor
    started: Tensor

    def __init__(self, codebooks: int, cardinality: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("books_KVD", torch.zeros(codebooks, cardinality, latent))
        self.register_buffer("counts_KV", torch.zeros(codebooks, cardinality))
        self.register_buffer("sums_KVD", torch.zeros(codebooks, cardinality, latent))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._notes: _Notes | None = None

    def forward(self, latent_BTD: Tensor, books_B: Tensor | None = None) -> Quantized:
        """Quantize; item b is given its first books_B[b] stages only (all of them by default).

        The commitment is the mean squared distance between each used stage's input and its code, summed over stages
        and averaged over items, frames and width (Zeghidour et al., SoundStream, 2021).
        """
        if not self.started:
            codes_BTK = latent_BTD.new_zeros((*latent_BTD.shape[:2], len(self.books_KVD)), dtype=torch.int64)
            return Quantized(latent_BTD, codes_BTK, latent_BTD.new_zeros(()))
        residual = latent_BTD
        total = torch.zeros_like(latent_BTD)
        commitment = latent_BTD.new_zeros(())
        codes: list[Tensor] = []
        inputs: list[Tensor] = []
        for k, book_VD in enumerate(self.books_KVD.to(latent_BTD.dtype)):
            code_BT = nearest(residual.detach(), book_VD)
            vector = book_VD[code_BT]
            if books_B is not None:
                vector = vector * (books_B > k)[:, None, None]
            error = (residual - book_VD[code_BT]).square().mean((1, 2))
            commitment = commitment + (error if books_B is None else error * (books_B > k)).mean()
            total = total + vector
            codes.append(code_BT)
            inputs.append(residual.detach())
            residual = residual - book_VD[code_BT]
        if self.training:
            self._note(inputs, codes)
        return Quantized(latent_BTD + (total - latent_BTD).detach(), torch.stack(codes, -1), commitment)

    @torch.no_grad()
    def encode(self, latent_BTD: Tensor) -> Tensor:
        """codes [B, T, K]; the books take the precision of the latents."""
        residual, codes = latent_BTD, []
        for book_VD in self.books_KVD.to(latent_BTD.dtype):
            code_BT = nearest(residual, book_VD)
            codes.append(code_BT)
            residual = residual - book_VD[code_BT]
        return torch.stack(codes, -1)

    def decode(self, codes_BTK: Tensor) -> Tensor:
        """latents [B, T, D]: the sum of the coded vectors; K may be smaller than the number of books (a lower rate)."""
        books = self.books_KVD
        return sum((books[k][codes_BTK[..., k]] for k in range(codes_BTK.shape[-1])), start=books.new_zeros(()))

    @torch.no_grad()
    def start(
        self, latent_ND: Tensor, generator: torch.Generator, rounds: int = 10, total: Total = alone, rank: int = 0
    ) -> None:
        """Set every book by k-means on what the books before it left of these latents (N >= cardinality).

        Of several ranks all get the books of rank 0; `total` sums a tensor over them.
        """
        K, V, _ = self.books_KVD.shape
        residual = latent_ND
        for k in range(K):
            book, counts = kmeans(residual, V, generator, rounds)
            self.books_KVD[k] = book
            # Counts as if seen in one batch after another, so that early averages keep the book near k-means.
            self.counts_KV[k] = counts.clamp(min=1.0)
            residual = residual - book[nearest(residual, book)]
        from_first([self.books_KVD, self.counts_KV], total, rank)
        self.sums_KVD.copy_(self.books_KVD * self.counts_KV[..., None])
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
        """Move the books by what was noted since the last update; returns how many dead codes were restarted.

        A code whose averaged count is below `dead_below` of the uniform share is put on a random residual of its stage
        and given the uniform count (van den Oord et al., 2017; Dhariwal et al., Jukebox, 2020).

        On `world` ranks, `total` sums a tensor over them and the generators are alike: then counts and sums are those
        of all, restarts are drawn from the residuals of all, and the books stay alike. ValueError if `total` sums over
        another number of ranks.
        """
        notes, self._notes = self._notes, None
        if notes is None:
            return 0
        self.counts_KV.lerp_(total(notes.counts_KV), 1 - decay)
        self.sums_KVD.lerp_(total(notes.sums_KVD), 1 - decay)
        uniform = self.counts_KV.sum(1, keepdim=True) / self.counts_KV.shape[1]
        dead_KV = self.counts_KV < dead_below * uniform
        fresh_KVD = drawn(notes.residuals_KND, self.counts_KV.shape[1], generator, total, rank, world)
        fresh_counts = uniform.expand_as(self.counts_KV)
        self.counts_KV.copy_(torch.where(dead_KV, fresh_counts, self.counts_KV))
        self.sums_KVD.copy_(torch.where(dead_KV[..., None], fresh_KVD * fresh_counts[..., None], self.sums_KVD))
        self.books_KVD.copy_(self.sums_KVD / self.counts_KV[..., None])
        return int(dead_KV.sum())

    def usage(self, dead_below: float) -> Usage:
        """Of the running counts; used is a code with at least `dead_below` of the uniform share."""
        return usage(self.counts_KV, dead_below)

    @torch.no_grad()
    def begin_with_books(self) -> None:
        """Take books that were loaded without their running counts as started, each code seen once."""
        self.counts_KV.fill_(1.0)
        self.sums_KVD.copy_(self.books_KVD)
        self.started.fill_(True)

    def forget(self) -> None:
        """Drop what was noted since the last update (an optimizer step that was skipped)."""
        self._notes = None

    @torch.no_grad()
    def _note(self, inputs: list[Tensor], codes: list[Tensor]) -> None:
        K, _, D = self.books_KVD.shape
        rows_KND = torch.stack(inputs).reshape(K, -1, D)
        codes_KN = torch.stack(codes).reshape(K, -1)
        counts = torch.zeros_like(self.counts_KV).scatter_add_(1, codes_KN, torch.ones_like(rows_KND[..., 0]))
        sums = torch.zeros_like(self.sums_KVD).scatter_add_(1, codes_KN[..., None].expand_as(rows_KND), rows_KND)
        before = self._notes
        if before is None:
            self._notes = _Notes(counts, sums, rows_KND)
        else:
            rows_KND = torch.cat([before.residuals_KND, rows_KND], 1)
            self._notes = _Notes(before.counts_KV + counts, before.sums_KVD + sums, rows_KND)


def nearest(vectors: Tensor, book_VD: Tensor) -> Tensor:
    """Index of the nearest row of the book in Euclidean distance, for vectors [..., D]."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    score = torch.addmm(book_VD.square().sum(1), flat, book_VD.T, alpha=-2.0)
    return score.argmin(1).reshape(vectors.shape[:-1])


def kmeans(
    rows_ND: Tensor,
    clusters: int,
    generator: torch.Generator,
    rounds: int,
    find: Callable[[Tensor, Tensor], Tensor] = nearest,
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from random rows: centres [V, D] and how many rows each holds [V], as `find` gives them.

    A centre that lost all its rows is moved to a random row, so that no code begins dead.
    """
    if len(rows_ND) < clusters:
        raise ValueError(f"k-means needs at least {clusters} rows, not {len(rows_ND)}")
    order = torch.randperm(len(rows_ND), generator=generator, device=generator.device).to(rows_ND.device)
    centres = rows_ND[order[:clusters]].clone()
    counts = rows_ND.new_zeros(clusters)
    for _ in range(rounds):
        owner = find(rows_ND, centres)
        counts = torch.zeros_like(counts).scatter_add_(0, owner, torch.ones_like(rows_ND[:, 0]))
        sums = torch.zeros_like(centres).scatter_add_(0, owner[:, None].expand_as(rows_ND), rows_ND)
        picks = torch.randint(len(rows_ND), (clusters,), generator=generator, device=generator.device)
        spare = rows_ND[picks.to(rows_ND.device)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], spare)
    return centres, counts


def drawn(
    rows_KND: Tensor, cardinality: int, generator: torch.Generator, total: Total, rank: int, world: int
) -> Tensor:
    """A random row of each stage for each code [K, V, D], out of the rows that all ranks have, laid end to end."""
    K, N, _ = rows_KND.shape
    sizes = rows_KND.new_zeros(world + 1)
    sizes[rank] = N
    sizes[world] = 1
    *counts, ranks = (int(size) for size in total(sizes).tolist())
    if ranks != world:
        raise ValueError(f"the books are told of {world} ranks, and what is summed comes from {ranks}")
    # Drawn for every code whether it is dead or not: the stream then never depends on the state.
    picks_KV = torch.randint(sum(counts), (K, cardinality), generator=generator, device=generator.device)
    mine_KV = (picks_KV - sum(counts[:rank])).to(rows_KND.device)
    inside_KV = (mine_KV >= 0) & (mine_KV < N)
    stage_K1 = torch.arange(K, device=rows_KND.device)[:, None]
    found_KVD = rows_KND[stage_K1, mine_KV.clamp(0, N - 1)]
    return total(found_KVD.where(inside_KV[..., None], found_KVD.new_zeros(())))


def from_first(tensors: list[Tensor], total: Total, rank: int) -> None:
    """Give all ranks the tensors of rank 0: k-means on a GPU adds in an order of its own, and may end elsewhere."""
    for tensor in tensors:
        tensor.copy_(total(tensor if rank == 0 else torch.zeros_like(tensor)))


def usage(counts_KV: Tensor, dead_below: float) -> Usage:
    """Entropy and use of codes that were seen so often."""
    share_KV = counts_KV.double() / counts_KV.double().sum(1, keepdim=True)
    entropy_K = -torch.special.xlogy(share_KV, share_KV).sum(1) / math.log(2)
    used_K = (share_KV >= dead_below / share_KV.shape[1]).double().mean(1)
    return Usage(entropy_K.tolist(), used_K.tolist())
