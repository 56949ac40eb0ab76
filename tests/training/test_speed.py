"""Operations, rates and times: against torch's own counter and closed forms."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.training import devices, speed
from partimento.waveform.autoencoder import Autoencoder, AutoencoderConfig

CPU = torch.device("cpu")


def decoder(**changes: Any) -> CodeDecoder:
    settings: dict[str, Any] = {
        "codebooks": 3,
        "rows": 20,
        "outputs": 17,
        "width": 32,
        "layers": 3,
        "heads": 2,
    } | changes
    return CodeDecoder(DecoderConfig(**settings)).double()  # float64: all products are torch's own operators


def counted(run: object) -> int:
    # The plain attention multiplies as the convention counts; the fused ones compute the scores twice.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run().sum().backward()  # type: ignore[operator]
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "changes", [{}, {"kv_heads": 1}, {"head_width": 8, "activation": "gelu"}, {"tags": 4}, {"bias": True}]
)
def test_flops_of_a_decoder_are_what_torch_counts(changes: dict[str, object]) -> None:
    module = decoder(**changes)
    grid = torch.randint(0, 16, (2, 24, 3))
    condition = torch.randn(2, 32, dtype=torch.float64) if changes.get("tags") else None
    assert counted(lambda: module(grid, condition_BD=condition)) == 2 * speed.flops_per_item(module, 24)


def test_flops_of_cross_attention_are_what_torch_counts() -> None:
    module = decoder(cross_width=16)
    grid, memory = torch.randint(0, 16, (2, 24, 3)), torch.randn(2, 7, 16, dtype=torch.float64, requires_grad=True)
    assert counted(lambda: module(grid, memory_BMD=memory)) == 2 * speed.flops_per_item(module, 24, memory=7)


def test_flops_of_the_codec_are_those_of_its_layers() -> None:
    module = Autoencoder(AutoencoderConfig(width=8, latent=4, encoder_layers=1, decoder_layers=1, codebooks=2))
    frames = 6
    inside = sum(p.numel() for name, p in module.named_parameters() if name.endswith("weight") and p.ndim > 1)
    assert speed.flops_per_item(module, frames) == 6 * inside * frames


class Named:
    """A device that only has a name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(devices, "name", lambda device: name)


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla V100-SXM2-16GB", None),
        ("NVIDIA RTX A1000", None),
        ("TPU v5e", 197.0),
        ("cpu", None),
    ],
)
def test_a_peak_is_found_by_whole_words(monkeypatch: pytest.MonkeyPatch, name: str, bf16: float | None) -> None:
    Named(monkeypatch, name)
    assert speed.peak(CPU, "bf16") == (None if bf16 is None else bf16 * 1e12)


def test_float32_has_a_peak_of_its_own_and_an_unknown_device_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speed.peak(CPU, "bf16") is None and speed.mfu(10.0, 1e9, None) is None
    Named(monkeypatch, "NVIDIA A100-SXM4-40GB")
    assert [speed.peak(CPU, p) for p in ("fp32", "tf32", "bf16")] == [19.5e12, 156e12, 312e12]
    assert speed.mfu(10.0, 1e9, 1e11) == pytest.approx(0.1)


def test_the_measured_rate_is_that_of_a_product() -> None:
    assert 1e7 < speed.matmul_rate(CPU, "fp32", size=64, seconds=0.01) < 1e14


def test_the_clock_gives_quantiles_and_the_share_of_waiting() -> None:
    clock = speed.Clock()
    assert clock.read() == {}
    for number in range(1, 101):
        clock.add(float(number), waited=number / 4)
    found = clock.read()
    assert found == {"step_seconds": 50.5, "step_p50": 50.0, "step_p99": 99.0, "data_wait_share": 0.25}
    assert clock.read() == {}
    clock.add(2.0)
    assert clock.read() == {"step_seconds": 2.0, "step_p50": 2.0, "step_p99": 2.0, "data_wait_share": 0.0}
    for _ in range(5000):
        clock.add(1.0)
    assert len(clock._seconds) == 4096


def test_recompiles_are_counted_from_when_one_asks() -> None:
    layer = nn.Linear(2, 2)
    run = torch.compile(lambda x: layer(x).relu(), backend="eager", dynamic=False)
    run(torch.randn(3, 2))
    recompiles = speed.Recompiles()
    run(torch.randn(3, 2))
    assert recompiles.count == 0
    run(torch.randn(4, 2))
    assert recompiles.count == 1


def test_counting_recompiles_imports_nothing() -> None:
    before = set(sys.modules)
    assert speed.Recompiles().count == 0
    assert set(sys.modules) == before
