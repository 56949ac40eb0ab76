"""The grid that is being written: what is given, what is free, and where each item ends.

Given places are the specials of the pattern and the prompt; a free place is one where the pattern holds a frame that is
not in the prompt. Past the last frame asked for, early codebooks stay free while late ones finish: in training they
always held real codes there, and a special would announce an end that has not come. These overhanging codes are cut.
Shapes: B items, S grid steps, K codebooks, T frames.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from partimento.tokens.patterns import NO_FRAME, Pattern, revert, window
from partimento.tokens.spec import Specials

_UNENDED = NO_FRAME - 1  # an end later than any frame, and not the mark of a place without a frame


class Sheet:
    """grid_BSK on the device, with rows before `first` given whole. A step is a number, or a tensor [1] that holds it.

    `stops`: EOS may be drawn in book 0, from the second frame on (no clip is empty); then the item's frames end there,
    and its later places become EOS and PAD, staggered as in training.
    """

    def __init__(
        self,
        pattern: Pattern,
        specials: Specials,
        *,
        frames: int,
        prompt_BTK: Tensor,
        cardinality: int,
        stops: bool,
        device: torch.device,
    ) -> None:
        self.pattern, self.specials, self.cardinality = pattern, specials, cardinality
        self.frames, self.prompt_frames, self.stops = frames, prompt_BTK.shape[1], stops
        self.steps = pattern.steps(frames, ends=False)
        frame_SK = pattern.holds(0, self.steps)
        free_SK = (frame_SK >= self.prompt_frames) & (frame_SK != NO_FRAME)
        self.first = int(free_SK.any(axis=1).argmax())
        self.some_free: list[bool] = free_SK.any(axis=1).tolist()
        # EOS may be drawn in book 0 alone, and not where the prompt holds it.
        never_SK = np.ones_like(free_SK)
        never_SK[:, 0] = ~(stops & free_SK[:, 0] & (frame_SK[:, 0] > 0))
        rows = [
            window(
                lambda first, last, codes=codes_TK: codes[first:last],  # type: ignore[misc]
                self.prompt_frames,
                pattern,
                specials,
                0,
                self.steps,
                ends=False,
            )
            for codes_TK in prompt_BTK.cpu().numpy()
        ]
        self.grid_BSK = torch.from_numpy(np.stack(rows)).to(device)
        self.free_SK = torch.from_numpy(free_SK).to(device)
        self.frame_SK = torch.from_numpy(frame_SK.copy()).to(device)
        self.never_SK = torch.from_numpy(never_SK).to(device)
        self.end_B = torch.full((len(rows),), _UNENDED, dtype=torch.int64, device=device)

    def ban(self, logits_BKV: Tensor, step: int | Tensor) -> None:
        """Takes EOS out, in place, wherever it may not be drawn at this step."""
        if self.specials.eos is not None:
            logits_BKV[..., self.specials.eos].masked_fill_(self.never_SK[step], -torch.inf)

    def write(self, step: int | Tensor, drawn_BK: Tensor) -> None:
        """Puts drawn ids on the free places of one row; an EOS in book 0 ends its item."""
        row_BK = self.grid_BSK[:, step].view(drawn_BK.shape)
        drawn_BK = torch.where(self.free_SK[step], drawn_BK, row_BK)
        if self.stops:
            assert self.specials.eos is not None
            frame_K = self.frame_SK[step].view(-1)
            ends_B = (drawn_BK[:, 0] == self.specials.eos) & (self.end_B == _UNENDED)
            self.end_B.copy_(torch.where(ends_B, frame_K[0], self.end_B))
            end_B1 = self.end_B[:, None]
            drawn_BK = drawn_BK.masked_fill(frame_K == end_B1, self.specials.eos)
            drawn_BK = drawn_BK.masked_fill(frame_K > end_B1, self.specials.pad)
        self.grid_BSK[:, step] = drawn_BK if isinstance(step, int) else drawn_BK[:, None]

    def finished(self, written: int) -> bool:
        """Whether `written` rows hold all frames of all items. Waits for the device."""
        if not self.stops:
            return written >= self.steps
        last = int(self.end_B.max())
        return last != _UNENDED and written >= self.pattern.steps(last, ends=False)

    def ends(self) -> list[tuple[int, bool]]:
        """Per item its number of frames, and whether it ended by itself there."""
        return [(min(end, self.frames), end <= self.frames) for end in self.end_B.tolist()]

    def codes(self, item: int, frames: int) -> Tensor:
        """[T, K] int64 on the CPU, exact: raises TOKEN002 if anything but a code stands at the place of a code."""
        grid_1SK = self.grid_BSK[item : item + 1].cpu()
        return revert(grid_1SK, self.pattern, frames, cardinality=self.cardinality)[0]
