"""Patterns against a slow loop written from the definition, the golden grids, and their own inverse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.errors import PartimentoError
from partimento.tokens.patterns import NO_FRAME, Pattern, apply, revert, window
from partimento.tokens.spec import Specials

V = 50
SPECIALS = Specials.after(V)

patterns = st.builds(
    Pattern,
    st.lists(st.integers(0, 17), min_size=1, max_size=18).map(tuple),
    st.integers(1, 20),
)


def codes(T, K, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, V, (1, T, K)))


def slow_grid(codes_TK, pattern, specials, ends):
    """The definition, one place at a time: put every frame where the formula says, then fill the rest."""
    T, K = codes_TK.shape
    S = max(1, pattern.stride * (T - 1) + max(pattern.delays) + 2 + (pattern.stride if ends else 0))
    grid = [[None] * K for _ in range(S)]
    for k in range(K):
        for t in range(T + 1 if ends else T):
            grid[1 + pattern.stride * t + pattern.delays[k]][k] = specials.eos if t == T else int(codes_TK[t, k])
        for s in range(S):
            if grid[s][k] is None:
                grid[s][k] = specials.bos if s < 1 + pattern.delays[k] else specials.pad
    return np.array(grid)


@settings(max_examples=300, deadline=None)
@given(patterns, st.integers(0, 40), st.booleans())
def test_apply_equals_the_slow_loop_and_revert_is_its_inverse(pattern, T, ends):
    codes_BTK = codes(T, pattern.codebooks)
    grid = apply(codes_BTK, pattern, SPECIALS, ends=ends)
    assert grid.shape[1] == pattern.steps(T, ends) and grid.dtype == torch.int64
    np.testing.assert_array_equal(grid[0].numpy(), slow_grid(codes_BTK[0].numpy(), pattern, SPECIALS, ends))
    assert torch.equal(revert(grid, pattern, T, cardinality=V), codes_BTK)


@settings(max_examples=300, deadline=None)
@given(patterns, st.integers(1, 30), st.booleans(), st.data())
def test_window_is_a_slice_of_the_whole_grid_and_reads_only_what_it_holds(pattern, T, ends, data):
    codes_TK = codes(T, pattern.codebooks)[0].numpy()
    S = pattern.steps(T, ends)
    start = data.draw(st.integers(0, S))
    steps = data.draw(st.integers(1, S + 5))
    whole = np.full((start + steps + S, pattern.codebooks), SPECIALS.pad)
    whole[:S] = slow_grid(codes_TK, pattern, SPECIALS, ends)
    asked = []

    def read(first, last):
        assert 0 <= first < last <= T
        asked.append((first, last))
        return codes_TK[first:last]

    got = window(read, T, pattern, SPECIALS, start, steps, ends)
    np.testing.assert_array_equal(got, whole[start : start + steps])
    held = {int(f) for f in pattern.holds(start, steps).ravel() if 0 <= f < T}
    assert held <= {t for first, last in asked for t in range(first, last)}


def test_window_equals_the_slice_for_every_start():
    for pattern in (Pattern((0, 8, 9, 10)), Pattern((0, 1, 2, 3), stride=4), Pattern((3, 0, 5))):
        codes_BTK = codes(12, pattern.codebooks)
        whole = apply(codes_BTK, pattern, SPECIALS, ends=True)[0].numpy()
        for start in range(len(whole)):
            for steps in (1, 3, len(whole) - start):
                rows = min(steps, len(whole) - start)
                got = window(lambda a, b: codes_BTK[0].numpy()[a:b], 12, pattern, SPECIALS, start, rows, True)  # noqa: B023
                np.testing.assert_array_equal(got, whole[start : start + rows])


@settings(max_examples=200, deadline=None)
@given(patterns, st.integers(0, 60), st.integers(0, 17))
def test_frame_at_and_step_of_are_inverse(pattern, frame, book):
    book %= pattern.codebooks
    assert pattern.frame_at(pattern.step_of(frame, book), book) == frame
    held = pattern.holds(frame, 3)
    for row in range(3):
        at = pattern.frame_at(frame + row, book)
        assert at == held[row, book] or (at is None and (held[row, book] < 0 or held[row, book] == NO_FRAME))


def test_stereo_of_eighteen_books_loses_nothing_when_shorter_than_the_delay():
    pattern = Pattern(tuple(d for d in range(9) for _ in range(2)))
    for T in (1, 2, 8, 9, 30):
        codes_BTK = codes(T, 18)
        for ends in (False, True):
            assert torch.equal(
                revert(apply(codes_BTK, pattern, SPECIALS, ends=ends), pattern, T, cardinality=V), codes_BTK
            )


def golden_codes():
    return torch.tensor([[[10 * t + c for c in range(3)] for t in range(1, 5)]])


def test_golden_grid_of_dia():
    """music_lm.md 2.1, table 1: T = 4, d = [0, 2, 3]."""
    B, P, E = 1026, 1025, 1024
    expected = [[B, B, B], [10, B, B], [20, B, B], [30, 11, B], [40, 21, 12]]
    expected += [[E, 31, 22], [P, 41, 32], [P, E, 42], [P, P, E]]
    grid = apply(golden_codes(), Pattern((0, 2, 3)), Specials.after(1024), ends=True)
    assert grid[0].tolist() == expected


def test_golden_grid_of_musicgen():
    """music_lm.md 2.2, table 2: T = 4, d = [0, 1, 2], one special."""
    S = 2048
    expected = [[S, S, S], [10, S, S], [20, 11, S], [30, 21, 12], [40, 31, 22], [S, 41, 32], [S, S, 42]]
    grid = apply(golden_codes(), Pattern((0, 1, 2)), Specials.musicgen(2048), ends=False)
    assert grid[0].tolist() == expected


def test_flat_lays_one_code_a_step():
    pattern = Pattern.named("flat", 3)
    grid = apply(codes(5, 3), pattern, SPECIALS, ends=False)[0]
    assert len(grid) == 1 + 15
    assert ((grid[1:] < V).sum(1) == 1).all()
    assert torch.equal(grid[1:].min(1).values, codes(5, 3).reshape(-1))


def test_names():
    assert Pattern.named("delay", 4).delays == (0, 1, 2, 3)
    assert Pattern.named("dia", 9).delays == (0, 8, 9, 10, 11, 12, 13, 14, 15)
    assert Pattern.named("parallel", 2) == Pattern((0, 0))
    assert Pattern.named("delay", 5, (3, 2)).delays == (0, 1, 2, 0, 1), "again in each channel"
    assert Pattern.named("dia", 18, (9, 9)).delays == (0, *range(8, 16)) * 2
    assert Pattern.named([0, 0, 1, 1], 4) == Pattern((0, 0, 1, 1))
    for bad, K in (("delays", 4), ([0, 1], 3), ([0, -1], 2), ([], 0)):
        with pytest.raises(PartimentoError, match="TOKEN001"):
            Pattern.named(bad, K)


def test_revert_refuses_specials_ids_out_of_range_and_short_grids():
    pattern = Pattern((0, 1))
    grid = apply(codes(4, 2), pattern, SPECIALS, ends=True)
    for bad in (SPECIALS.eos, SPECIALS.pad, SPECIALS.bos, V, -1):
        broken = grid.clone()
        broken[0, 3, 1] = bad
        with pytest.raises(PartimentoError, match="TOKEN002") as err:
            revert(broken, pattern, 4, cardinality=V)
        assert "frame 1, codebook 1" in err.value.where
    with pytest.raises(PartimentoError, match="TOKEN002"):
        revert(grid, pattern, 5, cardinality=V)
    with pytest.raises(PartimentoError, match="TOKEN002"):
        revert(grid[:, :4], pattern, 4, cardinality=V)
    assert revert(grid, pattern, 0, cardinality=V).shape == (1, 0, 2)
    small = torch.tensor([[[0, 0], [3, 3]]])
    with pytest.raises(PartimentoError, match="TOKEN002"):
        revert(small, Pattern((0, 0)), 1, cardinality=(4, 3))


def test_an_end_needs_an_eos():
    with pytest.raises(ValueError):
        apply(codes(4, 2), Pattern((0, 1)), Specials.musicgen(V), ends=True)
