"""The resident codecs: ours, with their weights inside the package.

A codec is a folder of two files: `weights.safetensors` (half precision) and `card.json` (what it is, what it was made
from, how it measures, and what it hashes to). Codes are named by the tensors that decide them (`codes_sha256`), so that
they stay valid when a later version only decodes better.

Codes are computed in float64: rounding differs between machines, thread counts and batch shapes, and a nearest
neighbour must not. A tie within 1e-15 does not occur in practice. (An encoder on samples pays for it dearly.)
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
from partimento.runs import exported
from partimento.tokens.spec import CodecSpec
from partimento.waveform.autoencoder import TRAINING_ONLY, Autoencoder, AutoencoderConfig, decides_codes

WEIGHTS, CARD = "weights.safetensors", "card.json"
RESIDENT = "resident-44k"
HOME = Path(__file__).parent / "resident_44k"
_SHIPPED = {RESIDENT: HOME, "resident-24k": HOME.with_name("resident_24k")}
RESIDENTS = {name: folder for name, folder in _SHIPPED.items() if (folder / CARD).is_file()}
"""The codecs in the package, by name."""


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
    return _opened(*read_network(folder), device)


def folder_of(source: str | Path) -> Path:
    """The folder of a codec in the package by its name; what else is named is a folder itself, or an export on the hub
    that the local cache has. Raises PUB001, PUB002 (an export that was changed)."""
    return RESIDENTS[str(source)] if str(source) in RESIDENTS else exported.located(source)


def read_network(source: str | Path) -> tuple[AutoencoderConfig, dict[str, Tensor], dict[str, Any]]:
    """What a codec's folder, or a codec in the package by its name, holds: network, tensors in float32, card.

    Raises CODEC001 (no codec is there), CODEC002 if a file is missing or is not what the card says.
    """
    folder = folder_of(source)
    if str(source) not in RESIDENTS and not (folder / CARD).is_file():
        run = (folder / "run.json").is_file()
        raise PartimentoError(
            "CODEC001",
            f"there is no codec {str(source)!r}",
            why="it is a run" if run else f"known are {', '.join(RESIDENTS)}, and folders that hold a codec",
            next=f"partimento codec export {folder} --to FOLDER, and give that" if run else "partimento codec list",
        )
    card = read_card(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as err:
        raise _damaged(folder / WEIGHTS, str(err.strerror)) from err
    found = hashlib.sha256(content).hexdigest()
    if found != card["weights_sha256"]:
        raise _damaged(folder / WEIGHTS, f"its sha256 is {found}, the card says {card['weights_sha256']}")
    network, tensors = AutoencoderConfig.from_json(card["network"]), load_tensors(content)
    if card.get("codes_sha256", decided := codes_sha256(tensors, network)) != decided:
        raise _damaged(folder / WEIGHTS, f"its codes are {decided}, the card says {card['codes_sha256']}")
    return network, {name: tensor.float() for name, tensor in tensors.items()}, card


def start_from(network: Autoencoder, source: str | Path, *, freeze_codes: bool) -> CodecSpec:
    """Give `network` the weights of a codec's folder, or of a codec in the package by its name; returns its spec.

    With `freeze_codes`, what decides codes is frozen from then on, and the decoder may be another: it is loaded where
    it is of the same kind and shape, else it keeps what it has, statistics too. Raises CODEC002, CODEC040 (the network
    is another).
    """
    theirs, tensors, card = read_network(source)
    mine, ours = {name: t for name, t in network.state_dict().items() if name not in TRAINING_ONLY}, network.config
    differs = sorted(name for name in {**mine, **tensors} if _shape(mine, name) != _shape(tensors, name))
    if freeze_codes and not any(decides_codes(name, ours) or decides_codes(name, theirs) for name in differs):
        alike = ours.decoder == theirs.decoder and not differs
        tensors = {name: t for name, t in tensors.items() if alike or decides_codes(name, ours)}
        differs = []
    if differs or (theirs.encoder, theirs.hop) != (ours.encoder, ours.hop):
        raise PartimentoError(
            "CODEC040",
            f"the network of this configuration is not that of {card['name']}",
            where=str(source),
            why=f"{differs[0]} is {_shape(tensors, differs[0])} there and {_shape(mine, differs[0])} here"
            if differs
            else f"its encoder is {theirs.encoder} with a hop of {theirs.hop}",
            next="give [model] the sizes in the card's network, or leave model.weights away",
        )
    network.load_state_dict(tensors, strict=False)
    network.quantizer.begin_with_books()
    if freeze_codes:
        network.freeze_codes()
    return spec_of(card)


def from_weights(content: bytes, card: dict[str, Any], device: torch.device | str = "cpu") -> ResidentCodec:
    """The codec of a weights file's bytes and of a card that does not say yet what they hash to; its own does."""
    network, tensors = AutoencoderConfig.from_json(card["network"]), load_tensors(content)
    hashes = {"weights_sha256": hashlib.sha256(content).hexdigest(), "codes_sha256": codes_sha256(tensors, network)}
    return _opened(network, {name: tensor.float() for name, tensor in tensors.items()}, {**card, **hashes}, device)


