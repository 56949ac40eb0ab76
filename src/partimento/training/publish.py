"""The weights of a run leave it: as a folder to start other runs from, or for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from partimento.errors import PartimentoError
from partimento.models.dia import TextModel
from partimento.progress import Progress, Quiet
from partimento.runs import foreign, published
from partimento.runs.chosen import chosen
from partimento.runs.published import RECORD, Facts, Published
from partimento.runs.run import Run
from partimento.training.mixtures import export_run
from partimento.training.player import Player
from partimento.training.restorer import export_restorer

Layout = Literal["partimento", "transformers", "nari"]


def export_weights(
    source: str | Path,
    to: str | Path,
    *,
    layout: Layout = "partimento",
    weights: Literal["ema", "raw"] = "ema",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the weights of a run (its best checkpoint, else its newest; adapters merged), or of a folder of weights,
    into the folder `to`. Returns what `foreign.export` does, and `source`. A restorer has a folder of its own kind
    (`restorer.export_restorer`), and so has a mixture (`mixtures.export_run`).

    Raises RUN001, CKPT003 (nothing saved yet), CKPT001, CKPT004 (no averaged weights), WEIGHTS001, WEIGHTS002,
    WEIGHTS008 (`to` exists), WEIGHTS009 and MODEL002 (the layout cannot say this model).
    """
    progress, source = progress or Quiet(), Path(source)
    published.require_absent(Path(to))
    family = Run.open(source).record["family"] if (source / "run.json").exists() else None
    if family == "restore":
        return _restorer(source, to, layout, weights, progress)
    if family == "mot":
        return export_run(source, to, layout=layout, weights=weights, progress=progress)
    if (source / RECORD).exists():
        progress.stage("load", str(source))
        found = published.read(source)
        model, origin = found.module(), found.facts.source
    else:
        model, found = _of_run(source, weights, progress)
        origin = found.facts.source
    return {**foreign.export(model, found, to, layout, progress=progress), "source": origin}


def _restorer(
    run: Path, to: str | Path, layout: Layout, weights: Literal["ema", "raw"], progress: Progress
) -> dict[str, Any]:
    if layout != "partimento":
        raise PartimentoError(
            "WEIGHTS009",
            f"{run.name} restores recordings, and no other program knows its network",
            next="leave --as out",
        )
    card = export_restorer(run, to, weights=weights, progress=progress)
    told = {name: card[name] for name in ("parameters", "weights_bytes", "weights_sha256")}
    source = {"run": card["run"], "checkpoint": card["checkpoint"], "weights": weights}
    return {"to": str(to), "layout": layout, **told, "source": source}


def _of_run(run: Path, weights: Literal["ema", "raw"], progress: Progress) -> tuple[TextModel, Published]:
    opened = Run.open(run)
    path = chosen(opened, progress.note)
    progress.stage("load", f"{path.name} of {opened.id}, {weights} weights")
    player = Player.from_checkpoint(path, weights)
    if not isinstance(player.module, TextModel):  # a mixture has gone its own way
        raise PartimentoError(
            "WEIGHTS009",
            f"the weights of {opened.id} cannot be written as a model that reads text",
            why="its family is rvq, which has no text encoder",
            next=f"partimento sample {run} --to FOLDER plays it; its checkpoints are safetensors",
        )
    base = player.how.get("base")
    start = None if base is None else published.require(Path(base["folder"]), base["sha256"])
    source = {"run": opened.id, "checkpoint": path.name, "weights": weights}
    folder = path if start is None else start.folder
    return player.module, Published(folder, _facts(player, start, source))


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
