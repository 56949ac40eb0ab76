"""The residual quantizer against hand-made books and slow loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from in_ranks import in_ranks
from torch import Tensor

from partimento.keyed import torch_generator
from partimento.waveform.factorised import FactorisedQuantizer
from partimento.waveform.quantizer import ResidualQuantizer, kmeans, nearest


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(codebooks: int = 3, cardinality: int = 16, latent: int = 4, rows: int = 400) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(codebooks, cardinality, latent)
    quantizer.start(noise(rows, latent), torch_generator("start"))
    return quantizer


def by_hand() -> ResidualQuantizer:
    quantizer = ResidualQuantizer(2, 2, 2)
    quantizer.books_KVD.copy_(torch.tensor([[[0.0, 0.0], [4.0, 4.0]], [[0.0, 1.0], [1.0, 0.0]]]))
    quantizer.counts_KV.fill_(1.0)
    quantizer.sums_KVD.copy_(quantizer.books_KVD)
    quantizer.started.fill_(True)
    return quantizer


def test_hand_made_books() -> None:
    quantizer = by_hand()
    latent = torch.tensor([[[4.9, 4.2], [0.1, 0.8]]])
    quantized = quantizer(latent)
    assert quantized.codes_BTK.tolist() == [[[1, 1], [0, 0]]]
    assert quantized.latent_BTD.tolist() == [[[5.0, 4.0], [0.0, 1.0]]]
    first = (0.9**2 + 0.2**2 + 0.1**2 + 0.8**2) / 4
    second = (0.1**2 + 0.2**2 + 0.1**2 + 0.2**2) / 4
    assert float(quantized.commitment) == pytest.approx(first + second)
    assert torch.equal(quantizer.encode(latent), quantized.codes_BTK)
    assert torch.equal(quantizer.decode(quantized.codes_BTK), quantized.latent_BTD)


def test_fewer_books_for_some_items() -> None:
    quantizer = by_hand()
    latent = torch.tensor([[[4.9, 4.2]], [[4.9, 4.2]]])
    quantized = quantizer(latent, torch.tensor([1, 2]))
    assert quantized.latent_BTD.tolist() == [[[4.0, 4.0]], [[5.0, 4.0]]]
    assert quantized.codes_BTK[0].tolist() == quantized.codes_BTK[1].tolist()
    first, second = (0.9**2 + 0.2**2) / 2, (0.1**2 + 0.2**2) / 2
    assert float(quantized.commitment) == pytest.approx(first + second / 2)
    assert torch.equal(quantizer.decode(quantized.codes_BTK[:1, :, :1]), quantized.latent_BTD[:1])


def test_gradient_passes_straight_through() -> None:
    latent = noise(2, 5, 4).requires_grad_()
    quantized = started()(latent)
    (quantized.latent_BTD * 3).sum().backward()
    assert torch.equal(latent.grad, torch.full_like(latent, 3.0))


def test_commitment_pulls_latents_to_their_codes() -> None:
    latent = noise(2, 5, 4).requires_grad_()
    quantizer = started()
    before = quantizer(latent).commitment
    before.backward()
    after = quantizer(latent.detach() - 0.1 * latent.grad).commitment
    assert after.item() < before.item()


def test_encode_is_a_slow_greedy_search_and_items_do_not_mix() -> None:
    quantizer = started()
    latent = noise(3, 7, 4, seed=3)
    codes = quantizer.encode(latent)
    for b in range(3):
        assert torch.equal(quantizer.encode(latent[b : b + 1])[0], codes[b])
        for t in range(7):
            residual = latent[b, t]
            for k in range(3):
                distances = [(residual - row).square().sum().item() for row in quantizer.books_KVD[k]]
                assert codes[b, t, k] == min(range(16), key=distances.__getitem__)
                residual = residual - quantizer.books_KVD[k, codes[b, t, k]]


def test_before_start_latents_pass() -> None:
    quantizer = ResidualQuantizer(2, 4, 3)
    latent = noise(1, 5, 3)
    quantized = quantizer(latent)
    assert quantized.latent_BTD is latent and float(quantized.commitment) == 0.0
    assert quantizer.update(0.9, 0.03, torch_generator(0)) == 0


def test_kmeans_finds_separate_clusters() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    rows = (centres[:, None] + 0.1 * noise(4, 50, 2)).reshape(-1, 2)
    found, counts = kmeans(rows, 4, torch_generator("k", 1), 10)
    assert float(counts.sum()) == 200
    order = nearest(centres, found)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert torch.allclose(found[order], centres, atol=0.1)
    with pytest.raises(ValueError, match="at least"):
        kmeans(rows[:3], 4, torch_generator(0), 2)


def test_start_leaves_less_with_every_book() -> None:
    latent = noise(400, 4)
    quantizer = started()
    left = [
        float((latent - quantizer.decode(quantizer.encode(latent[None])[0][:, :k])).square().mean()) for k in (1, 2, 3)
    ]
    assert 1.0 > left[0] > left[1] > left[2] > 0.0


def test_update_is_the_moving_average() -> None:
    quantizer = by_hand().train()
    latent = torch.tensor([[[5.0, 5.0], [3.0, 4.0], [0.0, 0.4]]])
    quantizer(latent)
    assert quantizer.update(0.9, 0.0, torch_generator(0)) == 0
    # Book 0, code 1 got two of the three: sum (8, 9), count 2.
    count = 0.9 + 0.1 * 2
    expected = (0.9 * torch.tensor([4.0, 4.0]) + 0.1 * torch.tensor([8.0, 9.0])) / count
    assert torch.allclose(quantizer.books_KVD[0, 1], expected)
    assert torch.allclose(quantizer.books_KVD[0, 0], 0.1 * torch.tensor([0.0, 0.4]) / 1.0)


def test_micro_batches_add_up_and_eval_notes_nothing() -> None:
    one, two = started().train(), started().train()
    latent = noise(4, 6, 4, seed=5)
    one(latent)
    two(latent[:2])
    two(latent[2:])
    two.eval()(noise(2, 6, 4))
    for quantizer in (one, two):
        quantizer.update(0.9, 0.03, torch_generator(1))
    assert torch.allclose(one.books_KVD, two.books_KVD, atol=1e-6)
    two.train()(latent)
    two.forget()
    before = two.books_KVD.clone()
    assert two.update(0.9, 0.03, torch_generator(1)) == 0
    assert torch.equal(before, two.books_KVD)


def test_dead_codes_are_restarted_from_data_by_key() -> None:
    def trained() -> tuple[ResidualQuantizer, int]:
        quantizer = started().train()
        quantizer.books_KVD[1, 3] = 1e3
        quantizer.sums_KVD[1, 3] = 1e3
        quantizer.counts_KV[1, 3] = 0.0
        quantizer(noise(4, 6, 4, seed=7))
        return quantizer, quantizer.update(0.99, 0.03, torch_generator(0, "restarts", 5))

    (one, restarts), (two, _) = trained(), trained()
    assert restarts >= 1
    assert float(one.books_KVD.abs().max()) < 10
    assert torch.equal(one.books_KVD, two.books_KVD)


def test_learning_keeps_every_code_alive() -> None:
    quantizer = started(2, 32, 4).train()
    for step in range(150):
        quantizer(noise(8, 16, 4, seed=1000 + step) + step / 50)  # the latents wander away from where the books began
        quantizer.update(0.95, 0.03, torch_generator("live", step))
    codes = quantizer.eval().encode(noise(8, 200, 4, seed=5) + 3)
    for k in range(2):
        share = torch.bincount(codes[..., k].flatten(), minlength=32) / codes[..., k].numel()
        entropy = -(share[share > 0] * share[share > 0].log2()).sum()
        assert float(entropy) > 0.6 * 5


def ready(kind: str) -> ResidualQuantizer | FactorisedQuantizer:
    """Started, with dead codes in every book."""
    torch.manual_seed(2)
    quantizer = ResidualQuantizer(3, 16, 4) if kind == "averaged" else FactorisedQuantizer(3, 16, 4, 3)
    quantizer.start(noise(400, 4), torch_generator("start"))
    quantizer.counts_KV[:, :5] = 0.0
    return quantizer.train()


def books(quantizer: ResidualQuantizer | FactorisedQuantizer) -> Tensor:
    if isinstance(quantizer, ResidualQuantizer):
        return quantizer.books_KVD
    return torch.stack([stage.book.weight.detach() for stage in quantizer.stages])


@pytest.mark.parametrize("kind", ["averaged", "factorised"])
def test_ranks_move_the_same_books_as_one_device(kind: str) -> None:
    """With unequal shares of a batch: sums, restarts and usage are those of the whole batch, and equal on all ranks."""
    latent = noise(8, 6, 4, seed=11)
    alone = ready(kind)
    with torch.no_grad():
        alone(latent)
    expected = alone.update(0.9, 0.5, torch_generator("ranks"))

    def one(rank: int, total: Callable[[Tensor], Tensor]) -> tuple[ResidualQuantizer | FactorisedQuantizer, int]:
        quantizer = quantizers[rank]
        with torch.no_grad():
            quantizer(latent[:3] if rank == 0 else latent[3:])
        return quantizer, quantizer.update(0.9, 0.5, torch_generator("ranks"), total, rank, 2)

    quantizers = [ready(kind), ready(kind)]
    (first, restarts), (second, others) = in_ranks(2, one)
    assert restarts == others == expected >= 15
    assert torch.equal(books(first), books(second)) and torch.equal(first.counts_KV, second.counts_KV)
    assert torch.allclose(books(first), books(alone), atol=1e-6)
    assert torch.allclose(first.counts_KV, alone.counts_KV, atol=1e-6)


def test_ranks_that_nobody_told_of_are_refused() -> None:
    def one(rank: int, total: Callable[[Tensor], Tensor]) -> int:
        quantizers[rank](noise(1, 6, 4))
        return quantizers[rank].update(0.9, 0.5, torch_generator(0), total)

    quantizers = [ready("averaged"), ready("averaged")]
    with pytest.raises(ValueError, match="2"):
        in_ranks(2, one)


@pytest.mark.parametrize("kind", ["averaged", "factorised"])
def test_ranks_start_with_the_books_of_the_first(kind: str) -> None:
    def one(rank: int, total: Callable[[Tensor], Tensor]) -> Tensor:
        quantizers[rank].start(noise(100, 4, seed=rank), torch_generator("start"), total=total, rank=rank)
        return books(quantizers[rank])

    quantizers = [ready(kind), ready(kind)]
    expected = ready(kind)
    expected.start(noise(100, 4, seed=0), torch_generator("start"))
    for found in in_ranks(2, one):
        assert torch.equal(found, books(expected))


def test_usage_closed_form() -> None:
    quantizer = ResidualQuantizer(2, 4, 3)
    quantizer.counts_KV.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 0.0, 0.01]]))
    found = quantizer.usage(0.03)
    shares = [3 / 4.01, 1 / 4.01, 0.01 / 4.01]
    assert found.entropy_K == pytest.approx([2.0, -sum(share * math.log2(share) for share in shares)])
    assert found.used_K == [1.0, 0.5]


def test_loaded_books_are_moved_on_from_where_they_are() -> None:
    quantizer = started()
    loaded = ResidualQuantizer(3, 16, 4)
    loaded.books_KVD.copy_(quantizer.books_KVD)
    loaded.begin_with_books()
    latent = noise(2, 5, 4, seed=9)
    assert torch.equal(loaded.eval()(latent).codes_BTK, quantizer.eval()(latent).codes_BTK)
    loaded.train()(latent)
    assert loaded.update(0.99, 0.03, torch_generator(0)) == 0
    assert float((loaded.books_KVD - quantizer.books_KVD).abs().max()) < 0.3
