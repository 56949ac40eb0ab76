"""Baselines against a brute-force computation from the definition, and against what is known exactly."""

import json
import math
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from packs import SPEC, write_pack

from partimento.errors import PartimentoError
from partimento.tokens import stats
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter


def brute(train, valid, V, strength):
    """Both models with dictionaries and fractions, one code at a time."""
    uni = Counter(c for clip in train for c in clip)
    pairs = defaultdict(Counter)
    for clip in train:
        for a, b in pairwise(clip):
            pairs[a][b] += 1

    def p1(c):
        return (uni[c] + Fraction(len(uni), V)) / (sum(uni.values()) + len(uni))

    def p2(c, h):
        return (pairs[h][c] + Fraction(strength) * p1(c)) / (sum(pairs[h].values()) + Fraction(strength))

    assert sum(p1(c) for c in range(V)) == 1
    assert all(sum(p2(c, h) for c in range(V)) == 1 for h in range(V))
    n = sum(map(len, valid))
    ce1 = -sum(math.log(p1(c)) for clip in valid for c in clip) / n
    ce2 = -sum(math.log(p1(c) if t == 0 else p2(c, clip[t - 1])) for clip in valid for t, c in enumerate(clip)) / n
    return ce1, ce2


def markov(frames, V, sharpness, seed):
    """Codes that mostly follow their predecessor by one."""
    rng = np.random.default_rng(seed)
    codes = [int(rng.integers(V))]
    while len(codes) < frames:
        codes.append((codes[-1] + 1) % V if rng.random() < sharpness else int(rng.integers(V)))
    return np.array(codes)


def test_cross_entropies_equal_the_brute_force(tmp_path):
    pack = write_pack(tmp_path)
    clips = [[(int(c), 0, int(pack.clips.frames[c])) for c in pack.split(name)] for name in ("train", "valid")]
    for book, V in enumerate(SPEC.cardinalities):
        sides = [[pack.read(*span)[:, book].tolist() for span in spans] for spans in clips]
        seen, held = (stats._counts(pack, spans, book) for spans in clips)
        for strength in (0.125, 3, 1000):
            ce1, ce2 = brute(*sides, V, strength)
            assert stats.unigram_ce(seen, held) == pytest.approx(ce1, rel=1e-12)
            assert stats.bigram_ce(seen, held, strength) == pytest.approx(ce2, rel=1e-12)
    got = stats.baselines(pack)
    assert got.unigram_ce_K[0] == pytest.approx(
        brute(*[[pack.read(*s)[:, 0].tolist() for s in c] for c in clips], 16, 1)[0]
    )
    assert got.bigram_bits_per_second == pytest.approx(50 * sum(got.bigram_ce_K) / math.log(2))
    json.dumps(got.to_json())


def test_the_bigram_uses_what_there_is_and_never_falls_far_behind_the_unigram(tmp_path):
    """Book 0 follows itself, book 1 is noise over many codes, where plain Witten-Bell loses 0.4 nats to the unigram."""
    spec = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (16, 256))
    writer = PackWriter(tmp_path, spec)
    for i in range(40):
        noise = np.random.default_rng(1000 + i).integers(0, 256, 200)
        writer.add(np.stack([markov(200, 16, 0.9, i), noise], axis=1))
    got = stats.baselines(writer.finish())
    # The true entropy of the chain: 0.9 + 0.1/16 for the follower, 0.1/16 for each of the others.
    true = -(0.9 + 0.1 / 16) * math.log(0.9 + 0.1 / 16) - 15 * (0.1 / 16) * math.log(0.1 / 16)
    assert got.bigram_ce_K[0] == pytest.approx(true, rel=0.15) and got.unigram_ce_K[0] > 2.7
    assert got.bigram_ce_K[1] < got.unigram_ce_K[1] + 0.01 < math.log(256) + 0.05


def test_unseen_codes_and_histories_stay_finite_and_structure_is_found(tmp_path):
    spec = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (64,))
    writer = PackWriter(tmp_path, spec)
    for i in range(20):  # each clip counts upwards in its own corner
        writer.add(((np.arange(30) + i) % (32 + i))[:, None])
    got = stats.baselines(writer.finish())
    assert np.isfinite(got.unigram_ce_K + got.bigram_ce_K).all()
    assert got.bigram_ce_K[0] < 0.5 * got.unigram_ce_K[0]


def test_usage_of_known_distributions(tmp_path):
    spec = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (8, 8))
    writer = PackWriter(tmp_path, spec)
    writer.add(np.stack([np.arange(64) % 8, np.full(64, 3)], axis=1))
    even, constant = stats.usage(writer.finish())
    assert (even.coverage, even.share, even.perplexity) == pytest.approx((1, 1, 8))
    assert (constant.coverage, constant.entropy, constant.perplexity) == pytest.approx((1 / 8, 0, 1))


def test_stats_sum_the_pack_up(tmp_path):
    found = stats.stats(write_pack(tmp_path / "a"))
    assert found.tags == {"120 bpm": 5, "drums": 5, "piano": 5}
    assert found.longest_seconds == 80 / 50 and found.baselines is not None
    json.dumps(found.to_json())
    alone = write_pack(tmp_path / "b", (30,))
    assert stats.stats(alone).baselines is None
    with pytest.raises(PartimentoError, match="PACK008"):
        stats.baselines(alone)


def test_targets_are_scored_with_the_code_before_them(tmp_path):
    pack = write_pack(tmp_path)
    train = [(int(clip), 0, int(pack.clips.frames[clip])) for clip in pack.split("train")]
    cut = [(clip, first, last) for clip, n, m in train for first, last in ((n, m // 3), (m // 3, m)) if first < last]
    whole = stats.baselines(pack, score="train")
    pieces = stats.baselines(pack, targets_K=[cut] * pack.spec.codebooks)
    assert pieces == whole  # a cut changes nothing: the first code of a piece still has its predecessor
    clip = int(pack.clips.frames.argmax())
    last = int(pack.clips.frames[clip])
    part = stats.baselines(pack, targets_K=[[(clip, last // 2, last)]] * pack.spec.codebooks)
    assert part.bigram_ce_K != whole.bigram_ce_K
    held = stats._counts(pack, [(clip, last // 2, last)], 0, lead=True)
    assert held.n_V.sum() == held.n_VV.sum() == last - last // 2
