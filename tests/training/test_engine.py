"""The loop: what it computes, that it resumes bit for bit, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import ToyTask, toy_config

from partimento import commit
from partimento.config import Config
from partimento.errors import PartimentoError
from partimento.keyed import key
from partimento.progress import Quiet
from partimento.runs import checkpoint
from partimento.runs.events import curve, read_events
from partimento.runs.run import Run
from partimento.training.engine import train


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(run: Run, step: int | None = None) -> dict[str, torch.Tensor]:
    path = checkpoint.visible(run.checkpoints_path)[-1] if step is None else run.checkpoints_path / f"step-{step:09d}"
    found = checkpoint.load(path)
    return {f"{part}/{name}": tensor for part, named in found.parts.items() for name, tensor in named.items()}


def learned(run: Run, step: int | None = None) -> dict[str, torch.Tensor]:
    """Weights, averages and moments, without what the guard remembers of skipped steps."""
    return {name: tensor for name, tensor in tensors(run, step).items() if not name.startswith("guard/")}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Of bytes: the guard's memory of a skipped step is NaN until there is one."""
    return a.keys() == b.keys() and all(a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a)


def toy(config: Config, tmp_path: Path, run: str = "r", task: type | Any = ToyTask) -> Run:
    return train(config, runs=tmp_path, run=run, make_task=task)


