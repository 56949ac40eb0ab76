"""The deviation that a weight is drawn with, by its name and the shape of the model: no model is built for it.

The owners are `models.decoder` (family rvq), `models.initialise` (family dia: by fan-in) and `models.lora`; what is
written here is held to what they draw by tests/lab/test_doctor_weights_parts.py. Of the other families nothing is
known from files alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WRITER = re.compile(r"\.(out|down)\.weight$")
_EMBEDDED = 0.05
_FACTORS = {"linear": 0.5, "writer": 0.1, "head": 0.2}


@dataclass(frozen=True)
class Start:
    """Drawn with deviation `std` about `mean`; with 0 it is `mean` exactly."""

    std: float
    mean: float = 0.0


class Starts:
    """`of` a tensor, from the configuration and the description of a checkpoint. `why` says why nothing is known."""

    def __init__(self, raw: Mapping[str, Any], description: Mapping[str, Any]) -> None:
        model = raw.get("model") or {}
        self.family = raw.get("family")
        self.why: str | None = None
        shape = text if isinstance(text := description.get("model"), dict) else description
        self.decoder = found if isinstance(found := shape.get("decoder"), dict) else None
        self.encoder = found if isinstance(found := shape.get("encoder"), dict) and "layers" in found else None
        # Norms of networks for sound begin at 1 and 0; those of a backbone, or of other weights, do not.
        self.plain = self.family in ("codec", "restore") and not model.get("weights")
        self.continued = bool(description.get("start"))
        given = [name for name in ("weights", "start", "backbone", "experts_from") if model.get(name)]
        if self.family not in ("rvq", "dia"):
            self.why = f"the weights of the family {self.family} are drawn by rules that no file says"
        elif given:
            self.why = f"the weights began as those of model.{given[0]}"
        elif self.decoder is None:
            self.why = "the checkpoint does not describe its decoder"

    def of(self, name: str, shape: tuple[int, ...]) -> Start | None:
        """None where nobody knows it."""
        path = name.split(".")
        if "lora_A" in path or "lora_B" in path:
            if self.continued:
                return None
            return Start(0.0) if "lora_B" in path else Start((3 * shape[1]) ** -0.5)
        if "norm" in name and len(shape) == 1 and (self.why is None or self.plain):
            return Start(0.0, 0.0 if path[-1] == "bias" else 1.0)
        if self.why is not None:
            return None
        return self._rvq(name) if self.family == "rvq" else self._dia(name, shape)

    def _rvq(self, name: str) -> Start | None:
        assert self.decoder is not None
        if name.endswith("bias"):
            return Start(0.0)
        return Start(0.02 / math.sqrt(2 * self.decoder["layers"]) if _WRITER.search(name) else 0.02)

    def _dia(self, name: str, shape: tuple[int, ...]) -> Start | None:
        last = name.rpartition(".")[2]
        network = self.encoder if "encoder" in name.split(".") else self.decoder
        if name.endswith("bias"):
            return Start(0.0)
        if network is None:
            return None
        if last == "table_PD":
            return Start(_EMBEDDED)
        if last in ("embedding", "embedding_GD", "null_D"):
            summed = network.get("codebooks", 1) if last == "embedding" else 1
            return Start(_EMBEDDED / math.sqrt(summed))
        if last == "weight" and len(shape) == 2:
            kind = "writer" if _WRITER.search(name) else "head" if name.endswith("head.weight") else "linear"
            depth = (2 * network["layers"]) ** -0.5 if kind == "writer" else 1.0
            return Start(_FACTORS[kind] * shape[1] ** -0.5 * depth)
        return None
