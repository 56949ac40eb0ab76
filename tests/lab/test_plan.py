"""A plan's figures are held against what a real model keeps, holds and computes."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from partimento.cli.main import main
from partimento.config import parse
from partimento.lab.plan import plan
from partimento.lab.plan.memory import USABLE
from partimento.lab.plan.sketch import sketch
from partimento.lab.plan.text import duration, number, size
from partimento.lab.plan.trace import trace
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training.ema import named_state
from partimento.training.optim import Optimizers
from partimento.training.tasks import make_task

SPEC = CodecSpec("fake", "0" * 64, 8000, Fraction(20), (50,) * 4)
CLIPS, FRAMES = 24, 400


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("packs") / "pack"
    rng = np.random.default_rng(3)
    writer = PackWriter(path, SPEC)
    for clip in range(CLIPS):
        tags = ["piano"] if clip % 2 else ["drums"]
        writer.add(rng.integers(0, 50, (FRAMES, 4)), clip=f"c{clip}", tags=tags, caption=f"number {clip}")
    writer.finish()
    return path


def config(pack, family="rvq", **overrides):
    text = {"text_width": 32, "text_layers": 2, "text_heads": 2, "text_length": 48} if family == "dia" else {}
    tree = {
        "family": family,
        "data": {"pack": str(pack), "window": 128},
        "model": {"width": 64, "layers": 3, "heads": 2, **text},
        "optim": {"batch": 4},
        "train": {"device": "cpu", "steps": 100},
        "demo": {"temperatures": []},
    }
    for name, value in overrides.items():
        section, key = name.split("__")
        tree.setdefault(section, {})[key] = value
    return parse(tree)


def really_kept(objective, inputs, precision):
    """Bytes of the storages that autograd keeps on a CPU, weights and buffers apart (but with their casts)."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*objective.parameters(), *objective.buffers()]}
    kept, alive = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        objective(*inputs)
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"model__norm": "layer", "model__activation": "gelu", "model__qk_norm": False, "model__tags": False},
        {"model__kv_heads": 1, "model__positions": "sinusoidal", "model__dropout": 0.1},
        {"model__width": 128, "model__layers": 2, "optim__batch": 8},
        {"family": "dia"},
        {"family": "dia", "model__kv_heads": 1, "model__cross_attention_rope": True, "model__dropout": 0.1},
        {"family": "dia", "model__text_length": 256, "model__text_width": 128, "model__qk_norm": False},
    ],
)
def test_activations_are_those_that_a_training_keeps(pack, precision, shape):
    """Within 10 %: the kernels of a CPU may keep a little else than those that are assumed (measured: within 1 %)."""
    settings = config(pack, **shape)
    drawn = sketch(settings)
    items = settings.optim.batch
    found = trace(drawn.objective, drawn.inputs(drawn.stages[0]), items, precision)
    task = make_task(settings, torch.device("cpu"))
    real = really_kept(task.objective.train(), task.inputs(task.batch(0, 0)), precision)
    estimate = items * found.activations("none") - found.largest + found.copies
    assert estimate == pytest.approx(real, rel=0.1), estimate / real


def test_activations_of_a_fused_head(pack):
    """The path that never holds all logits, which the meta device cannot take."""

    class Fused(torch.nn.Module):
        def __init__(self, decoder):
            super().__init__()
            self.decoder = decoder

        def forward(self, grid_BSK, *_):
            condition = self.decoder.condition.null(len(grid_BSK))
            return self.decoder.loss(grid_BSK[:, :-1].long(), grid_BSK[:, 1:].long(), 50, condition_BD=condition).total

    settings = config(pack, model__layers=1)
    drawn = sketch(settings)
    inputs = drawn.inputs(drawn.stages[0])
    found = trace(Fused(drawn.module).train(), inputs, 4, "fp32")
    task = make_task(settings, torch.device("cpu"))
    real = really_kept(Fused(task.module).train(), task.inputs(task.batch(0, 0)), "fp32")
    logits = 4 * 4 * 128 * 51  # of one book: alive at the end of the forward pass, but not kept
    estimate = found.blocks + found.rest + found.copies - logits
    assert estimate == pytest.approx(real, rel=0.1), estimate / real


def test_recomputing_keeps_less(pack):
    drawn = sketch(config(pack, model__layers=8))
    found = trace(drawn.objective, drawn.inputs(drawn.stages[0]), 4, "fp32")
    none, selective, full = (found.activations(kind) for kind in ("none", "selective", "full"))
    assert none > 1.1 * selective > 1.2 * full
    assert found.block * 8 == found.blocks


