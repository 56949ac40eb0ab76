"""What is said of a loss of codes, against closed forms: noise, one code, a Markov chain, and guessing."""

import json
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from lab_fakes import make_run

from partimento.cli.main import main
from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.lab.explainloss.explain import explain_loss
from partimento.lab.explainloss.floors import Floors, smoothed_floor, stand
from partimento.lab.explainloss.terminal import terminal
from partimento.lab.report import report
from partimento.runs import checkpoint
from partimento.runs.events import EventLog, read_events
from partimento.tokens import counting
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training.engine import train

V = 8
LN = math.log(V)


def uniform(rng, frames):
    return rng.integers(0, V, (frames, 2))


def constant(rng, frames):
    return np.full((frames, 2), 3)


STAY = 0.7  # of a chain that else goes to any of the other codes alike: all codes as frequent


def chain(rng, frames):
    codes = np.cumsum(np.where(rng.random((frames, 2)) < STAY, 0, rng.integers(1, V, (frames, 2))), axis=0)
    return (codes + rng.integers(0, V, (1, 2))) % V


CHAIN = -STAY * math.log(STAY) - (1 - STAY) * math.log((1 - STAY) / (V - 1))  # its entropy, nats a code


def write(folder, draw, clips=24, frames=2000):
    rng = np.random.default_rng(5)
    writer = PackWriter(folder, CodecSpec("toy", "ab" * 32, 8000, Fraction(50), (V, V)))
    for clip in range(clips):
        writer.add(draw(rng, frames + clip), clip=f"clip{clip}.wav")  # equal clips would be one source
    writer.finish()
    return Pack.open(folder)


def logged(tmp_path, pack, valid, *, train_ce=None, loss=None, step=600, **config):
    """A run on a pack, at step 600 of 600, with the pack's true baseline and this cross entropy in each book."""
    run = make_run(tmp_path / "runs", fingerprint=pack.fingerprint, data={"pack": str(pack.path)}, **config)
    log = EventLog(run.events_path)
    log.append("start", 0)
    log.append("baseline", 0, **counting.baselines(pack).to_json())
    ce = valid if train_ce is None else train_ce
    log.append("train", step, loss=ce if loss is None else loss, ce_K=[ce, ce])
    if valid is not None:
        log.append("valid", step, weights="ema", ce_K=[valid, valid], eos_ce=None, codes=100)
    return run


def test_uniform_codes_are_noise(tmp_path):
    pack = write(tmp_path / "pack", uniform)
    found = explain_loss(logged(tmp_path, pack, LN, train_ce=0.8 * LN).path)
    mean = found.figures["mean"]
    assert mean["random"] == pytest.approx(LN) and mean["unigram"] == pytest.approx(LN, abs=1e-3)
    assert mean["bigram"] == pytest.approx(LN, abs=5e-3)
    assert found.figures["noise"] is True and found.figures["share"] is None and found.good is False
    assert "looks like noise" in found.verdict[2] and "memory" in found.verdict[2]


def test_a_model_that_finds_what_counting_does_not_says_that_it_is_no_noise(tmp_path):
    pack = write(tmp_path / "pack", uniform)
    found = explain_loss(logged(tmp_path, pack, 0.9 * LN).path)
    assert found.figures["noise"] is False and found.good is True
    assert "counting finds nothing in these codes, and the model does" in found.verdict[2]


def test_one_code_costs_nothing(tmp_path):
    pack = write(tmp_path / "pack", constant)
    found = explain_loss(logged(tmp_path, pack, 0.0).path)
    assert found.figures["mean"]["unigram"] == pytest.approx(0, abs=1e-3)
    assert found.figures["mean"]["entropy"] == 0 and found.figures["noise"] is False
    assert found.figures["share"] == pytest.approx(1, abs=1e-3)
    model = next(part for part in found.parts if part.title == "Where it stands").rows[-1]
    assert model[1:5] == [0.0, 0.0, 0.0, 1.0]  # nats, bits a code, bits a second, perplexity


