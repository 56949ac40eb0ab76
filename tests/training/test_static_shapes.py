"""All batches of a stage have one shape: over the end of an epoch, at the end of the split, and in validation.

Another shape is another compilation, another recorded graph, and on a TPU minutes of waiting.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from partimento.config import RvqConfig, parse
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training.stages import stages
from partimento.training.tasks.codes import CodesTask

SPEC = CodecSpec("toy", "ab" * 32, 8000, Fraction(50), (16, 16, 16))
WINDOW, LATER, BATCH, STEPS = 32, 48, 5, 40


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of all lengths, some shorter than the window, some without tags."""
    folder = tmp_path_factory.mktemp("data") / "pack"
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, SPEC)
    for clip, frames in enumerate((7, 20, 31, 33, 64, 90, 5, 150, 41, 60, 75, 100) * 4):
        writer.add(rng.integers(0, 16, (frames, 3)), clip=f"clip{clip}.wav", tags=["a", "b"][: clip % 3])
    writer.finish()
    return folder


def task(pack: Path, pattern: str, world: int = 1, rank: int = 0) -> CodesTask:
    tree: dict[str, Any] = {
        "family": "rvq",
        "data": {"pack": str(pack), "window": WINDOW, "null_share": 0.2, "tag_dropout": 0.3},
        "model": {"width": 16, "layers": 1, "heads": 2, "pattern": pattern},
        "optim": {"batch": BATCH * world, "accumulate": 2},
        "train": {"steps": STEPS, "valid_items": 7, "stages": [{"start": 30, "window": LATER, "batch": 3 * world}]},
        "demo": {"temperatures": []},
    }
    config = parse(tree)
    assert isinstance(config, RvqConfig)
    return CodesTask(config, torch.device("cpu"), rank, world)


def layout(found: CodesTask, batch: Any) -> tuple[Any, ...]:
    """What a compiler looks at: shape, type and strides of every input."""
    return tuple((tuple(x.shape), x.dtype, x.stride()) for x in found.inputs(batch) if x is not None)


@pytest.mark.parametrize("pattern", ["delay", "flat", "parallel"])
def test_every_batch_of_a_stage_has_one_shape(pack: Path, pattern: str) -> None:
    found = task(pack, pattern)
    early = {layout(found, found.batch(step, micro)) for step in range(30) for micro in range(2)}
    late = {layout(found, found.batch(step, micro)) for step in range(30, STEPS) for micro in range(2)}
    assert len(early) == len(late) == 1 and early != late
    assert next(iter(early))[0][0] == (BATCH, WINDOW + 1, 3)
    assert next(iter(late))[0][0] == (3, LATER + 1, 3)
    # The steps went over the end of an epoch, in the middle of a batch, and so saw its last windows and its first.
    slots = found.draws[0].slots
    assert slots < 30 * 2 * BATCH and slots % BATCH
    # Other data after a rollback, no other shape.
    assert {layout(found, found.batch(3, 0, attempt=1))} == early


@pytest.mark.parametrize("pattern", ["delay", "flat"])
def test_validation_has_one_shape_to_its_last_batch(pack: Path, pattern: str) -> None:
    found = task(pack, pattern)
    items = [len(batch.items) for batch in found.valid]
    smallest = min(stage.batch for stage in found.stages)  # with the longest window: what fits in every stage
    assert len(items) > 1 and items[-1] < smallest == items[0]  # the last batch is ragged, so this says something
    assert len({layout(found, batch) for batch in found.valid}) == 1
    assert found.valid[0].grid_BSK.shape == (smallest, LATER + 1, 3)
    # What fills it up is no target, and has no condition.
    rest_BSK = found.valid[-1].grid_BSK[items[-1] :]
    assert (rest_BSK == found.specials.pad).all() and not found.valid[-1].keep_B[items[-1] :].any()


def test_every_rank_has_the_same_shapes_in_the_same_number(pack: Path) -> None:
    ranks = [task(pack, "delay", world=2, rank=rank) for rank in range(2)]
    for step in (0, 17, 29, 30, STEPS - 1):
        assert len({layout(found, found.batch(step, 1)) for found in ranks}) == 1
    assert len({layout(found, batch) for found in ranks for batch in found.valid}) == 1
    assert len(ranks[0].valid) == len(ranks[1].valid)


def test_stages_name_the_only_changes(pack: Path) -> None:
    found = task(pack, "delay")
    shapes = [(stage.start, stage.batch, stage.window) for stage in stages(found.config)]
    assert shapes == [(0, BATCH, WINDOW), (30, 3, LATER)]