def _opened(
    network: AutoencoderConfig, tensors: dict[str, Tensor], card: dict[str, Any], device: torch.device | str
) -> ResidentCodec:
    module = Autoencoder(network)
    wanted = {name: tensor for name, tensor in module.state_dict().items() if name not in TRAINING_ONLY}
    differs = sorted(name for name in {**wanted, **tensors} if _shape(wanted, name) != _shape(tensors, name))
    if differs:
        shapes = f"{_shape(tensors, differs[0])}, for the card {_shape(wanted, differs[0])}"
        raise _damaged(
            Path(WEIGHTS), f"{len(differs)} tensors are not those of the card, the first {differs[0]}: {shapes}"
        )
    module.load_state_dict(tensors, strict=False)
    return ResidentCodec(spec_of(card), module, card, device)


def pack_weights(tensors: Mapping[str, Tensor]) -> bytes:
    """A weights file: what coding needs of an `Autoencoder`'s state, in half precision."""
    kept = {name: tensor for name, tensor in tensors.items() if name not in TRAINING_ONLY}
    return save_tensors({name: kept[name].detach().cpu().half().contiguous() for name in sorted(kept)})


def write_codec(folder: Path, content: bytes, card: dict[str, Any]) -> None:
    """Put weights and card into `folder`, the card last."""
    commit.data(folder / WEIGHTS, content)
    commit.record(folder / CARD, card)


def read_card(folder: Path = HOME) -> dict[str, Any]:
    """card.json of a codec's folder. Raises CODEC002 if it is missing, or lacks what opening the codec needs."""
    try:
        card = dict(json.loads((folder / CARD).read_text(encoding="utf-8")))
        spec_of(card)
    except (OSError, ValueError) as err:
        raise _damaged(folder / CARD, str(err)) from err
    except (KeyError, TypeError) as err:
        raise _damaged(folder / CARD, f"it does not describe a codec that this version knows: {err!r}") from err
    return card


def codes_sha256(tensors: Mapping[str, Tensor], network: AutoencoderConfig) -> str:
    """The sha256 of the tensors that decide codes, by name, in half precision: what codes are told apart by."""
    found = hashlib.sha256()
    for name in sorted(name for name in tensors if decides_codes(name, network)):
        tensor = tensors[name].detach().cpu().half().contiguous()
        found.update(f"{name} {list(tensor.shape)}\n".encode())
        found.update(tensor.numpy().astype("<f2", copy=False).tobytes())
    return found.hexdigest()


def spec_of(card: dict[str, Any]) -> CodecSpec:
    """What a card says of the codes. Cards of before `codes_sha256` name codes by all of the weights."""
    network = AutoencoderConfig.from_json(card["network"])
    return CodecSpec(
        codec=card["name"],
        weights=card.get("codes_sha256", card["weights_sha256"]),
        sample_rate=card["sample_rate"],
        frame_rate=Fraction(card["sample_rate"], network.hop),
        cardinalities=(network.cardinality,) * network.codebooks,
    )


def _shape(tensors: Mapping[str, Tensor], name: str) -> list[int] | None:
    return list(tensors[name].shape) if name in tensors else None


def _damaged(file: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "CODEC002",
        f"{file.name} of the codec is missing or damaged",
        where=str(file),
        why=why,
        next="reinstall partimento (pip install --force-reinstall --no-deps .), or export the codec again",
    )
