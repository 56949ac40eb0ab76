"""Who learns: a healthy training of every family passes in silence, and each way of not learning is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import codes_toy
import players
import pytest
import torch
from codes_toy import ToyCodec
from torch import Tensor, nn
from toy import ToyTask, toy_config

from partimento.config import Config, parse
from partimento.errors import PartimentoError
from partimento.models import attention
from partimento.progress import Quiet
from partimento.runs import checkpoint
from partimento.runs.events import Event, read_events
from partimento.training import flow
from partimento.training.attended import attended
from partimento.training.engine import train
from partimento.training.fingerprints import fingerprints
from partimento.training.publish import export_weights
from partimento.training.reasons import kinship
from partimento.training.session import Session
from partimento.training.task import Task
from partimento.training.tasks import make_task

LONG = {"steps": 24, "log_every": 4, "valid_every": 1000, "save_every": 1000}
SILENT = {"temperatures": []}
SMALL_TEXT = {"text_width": 32, "text_layers": 1, "text_heads": 2}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return codes_toy.write_pack(tmp_path_factory.mktemp("flow") / "pack", captions=True)


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return players.write_takes(tmp_path_factory.mktemp("sound") / "takes")


class Heard(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def audited(config: Config, runs: Path, make: Any = make_task, run: str = "r") -> tuple[list[Event], list[str]]:
    """Events of the audit, and what the person was told."""
    heard = Heard()
    found = train(config, runs=runs, run=run, progress=heard, make_task=make)
    return [event for event in read_events(found.events_path) if event["kind"] == "flow"], heard.notes


def toy(runs: Path, make: type[ToyTask] = ToyTask, **keys: Any) -> tuple[list[Event], list[str]]:
    return audited(toy_config(**{"train__steps": 24, **keys}), runs, make)


# Fingerprints


def test_a_fingerprint_is_that_of_the_bits() -> None:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    other, swapped = x.clone(), x.clone()
    other[7] = torch.nextafter(other[7], other[7] + 1)
    swapped[[3, 4]] = swapped[[4, 3]]
    named = {"x": x, "same": x.clone().reshape(3, 1000), "other": other, "swapped": swapped, "half": x.bfloat16()}
    named |= {"zero": torch.zeros(4), "minus": -torch.zeros(4), "double": x.double(), "strided": x.repeat(2, 1).T[:, 0]}
    found = fingerprints(named)
    assert found["x"] == found["same"] == found["strided"]
    assert len(set(found.values())) == len(named) - 2
    assert fingerprints({}) == {} and fingerprints({"none": torch.zeros(0)}) == {"none": 0}


# Healthy trainings


@pytest.mark.parametrize(
    ("family", "sections"),
    [
        ("rvq", {}),
        ("rvq", {"optim": {"name": "muon"}, "data": {"null_share": 0.0, "tag_dropout": 0.0}}),
        ("rvq", {"model": {"tags": False}, "train": {"precision": "bf16", "recompute": "full"}}),
        ("dia", {"model": SMALL_TEXT}),
        ("dia", {"model": SMALL_TEXT, "data": {"text": "caption"}, "optim": {"accumulate": 2}}),
    ],
)
def test_a_healthy_training_of_codes_is_told_in_one_line(
    pack: Path, tmp_path: Path, family: str, sections: dict[str, Any]
) -> None:
    sections = {**sections, "train": LONG | sections.get("train", {}), "demo": SILENT}
    (before, after), notes = audited(codes_toy.config(pack, family, **sections), tmp_path)
    assert (before["when"], before["step"], after["when"], after["step"]) == ("before", 0, "after", 20)
    assert before["attention"] >= 2 and before["frozen"] == after["kept"] == 0
    never = family == "rvq" and sections.get("data", {}).get("null_share") == 0
    assert after["moved"] == before["trained"] - never
    assert list(after["waiting"].values()) == ([["condition.null_D"]] if never else [])
    (line,) = [note for note in notes if note.startswith("gradients")]
    assert f"{after['moved']} trained parameters" in line


@pytest.mark.parametrize("family", ["restore", "codec"])
def test_a_healthy_training_of_sound_and_its_rival(
    takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(flow, "STEPS", 4)
    (before, after), notes = audited(players.config(takes, family, train=LONG | {"steps": 5}), tmp_path)
    assert after["moved"] == before["trained"] > 80
    waiting = before["waiting"]
    if family == "restore":  # its last layer begins at zero, so that it begins as the identity
        assert list(waiting) == ["head.weight begins at zero"] and len(waiting["head.weight begins at zero"]) > 10
    else:
        assert waiting == {}
    assert after["waiting"] == {} and sum(note.startswith("gradients") for note in notes) == 1


def test_a_rival_that_comes_later_is_looked_at_later(
    takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "STEPS", 3)
    config = players.config(takes, train=LONG | {"steps": 8}, adversary={"start": 4, "every": 1})
    (before, first, second), _ = audited(config, tmp_path)
    assert (first["step"], second["step"]) == (4, 8) and first["moved"] + second["moved"] == before["trained"]


@pytest.fixture(scope="module")
def weights(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())
        folder = tmp_path_factory.mktemp("weights")
        run = train(codes_toy.config(pack, "dia", model=SMALL_TEXT, demo=SILENT), runs=folder)
        export_weights(run.path, folder / "start")
    return folder / "start"


def adapted(pack: Path, weights: Path, **model: Any) -> Config:
    tree = codes_toy.config(pack, "dia", train=LONG, demo=SILENT).model_dump(mode="json")
    return parse({**tree, "model": {"weights": str(weights), **model}})


def test_first_matrices_of_adapters_wait_for_the_second_and_what_is_frozen_stays(
    pack: Path, weights: Path, tmp_path: Path
) -> None:
    (before, after), notes = audited(adapted(pack, weights, lora_rank=2), tmp_path)
    assert before["trained"] == after["moved"] and before["frozen"] == after["kept"] == len(before["prints"]) > 20
    for why, names in before["waiting"].items():
        assert [why] == [f"{name.replace('lora_A', 'lora_B')} begins at zero" for name in names]
    assert sum(len(names) for names in before["waiting"].values()) == before["trained"] // 2
    assert any("frozen ones are as they were" in note for note in notes)


def test_a_frozen_encoder_is_no_cut(pack: Path, weights: Path, tmp_path: Path) -> None:
    """Queries learn, keys and values come from frozen weights: not a fault in cross attention."""
    events, _ = audited(adapted(pack, weights, freeze=["^encoder", "key_value"]), tmp_path)
    assert [event["when"] for event in events] == ["before", "after"]


def test_the_audit_leaves_no_trace_and_makes_one_pass(
    takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    class Counting(ToyTask):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.objective.register_forward_hook(lambda *_: passes.append(1))

    toy(tmp_path / "counted", Counting)
    assert len(passes) == 24 + 1
    config = players.config(takes, "codec", train={"steps": 4, "valid_every": 1000})
    train(config, runs=tmp_path, run="with")
    monkeypatch.setattr(Session, "_begin_flow", lambda self, new: None)
    train(config, runs=tmp_path, run="without")
    assert players.same_bits(players.end(tmp_path, "with"), players.end(tmp_path, "without")) == []


def test_a_run_that_goes_on_is_looked_at_once(tmp_path: Path) -> None:
    class Killed(ToyTask):
        def batch(self, step: int, micro: int, attempt: int = 0) -> Any:
            if step == 13:
                raise PartimentoError("PACK001", "gone", next="ls")
            return super().batch(step, micro, attempt)

    with pytest.raises(PartimentoError):
        toy(tmp_path, Killed, train__steps=60)
    events, _ = toy(tmp_path, train__steps=60)
    assert [(event["when"], event["step"]) for event in events] == [("before", 0), ("after", 32)]
    shorter = tmp_path / "r" / "checkpoints"
    for path in checkpoint.visible(shorter)[1:]:
        checkpoint.set_aside(path, "gone")
    events, _ = toy(tmp_path, train__steps=60)
    assert len(events) == 2


# Ways of not learning


def changed(change: Any) -> type[ToyTask]:
    """The toy after `change(module, task)`, before there is an optimizer."""

    class Changed(ToyTask):
        def __init__(self, *arguments: Any, **keys: Any) -> None:
            super().__init__(*arguments, **keys)
            change(self.module, self)

    return Changed


def refused(code: str, runs: Path, make: type[ToyTask], **keys: Any) -> PartimentoError:
    with pytest.raises(PartimentoError) as caught:
        toy(runs, make, **keys)
    assert caught.value.code == code
    return caught.value


def test_a_parameter_that_nothing_depends_on(tmp_path: Path) -> None:
    def spare(module: nn.Module, task: Task) -> None:
        module.spare = nn.Linear(2, 2, bias=False)

    err = refused("TRAIN080", tmp_path, changed(spare))
    assert err.context["names"] == ["spare.weight"] and "nothing of the loss" in err.message


def test_a_parameter_that_is_multiplied_away(tmp_path: Path) -> None:
    def cut(module: nn.Module, task: Task) -> None:
        module.layer.register_forward_hook(lambda _, __, out: out * 0.0)

    err = refused("TRAIN080", tmp_path, changed(cut))
    assert err.context["names"] == ["layer.weight", "layer.bias"] and "only zeros in 8 batches" in err.message


def test_a_frozen_parameter_that_is_thawed_under_way(tmp_path: Path) -> None:
    def thawed(module: nn.Module, task: Task) -> None:
        module.layer.requires_grad_(False)
        module.register_forward_pre_hook(lambda *_: module.layer.requires_grad_(True) and None)

    assert refused("TRAIN082", tmp_path, changed(thawed)).context["names"] == ["layer.weight", "layer.bias"]


def test_a_frozen_parameter_that_is_written_to(tmp_path: Path) -> None:
    class Written(ToyTask):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.module.layer.requires_grad_(False)

        def after_step(self, step: int, *rest: Any) -> None:
            super().after_step(step, *rest)
            if step == 3:
                self.module.layer.bias.data[5] += 1e-6

    err = refused("TRAIN082", tmp_path, Written)
    assert err.context["names"] == ["layer.bias"] and "changed" in err.message


def test_a_frozen_matrix_of_zeros(tmp_path: Path) -> None:
    def empty(module: nn.Module, task: Task) -> None:
        nn.init.zeros_(module.layer.weight.requires_grad_(False))
        nn.init.zeros_(module.layer.bias.requires_grad_(False))  # a vector may be

    assert refused("TRAIN084", tmp_path, changed(empty)).context["names"] == ["layer.weight"]


def test_frozen_weights_that_are_drawn_anew(tmp_path: Path) -> None:
    draws = iter([1.0, 2.0])

    def drawn(module: nn.Module, task: Task) -> None:
        nn.init.constant_(module.layer.weight.requires_grad_(False), next(draws))

    toy(tmp_path, changed(drawn), train__steps=8, train__max_minutes=1e-9)  # ends after its first step
    err = refused("TRAIN084", tmp_path, changed(drawn), train__steps=8)
    assert err.context["names"] == ["layer.weight"] and "when the run began" in err.message


def test_a_trained_parameter_that_is_put_back(tmp_path: Path) -> None:
    class Back(ToyTask):
        def after_step(self, step: int, *rest: Any) -> None:
            super().after_step(step, *rest)
            self.module.layer.bias.data.copy_(self.first)

        def start(self) -> None:
            self.first = self.module.layer.bias.detach().clone()

    err = refused("TRAIN083", tmp_path, Back)
    assert err.context["names"] == ["layer.bias"] and "has not moved" in err.message


def test_a_parameter_that_waits_for_ever(tmp_path: Path) -> None:
    """What comes after it begins at zero, and is set to zero again and again: it was explained, and is not any more."""

    class Waiting(ToyTask):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.module.down = nn.Linear(16, 4, bias=False)
            self.module.up = nn.Linear(4, 16, bias=False)
            nn.init.zeros_(self.module.up.weight)
            self.module.layer.register_forward_hook(lambda _, x, out: out + self.module.up(self.module.down(x[0])))

        def after_step(self, step: int, *rest: Any) -> None:
            super().after_step(step, *rest)
            nn.init.zeros_(self.module.up.weight)

    err = refused("TRAIN083", tmp_path, Waiting)
    assert err.context["names"] == ["down.weight"] and "got no gradient in 20 steps" in err.message
    (before,) = [event for event in read_events(tmp_path / "r" / "events.jsonl") if event["kind"] == "flow"]
    assert before["waiting"] == {"up.weight begins at zero": ["down.weight"]}


def test_a_rate_that_is_too_low_to_see_is_noted_only(tmp_path: Path) -> None:
    _, notes = toy(tmp_path, optim__lr=1e-12)
    assert "norm.weight has not moved yet: its rate is still too low for it" in notes
    assert not any(note.startswith("gradients") for note in notes)


def test_rows_of_a_head_that_only_decay_are_noted(tmp_path: Path) -> None:
    class Wide(ToyTask):
        """Rows of other outputs are in the head, and in no softmax."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            head = self.module.head = nn.Linear(16, 7 + 20, bias=False)
            head.register_forward_hook(lambda _, __, out: out[..., 20:])

    _, notes = toy(tmp_path, Wide)
    (note,) = [note for note in notes if note.startswith("head.weight")]
    assert "20 of 27 rows got no gradient" in note and "weight decay" in note


