"""Where items end, and that their grids are those of training."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_decoders import PATTERNS, SPECIALS, K, Rigged, V, tiny
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.conditions import Told
from partimento.models.decoder import CodeDecoder
from partimento.sampling import generate as module
from partimento.sampling.generate import Played, generate
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.sampling.sheet import Ending, Sheet
from partimento.tokens.patterns import NO_FRAME, Pattern, apply
from partimento.tokens.spec import Specials

FRAMES = 12
GREEDY = Rules(temperature=0.0)
ENDINGS = [
    Ending(eos, tail) for eos, tail in itertools.product(("draw", "argmax", "never"), ("free", "special", "end"))
]
STEREO = Pattern(Pattern.named("dia", 9).delays * 2)


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[Sheet]:
    """Those that are written from here on."""
    made: list[Sheet] = []

    class Kept(Sheet):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(module, "Sheet", Kept)
    return made


def play(decoder: CodeDecoder, pattern: Pattern, ending: Ending, **changes) -> list[Played]:
    request = {"frames": FRAMES, "seeds": [1, 2], "rules": Rules(), "context": 250, **changes}
    return generate(decoder, pattern, SPECIALS, ending=ending, **request)


def expected_grid(codes_TK: Tensor, pattern: Pattern, steps: int, ends: bool) -> Tensor:
    grid_SK = apply(codes_TK[None], pattern, SPECIALS, ends=ends)[0]
    beyond = torch.full((max(0, steps - len(grid_SK)), pattern.codebooks), SPECIALS.pad)
    return torch.cat([grid_SK, beyond])[:steps]


@pytest.mark.parametrize(("static", "given"), [(False, 0), (True, 3)])
@pytest.mark.parametrize("ending", ENDINGS, ids=str)
@pytest.mark.parametrize("name", [*PATTERNS, "stereo"])
def test_the_grid_is_that_of_training(name: str, ending: Ending, given: int, static: bool, sheets: list[Sheet]) -> None:
    """One item ends by itself at frame 7, one does not; every row that the model has read is what `apply` makes."""
    pattern = STEREO if name == "stereo" else PATTERNS[name]
    decoder = tiny(cls=Rigged, codebooks=pattern.codebooks, **({"layers": 1} if name == "stereo" else {}))
    decoder.at, decoder.pattern = (7, 99), pattern
    prompt = torch.randint(0, V, (2, given, pattern.codebooks))
    ended, cut = play(decoder, pattern, ending, prompt_BTK=prompt, static=static)
    ends = ending.eos != "never"
    assert (len(ended.codes_TK), ended.ended) == ((7, True) if ends else (FRAMES, False))
    assert (len(cut.codes_TK), cut.ended) == (FRAMES, False)
    assert torch.equal(cut.codes_TK[:given], prompt[1])
    (sheet,) = sheets
    frame_SK, rows = torch.from_numpy(pattern.holds(0, sheet.steps).copy()), torch.arange(sheet.steps)[:, None]
    for item, played in enumerate((ended, cut)):
        grid = sheet.grid_BSK[item].clone()
        own = played.ended
        expected = expected_grid(played.codes_TK, pattern, sheet.steps, ends=own or ending.tail == "end")
        # A book ahead of book 0 could not know the end yet.
        ahead = (frame_SK >= 7) & (rows < pattern.step_of(7, 0)) if own else torch.zeros_like(frame_SK, dtype=bool)
        if not own and ending.tail == "free":
            overhang = (frame_SK >= FRAMES) & (frame_SK != NO_FRAME)
            assert (grid[overhang] < SPECIALS.eos).all() or ends  # an end after the end may be drawn
            ahead = overhang
        assert torch.equal(grid.masked_fill(ahead, 0), expected.masked_fill(ahead, 0))


@pytest.mark.parametrize("ending", ENDINGS, ids=str)
@pytest.mark.parametrize("name", PATTERNS)
def test_frames_are_exact_for_every_end(name: str, ending: Ending) -> None:
    pattern = PATTERNS[name]
    decoder = tiny(cls=Rigged, layers=1)
    decoder.at, decoder.pattern = tuple(range(FRAMES + 2)), pattern
    played = play(decoder, pattern, ending, seeds=list(range(FRAMES + 2)))
    for at, item in enumerate(played):
        ends = ending.eos != "never" and 0 < at < FRAMES
        # In a free tail an end right behind the last frame is seen too, if the grid has its row.
        behind = ending.tail == "free" and at == FRAMES and pattern.step_of(at, 0) < pattern.steps(FRAMES, ends=False)
        seen = ending.eos != "never" and (ends or behind)
        assert (len(item.codes_TK), item.ended) == (at if ends else FRAMES, seen), at
        assert item.codes_TK.min() >= 0 and item.codes_TK.max() < V


class Tempted(CodeDecoder):
    """EOS is `margin` above the likeliest code, in every book of every row."""

    margin = 0.0

    def forward(self, grid_BSK: Tensor, **extra) -> Tensor:  # type: ignore[override]
        logits = super().forward(grid_BSK, **extra)
        logits[..., V] = logits[..., :V].amax(-1) + self.margin
        return logits


@pytest.mark.parametrize("static", [False, True])
def test_argmax_takes_eos_where_it_is_the_likeliest_and_nowhere_else(static: bool) -> None:
    decoder, pattern = tiny(cls=Tempted, layers=1), PATTERNS["delay"]
    rules, seeds = Rules(temperature=3.0), list(range(20))
    decoder.margin = -0.01  # as likely as the likeliest code, and not drawn once
    second = play(decoder, pattern, Ending("argmax"), rules=rules, seeds=seeds, static=static)
    assert all(len(item.codes_TK) == FRAMES and not item.ended for item in second)
    drawn = play(decoder, pattern, Ending("draw"), rules=rules, seeds=seeds, static=static)
    assert any(item.ended for item in drawn)
    decoder.margin = 0.01  # hardly likelier than others, and taken each time, from the second frame on
    first = play(decoder, pattern, Ending("argmax"), rules=rules, seeds=seeds, static=static)
    assert all(len(item.codes_TK) == 1 and item.ended for item in first)
    drawn = play(decoder, pattern, Ending("draw"), rules=rules, seeds=seeds, static=static)
    assert any(len(item.codes_TK) > 1 for item in drawn)


@pytest.mark.parametrize("tail", ["free", "special", "end"])
@pytest.mark.parametrize("rules", [GREEDY, Rules(0.5, top_k=1), Rules(top_p=0.01), Rules(min_p=1.0)], ids=str)
def test_bans_come_before_the_rules(rules: Rules, tail: str) -> None:
    """Where EOS may not stand there are codes, however likely it is and whatever the rules leave of the others."""
    decoder, pattern = tiny(cls=Tempted, layers=1), PATTERNS["dia"]
    decoder.margin = 40.0
    for eos, frames in (("never", FRAMES), ("draw", 1), ("argmax", 1)):
        for item in play(decoder, pattern, Ending(eos, tail), rules=rules):
            assert len(item.codes_TK) == frames and item.codes_TK.max() < V


@pytest.mark.parametrize("rules", [GREEDY, Rules()], ids=["greedy", "drawn"])
def test_the_filter_leaves_a_code_where_eos_may_not_stand(rules: Rules) -> None:
    decoder, pattern = tiny(cls=Tempted, layers=1, tags=2), PATTERNS["delay"]
    decoder.margin = 40.0
    with torch.no_grad():
        told = Told(decoder.condition(torch.eye(2), torch.tensor([True, True])))
        null = Told(decoder.condition.null(2))
    guidance = Guidance(3.0, "filter", top_k=2)
    for item in play(decoder, pattern, Ending("never"), rules=rules, told=told, null=null, guidance=guidance):
        assert len(item.codes_TK) == FRAMES and item.codes_TK.max() < V


def test_an_end_is_judged_after_the_guidance() -> None:
    """EOS is the likeliest under the condition and not after the guidance, or the reverse."""

    class Torn(CodeDecoder):
        under_null = 0.0

        def forward(self, grid_BSK: Tensor, **extra) -> Tensor:  # type: ignore[override]
            logits = super().forward(grid_BSK, **extra) * 0.0
            condition, null = logits.chunk(2)
            condition[..., V], null[..., V] = 1.0, self.under_null
            condition[..., 0], null[..., 0] = 0.5, 0.0
            return logits

    decoder = tiny(cls=Torn, layers=1, tags=2)
    with torch.no_grad():
        given = {
            "told": Told(decoder.condition(torch.eye(2), torch.tensor([True, True]))),
            "null": Told(decoder.condition.null(2)),
        }
    mix, filtered = Guidance(2.0), Guidance(2.0, "filter", top_k=3)
    for under_null, guidance, ends in (
        (0.0, mix, True),
        (5.0, mix, False),
        (5.0, filtered, False),
        (0.0, filtered, True),
    ):
        decoder.under_null = under_null
        played = play(decoder, PATTERNS["delay"], Ending("argmax"), guidance=guidance, **given)
        assert all(item.ended == ends for item in played), (under_null, guidance)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["sparse", "flat"])
def test_strided_patterns_stop_early_too(name: str, static: bool) -> None:
    class Counting(Rigged):
        calls = 0

        def forward(self, grid_BSK, **extra):  # type: ignore[override]
            type(self).calls += 1
            return super().forward(grid_BSK, **extra)

    pattern = PATTERNS[name]
    decoder = tiny(cls=Counting, layers=1)
    decoder.at, decoder.pattern = (5,), pattern
    played = play(decoder, pattern, Ending(), frames=50, static=static)
    assert all(len(item.codes_TK) == 5 for item in played)
    assert Counting.calls <= pattern.steps(5, ends=False) + 16 + 1


@pytest.mark.parametrize("ending", [Ending("argmax"), Ending("draw", "end"), Ending("never", "end")], ids=str)
def test_an_ending_that_needs_an_eos(ending: Ending) -> None:
    specials = Specials.musicgen(V)
    request = {"frames": 4, "seeds": [1], "rules": Rules(), "context": 20}
    with pytest.raises(PartimentoError, match="SAMPLE011"):
        generate(tiny(specials), PATTERNS["delay"], specials, **request, ending=ending)


@pytest.mark.parametrize("wrong", [{"eos": "maybe"}, {"tail": "cut"}, {"eos": None}])
def test_endings_that_do_not_exist(wrong: dict) -> None:
    with pytest.raises(PartimentoError, match="SAMPLE011"):
        Ending(**wrong)


@pytest.mark.parametrize("rules", [GREEDY, Rules()], ids=["greedy", "drawn"])
@pytest.mark.parametrize("specials", [SPECIALS, Specials.musicgen(V)], ids=["eos", "musicgen"])
def test_logits_that_are_no_numbers_are_an_error(specials: Specials, rules: Rules) -> None:
    """Never a code 0."""

    class Broken(CodeDecoder):
        def forward(self, grid_BSK: Tensor, **extra) -> Tensor:  # type: ignore[override]
            logits = super().forward(grid_BSK, **extra)
            logits[:, :, 1, 3] = torch.nan
            return logits

    request = {"frames": 4, "seeds": [1], "rules": rules, "context": 20}
    with pytest.raises(PartimentoError, match="TOKEN002") as caught:
        generate(tiny(specials, Broken), PATTERNS["delay"], specials, **request)
    assert "codebook 1" in str(caught.value.where)


def test_a_model_with_more_rows_than_the_specials_need() -> None:
    """Dia's tables have 1028 rows, of which 1027 are used."""
    decoder = tiny(rows=SPECIALS.rows + 1)
    assert len(play(decoder, PATTERNS["dia"], Ending("never"))) == 2
    with pytest.raises(PartimentoError, match="SAMPLE003"):
        play(tiny(rows=SPECIALS.rows - 1), PATTERNS["dia"], Ending("never"))


def test_parallel_books_of_one_codebook() -> None:
    """K = 1: no overhang, no late books; an end is the row behind the last frame, which is not asked for."""
    pattern = Pattern((0,))
    decoder = tiny(cls=Rigged, codebooks=1)
    decoder.at, decoder.pattern = (4, 99), pattern
    ended, cut = play(decoder, pattern, Ending("argmax", "end"))
    assert (len(ended.codes_TK), len(cut.codes_TK)) == (4, FRAMES) and K == 3