class StopAt:
    """A task that sends this process a signal in a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def __call__(self, config: Config, device: torch.device, rank: int = 0, world: int = 1) -> ToyTask:
        task = ToyTask(config, device)
        send = task.inputs

        def inputs(batch: Any) -> Any:
            if batch[0] == self.step:
                os.kill(os.getpid(), self.number)
            return send(batch)

        task.inputs = inputs  # type: ignore[method-assign]
        return task


def test_a_run_learns_and_leaves_what_the_design_lists(tmp_path: Path) -> None:
    config = toy_config(train__steps=60, train__valid_every=20, train__keep=2)
    run = train(config, runs=tmp_path, name="First try!", hypothesis="toys learn", make_task=ToyTask)
    assert run.id.endswith("_rvq_001_first_try")
    assert run.record["hypothesis"] == "toys learn" and run.record["identity"] == {"fingerprint": "toy"}
    events = read_events(run.events_path)
    kinds = [event["kind"] for event in events]
    assert kinds[:3] == ["start", "audit", "baseline"] and kinds[-1] == "end" and events[-1]["reason"] == "finished"
    losses = curve(events, "train", "loss")
    assert [step for step, _ in losses] == list(range(2, 61, 2))
    assert losses[-1][1] < 0.7 * losses[0][1]
    assert {w: len(curve(events, "valid", "loss", weights=w)) for w in ("ema", "raw")} == {"ema": 3, "raw": 3}
    kept = [path.name for path in checkpoint.visible(run.checkpoints_path)]
    assert kept[-2:] == ["step-000000056", "step-000000060"]
    assert checkpoint.best(run.checkpoints_path).name in kept
    state = checkpoint.load(run.checkpoints_path / kept[-1]).state
    assert state["samples_seen"] == 240 and state["seed"] == 0 and state["identity"] == run.record["identity"]
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*.pkl"))


def test_resume_is_bit_for_bit(tmp_path: Path) -> None:
    whole = toy(toy_config(train__valid_every=5), tmp_path, "whole")
    with pytest.raises(PartimentoError, match="SYS003") as caught:
        toy(toy_config(train__valid_every=5), tmp_path, "cut", StopAt(6))
    assert caught.value.next == f"partimento train {tmp_path}/cut/config.json --run cut --runs {tmp_path}"
    assert caught.value.exit_status == 130
    with pytest.raises(PartimentoError, match="SYS003"):
        toy(toy_config(train__valid_every=5), tmp_path, "cut", StopAt(9, signal.SIGINT))
    cut = toy(toy_config(train__valid_every=5), tmp_path, "cut")
    assert same_bits(tensors(whole), tensors(cut))
    events = read_events(cut.events_path)
    # No step was lost: the first signal came while step 6 was drawn, so 7 steps were saved.
    assert [event["step"] for event in events if event["kind"] == "resume"] == [7, 10]
    for kind, name in (("train", "loss"), ("train", "grad_norm"), ("train", "share"), ("valid", "loss")):
        assert curve(events, kind, name) == curve(read_events(whole.events_path), kind, name), (kind, name)
    assert [event["kind"] for event in events].count("baseline") == 1
    ends = [event["reason"] for event in events if event["kind"] == "end"]
    assert ends == ["interrupted", "interrupted", "finished"]


def test_initialisation_from_data_happens_once(tmp_path: Path) -> None:
    tasks = []

    def make(config: Config, device: torch.device, *_: int) -> ToyTask:
        tasks.append(StopAt(6)(config, device) if not tasks else ToyTask(config, device))
        return tasks[-1]

    with pytest.raises(PartimentoError, match="SYS003"):
        toy(toy_config(), tmp_path, "r", make)
    toy(toy_config(), tmp_path, "r", make)
    assert [task.started for task in tasks] == [1, 0]


def test_accumulation_is_exact(tmp_path: Path) -> None:
    """Items hold very different numbers of valid tokens; batch 8 and 4 x batch 2 are the same step all the same."""
    make = lambda config, device, *_: ToyTask(config, device, dropout=0.0)  # noqa: E731
    whole = toy(toy_config(optim__batch=8, optim__accumulate=1, train__steps=4), tmp_path, "a", make)
    parts = toy(toy_config(optim__batch=2, optim__accumulate=4, train__steps=4), tmp_path, "b", make)
    a, b = tensors(whole), tensors(parts)
    for name in a:
        if "exp_avg" in name:  # the gradients, averaged
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-8)
    losses = [curve(read_events(run.events_path), "train", "loss") for run in (whole, parts)]
    for (_, one), (_, other) in zip(*losses, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_a_logged_loss_is_the_mean_over_the_tokens_since_the_last_line(tmp_path: Path) -> None:
    single = toy(toy_config(train__log_every=1), tmp_path, "single")
    grouped = toy(toy_config(train__log_every=4), tmp_path, "grouped")
    losses = dict(curve(read_events(single.events_path), "train", "loss"))
    task = ToyTask(toy_config(), torch.device("cpu"))
    tokens = {step: task.count(task.batch(step - 1, 0)) for step in losses}
    for step, loss in curve(read_events(grouped.events_path), "train", "loss"):
        steps = range(step - 3, step + 1)
        assert loss == pytest.approx(sum(losses[s] * tokens[s] for s in steps) / sum(tokens[s] for s in steps))


def test_looking_does_not_disturb(tmp_path: Path) -> None:
    """Validation (which draws random numbers here), demos and saving leave the training's trace as it is."""
    quiet = toy(toy_config(train__valid_every=1000, train__save_every=1000), tmp_path, "quiet")
    busy_config = toy_config(train__valid_every=1, train__save_every=1, demo__every=2, demo__temperatures=[1.0])
    busy = toy(busy_config, tmp_path, "busy")
    assert curve(read_events(quiet.events_path), "train", "loss") == curve(
        read_events(busy.events_path), "train", "loss"
    )
    assert same_bits(tensors(quiet), tensors(busy))
    assert len(list(busy.demos_path.iterdir())) == 8


def test_the_callers_generators_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    toy(toy_config(train__steps=2), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_initial_weights_belong_to_the_seed(tmp_path: Path) -> None:
    begun: dict[str, torch.Tensor] = {}
    for run, seed in (("a", 0), ("b", 1), ("c", 0)):
        torch.manual_seed(len(begun))  # what was drawn before must not matter

        def make(config: Config, device: torch.device, *_: int, run: str = run) -> ToyTask:
            task = ToyTask(config, device)
            begun[run] = task.module.layer.weight.detach().clone()
            return task

        toy(toy_config(train__steps=1, train__seed=seed), tmp_path, run, make)
    assert torch.equal(begun["a"], begun["c"]) and not torch.equal(begun["a"], begun["b"])


def spoiled(*steps: int) -> Any:
    def make(config: Config, device: torch.device, *_: int) -> ToyTask:
        task = ToyTask(config, device)
        task.spoil = dict.fromkeys(steps, math.nan)
        return task

    return make


def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    config = toy_config(train__save_every=1, train__keep=100, train__steps=6)
    run = toy(config, tmp_path, "r", spoiled(3))
    assert same_bits(learned(run, 3), learned(run, 4))
    assert not same_bits(learned(run, 4), learned(run, 5))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in learned(run).values() if tensor.is_floating_point())
    events = read_events(run.events_path)
    assert events[-1]["reason"] == "finished"
    assert [value for _, value in curve(events, "train", "skipped")] == [0, 1, 1]
    state = checkpoint.load(checkpoint.visible(run.checkpoints_path)[-1]).state
    assert state["skipped"] == 1


