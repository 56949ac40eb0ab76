"""The configuration of a run: one strict, typed, frozen object, read from TOML or JSON.

`load` reads a file, lays `section.key=value` overrides over it and validates the whole. Every failure is a coded error
that names the file and line (or the override) and the nearest known key. The resolved object is what a run stores.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from partimento.code_settings import CodesData, DecoderModel, DiaData, DiaModel, MotModel
from partimento.errors import PartimentoError
from partimento.settings import (
    Demo,
    Group,
    Guard,
    Loss,
    Optim,
    Positive,
    Section,
    Stage,
    Train,
)
from partimento.sound_settings import (
    Adversary,
    AutoencoderModel,
    CodecLoss,
    GeneratorModel,
    PairData,
    SoundData,
    SoundLoss,
    SoundOptim,
)

__all__ = [
    "FAMILIES",
    "Adversary",
    "AnyConfig",
    "AutoencoderModel",
    "CodecConfig",
    "CodecLoss",
    "CodesConfig",
    "CodesData",
    "Config",
    "DecoderModel",
    "Demo",
    "DiaConfig",
    "DiaData",
    "DiaModel",
    "GeneratorModel",
    "Group",
    "Guard",
    "Loss",
    "MotConfig",
    "MotModel",
    "Optim",
    "PairData",
    "Positive",
    "RestoreConfig",
    "RvqConfig",
    "Section",
    "SoundConfig",
    "SoundData",
    "SoundLoss",
    "SoundOptim",
    "Stage",
    "Train",
    "config_hash",
    "json_schema",
    "load",
    "parse",
]


class RvqConfig(Section):
    """Decoder-only transformer over codec frames, tagged or unconditional."""

    family: Literal["rvq"]
    data: CodesData
    model: DecoderModel = DecoderModel()
    optim: Optim = Optim()
    loss: Loss = Loss()
    guard: Guard = Guard()
    train: Train = Train()
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _stages_in_order(self) -> RvqConfig:
        return _checked_stages(self)


class DiaConfig(Section):
    """Text encoder and code decoder with cross attention: music from tags and captions."""

    family: Literal["dia"]
    data: DiaData
    model: DiaModel = DiaModel()
    optim: Optim = Optim()
    loss: Loss = Loss()
    guard: Guard = Guard()
    train: Train = Train()
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _stages_in_order(self) -> DiaConfig:
        return _checked_stages(self)


class MotConfig(Section):
    """Mixture of transformers: a frozen Llama with experts for audio, which reads captions and plays codes."""

    family: Literal["mot"]
    data: DiaData
    model: MotModel
    optim: Optim = Optim()
    loss: Loss = Loss()
    guard: Guard = Guard()
    train: Train = Train()
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _checked(self) -> MotConfig:
        if self.train.parallel == "fsdp":
            raise ValueError('train.parallel = "fsdp" is not for the family mot, whose frozen weights are whole: "ddp"')
        return _checked_stages(self)


class CodecConfig(Section):
    """Our own neural codec."""

    family: Literal["codec"]
    data: SoundData = SoundData()
    model: AutoencoderModel = AutoencoderModel()
    loss: CodecLoss = CodecLoss()
    adversary: Adversary = Adversary()
    optim: SoundOptim = SoundOptim()
    guard: Guard = Guard()
    train: Train = Train()
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _checked(self) -> CodecConfig:
        if self.data.crop % self.model.hop:
            raise ValueError(f"data.crop is {self.data.crop}, which is not a multiple of model.hop, {self.model.hop}")
        return _checked_stages(self)


class RestoreConfig(Section):
    """From a damaged wave to a clean one: what pitch shifting leaves behind is removed."""

    family: Literal["restore"]
    data: PairData
    model: GeneratorModel = GeneratorModel()
    loss: SoundLoss = SoundLoss()
    adversary: Adversary = Adversary()
    optim: SoundOptim = SoundOptim()
    guard: Guard = Guard()
    train: Train = Train()
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _stages_in_order(self) -> RestoreConfig:
        return _checked_stages(self)


AnyConfig = TypeVar("AnyConfig", RvqConfig, DiaConfig, MotConfig, CodecConfig, RestoreConfig)


def _checked_stages(config: AnyConfig) -> AnyConfig:
    starts = [stage.start for stage in config.train.stages]
    if starts != sorted(set(starts)) or (starts and starts[-1] >= config.train.steps):
        raise ValueError(f"train.stages start at {starts}: they must ascend and stay below train.steps")
    return config


CodesConfig = RvqConfig | DiaConfig | MotConfig
SoundConfig = CodecConfig | RestoreConfig
Config = CodesConfig | SoundConfig
FAMILIES: dict[str, type[Config]] = {
    "rvq": RvqConfig,
    "dia": DiaConfig,
    "mot": MotConfig,
    "codec": CodecConfig,
    "restore": RestoreConfig,
}


def json_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file, for editors."""
    return TypeAdapter(Annotated[Config, Field(discriminator="family")]).json_schema()


