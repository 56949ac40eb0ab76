"""`score`: objective figures of sounds, of a set of sounds against another and against what was asked, and of a run.

A figure that is undefined is None, a file that cannot be scored carries its coded error; neither is ever a zero.
`scores.table` says what each figure is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.audio import files
from partimento.errors import PartimentoError
from partimento.lab.labels import Estimate
from partimento.lab.measures import Measures, measure
from partimento.lab.scores.against import Sets
from partimento.lab.scores.codes import CodeFigures, Codes, PackCodes
from partimento.lab.scores.embeddings import OURS
from partimento.lab.scores.following import Following
from partimento.lab.scores.items import Item, of_paths, of_run
from partimento.lab.scores.music import Music, music
from partimento.lab.verdict import SoundVerdict, Verdict, verdict_of
from partimento.progress import Progress, Quiet
from partimento.runs.events import read_events
from partimento.runs.run import Run
from partimento.tokens.pack import Pack

__all__ = ["CodeFigures", "Codes", "Score", "score"]


@dataclass
class Score:
    """What was found of one file, of one run (with `verdict`), or of a set of files (with `sets`, `following`).

    `labels` are None where they were not asked for, and for a sound that has none: silent, or shorter than 3 s.
    `missing` says of what failed on this file alone why it is missing.
    """

    name: str
    measures: Measures | None = None
    codes: Codes | None = None
    labels: Estimate | None = None
    verdict: Verdict | SoundVerdict | None = None
    error: dict[str, Any] | None = None
    music: Music | None = None
    sets: Sets | None = None
    following: Following | None = None
    predicted: dict[str, float | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Scored:
    """A file as `sets` and `following` need it: what was asked, what was heard, the counts of its codes."""

    item: Item
    score: Score
    heard: Estimate | None = None
    counts_KV: NDArray[np.int64] | None = None


def score(
    paths: Iterable[str | Path] = (),
    against: str | Path | None = None,
    run: str | Path | None = None,
    *,
    codec: str | None = None,
    labels: bool = False,
    embeddings: Sequence[str] = (OURS,),
    predictors: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Score]:
    """Score audio files (folders are searched) and runs: their held-out figures and their newest demos.

    `against` is a pack (the codes of each file are compared, too) or a folder of recordings: the set of files is
    compared with it in each of the `embeddings`. Where it is known what a file was asked to be (the record beside a
    sample, the demos of a run, labels as `encode` reads them), the set is held against that; with an embedding
    clap:FOLDER by its texts, too. `labels`: tempo, key and style as the built-in band's ear has them. `predictors`:
    module:function of learned judges, as for `evaluate`.

    A file that cannot be read or measured becomes a Score with its error, and the others are scored. Raises LAB004
    (nothing to score), AUDIO001 (no audio there), SYS004 (no such path), PACK009 (`codec`, or the one of the name that
    the pack gives, is not the pack's), LAB031, LAB050, LAB051 (a predictor or an embedding that cannot be opened), and
    the errors of the pack and the run.
    """
    from partimento.lab.restored.predictors import load
    from partimento.lab.scores.embeddings import open_embedding

    progress = progress or Quiet()
    places = [Path(path) for path in paths]
    runs = [Path(run)] if run is not None else []
    runs += [place for place in places if (place / "run.json").is_file()]
    places = [place for place in places if place not in runs]
    if not places and not runs:
        raise PartimentoError(
            "LAB004", "there is nothing to score", next="name audio files, folders, or a run: partimento score FILE"
        )
    opened, judges = [open_embedding(name) for name in embeddings], load(predictors)
    scores, items = [], []
    for place in runs:
        of_this, found = _run(place)
        scores.append(of_this)
        items += found
    items += of_paths(places) if places else []
    codes, reference = (None, None) if against is None or not items else _against(against, codec)
    if items:
        progress.stage("score", "each file is decoded and measured" + (", and encoded" if codes else ""))
    scored = []
    for number, item in enumerate(items, 1):
        scored.append(_file(item, codes, labels, judges))
        progress.update(number, len(items), failed=sum(one.score.error is not None for one in scored))
    scores += [one.score for one in scored]
    return scores + _groups(scored, reference, codes, opened, progress)


def _run(place: Path) -> tuple[Score, list[Item]]:
    run = Run.open(place)
    found = Score(run.id, verdict=verdict_of(run.record["family"], read_events(run.events_path)))
    items, why = of_run(run)
    if why:
        found.missing["demos"] = why
    return found, items


def _against(against: str | Path, codec: str | None) -> tuple[PackCodes | None, Any]:
    """A folder of recordings is none that holds a pack.json; what is neither is an error of the pack."""
    from partimento.lab.scores.against import Folder, PackReference

    folder = Path(against)
    if folder.is_dir() and not (folder / "pack.json").exists() and not (folder / "journal").exists():
        return None, Folder(folder)
    codes = PackCodes(Pack.open(against), codec)
    return codes, PackReference(codes)


def _file(item: Item, codes: PackCodes | None, labels: bool, predictors: Sequence[Any]) -> Scored:
    found = Score(item.name, missing=dict(item.missing))
    one = Scored(item, found)
    try:
        audio = files.read_isolated(item.path)
        try:
            found.measures = measure(audio.wave_CN, audio.sample_rate)
        except ValueError as err:
            where = str(item.path)
            raise PartimentoError("LAB006", "this sound cannot be measured", where=where, why=str(err)) from err
        found.music, one.heard = music(audio.wave_CN, audio.sample_rate)
        found.labels = one.heard if labels else None
        if codes is not None:
            found.codes, one.counts_KV = codes.compare(audio.wave_CN, audio.sample_rate)
    except PartimentoError as err:
        one.score = Score(item.name, error=err.to_json())
        return one
    for predictor in predictors:
        try:
            found.predicted[predictor.name] = predictor(audio.wave_CN, audio.sample_rate)
        except PartimentoError as err:
            found.predicted[predictor.name] = None
            found.missing[predictor.name] = f"{err.code} {err.message}: {err.why}"
    return one


def _groups(
    scored: Sequence[Scored], reference: Any, codes: PackCodes | None, embeddings: Sequence[Any], progress: Progress
) -> list[Score]:
    """What is said of each set of files: a Score each where there is something to say."""
    from partimento.lab.scores.group import Judge

    judge = Judge(reference, codes, embeddings, progress)
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        if one.item.group is not None and one.score.error is None:
            groups.setdefault(one.item.group, []).append(one)
    found = []
    for name, members in groups.items():
        sets, following = judge.of(members)
        if sets is not None or following is not None:
            count = f"{len(members)} files" if len(members) > 1 else "1 file"
            found.append(Score(f"{name}: {count}" if name else count, sets=sets, following=following))
    return found
