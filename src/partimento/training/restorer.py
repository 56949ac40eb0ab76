"""A trained restorer: read from a run's checkpoint, or from a folder of weights in half precision with a card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from partimento import commit
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.runs import checkpoint, exported, published
from partimento.runs.chosen import check_averages, chosen
from partimento.runs.run import Run
from partimento.training.ema import copy_into, named_state
from partimento.waveform.generators import Generator, GeneratorConfig, make_generator

CLEANER = Path(__file__).parent / "cleaner_44k"
"""The folder of the cleaner in the package, where there is one."""
WEIGHTS, CARD, KIND = "weights.safetensors", "card.json", "restorer"
Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Restorer:
    """A network with what it was trained for: `task` clean (what a shift by any of `semitones` left behind) or unshift.

    `name` is what a person calls it, `weights_sha256` what decides what it makes, `card` all that is known of it.
    """

    generator: Generator
    sample_rate: int
    task: Literal["clean", "unshift"]
    semitones: tuple[float, ...]
    full_band: bool
    name: str
    weights_sha256: str
    card: dict[str, Any]
    device: torch.device


def load_restorer(
    source: str | Path,
    weights: Weights = "ema",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Restorer:
    """The restorer of a run (its best checkpoint, else its newest), or of a folder that `export_restorer` wrote; also
    by its name on the hub, where the local cache has it.

    Raises PUB001 and PUB002 (an export that was changed), RESTORE001 (neither of the two), RESTORE002 (the folder is
    damaged), RUN001, CKPT001, CKPT003 (nothing saved yet), CKPT004 (no averaged weights), TRAIN003 (written by another
    version).
    """
    source, progress = exported.located(source), progress or Quiet()
    if (source / CARD).is_file():
        network, tensors, card = read_folder(source)
        return _of(network, tensors, card, source.name, card["weights_sha256"], device)
    if (source / published.RECORD).is_file():
        raise _other(source, "a folder of weights of a model of codes", "partimento weights inspect says more of it")
    opened = Run.open(source)
    path = _checkpoint(opened, progress)
    progress.stage("load", f"{path.name} of {opened.id}, {weights} weights")
    part = "ema" if weights == "ema" else "model"
    if weights == "ema":
        check_averages(path)
    found = checkpoint.load(path, (part,))
    tensors = found.parts[part]
    card = {**found.state["description"], "run": opened.id, "checkpoint": path.name, "weights": weights}
    network = GeneratorConfig.from_json(card["generator"])
    return _of(network, tensors, card, opened.id, _sha256(tensors), device)


def _checkpoint(run: Run, progress: Progress) -> Path:
    family = run.record["family"]
    if family != "restore":
        next = "partimento codec export makes a codec of it" if family == "codec" else "partimento sample plays it"
        raise _other(run.path, f"a run of the family {family}", next)
    return chosen(run, progress.note)


def _of(
    network: GeneratorConfig,
    tensors: Mapping[str, Tensor],
    told: dict[str, Any],
    name: str,
    sha256: str,
    device: torch.device | str,
) -> Restorer:
    with torch.random.fork_rng(devices=[]):  # a new network draws weights, which are replaced below
        generator = make_generator(network)
    copy_into(named_state(generator), tensors)
    return Restorer(
        generator=generator.requires_grad_(False).to(device).eval(),
        sample_rate=told["sample_rate"],
        task=told["task"],
        semitones=tuple(told["semitones"]),
        full_band=told["full_band"],
        name=name,
        weights_sha256=sha256,
        card=told,
        device=torch.device(device),
    )


def export_restorer(
    run: str | Path,
    folder: str | Path,
    *,
    weights: Weights = "ema",
    licence: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write weights.safetensors (half precision) and card.json of a run of the `restore` family; returns the card.
    `licence` is what whoever trained it gives the weights, None where nobody said.

    Raises what `load_restorer` raises of a run, and WEIGHTS008 (`folder` exists).
    """
    folder = Path(folder)
    published.require_absent(folder)
    opened = Run.open(run)
    found = load_restorer(run, weights, progress=progress)
    recipe = {"weights": weights, "config": _recipe(opened.record["config"])}
    return write_folder(folder, found.generator, {**found.card, "recipe": recipe, "licence": licence})


