"""`partimento weights`: published weights in, and weights out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from partimento.cli.terminal import json_option, lines, progress, quiet_option, result

if TYPE_CHECKING:
    from partimento.runs.exported import Exported
    from partimento.runs.published import Published

PATH = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Import published weights to start a training from, look at them, and export weights."""


@command.command("import")
@click.argument("path", type=PATH)
@click.option("--to", "folder", required=True, type=PATH, help="Folder for the weights.")
@click.option("--generation", help="Of a Dia: 0626 (June 2025 and later) or april (2025, and its fine-tunes).")
@quiet_option
@json_option
def import_(path: Path, folder: Path, generation: str | None, quiet: bool, as_json: bool) -> None:
    """Make a folder of weights of the checkpoint PATH: Dia (transformers, nari-labs) or MusicGen (transformers).

    PATH is a folder with config.json, a file beside one (.safetensors, or .pth, of which only tensors are read), or a
    name of the Hugging Face hub that `hf download` has fetched. Nothing is downloaded.
    """
    from partimento.runs.foreign import import_foreign

    with progress(quiet) as display:
        found, report = import_foreign(path, folder, generation=generation, progress=display)
    values = {**_summary(found), "loaded": len(report.loaded), "apart": len(report.apart)}
    text = f"{lines(values)}\nnext: set model.weights = {str(folder)!r} in a configuration of the dia family"
    result(values, as_json, text)


@command.command()
@click.argument("folder", type=PATH)
@json_option
def inspect(folder: Path, as_json: bool) -> None:
    """Say what the weights in FOLDER are, once every file was verified.

    FOLDER is also the name of an export on the hub, once `hf download` has fetched it.
    """
    from partimento.runs import exported

    folder = exported.located(folder)
    if (folder / exported.RECORD).is_file():
        found_here = exported.read(folder)
        exported.verify(found_here)
        _exported(found_here, as_json)
        return
    if (folder / "card.json").is_file():
        values = _restorer(folder)
        result(values, as_json, lines({name: value for name, value in values.items() if name != "card"}))
        return
    if (folder / "adapter.json").is_file():
        values = _adapter(folder)
        text = lines({name: value for name, value in values.items() if name not in ("description", "experts_from")})
        result(values, as_json, text + _experts(values["experts_from"]))
        return
    from partimento.runs import published

    found = published.read(folder)
    result({**_summary(found), "facts": found.facts.model_dump(mode="json")}, as_json, lines(_summary(found)))


