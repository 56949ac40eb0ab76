"""The factorised quantizer: what DAC does not have (its parity is in tests/parity), and what both quantizers share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from partimento.keyed import torch_generator
from partimento.waveform.factorised import FactorisedQuantizer, same_direction


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(codebooks: int = 3, cardinality: int = 16, latent: int = 6, factor: int = 3) -> FactorisedQuantizer:
    torch.manual_seed(0)
    quantizer = FactorisedQuantizer(codebooks, cardinality, latent, factor)
    quantizer.start(noise(400, latent), torch_generator("start"))
    return quantizer


def test_a_code_is_found_by_direction_and_given_with_its_length() -> None:
    book = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-3.0, 0.0]])
    vectors = torch.tensor([[[0.1, 0.09], [2.0, 3.0], [-0.01, 0.0]]])
    assert same_direction(vectors, book).tolist() == [[0, 1, 2]]
    quantizer = FactorisedQuantizer(1, 3, 2, 2)
    stage = quantizer.stages[0]
    with torch.no_grad():
        for projection in (stage.inward, stage.outward):
            projection.weight.copy_(torch.eye(2))
            projection.bias.zero_()
        stage.book.weight.copy_(book)
    quantizer.begin_with_books()
    quantized = quantizer(vectors)
    assert torch.equal(quantized.latent_BTD, book[[0, 1, 2]][None])
    error = ((vectors - book) ** 2).mean()
    assert float(quantized.commitment.detach()) == pytest.approx(1.25 * float(error))


def test_before_start_the_projections_learn_to_keep_the_latents() -> None:
    torch.manual_seed(0)
    quantizer = FactorisedQuantizer(3, 16, 6, 3).train()
    optimizer = torch.optim.Adam(quantizer.parameters(), 1e-2)
    latent = noise(2, 30, 6)
    errors = []
    for _ in range(200):
        quantized = quantizer(latent)
        loss = (quantized.latent_BTD - latent).square().mean() + quantized.commitment
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in quantizer.parameters())  # DDP waits for each
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.1 * errors[0]
    assert quantizer.update(0.9, 0.03, torch_generator(0)) == 0  # nothing was noted
    assert float(quantized.commitment) == 0.0 and not quantized.codes_BTK.any()


def test_start_uses_every_code_of_the_first_book() -> None:
    quantizer = started().eval()
    codes = quantizer.encode(noise(1, 400, 6))
    assert len(codes[..., 0].unique()) == 16
    usage = quantizer.usage(0.03)
    assert min(usage.entropy_K) > 3.0 and usage.used_K == [1.0] * 3


def test_an_item_does_not_depend_on_its_batch_mates() -> None:
    quantizer, latent = started().double(), noise(3, 7, 6, seed=3).double()
    codes = quantizer.encode(latent)
    for b in range(3):
        assert torch.equal(quantizer.encode(latent[b : b + 1])[0], codes[b])


def test_dead_codes_are_restarted_from_data_by_key() -> None:
    def trained() -> tuple[FactorisedQuantizer, int]:
        quantizer = started().train()
        with torch.no_grad():
            quantizer.stages[1].book.weight[3] = 1e3
            quantizer.counts_KV[1, 3] = 0.0
        quantizer(noise(4, 6, 6, seed=7))
        living = quantizer.stages[1].book.weight[4].clone()
        restarts = quantizer.update(0.99, 0.03, torch_generator(0, "restarts", 5))
        assert torch.equal(living, quantizer.stages[1].book.weight[4])  # the optimizer's
        return quantizer, restarts

    (one, restarts), (two, _) = trained(), trained()
    assert restarts >= 1
    row = one.stages[1].book.weight[3]
    assert float(row.abs().max()) < 10
    assert float(one.counts_KV[1, 3]) > 0.03 * float(one.counts_KV[1].mean())  # it has its time to be chosen
    latent = noise(4, 6, 6, seed=7)
    first = one.stages[0]
    residual = latent - first.outward(first.book(same_direction(first.inward(latent), first.book.weight)))
    seen = one.stages[1].inward(residual).reshape(-1, 3)
    assert float((seen - row).abs().amax(1).min()) < 1e-6  # a residual that this stage saw
    for k in range(3):
        assert torch.equal(one.stages[k].book.weight, two.stages[k].book.weight)


def test_books_learn_where_latents_wander() -> None:
    """Gradient, start and restarts together keep the books in use; gradient alone loses most of them."""

    def learned(restarts: bool) -> float:
        torch.manual_seed(1)
        quantizer = FactorisedQuantizer(2, 32, 4, 4).train()
        if restarts:
            quantizer.start(noise(400, 4), torch_generator("start"))
        else:
            quantizer.begin_with_books()
        optimizer = torch.optim.Adam(quantizer.parameters(), 3e-3)
        for step in range(150):
            latent = noise(8, 16, 4, seed=1000 + step) + step / 50
            quantized = quantizer(latent)
            loss = (quantized.latent_BTD - latent).square().mean() + quantized.commitment
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            quantizer.update(0.95, 0.03 if restarts else 0.0, torch_generator("live", step))
        return min(quantizer.usage(0.03).entropy_K)

    kept, lost = learned(True), learned(False)
    assert kept > 0.6 * 5 and kept > lost
