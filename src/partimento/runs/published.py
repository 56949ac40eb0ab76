"""A folder of weights to start from: published ones that were imported, or those of a run.

    weights/dia/
      weights.json        what they are: the architecture, and everything that gives the ids a meaning; written last,
                          with the sha256 of every file below
      model.safetensors   all weights, in float32, by our names
      tokenizer/          MusicGen: the subwords of its text encoder
      codec/              MusicGen: the EnCodec that came with it, as transformers (and `--codec`) reads one
      theirs/             small files of the source, for the way back

Folders are immutable, and verified when they are read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

import partimento
from partimento import commit
from partimento.config import Positive, Section
from partimento.errors import PartimentoError
from partimento.runs import exported, tensorfiles
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials

if TYPE_CHECKING:
    from torch import device as Device

    from partimento.models.dia import TextModel
    from partimento.sampling.sheet import Ending
    from partimento.tokens.text import TextCoder

SCHEMA = 1
RECORD, WEIGHTS = "weights.json", "model.safetensors"
TOKENIZER, CODEC, THEIRS = "tokenizer", "codec", "theirs"
_MOST_RECORD_BYTES = 1 << 20
_Id = Annotated[int, Field(ge=0)]


class _Specials(Section):
    eos: _Id | None
    pad: _Id
    bos: _Id


class _Ending(Section):
    eos: Literal["draw", "argmax", "never"]
    tail: Literal["free", "special", "end"]


class _Words(Section):
    kind: Literal["bytes", "subwords"]
    length: Positive
    tags: list[str] = Field(default_factory=list)
    reads: bool = True


class Codes(Section):
    """What a model needs to know of its codec. `layout` and `books` as in CodecSpec, None where nobody knows, and so
    `weights`, their hash."""

    name: str | None
    weights: str | None = None
    sample_rate: Positive
    frame_rate: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    cardinality: Positive
    codebooks: Positive
    layout: Literal["mono", "left-right", "mid-side"] | None
    books: list[Positive]


class _File(Section):
    bytes: Annotated[int, Field(ge=0)]
    sha256: str


class Facts(Section):
    """weights.json, but for what `save` adds. `source` says where the weights are from, `licence` what its README says;
    `delays` and `stride` are the pattern, and guidance is always u + s (c - u)."""

    kind: Literal["dia", "musicgen", "partimento"]
    generation: Literal["0626", "april"] | None
    model: dict[str, Any]
    delays: Annotated[list[_Id], Field(min_length=1)]
    stride: Positive = 1
    specials: _Specials
    ending: _Ending
    guidance_rule: Literal["mix", "filter"]
    null_trained: bool
    words: _Words
    codec: Codes
    source: dict[str, Any]
    licence: str | None


class _Record(Facts):
    schema_: Literal[1] = Field(alias="schema")
    partimento: str
    files: dict[str, _File]


@dataclass(frozen=True)
class Published:
    """A folder of weights that was read and verified; `files` are sizes and hashes by name."""

    folder: Path
    facts: Facts
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of model.safetensors."""
        return str(self.files[WEIGHTS]["sha256"])

    @property
    def pattern(self) -> Pattern:
        return Pattern(tuple(self.facts.delays), self.facts.stride)

    @property
    def delays(self) -> tuple[int, ...]:
        return tuple(self.facts.delays)

    @property
    def specials(self) -> Specials:
        return Specials(**self.facts.specials.model_dump())

    @property
    def ending(self) -> Ending:
        from partimento.sampling.sheet import Ending

        return Ending(**self.facts.ending.model_dump())

    @property
    def guidance_rule(self) -> Literal["mix", "filter"]:
        return self.facts.guidance_rule

    @property
    def null_trained(self) -> bool:
        return self.facts.null_trained

    @property
    def sample_rate(self) -> int:
        return self.facts.codec.sample_rate

    @property
    def frame_rate(self) -> Fraction:
        return Fraction(*self.facts.codec.frame_rate)

    @property
    def cardinality(self) -> int:
        return self.facts.codec.cardinality

    @property
    def codebooks(self) -> int:
        return self.facts.codec.codebooks

    def coder(self, length: int | None = None) -> TextCoder:
        """What makes ids of words. `length`: ids of a text at most, fewer than the weights were trained with perhaps,
        and more only where the text encoder has positions for them (T5). Raises MODEL004."""
        from partimento.models.layers import check_positions
        from partimento.tokens.subwords import SubwordText
        from partimento.tokens.text import ByteText

        words = self.facts.words
        if words.kind == "subwords":
            return SubwordText(str(self.folder / TOKENIZER), length or words.length)
        check_positions(0, length or words.length, self.facts.model["encoder"]["length"])
        return ByteText(length or words.length, tuple(words.tags), words.reads)

    def module(self, dropout: float = 0.0, device: Device | str = "cpu") -> TextModel:
        """The model with its weights. Raises WEIGHTS002, MODEL001, MODEL021, MODEL031."""
        import torch

        from partimento.models.dia import TextModel

        with torch.random.fork_rng(devices=[]):  # a new model draws weights, which are replaced below
            model = TextModel.from_json(with_dropout(self.facts.model, dropout))
        if _only_shapes():
            return model
        self.fill(model)
        return model.to(device)

    def fill(self, model: TextModel) -> None:
        """Overwrites all weights of the model. Raises WEIGHTS002 unless they are of its architecture."""
        import torch

        stored = read_tensors(self.folder / WEIGHTS)
        places = dict(model.named_parameters())
        if stored.keys() != places.keys():
            name = min(stored.keys() ^ places.keys())
            raise _damaged(self.folder, f"{name} is only on one side of {WEIGHTS} and the model of {RECORD}")
        for name, place in places.items():
            if stored[name].shape != place.shape or not stored[name].is_floating_point():
                raise _damaged(self.folder, f"{name} is {list(stored[name].shape)}, not {list(place.shape)}")
        with torch.no_grad():
            for name, place in places.items():
                place.copy_(stored[name])


