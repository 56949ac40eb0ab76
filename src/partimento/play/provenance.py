"""Where a sample came from, carried by the audio file itself (a comment of compact JSON) and by the JSON beside it.

The record of an item is flat: what `Item.to_json` and `Source.identity` say, and

  schema, request     2, and the sha256 of all that decides what is played: equal requests are equal music
  seconds_asked       as asked for, and frames_asked: the nearest whole number of frames, which is what was played
  seconds, frames     of the file, the prompt audio counted; `ended` if the model played an end before
  continued           null, or {file, sha256, seconds, frames} of the prompt audio
  batch, compile      how many items were played together, and whether by compiled steps
  decoded_by          the pieces that the codec decoded, in seconds
  partimento, torch, device
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import partimento
from partimento import commit
from partimento.audio import files
from partimento.errors import PartimentoError
from partimento.play import wav
from partimento.play.asked import MOST_SECONDS, Item
from partimento.play.heard import Heard
from partimento.play.source import Precision, Source, Weights
from partimento.sampling.generate import Played
from partimento.tokens.text import Words

SCHEMA = 2
_MOST_BYTES = 1 << 20


def request(source: Source, item: Item, frames_asked: int, heard: Heard | None) -> str:
    """sha256 of what decides the music, and of nothing else: neither the batch, nor names of files, nor versions."""
    asked = {
        **source.identity(),
        **item.to_json(),
        "frames_asked": frames_asked,
        "continued": None if heard is None else heard.sha256,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def intended(
    source: Source, item: Item, seconds: float, heard: Heard | None, *, batch: int = 1, decoded_by: float
) -> dict[str, Any]:
    """What is known before the item is played."""
    frames_asked, continued = source.frames(seconds), None
    if heard is not None:
        continued = {
            "file": heard.file,
            "sha256": heard.sha256,
            "seconds": heard.seconds,
            "frames": len(heard.codes_TK),
        }
    return {
        "schema": SCHEMA,
        "request": request(source, item, frames_asked, heard),
        **source.identity(),
        **item.to_json(),
        "seconds_asked": seconds,
        "frames_asked": frames_asked,
        "continued": continued,
        "batch": batch,
        "compile": source.compile,
        "decoded_by": decoded_by,
        **source.made_with(),
    }


def record(made: Mapping[str, Any], played: Played, source: Source) -> dict[str, Any]:
    """`intended` with what became of it."""
    frames = len(played.codes_TK)
    return {**made, "frames": frames, "seconds": source.player.spec.seconds(frames), "ended": played.ended}


def tags(made: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of the audio file: nothing that differs between two plays of one request on one machine."""
    return {
        "title": str(Words(tuple(made["tags"]), made["text"])) or "unconditional",
        "software": f"partimento {partimento.__version__}",
        "comment": json.dumps(made, sort_keys=True, separators=(",", ":"), allow_nan=False),
    }


@dataclass(frozen=True)
class Recorded:
    """What a sample says of itself, checked. `samples_sha256` is that of its first `samples` samples (None: of all);
    those of a stream may have been stopped at any place."""

    item: Item
    run: str
    checkpoint: str
    weights: Weights
    weights_sha256: str
    seconds_asked: float
    continued: dict[str, Any] | None
    batch: int
    compile: bool
    precision: Precision
    decoded_by: float
    made_with: dict[str, str]
    samples_sha256: str
    samples: int | None


def read(path: Path) -> Recorded:
    """Of a sample (.flac, .wav) or the JSON beside one. Raises SYS004, SAMPLE034 (it does not say, or what it says is
    damaged), SAMPLE001 and SAMPLE010 (impossible settings), AUDIO..."""
    path = Path(path)
    if not path.exists():
        raise PartimentoError("SYS004", f"{path} does not exist", next=f"ls {path.parent}")
    try:
        if path.suffix.lower() == ".json":
            with open(path, "rb", opener=commit.regular) as stream:
                raw = stream.read(_MOST_BYTES)
            tree = json.loads(raw)
            sha256, samples = str(tree["samples_sha256"]), None
        else:
            is_wav = path.suffix.lower() == ".wav"
            tree = json.loads((wav.comment(path) if is_wav else files.tags(path).get("comment")) or "")
            sha256, samples = files.samples_sha256(path, max_seconds=MOST_SECONDS)
        if tree["schema"] != SCHEMA:
            raise ValueError(f"its schema is {tree['schema']!r}, and this version reads {SCHEMA}")
        return _recorded(tree, sha256, samples)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise PartimentoError(
            "SAMPLE034",
            "this file does not say how it was made",
            where=str(path),
            why=f"{type(err).__name__}: {err}",
            next="give a .flac, .wav or .json that `partimento sample` wrote, as it was",
        ) from err


def _recorded(tree: Mapping[str, Any], sha256: str, samples: int | None) -> Recorded:
    continued = tree["continued"]
    if continued is not None and not isinstance(continued["sha256"], str):
        raise TypeError("the prompt audio has no hash")
    texts = {name: tree[name] for name in ("run", "checkpoint", "weights_sha256", "partimento", "torch", "device")}
    if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
        raise TypeError(f"{wrong[0]} is no text")
    if Path(tree["run"]).name != tree["run"] or Path(tree["checkpoint"]).name != tree["checkpoint"]:
        raise ValueError("run and checkpoint are no names")
    if tree["weights"] not in ("ema", "raw"):
        raise ValueError(f"there are no weights {tree['weights']!r}")
    if tree["precision"] not in ("full", "bf16", "int8"):
        raise ValueError(f"there is no precision {tree['precision']!r}")
    if not (1 <= tree["batch"] <= 4096 and 0 < tree["decoded_by"] <= 3600 and isinstance(tree["batch"], int)):
        raise ValueError("batch or decoded_by is out of range")
    return Recorded(
        item=Item.from_json(tree),
        run=tree["run"],
        checkpoint=tree["checkpoint"],
        weights=tree["weights"],
        weights_sha256=tree["weights_sha256"],
        seconds_asked=float(tree["seconds_asked"]),
        continued=continued,
        batch=tree["batch"],
        compile=tree["compile"] is True,
        precision=tree["precision"],
        decoded_by=float(tree["decoded_by"]),
        made_with={name: texts[name] for name in ("partimento", "torch", "device")},
        samples_sha256=sha256,
        samples=samples,
    )
