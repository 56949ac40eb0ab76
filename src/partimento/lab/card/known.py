"""All that is known of an exported model: gathered from its run, its pack and the directory itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.lab import facts
from partimento.lab.card.data import Data, data_of
from partimento.lab.card.measured import Measured, measured
from partimento.lab.card.usage import Usage, usage
from partimento.lab.doctor import text as told_by
from partimento.lab.doctor.doctor import Diagnosis, examine
from partimento.lab.doctor.patient import Patient
from partimento.lab.verdict import SOUND
from partimento.runs import checkpoint, hub, published
from partimento.runs.events import read_events
from partimento.runs.run import Run
from partimento.tokens.spec import CodecSpec

PLACES = {"data": ("pack", "codec", "pairs", "recordings"), "model": ("weights", "backbone", "experts_from")}
PLACES |= {"demo": ("recordings",)}


@dataclass(frozen=True)
class Known:
    """`config` is the resolved configuration without the places of this machine, `source` says run, checkpoint and
    weights, `sound` rows of (what, figure) about the codes and the sample rate, `began` the licence and name of weights
    that the training began with."""

    name: str
    family: str
    layout: str
    what: str
    source: dict[str, Any]
    step: int
    config: dict[str, Any]
    licence: str | None
    parameters: int
    conditioned: bool
    data: Data
    measured: Measured
    codec_figures: dict[str, Any] | None
    diagnosis: Diagnosis | None
    usage: Usage
    sound: tuple[tuple[str, str], ...]
    began: tuple[str, ...]
    backbone_name: str | None
    versions: dict[str, Any]
    missing: tuple[str, ...]

    @property
    def is_codes(self) -> bool:
        return self.family not in SOUND

    @property
    def doctor_lines(self) -> list[str]:
        return [] if self.diagnosis is None else told_by.lines(self.diagnosis)

    def to_json(self) -> dict[str, Any]:
        """What `weights inspect` shows."""
        return {
            "what": self.what,
            "licence": self.licence,
            "parameters": self.parameters,
            "step": self.step,
            "data": self.data.to_json(),
            "metrics": [one.to_json() for one in self.measured.metrics],
            "baselines": [list(one) for one in self.measured.baselines],
            "unmeasured": list(self.measured.missing),
            "doctor": self.doctor_lines,
        }


def gather(run: Run, folder: Path, name: str, layout: str, told: Mapping[str, Any], licence: str | None) -> Known:
    """Of the export in `folder`, that will be called `name`; `told` are its "source" and "parameters"."""
    source, record = dict(told["source"]), run.record
    family, missing = str(record["family"]), []
    step = int(str(source["checkpoint"]).removeprefix("step-"))
    diagnosis = None
    try:
        diagnosis = examine(Patient.open(run.path))
    except PartimentoError as err:
        missing.append(f"The doctor could not look at the run: {err.message} ({err.code}).")
    config = without_places(record["config"])
    described = _described(run, source)
    card = _codec_card(folder) if family == "codec" else {}
    data = data_of(run, card.get("data"))
    began, backbone = _began(folder, layout, record["config"], described)
    return Known(
        name=name,
        family=family,
        layout=layout,
        what=facts.what(run),
        source=source,
        step=step,
        config=config,
        licence=licence,
        parameters=int(told["parameters"]),
        conditioned=family in SOUND or _conditioned(described),
        data=data,
        measured=measured(run, read_events(run.events_path), step, str(source["weights"])),
        codec_figures=_figures(card),
        diagnosis=diagnosis,
        usage=usage(folder, name, family, layout, record["config"], [tag for tag, _ in data.tags]),
        sound=_sound(family, described),
        began=began,
        backbone_name=backbone,
        versions={key: record.get(key) for key in ("created", "partimento", "commit", "python", "environment")},
        missing=tuple(missing),
    )


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with names in place of the folders of this machine."""
    made: dict[str, Any] = {key: dict(part) if isinstance(part, Mapping) else part for key, part in config.items()}
    for section, names in PLACES.items():
        part = made.get(section, {})
        for name in names:
            if isinstance(part.get(name), str):
                part[name] = _name(part[name])
    if "folders" in made.get("data", {}):
        made["data"]["folders"] = [_name(folder) for folder in made["data"]["folders"]]
    return made


def _name(place: str) -> str:
    """Names of the hub stay as they are."""
    return place if hub.is_name(place) and not Path(place).exists() else Path(place).name


def _described(run: Run, source: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint.load(run.checkpoints_path / source["checkpoint"], ()).state["description"]
    return found


def _conditioned(described: Mapping[str, Any]) -> bool:
    words = described.get("words") or {"kind": "tags", "tags": described.get("tags", [])}
    return words["kind"] != "tags" or bool(words["tags"])


def _sound(family: str, described: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    if family in SOUND:
        return (("sample rate", f"{described['sample_rate']:,} Hz"),)
    spec = CodecSpec.from_json(described["spec"])
    rate = float(spec.frame_rate)
    return (
        ("codec", f"{_name(spec.codec)}, sha256 of its weights {spec.weights[:16] or 'unknown'}..."),
        ("codes", f"{spec.codebooks} books of {spec.cardinality:,}, {rate:.4g} frames a second"),
        ("sound", f"{spec.sample_rate:,} Hz, {spec.layout}"),
        ("window", f"{described['window']:,} rows of the grid: {described['window'] / rate:.1f} s at most at once"),
    )


def _began(
    folder: Path, layout: str, config: Mapping[str, Any], described: Mapping[str, Any]
) -> tuple[tuple[str, ...], str | None]:
    """Sentences on what the training began with, and the backbone's name on the hub where it is one."""
    model, lines = config.get("model", {}), []
    name = None
    if base := described.get("base") if "mixture" in described else None:
        name = base.get("name")
        lines.append(
            f"Beside the language model {_name(str(model.get('backbone')))}, whose weights were "
            f"{'kept as they are' if model.get('train_backbone', 'none') == 'none' else 'trained too'}; "
            "its own licence holds for it, and is not repeated here."
        )
    if model.get("weights"):
        licence = None
        if layout == "partimento" and (folder / published.RECORD).is_file():
            licence = published.read(folder).facts.licence
        lines.append(
            f"Begun as the weights {_name(str(model['weights']))}, whose licence is "
            + (f"{licence}, as their README says." if licence else "not known here.")
        )
    if model.get("experts_from"):
        lines.append(f"Experts were taken from {_name(str(model['experts_from']))}; its licence is not known here.")
    return tuple(lines), name


def _codec_card(folder: Path) -> dict[str, Any]:
    from partimento.codecs.resident import read_card

    return read_card(folder)


def _figures(card: Mapping[str, Any]) -> dict[str, Any] | None:
    figures = card.get("figures")
    return dict(figures["all"]) if isinstance(figures, dict) and isinstance(figures.get("all"), dict) else None