def read(folder: str | Path) -> Published:
    """Raises WEIGHTS001 (not a folder of weights, or one of another version), WEIGHTS002 (a file is missing or is not
    what was written), PUB001, PUB002 (an export that was changed). `folder` may be the name of an export on the hub, in
    its local cache. On the meta device, where models have no contents, `weights.json` is all that is read."""
    folder = exported.located(folder)
    record = _read_record(folder)
    files = {name: one.model_dump() for name, one in record.files.items()}
    if not _only_shapes():
        for name, written in files.items():
            _verify(folder, name, written)
    return Published(folder, Facts(**{name: getattr(record, name) for name in Facts.model_fields}), files)


def require(folder: Path, sha256: str) -> Published:
    """The folder, whose weights must be the ones with this hash. Raises WEIGHTS001, WEIGHTS002."""
    if not (folder / RECORD).is_file():
        raise PartimentoError(
            "WEIGHTS001",
            f"the weights that the run was built upon are not at {folder}",
            where=str(folder.absolute()),
            why="a checkpoint holds what was trained, and names the folder of the rest",
            next="put the folder there"
            + ("" if folder.is_absolute() else ", or give the command where the training was started"),
        )
    found = read(folder)
    if found.sha256 != sha256:
        raise PartimentoError(
            "WEIGHTS002",
            f"{folder} holds other weights than the run was built upon",
            where=str(folder / WEIGHTS),
            why=f"its sha256 begins with {found.sha256[:12]}, not with {sha256[:12]}",
            next="put the folder back that the run was started from: partimento weights inspect FOLDER shows the hash",
        )
    return found


def save(to: str | Path, model: TextModel, facts: Facts, extras: Callable[[Path], None] | None = None) -> Published:
    """Commits a folder of weights; `extras(folder)` adds files before it is sealed. Raises WEIGHTS008, SYS002."""
    to = Path(to)
    require_absent(to)
    with commit.folder(to) as tmp:
        tensorfiles.write(tmp / WEIGHTS, {name: weight.float() for name, weight in model.named_parameters()})
        if extras is not None:
            extras(tmp)
        files = {
            file.relative_to(tmp).as_posix(): {"bytes": file.stat().st_size, "sha256": commit.sha256(file)}
            for file in sorted(tmp.rglob("*"))
            if file.is_file()
        }
        made = {"schema": SCHEMA, "partimento": partimento.__version__, "files": files}
        commit.record(tmp / RECORD, {**facts.model_dump(mode="json"), **made})
    return Published(to, facts, files)


