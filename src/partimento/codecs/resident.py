"""The resident codec: ours, with its weights inside the package.

A codec is a folder of two files: `weights.safetensors` (half precision) and `card.json` (what it is, what it was made
from, how it measures, and the sha256 of the weights). Codes are computed in float64: rounding differs between machines,
thread counts and batch shapes, and a nearest neighbour must not. A tie within 1e-15 does not occur in practice.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens.spec import CodecSpec
from partimento.waveform.autoencoder import Autoencoder, AutoencoderConfig

RESIDENT = "resident-44k"
HOME = Path(__file__).parent / "resident_44k"
WEIGHTS, CARD = "weights.safetensors", "card.json"
# Of the quantizer's buffers, what only its training needs.
TRAINING_ONLY = ("quantizer.counts_KV", "quantizer.sums_KVD", "quantizer.started")


class ResidentCodec:
    """An `Autoencoder` with fixed weights as a `Codec` (mono)."""

    def __init__(self, spec: CodecSpec, network: Autoencoder, card: dict[str, Any], device: torch.device | str = "cpu"):
        self.spec = spec
        self.card = card
        self.context_frames = network.context_frames
        self.device = torch.device(device)
        network = network.float().eval().requires_grad_(False)
        # Apple's GPUs have no float64; encoding is light enough for the CPU there.
        self._encode_device = torch.device("cpu") if self.device.type == "mps" else self.device
        self._encoder = copy.deepcopy(network).double().to(self._encode_device)
        self._decoder = network.to(self.device)

    @torch.no_grad()
    def encode(self, wave_BCN: Tensor) -> Tensor:
        """codes [B, ceil(N / hop), K] int64 of mono waves [B, 1, N]."""
        return self._encoder.encode(wave_BCN[:, 0].to(device=self._encode_device, dtype=torch.float64))

    @torch.no_grad()
    def decode(self, codes_BTK: Tensor) -> Tensor:
        """mono waves [B, 1, T * hop] float32; the first k books alone are a coarser rate."""
        return self._decoder.decode(codes_BTK.to(self.device))[:, None]


def load_resident(folder: Path = HOME, device: torch.device | str = "cpu") -> ResidentCodec:
    """Read and verify a codec's folder. Raises CODEC002 if a file is missing or is not what the card says."""
    card = read_card(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as err:
        raise _damaged(folder / WEIGHTS, str(err.strerror)) from err
    found = hashlib.sha256(content).hexdigest()
    if found != card["weights_sha256"]:
        raise _damaged(folder / WEIGHTS, f"its sha256 is {found}, the card says {card['weights_sha256']}")
    return from_weights(content, card, device)


def from_weights(content: bytes, card: dict[str, Any], device: torch.device | str = "cpu") -> ResidentCodec:
    """The codec of a weights file's bytes and its card; CODEC002 if the tensors are not those of the card's network."""
    card = {**card, "weights_sha256": hashlib.sha256(content).hexdigest()}
    network = Autoencoder(AutoencoderConfig.from_json(card["network"]))
    tensors = {name: tensor.float() for name, tensor in load_tensors(content).items()}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if name not in TRAINING_ONLY]
    if missing or unexpected:
        raise _damaged(Path(WEIGHTS), f"tensors missing: {missing}; not known: {unexpected}")
    return ResidentCodec(spec_of(card), network, card, device)


def pack_weights(tensors: Mapping[str, Tensor]) -> bytes:
    """A weights file: what coding needs of an `Autoencoder`'s state, in half precision."""
    kept = {name: tensor for name, tensor in tensors.items() if name not in TRAINING_ONLY}
    return save_tensors({name: kept[name].detach().cpu().half().contiguous() for name in sorted(kept)})


def write_codec(folder: Path, content: bytes, card: dict[str, Any]) -> None:
    """Put weights and card into `folder`, the card last."""
    commit.data(folder / WEIGHTS, content)
    commit.record(folder / CARD, card)


def read_card(folder: Path = HOME) -> dict[str, Any]:
    """card.json of a codec's folder."""
    try:
        return dict(json.loads((folder / CARD).read_text(encoding="utf-8")))
    except (OSError, ValueError) as err:
        raise _damaged(folder / CARD, str(err)) from err


def spec_of(card: dict[str, Any]) -> CodecSpec:
    """What a card says of the codes."""
    network = AutoencoderConfig.from_json(card["network"])
    return CodecSpec(
        codec=card["name"],
        weights=card["weights_sha256"],
        sample_rate=card["sample_rate"],
        frame_rate=Fraction(card["sample_rate"], network.hop),
        cardinalities=(network.cardinality,) * network.codebooks,
    )


def _damaged(file: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "CODEC002",
        f"{file.name} of the codec is missing or damaged",
        where=str(file),
        why=why,
        next="reinstall partimento (pip install --force-reinstall --no-deps .), or export the codec again",
    )
