"""Text encoder and code decoder together: the `dia` family, and MusicGen with its T5.

Shapes: B batch, M text steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from partimento.errors import PartimentoError
from partimento.models import initialise
from partimento.models.conditions import Null, Told, null_text
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.text import TextConfig, TextEncoder

if TYPE_CHECKING:
    from partimento.models.t5 import T5Memory


class TextModel(nn.Module):
    """A decoder that is told text through an encoder. `null`: what an item reads whose condition was dropped.

    Raises MODEL021 when the decoder does not read memories of the encoder's width, or for another null.
    """

    def __init__(self, encoder: TextEncoder | T5Memory, decoder: CodeDecoder, null: Null) -> None:
        super().__init__()
        if decoder.config.cross_width != encoder.width:
            raise _invalid(f"the encoder is {encoder.width} wide, cross_width is {decoder.config.cross_width}")
        if null not in get_args(Null):
            raise _invalid(f"null = {null!r} is not one of {', '.join(get_args(Null))}")
        self.encoder, self.decoder, self.null = encoder, decoder, null

    def told(self, text_BM: Tensor, mask_BM: Tensor, keep_B: Tensor) -> Told:
        """What the decoder is told of the texts, or of the null text for an item where keep_B is False.

        The only way from text to a condition: of training, validation and sampling. Raises as the encoder does.
        """
        null_BM, null_mask_BM = null_text(text_BM, mask_BM, self.null)
        keep_B1 = keep_B[:, None]
        mask_BM = torch.where(keep_B1, mask_BM, null_mask_BM)
        memory_BMD = self.encoder(torch.where(keep_B1, text_BM, null_BM), mask_BM)
        return Told(memory_BMD=memory_BMD, mask_BM=mask_BM)

    def to_json(self) -> dict[str, Any]:
        """The architecture; `from_json` is the inverse, but for the weights."""
        if isinstance(self.encoder, TextEncoder):
            encoder: dict[str, Any] = {"kind": "bytes", **self.encoder.config.to_json()}
        else:
            encoder = {"kind": "t5", "config": self.encoder.to_json()}
        return {"encoder": encoder, "decoder": self.decoder.config.to_json(), "null": self.null}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TextModel:
        """A model with weights drawn from torch's default generator (seed it first): `initialise.by_fan_in`.

        Raises MODEL001 (decoder), MODEL021 (anything else) for what this version does not know, or that is missing.
        """
        if set(stored) != {"encoder", "decoder", "null"} or "kind" not in stored["encoder"]:
            raise _invalid("it must have an encoder with its kind, a decoder and a null, and nothing else")
        sizes = dict(stored["encoder"])
        kind = sizes.pop("kind")
        if kind not in _ENCODERS:
            raise _invalid(f"encoder kind {kind!r} is not one of {', '.join(_ENCODERS)}")
        model = cls(_ENCODERS[kind](sizes), CodeDecoder(DecoderConfig.from_json(stored["decoder"])), stored["null"])
        initialise.by_fan_in(model)
        return model


def _bytes(sizes: dict[str, Any]) -> TextEncoder:
    return TextEncoder(TextConfig.from_json(sizes))


def _t5(sizes: dict[str, Any]) -> T5Memory:
    from partimento.models.t5 import T5Memory  # transformers takes seconds

    if set(sizes) != {"config"}:
        raise _invalid("an encoder of kind t5 must have its config, and nothing else")
    return T5Memory(sizes["config"])


_ENCODERS: dict[str, Callable[[dict[str, Any]], Any]] = {"bytes": _bytes, "t5": _t5}


def _invalid(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL021",
        "the text model cannot be built from this configuration",
        why=why,
        next="correct the [model] section, or the description that is stored with the weights",
    )