def test_a_chain_costs_its_entropy_and_a_model_that_knows_it_is_level_with_counting(tmp_path):
    pack = write(tmp_path / "pack", chain)
    found = explain_loss(logged(tmp_path, pack, CHAIN).path)
    mean = found.figures["mean"]
    assert mean["bigram"] == pytest.approx(CHAIN, abs=0.02) and mean["unigram"] == pytest.approx(LN, abs=0.01)
    assert found.figures["share"] == pytest.approx(1, abs=0.02)
    half = explain_loss(logged(tmp_path / "half", pack, (LN + CHAIN) / 2).path)
    assert half.figures["share"] == pytest.approx(0.5, abs=0.01) and half.good is False
    beyond = explain_loss(logged(tmp_path / "beyond", pack, CHAIN / 2).path)
    assert beyond.figures["share"] > 1 and beyond.good is True
    assert beyond.figures["beyond"] == pytest.approx(CHAIN / 2, abs=0.02)


@pytest.mark.parametrize(
    "value, said",
    [
        (1.1 * LN, "worse than guessing"),
        (0.999 * LN, "it still guesses"),
        (0.985 * LN, "does not even know how often"),
        (0.97 * LN, "does as well, or better"),
        (0.5 * LN, "Good as far as it goes"),
    ],
)
def test_each_place_between_the_floors_has_its_verdict(tmp_path, value, said):
    run = make_run(tmp_path, model={"pattern": "flat"})
    log = EventLog(run.events_path)
    log.append("baseline", 0, unigram_ce_K=[0.98 * LN], bigram_ce_K=[0.9 * LN], data_entropy_K=[0.98 * LN])
    log.append("valid", 600, weights="raw", ce_K=[value])
    describe(run, 600, {"spec": {"cardinalities": [V], "frame_rate": [50, 1]}})
    found = explain_loss(run.path)
    assert said in found.verdict[2] and found.young is None
    assert found.figures["share"] == pytest.approx((LN - value) / (0.1 * LN))


def describe(run, step, description):
    """A checkpoint of one weight that says this of its model."""
    checkpoint.save(run.checkpoints_path, step, {"model": {"w": torch.zeros(1)}}, {"description": description})


def test_a_gain_in_fine_books_does_not_hide_a_coarse_one_that_is_behind():
    books = stand([V] * 4, unigram_K=[LN] * 4, bigram_K=[0.5, 2, 2, 2], valid_K=[1.0, 1.5, 1.5, 1.5])
    assert books.share and books.share > 1
    assert books.books[0].share(1.0) == pytest.approx((LN - 1) / (LN - 0.5))


def test_means_over_books_of_which_one_is_unknown_are_unknown():
    found = stand([V, V], unigram_K=[1.0, None], valid_K=[1.0, 1.0])
    assert found.mean.unigram is None and found.valid == 1.0 and found.share is None
    assert Floors(random=LN).share(1.0) is None and Floors().explained is None


@pytest.mark.parametrize("smoothing, outputs", [(0.1, 9), (0.3, 1025), (0.0, 5)])
def test_the_floor_of_smoothed_targets_is_what_torch_leaves_a_perfect_model(smoothing, outputs):
    target = torch.full((outputs,), smoothing / outputs, dtype=torch.float64)
    target[2] += 1 - smoothing
    logits = target.clamp(min=1e-30).log()
    want = torch.nn.functional.cross_entropy(logits[None], torch.tensor([2]), label_smoothing=smoothing)
    assert smoothed_floor(smoothing, outputs) == pytest.approx(float(want), abs=1e-9)


