"""Baselines against a brute-force computation from the definition; a pack summed up against what is known of it."""

import json
import math
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from packs import SPEC, write_pack
from songs import SPEC as SONG_SPEC
from songs import song

from partimento.errors import PartimentoError
from partimento.tokens import collection, counting, findings, stats
from partimento.tokens.pack import Pack
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
        seen, held = (counting.count(pack, spans, [book])[0] for spans in clips)
        for strength in (0.125, 3, 1000):
            ce1, ce2 = brute(*sides, V, strength)
            assert counting.unigram_ce(seen, held) == pytest.approx(ce1, rel=1e-12)
            assert counting.bigram_ce(seen, held, strength) == pytest.approx(ce2, rel=1e-12)
    got = counting.baselines(pack)
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
    got = counting.baselines(writer.finish())
    # The true entropy of the chain: 0.9 + 0.1/16 for the follower, 0.1/16 for each of the others.
    true = -(0.9 + 0.1 / 16) * math.log(0.9 + 0.1 / 16) - 15 * (0.1 / 16) * math.log(0.1 / 16)
    assert got.bigram_ce_K[0] == pytest.approx(true, rel=0.15) and got.unigram_ce_K[0] > 2.7
    assert got.bigram_ce_K[1] < got.unigram_ce_K[1] + 0.01 < math.log(256) + 0.05


def test_unseen_codes_and_histories_stay_finite_and_structure_is_found(tmp_path):
    spec = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (64,))
    writer = PackWriter(tmp_path, spec)
    for i in range(20):  # each clip counts upwards in its own corner
        writer.add(((np.arange(30) + i) % (32 + i))[:, None])
    got = counting.baselines(writer.finish())
    assert np.isfinite(got.unigram_ce_K + got.bigram_ce_K).all()
    assert got.bigram_ce_K[0] < 0.5 * got.unigram_ce_K[0]