def test_a_spoiled_first_step_is_survived(tmp_path: Path) -> None:
    run = toy(toy_config(train__steps=4), tmp_path, "r", spoiled(0))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in learned(run).values() if tensor.is_floating_point())


def test_ten_such_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="TRAIN004"):
        toy(toy_config(train__steps=30), tmp_path, "r", spoiled(*range(5, 30)))
    events = read_events(tmp_path / "r" / "events.jsonl")
    assert events[-1]["kind"] == "end" and events[-1]["reason"] == "TRAIN004"
    loaded = checkpoint.load(checkpoint.newest(tmp_path / "r" / "checkpoints"))
    assert all(bool(torch.isfinite(t).all()) for t in loaded.parts["model"].values())


def test_a_changed_configuration_is_refused_and_named(tmp_path: Path) -> None:
    toy(toy_config(train__steps=4), tmp_path)
    for change in ({"optim__lr": 0.01}, {"train__steps": 8}, {"model__width": 64}, {"train__precision": "bf16"}):
        with pytest.raises(PartimentoError, match="TRAIN001") as caught:
            toy(toy_config(**({"train__steps": 4} | change)), tmp_path)
        assert next(iter(change)).replace("__", ".") in caught.value.message
    toy(toy_config(train__steps=4, train__log_every=1, train__keep=5, data__pack="moved"), tmp_path)


def other_data(config: Config, device: torch.device, *_: int) -> ToyTask:
    return ToyTask(config, device, fingerprint="other")


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="SYS003"):
        toy(toy_config(), tmp_path, "r", StopAt(5))
    with pytest.raises(PartimentoError, match="TRAIN002") as caught:
        toy(toy_config(), tmp_path, "r", other_data)
    assert "fingerprint" in caught.value.message


def test_other_data_is_refused_before_the_first_checkpoint_too(tmp_path: Path) -> None:
    run = toy(toy_config(), tmp_path)
    shutil.rmtree(run.checkpoints_path)
    with pytest.raises(PartimentoError, match="TRAIN002"):
        toy(toy_config(), tmp_path, "r", other_data)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    run, stranger = toy(toy_config(), tmp_path), toy(toy_config(), tmp_path, "s", other_data)
    shutil.rmtree(run.checkpoints_path)
    shutil.copytree(stranger.checkpoints_path, run.checkpoints_path)
    with pytest.raises(PartimentoError, match="TRAIN002"):
        toy(toy_config(), tmp_path)


def test_another_model_under_the_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="SYS003"):
        toy(toy_config(), tmp_path, "r", StopAt(5))

    def grown(config: Config, device: torch.device, *_: int) -> ToyTask:
        task = ToyTask(config, device)
        task.module.layer = torch.nn.Linear(16, 16, bias=False)
        return task

    with pytest.raises(PartimentoError, match="TRAIN003") as caught:
        toy(toy_config(), tmp_path, "r", grown)
    assert "layer.bias" in caught.value.message


def test_another_thread_count_is_told(tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="SYS003"):
        toy(toy_config(), tmp_path, "r", StopAt(5))
    torch.set_num_threads(2)
    run = toy(toy_config(), tmp_path)
    notes = [event["text"] for event in read_events(run.events_path) if event["kind"] == "note"]
    assert any("threads is 2 now and was 1" in note for note in notes)


