"""`sample`: a grid of items becomes audio files, each with everything that made it.

The codec decodes the items of one batch in a thread while the next one plays. An item whose audio and JSON are there,
whole and of the same request, is not played again; a killed process loses the batch that it was playing and what the
codec had not finished of the one before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from partimento import commit
from partimento.audio import files, stream
from partimento.codecs.codec import CHUNK_SECONDS, decode_stream
from partimento.play import provenance
from partimento.play.asked import Asked, Item, impossible, numbers
from partimento.play.heard import Heard, hear
from partimento.play.names import name
from partimento.play.prompts import read_prompts
from partimento.play.source import Precision, Source, Weights, open_source
from partimento.progress import Progress, Quiet
from partimento.sampling import probe
from partimento.sampling.generate import Played
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.tokens import tags as tagging
from partimento.tokens.text import NO_WORDS, Words

MOST_BATCH = 4096


def asked(
    *,
    tags: Sequence[str] = (),
    prompt: str = "",
    prompts: str | Path | None = None,
    seconds: float = 10.0,
    temperature: float | Sequence[float] = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    guidance: float | Sequence[float] = 1.0,
    guidance_rule: Literal["mix", "filter"] | None = None,
    guidance_top_k: int = 45,
    guidance_fade: Literal["constant", "linear"] = "constant",
    guidance_from: float = 0.0,
    guidance_to: float = 1.0,
    seed: int = 0,
    count: int = 1,
) -> Asked:
    """The options of the command as a request. Raises SAMPLE030, SAMPLE031 (prompts file), SAMPLE001, SAMPLE010."""
    if prompts is not None and (tags or prompt):
        raise impossible("prompts from a file and from the command line together cannot be played", "one of the two")
    words = (Words(tagging.clean(tags), prompt.strip()),) if prompts is None else read_prompts(Path(prompts))
    return Asked(
        words=words,
        seconds=seconds,
        temperatures=numbers(temperature),
        scales=numbers(guidance),
        rules=Rules(top_k=top_k, top_p=top_p, min_p=min_p),
        guidance=Guidance(top_k=guidance_top_k, fade=guidance_fade, begin=guidance_from, end=guidance_to),
        guidance_rule=guidance_rule,
        seed=seed,
        count=count,
    )


def sample(
    run: str | Path,
    to: str | Path,
    *,
    continue_from: str | Path | None = None,
    weights: Weights = "ema",
    codec: str | None = None,
    batch: int = 8,
    device: str = "auto",
    compile: bool | None = None,
    precision: Precision = "full",
    dry_run: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Play every combination of prompts x temperatures x guidance x `count` seeds from `seed` on, into the folder `to`.

    `options` are those of `asked`; `temperature` and `guidance` take one number or several. `continue_from` is audio
    that is played on from; `seconds` then counts what is added. `batch` items play together, which changes nothing of
    what they are; `compile` and `precision` make the steps faster, see `Source`. `codec` names the codec where the name
    that the run's pack gives does not find it (a folder, say).

    Gives the record of each item (see `provenance`) with "file" and "state": played, there, or with `dry_run`, which
    writes nothing, missing. The same request, the same audio.

    Raises what `asked`, `open_source` and `hear` raise, TOKEN003 and TEXT... (words that the model does not know),
    SAMPLE002 and SAMPLE005 (guidance, or nothing asked, where that was never learned), SYS002 (the folder).
    """
    progress, to = progress or Quiet(), Path(to)
    if not 1 <= batch <= MOST_BATCH:
        raise impossible(f"a batch of {batch} items", f"--batch 1 to {MOST_BATCH}")
    wanted = asked(**options)
    source = open_source(
        run, weights=weights, codec=codec, device=device, compile=compile, precision=precision, progress=progress
    )
    heard = None if continue_from is None else hear(Path(continue_from), source.codec, progress)
    plan = _plan(source, wanted, to, heard)
    missing = [one for one in plan if one.there is None]
    progress.note(_lengths(source, wanted, len(plan), len(missing)))
    if wanted.count > 1 and 0 in wanted.temperatures:
        progress.note("at temperature 0 every seed plays the same, so each prompt is played once there")
    if NO_WORDS in wanted.words and any(wanted.words) and wanted.scales != (1.0,):
        progress.note("the empty prompt is played once for each seed, without guidance: there is nothing to guide to")
    if dry_run:
        return [one.listed(wanted) for one in plan]
    _ready(to)
    made = _play_all(source, missing, wanted.seconds, heard, batch, progress)
    return [{**made[one.file], "state": "played"} if one.file in made else one.listed(wanted) for one in plan]


@dataclass(frozen=True)
class _Planned:
    """An item, the file that it becomes, and the record of that file where it is there already."""

    item: Item
    file: Path
    request: str
    there: dict[str, Any] | None

    def listed(self, wanted: Asked) -> dict[str, Any]:
        if self.there is not None:
            return {**self.there, "state": "there"}
        known = {"file": self.file.name, "request": self.request, "seconds_asked": wanted.seconds}
        return {**known, **self.item.to_json(), "state": "missing"}


