"""The tags as numbers are the tags of the clip table, also across the table's row groups."""

import numpy as np
import pytest
from packs import write_pack

from partimento.tokens import clips as table
from partimento.tokens.tagtable import TagTable, tag_table


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    rng = np.random.default_rng(0)
    tags = [[f"tag {i}" for i in rng.choice(40, rng.integers(0, 6), replace=False)] for _ in range(50)]
    return write_pack(tmp_path_factory.mktemp("pack"), (9,) * 50, tags=tags)


@pytest.mark.parametrize("rows", [7, 2**16])
def test_of_counts_and_vocabulary(pack, monkeypatch, rows):
    monkeypatch.setattr(table, "BATCH", rows)
    tags, expected = TagTable(pack.clips), pack.clips.tags.to_list()
    assert [list(tags.of(clip)) for clip in range(50)] == expected
    some = np.asarray([3, 0, 49, 7])
    assert tags.counts(some).tolist() == [len(expected[clip]) for clip in some]
    assert tags.counts(np.arange(50)).tolist() == [len(names) for names in expected]
    assert tags.vocabulary(some) == sorted({tag for clip in some for tag in expected[clip]})
    assert tags.vocabulary(pack.split("train")) == pack.tag_vocabulary


def test_it_is_made_once_for_a_pack(pack):
    assert tag_table(pack.clips) is tag_table(pack.clips)