def test_targets_are_scored_with_the_code_before_them(tmp_path):
    pack = write_pack(tmp_path)
    train = [(int(clip), 0, int(pack.clips.frames[clip])) for clip in pack.split("train")]
    cut = [(clip, first, last) for clip, n, m in train for first, last in ((n, m // 3), (m // 3, m)) if first < last]
    whole = counting.baselines(pack, score="train")
    pieces = counting.baselines(pack, targets_K=[cut] * pack.spec.codebooks)
    assert pieces == whole  # a cut changes nothing: the first code of a piece still has its predecessor
    clip = int(pack.clips.frames.argmax())
    last = int(pack.clips.frames[clip])
    part = counting.baselines(pack, targets_K=[[(clip, last // 2, last)]] * pack.spec.codebooks)
    assert part.bigram_ce_K != whole.bigram_ce_K
    held = counting.count(pack, [(clip, last // 2, last)], [0], lead=True)[0]
    assert held.n_V.sum() == held.n_VV.sum() == last - last // 2


def test_tables_of_pairs_that_do_not_fit_are_counted_in_several_passes(tmp_path, monkeypatch):
    pack = write_pack(tmp_path)
    whole = counting.baselines(pack)
    monkeypatch.setattr(counting, "TABLE_BYTES", 1)
    assert list(counting.batches([16, 16, 12], range(3))) == [[0], [1], [2]]
    assert counting.baselines(pack) == whole
    monkeypatch.setattr(counting, "GROUP_FRAMES", 1)
    assert counting.baselines(pack) == whole


def test_usage_of_known_distributions(tmp_path):
    spec = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (8, 8))
    writer = PackWriter(tmp_path, spec)
    writer.add(np.stack([np.arange(640) % 8, np.full(640, 3)], axis=1))
    found = stats.stats(writer.finish(), window=8)
    even, constant = found.usage
    assert (even.coverage, even.share, even.perplexity) == pytest.approx((1, 1, 8))
    assert (constant.coverage, constant.entropy, constant.perplexity) == pytest.approx((1 / 8, 0, 1))
    assert even.used == pytest.approx([1 / 8] * 8) and constant.used == pytest.approx([1] + [0] * 7)
    assert (even.verdict.kind, constant.verdict.kind) == ("ordered", "constant")
    assert even.splits["train"].bigram_entropy == pytest.approx(0, abs=0.05) and set(even.splits) == {"train"}
    assert found.baselines is None
    assert {one.kind for one in found.findings} >= {"no_valid", "constant_books"}
    with pytest.raises(PartimentoError, match="PACK008"):
        counting.baselines(writer_pack := Pack.open(tmp_path))
    assert len(writer_pack.clips) == 1


def test_stats_sum_the_pack_up(tmp_path):
    pack = write_pack(tmp_path / "a")
    found = stats.stats(pack, window=20)
    assert found.tags == {"120 bpm": 5, "drums": 5, "piano": 5}
    assert found.tag_pairs == [collection.TagPair("120 bpm", "drums", 5, 2.0)]
    assert found.seconds.quantiles["100"] == 80 / 50 and sum(found.seconds.counts) == 10
    assert found.baselines == counting.baselines(pack)  # the same code by another way
    assert found.sources["count"] == 10 and found.sources["largest"][0] == {
        "source": "000008",
        "clips": 1,
        "hours": 0.0004,
    }
    assert found.draw.window == 20 and found.draw.frames == found.splits["train"]["frames"]
    assert {name: split.codes for name, split in found.usage[0].splits.items()} == {
        name: found.splits[name]["frames"] for name in ("train", "valid")
    }
    json.dumps(found.to_json(), allow_nan=False)


def test_a_window_that_no_clip_fills_is_a_finding_and_no_failure(tmp_path):
    found = stats.stats(write_pack(tmp_path), window=4000)
    assert found.draw is None and "4000" in found.draw_missing
    assert found.findings[0].level == "bad" and "no_window" in {one.kind for one in found.findings}
    with pytest.raises(PartimentoError, match="TOKEN001"):
        stats.stats(write_pack(tmp_path / "b"), pattern="zigzag")


def test_a_sample_is_keyed_named_and_grows(tmp_path):
    small, large = (set(stats.chosen(1000, 1.0, n).tolist()) for n in (100, 300))
    assert small < large and len(large) == 300
    assert stats.chosen(1000, 600.0, None).tolist() == sorted(stats.chosen(1000, 0.0, 500))  # half of 600 hours
    assert len(stats.chosen(1000, 299.0, None)) == 1000
    found = stats.stats(write_pack(tmp_path), sample=4, window=20)
    assert (found.sample.clips, found.sample.of, found.clips) == (4, 10, 10)
    assert "sample" in {one.kind for one in found.findings} and sum(found.tags.values()) == 15
    assert found.silence.clips == 4


def test_a_pack_of_noise_is_called_so_and_one_of_songs_is_not(tmp_path):
    found = {}
    for kind in ("songs", "noise"):
        writer = PackWriter(tmp_path / kind, SONG_SPEC)
        for seed in range(30):
            rng = np.random.default_rng(seed)
            writer.add(song(400, seed) if kind == "songs" else rng.integers(0, 64, (400, 3)), tags=["a"])
        found[kind] = stats.stats(writer.finish(), window=64, epochs=4)
    assert [book.verdict.kind for book in found["noise"].usage] == ["uniform"] * 3
    texts = [one.text for one in found["noise"].findings if one.level == "bad"]
    assert any("books 1-3 cannot be told from noise" in text for text in texts)
    assert len(found["noise"].noisy_clips) == 30
    assert [book.verdict.kind for book in found["songs"].usage] == ["ordered"] * 3
    assert not found["songs"].noisy_clips and all(one.level == "note" for one in found["songs"].findings)


def test_silence_runs_and_openings(tmp_path):
    """Leading, trailing and longest runs by hand; at 50 frames a second a run of 5 stands still."""
    still = np.array([[7, 7, 7]])
    a, b = song(60, 1), song(60, 2)
    clips = [
        np.concatenate([np.repeat(still, 20, axis=0), a]),
        np.concatenate([np.repeat(still, 20, axis=0), b, np.repeat(still, 9, axis=0)]),
        np.concatenate([a[:30], np.repeat(still, 40, axis=0), a[30:]]),
        song(60, 3),
        np.repeat(still, 4, axis=0),
    ]
    writer = PackWriter(tmp_path, SONG_SPEC)
    for codes_TK in clips:
        writer.add(codes_TK)
    found = stats.stats(writer.finish(), window=16).silence
    frames = sum(map(len, clips))
    assert found.share == pytest.approx((20 + 29 + 40) / frames, abs=2 / frames)  # songs may repeat a frame at the seam
    assert (found.leading, found.leading_seconds) == (2, 40 / 50)
    assert (found.trailing, found.trailing_seconds) == (1, 9 / 50)
    assert found.commonest == [7, 7, 7] and found.commonest_share == pytest.approx(89 / frames)
    assert found.shared_openings == 2  # clip 4 is shorter than an opening
    assert found.worst[0].clip == "000002" and found.worst[0].longest == 40 / 50 and found.worst[0].leading == 0


def test_clips_of_one_source_may_begin_alike(tmp_path):
    writer = PackWriter(tmp_path, SONG_SPEC)
    for source in ("x", "x", "y"):
        writer.add(song(60, 1) if source == "x" else song(60, 2), source=source)
    assert stats.stats(writer.finish(), window=16).silence.shared_openings == 0


def test_books_too_large_for_pairs_are_told_apart_from_books_without_order(tmp_path, monkeypatch):
    monkeypatch.setattr(stats, "PAIRED_CODES", 15)
    found = stats.stats(write_pack(tmp_path), window=20)
    assert found.baselines is None and [book.verdict.kind for book in found.usage] == ["unknown"] * 3
    assert found.usage[0].coverage == 1 and found.usage[0].splits["train"].bigram_entropy is None
    json.dumps(found.to_json(), allow_nan=False)


def test_licences_are_read_and_what_cannot_be_read_is_said(tmp_path):
    writer = PackWriter(tmp_path, SONG_SPEC)
    for seed, licence in enumerate(["CC BY-NC 4.0", "CC BY-NC 4.0", "ask me first", None]):
        writer.add(song(60, seed), licence=licence)
    found = stats.stats(writer.finish(), window=16)
    rows = {row.licence: row for row in found.licences}
    assert rows["CC BY-NC 4.0"].clips == 2 and rows["CC BY-NC 4.0"].non_commercial is True
    assert rows["ask me first"].name is None and rows["ask me first"].attribution is None and rows[None].clips == 1
    assert {"licence_unread", "licence_missing"} <= {one.kind for one in found.findings}


@pytest.mark.parametrize("values", [[3.0], [1.0, 1.0], [0.5, 2.0, 9.0, np.nan, -np.inf], np.geomspace(0.02, 700, 50)])
@pytest.mark.parametrize("log", [False, True])
def test_spreads_lose_nothing(values, log):
    found = collection.spread(values, 7, log=log)
    finite = np.asarray(values)[np.isfinite(values)]
    assert sum(found.counts) == len(finite) and len(found.edges) == len(found.counts) + 1
    assert found.missing + found.infinite + len(finite) == len(values)
    assert found.quantiles["50"] == pytest.approx(np.median(finite), abs=1e-4)
    assert collection.spread([np.nan], 5) is None


def test_levels_of_clips_as_encoded(tmp_path):
    rows = [-14.0, -15.0, -16.0, -60.0, float("-inf"), None]
    peaks = [0.0, -0.05, -3.0, -20.0, float("-inf"), None]

    class Fake:
        class clips:
            loudness, peak, clip = rows, peaks, list("abcdef")

    found = collection.levels(Fake)
    assert found.quiet == ["e", "d"] and found.quiet_clips == 2 and found.full_scale == 2
    assert (found.loudness.missing, found.loudness.infinite) == (1, 1)


def test_findings_come_by_level():
    assert findings._books_named([1, 3, 4, 5, 9]) == "books 1, 3-5, 9" and findings._books_named([2]) == "book 2"
