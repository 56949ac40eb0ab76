from __future__ import annotations

import torch

from partimento.models.conditions import TagCondition


def condition() -> TagCondition:
    torch.manual_seed(0)
    made = TagCondition(5, 8)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def test_the_dropped_item_of_training_is_the_null_of_sampling() -> None:
    made = condition()
    tags = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    trained = made(tags, torch.tensor([False, True, True]))
    null = made.null(3)
    assert torch.equal(trained[0], null[0])
    assert torch.equal(trained[2], null[2]), "an item without tags is told nothing either"
    assert not torch.equal(trained[1], null[1])
    nothing = made(tags, torch.zeros(3, dtype=torch.bool))
    assert torch.equal(nothing, null)


def test_sum_over_root_of_count() -> None:
    made = condition()
    got = made(torch.tensor([[1.0, 0, 1, 0, 1], [0, 0, 0, 1, 0]]), torch.ones(2, dtype=torch.bool))
    table = made.embedding_GD
    torch.testing.assert_close(got[0], (table[0] + table[2] + table[4]) / 3**0.5)
    torch.testing.assert_close(got[1], table[3])


def test_a_dropped_item_trains_the_null_vector_and_no_tag() -> None:
    made = condition()
    made(torch.ones(2, 5), torch.tensor([False, False])).sum().backward()
    assert made.null_D.grad.abs().sum() > 0
    assert made.embedding_GD.grad is None or made.embedding_GD.grad.abs().sum() == 0