# Keys and values


def detached(which: tuple[int, ...]) -> Any:
    project = attention._SelfHeads.project

    def projected(self: Any, *arguments: Any) -> tuple[Tensor, ...]:
        made = project(self, *arguments)
        return tuple(tensor.detach() if place in which else tensor for place, tensor in enumerate(made))

    return projected


@pytest.mark.parametrize("window", [32, 80])  # torch's attention and ours
@pytest.mark.parametrize(("which", "what"), [((1,), "keys"), ((2,), "values"), ((1, 2), "keys and values")])
def test_keys_and_values_that_are_cut_off_are_named(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, which: tuple[int, ...], what: str
) -> None:
    monkeypatch.setattr(attention._SelfHeads, "project", detached(which))
    config = codes_toy.config(pack, data={"window": window}, demo=SILENT)
    with pytest.raises(PartimentoError, match="TRAIN081") as caught:
        train(config, runs=tmp_path, run="r")
    assert caught.value.context["names"] == ["blocks.0.attention", "blocks.1.attention"]
    assert f"the {what} of blocks.0.attention" in caught.value.message


def test_values_that_are_multiplied_away_are_named_by_their_part(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = attention._SelfHeads.project

    def projected(self: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = project(self, *arguments)
        return query, key * 0.0, value

    monkeypatch.setattr(attention._SelfHeads, "project", projected)
    with pytest.raises(PartimentoError, match="TRAIN080") as caught:
        train(codes_toy.config(pack, demo=SILENT, model={"qk_norm": False}), runs=tmp_path, run="r")
    assert "blocks.0.attention.qkv.weight (keys)" in caught.value.context["names"]
    assert "blocks.0.attention.qkv.weight (values)" not in caught.value.context["names"]


def test_attention_is_seen_in_modules_of_any_make() -> None:
    class Own(nn.Module):
        def __init__(self, cut: bool) -> None:
            super().__init__()
            self.key, self.cut = nn.Linear(4, 4), cut

        def forward(self, x: Tensor) -> Tensor:
            key = self.key(x.detach() if self.cut else x)
            return nn.functional.scaled_dot_product_attention(query=x, key=key.detach() if self.cut else key, value=x)

    for cut in (False, True):
        whole = nn.Sequential(nn.Linear(4, 4), Own(cut))
        with attended(whole) as seen:
            whole(torch.randn(1, 3, 4)).sum().backward()
        assert (seen.calls, seen.cut) == (1, {"1": "keys"} if cut else {})
        with attended(whole) as seen, torch.no_grad():
            whole(torch.randn(1, 3, 4))
        assert seen.calls == 0 and not list(whole[1]._forward_hooks)


def test_what_explains_a_zero_is_the_nearest() -> None:
    names = ["a.0.B.key", "a.0.B.value", "a.1.B.key"]
    assert max(names, key=lambda other: kinship("a.1.A.value", other)) == "a.1.B.key"
    assert max(names, key=lambda other: kinship("a.0.A.value", other)) == "a.0.B.value"
    near = ["a.widen.weight", "a.other_widen.weight"]
    assert max(near, key=lambda other: kinship("a.other_narrow.weight", other)) == "a.other_widen.weight"