def test_two_processes_cannot_train_one_run(tmp_path: Path) -> None:
    run = toy(toy_config(train__steps=2), tmp_path)
    with run.hold(), pytest.raises(PartimentoError, match="RUN003"):
        toy(toy_config(train__steps=2), tmp_path)


def test_max_minutes_saves_and_ends_normally(tmp_path: Path) -> None:
    config = toy_config(train__steps=100000, train__max_minutes=0.5 / 60, train__save_every=10**6)
    run = toy(config, tmp_path)
    events = read_events(run.events_path)
    assert events[-1]["reason"] == "max_minutes"
    assert checkpoint.newest(run.checkpoints_path).name == f"step-{events[-1]['step']:09d}"
    assert curve(events, "valid", "loss", weights="ema")[-1][0] == events[-1]["step"]
    again = toy(config, tmp_path)
    assert read_events(again.events_path)[-1]["step"] > events[-1]["step"]


def test_a_run_in_pieces_has_the_same_history_of_validations(tmp_path: Path) -> None:
    """A validation at the end of a piece is one more than the rules of stopping may count."""
    config = toy_config(train__valid_every=4)
    whole = toy(config, tmp_path, "whole")
    toy(toy_config(train__valid_every=4, train__max_minutes=1e-9), tmp_path, "pieces")
    pieces = toy(config, tmp_path, "pieces")
    states = [checkpoint.load(checkpoint.visible(run.checkpoints_path)[-1]).state for run in (whole, pieces)]
    assert [entry["step"] for entry in states[1]["validations"]] == [4, 8, 12, 16]
    assert all(states[0][name] == states[1][name] for name in ("validations", "trained", "losses"))


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    config = toy_config(train__steps=4, demo__temperatures=[1.0])
    run = toy(config, tmp_path)
    before = tensors(run)
    again = toy(config, tmp_path)
    assert same_bits(before, tensors(again)) and len(checkpoint.visible(again.checkpoints_path)) == 1


def test_demos_that_a_kill_left_out_are_made_on_resume(tmp_path: Path) -> None:
    config = toy_config(train__steps=4, demo__temperatures=[1.0])
    run = toy(config, tmp_path)
    (demo,) = run.demos_path.iterdir()
    for file in demo.iterdir():
        file.unlink()
    demo.rmdir()
    toy(config, tmp_path)
    assert [path.name for path in run.demos_path.iterdir()] == ["step-000000004"]


def test_demos_that_a_kill_left_out_after_an_early_stop_are_made_on_resume(tmp_path: Path) -> None:
    class Level(ToyTask):
        def evaluate(self, total: Any = None) -> dict[str, Any]:
            return {"loss": 1.0}

    class Killed(Level):
        def demos(self, root: Path, step: int, using: Any) -> Path | None:
            raise KeyboardInterrupt

    config = toy_config(train__valid_every=4, guard__stop_after=1, demo__temperatures=[1.0])
    with pytest.raises(PartimentoError, match="SYS003"):
        toy(config, tmp_path, "r", Killed)
    run = toy(config, tmp_path, "r", Level)
    assert [path.name for path in run.demos_path.iterdir()] == ["step-000000008"]


def test_without_averages_there_is_no_slot(tmp_path: Path) -> None:
    run = toy(toy_config(train__steps=4, optim__ema=0.0), tmp_path)
    found = checkpoint.load(checkpoint.newest(run.checkpoints_path))
    assert sorted(found.parts) == ["guard", "model", "optimizer"]


def test_bf16_keeps_weights_in_float32(tmp_path: Path) -> None:
    run = toy(toy_config(train__precision="bf16"), tmp_path)
    assert tensors(run)["model/layer.weight"].dtype == torch.float32
    assert all(math.isfinite(loss) for _, loss in curve(read_events(run.events_path), "train", "loss"))


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    done: list[Run] = []
    thread = threading.Thread(target=lambda: done.append(toy(toy_config(train__steps=2), tmp_path)))
    thread.start()
    thread.join()
    assert done


