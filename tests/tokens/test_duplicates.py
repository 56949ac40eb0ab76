"""Copies, excerpts and re-cut copies are found, and nothing else; measured on packs whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from songs import SPEC, song

from partimento.tokens import clipwise, duplicates
from partimento.tokens.writer import PackWriter


def found_in(folder, clips, **names):
    writer = PackWriter(folder, SPEC, clips_per_shard=7)
    for i, codes_TK in enumerate(clips):
        writer.add(codes_TK, clip=f"{i:03d}", **{key: value[i] for key, value in names.items()})
    pack = writer.finish()
    return pack, look(pack)


def look(pack, group_frames=None, monkeypatch=None):
    everything = np.arange(len(pack.clips))
    fingerprints = duplicates.Fingerprints()
    clipwise.read(pack, everything, [fingerprints])
    return duplicates.find(pack, everything, fingerprints)


def pairs(found):
    return {(pair.first, pair.second) for pair in found.pairs}


def test_copies_excerpts_and_recuts_are_found_with_their_shift_and_nothing_else(tmp_path):
    songs = [song(300 + 40 * i, i) for i in range(20)]
    clips = [
        *songs,
        songs[0],  # 20: a copy
        songs[1][100:],  # 21: its beginning cut off
        songs[2][150:220],  # 22: an excerpt of a fifth
        np.concatenate([songs[3][200:], songs[3][:200]]),  # 23: re-cut, the halves exchanged
        np.concatenate([song(90, 900), songs[4][31:]]),  # 24: another beginning
        song(500, 901)[:12],  # 25: too short to share anything
    ]
    _, found = found_in(tmp_path, clips)
    assert pairs(found) == {(0, 20), (1, 21), (2, 22), (3, 23), (4, 24)}
    by = {pair.first: pair for pair in found.pairs}
    assert (by[0].share, by[0].offset) == (1, 0)
    assert (by[1].share, by[1].offset) == (1, 100)
    assert (by[2].share, by[2].offset) == (1, 150)
    assert by[3].share > 0.9
    assert by[4].offset == 31 - 90 and 0.6 < by[4].share < 1
    assert {len(group) for group in found.groups} == {2}


def test_recall_and_precision_where_codes_differ(tmp_path):
    """Codes changed one by one, as a lossy copy changes some: found up to about one in sixteen."""
    recall = {}
    for changed in (0.0, 0.03, 0.06, 0.3):
        clips = []
        for i in range(24):
            codes_TK = song(400, 1000 + i)
            copy = codes_TK[100:].copy()
            hit = np.random.default_rng(i).random(copy.shape) < changed
            copy[hit] = np.random.default_rng(i + 1).integers(0, 64, hit.sum())
            clips += [codes_TK, copy]
        _, found = found_in(tmp_path / str(changed), clips)
        true = {(2 * i, 2 * i + 1) for i in range(24)}
        assert pairs(found) <= true  # precision 1
        recall[changed] = len(pairs(found)) / len(true)
    assert recall[0.0] == recall[0.03] == 1 and recall[0.06] > 0.8 and recall[0.3] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 260), st.integers(39, 120), st.integers(0, 80))
def test_every_common_passage_of_39_frames_leaves_a_common_fingerprint(start, length, before):
    """The guarantee of winnowing, for any place and any surroundings."""
    whole = song(400, 1)
    passage = whole[start : start + length]
    other = np.concatenate([song(400, 2)[:before], passage, song(400, 3)[:50]])
    sets = []
    for codes_TK in (whole, other):
        fingerprints = duplicates.Fingerprints()
        fingerprints.add(clipwise.Group(np.array([0]), codes_TK, np.array([0, len(codes_TK)])))
        sets.append(set(fingerprints.collected()[0].tolist()))
    grams = duplicates.ngrams(passage, np.array([0, len(passage)]))
    moving = grams != duplicates.NONE
    if moving[: duplicates.WINDOW].any():  # a passage that stands still has none, and needs none
        assert sets[0] & sets[1]


def test_fingerprints_do_not_depend_on_how_clips_are_grouped(tmp_path, monkeypatch):
    clips = [song(60 + i, i % 5) for i in range(30)]
    pack, whole = found_in(tmp_path, clips)
    monkeypatch.setattr(clipwise, "CELLS", 3 * SPEC.cardinality)  # three clips at a time
    apart = look(pack)
    assert pairs(apart) == pairs(whole) and [p.share for p in apart.pairs] == [p.share for p in whole.pairs]
    assert len(whole.groups) == 5 and {len(group) for group in whole.groups} == {6}


def test_silence_and_held_sounds_are_no_copies_of_one_another(tmp_path):
    held = np.repeat(song(4, 5), 100, axis=0)
    clips = [np.concatenate([np.full((200, 3), 7), song(100, i)]) for i in range(6)] + [
        held,
        held,
        np.full((300, 3), 7),
    ]
    _, found = found_in(tmp_path, clips)
    assert pairs(found) == set() and found.silent == 3


def test_many_copies_stay_linear_and_hang_together(tmp_path):
    _, found = found_in(tmp_path, [song(120, 1)] * 60 + [song(120, 2)])
    assert [len(group) for group in found.groups] == [60]
    assert len(found.pairs) <= duplicates.NEIGHBOURS * 60


def test_the_limit_on_comparisons_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_VERIFIED", 3)
    _, found = found_in(tmp_path, [song(120, i // 2) for i in range(12)])
    assert found.candidates == 6 and found.unverified == 3 and len(found.pairs) == 3


def test_the_summary_names_leaks_and_sources(tmp_path):
    songs = [song(200, i) for i in range(30)]
    names = [f"s{i}" for i in range(30)]
    # s0 again under its own name, and each of the first twelve once more under a name of its own
    pack, found = found_in(
        tmp_path, [*songs, songs[0][50:], *(one[20:] for one in songs[:12])],
        source=[*names, "s0", *(f"again {i}" for i in range(12))],
    )  # fmt: skip
    summary = duplicates.summary(pack, found, listed=5)
    split = list(pack.clips.split)
    crossing = {
        clip
        for pair in found.pairs
        if split[pair.first] != split[pair.second]
        for clip in (pair.first, pair.second)
        if split[clip] == "valid"
    }
    assert summary.leaks >= len(crossing) > 0  # by way of a third clip, more may hang together
    assert summary.clips == 12 * 2 + 1 and summary.groups == 12 and len(summary.listed) == 5
    assert summary.listed[0].splits[0] != summary.listed[0].splits[1]  # leaks are listed first
    everything = duplicates.summary(pack, found, listed=99).listed
    same = [copy for copy in everything if copy.same_source]
    assert [(copy.first, copy.second, copy.offset_seconds) for copy in same] == [("000", "030", 1.0)]


@pytest.mark.parametrize("frames", [1, 7, 8, 9])
def test_short_clips(tmp_path, frames):
    _, found = found_in(tmp_path, [song(50, 1)[:frames], song(50, 1)[:frames], song(50, 2)])
    assert pairs(found) == ({(0, 1)} if frames >= duplicates.NGRAM else set())
