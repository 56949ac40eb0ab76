"""CLAP: one space for sounds and texts. The checkpoint is a folder on this machine; nothing is ever fetched."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partimento.codecs.pretrained import weights_hash
from partimento.errors import PartimentoError

_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


class Clap:
    """An `Embedding` by a `transformers` ClapModel (Wu et al. 2023); unit vectors, so a product is a cosine.

    Nothing is cropped at random, as the library's own feature extractor would: a piece is never longer than the
    checkpoint's window (`seconds`), and shorter ones are repeated as the checkpoint says.
    """

    def __init__(self, folder: Path) -> None:
        """Raises LAB051 where the folder holds no CLAP checkpoint with weights as safetensors."""
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise _unusable(folder, f"{', '.join(missing)} is missing")
        from huggingface_hub.errors import StrictDataclassError
        from safetensors import SafetensorError
        from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

        try:
            with _silent():
                if ClapConfig.get_config_dict(folder)[0].get("model_type") != "clap":
                    raise ValueError("config.json is of another kind of model")
                loaded: Any = ClapModel.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
                )
                model, report = loaded
                self._extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
            lacking = sorted(map(str, report["missing_keys"]))
            if lacking:
                raise ValueError(f"the weights lack {len(lacking)} tensors, such as {lacking[0]}")
        except (
            StrictDataclassError, SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError,
            RuntimeError,
        ) as err:  # fmt: skip
            raise _unusable(folder, (str(err).strip() or type(err).__name__).splitlines()[0]) from err
        self._model = model.eval().requires_grad_(False)
        self._folder = folder
        self._tokenizer: Any = None
        self.name = f"clap:{folder.resolve().name}"
        self.sample_rate = int(self._extractor.sampling_rate)
        self.seconds = float(self._extractor.nb_max_samples / self.sample_rate)
        self.sha256 = weights_hash(model)

    @torch.no_grad()
    def __call__(self, waves_BN: NDArray[np.float32]) -> NDArray[np.float32]:
        most = self._extractor.nb_max_samples
        given = self._extractor(list(waves_BN[:, :most]), sampling_rate=self.sample_rate, return_tensors="pt")
        # The extractor calls one sound of a batch longer, at random, where none is.
        longer_B1 = torch.zeros(len(waves_BN), 1, dtype=torch.bool)
        found = self._model.get_audio_features(input_features=given["input_features"].float(), is_longer=longer_B1)
        return np.asarray(found.pooler_output.numpy())

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[n, D] unit vectors. Raises LAB051 where the folder has no tokenizer."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            try:
                with _silent():
                    self._tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
            except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as err:
                raise _unusable(self._folder, f"its tokenizer cannot be read: {str(err).splitlines()[0]}") from err
        most = self._model.config.text_config.max_position_embeddings - 2
        given = self._tokenizer(list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt")
        found = self._model.get_text_features(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        return np.asarray(found.pooler_output.double().numpy())


@contextmanager
def _silent() -> Iterator[None]:
    """Without the library's progress bar and warnings: what they would say is an error here."""
    from transformers.utils import logging as library

    level, bar = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.ERROR)
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(level)
        if bar:
            library.enable_progress_bar()


def _unusable(folder: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "LAB051",
        f"{folder} is no CLAP checkpoint that can be used",
        where=str(folder),
        why=why,
        next="hf download laion/larger_clap_music on a machine with a network, then give that folder: clap:FOLDER",
    )