def test_a_stop_before_the_first_step_says_that_nothing_is_saved(tmp_path: Path) -> None:
    class Slow(ToyTask):
        def start(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            torch.zeros(1)

    with pytest.raises(PartimentoError, match="SYS003") as caught:
        toy(toy_config(), tmp_path, "r", Slow)
    assert "saved up to step 0" in caught.value.message
    run = toy(toy_config(train__steps=16), tmp_path)
    assert [e["kind"] for e in read_events(run.events_path) if e["kind"] in ("start", "resume")] == ["start", "start"]


def test_a_second_ctrl_c_does_not_claim_more_than_was_saved(tmp_path: Path) -> None:
    def make(config: Config, device: torch.device, *_: int) -> ToyTask:
        task = StopAt(6, signal.SIGINT)(config, device)
        task.after_step = lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 6 else None
        return task

    with pytest.raises(PartimentoError, match="SYS003") as caught:
        toy(toy_config(), tmp_path, "r", make)
    assert "saved up to step 4" in caught.value.message


def test_a_demo_that_is_stopped_is_dropped_and_made_later(tmp_path: Path) -> None:
    class Interrupted(ToyTask):
        def demos(self, root: Path, step: int, using: Any) -> Path | None:
            with using("ema"):
                os.kill(os.getpid(), signal.SIGINT)
                return super().demos(root, step, using)

    config = toy_config(train__steps=8, demo__every=4, demo__temperatures=[1.0], train__save_every=100)
    with pytest.raises(PartimentoError, match="SYS003") as caught:
        toy(config, tmp_path, "r", Interrupted)
    assert "saved up to step 4" in caught.value.message
    run = toy(config, tmp_path)
    assert len(list(run.demos_path.iterdir())) == 2
    assert same_bits(tensors(run), tensors(toy(config, tmp_path, "whole")))


def test_every_micro_batch_has_a_dropout_stream_of_its_own(tmp_path: Path) -> None:
    seeds: list[int] = []

    class Listening(ToyTask):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.objective.register_forward_pre_hook(lambda *_: seeds.append(torch.initial_seed()))

    toy(toy_config(train__steps=3, optim__accumulate=2), tmp_path, "r", Listening)
    audited, *trained = seeds
    assert trained == [key(0, "dropout", step, micro) for step in range(3) for micro in range(2)]
    assert audited == trained[0]  # the pass before step 1 is the one that step 1 begins with


def test_an_outlier_leaves_no_trace_and_the_run_goes_on(tmp_path: Path) -> None:
    """A loss a thousand times too large, late enough that the guard knows what is usual."""

    def make(config: Config, device: torch.device, *_: int) -> ToyTask:
        task = ToyTask(config, device)
        task.spoil = {30: 1000.0}
        return task

    config = toy_config(train__steps=32, train__save_every=1, train__keep=100, guard__window=16)
    run = toy(config, tmp_path, "r", make)
    assert same_bits(learned(run, 30), learned(run, 31)) and not same_bits(learned(run, 31), learned(run, 32))
    notes = [event["text"] for event in read_events(run.events_path) if event["kind"] == "note"]
    assert any("1 steps were skipped" in text and "limit" in text for text in notes)


def spoiled_attempt(attempt: int) -> Any:
    """Steps 8 to 29 have no finite loss in the first `attempt` attempts."""

    class Spoiled(ToyTask):
        def batch(self, step: int, micro: int, now: int = 0) -> Any:
            self.spoil = dict.fromkeys(range(8, 30), math.nan) if now < attempt else {}
            return super().batch(step, micro, now)

    return Spoiled


def test_a_run_that_goes_wrong_goes_back_lowers_the_rate_and_draws_other_data(tmp_path: Path) -> None:
    config = toy_config(train__steps=40, guard__patience=4, train__save_every=2)
    run = toy(config, tmp_path, "r", spoiled_attempt(1))
    events = read_events(run.events_path)
    (back,) = [event for event in events if event["kind"] == "rollback"]
    assert back["at"] == 12 and back["step"] == 8 and back["attempt"] == 1 and back["rate_factor"] == 0.5
    assert "were skipped" in back["reason"] and events[-1]["reason"] == "finished"
    healthy = toy(config, tmp_path, "healthy")
    rates = [dict(curve(read_events(r.events_path), "train", "lr")) for r in (healthy, run)]
    assert rates[1][8] == rates[0][8] and rates[1][20] == pytest.approx(rates[0][20] / 2)
    state = checkpoint.load(checkpoint.newest(run.checkpoints_path)).state
    assert [entry["to"] for entry in state["rollbacks"]] == [8]
    # And all of it again, killed twice on the way, ends the same.
    for step in (10, 15):
        task = spoiled_attempt(1)
        task.inputs = lambda self, batch, step=step: (  # type: ignore[method-assign, misc]
            os.kill(os.getpid(), signal.SIGTERM) if batch[0] == step else None,
            ToyTask.inputs(self, batch),
        )[1]
        with pytest.raises(PartimentoError, match="SYS003"):
            toy(config, tmp_path, "cut", task)
    cut = toy(config, tmp_path, "cut", spoiled_attempt(1))
    assert same_bits(tensors(run), tensors(cut))


def test_a_rollback_finds_its_checkpoint_however_many_came_after_it(tmp_path: Path) -> None:
    config = toy_config(train__steps=40, train__save_every=2, train__keep=2)
    run = toy(config, tmp_path, "r", spoiled_attempt(1))
    (back,) = [event for event in read_events(run.events_path) if event["kind"] == "rollback"]
    assert (back["at"], back["step"]) == (18, 8), "four unhealthy ones were saved in between"


def test_a_rollback_does_not_depend_on_where_the_run_was_cut(tmp_path: Path) -> None:
    config = toy_config(train__steps=40, guard__patience=4, train__save_every=5)
    whole = toy(config, tmp_path, "whole", spoiled_attempt(1))
    task = spoiled_attempt(1)
    task.inputs = lambda self, batch: (  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGTERM) if batch[0] == 6 else None,
        ToyTask.inputs(self, batch),
    )[1]
    with pytest.raises(PartimentoError, match="SYS003"):
        toy(config, tmp_path, "cut", task)
    assert checkpoint.visible(tmp_path / "cut" / "checkpoints")[-1].name == "step-000000007"
    cut = toy(config, tmp_path, "cut", spoiled_attempt(1))
    assert [event["step"] for event in read_events(cut.events_path) if event["kind"] == "rollback"] == [5]
    assert same_bits(tensors(whole), tensors(cut))