def _plan(source: Source, wanted: Asked, to: Path, heard: Heard | None) -> list[_Planned]:
    """Every item, once it is sure that all of them can be played."""
    plan, frames = [], source.frames(wanted.seconds)
    stem = None if heard is None else Path(heard.file).stem
    for item in wanted.items(source.player.rule):
        item = Item(source.player.require(item.words, item.guidance.scale), item.rules, item.guidance, item.seed)
        request = provenance.request(source, item, frames, heard)
        file = to / f"{name(item, request, stem)}.flac"
        plan.append(_Planned(item, file, request, _there(file, request)))
    return list({one.file: one for one in plan}.values())


def _there(file: Path, request: str) -> dict[str, Any] | None:
    """The record of a sample that is whole and of this request, else None."""
    try:
        found = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        whole = found["request"] == request and found["file_sha256"] == commit.sha256(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(found) if whole else None


def _lengths(source: Source, wanted: Asked, items: int, missing: int) -> str:
    frames = source.frames(wanted.seconds)
    made = source.player.spec.seconds(frames)
    text = f"{items} items of {wanted.seconds:g} s: {frames} frames, {made:.3f} s"
    return text + (f"; {items - missing} are there already" if missing < items else "")


def _ready(to: Path) -> None:
    """The folder, writable and without what killed processes left, or SYS002 before anything is played."""
    with commit.disk_errors(to):
        to.mkdir(parents=True, exist_ok=True)
    commit.sweep(to)
    with commit.scratch(to / "try") as tmp:
        tmp.touch()


def _play_all(
    source: Source, plan: Sequence[_Planned], seconds: float, heard: Heard | None, batch: int, progress: Progress
) -> dict[Path, dict[str, Any]]:
    """The records by file."""
    if not plan:
        return {}
    groups = list(_batches(plan, batch))
    records: dict[Path, dict[str, Any]] = {}
    how = f"{source.device.type}, {'compiled' if source.compile else 'not compiled'}, {source.precision} precision"
    progress.stage("play", f"{len(plan)} items in {len(groups)} batches, on {how}")
    pending: list[tuple[_Planned, Future[dict[str, Any]]]] = []
    with ThreadPoolExecutor(1, "decode") as decoding:
        for number, group in enumerate([*groups, []]):
            played = play_items(source, [one.item for one in group], seconds, heard, _Part(progress, number, groups))
            for one, future in pending:  # decoded while this batch played
                records[one.file] = future.result()
            pending = []
            for one, item in zip(group, played, strict=True):
                made = provenance.intended(source, one.item, seconds, heard, batch=len(group), decoded_by=CHUNK_SECONDS)
                pending.append((one, decoding.submit(write, one.file, source, item, made)))
    return records


def play_items(
    source: Source, items: Sequence[Item], seconds: float, heard: Heard | None, progress: Progress
) -> list[Played]:
    """Items of the same rules and guidance together."""
    if not items:
        return []
    prompt_TK = None if heard is None else heard.codes_TK
    return source.player.play(
        frames=source.frames(seconds) + (0 if prompt_TK is None else len(prompt_TK)),
        seeds=[item.seed for item in items],
        words=[item.words for item in items],
        rules=items[0].rules,
        guidance=items[0].guidance,
        prompt_BTK=None if prompt_TK is None else prompt_TK[None],
        progress=progress,
        **source.steps(),
    )


def write(file: Path, source: Source, played: Played, made: dict[str, Any]) -> dict[str, Any]:
    """Decode one item into `file` and put its record, with what was measured of the codes that were added, beside it:
    last, so that a sample whose JSON is there is whole."""
    codes_TK, codec, made = played.codes_TK.numpy(), source.codec, provenance.record(made, played, source)
    waves = decode_stream(codec, [codes_TK], chunk_seconds=made["decoded_by"], batch=1)
    clipped = stream.write(file, waves, codec.spec.sample_rate, tags=provenance.tags(made))
    added = probe.probe(codes_TK[made["continued"]["frames"] if made["continued"] else 0 :], codec.spec.cardinality)
    record = {
        **made,
        "file": file.name,
        "file_sha256": commit.sha256(file),
        "samples_sha256": files.samples_sha256(file, max_seconds=math.inf)[0],
        "clipped": clipped,
        "coverage_K": added.coverage_K,
        "entropy_K": [float(value) if np.isfinite(value) else None for value in added.entropy_K],
    }
    commit.record(file.with_suffix(".json"), record)
    return record


def _batches(plan: Sequence[_Planned], size: int) -> Iterator[list[_Planned]]:
    """Items that can play together (one set of rules, one guidance), in the order of the grid, at most `size`."""
    alike: dict[tuple[Rules, Guidance], list[_Planned]] = {}
    for one in plan:
        alike.setdefault((one.item.rules, one.item.guidance), []).append(one)
    for group in alike.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


@dataclass(frozen=True)
class _Part:
    """The progress of one batch as a part of the whole."""

    whole: Progress
    number: int
    groups: Sequence[Sequence[Any]]

    def stage(self, name: str, why: str = "") -> None: ...

    def update(self, done: float, total: float, **facts: str | float | int) -> None:
        self.whole.update(self.number + done / total, len(self.groups), **facts)

    def note(self, text: str) -> None:
        self.whole.note(text)
