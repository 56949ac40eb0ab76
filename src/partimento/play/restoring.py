"""Restoring recordings of any length, rate and channel count with a trained restorer, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from partimento.audio import stream
from partimento.audio.decode import Facts
from partimento.audio.stream import WaveCN
from partimento.play import filewise
from partimento.play.filewise import Work
from partimento.play.record import Made
from partimento.progress import Progress, Quiet
from partimento.training import devices
from partimento.training.restorer import Restorer, Weights, load_restorer
from partimento.waveform.restore import beside, restore_stream


def restore(
    source: str | Path,
    inputs: str | Path | Sequence[str | Path],
    to: str | Path,
    *,
    weights: Weights = "ema",
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> list[Made]:
    """Restore recordings with `source`, a run of the family restore or a folder of its weights; gives what became of
    each, in the order of their names.

    `inputs` are files and folders, `to` is a folder (or a .wav or .flac file, for one input file). Outputs have the
    rate, length, channels and bits of their inputs; see `docs/sound.md` for formats that are not written. Replaces
    nothing, unless told to `force`, that it would not make the same. `filewise.failure(made)` is the error of what
    failed.

    Raises RESTORE001, RESTORE002, RUN001, CKPT... (`source`), SYS004, SYS006, AUDIO001, RESTORE003, RESTORE005 (inputs
    and outputs), TRAIN005 (no such device), SYS002 (the disk).
    """
    progress = progress or Quiet()
    items = filewise.find([inputs] if isinstance(inputs, str | Path) else inputs, Path(to))
    restorer = load_restorer(source, weights, devices.pick(device), progress)
    progress.stage("restore", f"{len(items)} file(s) through {restorer.name}")

    def work(facts: Facts) -> tuple[Work, str]:
        return lambda blocks, rate: restored(blocks, rate, restorer), treatment(facts.sample_rate, restorer)

    identity = {"restorer": restorer.weights_sha256}
    return filewise.make(items, Path(to), work, identity, force=force, progress=progress)


def restored(blocks: Iterable[WaveCN], sample_rate: int, restorer: Restorer) -> Iterator[WaveCN]:
    """Blocks float32 [C, n] of any rate, restored; as many samples come out as go in.

    At another rate than the network's they are resampled to it, and what the network changed is resampled back and
    added: what its rate cannot hold, and what it leaves alone, is the input to the last bit. Of an unshift, whose input
    is elsewhere in pitch, nothing is kept.
    """

    def network(heard: Iterable[WaveCN]) -> Iterator[WaveCN]:
        return restore_stream(restorer.generator, heard, device=restorer.device)

    if sample_rate == restorer.sample_rate:
        yield from network(blocks)
        return
    keeps = _keeps(restorer)

    def there_and_back(heard: Iterator[WaveCN]) -> Iterator[WaveCN]:
        resampled = stream.resample(heard, sample_rate, restorer.sample_rate)
        changes = (made - was for was, made in beside(resampled, network)) if keeps else network(resampled)
        return stream.resample(changes, restorer.sample_rate, sample_rate)

    for was_CN, change_CN in beside(blocks, there_and_back):
        yield was_CN + change_CN if keeps else change_CN


def treatment(sample_rate: int, restorer: Restorer) -> str:
    """In one sentence, what `restored` does with this rate."""
    rate = restorer.sample_rate
    if sample_rate == rate:
        return f"restored at {rate} Hz"
    if sample_rate < rate:
        return f"restored at {rate} Hz and back"
    above = f"what lies above {rate // 2} Hz is " + ("kept as it was" if _keeps(restorer) else "left out")
    return f"restored at {rate} Hz and back; {above}"


def _keeps(restorer: Restorer) -> bool:
    return restorer.task != "unshift"