@pytest.mark.parametrize("family", ["rvq", "dia"])
@pytest.mark.parametrize(("name", "tied"), [("adamw", 0.0), ("muon", 0.9)])
def test_state_and_checkpoint_are_as_large_as_they_are(pack, name, tied, family):
    settings = config(pack, family, optim__name=name, optim__ema=tied)
    found = plan(settings)
    module = make_task(settings, torch.device("cpu")).module
    moments = [tensor for tensor in Optimizers(module, settings.optim).state().values() if tensor.ndim]
    memory = found.options[0].memory
    assert found.parameters == sum(p.numel() for p in module.parameters()) == sum(found.parts.values())
    assert memory.moments == sum(t.numel() * t.element_size() for t in moments)
    assert memory.gradients == 4 * found.trainable
    weights = sum(t.numel() * t.element_size() for t in named_state(module).values())
    whole = weights * (2 if tied else 1) + memory.moments
    assert found.checkpoint_bytes == whole
    assert found.disk_bytes == found.checkpoint_bytes * (1 + 2)  # 100 steps, saved every 200: one, the best, one more


@pytest.mark.parametrize("family", ["rvq", "dia"])
def test_operations_are_those_that_torch_counts(pack, family):
    """Within 1 %: both count the products of forward and backward and nothing else."""
    settings = config(pack, family)
    drawn = sketch(settings)  # on the meta device attention is products, which torch can count
    with FlopCounterMode(display=False) as counter:
        drawn.objective(*drawn.inputs(drawn.stages[0]))[0].backward()
    found = plan(settings)
    assert found.micro_flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert found.flops == 100 * found.micro_flops


def test_the_data_is_counted(pack):
    found = plan(config(pack))
    clips = found.data.clips
    assert clips < CLIPS and found.data.frames == clips * FRAMES and found.data.codes == 4 * clips * FRAMES
    assert found.data.hours == pytest.approx(clips * FRAMES / 20 / 3600)
    assert found.seen_items == 400 and found.seen_codes == 400 * 128 * 4
    assert found.epochs == pytest.approx(400 * 128 / found.data.frames)
    assert found.codes_per_parameter == pytest.approx(found.data.codes / found.parameters)
    flat = plan(config(pack, model__pattern="flat"))
    assert flat.epochs == pytest.approx(found.epochs / 4)  # a window of 128 steps holds 32 frames
    chosen = plan(config(pack, data__with_tags=["piano"]))
    assert 0 < chosen.data.clips < clips


def test_stages_are_planned(pack):
    stages = [{"start": 50, "window": 256, "batch": 2, "accumulate": 3}]
    found = plan(config(pack, train__stages=stages))
    assert [stage.window for stage in found.stages] == [128, 256]
    assert found.seen_items == 50 * 4 + 50 * 2 * 3
    assert found.epochs == pytest.approx((50 * 4 * 128 + 50 * 6 * 256) / found.data.frames)
    assert found.batch * 128 >= 512  # the stage that needs most is the one that memory is told of
    assert found.flops > plan(config(pack)).flops


def test_the_largest_batch_is_the_largest_that_fits(pack):
    found = plan(config(pack), memory=0.05)
    largest = found.options[0].largest_batch
    assert largest > 4
    for batch, fits in ((largest, True), (largest + 1, False)):
        memory = plan(config(pack, optim__batch=batch)).options[0].memory
        assert (memory.total <= USABLE * 0.05e9) == fits
    tiny = plan(config(pack), memory=0.0005)
    assert tiny.options[0].largest_batch == 0
    assert tiny.advice[0].kind == "memory" and tiny.advice[0].level == "bad"


def test_devices_share(pack):
    one, four = plan(config(pack)), plan(config(pack), devices=4)
    assert four.options[0].memory.fixed == one.options[0].memory.fixed
    assert four.options[0].memory.activations == pytest.approx(one.options[0].memory.activations / 4, rel=1e-3)
    assert four.hours[0].hours == pytest.approx(one.hours[0].hours / 4)
    sharded = next(option for option in four.options if option.settings == "train.parallel=fsdp")
    assert sharded.memory.moments == one.options[0].memory.moments // 4
    assert sharded.memory.weights > one.options[0].memory.weights // 4  # a block is whole while it computes


