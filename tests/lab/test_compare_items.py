"""What validations keep of single windows: it adds up to the figures of the log, on one rank or two, and is checked."""

import json
import sys
from pathlib import Path

import pytest
import torch

from partimento.errors import PartimentoError
from partimento.runs import judged

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import codes_toy

from partimento.training.task import ITEMS
from partimento.training.tasks.codes import CodesTask

SILENT = {"demo": {"temperatures": []}}


def evaluated(task):
    task.objective.eval()
    with torch.no_grad():
        return task.evaluate()


def test_windows_add_up_to_the_bits_of_the_whole(tmp_path):
    """Every clip is judged whole, so all books have as many codes and the mean over codes is the mean over books."""
    task = codes_toy.task(codes_toy.write_pack(tmp_path / "pack"), train={"valid_items": 1000}, **SILENT)
    figures = evaluated(task)
    items = figures[ITEMS]
    bits, sizes = items.values["bits_per_second"], items.sizes
    assert sum(sizes) == figures["codes"]
    assert items.scale["bits_per_second"] * sum(bits) / sum(sizes) == pytest.approx(
        figures["bits_per_second"], rel=1e-5
    )
    of_clip = dict.fromkeys(items.clips, 0.0)
    for clip, size in zip(items.clips, sizes, strict=True):
        of_clip[clip] += size
    frames = {
        str(task.pack.clips.clip[int(clip)]): int(task.pack.clips.frames[int(clip)])
        for clip in task.pack.split("valid")
    }
    assert of_clip == {clip: 3 * frames[clip] for clip in of_clip}


def test_two_ranks_have_the_items_of_one(tmp_path):
    pack = codes_toy.write_pack(tmp_path / "pack")
    alone = evaluated(codes_toy.task(pack, **SILENT))[ITEMS]
    shares = []
    for rank in range(2):
        torch.manual_seed(0)
        evaluated_share = evaluated(CodesTask(codes_toy.config(pack, **SILENT), torch.device("cpu"), rank, 2))[ITEMS]
        shares.append(evaluated_share)
    for column in ("sizes", "values"):
        one, two, both = (getattr(part, column) for part in (*shares, alone))
        if column == "values":
            one, two, both = (part["bits_per_second"] for part in (one, two, both))
        assert [a + b for a, b in zip(one, two, strict=True)] == pytest.approx(list(both), rel=1e-5)
    assert all(0 in pair for pair in zip(shares[0].sizes, shares[1].sizes, strict=True))


@pytest.fixture
def items():
    return judged.Items(["a", "b"], ["s", "s"], [0, 4], [8, 9], {"x": [1.23456789, float("nan")]}, {"x": 2.0})


def test_what_is_written_is_read(tmp_path, items):
    for step in (5, 10):
        judged.write(tmp_path, step, "ema", items)
    assert list(judged.steps(tmp_path)) == [5, 10] and len(list((tmp_path / "validation").iterdir())) == 3
    found = judged.read(judged.steps(tmp_path)[10])
    assert (found.step, found.weights, found.items.clips) == (10, "ema", ["a", "b"])
    assert found.items.values["x"] == [pytest.approx(1.23456789, rel=1e-6), None]  # missing is not 0


@pytest.mark.parametrize(
    "change",
    [
        {"items": "../items-00000000.json"},
        {"values": {"x": [1.0]}},
        {"values": {"x": ["a", 1]}},
        {"schema": 9},
        {"scale": {}},
    ],
)
def test_what_was_changed_is_refused(tmp_path, items, change):
    path = judged.write(tmp_path, 5, "ema", items)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PartimentoError, match="RUN006"):
        judged.read(path)


def test_other_clips_under_the_same_name_are_refused(tmp_path, items):
    path = judged.write(tmp_path, 5, "ema", items)
    who = next(path.parent.glob("items-*"))
    who.write_text(who.read_text().replace('"a"', '"z"'))
    with pytest.raises(PartimentoError, match="does not match its hash"):
        judged.read(path)
