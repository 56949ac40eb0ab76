"""The draw is a pure function of its key: the same for any number of ranks, and it covers what it should."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from packs import SPEC, write_pack

from partimento.errors import PartimentoError
from partimento.tokens.draw import Draw
from partimento.tokens.gather import id_dtype
from partimento.tokens.pack import Pack
from partimento.tokens.patterns import Pattern, apply
from partimento.tokens.select import Selection
from partimento.tokens.spec import CodecSpec, Specials
from partimento.tokens.writer import PackWriter

SPECIALS = Specials.after(16)
PATTERN = Pattern.named("delay", 3)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("pack"))


def draw(pack, **changes):
    given = {"window": 20, "seed": 3, "null_share": 0.3, "tag_dropout": 0.2} | changes
    return Draw(pack, PATTERN, SPECIALS, **given)


def equal(a, b):
    return (
        torch.equal(a.grid_BSK, b.grid_BSK)
        and torch.equal(a.tags_BG, b.tags_BG)
        and torch.equal(a.keep_B, b.keep_B)
        and a.items == b.items
    )


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_global_batches_do_not_depend_on_the_number_of_ranks_nor_on_a_resume(pack, world):
    one = draw(pack)
    for step in range(3):
        for micro in range(2):
            whole = one.step(step, micro, batch_size=16, accumulate=2)
            fresh = draw(pack)  # as after a resume: nothing was drawn before
            parts = [
                fresh.step(step, micro, batch_size=16, accumulate=2, rank=rank, world=world) for rank in range(world)
            ]
            assert torch.equal(torch.cat([p.grid_BSK for p in parts]), whole.grid_BSK)
            assert torch.equal(torch.cat([p.tags_BG for p in parts]), whole.tags_BG)
            assert torch.equal(torch.cat([p.keep_B for p in parts]), whole.keep_B)
            assert [item for p in parts for item in p.items] == whole.items


def test_micro_batches_follow_one_another(pack):
    one = draw(pack)
    together = one.step(1, batch_size=8, accumulate=1)
    parts = [one.step(1, micro, batch_size=4, accumulate=2) for micro in range(2)]
    assert together.items == [item for part in parts for item in part.items]
    with pytest.raises(ValueError):
        one.step(0, batch_size=6, world=4)


def test_an_epoch_visits_each_slot_once_and_epochs_differ(pack):
    one = draw(pack)
    steps = [PATTERN.steps(int(f), True) for f in pack.clips.frames]
    expected = Counter({int(c): max(1, round(steps[c] / 20)) for c in pack.split("train")})
    epochs = [[one.item(e * one.slots + i) for i in range(one.slots)] for e in range(4)]
    for epoch in epochs:
        assert Counter(item.clip for item in epoch) == expected
    orders = {tuple(item.clip for item in epoch) for epoch in epochs}
    assert len(orders) == 4
    longest = int(np.argmax([pack.clips.frames[c] for c in pack.split("train")]))
    clip = int(pack.split("train")[longest])
    starts = [sorted(i.start for i in epoch if i.clip == clip) for epoch in epochs]
    assert len({tuple(s) for s in starts}) == 4
    assert any(
        a != b for a, b in zip(draw(pack).batch(range(9)).items, draw(pack, seed=4).batch(range(9)).items, strict=True)
    )


def test_windows_are_crops_of_the_whole_grid_and_show_true_starts_and_ends(pack):
    one = draw(pack)
    starts = ends = 0
    for index in range(600):
        item = one.item(index)
        codes = torch.from_numpy(pack.read(item.clip).astype(np.int64))[None]
        whole = apply(codes, PATTERN, SPECIALS, ends=True)[0]
        got = one.collate([item]).grid_BSK[0]
        assert got.shape == (21, 3)
        rows = whole[item.start : item.start + 21]
        assert torch.equal(got[: len(rows)], rows)
        assert (got[len(rows) :] == SPECIALS.pad).all()
        if len(whole) >= 21:
            assert item.start + 21 <= len(whole)
            starts += item.start == 0
            ends += item.start + 21 == len(whole)
            assert bool((got[0] == SPECIALS.bos).any()) == (item.start <= PATTERN.max_delay)
        else:
            assert item.start == 0
    assert starts > 40 and ends > 40


def test_a_window_as_long_as_the_longest_clip_fits_and_one_step_more_does_not(pack):
    longest = PATTERN.steps(80, True) - 1
    draw(pack, window=longest)
    with pytest.raises(PartimentoError, match="PACK007") as err:
        draw(pack, window=longest + 1)
    assert f"data.window to {longest}" in err.value.next


def test_an_empty_split_is_told(tmp_path):
    with pytest.raises(PartimentoError, match="PACK008"):
        draw(write_pack(tmp_path, (40,)), split="valid")


def test_shares_are_realised_per_item_and_per_tag(pack):
    one = draw(pack, tag_dropout=0.0)
    batch = one.batch(range(2000))
    assert batch.null_share == pytest.approx(0.3, abs=0.04)
    assert draw(pack, null_share=0.0, tag_dropout=0.0).batch(range(200)).keep_B.all()
    assert not draw(pack, null_share=1.0).batch(range(50)).keep_B.any()
    full = draw(pack, null_share=0.0, tag_dropout=0.0).batch(range(2000)).tags_BG.sum()
    kept = draw(pack, null_share=0.0, tag_dropout=0.2).batch(range(2000)).tags_BG.sum()
    assert float(kept / full) == pytest.approx(0.8, abs=0.03)
    # What lost all its tags has no condition: it gets the null condition, not an empty sum.
    for item in map(draw(pack, null_share=0.0, tag_dropout=0.5).item, range(300)):
        assert item.keep == bool(item.tags)


def test_fixed_windows_tile_without_overlap_and_do_not_depend_on_the_seed(pack):
    one = draw(pack, split="train")
    everything = one.fixed(10_000)
    targets = [(i.clip, row) for i in everything for row in range(i.start + 1, i.start + 21)]
    assert len(targets) == len(set(targets))
    for clip in pack.split("train"):
        rows = {row for c, row in targets if c == clip}
        assert rows >= set(range(1, PATTERN.steps(int(pack.clips.frames[clip]), True)))
    some = one.fixed(7)
    assert len(some) == 7 and some == draw(pack, seed=99).fixed(7) and set(some) <= set(everything)
    assert all(i.keep and i.tags == tuple(pack.clips.tags[i.clip]) for i in some)
    assert equal(one.collate(some), draw(pack, seed=99).collate(some))


def test_families_without_an_end_and_flat_grids(pack):
    musicgen = Draw(pack, PATTERN, Specials.musicgen(16), window=20, seed=0)
    assert int(musicgen.batch(range(100)).grid_BSK.max()) == 16
    flat = Draw(pack, Pattern.named("flat", 3), SPECIALS, window=60, seed=0)
    grid = flat.batch(range(50)).grid_BSK
    assert grid.shape == (50, 61, 3)
    assert ((grid < 16).sum(-1) <= 1).all()


def test_untagged_packs_have_the_null_condition_throughout(tmp_path):
    pack = write_pack(tmp_path, (40, 50), tags=[[], []])
    batch = Draw(pack, PATTERN, SPECIALS, window=10).batch(range(4))
    assert batch.tags_BG.shape == (4, 0) and not batch.keep_B.any()
    assert pack.spec == SPEC


@pytest.mark.parametrize("name", ["delay", "parallel", "flat", "dia", [3, 0, 1]])
def test_targets_are_the_codes_that_stand_in_the_target_rows(pack, name):
    """Against a walk over the rows: every code of a target row is in a span of its book, once, and no other code."""
    pattern = Pattern.named(name, 3)
    drawn = Draw(pack, pattern, SPECIALS, split="train", window=20)
    items = drawn.fixed(7) + [drawn.item(index) for index in range(2)]
    expected = [Counter(), Counter(), Counter()]
    for item in items:
        frames = int(pack.clips.frames[item.clip])
        for row in range(item.start + 1, item.start + 21):
            for book in range(3):
                frame = pattern.frame_at(row, book)
                if frame is not None and frame < frames:
                    expected[book][item.clip, frame] += 1
    for book, spans in enumerate(drawn.targets(items)):
        found = Counter((clip, frame) for clip, first, last in spans for frame in range(first, last))
        assert found == expected[book]


def test_starts_of_windows_are_uniform_but_for_the_two_ends(tmp_path):
    """A1: the histogram of crop starts, of one clip. The overhang (an eighth of the window, and the last start) folds
    back onto start and end."""
    one = draw(write_pack(tmp_path, (300,)), window=40)
    room, overhang, size = PATTERN.steps(300, True) - 41, 5, 40_000
    clips, starts = one.places(range(size))
    assert not clips.any() and starts.min() == 0 and starts.max() == room
    counts = np.bincount(starts, minlength=room + 1)
    expected = np.full(room + 1, size / (room + 2 * overhang + 1))
    expected[[0, -1]] *= overhang + 1
    # chi-squared with 262 degrees of freedom is 262 +- 23
    assert abs(((counts - expected) ** 2 / expected).sum() - room) < 5 * np.sqrt(2 * room)
    first, second = (starts[epoch * one.slots : (epoch + 1) * one.slots] for epoch in range(2))
    assert not np.array_equal(first, second)


def test_every_frame_of_every_clip_is_drawn(pack):
    """C11: no tail is dropped, no clip is too short."""
    one = draw(pack)
    clips, starts = one.places(range(3000))
    for clip in pack.split("train"):
        seen = np.zeros(int(pack.clips.frames[clip]) + 100, dtype=bool)
        for start in starts[clips == clip]:
            seen[start : start + 20] = True  # of book 0: the targets, rows start + 1 .. start + 20
        assert seen[: pack.clips.frames[clip]].all()


def test_places_do_not_depend_on_how_many_are_asked_for(pack):
    one = draw(pack)
    clips, starts = one.places(range(5000))
    for indices in ([0], [1023, 1024], [4999, 0, 2048], range(1000, 3000), [7] * 3, []):
        some, begins = draw(pack).places(indices)
        assert some.tolist() == clips[list(indices)].tolist() and begins.tolist() == starts[list(indices)].tolist()
    with pytest.raises(ValueError):
        one.places([3, -1])


def test_ids_are_as_small_as_they_can_be(pack, tmp_path):
    assert draw(pack).batch(range(4)).grid_BSK.dtype == torch.int16
    small = Draw(pack, PATTERN, Specials.after(16), window=20).batch(range(64)).grid_BSK
    offset = 40_000 - 16  # the same specials further up: they need more bits
    large = Draw(pack, PATTERN, Specials.after(40_000), window=20).batch(range(64)).grid_BSK
    assert large.dtype == torch.int32
    assert torch.equal(torch.where(large >= 40_000, large - offset, large), small.int())
    most = Specials.after(2**15 - 3)
    assert id_dtype(most) == np.int16 and id_dtype(Specials.after(2**15 - 2)) == np.int32
    whole = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (65536,))
    wide = write_pack(tmp_path, (30, 30), spec=whole)
    got = Draw(wide, Pattern((0,)), Specials.after(65536), window=31).batch(range(4))
    for item, grid in zip(got.items, got.grid_BSK, strict=True):
        codes_TK = torch.from_numpy(wide.read(item[0]).astype(np.int64))
        assert torch.equal(grid.long(), apply(codes_TK[None], Pattern((0,)), Specials.after(65536), ends=True)[0])


def test_tags_are_dropped_shuffled_and_limited_by_key(tmp_path):
    names = [[f"tag {i}" for i in range(6)], ["tag 0"]] * 3
    pack = write_pack(tmp_path, (60,) * 6, tags=names)
    plain = draw(pack, tag_dropout=0.0, null_share=0.0)
    shuffled = draw(pack, tag_dropout=0.0, null_share=0.0, tag_shuffle=True)
    limited = draw(pack, tag_dropout=0.3, null_share=0.0, tag_shuffle=True, tag_limit=2)
    orders = set()
    for a, b, c in zip(*(one.items(range(60)) for one in (plain, shuffled, limited)), strict=True):
        assert a[:2] == b[:2] == c[:2]
        assert list(a.tags) == names[a.clip] and sorted(b.tags) == sorted(a.tags)
        assert len(c.tags) <= 2 and set(c.tags) <= set(a.tags) and c.keep == bool(c.tags)
        orders.add(b.tags)
    assert len(orders) > 20
    assert equal(plain.batch(range(20)), shuffled.batch(range(20)))  # a multi-hot row has no order


def test_only_selected_clips_are_drawn_and_only_their_tags_are_columns(tmp_path):
    pack = write_pack(tmp_path, (60,) * 12, tags=[["even" if i % 2 == 0 else "odd", f"tag {i}"] for i in range(12)])
    even = [clip for clip in pack.split("train").tolist() if clip % 2 == 0]
    selection = Selection(with_tags=("even",), without_tags=(f"tag {even[0]}",))
    one = draw(pack, selection=selection, null_share=0.0, tag_dropout=0.0)
    assert {item.clip for item in one.items(range(100))} == set(even[1:])
    assert one.tag_vocabulary == sorted(["even", *(f"tag {i}" for i in even[1:])])
    assert {item.clip for item in one.fixed(100)} == set(even[1:])
    assert draw(pack).tag_vocabulary == pack.tag_vocabulary
    with pytest.raises(PartimentoError, match="TAGS008"):
        draw(pack, selection=Selection(with_tags=("even", "odd")))


def damage(folder, pack, clips):
    """Flip a bit of a code of each of these clips."""
    for clip in clips:
        shard = pack.shards[int(pack.clips.shard[clip])]
        with (folder / shard.file).open("r+b") as stream:
            stream.seek(64 + 6 * int(pack.clips.first_frame[clip]))
            byte = stream.read(1)[0]
            stream.seek(-1, 1)
            stream.write(bytes([byte ^ 1]))


def test_a_damaged_clip_stops_the_draw_unless_there_is_a_budget(tmp_path):
    pack = write_pack(tmp_path, (60,) * 12)
    broken = set(pack.split("train")[[1, 4]].tolist())
    before = draw(pack).items(range(300))
    damage(tmp_path, pack, broken)
    with pytest.raises(PartimentoError, match="PACK004"):
        draw(Pack.open(tmp_path)).batch(range(300))
    with pytest.raises(PartimentoError, match="PACK042"):
        draw(Pack.open(tmp_path, corrupt_budget=1)).batch(range(300))
    borne = draw(Pack.open(tmp_path, corrupt_budget=2))
    after = borne.items(range(300))
    assert [err.code for err in borne.corrupt] == ["PACK004", "PACK004"]
    assert any(item.clip in broken for item in before) and not any(item.clip in broken for item in after)
    for old, new in zip(before, after, strict=True):
        assert old.clip in broken or old == new
    replaced = Counter(new.clip for old, new in zip(before, after, strict=True) if old.clip in broken)
    assert len(replaced) > 4  # by many others, not by a neighbour
    # What replaces an item does not depend on the rank, the order of reading or what was drawn before.
    for world in (1, 2, 4):
        fresh = draw(Pack.open(tmp_path, corrupt_budget=2))
        for step in (30, 7):
            got = [fresh.step(step, batch_size=8, rank=rank, world=world).items for rank in range(world)]
            assert [item for part in got for item in part] == [
                (item.clip, item.start) for item in after[8 * step : 8 * step + 8]
            ]
    evaluated = {item.clip for item in borne.fixed(1000)}
    assert evaluated == set(pack.split("train").tolist()) - broken
    with pytest.raises(PartimentoError, match="PACK004"):
        borne.collate([before[[item.clip in broken for item in before].index(True)]])


def test_a_pack_of_damaged_clips_is_not_drawn_from_for_ever(tmp_path):
    pack = write_pack(tmp_path, (60,) * 6)
    damage(tmp_path, pack, range(6))
    with pytest.raises(PartimentoError, match="PACK050"):
        draw(Pack.open(tmp_path, corrupt_budget=10)).batch(range(4))
    with pytest.raises(PartimentoError, match="PACK050"):
        draw(Pack.open(tmp_path, corrupt_budget=10), split="valid").fixed(4)


def test_words_of_an_item_are_its_tags_and_its_caption(tmp_path):
    writer = PackWriter(tmp_path / "pack", SPEC)
    told = [(["fast"], "a caption"), (["slow"], ""), ([], "only a caption"), ([], "")] * 8
    for number, (tags, caption) in enumerate(told):
        codes_TK = np.full((60, SPEC.codebooks), number % 7)
        writer.add(codes_TK, clip=f"{number}.wav", tags=tags, caption=caption or None)
    pack = writer.finish()

    def drawn(**changes):
        one = draw(pack, tag_dropout=0.0, **changes)
        batch = one.batch(range(2000))
        return one, batch, [told[int(pack.clips.clip[clip].split(".")[0])] for clip, _ in batch.items]

    for words, has in (
        ("both", lambda tags, caption: bool(tags or caption)),
        ("tags", lambda tags, caption: bool(tags)),
        ("caption", lambda tags, caption: bool(caption)),
    ):
        one, batch, items = drawn(words=words)
        for got, keep, (tags, caption) in zip(batch.words_B, batch.keep_B.tolist(), items, strict=True):
            assert got.tags == (() if words == "caption" else tuple(tags))
            assert got.text == ("" if words == "tags" else caption)
            assert not keep or has(tags, caption)
        told_share = np.mean([has(*item) for item in items])
        assert abs(batch.null_share - (1 - told_share * 0.7)) < 0.03
        assert abs(one.expected_null_share - batch.null_share) < 0.04
    whole, dropped = drawn(words="both")[1:], drawn(words="both", caption_dropout=0.5)[1:]
    both = [i for i, (tags, caption) in enumerate(whole[1]) if tags and caption]
    assert 0.4 < np.mean([dropped[0].words_B[i].text == "" for i in both]) < 0.6
    alone = [i for i, (tags, caption) in enumerate(whole[1]) if caption and not tags]
    assert all(dropped[0].words_B[i].text for i in alone), "a caption that is all there is stays"
    assert torch.equal(whole[0].keep_B, dropped[0].keep_B)


def test_a_share_of_the_windows_begins_with_the_clip(pack):
    plain, begun = draw(pack), draw(pack, begin_share=0.5)
    clips, starts = plain.places(np.arange(4000))
    same_clips, more = begun.places(np.arange(4000))
    assert np.array_equal(clips, same_clips)
    moved = starts != more
    assert not more[moved].any(), "those that moved begin with the clip, all others are where they were"
    elsewhere = starts > 0
    assert abs(np.mean(more[elsewhere] == 0) - 0.5) < 0.03
