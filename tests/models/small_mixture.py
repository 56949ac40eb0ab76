"""A mixture small enough to be told apart by eye, and texts and grids for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from partimento.models.experts import ExpertConfig
from partimento.models.llama import LlamaConfig
from partimento.models.mixture import MixtureConfig, MixtureModel

KINDS = ["none", "feedforward", "bottleneck", "lora", "full", "feedforward_copy"]
LLAMA: dict[str, Any] = {
    "vocabulary": 31,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_width": 8,
    "feedforward": 48,
    "norm_eps": 1e-5,
    "rope_theta": 1000.0,
    "rope_scaling": None,
    "tied": False,
    "max_positions": 128,
    "bos": 1,
}
CARDINALITY, BOS, PAD = 11, 12, 13  # EOS is 11


def mixture(kind: Any = "feedforward", *, llama: dict[str, Any] | None = None, **options: Any) -> MixtureModel:
    """With a Llama whose norms and rows are far from 1 and 0, as a trained one's are."""
    torch.manual_seed(0)
    expert = {name: options.pop(name) for name in ("place", "dropout", "alpha") if name in options}
    train = options.pop("train_backbone", "none")
    config = MixtureConfig(
        llama=LlamaConfig(**LLAMA | (llama or {})),
        codebooks=3,
        rows=14,
        outputs=12,
        pad_row=PAD,
        experts=ExpertConfig(kind, width=16, inner=24, rank=4, **expert),
        **{"max_positions": 40, **options},
    )
    model = MixtureModel(config, train)
    torch.manual_seed(1)  # all kinds have the same Llama
    with torch.no_grad():
        for name, parameter in model.llama.named_parameters():
            parameter.uniform_(0.5, 3.0) if "norm" in name else parameter.normal_(0.0, 0.3)
    model.decoder.initialise()
    return model


def awake(model: MixtureModel) -> MixtureModel:
    """Nothing of it is zero any more."""
    with torch.no_grad():
        for parameter in model.decoder.experts.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def texts(lengths: tuple[int, ...] = (7, 3, 1), steps: int = 7) -> tuple[Tensor, Tensor]:
    text_BM = torch.randint(2, 31, (len(lengths), steps), generator=torch.Generator().manual_seed(1))
    text_BM[:, 0] = 1
    return text_BM, torch.arange(steps) < torch.tensor(lengths)[:, None]


def grids(batch: int = 3, steps: int = 10) -> Tensor:
    return torch.randint(0, 14, (batch, steps, 3), generator=torch.Generator().manual_seed(2))


def told(model: MixtureModel, keep: tuple[bool, ...] = (True, True, True)) -> dict[str, Any]:
    return model.told(*texts(), torch.tensor(keep)).arguments()
