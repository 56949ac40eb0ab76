"""A stereo decoder that begins where a mono decoder ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder

_FREE = ("codebooks", "dropout")


@torch.no_grad()
def stereo_from_mono(mono: CodeDecoder, stereo: CodeDecoder, layout: str, books: Sequence[int]) -> None:
    """Copies the weights of a mono decoder into one of two channels, of `books` codebooks each.

    left-right  every embedding halved and in both channels, every head in both: where the channels are equal the
                hidden states are mono's, and so is the loss of each channel.
    mid-side    mid's embeddings and heads are mono's, side's are 0: the loss of mid is mono's whatever the side holds,
                that of side is ln(outputs).

    That holds for grids whose rows hold both channels under mono's delays. Flat grids, a codebook a row, do not.
    Raises MODEL022 unless the two decoders differ in the codebooks only, and leaves `stereo` as it was.
    """
    _check(mono, stereo, layout, books)
    share = 0.5 if layout == "left-right" else 1.0
    embedding, head = _by_book(mono.embedding, mono), _by_book(mono.head.weight, mono)
    tables, heads = _by_book(stereo.embedding, stereo), _by_book(stereo.head.weight, stereo)
    first = books[0]
    tables[:first].copy_(embedding * share)
    heads[:first].copy_(head)
    if layout == "left-right":
        tables[first:].copy_(embedding * share)
        heads[first:].copy_(head)
    else:
        tables[first:].zero_()
        heads[first:].zero_()
    weights = dict(mono.named_parameters())
    for name, parameter in stereo.named_parameters():
        if name not in ("embedding", "head.weight"):
            parameter.copy_(weights[name])


def _by_book(rows: Tensor, decoder: CodeDecoder) -> Tensor:
    """A view [K, rows of a codebook, D]."""
    return rows.unflatten(0, (decoder.config.codebooks, -1))


def _check(mono: CodeDecoder, stereo: CodeDecoder, layout: str, books: Sequence[int]) -> None:
    ours, theirs = mono.config.to_json(), stereo.config.to_json()
    have = mono.config.codebooks
    wanted = {"left-right": f"{have} and {have}", "mid-side": f"{have}, and any number for the side"}
    if layout not in wanted:
        raise _refused(f"the layout is {layout}, not left-right or mid-side")
    fits = len(books) == 2 and books[0] == have and (layout == "mid-side" or books[1] == have)
    if not fits or sum(books) != stereo.config.codebooks:
        raise _refused(
            f"the channels have {' and '.join(map(str, books))} codebooks, the stereo decoder has "
            f"{stereo.config.codebooks}, the mono decoder {have}: {layout} needs {wanted[layout]}"
        )
    free = _FREE if mono.config.positions == "learned" else (*_FREE, "max_positions")
    differing = [
        f"{name} ({ours[name]}, {theirs[name]})" for name in ours if ours[name] != theirs[name] and name not in free
    ]
    if differing:
        raise _refused(f"they differ in {', '.join(differing)}")


def _refused(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL022",
        "the stereo decoder cannot start from these mono weights",
        why=why,
        next="start from mono weights of the same architecture and codec, or from scratch",
    )