@pytest.mark.parametrize(("kind", "ids", "wrong"), [("shared", "130,304", "11.78"), ("own", "136,448", "11.82")])
def test_the_whole_vocabulary_is_the_wrong_yardstick(tmp_path, kind, ids, wrong):
    """System D: a loss of 5.4 of 130,304 ids, of which 2,048 are legal."""
    model = {"backbone": "Llama-3.2-1B", "vocabulary": kind, "pattern": "flat"}
    run = make_run(tmp_path, family="mot", data={"pack": "gone"}, model=model, loss={"label_smoothing": 0.1})
    log = EventLog(run.events_path)
    log.append("train", 300, loss=5.4, ce_K=[5.4] * 4)
    spec = {"cardinalities": [2048] * 4, "frame_rate": [50, 1]}
    decoder = {"llama": {"vocabulary": 128256}, "outputs": 2049}
    describe(run, 300, {"spec": spec, "mixture": {"decoder": decoder, "train_backbone": "none"}})
    found = explain_loss(run.path)
    prose = " ".join(next(part for part in found.parts if part.title == "What the number is").prose)
    assert f"Not ln {ids} = {wrong}" in prose and "ln 2,048 = 7.62" in prose and "no note of music" in prose
    assert "masked out of the loss" in prose and "these and EOS alone" in prose
    assert (
        f"label smoothing of 0.1 lifts it: even a perfect model is left with {smoothed_floor(0.1, 2049):.2f}" in prose
    )
    assert found.figures["mean"]["random"] == pytest.approx(7.6246, abs=1e-4)
    assert found.young and "no validation" in found.verdict[2] and found.good is None


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        (3.0, "1.00 nats an id less than the Llama without the sound"),
        (4.01, "as much as the Llama without the sound: nothing says yet that it listens"),
        (5.0, "still cost 1.00 nats an id more than the Llama without the sound"),
        (None, None),
    ],
)
def test_words_are_held_against_who_hears_nothing(tmp_path, heard, said):
    run = make_run(tmp_path, family="mot", data={"pack": "gone"}, model={"backbone": "x", "caption_share": 0.3})
    log = EventLog(run.events_path)
    log.append("baseline", 0, unigram_ce_K=[2.0], unigram_caption_ce=4.5, llama_caption_ce=4.0)
    log.append("valid", 300, weights="raw", ce_K=[1.9], caption_ce=heard)
    found = explain_loss(run.path)
    (words,) = [part for part in found.parts if part.title == "The words, told from the sound"]
    assert [row[1] for row in words.rows] == [None, 4.5, 4.0, None, heard]
    assert len(words.prose) == 1 if said is None else said in words.prose[1]


def test_books_of_different_sizes_have_one_softmax_and_that_is_said(tmp_path):
    run = make_run(tmp_path)
    EventLog(run.events_path).append("train", 300, loss=2.7, ce_K=[2.7, 2.0])
    describe(run, 300, {"spec": {"cardinalities": [16, 8], "frame_rate": [50, 1]}, "decoder": {"outputs": 17}})
    found = explain_loss(run.path)
    prose = " ".join(next(part for part in found.parts if part.title == "What the number is").prose)
    assert "a guess among these costs 2.08 to 2.77 nats" in prose and "these and EOS alone" not in prose
    assert f"begins at ln 17 = {math.log(17):.2f} in all of them" in prose


def test_a_run_without_a_step_is_too_young(tmp_path):
    found = explain_loss(make_run(tmp_path).path)
    assert found.step is None and found.good is None and "no step has been logged" in found.verdict[2]
    assert "not recorded" in found.verdict[1]
    text = terminal(found)
    assert "NOT RECORDED" in text and "the run logged no baseline" in text
    numbers = [found.figures[name] for name in ("valid", "train", "share", "loss", "targets", "epochs", "frozen")]
    assert numbers == [None] * 7  # missing is never 0


def test_a_run_in_its_warm_up_is_too_young(tmp_path):
    pack = write(tmp_path / "pack", chain, clips=8, frames=300)
    found = explain_loss(logged(tmp_path, pack, CHAIN / 2, step=40).path)
    assert found.good is None and "within the warm-up of 100 steps" in found.verdict[2]


def test_held_out_that_gets_worse_is_told(tmp_path):
    pack = write(tmp_path / "pack", chain)
    run = logged(tmp_path, pack, 0.5 * CHAIN, train_ce=0.3 * CHAIN)
    log = EventLog(run.events_path)
    log.append("valid", 700, weights="ema", ce_K=[0.8 * CHAIN] * 2)
    found = explain_loss(run.path)
    assert found.good is False and "getting worse" in found.verdict[2]
    gap = " ".join(next(part for part in found.parts if part.title.startswith("Training and")).prose)
    assert "best at step 600" in gap and "by heart" in gap
    assert f"It grows: {0.2 * CHAIN:+.3f} at step 600, {0.5 * CHAIN:+.3f} at step 700" in gap