@command.command()
@click.argument("source", type=PATH)
@click.option("--to", "folder", required=True, type=PATH, help="Folder for the weights.")
@click.option(
    "--as",
    "layout",
    type=click.Choice(["partimento", "transformers", "nari"]),
    default="partimento",
    show_default=True,
    help="partimento starts other trainings, transformers is what from_pretrained loads.",
)
@click.option("--weights", type=click.Choice(["ema", "raw"]), default="ema", show_default=True, help="Of a run.")
@click.option("--licence", metavar="NAME", help="That you give the weights, as the hub names it: cc-by-4.0.")
@quiet_option
@json_option
def export(
    source: Path,
    folder: Path,
    layout: Literal["partimento", "transformers", "nari"],
    weights: Literal["ema", "raw"],
    licence: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write SOURCE, a run or a folder of weights, as a directory that is ready for a model hub.

    Of a run: weights, configuration, report.html, and the card README.md with what it was trained on, licences, figures
    with intervals, and how to load it. Given the same weights again, only the documents are written anew; a README.md
    that was edited stays. The directory, or its name on the hub once `hf download` has it, goes wherever weights do.

    Of a run it is the best checkpoint (else the newest): of the family dia with its adapters merged into the weights,
    of restore in half precision with a card. Of the family mot nothing is merged: it is what was trained beside the
    backbone, for model.weights; --as transformers writes backbone and experts side by side in one directory, of flat
    grids.
    """
    from partimento.lab.card import publish

    with progress(quiet) as display:
        values = publish(source, folder, layout=layout, weights=weights, licence=licence, progress=display)
    origin = values["source"]
    shown = {**values, "source": ", ".join(origin[name] for name in ("name", "run", "checkpoint") if name in origin)}
    del shown["notes"]
    result(values, as_json, lines(shown))


def _exported(found: Exported, as_json: bool) -> None:
    """The main facts of its card, and what its weights say of themselves."""
    from partimento.runs import exported

    inner, more = _inner(found)
    edited = exported.edited(found)
    told = {name: getattr(found, name) for name in ("family", "layout", "source", "card")}
    values = {**inner, "export": {**told, "edited": edited}}
    card = found.card
    data, metrics = card.get("data") or {}, card.get("metrics") or []
    train = (data.get("splits") or {}).get("train")
    shown = {
        "what": card.get("what"),
        "family": found.family,
        "layout": found.layout,
        "from": ", ".join(str(found.source.get(name)) for name in ("run", "checkpoint", "weights")),
        "licence": card.get("licence") or "not said",
        "trained on": f"{data.get('name')}, fingerprint {str(data.get('fingerprint'))[:16]}",
        "amount": f"{train['hours']:.2f} hours, {train['clips']:,} clips"
        if train
        else f"unknown: {data.get('unknown')}",
        "held out": "; ".join(map(_metric, metrics)) or "unknown: " + " ".join(card.get("unmeasured") or []),
        "doctor": (card.get("doctor") or ["did not look"])[0],
        "documents": ", ".join(f"{name} {what}" for name, what in edited.items()) or "as they were written",
    }
    known = {name: value for name, value in inner.items() if name not in (*shown, "facts", "card", "description")}
    known.pop("experts_from", None)
    result(values, as_json, lines({**shown, **known}) + more)


def _inner(found: Exported) -> tuple[dict[str, Any], str]:
    """What the weights say, whoever exported them; and text that goes below."""
    folder = found.folder
    if found.layout != "partimento":
        call = "from_pretrained(FOLDER, trust_remote_code=True)" if found.family == "mot" else "from_pretrained(FOLDER)"
        name = "AutoModelForCausalLM." if found.family == "mot" else ""
        parameters = found.card.get("parameters")
        return {"folder": str(folder), "parameters": parameters, "loaded by": f"{name}{call} of {found.layout}"}, ""
    if found.family == "codec":
        return _codec(folder), ""
    if found.family == "restore":
        return _restorer(folder), ""
    if found.family == "mot":
        values = _adapter(folder)
        return values, _experts(values["experts_from"])
    if found.family == "dia":
        from partimento.runs import published

        inside = published.read(folder)
        return {**_summary(inside), "facts": inside.facts.model_dump(mode="json")}, ""
    from partimento.runs import playable

    told = playable.read(folder)
    decoder, spec = told.description["decoder"], told.description["spec"]
    return {
        "folder": str(folder),
        "decoder": f"{decoder['layers']} x {decoder['width']}, {decoder['heads']} heads",
        "codec": spec["codec"],
        "delays": told.description["pattern"]["delays"],
        "parameters": found.card.get("parameters"),
        "sha256": told.sha256,
    }, ""


def _metric(one: dict[str, Any]) -> str:
    mean = one.get("mean") or {}
    unit = f" {one['unit']}" if one.get("unit") else ""
    between = "" if mean.get("low") is None else f", 95 % of sources' means {mean['low']:.4g} to {mean['high']:.4g}"
    return f"{one['type']} {one['value']:.5g}{unit}{between}"


def _codec(folder: Path) -> dict[str, Any]:
    from partimento.codecs.resident import read_network, spec_of

    _, tensors, card = read_network(folder)
    spec = spec_of(card)
    rate = f"{float(spec.frame_rate):.4g} frames/s of {spec.sample_rate} Hz"
    return {
        "folder": str(folder),
        "kind": "codec",
        "name": card["name"],
        "codes": f"{spec.codebooks} x {spec.cardinality}, {rate}",
        "codes_sha256": spec.weights,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "sha256": card["weights_sha256"],
    }


def _adapter(folder: Path) -> dict[str, Any]:
    from partimento.runs import adapters

    found = adapters.read(folder)
    told, tensors = found.description, found.tensors()
    return {
        "folder": str(folder),
        "kind": "trained beside a backbone",
        "backbone": told["base"]["folder"],
        "backbone_sha256": told["base"]["sha256"],
        "experts": told["mixture"]["decoder"]["experts"]["kind"],
        "experts_from": told["experts"],
        "codec": told["spec"]["codec"],
        "delays": told["pattern"]["delays"],
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "sha256": found.sha256,
        "description": told,
    }


def _experts(told: dict[str, Any] | None) -> str:
    """Below the lines: what the experts were taken from, before they were trained."""
    if told is None:
        return ""
    from partimento.runs import transplanted

    table = transplanted.table(told)
    return "\n".join(["", "", f"as the training began: {table.summary}", *table.lines()])


def _restorer(folder: Path) -> dict[str, Any]:
    from partimento.training.restorer import load_restorer

    found = load_restorer(folder)
    network = found.generator.config
    return {
        "folder": str(folder),
        "kind": "restorer",
        "name": found.card.get("name"),
        "task": found.task,
        "semitones": list(found.semitones),
        "network": network.net,
        "sample rate": found.sample_rate,
        "reach": f"{found.generator.context} samples on each side",
        "parameters": sum(parameter.numel() for parameter in found.generator.parameters()),
        "megabytes": round(found.card["weights_bytes"] / 1e6, 1),
        "sha256": found.weights_sha256,
        "card": found.card,
    }


def _summary(found: Published) -> dict[str, Any]:
    facts, decoder, encoder = found.facts, found.facts.model["decoder"], found.facts.model["encoder"]
    t5 = encoder["config"]["t5"] if encoder["kind"] == "t5" else None
    texts = f"T5, {t5['num_layers']} x {t5['d_model']}, frozen" if t5 else f"{encoder['layers']} x {encoder['width']}"
    codec = facts.codec
    rate = found.frame_rate
    return {
        "folder": str(found.folder),
        "kind": facts.kind + (f", generation {facts.generation}" if facts.generation else ""),
        "source": facts.source.get("name") or facts.source.get("run"),
        "licence": facts.licence or "not said",
        "text encoder": f"{texts}, {facts.words.length} {facts.words.kind} at most",
        "decoder": f"{decoder['layers']} x {decoder['width']}, {decoder['heads']} heads",
        "cross attention": "rotated" if decoder["cross_attention_rope"] else "without positions",
        "attention scale": "1/sqrt(head width)" if decoder["attention_scale"] is None else decoder["attention_scale"],
        "codes": f"{codec.codebooks} x {codec.cardinality}, {float(rate):.4g} frames/s of {codec.sample_rate} Hz"
        + (f", {codec.layout}" if codec.layout else ""),
        "codec": codec.name or "not said",
        "delays": list(found.delays),
        "ending": f"EOS {facts.ending.eos}, tail {facts.ending.tail}",
        "guidance": f"u + s (c - u), rule {facts.guidance_rule}",
        "null": f"{facts.model['null']}, {'trained' if facts.null_trained else 'never trained'}",
        "megabytes": round(found.files["model.safetensors"]["bytes"] / 1e6, 1),
        "sha256": found.sha256,
    }
