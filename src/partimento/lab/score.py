"""`score`: objective figures of sounds, of their codes against a pack, and of a run. No trained judge is involved.

A figure that is undefined is None, a file that cannot be scored carries its coded error; neither is ever a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.audio import files
from partimento.errors import PartimentoError
from partimento.lab.labels import Estimate, estimate
from partimento.lab.labels.features import Unlabelled
from partimento.lab.measures import Measures, measure
from partimento.lab.verdict import SoundVerdict, Verdict, verdict_of
from partimento.progress import Progress, Quiet
from partimento.runs.events import read_events
from partimento.runs.run import Run
from partimento.sampling import probe
from partimento.tokens import entropy
from partimento.tokens.pack import Pack

YARDSTICK_WINDOWS = 32
COUNTED_FRAMES = 2_000_000  # of the training codes, whole clips in keyed order; over six hours at 86 frames/s


@dataclass(frozen=True)
class CodeFigures:
    """Means over windows of equal length; lists hold one value a codebook. Entropy and KL in nats."""

    entropy_K: list[float | None]
    coverage_K: list[float | None]
    unigram_kl_K: list[float | None]
    repetition_K: list[float | None]
    repetition_frames: float | None


@dataclass(frozen=True)
class Codes:
    """The codes of a file beside the yardstick: held-out windows of the pack, of equal length, measured the same way.

    A short sound cannot show the statistics of hours of music, so its KL from them is never 0; held-out music of the
    same length shows how much of it is only that. `windows` and `yardstick_windows` count what was averaged.
    """

    frames: int
    windows: int
    figures: CodeFigures
    yardstick: CodeFigures
    yardstick_windows: int


@dataclass(frozen=True)
class Score:
    """What was found of one file, or (with `verdict`) of one run. `labels` are None where they were not asked for, and
    for a sound that has none: silent, or shorter than 3 s."""

    name: str
    measures: Measures | None = None
    codes: Codes | None = None
    labels: Estimate | None = None
    verdict: Verdict | SoundVerdict | None = None
    error: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score(
    paths: Iterable[str | Path] = (),
    against: str | Path | None = None,
    run: str | Path | None = None,
    *,
    codec: str | None = None,
    labels: bool = False,
    progress: Progress | None = None,
) -> list[Score]:
    """Score audio files (folders are searched), `against` the codes of a pack too; and the held-out figures of a `run`.

    `labels`: tempo, key and style are estimated too, by the ear of the built-in band (`lab.labels`).

    A file that cannot be read or measured becomes a Score with its error, and the others are scored. Raises LAB004
    (nothing to score), AUDIO001 (no audio there), SYS004 (no such path), PACK009 (`codec`, or the one of the name that
    the pack gives, is not the pack's), and the errors of the pack and the run.
    """
    progress = progress or Quiet()
    places = [Path(path) for path in paths]
    if not places and run is None:
        raise PartimentoError(
            "LAB004", "there is nothing to score", next="name audio files, folders, or a run: partimento score FILE"
        )
    scores = []
    if run is not None:
        opened = Run.open(run)
        scores.append(Score(opened.id, verdict=verdict_of(opened.record["family"], read_events(opened.events_path))))
    found = files.discover(places) if places else []
    yardstick = _Against(Pack.open(against), codec) if against is not None and found else None
    if found:
        progress.stage("score", "each file is decoded and measured" + (", and encoded" if yardstick else ""))
    for number, path in enumerate(found, 1):
        scores.append(_score_file(path, yardstick, labels))
        progress.update(number, len(found), failed=sum(item.error is not None for item in scores))
    return scores


def _score_file(path: Path, against: _Against | None, labels: bool) -> Score:
    try:
        audio = files.read_isolated(path)
        try:
            measures = measure(audio.wave_CN, audio.sample_rate)
        except ValueError as err:
            raise PartimentoError("LAB006", "this sound cannot be measured", where=str(path), why=str(err)) from err
        codes = against.compare(audio.wave_CN, audio.sample_rate) if against else None
    except PartimentoError as err:
        return Score(str(path), error=err.to_json())
    return Score(str(path), measures, codes, _labels(audio.wave_CN, audio.sample_rate) if labels else None)


def _labels(wave_CN: NDArray[np.float32], sample_rate: int) -> Estimate | None:
    try:
        return estimate(wave_CN, sample_rate)
    except Unlabelled:
        return None


class _Against:
    """A pack to compare with: its codec, the counts of its training codes, its held-out windows."""

    def __init__(self, pack: Pack, codec: str | None) -> None:
        from partimento.codecs.codec import open_like

        self.pack, self.spec = pack, pack.spec
        self.codec = open_like(pack.spec, name=codec)
        self.counts_KV = self._count()
        self.held_out = pack.split("valid")
        self._yardsticks: dict[int, tuple[CodeFigures, int]] = {}

    def compare(self, wave_CN: NDArray[np.float32], sample_rate: int) -> Codes:
        from partimento.codecs.codec import encode_whole
        from partimento.codecs.layout import arrange

        heard_CN = files.resample(wave_CN, sample_rate, self.spec.sample_rate)
        codes_TK = encode_whole(self.codec, arrange(heard_CN, self.spec.layout).wave_CN)
        # Both sides are measured in windows of one length; a file longer than every held-out clip is cut into tiles.
        length = min(len(codes_TK), int(self.pack.clips.frames[self.held_out].max()))
        tiles = [codes_TK[first : first + length] for first in range(0, len(codes_TK) - length + 1, length)]
        if length not in self._yardsticks:
            windows = self._windows(length)
            self._yardsticks[length] = self._figures(windows), len(windows)
        yardstick, windows_seen = self._yardsticks[length]
        return Codes(length, len(tiles), self._figures(tiles), yardstick, windows_seen)

    def _windows(self, length: int) -> list[NDArray[np.integer]]:
        """Evenly spread windows of the held-out clips."""
        places = [
            (int(clip), first)
            for clip in self.held_out
            for first in range(0, int(self.pack.clips.frames[clip]) - length + 1, length)
        ]
        chosen = np.unique(np.linspace(0, len(places) - 1, YARDSTICK_WINDOWS).round().astype(int))
        return [self.pack.read(clip, first, first + length) for clip, first in (places[i] for i in chosen)]

    def _figures(self, windows: Sequence[NDArray[np.integer]]) -> CodeFigures:
        probes = [probe.probe(codes_TK, self.spec.cardinality, self.counts_KV) for codes_TK in windows]

        def means(name: str) -> list[float | None]:
            return [_mean(column) for column in zip(*(getattr(item, name) for item in probes), strict=True)]

        return CodeFigures(
            means("entropy_K"),
            means("coverage_K"),
            means("unigram_kl_K"),
            means("repetition_K"),
            _mean([item.repetition_frames for item in probes]),
        )

    def _count(self) -> NDArray[np.int64]:
        clips = self.pack.split("train")
        counts_KV = np.zeros((self.spec.codebooks, self.spec.cardinality), dtype=np.int64)
        for index in range(len(clips)):
            clip = int(clips[keyed.permute(index, len(clips), "score")])
            counts_KV += entropy.counts(self.pack.read(clip), self.spec.cardinality)
            if counts_KV[0].sum() >= COUNTED_FRAMES:
                break
        return counts_KV


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(finite)) if finite else None
