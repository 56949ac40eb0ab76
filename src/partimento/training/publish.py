"""The weights of a run leave it: as a folder to start other runs from, or for other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load as load_tensors

from partimento import commit
from partimento.codecs.resident import WEIGHTS as CODEC_WEIGHTS
from partimento.errors import PartimentoError
from partimento.models.dia import TextModel
from partimento.progress import Progress, Quiet
from partimento.runs import checkpoint, foreign, playable, published, tensorfiles
from partimento.runs.chosen import chosen
from partimento.runs.published import RECORD, Facts, Published
from partimento.runs.run import Run
from partimento.training.ema import named_state
from partimento.training.export import export_resident
from partimento.training.mixtures import export_run
from partimento.training.player import Player
from partimento.training.restorer import export_restorer, read_folder

Layout = Literal["partimento", "transformers", "nari"]


def export_weights(
    source: str | Path,
    to: str | Path,
    *,
    layout: Layout = "partimento",
    weights: Literal["ema", "raw"] = "ema",
    licence: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the weights of a run (its best checkpoint, else its newest; adapters merged), or of a folder of weights,
    into the folder `to`. Returns what `foreign.export` does, and `source`. A restorer has a folder of its own kind
    (`restorer.export_restorer`), and so have a codec (`export.export_resident`), a mixture (`mixtures.export_run`) and
    a model that reads no text (`playable`). `licence` is noted in the record of a restorer and a codec.

    This is the weights alone; `partimento weights export` writes a card with them (`lab.card`).

    Raises RUN001, CKPT003 (nothing saved yet), CKPT001, CKPT004 (no averaged weights), WEIGHTS001, WEIGHTS002,
    WEIGHTS008 (`to` exists), WEIGHTS009 and MODEL002 (the layout cannot say this model).
    """
    progress, source = progress or Quiet(), Path(source)
    published.require_absent(Path(to))
    family = Run.open(source).record["family"] if (source / "run.json").exists() else None
    if family == "restore":
        return _restorer(source, to, layout, weights, licence, progress)
    if family == "codec":
        return _codec(source, to, layout, weights, licence, progress)
    if family == "rvq":
        return _without_text(source, to, layout, weights, progress)
    if family == "mot":
        return export_run(source, to, layout=layout, weights=weights, progress=progress)
    if (source / RECORD).exists():
        progress.stage("load", str(source))
        found = published.read(source)
        model, origin = found.module(), found.facts.source
        kept = _played_as(source)
    else:
        model, found, kept = _of_run(source, weights, progress)
        origin = found.facts.source
    return {**foreign.export(model, found, to, layout, extras=kept, progress=progress), "source": origin}


def _played_as(folder: Path) -> Callable[[Path], None] | None:
    """What puts the player of a folder of weights into another one, if it plays."""
    if not (folder / playable.RECORD).is_file():
        return None
    found = playable.read(folder)
    return lambda tmp: playable.write(tmp, found.description, found.source)


def _restorer(
    run: Path,
    to: str | Path,
    layout: Layout,
    weights: Literal["ema", "raw"],
    licence: str | None,
    progress: Progress,
) -> dict[str, Any]:
    _require_ours(layout, f"{run.name} restores recordings, and no other program knows its network")
    card = export_restorer(run, to, weights=weights, licence=licence, progress=progress)
    told = {name: card[name] for name in ("parameters", "weights_bytes", "weights_sha256")}
    told["tensors"] = len(read_folder(Path(to))[1])
    source = {"run": card["run"], "checkpoint": card["checkpoint"], "weights": weights}
    return {"to": str(to), "layout": layout, **told, "source": source}


