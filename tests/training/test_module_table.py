"""The table of what is trained: every parameter once, blocks of a stack in one row."""

import torch
from torch import nn

from partimento.training.groups import MOST_PARTS, modules


class Stack(nn.Module):
    def __init__(self, layers=3):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(7))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(4, 4), "norm": nn.LayerNorm(4)}) for _ in range(layers)
        )
        self.head = nn.Linear(4, 5, bias=False)


def rows(module):
    return {row["module"]: (row["tensors"], row["trained"], row["frozen"]) for row in modules(module)}


def test_blocks_are_one_row_and_frozen_ones_are_told():
    module = Stack()
    module.blocks[0]["up"].weight.requires_grad_(False)
    assert rows(module) == {
        "table": (1, 7, 0),
        "blocks.up": (6, 3 * 20 - 16, 16),
        "blocks.norm": (6, 24, 0),
        "head": (1, 20, 0),
    }


def test_a_tied_parameter_counts_once():
    module = Stack()
    module.other = nn.Linear(4, 5, bias=False)
    module.other.weight = module.head.weight
    assert sum(row["trained"] for row in modules(module)) == sum(p.numel() for p in module.parameters())


def test_a_long_table_is_cut_shorter():
    module = nn.ModuleDict({"trunk": nn.ModuleDict({f"part_{i}": nn.Linear(2, 2) for i in range(MOST_PARTS + 1)})})
    assert rows(module) == {"trunk": (2 * (MOST_PARTS + 1), 6 * (MOST_PARTS + 1), 0)}


def test_the_meta_device_is_enough():
    with torch.device("meta"):
        assert rows(nn.Sequential(nn.Linear(3, 2))) == {"weight": (1, 6, 0), "bias": (1, 2, 0)}