def config_hash(config: Config) -> str:
    """sha256 over the resolved configuration, keys sorted."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read `path` (TOML, or JSON by its suffix), lay `section.key=value` overrides over it, validate.

    Raises CONFIG001 (unreadable), CONFIG002 (unknown key), CONFIG003 (bad value), CONFIG004 (malformed override).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as err:
        raise PartimentoError(
            "CONFIG001",
            f"cannot read the configuration {path}",
            why=err.strerror,
            next="ls configs/experiments",
        ) from err
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as err:
        raise PartimentoError("CONFIG001", f"{path} is not valid {path.suffix[1:] or 'TOML'}", why=str(err)) from err
    lines = _key_lines(text) if path.suffix != ".json" else {}
    return parse(tree, overrides, name=str(path), lines=lines)


def parse(
    tree: dict[str, Any],
    overrides: Sequence[str] = (),
    *,
    name: str = "configuration",
    lines: dict[tuple[str, ...], int] | None = None,
) -> Config:
    """Validate a configuration given as plain data; see `load` for the errors."""
    lines = dict(lines or {})
    tree = json.loads(json.dumps(tree))
    origin: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys, value = _read_override(override)
        _lay(tree, keys, value, override)
        origin[keys] = f"command line: {override}"

    def where(keys: tuple[str, ...]) -> str:
        while keys:
            if keys in origin:
                return origin[keys]
            if keys in lines:
                return f"{name}, line {lines[keys]}"
            keys = keys[:-1]
        return name

    family = tree.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise PartimentoError(
            "CONFIG003",
            f"family is {family!r}; it must be one of {', '.join(FAMILIES)}",
            where=where(("family",)),
            next='set family = "rvq" at the top of the file',
        )
    try:
        return FAMILIES[family].model_validate_json(json.dumps(tree))
    except ValidationError as err:
        raise _coded(err, FAMILIES[family], where) from err


def _read_override(override: str) -> tuple[tuple[str, ...], Any]:
    key, eq, raw = override.partition("=")
    keys = tuple(key.strip().split("."))
    if not eq or not all(re.fullmatch(r"[A-Za-z_]\w*", k) for k in keys):
        raise PartimentoError(
            "CONFIG004",
            f"cannot read the override {override!r}",
            why="an override has the form section.key=value",
            next="try e.g. optim.lr=3e-4",
        )
    try:
        return keys, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, raw


def _lay(tree: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise PartimentoError("CONFIG004", f"{key!r} is a value, not a section", where=f"command line: {override}")
    tree[keys[-1]] = value


def _key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Line of each key of a TOML text; tomllib keeps none. Keys inside inline tables get their table's line."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.\-\s\"']+?)\s*\]\s*(#.*)?$", line):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            found.setdefault(table, number)
        elif assignment := re.match(r"\s*([\w.\-\"']+)\s*=", line):
            found.setdefault(table + tuple(part.strip("\"'") for part in assignment[1].split(".")), number)
    return found


def _known_keys(model: type[BaseModel]) -> dict[str, list[str]]:
    """Section name ("" for the top) -> its keys."""
    known: dict[str, list[str]] = {"": list(model.model_fields)}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            known[name] = list(field.annotation.model_fields)
    return known


def _coded(err: ValidationError, model: type[BaseModel], where: Any) -> PartimentoError:
    """The first unknown key if there is one (a misspelling explains the missing key too), else the first bad value."""
    problems = err.errors(include_url=False)
    unknown = [p for p in problems if p["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]
    keys = tuple(str(part) for part in problem["loc"])
    # Where a key takes one of several types, the validator adds the name of the type that did not fit.
    dotted = ".".join(k for k in keys if not k.isdigit() and "[" not in k and "-" not in k)
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if unknown:
        known = _known_keys(model)
        section = keys[0] if len(keys) > 1 else ""
        near = difflib.get_close_matches(keys[-1], known.get(section, []), n=1, cutoff=0.6)
        hint = f"{section}.{near[0]}".lstrip(".") if near else None
        if hint is None:
            elsewhere = [f"{s}.{keys[-1]}".lstrip(".") for s, names in known.items() if keys[-1] in names]
            every = [f"{s}.{n}".lstrip(".") for s, names in known.items() for n in names]
            hint = next(iter(elsewhere or difflib.get_close_matches(dotted, every, n=1, cutoff=0.5)), None)
        return PartimentoError(
            "CONFIG002",
            f"unknown key {dotted!r}{others}" + (f"; did you mean {hint!r}?" if hint else ""),
            where=where(keys),
            next="partimento config schema",
        )
    if problem["type"] == "value_error":  # a rule over several keys, which names them
        message = problem["msg"].removeprefix("Value error, ") + others
    elif problem["type"] == "missing":
        message = f"{dotted!r} is required{others}"
    else:
        message = f"{dotted!r} is {problem.get('input')!r}: {problem['msg'].lower()}{others}"
    return PartimentoError("CONFIG003", message, where=where(keys), next="partimento config schema")