def test_every_option_changes_what_it_should(pack):
    found = {option.settings: option for option in plan(config(pack), devices=2).options}
    now = found[""]
    assert found["optim.ema=0"].memory.total == now.memory.total - now.memory.average
    assert found["optim.name=muon"].memory.moments < now.memory.moments
    assert found["optim.name=muon"].time > 1
    assert found["train.recompute=full"].memory.activations < now.memory.activations
    assert found["train.precision=bf16"].memory.copies > 0
    again = {option.settings for option in plan(config(pack, optim__name="muon", train__precision="bf16")).options}
    assert "optim.name=muon" not in again and "train.precision=bf16" not in again


def test_a_rate_by_number(pack):
    found = plan(config(pack), flops=2.0)
    assert found.hours[0].device == "given"
    assert found.hours[0].hours == pytest.approx(found.flops / (2e12 * 0.35) / 3600)
    with pytest.raises(ValueError, match="above 0"):
        plan(config(pack), devices=0)


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ({"model__width": 8, "model__layers": 1, "model__heads": 1}, "undersized"),
        ({"model__width": 256}, "oversized"),
        ({"train__steps": 2000}, "epochs"),
        ({"optim__warmup": 60}, "warmup"),
        ({}, "valid"),
    ],
)
def test_advice(pack, overrides, kind):
    found = [one.kind for one in plan(config(pack, **overrides)).advice]
    assert kind in found
    if kind in ("undersized", "warmup"):
        assert kind not in [one.kind for one in plan(config(pack, optim__warmup=5)).advice]


def test_a_batch_that_the_devices_cannot_share(pack):
    size = config(pack).optim.batch
    assert "shares" not in [one.kind for one in plan(config(pack), devices=1).advice]
    (found,) = [one for one in plan(config(pack), devices=size + 1).advice if one.kind == "shares"]
    assert found.level == "bad" and "TRAIN056" in found.why and f"e.g. {size + 1}" in found.next


def test_a_model_that_no_machine_here_could_hold(pack):
    found = plan(config(pack, model__width=8192, model__layers=64, model__heads=64), memory=80.0)
    assert found.parameters > 4e10
    assert found.advice[0].kind == "memory"


def test_a_codec_is_planned():
    found = plan(parse({"family": "codec", "data": {"band_loops": 100}, "optim": {"batch": 2}, "train": {"steps": 50}}))
    assert set(found.parts) == {"encoder", "decoder"} and found.data.codebooks == 9
    assert found.epochs == pytest.approx(100 * 16384 / 44100 / (0.85 * 800), rel=0.01)
    assert found.options[0].memory.activations > 0 and found.flops > 0


def test_a_few_steps_are_measured(pack):
    found = plan(config(pack, train__stages=[{"start": 50, "window": 64}]), measure=True)
    assert found.measured is not None and len(found.measured.seconds) == 2
    whole = 50 * sum(found.measured.seconds)
    assert found.measured.hours == pytest.approx(whole / 3600)
    assert found.measured.teraflops == pytest.approx(found.flops / whole / 1e12)


def test_the_command(pack, tmp_path, capsys):
    text = f'family = "rvq"\n[data]\npack = "{pack}"\nwindow = 64\n[model]\nwidth = 64\nlayers = 2\nheads = 2\n'
    (tmp_path / "a.toml").write_text(text)
    for arguments in (["--memory", "8", "--devices", "2", "-q"], ["--json", "-q"]):
        with pytest.raises(SystemExit) as end:
            main(["plan", str(tmp_path / "a.toml"), "train.steps=10", *arguments])
        assert end.value.code == 0
        out = capsys.readouterr().out
        if "--json" in arguments:
            told = json.loads(out)
            assert told["parameters"] == sum(told["parts"].values()) and told["options"][0]["memory"]["total"] > 0
        else:
            assert all(word in out for word in ("embedding", "optimizers", "recompute=full", "H100", "advice"))


def test_figures_are_readable():
    assert [number(n) for n in (0.5, 950, 12_345, 1_230_000, 4.56e9)] == ["0", "950", "12.3 k", "1.23 M", "4.56 G"]
    assert [size(n) for n in (2.5e6, 3.21e9)] == ["2.5 MB", "3.21 GB"]
    assert [duration(h) for h in (0.001, 0.5, 5, 100)] == ["3.6 s", "30 min", "5.0 h", "4.2 days"]
