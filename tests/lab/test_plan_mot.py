"""A plan of a mixture: from names of published shapes alone, and held against what a small one keeps and computes."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from test_plan import really_kept
from torch.utils.flop_counter import FlopCounterMode

from partimento.cli.main import main
from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.lab.plan import plan
from partimento.lab.plan.cost import item_flops
from partimento.lab.plan.memory import USABLE
from partimento.lab.plan.sketch import sketch
from partimento.lab.plan.text import sections
from partimento.lab.plan.trace import trace
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training.ema import named_state
from partimento.training.optim import Optimizers
from partimento.training.tasks import make_task

sys.path.append(str(Path(__file__).parents[1] / "runs"))
from small_models import write_llama, write_musicgen

SYSTEM_D = {
    "model__backbone": "Llama-3.2-1B",
    "model__experts_from": "musicgen-small",
    "model__place": "instead",
    "model__vocabulary": "shared",
    "model__pattern": "flat",
    "model__freeze": [r"experts\.\d+\.(up|down)\."],
    "model__train_backbone": "head",
    "model__caption_share": 0.1,
    "model__text_length": 32,
    "data__window": 992,
    "optim__batch": 1,
}
"""The setting of the system that this family comes from: adapters around frozen feed-forwards of MusicGen, one block of
ids for all codebooks, and the whole output matrix trained (whose text rows learn here what they are for: captions)."""
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
}
KINDS = [
    {},
    {"model__place": "instead", "model__pattern": "flat", "model__vocabulary": "shared"},
    {"model__experts": "full"},
    {"model__experts": "feedforward_copy"},
    {"model__experts": "bottleneck", "model__pattern": "parallel"},
    {"model__experts": "lora"},
    {"model__experts": "none", "model__train_backbone": "all"},
    {"model__caption_share": 0.5, "model__train_backbone": "head"},
]


def make_pack(path, spec, frames):
    rng = np.random.default_rng(3)
    writer = PackWriter(path, spec)
    for clip in range(8):
        codes = rng.integers(0, spec.cardinality, (frames, spec.codebooks))
        writer.add(codes, clip=f"c{clip}", tags=["piano"], caption=f"number {clip}")
    writer.finish()
    return path


@pytest.fixture(scope="module")
def encodec(tmp_path_factory):
    """Codes like those that MusicGen was trained on: 4 books of 2048, 50 frames a second."""
    spec = CodecSpec("fake", "0" * 64, 32000, Fraction(50), (2048,) * 4)
    return make_pack(tmp_path_factory.mktemp("packs") / "encodec", spec, 1500)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    spec = CodecSpec("fake", "0" * 64, 8000, Fraction(20), (50,) * 4)
    return make_pack(tmp_path_factory.mktemp("packs") / "pack", spec, 400)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llamas") / "small"
    write_llama(folder, **SMALL)
    return folder


def config(pack, backbone=None, **overrides):
    tree = {
        "family": "mot",
        "data": {"pack": str(pack), "window": 128},
        "model": {"backbone": str(backbone), "text_length": 24},
        "optim": {"batch": 4, "ema": 0.0},
        "train": {"device": "cpu", "steps": 100},
        "demo": {"temperatures": []},
    }
    if backbone is not None and not {"model__experts", "model__experts_from"} & overrides.keys():
        tree["model"] |= {"expert_width": 32, "expert_inner": 96}
    for name, value in overrides.items():
        section, key = name.split("__")
        tree[section][key] = value
    return parse(tree)


@pytest.fixture(scope="module")
def system_d():
    """From options alone: there is no such pack."""
    return plan(config("nowhere", **SYSTEM_D), memory=24.0, codec="encodec-32k")


def test_system_d_has_the_parameters_that_it_had(system_d):
    """334.0 M = 67.1 M of adapters + 266.9 M of the output matrix of 130,304 ids (and here EOS) of width 2048; beside
    them the input rows of the codes, which that system left at random, untrained and out of its checkpoint."""
    found = system_d
    adapters = 2 * 2048 * 1024 * 16
    head = (128_256 + 2_048 + 1) * 2048
    rows = (2_048 + 3) * 2048
    assert found.trained["experts: adapters"] == found.parts["experts: adapters"] == adapters == 67_108_864
    assert found.trained["backbone: output rows"] + found.trained["codes: output rows"] == head == 266_864_640
    assert f"{(adapters + head) / 1e6:.1f}" == "334.0"
    assert found.trained["codes: input rows"] == rows == 4_200_448
    assert found.trainable == adapters + head + rows == sum(found.trained.values())
    assert found.trained["experts: feed-forward"] == 0 and found.parts["experts: feed-forward"] == 16 * 2 * 1024 * 4096
    frozen = 128_256 * 2048 + 973_144_064 + 2048 + 134_217_728  # embedding, blocks, last norm, feed-forwards
    assert found.frozen == frozen and found.parts["backbone: blocks"] == 973_144_064
    assert found.layouts[0].window_seconds == 4.96  # of 10 s that a clip has


def test_a_codec_in_place_of_the_pack_gives_the_figures_of_the_pack(encodec, llama):
    settings = {"model__caption_share": 0.5, "model__train_backbone": "head", "train__precision": "bf16"}
    with_pack = plan(config(encodec, llama, **settings), memory=1.0)
    without = plan(config("nowhere", llama, **settings), memory=1.0, codec="facebook/encodec_32khz")
    hours = with_pack.data.hours
    stated = plan(config("nowhere", llama, **settings), memory=1.0, codec="encodec-32k", hours=hours)
    assert without.data is None and without.epochs is None and without.codes_per_parameter is None
    assert stated.data.codes == with_pack.data.codes and stated.data.clips is None
    for found in (without, stated):
        assert (found.options, found.layouts, found.parts) == (with_pack.options, with_pack.layouts, with_pack.parts)
        assert (found.flops, found.seen_codes) == (with_pack.flops, with_pack.seen_codes)
        json.dumps(found.to_json())
    assert stated.epochs == with_pack.epochs
    table = {title: rows for title, _, rows in sections(without)}["data"]
    assert table[0][0] == "no pack" and "no hours given" in table[0][1]


@pytest.mark.parametrize("tree", [{"family": "rvq"}, {"family": "dia", "model": {"width": 64, "heads": 2}}])
def test_the_other_families_of_codes_are_planned_without_a_pack(tree):
    tree = {**tree, "data": {"pack": "nowhere", "window": 64}, "train": {"device": "cpu", "steps": 10}}
    found = plan(parse(tree), codec="resident-44k", hours=2.0)
    assert found.trainable > 0 and found.data.hours == pytest.approx(2.0, rel=1e-4) and found.options[0].memory.total


def test_a_codec_is_not_for_everything(encodec):
    with pytest.raises(ValueError, match="hours are counted"):
        plan(config(encodec, "Llama-3.2-1B"), hours=2.0)
    with pytest.raises(ValueError, match="in place of the pack"):
        plan(config(encodec, "Llama-3.2-1B"), codec="encodec-32k", measure=True)
    with pytest.raises(PartimentoError) as caught:
        plan(config(encodec, "Llama-3.2-1B"), codec="encodec-33k")
    assert caught.value.code == "CODEC001"


def test_what_is_not_there_names_what_plans_without_it(encodec):
    names = {"model__backbone": "meta-llama/Llama-3.2-3B", "model__experts_from": "facebook/musicgen-large"}
    with pytest.raises(PartimentoError) as caught:
        plan(config(encodec, **names))
    assert caught.value.code == "WEIGHTS020"
    assert "model.backbone=Llama-3.2-3B model.experts_from=musicgen-large" in (caught.value.next or "")
    with pytest.raises(PartimentoError) as caught:
        plan(config("nowhere", **names))
    assert caught.value.code == "PACK001" and "--codec" in (caught.value.next or "")


def test_a_delayed_grid_holds_four_times_the_seconds(system_d):
    flat, delay = system_d.layouts
    assert (flat.pattern, delay.pattern) == ("flat", "delay")
    assert (flat.positions_per_second, delay.positions_per_second) == (200, 50)
    assert flat.positions == [2000, 6000] and delay.positions == [503, 1503]
    assert delay.window_seconds == pytest.approx(4 * flat.window_seconds, abs=0.1)
    for one, other in zip(flat.activations, delay.activations, strict=True):
        assert one / other > 3.5
    for one, other in zip(flat.flops, delay.flops, strict=True):
        assert one / other > 3.5
    assert delay.fits > 3.5 * flat.fits


def test_what_fits_fits_and_a_little_more_does_not(pack, llama):
    fits = plan(config(pack, llama), memory=0.004).layouts[0].fits
    assert 2 < fits < 10
    for seconds, enough in ((0.98 * fits, True), (1.02 * fits, False)):
        window = round(20 * seconds) + 3
        memory = plan(config(pack, llama, data__window=window, optim__batch=1)).options[0].memory
        assert (memory.total <= USABLE * 4e6) == enough


def test_advice_names_the_other_pattern(system_d, pack, llama):
    (found,) = [one for one in system_d.advice if one.kind == "pattern"]
    assert "200 positions" in found.text and found.next == "model.pattern=delay model.vocabulary=own"
    kinds = {one.kind for one in plan(config(pack, llama)).advice}
    assert not kinds & {"pattern", "experts", "undersized", "oversized", "short"}
    assert "experts" not in {one.kind for one in system_d.advice}


def test_a_musicgen_with_too_few_layers_is_told(pack, llama, tmp_path):
    write_musicgen(tmp_path / "musicgen", layers=1)
    found = plan(config(pack, llama, model__experts_from=str(tmp_path / "musicgen"))).advice[0]
    assert (found.level, found.kind) == ("bad", "experts") and "has 1 layers, and the backbone 2" in found.text


def test_items_that_the_backbone_has_no_positions_for_are_told(pack, llama):
    delay, flat = plan(config(pack, llama)).layouts
    assert delay.activations[0] is not None and delay.activations[1] is flat.activations[0] is flat.flops[0] is None


def test_frozen_weights_are_half_as_large_where_products_are_bfloat16(encodec):
    settings = {"model__backbone": "Llama-3.2-1B", "model__experts_from": "musicgen-small"}
    exact = plan(config(encodec, **settings))
    narrow = plan(config(encodec, **settings, train__precision="bf16"))
    blocks = exact.parts["backbone: blocks"] - 2 * 16 * 2048  # but for their norms
    now, then = exact.options[0].memory, narrow.options[0].memory
    assert exact.parts == narrow.parts
    assert now.weights - then.weights == 2 * blocks
    assert then.copies < 2 * narrow.trainable + 4 * 4 * 2049 * 2048 + 1e6  # no copy of what is frozen
    assert now.gradients == then.gradients == 4 * exact.trainable and now.moments == 8 * exact.trainable
    (option,) = [one for one in exact.options if one.settings == "train.precision=bf16"]
    assert option.memory == then
    assert not [one for one in exact.options if "parallel" in one.settings]
    (again,) = [one for one in exact.options if one.settings == "train.recompute=full"]
    assert again.memory.activations < 0.5 * now.activations


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("how", KINDS)
def test_activations_are_those_that_a_training_keeps(pack, llama, precision, how):
    """Within 10 %, when what a GPU keeps for its masks is left out."""
    settings = config(pack, llama, **how, train__precision=precision)
    drawn = sketch(settings)
    found = trace(drawn.objective, drawn.inputs(drawn.stages[0]), 4, precision)
    task = make_task(settings, torch.device("cpu"))
    real = really_kept(task.objective.train(), task.inputs(task.batch(0, 0)), precision)
    keys, size = 128 + 24, 2 if precision == "bf16" else 4
    masks = 2 * 4 * 128 * keys * size
    if "model__caption_share" in how:
        masks += 4 * size * (128 * (128 + 1) + 2 * 24 * (1 + 128 + 24))  # the last block of what is heard has none
    estimate = 4 * found.activations("none") - found.largest + found.copies - masks
    assert estimate == pytest.approx(real, rel=0.1), estimate / real


@pytest.mark.parametrize("how", KINDS)
def test_operations_are_those_that_torch_counts(pack, llama, how):
    """Within 8 %: what the first of so few layers does not need (no gradient of its input) is not left out."""
    settings = config(pack, llama, **how)
    drawn = sketch(settings)
    with FlopCounterMode(display=False) as counter:
        drawn.objective(*drawn.inputs(drawn.stages[0]))[0].backward()
    assert 4 * item_flops(drawn)[0] == pytest.approx(counter.get_total_flops(), rel=0.08)


@pytest.mark.parametrize("how", [KINDS[1], KINDS[-1]])
def test_state_and_checkpoint_are_as_large_as_they_are(pack, llama, how):
    settings = config(pack, llama, **how)
    found = plan(settings)
    module = make_task(settings, torch.device("cpu")).module
    moments = [tensor for tensor in Optimizers(module, settings.optim).state().values() if tensor.ndim]
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    memory = found.options[0].memory
    assert (found.trainable, found.parameters) == (trained, sum(p.numel() for p in module.parameters()))
    assert found.parameters == sum(found.parts.values()) and trained == sum(found.trained.values())
    assert memory.gradients == 4 * trained and memory.moments == sum(t.numel() * t.element_size() for t in moments)
    saved = sum(t.numel() * t.element_size() for t in named_state(module).values())
    assert found.checkpoint_bytes == saved + memory.moments


def test_the_frozen_text_costs_no_gradient(pack, llama):
    """A longer text adds its own forward pass, but of the last block its keys and values, and what rows look at."""
    short, long = (item_flops(sketch(config(pack, llama, model__text_length=length)))[0] for length in (24, 48))
    matrices = 2 * 2 * 24 * (4 * 64 * 64 + 3 * 64 * 128) - 2 * 24 * (2 * 64 * 64 + 3 * 64 * 128)
    scores = 4 * 64 * (48**2 - 24**2) + 2 * 12 * 64 * 128 * 24
    assert long - short == matrices + scores


def test_the_layout_of_another_system_by_options_alone(tmp_path, monkeypatch, capsys):
    """What docs/mot.md says: no file but the one with the family's name, no pack, no weights."""
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text('family = "mot"\n[data]\npack = "nowhere"\nwindow = 992\n[model]\nbackbone = ""')
    plain = {name.replace("__", "."): value for name, value in SYSTEM_D.items() if name != "model__freeze"}
    given = [f"{name}={value}" for name, value in plain.items()] + [f"model.freeze=['{SYSTEM_D['model__freeze'][0]}']"]
    with pytest.raises(SystemExit) as end:
        main(["plan", "a.toml", *given, "--codec", "encodec-32k", "--json", "-q"])
    told = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and told["data"] is None and told["codec"] == "encodec-32k"
    trained = told["trained"]
    assert trained["experts: adapters"] == 67_108_864
    assert trained["backbone: output rows"] + trained["codes: output rows"] == 266_864_640
    assert round((67_108_864 + 266_864_640) / 1e6, 1) == 334.0