def test_demos_of_an_abandoned_attempt_are_set_aside(tmp_path: Path) -> None:
    class Heard(spoiled_attempt(1)):  # type: ignore[misc]
        def demos(self, root: Path, step: int, using: Any) -> Path | None:
            path = root / checkpoint.step_name(step)
            with using("raw") as module, commit.folder(path) as folder:
                commit.record(folder / "demos.json", {"demos": [], "sum": module.layer.weight.sum().item()})
            return path

    config = toy_config(
        train__steps=40, guard__patience=8, train__save_every=2, train__keep=20, demo__every=12,
        demo__temperatures=[1.0],
    )  # fmt: skip
    run = toy(config, tmp_path, "r", Heard)
    names = sorted(path.name for path in run.demos_path.iterdir())
    assert names[0] == "abandoned-step-000000012" and names[1:3] == ["step-000000012", "step-000000024"]
    weight = checkpoint.load(run.checkpoints_path / "step-000000012").parts["model"]["layer.weight"]
    played = json.loads((run.demos_path / "step-000000012" / "demos.json").read_text())
    assert played["sum"] == weight.sum().item()


def test_rollbacks_are_used_up(tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="TRAIN004") as caught:
        toy(toy_config(train__steps=40, guard__patience=4), tmp_path, "r", spoiled_attempt(99))
    assert "2 rollbacks did not help" in (caught.value.why or "")
    events = read_events(tmp_path / "r" / "events.jsonl")
    assert [event["kind"] for event in events].count("rollback") == 2 and events[-1]["reason"] == "TRAIN004"