def test_the_pack_may_be_gone_and_an_older_run_says_what_it_lacks(tmp_path):
    pack = write(tmp_path / "pack", chain, clips=8, frames=300)
    run = logged(tmp_path, pack, CHAIN)
    (tmp_path / "pack").rename(tmp_path / "elsewhere")
    found = explain_loss(run.path)
    assert found.figures["mean"]["random"] is None and found.figures["valid"] == CHAIN
    assert any("How many codes a book has" in line for line in found.missing)
    assert any("Which parts are trained" in line for line in found.missing)
    assert "was not recorded" in found.verdict[1]
    describe(run, 600, {"spec": {"cardinalities": [V, V], "frame_rate": [50, 1]}})
    assert explain_loss(run.path).figures["mean"]["random"] == pytest.approx(LN)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(tmp_path):
    run = make_run(tmp_path)
    for step in (100, 200):
        describe(run, step, {"spec": {"cardinalities": [V], "frame_rate": [50, 1]}})
    (run.checkpoints_path / "step-000000200" / "state.json").write_text("{}")
    found = explain_loss(run.path)
    assert found.figures["mean"]["random"] == pytest.approx(LN)
    assert any("step-000000200 cannot be read (CKPT001)" in line for line in found.missing)


def test_a_family_of_tomorrow_is_refused_and_its_report_made(tmp_path):
    run = make_run(tmp_path)
    record = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**record, "family": "theremin"}))
    with pytest.raises(PartimentoError) as caught:
        explain_loss(run.path)
    assert caught.value.code == "LAB040"
    assert "Is that loss good?" not in report(run.path).read_text()


def told(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_a_trained_run_records_what_it_is_asked(tmp_path, capsys):
    """A real training: the table of its modules, the codes it learned from, and the command."""
    pack = write(tmp_path / "pack", chain, clips=8, frames=300)
    tree = {
        "family": "rvq",
        "data": {"pack": str(pack.path), "window": 32},
        "model": {"width": 16, "layers": 1, "heads": 2},
        "optim": {"batch": 4, "warmup": 2},
        "train": {"steps": 6, "log_every": 2, "valid_every": 6, "valid_items": 8, "device": "cpu"},
        "demo": {"temperatures": []},
    }
    run = train(parse(tree), runs=tmp_path / "runs", run="toy")
    begun = next(event for event in read_events(run.events_path) if event["kind"] == "start")
    assert sum(row["trained"] for row in begun["modules"]) == run.record["parameters"]
    assert {row["frozen"] for row in begun["modules"]} == {0}
    found = json.loads(told(capsys, "explain-loss", str(run.path), "--json"))
    lines = [event for event in read_events(run.events_path) if event["kind"] == "train"]
    assert found["figures"]["targets"] == sum(line["tokens"] for line in lines)
    assert 6 * 4 * 32 * 2 * 0.8 < found["figures"]["targets"] <= 6 * 4 * (33 + 1) * 2  # PADs and ends, a little
    train_frames = sum(int(frames) for frames in pack.clips.frames[pack.split("train")])
    assert found["figures"]["epochs"] == pytest.approx(found["figures"]["targets"] / 2 / train_frames)
    assert found["figures"]["mean"]["random"] == pytest.approx(LN) and len(found["verdict"]) == 3
    assert found["missing"] == [] or all("(EOS)" in line for line in found["missing"])
    text = told(capsys, "explain-loss", str(run.path))
    assert "100.0 %" in text and "gone through" in text and "share" in text
    page = report(run.path).read_text()
    assert "Is that loss good?" in page and "The loss between its floors" in page


def test_no_torch_is_needed(tmp_path):
    pack = write(tmp_path / "pack", chain, clips=8, frames=300)
    run = logged(tmp_path, pack, CHAIN)
    code = (
        "import sys; from partimento.lab.explainloss.explain import explain_loss; "
        f"explain_loss({str(run.path)!r}); assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_there_is_no_run(tmp_path):
    with pytest.raises(PartimentoError) as caught:
        explain_loss(tmp_path)
    assert caught.value.code == "RUN001"