def test_the_command(pack, llama, tmp_path, capsys):
    lines = ['family = "mot"', "[data]", f'pack = "{pack}"', "window = 64", "[model]", f'backbone = "{llama}"']
    (tmp_path / "a.toml").write_text("\n".join(lines))
    for arguments in (["--memory", "24", "-q"], ["--json", "-q"]):
        with pytest.raises(SystemExit) as end:
            main(["plan", str(tmp_path / "a.toml"), "optim.batch=2", *arguments])
        assert end.value.code == 0
        out = capsys.readouterr().out
        if "--json" in arguments:
            told = json.loads(out)
            assert told["trainable"] == sum(told["trained"].values()) and told["layouts"][1]["pattern"] == "flat"
        else:
            assert all(
                word in out for word in ("backbone: blocks", "experts: adapters", "positions a second", "too long")
            )


def test_tables_are_whole(system_d):
    for title, head, rows in sections(system_d):
        assert all(len(row) == len(head) for row in rows), title


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B"])
@pytest.mark.parametrize("experts", ["musicgen-small", "musicgen-medium", "musicgen-large"])
def test_full_sizes_are_planned_without_weights(encodec, backbone, experts):
    """With the memory that it takes, and a word where MusicGen has too few layers."""
    settings = {"model__backbone": backbone, "model__experts_from": experts, "train__precision": "bf16"}
    found = plan(config(encodec, **settings, data__window=512))
    billions = {"Llama-3.2-1B": 1.236, "Llama-3.2-3B": 3.213, "Llama-3.1-8B": 8.030}[backbone]
    llama = sum(count for part, count in found.parts.items() if part.startswith("backbone"))
    assert llama == pytest.approx(1e9 * billions, rel=1e-3)
    assert found.options[0].memory.total > 2 * found.frozen + 16 * found.trainable
    short = backbone != "Llama-3.2-1B" and experts == "musicgen-small"
    assert short == ("experts" in {one.kind for one in found.advice if one.level == "bad"})
