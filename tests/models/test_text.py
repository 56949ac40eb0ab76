"""The text encoder, and what a decoder is told through it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from partimento.config import Optim
from partimento.errors import PartimentoError
from partimento.models import initialise
from partimento.models.conditions import Null, null_text
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.dia import TextModel
from partimento.models.text import TextConfig, TextEncoder
from partimento.training import groups
from partimento.training.compiled import blocks

LENGTH, VOCABULARY = 9, 20
TEXT = torch.randint(1, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(3))
MASK = torch.arange(LENGTH) < torch.tensor([[LENGTH], [4], [0]])  # a full text, a short one, none


def encoder(**changes: Any) -> TextEncoder:
    torch.manual_seed(0)
    sizes = {"vocabulary": VOCABULARY, "length": LENGTH, "width": 24, "layers": 2, "heads": 4}
    made = TextEncoder(TextConfig(**{**sizes, **changes}))
    initialise.by_fan_in(made)
    return made.eval()


def model(null: Null = "empty", dropout: float = 0.0, **changes: Any) -> TextModel:
    text = encoder(dropout=dropout)
    sizes = {"codebooks": 3, "rows": 11, "outputs": 9, "width": 32, "layers": 2, "heads": 4, "max_positions": 32}
    decoder = CodeDecoder(DecoderConfig(**{**sizes, "cross_width": 24, "dropout": dropout, **changes}))
    made = TextModel(text, decoder, null)
    initialise.by_fan_in(made)
    torch.nn.init.normal_(made.decoder.head.weight)
    return made.eval()


@pytest.mark.parametrize("changes", [{}, {"kv_heads": 2, "head_width": 10}, {"qk_norm": False, "attention_scale": 1.0}])
@torch.inference_mode()
def test_the_text_is_read_in_both_directions_and_padding_is_not(changes: dict[str, Any]) -> None:
    read = encoder(**changes)
    expected = read(TEXT, MASK)
    assert expected.shape == (3, LENGTH, 24) and expected.isfinite().all()
    padded = torch.where(MASK, TEXT, 0)
    torch.testing.assert_close(read(padded, MASK)[MASK], expected[MASK], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read(TEXT[1:2, :4], MASK[1:2, :4]), expected[1:2, :4], rtol=1e-5, atol=1e-5)
    changed = TEXT.clone()
    changed[0, -1] = changed[0, -1] % (VOCABULARY - 1) + 1
    assert ((read(changed, MASK) - expected)[0].abs().amax(1) > 1e-4).all()
    swapped = TEXT.flip(1)  # the same ids in another order are another text
    assert (read(swapped, MASK)[0].mean(0) - expected[0].mean(0)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["empty", "zeros"])
@torch.inference_mode()
def test_a_dropped_item_is_told_the_one_null_text(kind: Null) -> None:
    both = model(kind)
    grid = torch.randint(0, 11, (3, 7, 3))
    nothing = torch.zeros(3, dtype=torch.bool)
    told = both.told(TEXT, MASK, nothing)
    null_BM, null_mask_BM = null_text(TEXT, MASK, kind)
    assert told.mask_BM is not None and torch.equal(told.mask_BM, null_mask_BM)
    torch.testing.assert_close(told.memory_BMD, both.encoder(null_BM, null_mask_BM), rtol=0, atol=0)
    logits = both.decoder(grid, **told.arguments())
    # Nothing of the text is left, and for the kind `empty` the memory is not there at all.
    other = both.told(TEXT.flip(1), MASK, nothing)
    torch.testing.assert_close(both.decoder(grid, **other.arguments()), logits, rtol=0, atol=0)
    silent = both.decoder(grid)
    assert torch.allclose(logits, silent, atol=1e-6) == (kind == "empty")
    # Per item: the first is kept, the second dropped.
    mixed = both.told(TEXT, MASK, torch.tensor([True, False, True]))
    kept = both.told(TEXT, MASK, torch.ones(3, dtype=torch.bool))
    got = both.decoder(grid, **mixed.arguments())
    torch.testing.assert_close(got[1], logits[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[0], both.decoder(grid, **kept.arguments())[0], rtol=1e-5, atol=1e-5)
    assert (got[0] - logits[0]).abs().max() > 1e-2


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_empty_texts_give_finite_gradients(precision: torch.dtype) -> None:
    both = model().train()
    grid, targets = torch.randint(0, 11, (2, 3, 7, 3)).unbind(0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        told = both.told(TEXT, MASK, torch.tensor([False, False, True]))  # all three rows are empty
        loss = both.decoder.loss(grid, targets % 9, 8, **told.arguments()).total
        loss.backward()
    assert loss.isfinite()
    for name, parameter in both.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if name.startswith("encoder"):
            assert not parameter.grad.any(), f"{name}: nothing was read"


@torch.inference_mode()
def test_bfloat16_autocast_is_close() -> None:
    read = encoder()
    expected = read(TEXT, MASK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = read(TEXT, MASK)
    assert (got - expected)[MASK].norm() / expected[MASK].norm() < 0.03


def test_dropout_in_training_only() -> None:
    both = model(dropout=0.5)
    keep = torch.ones(3, dtype=torch.bool)
    torch.testing.assert_close(both.told(TEXT, MASK, keep).memory_BMD, both.told(TEXT, MASK, keep).memory_BMD)
    both.train()
    assert (both.told(TEXT, MASK, keep).memory_BMD != both.told(TEXT, MASK, keep).memory_BMD).any()


@pytest.mark.parametrize("cross_attention_rope", [False, True])
def test_training_is_one_program_whatever_the_texts(cross_attention_rope: bool) -> None:
    both, programs = model(cross_attention_rope=cross_attention_rope).train(), []

    def count(module: torch.fx.GraphModule, _: Any) -> Any:
        programs.append(module)
        return module.forward

    def loss(grid: Tensor, text: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
        return both.decoder(grid, **both.told(text, mask, keep).arguments()).logsumexp(-1).mean()

    compiled = torch.compile(loss, backend=count, fullgraph=True, dynamic=False)
    for seed in range(3):
        grid = torch.randint(0, 11, (3, 7, 3), generator=torch.Generator().manual_seed(seed))
        given = grid, TEXT.roll(seed, 0), MASK.roll(seed, 0), torch.tensor([True, False, True]).roll(seed)
        torch.testing.assert_close(compiled(*given), loss(*given), rtol=1e-5, atol=1e-5)
        assert len(programs) == 1


def test_a_description_makes_the_same_model_again() -> None:
    both = model("zeros", cross_attention_rope=True, cross_heads=2, cross_head_width=6)
    stored = both.to_json()
    again = TextModel.from_json(stored)
    assert again.to_json() == stored and stored["encoder"]["kind"] == "bytes"
    again.load_state_dict(both.state_dict())  # the same names and shapes
    assert again.decoder.config == both.decoder.config
    torch.manual_seed(5)
    first = TextModel.from_json(stored).state_dict()
    torch.manual_seed(5)
    for name, value in TextModel.from_json(stored).state_dict().items():
        assert torch.equal(value, first[name])


def test_what_does_not_go_together_is_refused() -> None:
    good = model().to_json()
    for wrong, words in (
        ({**good, "null": "noise"}, "empty, zeros"),
        ({**good, "extra": 1}, "nothing else"),
        ({**good, "encoder": {**good["encoder"], "kind": "bert"}}, "bert"),
        ({**good, "encoder": {**good["encoder"], "heads": 5, "head_width": None}}, "multiple of heads"),
        ({**good, "encoder": {**good["encoder"], "kv_heads": 3}}, "kv_heads"),
        ({**good, "encoder": {**good["encoder"], "head_width": 5}}, "even"),
        ({**good, "encoder": {**good["encoder"], "dropout": 1.0}}, "dropout"),
        ({**good, "encoder": {**good["encoder"], "layers": 0}}, "below 1"),
        ({**good, "encoder": {**good["encoder"], "kv_heads": 0}}, "below 1"),
        ({**good, "encoder": {"kind": "t5", "sizes": {}}}, "config"),
        ({**good, "encoder": {**good["encoder"], "depth": 3}}, "depth"),
        ({**good, "encoder": {**good["encoder"], "width": 40}}, "40 wide"),
        ({**good, "decoder": {**good["decoder"], "cross_width": None}}, "None"),
    ):
        with pytest.raises(PartimentoError) as error:
            TextModel.from_json(wrong)
        assert error.value.code == "MODEL021" and words in str(error.value), wrong
    read = encoder()
    with pytest.raises(PartimentoError, match="MODEL020"):
        read(TEXT + VOCABULARY, MASK)
    with pytest.raises(PartimentoError, match="MODEL004"):
        read(TEXT.repeat(1, 2), MASK.repeat(1, 2))
    rotated = model(cross_attention_rope=True)
    with pytest.raises(PartimentoError, match="MODEL004"):
        rotated.decoder(torch.zeros(1, 2, 3, dtype=torch.long), memory_BMD=torch.zeros(1, 5000, 24))


def test_optimizers_claim_the_parameters_by_their_nature() -> None:
    """Tables do not decay and are not Muon's, nor is the head; fused matrices are several."""
    both = model()
    claims = {one.name: one for one in groups.claim(both, Optim(name="muon"))}
    assert set(claims) == {name for name, _ in both.named_parameters()}
    for name in ("encoder.embedding", "decoder.embedding", "encoder.norm.weight", "decoder.head.weight"):
        assert claims[name].optimizer == "adamw"
        assert (claims[name].weight_decay > 0) == (name == "decoder.head.weight")
    for name, parts in (
        ("encoder.blocks.1.attention.qkv.weight", (24, 24, 24)),
        ("encoder.blocks.0.feedforward.up.weight", (64, 64)),
        ("decoder.blocks.0.cross.key_value.weight", (32, 32)),
    ):
        assert claims[name].optimizer == "muon" and claims[name].parts == parts


def test_the_blocks_of_both_networks_are_what_is_compiled() -> None:
    both = model()
    assert blocks(both) == [*both.encoder.blocks, *both.decoder.blocks]
