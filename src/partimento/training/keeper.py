"""What a run keeps of itself: checkpoints written beside the steps, archives, and the way back to them.

With several ranks all of them call these, in the same order; the main one writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.runs import archives, checkpoint
from partimento.runs.run import Run
from partimento.runs.saver import Saver
from partimento.training import sharded
from partimento.training.state import State

Event = Callable[..., None]  # (kind, step, **values)


class Keeper:
    """`saved` is the step of the newest checkpoint that is committed."""

    def __init__(self, run: Run, state: State, event: Event) -> None:
        self.run, self.state, self.parallel, self.event = run, state, state.parallel, event
        self.folder = run.checkpoints_path
        self.saver = Saver(self.folder)
        self.saved = 0

    def newest(self, note: Callable[[str], None]) -> Path | None:
        """The newest checkpoint that verifies; raises as `checkpoint.newest`."""
        found = checkpoint.newest(self.folder, note=note) if self.parallel.main else None
        return self._shared(found)

    def last_good(self) -> Path | None:
        """The newest one from a time when the training was well."""
        candidates = reversed(checkpoint.visible(self.folder)) if self.parallel.main else ()
        return self._shared(next((path for path in candidates if _good(path)), None))

    def _shared(self, path: Path | None) -> Path | None:
        name = self.parallel.share(path.name if path else None)
        return self.folder / name if name else None

    def load(self, path: Path, why: str) -> list[str]:
        """Become the checkpoint at `path`, after all newer ones were set aside as `why`: their steps come again."""
        if self.parallel.main:
            for newer in checkpoint.visible(self.folder):
                if newer.name > path.name:
                    checkpoint.set_aside(newer, why)
        self.parallel.barrier()
        notes = self.state.load(path)
        self.saved = self.state.counters.step
        return notes

    def save(self, score: float | None, figures: Mapping[str, Any], *, good: bool, best: bool, archive: bool) -> None:
        """Copy everything, and commit the copy while the training goes on (shares of ranks: at once)."""
        parts, state = self.state.save(score, figures, good)
        step, plan, run = self.state.counters.step, self.state.config.train, self.run

        def after(path: Path) -> None:
            if archive:
                archives.archive(run.path, path, plan.keep_archives, best=best)
            checkpoint.prune(self.folder, plan.keep)

        def done(path: Path) -> None:
            self.saved = step
            self.event("checkpoint", step, path=str(path.relative_to(run.path)), best=best, archived=archive)

        if self.state.sharded and plan.save_sharded:
            path = sharded.save(self.folder, step, parts, state)
            if self.parallel.main:
                after(path)
            done(path)
            return
        if self.state.sharded:
            parts = {part: self.parallel.gather(named) or {} for part, named in parts.items()}
        if self.parallel.main:
            self.saver.submit(step, parts, state, done, after)

    def settle(self, wait: bool = False) -> None:
        """Take note of the checkpoints that were committed meanwhile; raise what befell them."""
        if wait:
            self.saver.wait()
        self.saver.settle()


def _good(path: Path) -> bool:
    """Whether it is whole, and the training was well when it saved: last step accepted, loss on its level."""
    try:
        checkpoint.verify(path)
        return bool(checkpoint.load(path, ()).state["good"])
    except PartimentoError as err:
        if err.code != "CKPT001":
            raise
        return False
