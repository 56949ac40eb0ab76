"""The parts of the memorisation audit: index and search, p-values, drift, diversity."""

from itertools import pairwise

import numpy as np
import pytest
from memorised_fakes import RATE, changed, music, write_pack

from partimento.lab.memorised import search as searching
from partimento.lab.memorised.diversity import diversity, vendi
from partimento.lab.memorised.drift import drifts
from partimento.lab.memorised.frames import Surprise, ngrams, surprise, symbols
from partimento.lab.memorised.held import window_length
from partimento.lab.memorised.index import Queries
from partimento.lab.memorised.pvalues import Gumbel, fit, holm, pvalue
from partimento.lab.memorised.search import search


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    train = [music(i, 70 + 5 * i) for i in range(8)]
    return write_pack(tmp_path_factory.mktemp("parts") / "pack", train, [music(100 + i, 60) for i in range(4)])


def longest(one_TK, two_TK, informs_T):
    """(informative, frames) of the longest common run, frame by frame."""
    best = (0, 0)
    run = {}
    for i in range(len(one_TK)):
        row = {}
        for j in range(len(two_TK)):
            if one_TK[i] == two_TK[j]:
                informative, frames = run.get(j - 1, (0, 0))
                row[j] = informative + bool(informs_T[i]), frames + 1
                best = max(best, row[j])
        run = row
    return best


@pytest.mark.parametrize(("block", "pairs"), [(2**18, 10**7), (150, 10**7), (150, 300)])
def test_longest_runs_are_those_of_a_slow_loop(pack, monkeypatch, block, pairs):
    """Whole clips in one block or in many; with so few pairs allowed that the seeds are longer than a frame."""
    monkeypatch.setattr(searching, "BLOCK", block)
    monkeypatch.setattr(searching, "MOST_PAIRS", pairs)
    train = pack.split("train")
    samples = [changed(np.asarray(pack.read(int(train[i])))[10:60], 0.05, i) for i in range(2)] + [music(7000, 40)]
    queries = Queries(samples, surprise(pack, train))
    found = search(pack, train, queries)
    assert set(found.seeds) == {1, 2, 3}
    assert max(found.seeds.values()) == 1 or pairs < 10**7
    compared = 0
    for books, runs in found.runs.items():
        informs_N = queries.index(books, 1).informs_N
        for number, sample in enumerate(samples):
            informs_T = informs_N[queries.starts[number] : queries.starts[number + 1]]
            clips = [pack.read(int(clip))[:, :books].tolist() for clip in train]
            informative, frames = max(longest(sample[:, :books].tolist(), clip, informs_T) for clip in clips)
            run = runs[number]
            if run is None:
                assert frames < max(found.seeds[books], 2) or not informative
            elif informative > found.seeds[books]:
                assert run.informative == informative
                compared += 1
    assert compared >= 4


def test_clips_that_all_repeat_one_passage_do_not_end_the_search(tmp_path, monkeypatch):
    """The n-grams that crowd the samples are not looked up, and are counted; the others are."""
    monkeypatch.setattr(searching, "MOST_PAIRS", 100)
    bar = music(5, 8)
    train = [np.concatenate([np.tile(bar, (12, 1)), music(10 + i, 60)]) for i in range(6)]
    pack = write_pack(tmp_path / "pack", train, [])
    clips = pack.split("train")
    own = np.concatenate([np.tile(bar, (40, 1)), train[2][100:150]])
    found = search(pack, clips, Queries([own], surprise(pack, clips)))
    assert found.crowded[3] >= 8 and found.seeds[3] == 32
    assert (pack.clips.clip[found.runs[3][0].clip], found.runs[3][0].frames) == ("t2", 50)


def test_spectrum_counts_maximal_runs(pack):
    train = pack.split("train")
    sample = np.concatenate([np.asarray(pack.read(int(train[0]))[20:40]), np.full((1, 3), 63, np.uint16)])
    found = search(pack, train, Queries([sample], surprise(pack, train)))
    assert found.spectrum_QL[3].sum() >= 1
    assert found.spectrum_QL[3][0].nonzero()[0].max() == found.runs[3][0].informative


def test_what_surrounds_a_clip_is_not_part_of_it(pack):
    """A sample that is the end of a clip and the beginning of the one that follows it in the shard: no run crosses."""
    train = [int(clip) for clip in pack.split("train")]
    a, b = next((a, b) for a, b in pairwise(train) if b == a + 1 and pack.clips.shard[a] == pack.clips.shard[b])
    sample = np.concatenate([np.asarray(pack.read(a)[-30:]), np.asarray(pack.read(b)[:30])])
    found = search(pack, pack.split("train"), Queries([sample], surprise(pack, pack.split("train"))))
    assert found.runs[3][0].frames == 30


def test_held_out_clips_are_not_searched(pack):
    train, valid = pack.split("train"), pack.split("valid")
    sample = np.asarray(pack.read(int(valid[0])))
    found = search(pack, train, Queries([sample], surprise(pack, train)))
    assert found.runs[3][0] is None or found.runs[3][0].frames < 5


def test_ngrams_are_equal_where_frames_are():
    codes = music(3, 300)
    codes[200:240] = codes[20:60]
    for books in (1, 2, 3):
        for length in (1, 2, 3, 5, 8, 13):
            hashes = ngrams(symbols(codes, books), length)
            assert len(hashes) == 300 - length + 1
            assert (hashes[200 : 241 - length] == hashes[20 : 61 - length]).all()
    wide = ngrams(symbols(codes, 3), 8)
    assert len(np.unique(wide)) >= 300 - 7 - 40
    nine = np.random.default_rng(0).integers(0, 1024, (500, 9)).astype(np.uint16)
    other = nine.copy()
    other[:, 8] ^= 1  # the last book alone
    assert not (symbols(nine, 9) == symbols(other, 9)).any()