def _codec(
    run: Path,
    to: str | Path,
    layout: Layout,
    weights: Literal["ema", "raw"],
    licence: str | None,
    progress: Progress,
) -> dict[str, Any]:
    _require_ours(layout, f"{run.name} is a codec, and no other program knows its network")
    card = export_resident(run, to, weights=weights, licence=licence, measured=False, progress=progress)
    with (Path(to) / CODEC_WEIGHTS).open("rb") as stream:
        tensors = load_tensors(stream.read())
    recipe = card["recipe"]
    return {
        "to": str(to),
        "layout": layout,
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "source": {
            "run": Run.open(run).id,
            "checkpoint": checkpoint.step_name(recipe["steps"]),
            "weights": "ema" if recipe["weights"] == "ema" else "raw",
        },
    }


def _without_text(
    run: Path, to: str | Path, layout: Layout, weights: Literal["ema", "raw"], progress: Progress
) -> dict[str, Any]:
    _require_ours(layout, f"{run.name} is of the family rvq, which has no text encoder: no other program knows it")
    player, source = _player(run, weights, progress)
    tensors = named_state(player.module)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    progress.stage("write", f"{numbers:,} weights")
    with commit.folder(Path(to)) as tmp:
        tensorfiles.write(tmp / published.WEIGHTS, tensors)
        playable.write(tmp, player.description(), source)
    return {"to": str(to), "layout": layout, "tensors": len(tensors), "parameters": numbers, "source": source}


def _require_ours(layout: Layout, message: str) -> None:
    if layout != "partimento":
        raise PartimentoError("WEIGHTS009", message, next="leave --as out")


def _player(run: Path, weights: Literal["ema", "raw"], progress: Progress) -> tuple[Player, dict[str, str]]:
    """And which run, checkpoint and weights it is from."""
    opened = Run.open(run)
    path = chosen(opened, progress.note)
    progress.stage("load", f"{path.name} of {opened.id}, {weights} weights")
    source = {"run": opened.id, "checkpoint": path.name, "weights": str(weights)}
    return Player.from_checkpoint(path, weights), source


def _of_run(
    run: Path, weights: Literal["ema", "raw"], progress: Progress
) -> tuple[TextModel, Published, Callable[[Path], None]]:
    """The model, what a folder of its weights says, and what makes such a folder play."""
    player, source = _player(run, weights, progress)
    if not isinstance(player.module, TextModel):  # a run.json that names another family than its checkpoints
        raise PartimentoError(
            "WEIGHTS009",
            f"the weights of {run.name} cannot be written as a model that reads text",
            why=f"they are of the family {player.family}",
            next=f"partimento doctor {run}",
        )
    base = player.how.get("base")
    start = None if base is None else published.require(Path(base["folder"]), base["sha256"])
    folder = Run.open(run).checkpoints_path / source["checkpoint"] if start is None else start.folder

    def kept(tmp: Path) -> None:
        playable.write(tmp, player.standing_alone(), source)

    return player.module, Published(folder, _facts(player, start, source)), kept


def _facts(player: Player, start: Published | None, source: dict[str, str]) -> Facts:
    spec, words = player.spec, player.coder.to_json()
    return Facts.model_validate(
        {
            "kind": "partimento" if start is None else start.facts.kind,
            "generation": None if start is None else start.facts.generation,
            "model": published.with_dropout(player.how["model"], 0.0),
            "delays": list(player.pattern.delays),
            "stride": player.pattern.stride,
            "specials": {name: getattr(player.specials, name) for name in ("eos", "pad", "bos")},
            "ending": {"eos": player.ending.eos, "tail": player.ending.tail},
            "guidance_rule": player.rule,
            "null_trained": player.knows_null,
            "words": {name: words[name] for name in ("kind", "length", "tags", "reads") if name in words},
            "codec": {
                "name": spec.codec,
                "weights": spec.weights or None,
                "sample_rate": spec.sample_rate,
                "frame_rate": [spec.frame_rate.numerator, spec.frame_rate.denominator],
                "cardinality": spec.cardinality,
                "codebooks": spec.codebooks,
                "layout": spec.layout,
                "books": list(spec.books),
            },
            "source": source,
            "licence": None if start is None else start.facts.licence,
        }
    )