def require_absent(to: Path) -> None:
    """Raises WEIGHTS008 where something is at `to` already."""
    if to.exists() or to.is_symlink():
        raise PartimentoError(
            "WEIGHTS008", f"there is something at {to} already", where=str(to), next="choose another folder with --to"
        )


def with_dropout(model: Mapping[str, Any], dropout: float) -> dict[str, Any]:
    """The architecture with this dropout in its parts. T5 has none: it is never trained."""
    encoder, decoder = dict(model["encoder"]), {**model["decoder"], "dropout": dropout}
    if encoder["kind"] == "bytes":
        encoder["dropout"] = dropout
    return {**model, "encoder": encoder, "decoder": decoder}


def read_tensors(file: Path) -> dict[str, Any]:
    """Raises WEIGHTS002."""
    try:
        return tensorfiles.read([file])
    except (OSError, ValueError) as err:
        raise _damaged(file.parent, f"{file.name} cannot be read: {err}") from err


def check(folder: Path, name: str, sha256: str) -> None:
    """Raises WEIGHTS002 unless the file `name` has this hash."""
    try:
        found = commit.sha256(folder / name)
    except OSError as err:
        raise _damaged(folder, f"{name}: {err.strerror}") from err
    if found != sha256:
        raise _damaged(folder, f"{name} does not match its recorded sha256")


def companions(folder: Path) -> Iterator[Path]:
    """Folders beside the weights that belong to them."""
    return (folder / name for name in (TOKENIZER, CODEC, THEIRS) if (folder / name).is_dir())


def _only_shapes() -> bool:
    """Whether models are being made without contents (`partimento plan`)."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.get_default_device().type == "meta"


def _read_record(folder: Path) -> _Record:
    file = folder / RECORD
    try:
        if file.stat().st_size > _MOST_RECORD_BYTES:
            raise _unknown(folder, f"{RECORD} has {file.stat().st_size} bytes")
        text = file.read_text(encoding="utf-8")
        tree = json.loads(text)
        if isinstance(tree, dict) and tree.get("schema", SCHEMA) != SCHEMA:
            raise _unknown(folder, f"its schema is {tree['schema']!r}, and this version reads {SCHEMA}")
        return _Record.model_validate_json(text)
    except OSError as err:
        raise _unknown(folder, f"{RECORD}: {err.strerror}") from err
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _unknown(folder, f"{RECORD}: {where or 'it'}: {first['msg'].lower()}") from err
    except (ValueError, RecursionError) as err:
        raise _unknown(folder, f"{RECORD} is not JSON: {err}") from err


def _verify(folder: Path, name: str, written: Mapping[str, Any]) -> None:
    file = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise _unknown(folder, f"{RECORD} lists {name}, which is not in it")
    try:
        size, digest = file.stat().st_size, commit.sha256(file)
    except OSError as err:
        raise _damaged(folder, f"{name}: {err.strerror}") from err
    if size != written["bytes"] or digest != written["sha256"]:
        raise _damaged(folder, f"{name} does not match its recorded sha256 ({size} of {written['bytes']} bytes)")


def _unknown(folder: Path, why: str) -> PartimentoError:
    if (folder / "modeling_mixture.py").is_file():  # what `runs.mixture_out` wrote
        why = "it is a mixture that was exported for transformers, which is not read back"
        load = "AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)"
        next = f"{load} loads it; --as partimento exports what model.weights reads"
    else:
        next = f"partimento weights import {folder} --to FOLDER, if it is a published checkpoint"
    return PartimentoError(
        "WEIGHTS001",
        f"{folder} is not a folder of weights",
        where=str(folder / RECORD),
        why=why,
        next=next,
    )


def _damaged(folder: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS002",
        f"the weights in {folder} are damaged",
        where=str(folder),
        why=why,
        next="partimento weights import PATH --to FOLDER again, into a new folder",
    )
