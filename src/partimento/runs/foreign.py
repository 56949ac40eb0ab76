"""Checkpoints of other programs become folders of weights (`published`), and these become checkpoints again.

Read: transformers' Dia and MusicGen (safetensors, also in several files), nari-labs' Dia (safetensors, or a file of
torch.save, which a child process reads). They are told apart by the names of their tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.runs import published, tensorfiles
from partimento.runs.published import CODEC, THEIRS, TOKENIZER, WEIGHTS, Facts, Published
from partimento.runs.sources import CONFIG, Checkpoint, config_of, licence_of, opened
from partimento.tokens.subwords import FILE as TOKENIZER_FILE

if TYPE_CHECKING:
    from torch import Tensor

    from partimento.models.dia import TextModel
    from partimento.models.weights import Described, WeightsReport

_SMALL = (
    *(CONFIG, "generation_config.json", "preprocessor_config.json", "tokenizer_config.json", TOKENIZER_FILE),
    *("special_tokens_map.json", "added_tokens.json", "spiece.model"),
)
_MOST_SMALL_BYTES = 64 << 20
_AUDIO = "audio_encoder."
# What transformers' many readers of tokenizers raise.
_NO_TOKENIZER = (OSError, ValueError, LookupError, TypeError, ImportError, AttributeError)


def import_foreign(
    path: str | Path, to: str | Path, *, generation: str | None = None, progress: Progress | None = None
) -> tuple[Published, WeightsReport]:
    """Make the folder of weights `to` of a published checkpoint: its folder, a file in it, or its name in the local
    cache of the Hugging Face hub. Nothing is downloaded.

    `generation` ("0626" or "april") says which Dia it is; the tensors cannot (see models.weights.dia). Raises
    WEIGHTS003 (not a checkpoint that is known), WEIGHTS004 (damaged), WEIGHTS005 (generation), WEIGHTS006 (a pickle of
    more than tensors), WEIGHTS007 (no tokenizer), WEIGHTS008 (`to` exists), MODEL001, MODEL030, MODEL031 (config.json),
    MODEL002 (tensors that do not fit it). Nothing is left at `to` then.
    """
    import torch

    from partimento.models.dia import TextModel

    progress, to = progress or Quiet(), Path(to)
    published.require_absent(to)
    with opened(Path(path), to, progress) as found:
        kind, layout = found.kind
        described = _describe(found, kind, layout, generation)
        progress.stage("fit", f"{len(found.state)} tensors of {kind} in the layout of {layout}")
        with torch.device("meta"):  # before memory is given to what a broken config.json asks for
            _fill(TextModel.from_json(described.model), found, layout, described)
        with torch.random.fork_rng(devices=[]):
            model = TextModel.from_json(described.model)
        report = _fill(model, found, layout, described)
        facts = _facts(described, found, layout, generation)
        progress.stage("write", f"{sum(weight.numel() for weight in model.parameters()):,} weights")
        return published.save(to, model, facts, lambda tmp: _beside(found, described, tmp)), report


def export(
    model: TextModel,
    found: Published,
    to: str | Path,
    layout: str,
    *,
    extras: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `model`, with the conventions of `found`, into the folder `to`, in the layout "transformers" (which
    from_pretrained loads), "nari", or "partimento" (a folder of weights).

    Returns {"to", "layout", "tensors", "parameters"}. `extras(folder)` adds to a folder of weights, once they are in.

    Raises WEIGHTS008 (`to` exists), WEIGHTS009 and MODEL002 (the layout cannot say this model).
    """
    progress, to = progress or Quiet(), Path(to)
    published.require_absent(to)
    progress.stage("write", f"{sum(weight.numel() for weight in model.parameters()):,} weights")
    if layout == "partimento":

        def beside(tmp: Path) -> None:
            _copy_companions(found.folder, tmp)
            if extras is not None:
                extras(tmp)

        saved = published.save(to, model, found.facts, beside)
        count = len(published.read_tensors(saved.folder / WEIGHTS))
    else:
        config, tensors = _foreign(model, found, layout)
        with commit.folder(to) as tmp:
            for file in sorted((found.folder / THEIRS).glob("*")):
                shutil.copyfile(file, tmp / file.name)
            commit.record(tmp / CONFIG, config)
            tensorfiles.write(tmp / WEIGHTS, tensors)
        count = len(tensors)
    numbers = sum(weight.numel() for weight in model.parameters())
    return {"to": str(to), "layout": layout, "tensors": count, "parameters": numbers}


def _describe(found: Checkpoint, kind: str, layout: str, generation: str | None) -> Described:
    from partimento.models import weights

    if kind == "musicgen":
        if generation is not None:
            raise PartimentoError(
                "WEIGHTS005",
                f"{found.folder.name} is a MusicGen, which has no generations",
                next="leave --generation out",
            )
        return weights.describe_musicgen(found.config)
    if generation not in weights.GENERATIONS:
        raise PartimentoError(
            "WEIGHTS005",
            f"{found.folder.name} is a Dia, of "
            + ("a generation that must be said" if generation is None else f"no generation {generation!r}"),
            why="Dia's weights of April and of June 2025 have the same names and shapes, and are two different models",
            next="--generation 0626 for weights of June 2025 or later (all that transformers computes), "
            "--generation april for nari-labs/Dia-1.6B of April 2025 and its fine-tunes",
        )
    return (weights.describe_nari if layout == "nari" else weights.describe_dia)(found.config, generation)


