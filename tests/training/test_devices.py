"""The device layer, as far as a CPU goes: choosing, refusing, flags that come back, and seeds."""

from __future__ import annotations

import os

import pytest
import torch

from partimento.codecs.stages import full_precision
from partimento.errors import PartimentoError
from partimento.training import devices

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)  # a name: nothing here asks the device


def test_auto_finds_something_and_what_is_missing_is_refused_with_its_remedy() -> None:
    assert devices.pick("auto").type in ("cuda", "tpu", "mps", "cpu")
    for kind in ("cuda", "mps", "tpu", "xla"):
        if devices._count(kind) == 0:
            with pytest.raises(PartimentoError, match=f"TRAIN005.*no {kind} device") as caught:
                devices.pick(kind)
            assert caught.value.next
    assert "partimento[tpu]" in devices._REMEDY["tpu"]


def test_a_rank_without_a_device_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: 2)
    assert devices.pick("tpu", 1) == torch.device("tpu", 1) if hasattr(torch, "tpu") else True
    with pytest.raises(PartimentoError, match=r"TRAIN005.*process 2 .* there are 2"):
        devices.pick("cuda", 2)


def flags() -> tuple[object, ...]:
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("bf16", False), ("tf32", True)])
def test_float32_products_are_float32_unless_tf32_is_asked_for(precision: str, allowed: bool) -> None:
    before = flags()
    with devices.precise(CUDA, precision):
        assert devices.tf32() is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is allowed and torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if allowed else "ieee")
        # What the codecs do around their layers reads torch's old switches; it must not find them at odds.
        with full_precision():
            assert torch.backends.cudnn.allow_tf32 is False
        assert torch.backends.cudnn.allow_tf32 is allowed
    assert flags() == before


def test_the_cpu_is_always_deterministic_and_a_gpu_when_asked() -> None:
    before = flags()
    with devices.reproducible(CPU):
        assert torch.are_deterministic_algorithms_enabled() and devices.describe(CPU)["deterministic"]
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert flags() == before


def test_cublas_is_told_and_all_is_as_it_was_even_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for stated, inside in ((None, ":4096:8"), (":16:8", ":16:8"), (":0:0", ":4096:8")):
        if stated is None:
            monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        else:
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", stated)
        before = flags()
        monkeypatch.setattr(torch.random, "fork_rng", fork_host_only)
        with pytest.raises(ZeroDivisionError), devices.reproducible(CUDA, deterministic=True):
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == inside
            assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
            1 / 0
        assert flags() == before
        with devices.reproducible(CUDA, deterministic=False):
            assert not torch.are_deterministic_algorithms_enabled()


real_fork = torch.random.fork_rng


def fork_host_only(devices: object = (), device_type: str = "cuda") -> object:
    return real_fork(devices=[], device_type="cuda")


def test_the_callers_random_streams_come_back() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    with devices.reproducible(CPU):
        devices.seed(CPU, 99)
        drawn = torch.randn(4)
    assert torch.equal(torch.randn(4), expected)
    torch.manual_seed(99)
    assert torch.equal(torch.randn(4), drawn)


def test_a_description_is_json_of_what_bits_depend_on() -> None:
    found = devices.describe(CPU)
    assert found["device"] == "cpu" and found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__ and found["capability"]
    assert all(isinstance(value, str | int | bool) for value in found.values())


def test_bf16_is_for_products_only_and_memory_is_in_bytes() -> None:
    weight = torch.randn(4, 4)
    with devices.autocast(CPU, "bf16"):
        assert (weight @ weight).dtype == torch.bfloat16
    for precision in ("fp32", "tf32"):
        with devices.autocast(CPU, precision):
            assert (weight @ weight).dtype == torch.float32
    assert 2**24 < devices.memory(CPU)["peak_bytes"] < 2**40
    devices.reset_peak(CPU)
    devices.synchronise(CPU)
