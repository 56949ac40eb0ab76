"""What the tests of this room play with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from partimento.models.cache import GrowingCache
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials

K, V = 3, 13
SPECIALS = Specials.after(V)
PATTERNS = {
    "delay": Pattern.named("delay", K),
    "parallel": Pattern.named("parallel", K),
    "flat": Pattern.named("flat", K),
    "dia": Pattern.named("dia", K),
    "random": Pattern((2, 0, 5)),
    "sparse": Pattern((0, 1, 1), stride=4),
}
STEREO = Pattern.named("dia", 9).delays * 2


def tiny(specials: Specials = SPECIALS, cls: type[CodeDecoder] = CodeDecoder, **changes: Any) -> CodeDecoder:
    torch.manual_seed(0)
    sizes = {
        "codebooks": K,
        "rows": specials.rows,
        "outputs": V + (specials.eos is not None),
        "width": 32,
        "layers": 2,
        "heads": 4,
        "max_positions": 256,
    }
    decoder = cls(DecoderConfig(**{**sizes, **changes}))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return decoder.eval()


def filled(cache: Any) -> int:
    return cache.length if isinstance(cache, GrowingCache) else int(cache.length_1)


class Rigged(CodeDecoder):
    """Item i wants EOS, in every book, exactly where frame `at[i]` of book 0 stands, by `strength` over all else."""

    at: tuple[int, ...] = (6,)
    pattern = PATTERNS["delay"]
    strength = 50.0

    def forward(self, grid_BSK: Tensor, *, cache=None, last=False, **extra) -> Tensor:  # type: ignore[override]
        logits = super().forward(grid_BSK, cache=cache, last=last, **extra)
        predicts = grid_BSK.shape[1] if cache is None else filled(cache)  # the next row (nothing slides here)
        logits[..., V] = -50.0
        for item in range(len(logits)):
            if predicts == self.pattern.step_of(self.at[item % len(self.at)], 0):
                logits[item, ..., V] = self.strength
        return logits
