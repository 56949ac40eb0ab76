"""MusicGen's text encoder: T5, and a projection to the width of the decoder.

As MusicGen was trained, T5 is a dictionary that is never trained itself: it stays in eval mode and float32, and takes
no gradient (audiocraft, modules/conditioners.py: finetune = false). The projection is trained.
Shapes: B batch, M text steps, D width of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from partimento.errors import PartimentoError

SIZES = (
    *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
)
FIELDS = (*SIZES, "layer_norm_epsilon", "feed_forward_proj")


class T5Memory(nn.Module):
    """`config`: {"t5": FIELDS as a T5Config names them, "width": D}. Raises MODEL031 where transformers refuses it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        import transformers
        from huggingface_hub.errors import StrictDataclassError

        if set(config) != {"t5", "width"} or set(config["t5"]) != set(FIELDS):
            raise _invalid(f"it must have t5 and width, and t5 must have {', '.join(FIELDS)}")
        if any(type(value) is not int or value < 1 for value in [config["width"], *map(config["t5"].get, SIZES)]):
            raise _invalid("its sizes must be whole numbers above 0")
        try:
            t5 = transformers.T5Config(**config["t5"], dropout_rate=0.0, use_cache=False, is_encoder_decoder=False)
            self.t5 = transformers.T5EncoderModel(t5).float().requires_grad_(False).eval()
        except (StrictDataclassError, ValueError, TypeError, LookupError) as err:
            raise _invalid(str(err).strip().splitlines()[0]) from err
        self.config = {"t5": dict(config["t5"]), "width": config["width"]}
        self.projection = nn.Linear(t5.d_model, self.width) if t5.d_model != self.width else None

    @property
    def width(self) -> int:
        """Of the memory."""
        return int(self.config["width"])

    def to_json(self) -> dict[str, Any]:
        """The architecture, as it was given."""
        return self.config

    def train(self, mode: bool = True) -> T5Memory:
        super().train(mode)
        self.t5.eval()
        return self

    def forward(self, text_BM: Tensor, mask_BM: Tensor) -> Tensor:
        """ids [B, M] and their mask (True where there is text) -> memory_BMD, zero at masked places."""
        device = "cpu" if text_BM.is_meta else text_BM.device.type  # autocast knows no meta device
        with torch.no_grad(), torch.autocast(device, enabled=False):
            # In the form that attention adds: of a mask of ids transformers asks whether it is full, and so waits for
            # the device.
            weight = self.t5.shared.weight
            added_BM = torch.zeros_like(mask_BM, dtype=weight.dtype).masked_fill(
                ~mask_BM, torch.finfo(weight.dtype).min
            )
            memory_BMD = self.t5(input_ids=text_BM, attention_mask=added_BM[:, None, None]).last_hidden_state
        if self.projection is not None:
            memory_BMD = self.projection(memory_BMD)
        return memory_BMD * mask_BM[..., None]


def _invalid(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL031",
        "the T5 text encoder cannot be built from this configuration",
        why=why,
        next="use the config.json that was published with the weights, unchanged",
    )
