"""The `mot` family on the engine: a frozen Llama plays, and what a checkpoint holds is what was trained, no less."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from codes_toy import ToyCodec
from mot_toy import config, task, write_llama, write_musicgen, write_pack
from torch import Tensor

from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.models.conditions import Told
from partimento.models.mixture import MixtureModel
from partimento.runs import adapters, checkpoint
from partimento.runs.events import curve, read_events
from partimento.runs.run import Run
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.tokens.convert.build import build_pack
from partimento.tokens.text import NO_WORDS, Words
from partimento.training.engine import train
from partimento.training.player import Player
from partimento.training.publish import export_weights
from partimento.training.tasks.codes import CodesTask

GREEDY = Rules(temperature=0.0)


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


@pytest.fixture(scope="module")
def musicgen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("musicgen")
    write_musicgen(folder)
    return folder


def newest(run: Run) -> Path:
    found = checkpoint.newest(run.path / "checkpoints", note=print)
    assert found is not None
    return found


def parts_of(run: Run, part: str) -> dict[str, Tensor]:
    return checkpoint.load(newest(run), (part,)).parts[part]


KINDS: list[dict[str, Any]] = [
    {},
    {"pattern": "flat"},
    {"pattern": "flat", "vocabulary": "shared", "place": "instead", "train_backbone": "head", "caption_share": 0.2},
    {"experts": "bottleneck", "rank": 2},
    {"experts": "lora", "rank": 2, "pattern": "parallel"},
    {"experts": "feedforward_copy"},
    {"experts": "full", "caption_share": 0.5},
    {"experts": "none", "train_backbone": "all"},
]


@pytest.mark.parametrize("model", KINDS, ids=lambda model: "-".join(map(str, model.values())) or "default")
def test_every_kind_trains_and_what_is_stored_is_enough_to_play(
    pack: Path, llama: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    before = {file.name: file.read_bytes() for file in llama.iterdir()}
    made = config(pack, llama, model=model, train={"steps": 3, "valid_every": 3, "save_every": 3})
    run = train(made, runs=tmp_path)
    assert before == {file.name: file.read_bytes() for file in llama.iterdir()}
    path = newest(run)
    stored = checkpoint.load(path, ()).state["description"]
    assert stored["family"] == "mot" and stored["base"]["folder"] == str(llama)
    kept, averaged = parts_of(run, "model"), parts_of(run, "ema")
    module = task(made).module
    assert kept.keys() == averaged.keys() == {n for n, w in module.named_parameters() if w.requires_grad}
    assert any("embedding" in name for name in kept) and any("head" in name for name in kept)
    player = Player.from_checkpoint(path)
    assert player.description() == stored
    told = dict(player.module.named_parameters())
    assert all(torch.equal(told[name], averaged[name]) for name in averaged)
    (played,) = player.play(frames=12, seeds=[1], rules=GREEDY, words=Words.parse("slow | climbing"))
    assert len(played.codes_TK) <= 12 and 0 <= int(played.codes_TK.min()) <= int(played.codes_TK.max()) < 16


def test_it_plays_what_is_asked_for(pack: Path, llama: Path, tmp_path: Path) -> None:
    """A random backbone is enough to tell four prompts apart."""
    asked = config(
        pack,
        llama,
        data={"window": 12},
        model={"pattern": "parallel", "expert_width": 16, "expert_inner": 32},
        optim={"batch": 16, "lr": 0.02},
        train={"steps": 300, "valid_every": 300, "save_every": 300},
    )
    run = train(asked, runs=tmp_path)
    share = [value for _, value in curve(read_events(run.events_path), "train", "null_share")]
    assert abs(np.mean(share) - 0.2) < 0.05
    player = Player.from_checkpoint(newest(run))
    words = {1: "slow | climbing", 2: "fast | climbing", 11: "slow | falling", 10: "fast | falling"}
    lines = [Words.parse(line) for line in words.values()]
    played = player.play(frames=30, seeds=range(4), rules=GREEDY, words=lines, guidance=Guidance(2.0))
    assert [int((one.codes_TK[8:, 0].diff() % 12).mode().values) for one in played] == list(words)
    alone = player.play(frames=30, seeds=[2], rules=GREEDY, words=lines[2], guidance=Guidance(2.0))
    assert torch.equal(alone[0].codes_TK, played[2].codes_TK), "an item does not depend on its batch"


def test_the_null_condition_is_one(pack: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training's dropped item, and the player's other side, are told the same keys and values."""
    made = task(config(pack, llama))
    batch = next(b for step in range(50) if not (b := made.batch(step, 0)).keep_B.all() and b.keep_B.any())
    seen: list[Told] = []
    told = MixtureModel.told

    def spy(self: MixtureModel, *args: Tensor) -> Told:
        seen.append(told(self, *args))
        return seen[-1]

    monkeypatch.setattr(MixtureModel, "told", spy)
    made.objective.train()(*made.inputs(batch))
    monkeypatch.setattr(MixtureModel, "told", told)
    dropped, kept = int((~batch.keep_B).nonzero()[0]), int(batch.keep_B.nonzero()[0])
    null = made.player.told([batch.words_B[dropped]])[1]
    free, asked = made.player.told([NO_WORDS])[0], made.player.told([batch.words_B[kept]])[0]
    trained = seen[0].prefix
    assert trained is not None
    for one, row in ((null, dropped), (free, dropped), (asked, kept)):
        assert one.prefix is not None
        count = int(one.prefix.count_B[0])
        assert count == int(trained.count_B[row]) and (count == 1) == (row == dropped)
        for mine_L, theirs_L in ((one.prefix.keys_L, trained.keys_L), (one.prefix.values_L, trained.values_L)):
            for mine, theirs in zip(mine_L, theirs_L, strict=True):
                torch.testing.assert_close(mine[0, :, :count], theirs[row, :, :count], rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", [{"dropout": 0.1}, {"experts": "full", "caption_share": 0.3}])
def test_resume_is_bit_for_bit(pack: Path, llama: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    made = config(pack, llama, model=model)
    whole = train(made, runs=tmp_path / "a", run="r")
    train(config(pack, llama, model=model, train={"max_minutes": 1e-9}), runs=tmp_path / "b", run="r")
    moved = tmp_path / "moved"
    shutil.copytree(llama, moved)
    parts = train(config(pack, moved, model=model), runs=tmp_path / "b", run="r")  # its contents count, not its place
    for part in ("model", "ema", "optimizer"):
        first, second = parts_of(whole, part), parts_of(parts, part)
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_another_backbone_is_refused(pack: Path, llama: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_llama(other, seed=5)
    mine = tmp_path / "mine"
    shutil.copytree(llama, mine)
    run = train(config(pack, mine, train={"max_minutes": 1e-9}), runs=tmp_path / "runs", run="r")
    with pytest.raises(PartimentoError) as refused:
        train(config(pack, other), runs=tmp_path / "runs", run="r")
    assert refused.value.code == "TRAIN002" and "weights" in refused.value.message
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    with pytest.raises(PartimentoError) as refused:
        Player.from_checkpoint(newest(run))
    assert refused.value.code == "WEIGHTS022"
    shutil.rmtree(mine)
    with pytest.raises(PartimentoError) as refused:
        Player.from_checkpoint(newest(run))
    assert refused.value.code == "WEIGHTS020"


def test_captions_are_learned_the_other_way_round(pack: Path, llama: Path, tmp_path: Path) -> None:
    """The keyed share of the items is told from the sound, counted apart, and validated; words become predictable."""
    model = {"experts": "full", "caption_share": 0.4}
    made = task(config(pack, llama, model=model))
    turned = torch.cat([made.batch(step, 0).turned_B for step in range(200)])
    assert abs(float(turned.float().mean()) - 0.4) < 0.06
    batch = next(b for step in range(50) if not (b := made.batch(step, 0)).turned_B.all() and b.turned_B.any())
    again = task(config(pack, llama, model=model)).batch(0, 0)
    assert torch.equal(again.turned_B, made.batch(0, 0).turned_B)
    grid, keep, weights, text, mask, turned_B = made.inputs(batch)
    assert grid is not None and turned_B is not None and mask is not None
    made.objective.train()
    _, sums = made.objective(*made.inputs(batch))
    told = int(mask[turned_B].sum())  # the end is told, BOS is given
    valid = grid[:, 1:] <= made.specials.pad - 1
    assert int(sums["caption_count"]) == told
    assert int(sums["tokens"]) == int(valid[~turned_B].sum()) + told
    other = grid.clone()
    other[~turned_B] = (other[~turned_B] + 1) % 12
    _, moved = made.objective(other, keep, weights, text, mask, turned_B)
    torch.testing.assert_close(moved["caption"], sums["caption"], rtol=1e-5, atol=0)
    learns = {"experts": "none", "train_backbone": "all", "caption_share": 0.5}
    asked = config(pack, llama, model=learns, train={"steps": 60, "valid_every": 20, "save_every": 60})
    run = train(asked, runs=tmp_path)
    events = read_events(run.events_path)
    heard = [value for _, value in curve(events, "valid", "caption_ce")]
    assert len(heard) == 3 and heard[-1] < 0.5 * np.log(60)
    assert curve(events, "train", "caption_ce")


def test_experts_come_from_musicgen_and_may_stay_frozen(
    pack: Path, llama: Path, musicgen: Path, tmp_path: Path
) -> None:
    model = {"experts_from": str(musicgen), "freeze": [r"experts\.\d+\.(up|down)\."]}
    made = task(config(pack, llama, model=model))
    (note,) = made.notes
    assert (
        f"4 of 8 tensors of the experts (384 of 896 numbers) are those of {musicgen.name}; its layer 2 of 3 is not"
        in note
    )
    frozen = {name for name, weight in made.module.named_parameters() if not weight.requires_grad}
    assert any("expert" in name for name in frozen)
    run = train(config(pack, llama, model=model), runs=tmp_path)
    (told,) = [event for event in read_events(run.events_path) if event["kind"] == "experts"]
    assert told["folder"] == str(musicgen) and len(told["report"]["rows"]) == 8
    assert checkpoint.load(newest(run), ()).state["description"]["experts"]["report"] == told["report"]
    before, after = dict(made.module.named_parameters()), Player.from_checkpoint(newest(run)).module.named_parameters()
    assert all(torch.equal(before[name], weight) for name, weight in after if name in frozen)
    with pytest.raises(PartimentoError) as refused:
        task(config(pack, llama, model={"freeze": ["expert"]}))
    assert refused.value.code == "TRAIN071", "random experts that nobody keeps"
    with pytest.raises(PartimentoError) as refused:
        task(config(pack, llama, model={"freeze": [r"decoder\.embedding"]}))
    assert refused.value.code == "TRAIN071", "new rows that nobody keeps"


def test_rows_of_musiccaps_train(llama: Path, tmp_path: Path) -> None:
    """{ytid, caption, aspect_list, audio_codes [4][T]} at 50 Hz, through `pack import`: aspects are tags."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "ytid": f"video{row}",
            "caption": "a slow waltz" if row % 2 else "a dark pulse",
            "aspect_list": "['slow', 'piano']" if row % 2 else "['techno']",
            "start_s": 30,
            "end_s": 40,
            "audio_codes": rng.integers(0, 2048, (4, 60)).tolist(),
        }
        for row in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    build_pack(tmp_path / "rows.parquet", tmp_path / "pack")
    made = task(config(tmp_path / "pack", llama))
    assert made.pack.spec.codebooks == 4 and float(made.pack.spec.frame_rate) == 50
    words = {str(words) for step in range(5) for words in made.batch(step, 0).words_B}
    assert (
        words <= {"slow, piano | a slow waltz", "piano, slow | a slow waltz", "techno | a dark pulse"}
        and len(words) > 1
    )
    made.objective.train()
    total, sums = made.objective(*made.inputs(made.batch(0, 0)))
    assert float(total.detach() / sums["tokens"]) == pytest.approx(np.log(2049), rel=0.05), (
        "not ln of the whole vocabulary"
    )


def test_frozen_matrices_of_a_training_in_bf16_are_kept_so(pack: Path, llama: Path, tmp_path: Path) -> None:
    """One copy, in bfloat16; products are those of autocast on float32. Validation and demos run, and it plays."""
    narrow, wide = (task(config(pack, llama, train={"precision": precision})) for precision in ("bf16", "fp32"))
    frozen = [weight for weight in narrow.module.parameters() if not weight.requires_grad and weight.ndim == 2]
    assert sum(weight.dtype == torch.bfloat16 for weight in frozen) == 7 * 2
    assert all(weight.dtype == torch.float32 for weight in narrow.module.parameters() if weight.requires_grad)
    found = []
    for made in (narrow, wide):
        made.objective.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found.append(made.objective(*made.inputs(made.batch(0, 0)))[0])
    assert torch.equal(*found)
    made = config(pack, llama, train={"precision": "bf16"}, demo={"temperatures": [0.0], "seconds": 0.2})
    run = train(made, runs=tmp_path)
    assert Player.from_checkpoint(newest(run)).play(frames=5, seeds=[0], rules=GREEDY, words=Words(("slow",)))


@pytest.mark.parametrize(
    "model",
    [
        {"rank": 4},
        {"experts": "lora", "expert_width": 8},
        {"experts_from": "x", "expert_width": 8},
        {"place": "instead", "experts": "lora"},
        {"vocabulary": "shared"},
    ],
)
def test_settings_that_mean_nothing_are_refused(pack: Path, llama: Path, model: dict[str, Any]) -> None:
    tree = {"family": "mot", "data": {"pack": str(pack)}, "model": {"backbone": str(llama), **model}}
    with pytest.raises(PartimentoError) as refused:
        parse(tree)
    assert refused.value.code == "CONFIG003"


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("trained", ["none", "all"])
@pytest.mark.parametrize("kind", ["feedforward", "bottleneck", "lora", "full", "feedforward_copy", "none"])
def test_a_gradient_reaches_all_that_is_trained_and_nothing_else(
    pack: Path, tmp_path: Path, kind: str, trained: str, share: float
) -> None:
    """Beside a backbone whose head is its own, which only words that are told reach."""
    write_llama(tmp_path, tie_word_embeddings=False)
    made = task(config(pack, tmp_path, model={"experts": kind, "train_backbone": trained, "caption_share": share}))
    made.objective.train()
    total, sums = made.objective(*made.inputs(made.batch(0, 0)))
    (total / sums["tokens"]).backward()
    named = dict(made.module.named_parameters())
    assert {n for n, weight in named.items() if weight.grad is None} == {
        n for n, weight in named.items() if not weight.requires_grad
    }
    assert named["decoder.llama.head.weight"].requires_grad == (trained == "all" and share > 0)
    assert named["decoder.embedding"].requires_grad and named["decoder.head.weight"].requires_grad


def test_a_training_begins_with_what_another_one_learned(pack: Path, llama: Path, tmp_path: Path) -> None:
    """Window and pattern may be others; what was read so cannot stay frozen, for no file of the run has it."""
    run = train(config(pack, llama), runs=tmp_path)
    export_weights(run.path, tmp_path / "beside")
    learned = adapters.read(tmp_path / "beside").tensors()
    begins = {"weights": str(tmp_path / "beside"), "pattern": "flat"}
    made = task(config(pack, llama, data={"window": 12}, model=begins))
    here = dict(made.module.named_parameters())
    assert learned and all(torch.equal(here[name], value) for name, value in learned.items())
    assert made.player.knows_null and made.identity["start"] == adapters.read(tmp_path / "beside").sha256
    refusals: list[tuple[dict[str, Any], str]] = [
        ({**begins, "freeze": ["experts"]}, "TRAIN071"),
        ({**begins, "experts": "lora"}, "TRAIN073"),
        ({**begins, "weights": str(tmp_path)}, "TRAIN072"),
        ({"text_length": 240}, "MODEL004"),
    ]
    for model, code in refusals:
        with pytest.raises(PartimentoError) as refused:
            task(config(pack, llama, model=model))
        assert refused.value.code == code


def beside(made: CodesTask, to: Path, **spec: Any) -> str:
    """What a training of this task would leave, with other facts of its codec."""
    told = made.player.description()
    learned = {name: weight for name, weight in made.module.named_parameters() if weight.requires_grad}
    adapters.save(to, learned, {**told, "spec": {**told["spec"], **spec}}, {})
    return str(to)


FROZEN = {"freeze": [r"experts\.\d+\.(up|down)\."]}
UNLIKE: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, str]] = [
    ({}, {}, {"place": "instead"}, "TRAIN073", "experts.place is beside there and instead here"),
    ({"experts": "lora", "rank": 2}, {}, {"lora_alpha": 8.0}, "TRAIN073", "experts.alpha is 2 there and 8.0 here"),
    ({"experts_from": "musicgen", **FROZEN}, {}, {"experts_from": "other"}, "TRAIN073", "experts are of a model whose"),
    ({}, {"frame_rate": [25, 1]}, {}, "TRAIN058", "frame rate 25 there, 50 here"),
]


@pytest.mark.parametrize(("model", "spec", "changed", "code", "why"), UNLIKE, ids=["place", "alpha", "donor", "codec"])
def test_what_belongs_to_another_model_is_refused_though_all_shapes_are_alike(
    pack: Path,
    llama: Path,
    tmp_path: Path,
    model: dict[str, Any],
    spec: dict[str, Any],
    changed: dict[str, Any],
    code: str,
    why: str,
) -> None:
    def placed(settings: dict[str, Any]) -> dict[str, Any]:
        found = settings.get("experts_from")
        return settings if found is None else {**settings, "experts_from": str(tmp_path / found)}

    for number, name in enumerate(("musicgen", "other")):
        write_musicgen(tmp_path / name, seed=number)
    folder = beside(task(config(pack, llama, model=placed(model))), tmp_path / "beside", **spec)
    if not spec:  # as it was, but for dropout, which says nothing of the weights
        assert task(config(pack, llama, model=placed(model) | {"weights": folder, "dropout": 0.1}))
    with pytest.raises(PartimentoError) as refused:
        task(config(pack, llama, model=placed({**model, **changed}) | {"weights": folder}))
    assert refused.value.code == code and why in str(refused.value)


def test_codes_that_have_another_name_are_noted(pack: Path, llama: Path, tmp_path: Path) -> None:
    folder = beside(task(config(pack, llama)), tmp_path / "beside", codec="dac")
    (note,) = task(config(pack, llama, model={"weights": folder})).notes
    assert note.startswith("the weights learned codes of dac, the pack's are of toy")
