"""A mixture of a few hundred weights, drawn so widely that what is likeliest is clear, and texts for it."""

from __future__ import annotations

from typing import Any

import torch
from tiny_decoders import SPECIALS, K
from torch import Tensor

from partimento.models.conditions import Told
from partimento.models.experts import ExpertConfig
from partimento.models.llama import LlamaConfig
from partimento.models.mixture import MixtureConfig, MixtureModel

WORDS, BOS = 20, 1
EXPERTS: dict[str, dict[str, Any]] = {
    "feedforward": {"kind": "feedforward", "width": 12, "inner": 20},
    "instead": {"kind": "feedforward", "width": 12, "inner": 80, "place": "instead"},
    "bottleneck": {"kind": "bottleneck", "rank": 5},
    "lora": {"kind": "lora", "rank": 3, "alpha": 6.0},
    "full": {"kind": "full"},
    "feedforward_copy": {"kind": "feedforward_copy"},
    "none": {"kind": "none"},
}
LLAMA = LlamaConfig(
    vocabulary=WORDS,
    width=24,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=6,
    feedforward=40,
    norm_eps=1e-5,
    rope_theta=500.0,
    rope_scaling=None,
    tied=True,
    max_positions=400,
    bos=BOS,
)


def mixture(experts: str = "feedforward", vocabulary: str = "own", seed: int = 0) -> MixtureModel:
    torch.manual_seed(seed)
    config = MixtureConfig(
        llama=LLAMA,
        codebooks=K,
        rows=SPECIALS.rows,
        outputs=SPECIALS.pad,
        pad_row=SPECIALS.pad,
        vocabulary=vocabulary,  # type: ignore[arg-type]
        max_positions=256,
        experts=ExpertConfig(**EXPERTS[experts]),
    )
    model = MixtureModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def texts(lengths: list[int], steps: int | None = None) -> tuple[Tensor, Tensor]:
    """(text_BM, mask_BM): item b has `lengths[b]` ids of its own, BOS the first, and pads of 0 up to `steps`."""
    steps = steps or max(lengths)
    text_BM = torch.zeros(len(lengths), steps, dtype=torch.long)
    for item, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(100 + item)
        text_BM[item, 0] = BOS
        text_BM[item, 1:length] = torch.randint(2, WORDS, (length - 1,), generator=generator)
    return text_BM, torch.arange(steps) < torch.tensor(lengths)[:, None]


@torch.no_grad()
def told(model: MixtureModel, lengths: list[int], steps: int | None = None, *, null: bool = False) -> Told:
    """As training and sampling tell a mixture."""
    text_BM, mask_BM = texts(lengths, steps)
    return model.told(text_BM, mask_BM, torch.full((len(lengths),), not null))
