"""Frames are handed out while they are played."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_decoders import PATTERNS, SPECIALS, K, Rigged, V, tiny
from torch import Tensor

from partimento.sampling import generate as module
from partimento.sampling import looks
from partimento.sampling.generate import Played, generate
from partimento.sampling.rules import Rules
from partimento.sampling.sheet import Ending, Sheet


class Heard:
    """Remembers what it was told, and checks that it came in order."""

    def __init__(self, first: int) -> None:
        self.first, self.next, self.calls = first, first, 0
        self.blocks: list[Tensor] = []
        self.ends: list[list[int | None]] = []

    def __call__(self, first: int, codes_BTK: Tensor, ends_B: list[int | None]) -> None:
        assert first == self.next and codes_BTK.shape[1] > 0 and codes_BTK.device.type == "cpu"
        self.next += codes_BTK.shape[1]
        self.calls += 1
        self.blocks.append(codes_BTK)
        self.ends.append(ends_B)

    def check(self, played: list[Played]) -> None:
        """Together with the prompts the blocks are the codes of the items, 0 after their ends."""
        codes_BTK = torch.cat(self.blocks, dim=1)
        assert self.next == max(len(item.codes_TK) for item in played)
        for item, heard_TK, end in zip(played, codes_BTK, self.ends[-1], strict=True):
            frames = len(item.codes_TK) - self.first
            assert torch.equal(heard_TK[:frames], item.codes_TK[self.first :])
            assert not heard_TK[frames:].any()
            # Of an end right behind all that was heard nobody is told.
            assert end == (len(item.codes_TK) if item.ended else None) or (end is None and not len(heard_TK[frames:]))
        for before, after in itertools.pairwise(self.ends):
            assert all(was is None or was == now for was, now in zip(before, after, strict=True)), "an end never moves"


@pytest.mark.parametrize(("static", "tail", "given"), [(False, "free", 0), (True, "end", 5)])
@pytest.mark.parametrize("name", PATTERNS)
def test_every_frame_is_heard_once_in_order(name: str, given: int, tail: str, static: bool) -> None:
    pattern = PATTERNS[name]
    decoder = tiny(cls=Rigged, layers=1)
    for at in ((99, 99, 99), (11, 99, 25), (20, 8, 9)):
        decoder.at, decoder.pattern = at, pattern
        prompt, heard = torch.randint(0, V, (3, given, K)), Heard(given)
        request = {"frames": 33, "seeds": [1, 2, 3], "rules": Rules(), "context": 250, "prompt_BTK": prompt}
        request |= {"ending": Ending("draw", tail), "static": static}
        played = generate(decoder, pattern, SPECIALS, **request, listener=heard)
        heard.check(played)
        assert [len(item.codes_TK) for item in played] == [min(33, end) for end in at]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("listens", [False, True])
def test_one_look_at_the_device_every_16_steps(listens: bool, static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    class Counting(Sheet):
        def finished(self, written: int) -> bool:
            looked.append(written)
            return super().finished(written)

        def hear(self, first: int, written: int):  # type: ignore[no-untyped-def]
            looked.append(written)
            return super().hear(first, written)

    monkeypatch.setattr(module, "Sheet", Counting)
    pattern, heard = PATTERNS["dia"], Heard(0)
    request = {"frames": 150, "seeds": [1], "rules": Rules(), "context": 30, "static": static}
    decoder = tiny(cls=Rigged, layers=1)
    decoder.at = (999,)
    (played,) = generate(decoder, pattern, SPECIALS, **request, listener=heard if listens else None)
    steps = pattern.steps(len(played.codes_TK), ends=False)
    assert len(looked) <= steps // looks.EVERY + 2
    assert all(b - a == looks.EVERY for a, b in itertools.pairwise(looked[:-1]))
    if listens:
        # A frame is heard when its last code is written, at most one look later.
        heard.check([played])
        for written, block_end in zip(looked, torch.tensor([len(b[0]) for b in heard.blocks]).cumsum(0), strict=False):
            assert pattern.step_of(int(block_end) - 1, 2) < written <= pattern.step_of(int(block_end), 2)


def test_a_listener_that_has_enough_stops_the_playing() -> None:
    class Enough(Exception):
        pass

    calls = []

    def listener(first: int, codes_BTK: Tensor, ends_B: list[int | None]) -> None:
        calls.append(first)
        raise Enough

    decoder = tiny(layers=1).train()
    request = {"frames": 100, "seeds": [1], "rules": Rules(), "context": 30, "ending": Ending("never")}
    with pytest.raises(Enough):
        generate(decoder, PATTERNS["delay"], SPECIALS, **request, listener=listener)
    assert calls == [0] and decoder.training


@pytest.mark.parametrize("name", PATTERNS)
def test_a_look_when_there_is_nothing_new(name: str) -> None:
    prompt, device = torch.zeros(2, 3, K, dtype=torch.long), torch.device("cpu")
    request = {"frames": 9, "prompt_BTK": prompt, "cardinality": V, "ending": Ending("never"), "device": device}
    sheet = Sheet(PATTERNS[name], SPECIALS, **request)
    assert sheet.hear(3, sheet.first)[0].shape == (2, 0, K)
    sheet.grid_BSK.masked_fill_(sheet.free_SK, 1)
    assert sheet.hear(9, sheet.steps)[0].shape == (2, 0, K) and sheet.hear(3, sheet.steps)[2]
    assert sheet.hear(3, sheet.steps)[0].shape == (2, 6, K)
