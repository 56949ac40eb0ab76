"""Static against growing cache against teacher forcing, and how many programs a static step is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.cache import GrowingCache, StaticCache
from partimento.models.decoder import CodeDecoder, DecoderConfig

K, ROWS, STEPS = 3, 11, 12
VARIANTS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "sinusoidal": {"norm": "layer", "activation": "gelu", "positions": "sinusoidal", "qk_norm": False},
    "learned": {"positions": "learned", "bias": True},
    "grouped": {"kv_heads": 2, "head_width": 6},
    "one": {"kv_heads": 1, "head_width": 16, "attention_scale": 1.0, "cross_width": 10, "tags": 3},
    "turned": {"cross_width": 10, "cross_heads": 2, "cross_head_width": 6, "cross_attention_rope": True},
}


def tiny(**changes: Any) -> CodeDecoder:
    torch.manual_seed(0)
    sizes = {"codebooks": K, "rows": ROWS, "outputs": 9, "width": 32, "layers": 2, "heads": 4, "max_positions": 32}
    decoder = CodeDecoder(DecoderConfig(**{**sizes, **changes}))
    for parameter in decoder.parameters():  # large weights, so that every path has an effect
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


def grid(steps: int = STEPS, seed: int = 1) -> Tensor:
    return torch.randint(0, ROWS, (2, steps, K), generator=torch.Generator().manual_seed(seed))


def told(decoder: CodeDecoder) -> dict[str, Tensor]:
    extra = {}
    if decoder.config.cross_width is not None:
        mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
        extra |= {"memory_BMD": torch.randn(2, 5, decoder.config.cross_width), "memory_mask_BM": mask}
    if decoder.condition is not None:
        extra["condition_BD"] = decoder.condition.null(2)
    return extra


def static_cache(decoder: CodeDecoder, positions: int) -> StaticCache:
    cache = decoder.make_cache(2, positions, static=True)
    assert isinstance(cache, StaticCache)
    return cache


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("chunks", [[1] * STEPS, [5, 1, 4, 2], [STEPS]])
@pytest.mark.parametrize("positions", [STEPS, 20])
@torch.inference_mode()
def test_static_equals_growing_equals_teacher_forcing(name: str, chunks: list[int], positions: int) -> None:
    decoder = tiny(**VARIANTS[name])
    extra = told(decoder)
    forced = decoder(grid(), **extra)
    for static in (False, True):
        cache = decoder.make_cache(2, positions, static=static)
        got = [decoder(part, cache=cache, **extra) for part in grid().split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(got, dim=1), forced, rtol=1e-5, atol=2e-5)
        assert int(cache.length_1 if isinstance(cache, StaticCache) else cache.length) == STEPS


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_padding_that_is_taken_back_leaves_no_trace(name: str) -> None:
    decoder = tiny(**VARIANTS[name])
    extra, cache = told(decoder), static_cache(decoder, STEPS)
    for given, rows in ((grid(seed=5), 9), (grid(), 4)):  # the second after a reset, over what the first has left
        cache.reset()
        padded = given.clone()
        padded[:, rows:] = ROWS - 1
        decoder(padded, cache=cache, **extra)
        cache.move_to(rows)
        got = [decoder(given[:, step : step + 1], cache=cache, **extra) for step in range(rows, STEPS)]
        expected = decoder(given, **extra)[:, rows:]
        torch.testing.assert_close(torch.cat(got, dim=1), expected, rtol=1e-5, atol=2e-5)


@torch.inference_mode()
def test_a_memory_that_was_remembered_is_not_projected_again() -> None:
    decoder = tiny(**VARIANTS["one"])
    extra, cache = told(decoder), static_cache(decoder, STEPS)
    decoder.remember(cache, extra["memory_BMD"])
    other = {**extra, "memory_BMD": torch.zeros(2, 5, 10)}  # its values are in the cache; the mask is read
    torch.testing.assert_close(decoder(grid(), cache=cache, **other), decoder(grid(), **extra), rtol=1e-5, atol=2e-5)


def test_the_device_chooses_and_a_growing_cache_refuses_what_does_not_fit() -> None:
    decoder = tiny()
    assert isinstance(decoder.make_cache(2, 4), GrowingCache)
    assert isinstance(decoder.to("meta").make_cache(2, 4), StaticCache)
    decoder = tiny()
    with pytest.raises(PartimentoError, match="MODEL004"):
        decoder(grid(5), cache=decoder.make_cache(2, 4))


@torch.inference_mode()
def test_a_static_cache_of_another_type_than_the_activations() -> None:
    decoder = tiny()
    forced, cache = decoder(grid()), static_cache(decoder, STEPS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.cat([decoder(part, cache=cache) for part in grid().split([4, 4, 4], dim=1)], dim=1)
    assert cache.keys[0].dtype == torch.float32
    assert (got - forced).norm() / forced.norm() < 0.05


@pytest.mark.parametrize("name", ["rotary", "learned", "one", "turned"])
def test_steps_are_one_program(name: str) -> None:
    """Recorded whole, with no break in the graph; the second shape (a prefill) is the second program, and the last."""
    decoder = tiny(**VARIANTS[name])
    extra, programs = told(decoder), []

    def count(module: torch.fx.GraphModule, _: Any) -> Any:
        programs.append(module)
        return module.forward

    step = torch.compile(decoder, backend=count, fullgraph=True, dynamic=False)
    cache = static_cache(decoder, STEPS)
    if "memory_BMD" in extra:
        decoder.remember(cache, extra["memory_BMD"])
    with torch.no_grad():
        forced = decoder(grid(), **extra)
        for window in (7, 4):
            cache.reset()
            step(grid()[:, :8], cache=cache, last=True, **extra)
            cache.move_to(window)
            for row in range(window, STEPS):
                got = step(grid()[:, row : row + 1], cache=cache, last=True, **extra)
                assert len(programs) == 2
                torch.testing.assert_close(got[:, 0], forced[:, row], rtol=1e-5, atol=2e-5)