def test_nothing_to_go_back_to(tmp_path: Path) -> None:
    def make(config: Config, device: torch.device, *_: int) -> ToyTask:
        task = ToyTask(config, device)
        task.spoil = dict.fromkeys(range(40), math.nan)
        return task

    with pytest.raises(PartimentoError, match="TRAIN004") as caught:
        toy(toy_config(train__steps=40), tmp_path, "r", make)
    assert "no good checkpoint" in (caught.value.why or "")
    with pytest.raises(PartimentoError, match="TRAIN004") as caught:
        toy(toy_config(train__steps=40, guard__rollbacks=0), tmp_path, "s", make)
    assert caught.value.why == "guard.rollbacks is 0"


def test_stages_resume_too(tmp_path: Path) -> None:
    stages = [{"start": 5, "batch": 2, "accumulate": 3, "lr": 0.5}, {"start": 11, "batch": 8}]
    config = toy_config(train__stages=stages)
    whole = toy(config, tmp_path, "whole")
    for step in (3, 5, 8, 11):
        with pytest.raises(PartimentoError, match="SYS003"):
            toy(config, tmp_path, "cut", StopAt(step))
    cut = toy(config, tmp_path, "cut")
    assert same_bits(tensors(whole), tensors(cut))
    rates = dict(curve(read_events(whole.events_path), "train", "lr"))
    plain = dict(curve(read_events(toy(toy_config(), tmp_path, "plain").events_path), "train", "lr"))
    assert (
        rates[4] == plain[4] and rates[8] == pytest.approx(plain[8] / 2) and rates[14] == pytest.approx(plain[14] / 2)
    )
    state = checkpoint.load(checkpoint.newest(whole.checkpoints_path)).state
    assert state["samples_seen"] == 5 * 4 + 6 * 2 * 3 + 5 * 8 * 3


def test_usr1_saves_and_goes_on_usr2_saves_and_ends(tmp_path: Path) -> None:
    config = toy_config(train__save_every=1000, train__valid_every=1000)
    run = toy(config, tmp_path, "r", StopAt(6, signal.SIGUSR1))
    assert [event["step"] for event in read_events(run.events_path) if event["kind"] == "checkpoint"] == [7, 16]
    with pytest.raises(PartimentoError, match="SYS003") as caught:
        toy(config, tmp_path, "s", StopAt(6, signal.SIGUSR2))
    assert "stopped by SIGUSR2" in caught.value.message and "up to step 7" in caught.value.message


def test_archives_stay_when_checkpoints_are_pruned(tmp_path: Path) -> None:
    config = toy_config(train__archive_every=4, train__keep_archives=2, train__keep=2, train__valid_every=1000)
    run = toy(config, tmp_path)
    kept = sorted(path.name.split("-", 1)[1] for path in (run.path / "archives").iterdir())
    assert kept == ["step-000000008", "step-000000012", "step-000000016-best"]
    assert checkpoint.load(next((run.path / "archives").glob("*-step-000000008"))).step == 8


