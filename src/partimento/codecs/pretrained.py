"""Codecs that others trained: DAC, EnCodec and Mimi checkpoints, read by transformers.

A checkpoint is a folder with config.json and safetensors. A name of the Hugging Face hub stands for the folder that
`hf download` made in the hub's cache; nothing is downloaded from here, so what a run reads never depends on a network.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from partimento.errors import PartimentoError
from partimento.runs import hub

if TYPE_CHECKING:
    from partimento.codecs.codec import Codec

FAMILIES = ("dac", "encodec", "mimi")
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MOST_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class Published:
    """A published checkpoint, as its config.json on the hub says."""

    hub: str
    sample_rate: int
    hop: int
    cardinality: int
    codebooks: int
    """That are used unless others are asked for."""
    most: int

    @property
    def frame_rate(self) -> Fraction:
        return Fraction(self.sample_rate, self.hop)

    @property
    def kbps(self) -> float:
        return float(self.codebooks * (self.cardinality - 1).bit_length() * self.frame_rate / 1000)


SHORT = {
    "dac-16k": Published("descript/dac_16khz", 16000, 320, 1024, 12, 12),
    "dac-24k": Published("descript/dac_24khz", 24000, 320, 1024, 32, 32),
    "dac-44k": Published("descript/dac_44khz", 44100, 512, 1024, 9, 9),
    "encodec-24k": Published("facebook/encodec_24khz", 24000, 320, 1024, 8, 32),
    "encodec-32k": Published("facebook/encodec_32khz", 32000, 640, 2048, 4, 4),
    "mimi-24k": Published("kyutai/mimi", 24000, 1920, 2048, 8, 32),
}


def open_pretrained(name: str, device: torch.device | str = "cpu", books: int | None = None) -> Codec:
    """The codec of a folder, short name or hub name, in mono; of EnCodec and Mimi with the first `books` books.

    Raises CODEC014 (not in the hub cache), CODEC013 (no checkpoint of a family that is known), CODEC015 (config.json is
    broken or does not belong to the weights), CODEC016 (no safetensors), CODEC017 (the weights are damaged), CODEC030
    to CODEC032 (an EnCodec or Mimi that cannot be coded as a stream, or has fewer books).
    """
    folder = Path(name)
    if not folder.exists():
        folder = _from_hub(SHORT[name].hub if name in SHORT else name)
    config = _config(folder)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise PartimentoError(
            "CODEC013",
            f"{name} holds no codec that partimento reads",
            where=str(folder / CONFIG),
            why=f"its model_type is {family!r}; the codecs read are {', '.join(FAMILIES)}",
            next="partimento codec list",
        )
    _need_safetensors(folder)
    model = _load(folder, str(family))
    weights = weights_hash(model)
    try:
        if family == "dac":
            from partimento.codecs import dac

            return dac.DacCodec(model, dac.spec_of(model, weights), device)
        if family == "encodec":
            from partimento.codecs import encodec

            return encodec.EncodecCodec(model, encodec.spec_of(model, weights, books), device)
        from partimento.codecs import mimi

        return mimi.MimiCodec(model, mimi.spec_of(model, weights, books), device)
    except ValueError as err:
        raise _misfit(folder, str(err)) from err


def weights_hash(model: torch.nn.Module) -> str:
    """sha256 over (name, dtype, shape, bytes) of the model's state, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _from_hub(name: str) -> Path:
    folder = hub.cached(name, CONFIG)
    if folder is None:
        raise PartimentoError(
            "CODEC014",
            f"the codec {name} is not on this machine",
            why="it is neither a folder here nor in the Hugging Face cache, and encoding never downloads",
            next=f"hf download {name}   (without network here: on another machine, then give the folder to --codec)",
        )
    return folder


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        if file.stat().st_size > MOST_CONFIG_BYTES:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        tree = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError("it is not an object")
    except OSError as err:
        raise PartimentoError(
            "CODEC013",
            f"{folder} holds no codec",
            where=str(file),
            why=f"{err.strerror}; a codec's folder has card.json (partimento) or config.json (transformers)",
            next="partimento codec list",
        ) from err
    except (ValueError, RecursionError) as err:
        raise _misfit(folder, f"config.json cannot be read: {err}") from err
    return tree


def _need_safetensors(folder: Path) -> None:
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise PartimentoError(
            "CODEC016",
            f"the weights of {folder} are a pickle",
            where=str(folder / pickles[0]),
            why=f"a pickle can run any program when it is read; only {WEIGHTS} is",
            next='where you trust it: python -c "from transformers import AutoModel; '
            f"AutoModel.from_pretrained('{folder}').save_pretrained('{folder}-safe')\"",
        )
    raise PartimentoError(
        "CODEC016",
        f"the weights of {folder} are missing",
        where=str(folder / WEIGHTS),
        why="config.json is there without them, as after a download that was stopped",
        next="hf download the repository again, or copy model.safetensors into the folder",
    )


def _load(folder: Path, family: str) -> torch.nn.Module:
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    kind = getattr(transformers, {"dac": "DacModel", "encodec": "EncodecModel", "mimi": "MimiModel"}[family])
    try:
        held = sum(_numbers(file) for file in folder.glob("*.safetensors"))
        with _silent():
            with torch.device("meta"):  # before memory is given to what a broken config.json asks for
                asked = sum(tensor.numel() for tensor in kind(kind.config_class.from_pretrained(folder)).parameters())
            if asked > held:
                raise ValueError(f"config.json asks for {asked} numbers, the weights are {held}")
            model, report = kind.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    except SafetensorError as err:
        raise PartimentoError(
            "CODEC017",
            f"the weights of {folder} are damaged",
            where=str(folder),
            why=str(err),
            next="hf download --force-download the repository again, or copy the folder again",
        ) from err
    except (StrictDataclassError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as err:
        why = (str(err).strip() or type(err).__name__).splitlines()[0]
        if "ignore_mismatched_sizes" in why:  # an option of the library's, which names the tensors in its log only
            why = "the weights have other shapes than config.json asks for"
        raise _misfit(folder, why) from err
    wrong = {what: sorted(map(str, report[what])) for what in ("missing_keys", "unexpected_keys") if report[what]}
    if wrong:
        raise _misfit(folder, "; ".join(f"{what.replace('_', ' ')}: {', '.join(k[:3])}" for what, k in wrong.items()))
    return model


def _numbers(file: Path) -> int:
    """In the tensors of a safetensors file, by its header. Raises SafetensorError."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118 (no dict)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the library's progress bar and warnings: what they would say is an error here."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _misfit(folder: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "CODEC015",
        f"config.json and the weights of {folder} do not make a codec",
        where=str(folder),
        why=why,
        next="hf download the repository again, or copy the whole folder again",
    )