def _recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the places of this machine."""
    data, model = dict(config["data"]), dict(config["model"])
    data["folders"] = [Path(folder).name for folder in data["folders"]]
    for section, name in ((data, "pairs"), (model, "weights")):
        if section[name] is not None:
            section[name] = Path(section[name]).name
    rest = {name: config[name] for name in ("loss", "adversary", "optim", "train")}
    return {"data": data, "model": model, **rest}


def write_folder(folder: Path, generator: Generator, told: Mapping[str, Any]) -> dict[str, Any]:
    """Put the weights and the card, with what is `told` on it, into a new folder; returns the card."""
    tensors = {name: tensor.half().cpu().contiguous() for name, tensor in sorted(generator.state_dict().items())}
    content = save_tensors(tensors)
    card = {
        "schema": 1,
        "kind": KIND,
        **told,
        "name": folder.name,
        "context": generator.context,
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "weights_bytes": len(content),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    with commit.folder(folder) as tmp:
        commit.data(tmp / WEIGHTS, content)
        commit.record(tmp / CARD, card)
    return card


def read_folder(folder: str | Path) -> tuple[GeneratorConfig, dict[str, Tensor], dict[str, Any]]:
    """The network of a restorer's folder, its weights in float32, and its card, once the hash of the weights matched.

    Raises RESTORE001 (a folder of something else), RESTORE002 (damaged).
    """
    folder = exported.located(folder)
    if not (folder / CARD).is_file():
        run = (folder / "run.json").is_file()
        what = "a run" if run else "a folder of something else" if folder.is_dir() else "no folder that is there"
        next = f"partimento weights export {folder} --to FOLDER, and give that" if run else "check the path"
        raise _other(folder, what, next)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise _damaged(folder / CARD, str(err)) from err
    if not isinstance(card, dict) or card.get("kind") != KIND:
        name = card.get("name") if isinstance(card, dict) else None
        raise _other(folder, f"the codec {name}" if name else "a folder of something else", "give a run that restores")
    needed = {"generator", "sample_rate", "task", "semitones", "full_band", "weights_sha256", "weights_bytes"}
    if missing := sorted(needed - card.keys()):
        raise _damaged(folder / CARD, f"it says nothing of {', '.join(missing)}")
    rate, shifts = card["sample_rate"], card["semitones"]
    sound = isinstance(rate, int) and rate > 0 and isinstance(shifts, list) and card["task"] in ("clean", "unshift")
    if not sound or not all(isinstance(shift, int | float) for shift in shifts):
        raise _damaged(folder / CARD, "its sample_rate, task or semitones are none")
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as err:
        raise _damaged(folder / WEIGHTS, str(err.strerror)) from err
    if (found := hashlib.sha256(content).hexdigest()) != card["weights_sha256"]:
        raise _damaged(folder / WEIGHTS, f"its sha256 is {found}, the card says {card['weights_sha256']}")
    try:
        tensors = {name: tensor.float() for name, tensor in load_tensors(content).items()}
        network = GeneratorConfig.from_json(card["generator"])
        with torch.device("meta"):  # before memory is given to what a broken card asks for
            wanted = make_generator(network).state_dict()
        if {name: t.shape for name, t in wanted.items()} != {name: t.shape for name, t in tensors.items()}:
            raise ValueError("the weights are those of another")
        return network, tensors, card
    except (SafetensorError, TypeError, KeyError, ValueError) as err:
        raise _damaged(folder / CARD, f"the network cannot be read: {err}") from err


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of the weights, in the order of their names."""
    return hashlib.sha256(save_tensors({name: tensors[name].contiguous() for name in sorted(tensors)})).hexdigest()


def _other(source: Path, what: str, next: str) -> PartimentoError:
    return PartimentoError(
        "RESTORE001",
        f"{source} does not restore: it is {what}",
        where=str(source),
        why="only runs of the family restore do, and folders that `partimento weights export` made of one",
        next=next,
    )


def _damaged(file: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "RESTORE002",
        f"{file.name} of the restorer is missing or damaged",
        where=str(file),
        why=why,
        next="partimento weights export RUN --to ANOTHER_FOLDER; of the packaged cleaner: reinstall partimento",
    )