class Scored(ToyTask):
    """Validations with given scores."""

    scores: tuple[float, ...] = ()

    def evaluate(self, total: Any = None) -> dict[str, Any]:
        place = min(int(self.module.steps) // 2, len(self.scores)) - 1
        return {"loss": self.scores[place], "other": [-self.scores[place]]}


def test_early_stop_by_the_metric_and_best_by_name(tmp_path: Path) -> None:
    class Rising(Scored):
        scores = (5.0, 4.0, 4.5, 4.6, 4.7, 4.8, 4.9, 5.0)

    config = toy_config(train__valid_every=2, train__steps=16, guard__stop_after=3)
    run = toy(config, tmp_path, "r", Rising)
    events = read_events(run.events_path)
    assert events[-1]["reason"] == "stopped early" and events[-1]["step"] == 10
    (halt,) = [event for event in events if event["kind"] == "halt"]
    assert "since step 4" in halt["reason"]
    assert checkpoint.best(run.checkpoints_path).name == "step-000000004"
    other = toy(toy_config(train__valid_every=2, train__metric="other.0"), tmp_path, "s", Rising)
    assert checkpoint.best(other.checkpoints_path).name == "step-000000002" or (
        checkpoint.load(checkpoint.best(other.checkpoints_path), ()).state["score"] == -5.0
    )


def test_a_slow_disk_does_not_hold_up_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a checkpoint is being written the next steps are made, and it holds the state of its own step."""
    steps_made: list[int] = []
    gate = threading.Event()
    write = checkpoint.save

    def slow(folder: Path, step: int, *rest: Any) -> Path:
        gate.wait(20)
        return write(folder, step, *rest)

    class Watched(ToyTask):
        def after_step(self, step: int, *rest: Any) -> None:
            super().after_step(step, *rest)
            steps_made.append(step)
            if step == 6:
                gate.set()

    monkeypatch.setattr("partimento.runs.checkpoint.save", slow)
    config = toy_config(train__save_every=4, train__valid_every=1000, train__steps=8)
    run = toy(config, tmp_path, "r", Watched)
    assert steps_made == list(range(8)), "step 7 came before the checkpoint of step 4 was written"
    monkeypatch.undo()
    plain = toy(config, tmp_path, "plain")
    assert same_bits(tensors(run, 4), tensors(plain, 4))


def test_learned_weights_and_muon_and_adagc_resume_bit_for_bit(tmp_path: Path) -> None:
    config = toy_config(optim__name="muon", optim__adagc=True, train__save_every=3)
    whole = toy(config, tmp_path, "whole")
    assert any(name.endswith(".momentum") for name in tensors(whole))
    with pytest.raises(PartimentoError, match="SYS003"):
        toy(config, tmp_path, "cut", StopAt(7))
    assert same_bits(tensors(whole), tensors(toy(config, tmp_path, "cut")))


def test_an_unknown_metric_is_told(tmp_path: Path) -> None:
    with pytest.raises(PartimentoError, match="TRAIN057") as caught:
        toy(toy_config(train__metric="perplexity", train__valid_every=4), tmp_path)
    assert "it has loss" in (caught.value.why or "")
    assert not curve(read_events(tmp_path / "r" / "events.jsonl"), "train", "loss"), "it was told before step 1"


def test_a_run_that_stopped_early_goes_on_with_a_larger_number(tmp_path: Path) -> None:
    class Rising(Scored):
        scores = (5.0, 4.0, 4.5, 4.6, 4.7, 4.8, 4.9, 5.0)

    config = toy_config(train__valid_every=2, guard__stop_after=3)
    toy(config, tmp_path, "r", Rising)
    run = toy(toy_config(train__valid_every=2, guard__stop_after=5), tmp_path, "r", Rising)
    assert [event["step"] for event in read_events(run.events_path) if event["kind"] == "halt"] == [10, 14]


class Stages(Quiet):
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def stage(self, name: str, purpose: str) -> None:
        self.told.append((name, purpose))

    def note(self, text: str) -> None:
        self.told.append(("note", text))


def test_only_what_is_done_is_announced(tmp_path: Path) -> None:
    """No demos where there are none; no training after the last step of a run that ends by the clock."""
    told = Stages()
    train(toy_config(), runs=tmp_path, run="r", make_task=ToyTask, progress=told)
    assert [name for name, _ in told.told] == ["prepare", "train"]
    told = Stages()
    config = toy_config(train__max_minutes=1e-9, demo__temperatures=[1.0])
    run = train(config, runs=tmp_path, run="s", make_task=ToyTask, progress=told)
    assert [name for name, _ in told.told] == ["prepare", "train", "demos", "note"]
    assert "step 1;" in told.told[-1][1] and f"--run {run.id} goes on" in told.told[-1][1]


def test_a_repeated_sigterm_does_not_drop_the_save(tmp_path: Path) -> None:
    class Twice(StopAt):
        def __call__(self, *arguments: Any) -> ToyTask:
            task = super().__call__(*arguments)
            task.after_step = lambda step, *_: os.kill(os.getpid(), signal.SIGTERM) if step == 6 else None
            return task

    with pytest.raises(PartimentoError, match="SYS003") as caught:
        toy(toy_config(), tmp_path, "r", Twice(6))
    assert "saved up to step 7" in caught.value.message
