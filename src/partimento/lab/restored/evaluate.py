"""`evaluate`: a restore run, or an exported restorer, on recordings that it never trained on: figures and one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import partimento
from partimento import commit
from partimento.audio.shift import checked_semitones, engine_version
from partimento.config import RestoreConfig, parse
from partimento.errors import PartimentoError
from partimento.lab.restored import held, predictors, tables
from partimento.lab.restored.held import Held
from partimento.lab.restored.judge import IN_USE, Judge, Record, Triplet, WaveCN, probes
from partimento.lab.restored.metrics import BAND_METRICS, METRICS, Metric
from partimento.lab.restored.tables import Counted, Row
from partimento.progress import Progress, Quiet
from partimento.runs.run import Run
from partimento.sound_settings import PairData
from partimento.training import devices
from partimento.training.restorer import Restorer, load_restorer
from partimento.waveform.restore import restore_stream

if TYPE_CHECKING:
    from partimento.waveform.generators import GeneratorConfig

SCHEMA = 1
LIMIT = 24
TRIPLETS = 6
FIGURES, RECORDS, PAGE = "figures.json", "records.jsonl", "evaluation.html"


@dataclass(frozen=True)
class Evaluation:
    """What was found, and the files that hold it. `about` says of whom and on what."""

    about: dict[str, Any]
    metrics: tuple[Metric, ...]
    predictors: tuple[str, ...]
    rows: list[Row]
    artifacts: list[Counted]
    probes: dict[str, Any]
    doubts: tuple[str, ...]
    sentence: str
    folder: Path

    @property
    def protocols(self) -> list[str]:
        return list(dict.fromkeys(row.protocol for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "about": self.about,
            "metrics": [asdict(metric) for metric in self.metrics],
            "predictors": list(self.predictors),
            "rows": [row.to_json() for row in self.rows],
            "artifacts": [one.to_json() for one in self.artifacts],
            "probes": self.probes,
            "doubts": list(self.doubts),
            "sentence": self.sentence,
        }


def evaluate(
    source: str | Path,
    *,
    to: str | Path | None = None,
    pairs: str | Path | None = None,
    against: Sequence[str | Path] = (),
    semitones: Sequence[float] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    limit: int = LIMIT,
    predictor: Sequence[str] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> Evaluation:
    """Judge the restorer at `source` (a run, or an exported folder) and write figures.json, records.jsonl and
    evaluation.html to `to` (RUN/evaluation by default; an exported folder needs one).

    On: `against` (files, folders), or `pairs` (written ones), or what the run held out of its own data. `semitones` are
    by default those that it was trained on, and 0. Raises LAB030 (nothing to evaluate on), LAB031 to LAB033, RESTORE...
    (no restorer), AUDIO041 (a shift beyond +-24), and what
    reading audio and pairs raises.
    """
    progress = progress or Quiet()
    asked = predictors.load(predictor)
    for shift in semitones or ():
        checked_semitones(shift)
    restorer = load_restorer(source, weights, devices.pick(device), progress)
    run = Run.open(source) if (Path(source) / "run.json").is_file() else None
    if to is None and run is None:
        raise PartimentoError(
            "LAB034",
            "an exported restorer has no folder of its own for figures",
            where=str(source),
            next="name one: --to DIR",
        )
    folder = Path(to) if to is not None else Path(source) / "evaluation"
    found = _held(run, restorer, pairs, against, semitones, limit, progress)
    shifts = sorted({0.0, *map(float, found.pairs.semitones if semitones is None else semitones)})
    pieces = found.pieces(restorer.sample_rate, limit)

    def restore(wave_CN: WaveCN) -> WaveCN:
        return np.concatenate(list(restore_stream(restorer.generator, [wave_CN], device=restorer.device)), axis=1)

    strides = strides_of(restorer.generator.config)
    judge = Judge(restore, restorer.sample_rate, restorer.task, strides, asked)
    shown = Shown(TRIPLETS, shifts)
    progress.stage("judge", f"{len(pieces)} recordings at {len(shifts)} shifts, each restored and compared")
    records = list(judge.records(pieces, shifts, progress, shown.keep))
    metrics = (*METRICS, *(one.metric for one in asked))
    rows = tables.rows(records, (*metrics, *BAND_METRICS))
    about = {
        "restorer": restorer.name,
        "weights": weights if run is not None else "exported",
        "weights_sha256": restorer.weights_sha256,
        "task": restorer.task,
        "sample_rate": restorer.sample_rate,
        "network": restorer.generator.config.to_json(),
        "strides": list(strides),
        "on": found.told,
        "recordings": len(pieces),
        "sources": len({piece.recording.group for piece in pieces}),
        "semitones": shifts,
        "seconds": round(sum(piece.length for piece in pieces) / restorer.sample_rate, 1),
        "engine": engine_version(),
        "version": partimento.__version__,
    }
    evaluation = Evaluation(
        about,
        metrics,
        tuple(one.name for one in asked),
        rows,
        tables.artifacts(records),
        probes(restore, restorer.sample_rate, strides),
        (*found.doubts, *_few(rows)),
        sentence(rows),
        folder,
    )
    _write(evaluation, records, shown.triplets, restorer.sample_rate)
    return evaluation


def strides_of(config: GeneratorConfig) -> tuple[int, ...]:
    """How many samples a place of each inner level stands for: the strides multiplied up, and the hop."""
    levels = list(accumulate((config.stem, *config.strides), mul))
    return tuple(sorted({level for level in (*levels, config.hop) if level > 1}))


def sentence(rows: Sequence[Row]) -> str:
    """The finding in words: the mel distance under each protocol, shift by shift."""
    said = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        shifted = [row for row in tables.find(rows, protocol, "mel7") if row.semitones]
        better, worse = (sum(row.improves is way for row in shifted) for way in (True, False))
        words = f"{protocol}: the 7-scale mel distance is under the input's at {better} of {len(shifted)} shifts"
        said.append(words + (f", and over it at {worse}" if worse else "") + " (95 % intervals that exclude zero)")
    return "; ".join(said) + "." if said else "No shift was judged."


class Shown:
    """A few cases to hear and see, of the first protocol: of each of the first recordings one shift, all in turn."""

    def __init__(self, most: int, semitones: Sequence[float]) -> None:
        self._shifts = [shift for shift in semitones if shift]
        self._most = most if self._shifts else 0
        self.triplets: list[Triplet] = []

    def keep(self, triplet: Triplet) -> None:
        number = len(self.triplets)
        if triplet.protocol == IN_USE or number == self._most:
            return
        new = all(triplet.source != one.source for one in self.triplets)
        if new and triplet.semitones == self._shifts[number % len(self._shifts)]:
            self.triplets.append(triplet)


def _held(
    run: Run | None,
    restorer: Restorer,
    pairs: str | Path | None,
    against: Sequence[str | Path],
    semitones: Sequence[float] | None,
    limit: int,
    progress: Progress,
) -> Held:
    if pairs is not None and against:
        raise PartimentoError(
            "LAB030", "--pairs and --against both say what to evaluate on", next="give one of them"
        )  # fmt: skip
    shifts = list(restorer.semitones if semitones is None else semitones)
    if against:
        places = [Path(place) for place in against]
        return held.from_files(
            places, restorer.task, restorer.sample_rate, restorer.full_band, shifts, limit, progress
        )  # fmt: skip
    if pairs is not None:
        data = PairData(pairs=str(pairs), task=restorer.task, sample_rate=restorer.sample_rate)
        return held.from_pairs(Path(pairs), data, semitones)
    if run is None:
        raise held.nothing("an exported restorer does not hold the recordings that it was not trained on")
    config = parse(run.record["config"])
    assert isinstance(config, RestoreConfig)  # load_restorer takes no other
    progress.stage("read", "the recordings that the run held out")
    return held.from_data(config.data, semitones)


def _few(rows: Sequence[Row]) -> list[str]:
    fewest = min((row.difference.n for row in rows if row.set == tables.EVERY), default=0)
    if fewest >= 8:
        return []
    return [f"{fewest} {'source makes' if fewest == 1 else 'sources make'} wide intervals: hold out more"]


def _write(found: Evaluation, records: Sequence[Record], triplets: Sequence[Triplet], sample_rate: int) -> None:
    from partimento.lab.restored.page import render

    lines = "".join(json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    commit.text(found.folder / RECORDS, lines)
    commit.text(found.folder / PAGE, render(found, triplets, sample_rate))
    commit.record(found.folder / FIGURES, found.to_json())