def test_frames_that_inform():
    nats_KV = np.full((3, 64), 4.0, np.float32)
    nats_KV[:, 0] = 0.5  # a very common code
    known = Surprise(nats_KV, np.full(3, 3.0))
    codes = np.array([[60, 60, 60], [60, 60, 60], [0, 0, 0], [60, 60, 61], [60, 60, 62]], np.uint16)
    assert known.informs(codes, np.array([0]), 3).tolist() == [True, False, False, True, True]
    assert known.informs(codes, np.array([0]), 2).tolist() == [True, False, False, True, False]
    assert known.informs(codes, np.array([0, 1]), 1).tolist() == [True, True, False, True, False]  # a clip begins


def test_rank_and_fit():
    null = [3, 4, 4, 5, 5, 5, 6, 6, 7, 9]
    one = pvalue(6, null, None)
    assert one.rank == pytest.approx(5 / 11) and one.p == one.rank and one.reached == 4
    law = fit(null)
    far = pvalue(40, null, law)
    assert far.rank == pytest.approx(1 / 11) and far.p == far.fitted < 1e-6
    assert pvalue(9, null, law).p == pvalue(9, null, law).rank  # reached by one: the rank says it
    assert pvalue(40, null, law, times=3).rank == pytest.approx(1 - (10 / 11) ** 3)
    assert fit([5] * 12).beyond(5) > 0.4 and fit([5] * 12).beyond(30) < 1e-9
    assert fit([1, 2, 3]) is None


def test_a_tail_that_is_heavier_than_the_law_is_not_fitted():
    assert fit([2, 2, 3, 3, 3, 2, 4, 3, 2, 3, 3, 90]) is None


def test_the_fit_is_on_the_safe_side():
    """The probability of what lies far out is not underestimated in nine of ten draws."""
    law = Gumbel(10.0, 2.0, 0)
    far = 35.0
    safe = 0
    for seed in range(60):
        u = np.random.default_rng(seed).random(30)
        values = np.rint(law.place - law.scale * np.log(-np.log(u)))
        found = fit(values.tolist())
        safe += found is None or found.beyond(far) >= law.beyond(far)
    assert safe >= 54


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_windows_are_as_long_as_held_out_clips_allow():
    assert window_length(np.full(30, 500), 400) == 400
    assert window_length(np.arange(100, 200), 400) == 180  # the 20 longest
    assert window_length(np.array([10, 20, 300, 400]), 350) == 300  # the longer half of a few
    assert window_length(np.array([], int), 350) == 0


def test_drift_is_seen_where_the_codes_change_and_not_elsewhere():
    steady = [music(i, 9 * RATE) for i in range(4)]
    moving = []
    for i in range(4):
        codes_TK = music(i, 9 * RATE)
        codes_TK[6 * RATE :] = codes_TK[6 * RATE :] % 8
        moving.append(codes_TK)
    held = [music(100 + i, 9 * RATE) for i in range(8)]
    calm, found = drifts(steady, held, RATE), drifts(moving, held, RATE)
    assert calm.usage_p > 0.05 and calm.entropy_p > 0.05 and calm.more_usage_p > 0.05
    assert found.usage_p == pytest.approx(1 / 200) and found.entropy_p < 0.02 and found.more_usage_p < 0.01
    assert found.samples[0].entropy_thirds[2] < found.samples[0].entropy_thirds[0] - 0.5
    assert found.held_usage == pytest.approx(calm.usage, abs=0.03)
    assert drifts([music(0, 300)], held, RATE).samples == [None]


def test_drift_p_values_are_even():
    """Of playing without drift every p-value is as frequent as any other."""
    p = [one.usage_p for one in drifts([music(i, 6 * RATE) for i in range(60)], [], RATE).samples]
    assert 0.35 < np.mean(p) < 0.65 and np.mean(np.asarray(p) <= 0.1) < 0.25


def test_diversity_of_equal_different_and_grouped_samples():
    one = np.random.default_rng(0).integers(0, 16, (400, 3)).astype(np.uint16)
    same = diversity([one] * 5, ["a"] * 5, ["x"] * 5, [], 64)
    assert same.vendi == pytest.approx(1) and same.distance == pytest.approx(0, abs=1e-9)
    apart = [one, one + 16, one + 32, one + 48]
    far = diversity(apart, ["a", "a", "b", "b"], ["x"] * 4, [], 64)
    assert far.vendi == pytest.approx(4) and far.within == pytest.approx(1) == far.across
    groups = diversity([one, one, one + 16, one + 16], ["a", "a", "b", "b"], ["x"] * 4, apart, 64)
    assert groups.vendi == pytest.approx(2)
    assert groups.within == pytest.approx(0, abs=1e-9) and groups.across == pytest.approx(1)
    assert groups.held_vendi == pytest.approx(4)
    assert groups.distinct == pytest.approx(far.distinct / 2)
    other = diversity([one, one + 16], ["a", "b"], ["x", "y"], [], 64)  # another setting is no other prompt
    assert other.within is None and other.across is None and other.distance == pytest.approx(1)


def test_vendi_of_a_known_kernel():
    kernel = np.array([[1, 0.5], [0.5, 1]])
    values = np.array([0.75, 0.25])
    assert vendi(kernel) == pytest.approx(np.exp(-(values * np.log(values)).sum()))
