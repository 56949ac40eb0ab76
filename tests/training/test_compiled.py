"""Compiled and recomputing blocks: the same numbers and names, less memory; a rehearsal that leaves no trace."""

from __future__ import annotations

import copy
import functools
import weakref
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from partimento.config import Train
from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.training import compiled, speed
from partimento.waveform.autoencoder import Autoencoder, AutoencoderConfig

Policy = Literal["none", "selective", "full"]
CPU = torch.device("cpu")
GRID = torch.randint(0, 16, (2, 24, 3), generator=torch.Generator().manual_seed(1))


def decoder(dropout: float = 0.0, layers: int = 3) -> CodeDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(codebooks=3, rows=20, outputs=17, width=32, layers=layers, heads=2, dropout=dropout)
    return CodeDecoder(config).train()


def passed(module: nn.Module, grid: Tensor = GRID) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(5)
    for parameter in module.parameters():
        parameter.grad = None
    output = module(grid)
    (output.square().mean() * 100).backward()
    return output.detach(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("policy", ["selective", "full"])
def test_recomputing_changes_no_bit_of_the_gradients_dropout_included(policy: Policy) -> None:
    expected, gradients = passed(decoder(dropout=0.2))
    module = decoder(dropout=0.2)
    assert compiled.prepare(module, Train(recompute=policy), CPU) is False
    output, found = passed(module)
    assert torch.equal(output, expected) and found.keys() == gradients.keys()
    assert all(torch.equal(found[name], gradients[name]) for name in gradients)


class Watch(TorchDispatchMode):
    """Bytes of results that are still held, and how many operators of which name ran."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.ran = 0, dict[str, int]()
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.ran[name] = self.ran.get(name, 0) + 1
        for tensor in [result] if isinstance(result, Tensor) else []:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    def _freed(self, known: int, size: int) -> None:
        self._known.discard(known)
        self.held -= size


def watched(policy: Policy) -> tuple[int, int]:
    """Bytes held between forward and backward, and matrix products of the whole pass."""
    module = decoder()
    compiled.prepare(module, Train(recompute=policy), CPU)
    with Watch() as watch:
        output = module(GRID)
        held = watch.held
        output.sum().backward()
    return held, watch.ran["mm"]


def test_recomputing_holds_less_and_selective_makes_no_product_twice() -> None:
    (plain, products), (selective, kept), (full, again) = (watched("none"), watched("selective"), watched("full"))
    assert full < 0.7 * selective and selective < 0.8 * plain
    assert kept == products and again > products


Fast = tuple[CodeDecoder, speed.Recompiles, Path]


def made_fast(folder: Path, backend: str) -> Fast:
    """A compiled decoder of more layers than torch bears recompiles, after its first pass; its graphs, its cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        patch.setenv("PARTIMENTO_CACHE", str(folder))
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
        recompiles = speed.Recompiles()
        module = decoder(layers=10)
        assert compiled.prepare(module, Train(compile=True), CPU) is True
        passed(module)
    return module, recompiles, folder


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Fast:
    """Traced as for compiling, run by torch's own kernels: all but the C++."""
    return made_fast(tmp_path_factory.mktemp("cache"), "aot_eager")


def same_as_plain(module: CodeDecoder) -> None:
    plain = decoder(layers=10)
    expected, gradients = passed(plain)
    output, found = passed(module)
    assert list(module.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    for name in gradients:
        torch.testing.assert_close(found[name], gradients[name], atol=1e-5, rtol=0)


def test_traced_blocks_give_eager_numbers_under_the_same_names(traced: Fast) -> None:
    same_as_plain(traced[0])


def test_one_graph_serves_all_blocks_and_twenty_steps(traced: Fast) -> None:
    module, recompiles, _ = traced
    for _ in range(20):
        passed(module)
    assert recompiles.count == 1


def test_validation_and_other_shapes_of_it_compile_nothing(traced: Fast) -> None:
    module, recompiles, _ = traced
    before = recompiles.count
    module.eval()
    with torch.no_grad():
        for steps in (1, 7, 11):
            module(GRID[:, :steps])
        module(GRID[:, :4], cache=module.make_cache(2, 8))
    module.train()
    assert recompiles.count == before


def test_a_copy_is_bound_to_its_own_weights(traced: Fast) -> None:
    twin = copy.deepcopy(traced[0])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert passed(twin)[0].abs().max() == 0 and passed(traced[0])[0].abs().max() > 0


@pytest.mark.slow  # a minute of g++ on a busy core
def test_compiled_blocks_give_eager_numbers_and_are_kept_where_only_the_user_writes(tmp_path: Path) -> None:
    module, recompiles, folder = made_fast(tmp_path, "inductor")
    same_as_plain(module)
    for _ in range(20):
        passed(module)
    assert recompiles.count == 1
    (kept,) = (folder / "compiled").iterdir()
    assert kept.name == f"torch-{torch.__version__}" and kept.stat().st_mode & 0o077 == 0
    assert any(kept.rglob("*.so"))


@pytest.mark.parametrize("policy", ["selective", "full"])
def test_recomputing_blocks_are_traced_as_one_graph_too(policy: Policy, tmp_path: Path) -> None:
    expected, gradients = passed(decoder())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        module, recompiles = decoder(), speed.Recompiles()
        compiled.prepare(module, Train(compile=True, recompute=policy), CPU)
        output, found = passed(module)
        assert recompiles.count == 1
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    for name in gradients:
        torch.testing.assert_close(found[name], gradients[name], atol=1e-5, rtol=0)


def test_the_users_own_cache_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert compiled.cache_folder() == tmp_path / "mine"


def test_what_torch_sets_by_itself_is_not_the_users_wish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.cache_folder().is_relative_to(tmp_path)


def test_no_compiler_is_said_before_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def absent() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", absent)
    with pytest.raises(PartimentoError, match="TRAIN041"):
        compiled.prepare(decoder(), Train(compile=True), CPU)


def test_the_codecs_blocks_are_found_in_both_trunks() -> None:
    module = Autoencoder(AutoencoderConfig(width=8, latent=4, encoder_layers=2, decoder_layers=3, codebooks=2))
    assert len(compiled.blocks(module)) == 5
    compiled.prepare(module, Train(recompute="full"), CPU)
    assert all("forward" in vars(block) for block in compiled.blocks(module))


@pytest.mark.parametrize(("dropout", "expected"), [(0.0, False), (0.1, True)])
def test_dropout_is_seen_in_its_two_forms(dropout: float, expected: bool) -> None:
    assert compiled.draws(decoder(dropout)) is expected
    assert compiled.draws(nn.Sequential(nn.Linear(2, 2), nn.Dropout(dropout))) is expected


class Noting(nn.Module):
    """Leaves every kind of trace that a training pass can leave."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(()))
        self.notes: list[Tensor] | None = None

    seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.notes = [x]
        self.extra = x
        return self.layer(nn.functional.dropout(x, 0.5)).sum()


def test_the_rehearsal_runs_every_stage_and_leaves_no_trace() -> None:
    module = Noting()
    before = copy.deepcopy(module.state_dict())
    sizes: list[int] = []
    stages = {"from step 0": (torch.randn(2, 4),), "from step 9": (torch.randn(5, 4),)}
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)

    def forward_backward(inputs: tuple[Tensor | None, ...]) -> None:
        (x,) = inputs
        assert x is not None
        sizes.append(len(x))
        module(x).backward()

    assert compiled.dry_run(module, forward_backward, stages, CPU, reserve=1000)["peak_bytes"] > 0
    assert sizes == [2, 5]
    assert torch.equal(torch.rand(3), expected)
    assert module.notes is None and not hasattr(module, "extra")
    assert not any(parameter.grad is None or parameter.grad.any() for parameter in module.parameters())
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_memory_that_is_not_enough_is_said_with_its_remedies(error: RuntimeError) -> None:
    module = Noting()

    def forward_backward(inputs: tuple[Tensor | None, ...]) -> None:
        raise error

    with pytest.raises(PartimentoError, match=r"TRAIN040.*\[8, 4\]") as caught:
        compiled.dry_run(module, forward_backward, {"from step 0": (None, torch.randn(8, 4))}, CPU, reserve=2**20)
    assert "optim.accumulate" in str(caught.value.next) and "allocate" in str(caught.value.why)
    assert caught.value.context["reserve_bytes"] == 2**20
    assert module.notes is None


def test_another_error_of_the_rehearsal_is_left_as_it_is() -> None:
    def forward_backward(inputs: tuple[Tensor | None, ...]) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        compiled.dry_run(Noting(), forward_backward, {"": (torch.randn(1, 4),)}, CPU)
