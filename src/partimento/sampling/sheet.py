"""The grid that is being written: what is given, what is free, and where each item ends.

Given places are the specials of the pattern and the prompt; a free place is one where the pattern holds a frame that is
not in the prompt. What early codebooks hold past the last frame asked for, while late ones finish, is what they held
there in training (`Ending.tail`): a family that learned from crops always saw codes, and a special would announce an
end that has not come.
Shapes: B items, S grid steps, K codebooks, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.tokens.patterns import NO_FRAME, Pattern, revert, window
from partimento.tokens.spec import Specials

ALL = slice(None)
_NEVER = -1e30  # a logit
_UNENDED = NO_FRAME - 1  # an end later than any frame, and not the mark of a place without a frame


@dataclass(frozen=True)
class Ending:
    """How a family ends its items.

    eos    draw: EOS is drawn in book 0 like a code. argmax: it is taken where it is the likeliest of book 0 after the
           guidance, and never drawn elsewhere (Dia). never: items have the frames asked for
    tail   what early books hold past the last frame asked for, while late ones finish. free: drawn codes, which are cut
           (trained on crops, they never saw an end there). special: PAD (MusicGen). end: EOS, then PAD (Dia)

    Where an item ends by itself, EOS and PAD follow whatever the tail. Raises SAMPLE011 for other names.
    """

    eos: Literal["draw", "argmax", "never"] = "draw"
    tail: Literal["free", "special", "end"] = "free"

    def __post_init__(self) -> None:
        if self.eos not in ("draw", "argmax", "never") or self.tail not in ("free", "special", "end"):
            raise _impossible(self, "eos is draw, argmax or never, and tail is free, special or end")

    def check(self, specials: Specials) -> None:
        """Raises SAMPLE011 when this needs an EOS and there is none."""
        if specials.eos is None and (self.eos == "argmax" or self.tail == "end"):
            raise _impossible(self, "it needs an EOS, and the model has none")


def _impossible(ending: Ending, why: str) -> PartimentoError:
    what = f"eos {ending.eos!r} with tail {ending.tail!r} is no ending of this model"
    return PartimentoError("SAMPLE011", what, why=why, next="use the ending that is stored with the model")


FREE = Ending()


class Sheet:
    """grid_BSK on the device, with rows before `first` given whole. A step is a number, or a tensor [1] that holds it.

    EOS may stand in book 0 from the second frame on (no clip is empty); then the item's frames end there, and its later
    places become EOS and PAD, staggered as in training.
    `cardinalities` are those of each book, where they are not all the `cardinality`.
    Raises SAMPLE011 for an ending that needs an EOS, if the specials have none.
    """

    def __init__(
        self,
        pattern: Pattern,
        specials: Specials,
        *,
        frames: int,
        prompt_BTK: Tensor,
        cardinality: int,
        ending: Ending,
        device: torch.device,
        cardinalities: Sequence[int] | None = None,
    ) -> None:
        ending.check(specials)
        self.pattern, self.specials, self.cardinality = pattern, specials, cardinality
        self.frames, self.prompt_frames, self.ending = frames, prompt_BTK.shape[1], ending
        self.stops = stops = ending.eos != "never" and specials.eos is not None
        self.steps = pattern.steps(frames, ends=False)
        frame_SK = pattern.holds(0, self.steps)
        limit = NO_FRAME if ending.tail == "free" else frames
        free_SK: NDArray[np.bool_] = (frame_SK >= self.prompt_frames) & (frame_SK < limit)
        free_S = free_SK.sum(axis=1) > 0
        self.first = int(free_S.argmax())
        self.some_free: list[bool] = free_S.tolist()
        # The books from the first that is free at a step to the last.
        first_S, last_S = free_SK.argmax(axis=1).tolist(), free_SK[:, ::-1].argmax(axis=1).tolist()
        self.free_books = [slice(a, free_SK.shape[1] - b) for a, b in zip(first_S, last_S, strict=True)]
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
        grid_BSK = np.stack(rows)
        if ending.tail == "end":
            assert specials.eos is not None
            grid_BSK[:, frame_SK == frames] = specials.eos
        # Where book 0 stands at each row, from 0 at the first frame to 1 at the last.
        place_S = np.floor_divide(np.arange(self.steps) - 1 - pattern.delays[0], pattern.stride)
        share_S = place_S.clip(0, frames - 1) / max(1, frames - 1)
        self.share_S = torch.from_numpy(share_S.astype(np.float32)).to(device)
        self.grid_BSK = torch.from_numpy(grid_BSK).to(device)
        self.free_SK = torch.from_numpy(free_SK).to(device)
        self.frame_SK = torch.from_numpy(frame_SK.copy()).to(device)
        self.never_SK = torch.from_numpy(never_SK).to(device)
        self.end_B = torch.full((len(rows),), _UNENDED, dtype=torch.int64, device=device)
        self.cardinality_K = tuple(cardinalities or [cardinality] * pattern.codebooks)
        self.nothing_KV: Tensor | None = None
        if set(self.cardinality_K) != {cardinality}:
            id_V, limit_K1 = (
                torch.arange(cardinality + (specials.eos is not None)),
                torch.tensor(self.cardinality_K)[:, None],
            )
            self.nothing_KV = ((id_V >= limit_K1) & (id_V < cardinality)).to(device)

    def forbid(self, logits_BKV: Tensor, books: slice = ALL) -> None:
        """Takes out, in place, ids that are codes of other books only. To a finite number: guidance still follows."""
        if self.nothing_KV is not None:
            logits_BKV.masked_fill_(self.nothing_KV[books], _NEVER)

    def ban(self, logits_BKV: Tensor, step: int | Tensor, books: slice = ALL) -> None:
        """Takes out, in place, EOS wherever it may not be drawn at this step, and all else where it must be."""
        eos = self.specials.eos
        if eos is None:
            return
        never_BK = self.never_SK[step][..., books]
        if self.stops and self.ending.eos == "argmax":
            likeliest_BK = logits_BKV.argmax(dim=-1) == eos
            logits_BKV[..., :eos].masked_fill_((likeliest_BK & ~never_BK)[..., None], -torch.inf)
            never_BK = never_BK | ~likeliest_BK
        logits_BKV[..., eos].masked_fill_(never_BK, -torch.inf)

    def write(self, step: int | Tensor, drawn_BK: Tensor, books: slice = ALL) -> None:
        """Puts drawn ids of these books on the free places of one row; an EOS in book 0 ends its item."""
        row_BK = self.grid_BSK[:, step].view(len(drawn_BK), -1)
        if drawn_BK.shape != row_BK.shape:
            some_BK, drawn_BK = drawn_BK, row_BK.clone()
            drawn_BK[:, books] = some_BK
        free_K = self.free_SK[step].view(-1)
        drawn_BK = torch.where(free_K, drawn_BK, row_BK)
        if self.stops:
            assert self.specials.eos is not None
            frame_K = self.frame_SK[step].view(-1)
            # The EOS that a tail holds is no end of the item's own.
            ends_B = (drawn_BK[:, 0] == self.specials.eos) & free_K[0] & (self.end_B == _UNENDED)
            self.end_B.copy_(torch.where(ends_B, frame_K[0], self.end_B))
            end_B1 = self.end_B[:, None]
            drawn_BK = drawn_BK.masked_fill(frame_K == end_B1, self.specials.eos)
            drawn_BK = drawn_BK.masked_fill(frame_K > end_B1, self.specials.pad)
        self.grid_BSK[:, step] = drawn_BK if isinstance(step, int) else drawn_BK[:, None]

    def finished(self, written: int) -> bool:
        """Whether `written` rows hold all frames of all items. Waits for the device."""
        if not self.stops:
            return written >= self.steps
        longest = min(int(self.end_B.max()), self.frames)
        return written >= self.pattern.steps(longest, ends=False)

    def hear(self, first: int, written: int) -> tuple[Tensor, list[int | None], bool]:
        """(codes_BTK of the frames from `first` on that `written` rows hold whole, where each item ended, `finished`).

        On the CPU, in one transfer. Codes are 0 past the end of their item; None is an item that has not ended by
        itself. Raises TOKEN002 as `codes` does.
        """
        stride, B, K = self.pattern.stride, len(self.end_B), self.pattern.codebooks
        last = min(self.frames, max(first, -(-(written - 1 - self.pattern.max_delay) // stride)))
        rows = max(0, self.pattern.steps(last, ends=False) - stride * first)
        rows_BSK = self.grid_BSK[:, stride * first : stride * first + rows]
        heard_BN = torch.cat([self.end_B[:, None], rows_BSK.flatten(1)], dim=1).cpu()
        end_B = heard_BN[:, 0]
        longest = min(int(end_B.max()), self.frames)
        frame_SK = torch.from_numpy(self.pattern.holds(stride * first, rows).copy())
        rows_BSK = heard_BN[:, 1:].view(B, rows, K).masked_fill(frame_SK >= end_B[:, None, None], 0)
        codes_BTK = revert(rows_BSK, self.pattern, max(0, min(last, longest) - first), cardinality=self.cardinality_K)
        ends = [end if end <= self.frames else None for end in end_B.tolist()]
        return codes_BTK, ends, written >= self.pattern.steps(longest, ends=False)

    def ends(self) -> list[tuple[int, bool]]:
        """Per item its number of frames, and whether it ended by itself there."""
        return [(min(end, self.frames), end <= self.frames) for end in self.end_B.tolist()]

    def codes(self, item: int, frames: int) -> Tensor:
        """[T, K] int64 on the CPU, exact: raises TOKEN002 if anything but a code stands at the place of a code."""
        grid_1SK = self.grid_BSK[item : item + 1].cpu()
        return revert(grid_1SK, self.pattern, frames, cardinality=self.cardinality_K)[0]
