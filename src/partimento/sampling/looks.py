"""What is asked of the device while it plays: whether all items have ended, and which frames are complete.

A look waits for the device, so there is one every EVERY steps and one at the end.
Shapes: B items, T frames, K codebooks.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from partimento.progress import Progress
from partimento.sampling.sheet import Sheet

EVERY = 16

Listener = Callable[[int, Tensor, list[int | None]], None]
"""(first, codes_BTK, ends_B): frames first .. first + T - 1 of all items, as soon as all K codes of them are written.

Every frame that is played comes once, in order, the prompt's not; on the CPU, equal to the codes of `Played`. `ends_B`
is the number of frames of an item, None while it has not ended by itself; its codes from there on are 0. An end right
behind the last frame heard may come too late to be told: there is nothing to take back then.
"""


class Looks:
    """Called after every step, or after blocks of them: looks when EVERY steps have passed, tells whether all ended."""

    def __init__(self, sheet: Sheet, progress: Progress, listener: Listener | None = None) -> None:
        self.sheet, self.progress, self.listener = sheet, progress, listener
        self._looked, self._heard = sheet.first - 1, sheet.prompt_frames

    def __call__(self, step: int) -> bool:
        """Whether the rows up to `step`, which was the last one written, hold all frames of all items."""
        if step - self._looked < EVERY:
            return False
        self._looked = step
        self.progress.update(step, self.sheet.steps)
        return self.sheet.finished(step + 1) if self.listener is None else self._hear(self.listener, step + 1)

    def over(self) -> None:
        """After the last step, wherever it was."""
        if self.listener is not None:
            self._hear(self.listener, self.sheet.steps)
        self.progress.update(self.sheet.steps, self.sheet.steps)

    def _hear(self, listener: Listener, written: int) -> bool:
        codes_BTK, ends_B, finished = self.sheet.hear(self._heard, written)
        if codes_BTK.shape[1]:
            first, self._heard = self._heard, self._heard + codes_BTK.shape[1]
            listener(first, codes_BTK, ends_B)
        return finished