def _fill(model: TextModel, found: Checkpoint, layout: str, described: Described) -> WeightsReport:
    from partimento.models import weights

    if described.kind == "musicgen":
        return weights.import_musicgen_whole(model, found.state, max(1, len(described.codec["books"])))
    return (weights.import_nari if layout == "nari" else weights.import_dia)(model, found.state)


def _facts(described: Described, found: Checkpoint, layout: str, generation: str | None) -> Facts:
    return Facts.model_validate_json(
        json.dumps(
            {
                "kind": described.kind,
                "generation": generation,
                "model": described.model,
                "delays": described.delays,
                "specials": described.specials,
                "ending": described.ending,
                "guidance_rule": described.guidance_rule,
                "null_trained": True,
                "words": described.words,
                "codec": described.codec,
                "source": {
                    "name": found.folder.name,
                    "layout": layout,
                    "files": {file.name: commit.sha256(file) for file in found.files},
                },
                "licence": licence_of(found.folder),
            }
        )
    )


def _foreign(model: TextModel, found: Published, layout: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and tensors. Raises WEIGHTS009, MODEL002."""
    from partimento.models import weights

    facts, specials = found.facts, found.facts.specials.model_dump()
    if facts.stride != 1:
        raise _inexpressible(layout, "its codebooks lie one after the other (pattern flat)")
    if facts.model["encoder"]["kind"] == "bytes":
        if len(facts.words.tags):
            raise _inexpressible(layout, "it has ids for tags, beside the bytes of a text")
        if layout == "nari":
            return weights.nari_config(model, found.delays, specials), weights.export_nari(model)
        return weights.dia_config(model, found.delays, specials), weights.export_dia(model)
    if layout == "nari":
        raise _inexpressible(layout, "it is a MusicGen")
    books = facts.codec.books or [facts.codec.codebooks]
    if facts.codec.layout == "mid-side" or len(set(books)) != 1:
        raise _inexpressible(layout, f"its channels are {facts.codec.layout}, with {books} codebooks")
    if list(found.delays) != list(range(books[0])) * len(books):
        raise _inexpressible(layout, f"its delays are {list(found.delays)}, and MusicGen's are fixed in the code")
    codec = found.folder / CODEC
    if not (codec / WEIGHTS).is_file():
        raise _inexpressible(layout, "the audio codec, which is a part of such a checkpoint, is not beside the weights")
    audio = {_AUDIO + name: value for name, value in published.read_tensors(codec / WEIGHTS).items()}
    config = weights.musicgen_whole_config(model, len(books), config_of(codec))
    return config, {**weights.export_musicgen_whole(model, len(books)), **audio}


def _beside(found: Checkpoint, described: Described, tmp: Path) -> None:
    """What belongs to the weights besides them. Raises WEIGHTS007."""
    (tmp / THEIRS).mkdir()
    for name in _SMALL:
        file = found.folder / name
        if file.is_file() and file.stat().st_size <= _MOST_SMALL_BYTES:
            shutil.copyfile(file, tmp / THEIRS / name)
    if described.kind == "musicgen":
        (tmp / TOKENIZER).mkdir()
        vocabulary = described.model["encoder"]["config"]["t5"]["vocab_size"]
        _save_tokenizer(found.folder, tmp / TOKENIZER / TOKENIZER_FILE, vocabulary)
        (tmp / CODEC).mkdir()
        audio = {name.removeprefix(_AUDIO): value for name, value in found.state.items() if name.startswith(_AUDIO)}
        tensorfiles.write(tmp / CODEC / WEIGHTS, audio)
        commit.record(tmp / CODEC / CONFIG, {**found.config["audio_encoder"], "architectures": ["EncodecModel"]})


def _save_tokenizer(folder: Path, file: Path, vocabulary: int) -> None:
    """As transformers reads it, with what it puts at the end of a text. Raises WEIGHTS007."""
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # what it finds odd in a config.json is not for the user to mend
    try:
        if not (folder / TOKENIZER_FILE).is_file():  # transformers would make an empty one
            raise FileNotFoundError("there is no such file")
        found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        highest = max(found.get_vocab().values(), default=vocabulary)
        if highest >= vocabulary:
            raise ValueError(f"its ids go to {highest}, the text encoder knows {vocabulary}")
        found.save(str(file))
    except Exception as err:
        if type(err) is not Exception and not isinstance(err, _NO_TOKENIZER):  # tokenizers raises the bare type
            raise
        raise PartimentoError(
            "WEIGHTS007",
            f"there is no tokenizer for these weights in {folder}",
            where=str(folder / TOKENIZER_FILE),
            why=(str(err).strip() or type(err).__name__).splitlines()[0],
            next="download the whole repository: the text encoder reads ids that tokenizer.json gives",
        ) from err
    finally:
        transformers.logging.set_verbosity(before)


def _copy_companions(folder: Path, tmp: Path) -> None:
    for beside in published.companions(folder):
        shutil.copytree(beside, tmp / beside.name)


def _inexpressible(layout: str, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS009",
        f"this model cannot be written in the layout of {layout}",
        why=why,
        next="partimento weights export ... --as partimento",
    )
