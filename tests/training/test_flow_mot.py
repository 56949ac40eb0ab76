"""The audit of a mixture: every attention is seen, compiled or recorded or computed again, and before any recording."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from codes_toy import ToyCodec
from mot_toy import config, task, write_llama, write_pack
from torch import Tensor, nn

from partimento.runs.events import read_events
from partimento.training import graphs
from partimento.training.directions import reached, to_reach
from partimento.training.engine import train
from partimento.training.flow import Flow
from partimento.training.task import Direction


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("data") / "pack")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder)
    return folder


SHORT = {"steps": 2, "valid_every": 100, "save_every": 100}
BOTH = {"experts": "full", "caption_share": 0.5}


@pytest.mark.parametrize(
    ("model", "run", "calls"),
    [
        ({}, {}, 2),
        (BOTH, {}, 5),
        (BOTH, {"recompute": "full"}, 5),
        ({}, {"compile": True}, 2),
        (BOTH, {"compile": True}, 5),
    ],
)
def test_every_attention_of_a_pass_is_seen_once(
    pack: Path,
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, Any],
    run: dict[str, Any],
    calls: int,
) -> None:
    if "compile" in run:  # traced as for compiling, run by torch's own kernels
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        torch.compiler.reset()
    made = config(pack, llama, model=model, train=SHORT | run)
    assert task(made).attentions == calls
    events = read_events(train(made, runs=tmp_path).events_path)
    (before,) = [event for event in events if event["kind"] == "flow"]
    assert before["attention"] == calls


def test_the_audit_looks_before_a_step_is_recorded(
    pack: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Recorded:
        """What is called from the second time on is no Python, and cannot be looked at."""

        def __init__(self, forward_backward: Any, parameters: Any) -> None:
            self.forward_backward = forward_backward
            order.append("recorded")

        def __call__(self, inputs: Any) -> Any:
            return self.forward_backward(inputs)

    before = Flow.before

    def looked(self: Flow) -> dict[str, Any]:
        found = before(self)
        order.append("looked")
        return found

    monkeypatch.setattr(graphs, "check", lambda *_: None)
    monkeypatch.setattr(graphs, "Graphed", Recorded)
    monkeypatch.setattr(Flow, "before", looked)
    train(config(pack, llama, model=BOTH, train=SHORT | {"cuda_graphs": True}), runs=tmp_path)
    assert order == ["looked", "recorded"]


def test_what_a_direction_has_to_teach(pack: Path, llama: Path) -> None:
    made = task(
        config(pack, llama, model={"experts": "lora", "rank": 2, "train_backbone": "all", "caption_share": 0.5})
    )
    found = to_reach(made.module)  # type: ignore[arg-type]
    experts = [f"decoder.experts.{name}" for name in ("0", "1 (keys)", "1 (values)")]
    blocks = [f"decoder.llama.blocks.{name}" for name in ("0", "1 (keys)", "1 (values)")]
    assert list(found["captions"]) == ["decoder.embedding", *experts]
    assert list(found["sound"]) == ["decoder.llama.embedding.weight", *blocks]
    assert found["captions"]["decoder.experts.1 (keys)"] == [
        "decoder.experts.1.lora_A.key",
        "decoder.experts.1.lora_B.key",
    ]
    assert [direction.what for direction in made.directions] == ["captions", "sound"]
    assert task(config(pack, llama)).directions == []


def test_one_of_the_parameters_with_a_gradient_that_is_not_zero_is_enough() -> None:
    module = nn.ParameterDict({name: nn.Parameter(torch.ones(3)) for name in "abcd"})
    gradients: dict[str, Tensor | None] = {
        "a": None,
        "b": torch.zeros(3),
        "c": torch.tensor([0.0, 0.0, 1e-30]),
        "d": torch.ones(3),
    }
    for name, gradient in gradients.items():
        module[name].grad = gradient
    wanted = {"none": ["a", "b"], "one": ["a", "b", "c"], "all": ["d"]}
    direction = Direction("words", lambda batch: (), wanted)
    assert reached(direction, module) == {"one", "all"}
