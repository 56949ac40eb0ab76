"""Keys and values of a mixture: a text in front, which stays, and behind it the rows of audio, as in `cache`.

The text is written once, when it is known (`tell`), into buffers that have room for the rows behind it: a step writes
its own keys and concatenates nothing. Row s is slot M + s, whatever the length of its item's text; the slots between
are pads, which the mask leaves out.
Shapes: B batch, M text steps, G key-value heads, S new rows, P slots (text and rows), E head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from partimento.models.cache import GrowingCache, KVCache, StaticCache
from partimento.models.conditions import Prefix


class BehindWords(KVCache):
    """What both caches share. `positions` counts rows only, and so does `place`."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**{**sizes, "layers": 0})  # the buffers are made when the text is known
        self.batch, self.dtype = sizes["batch"], sizes["dtype"]
        self.prefix: Prefix | None = None
        self.text = 0
        self.mask_B11P: Tensor | None = None
        """The slots that are no pads; None where there are none."""

    def tell(self, prefix: Prefix) -> None:
        """Forgets everything, and writes this text. Nothing is written again for the same one."""
        if prefix is self.prefix:
            return
        assert len(prefix.count_B) == self.batch
        self.reset()
        mask_BM, self.prefix = self._slots(prefix), prefix
        self.text = mask_BM.shape[1]
        self.mask_B11P = functional.pad(mask_BM, (0, self.positions), value=True)[:, None, None]
        self.keys = [self._buffer(key[:, :, : self.text]) for key in prefix.keys_L]
        self.values = [self._buffer(value[:, :, : self.text]) for value in prefix.values_L]

    def _slots(self, prefix: Prefix) -> Tensor:
        return prefix.mask_BM

    def _buffer(self, text_BGME: Tensor) -> Tensor:
        return functional.pad(text_BGME.to(self.dtype), (0, 0, 0, self.positions))


class GrowingMixtureCache(BehindWords, GrowingCache):
    """Attention reads the filled slots only, and of texts what the longest needs."""

    def tell(self, prefix: Prefix) -> None:
        if prefix is not self.prefix:
            super().tell(prefix)
            if bool((prefix.count_B == self.text).all()):
                self.mask_B11P = None

    def _slots(self, prefix: Prefix) -> Tensor:
        return prefix.mask_BM[:, : int(prefix.count_B.max())]

    def write(
        self, layer: int, key_BGSE: Tensor, value_BGSE: Tensor, place: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As a KVCache's, with a mask [1 or B, 1, 1 or S, P]."""
        assert isinstance(place, int)
        first = self.text + place
        end = first + key_BGSE.shape[2]
        self.keys[layer][:, :, first:end] = key_BGSE
        self.values[layer][:, :, first:end] = value_BGSE
        mask = None if self.mask_B11P is None else self.mask_B11P[..., :end]
        if end - first > 1:
            past_SP = torch.ones(end - first, end, dtype=torch.bool, device=key_BGSE.device).tril(first)
            mask = past_SP[None, None] if mask is None else mask & past_SP
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end], mask


class StaticMixtureCache(BehindWords, StaticCache):
    """All slots at every step, with a mask."""

    def write(
        self, layer: int, key_BGSE: Tensor, value_BGSE: Tensor, place: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As a KVCache's, with a mask [B, 1, S, P]."""
        assert isinstance(place, Tensor) and self.mask_B11P is not None
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, place + self.text, key_BGSE.to(keys.dtype))
        values.index_copy_(2, place + self.text, value_BGSE.to(values.dtype))
        past_SP = torch.arange(keys.shape[2], device=place.device) <= place[:, None] + self.text
        return keys, values, self.mask_B11P & past_SP
