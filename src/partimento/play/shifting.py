"""Pitch shifting of recordings: the shift engine, and a learned cleaner over what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from partimento.audio import shift
from partimento.audio.decode import Facts
from partimento.audio.stream import WaveCN
from partimento.errors import PartimentoError
from partimento.play import filewise
from partimento.play.filewise import Work
from partimento.play.record import Made
from partimento.play.restoring import restored, treatment
from partimento.progress import Progress, Quiet
from partimento.training import devices
from partimento.training.restorer import CLEANER, Restorer, Weights, load_restorer


@dataclass(frozen=True)
class Shifted:
    """What became of each recording, and by what: `latency` is the engine's own delay in samples at each sample rate,
    which was made up for; `cleaner` names the network, None where there was none."""

    files: list[Made]
    semitones: float
    engine: str
    cleaner: str | None
    latency: dict[int, int]

    def to_json(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("semitones", "engine", "cleaner", "latency")}
        return {**told, "files": [one.to_json() for one in self.files]}


def shift_files(
    inputs: str | Path | Sequence[str | Path],
    semitones: float,
    to: str | Path,
    *,
    cleaner: str | Path | Literal["default", "none"] = "default",
    weights: Weights = "ema",
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> Shifted:
    """Move the pitch of recordings by `semitones` (fractions are allowed), each sound at its time, then clean it.

    `cleaner` is a run of the family restore, a folder of its weights, "none", or "default": the one in the package, if
    there is one. Inputs and outputs are as those of `restoring.restore`.

    Raises AUDIO041 (semitones beyond two octaves), AUDIO042 (the engine is not installed), RESTORE007 (a cleaner that
    moves pitch itself), and what `restore` raises.
    """
    progress = progress or Quiet()
    shift.shift_stream((), 44100, semitones)  # raises before anything is looked for
    items = filewise.find([inputs] if isinstance(inputs, str | Path) else inputs, Path(to))
    cleans = _cleaner(cleaner, semitones, weights, device, progress)
    progress.stage("shift", f"{len(items)} file(s) by {semitones:+g} semitones")
    engine = shift.engine_version()

    def work(facts: Facts) -> tuple[Work, str]:
        def doing(blocks: Iterable[WaveCN], rate: int) -> Iterator[WaveCN]:
            shifted = shift.shift_stream(blocks, rate, semitones)
            return shifted if cleans is None else restored(shifted, rate, cleans)

        kept = shift.kept_hz(facts.sample_rate, semitones)
        gone = f", what lay above {kept:.0f} Hz is gone" if kept < facts.sample_rate / 2 else ""
        cleaned = "" if cleans is None else f"; {treatment(facts.sample_rate, cleans)}"
        return doing, f"shifted by {semitones:+g} semitones{gone}{cleaned}"

    sha256 = None if cleans is None else cleans.weights_sha256
    identity = {"semitones": semitones, "engine": engine, "cleaner": sha256}
    made = filewise.make(items, Path(to), work, identity, force=force, progress=progress)
    rates = sorted({one.sample_rate for one in made if one.sample_rate})
    latency = {rate: shift.latency(rate) for rate in rates}
    return Shifted(made, semitones, engine, None if cleans is None else cleans.name, latency)


def _cleaner(asked: str | Path, semitones: float, weights: Weights, device: str, progress: Progress) -> Restorer | None:
    if asked == "none" or semitones == 0:
        return None
    if asked == "default":
        if not CLEANER.is_dir():
            progress.note("there is no cleaner in the package: what the shifter leaves behind stays (--cleaner RUN)")
            return None
        asked = CLEANER
    found = load_restorer(asked, weights, devices.pick(device), progress)
    if found.task != "clean":
        raise PartimentoError(
            "RESTORE007",
            f"{found.name} is no cleaner: it undoes shifts, and would move the pitch once more",
            where=str(asked),
            why=f"it was trained with data.task = {found.task!r}",
            next="give a run that was trained with data.task = 'clean', or --cleaner none",
        )
    most = max(map(abs, found.semitones), default=0.0)
    if abs(semitones) > most:
        progress.note(f"{found.name} was trained with shifts up to {most:g} semitones; {abs(semitones):g} is beyond")
    return found
