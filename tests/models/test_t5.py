"""T5 as a memory: against transformers' own encoder, frozen, and zero where there is no text."""

from __future__ import annotations

import pytest
import torch

from partimento.errors import PartimentoError

transformers = pytest.importorskip("transformers")

from partimento.models.t5 import T5Memory  # noqa: E402

T5 = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
}


def memory(width: int) -> T5Memory:
    torch.manual_seed(0)
    return T5Memory({"t5": T5, "width": width})


def test_the_memory_is_t5s_output_projected_and_zero_without_text() -> None:
    ours = memory(24)
    theirs = transformers.T5EncoderModel(transformers.T5Config(**T5)).eval()
    theirs.load_state_dict(ours.t5.state_dict())
    text = torch.randint(1, 40, (3, 6))
    mask = torch.arange(6) < torch.tensor([[6], [2], [0]])
    with torch.no_grad():
        hidden = theirs(input_ids=text, attention_mask=mask.long()).last_hidden_state
        expected = ours.projection(hidden) * mask[..., None]
        got = ours.train()(text, mask)  # dropout would show
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert got.shape == (3, 6, 24) and not got[~mask].any() and bool(got.isfinite().all())


def test_only_the_projection_is_trained() -> None:
    ours = memory(24)
    assert [name for name, weight in ours.named_parameters() if weight.requires_grad] == [
        "projection.weight",
        "projection.bias",
    ]
    ours.train()(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)).sum().backward()
    assert ours.projection.weight.grad is not None and not ours.t5.training


def test_equal_widths_need_no_projection() -> None:
    ours = memory(16)
    assert ours.projection is None and ours.width == 16
    assert T5Memory(ours.to_json()).to_json() == ours.to_json() == {"t5": T5, "width": 16}


def test_t5_stays_in_float32_under_autocast() -> None:
    ours = memory(16)
    text, mask = torch.randint(1, 40, (2, 5)), torch.ones(2, 5, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        low = ours(text, mask)
    assert torch.equal(low, ours(text, mask))


@pytest.mark.parametrize(
    "config",
    [
        {"t5": T5},
        {"t5": {**T5, "more": 1}, "width": 16},
        {"t5": {**T5, "num_heads": 0}, "width": 16},
        {"t5": {**T5, "feed_forward_proj": "gated-nothing"}, "width": 16},
        {"t5": T5, "width": "16"},
    ],
)
def test_what_cannot_be_built(config: dict) -> None:
    with pytest.raises(PartimentoError) as caught:
        T5Memory(config)
    assert caught.value.code == "MODEL031"
