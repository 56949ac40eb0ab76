"""What was played before, played again from what the file says of itself, and whether it is the same audio."""

from __future__ import annotations

import contextlib
import math
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from partimento.audio import files
from partimento.errors import PartimentoError
from partimento.play import provenance
from partimento.play.heard import Heard, hear
from partimento.play.make import play_items, write
from partimento.play.provenance import Recorded
from partimento.play.source import Source, open_source
from partimento.progress import Progress, Quiet
from partimento.runs import exported, playable


@dataclass(frozen=True)
class Again:
    """`equal` is about the samples. `differs` maps what was another version or device to (then, now); `file` is the new
    one, if it was kept."""

    equal: bool
    samples_sha256: str
    recorded_sha256: str
    differs: dict[str, tuple[str, str]]
    file: Path | None

    def check(self) -> None:
        """Raises SAMPLE036 if it is not the same audio."""
        if self.equal:
            return
        changed = ", ".join(f"{name} {then} -> {now}" for name, (then, now) in self.differs.items())
        same = "version and device are the same, so this is a fault"
        raise PartimentoError(
            "SAMPLE036",
            "the same request gave other audio",
            where=None if self.file is None else str(self.file),
            why=f"what plays is another: {changed}" if changed else same,
            next="play it with what played it then" if changed else "report it with the JSON of the sample",
        )


def again(
    sample: str | Path,
    *,
    run: str | Path | None = None,
    to: str | Path | None = None,
    continue_from: str | Path | None = None,
    codec: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Again:
    """Play what `sample` (a file of `partimento sample`, or the JSON beside one) says of itself, and compare the audio.

    `run` is the folder of the run, or what was exported of it and played this; runs/ID by default. What it played on
    from is looked for beside it, or is `continue_from`. The new audio is kept in `to`, under a name of its own, if that
    is given.
    Where the rounding of matrix products may depend on their shape (not in compiled steps on a CPU), the item is
    played as often at once as its batch had items.

    Raises SAMPLE034 (the file does not say), SAMPLE035 (run, checkpoint or prompt audio are gone, or others), what
    `open_source` raises.
    """
    progress, sample = progress or Quiet(), Path(sample)
    recorded = provenance.read(sample)
    source = _source(recorded, run, codec, device, progress)
    heard = _heard(recorded, sample, continue_from, source, progress)
    progress.stage("play", f"{recorded.seconds_asked:g} s, seed {recorded.item.seed}")
    copies = 1 if source.compile and source.device.type == "cpu" else recorded.batch
    played = play_items(source, [recorded.item] * copies, recorded.seconds_asked, heard, progress)[0]
    made = provenance.intended(
        source, recorded.item, recorded.seconds_asked, heard, batch=recorded.batch, decoded_by=recorded.decoded_by
    )
    with _place(to) as folder:
        file = folder / f"{sample.stem}_again.flac"
        write(file, source, played, made)
        found = files.samples_sha256(file, most=recorded.samples, max_seconds=math.inf)[0]
    now = source.made_with()
    return Again(
        equal=found == recorded.samples_sha256,
        samples_sha256=found,
        recorded_sha256=recorded.samples_sha256,
        differs={name: (then, now[name]) for name, then in recorded.made_with.items() if then != now[name]},
        file=None if to is None else file,
    )


def _source(recorded: Recorded, run: str | Path | None, codec: str | None, device: str, progress: Progress) -> Source:
    path = Path("runs") / recorded.run if run is None else Path(run)
    if not playable.is_one(exported.located(path)) and not (path / "checkpoints" / recorded.checkpoint).is_dir():
        raise _gone(
            f"{path} holds no checkpoint {recorded.checkpoint}",
            str(path),
            f"it was played by {recorded.run}, {recorded.checkpoint}, {recorded.weights} weights",
            f"name the folder of that run: partimento sample {shlex.quote(str(path))} --again FILE",
        )
    source = open_source(
        path,
        weights=recorded.weights,
        codec=codec,
        device=device,
        compile=recorded.compile,
        precision=recorded.precision,
        step=recorded.checkpoint,
        progress=progress,
    )
    if source.weights_sha256 != recorded.weights_sha256:
        raise _gone(
            f"{source.place.name} holds other weights than those that played this",
            str(source.place),
            f"sha256 {source.weights_sha256[:12]} here, {recorded.weights_sha256[:12]} then",
            "give the run that played it",
        )
    return source


def _heard(
    recorded: Recorded, sample: Path, given: str | Path | None, source: Source, progress: Progress
) -> Heard | None:
    if recorded.continued is None:
        return None
    path = sample.parent / Path(str(recorded.continued["file"])).name if given is None else Path(given)
    if not path.is_file():
        raise _gone("the audio that this was played on from is not here", str(path), None, "name it: --continue FILE")
    heard = hear(path, source.codec, progress)
    if heard.sha256 != recorded.continued["sha256"]:
        raise _gone(
            "this was played on from other audio", str(path), "its sha256 is another", "name it: --continue FILE"
        )
    return heard


@contextlib.contextmanager
def _place(to: str | Path | None) -> Iterator[Path]:
    if to is not None:
        yield Path(to)
        return
    with tempfile.TemporaryDirectory(prefix="partimento-again-") as folder:
        yield Path(folder)


def _gone(message: str, where: str, why: str | None, remedy: str) -> PartimentoError:
    return PartimentoError("SAMPLE035", message, where=where, why=why, next=remedy)
