"""Faults of data, planted in small packs and in runs of them, and healthy ones of which nothing is said."""

import functools
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))

import codes_toy

from partimento.config import parse
from partimento.lab.doctor import data
from partimento.lab.doctor.data import amount, crops, nulls
from partimento.lab.doctor.data.seen import Seen
from partimento.lab.doctor.finding import LIKELY
from partimento.lab.doctor.patient import Patient
from partimento.runs.events import EventLog
from partimento.runs.run import Run
from partimento.tokens import shards
from partimento.tokens.clips import ClipRow
from partimento.tokens.places import Places
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import finish, shard_file
from partimento.training.engine import train

K, V = 3, 64
SPEC = CodecSpec("fake", "0" * 64, 8000, Fraction(50), (V,) * K)
STEREO = CodecSpec("fake", "0" * 64, 8000, Fraction(50), (V,) * 4, "left-right", (2, 2))
SIDED = CodecSpec("fake", "0" * 64, 8000, Fraction(50), (V,) * 4, "mid-side", (2, 2))
CHAIN = np.random.default_rng(99).dirichlet(np.full(V, 0.06), V)
"""What may follow each code: few codes, so that the code before tells much."""


def music(*args, **how):
    return _music(*args, **how).copy()


@functools.cache
def _music(seed, frames=500, books=K, codes=V):
    """A chain in the first book; the others follow it, with some chance."""
    rng = np.random.default_rng(seed)
    ends = CHAIN[:codes, :codes].cumsum(axis=1)
    walk, at = [], int(rng.integers(codes))
    for chance in rng.random(frames):
        at = min(codes - 1, int(np.searchsorted(ends[at], chance * ends[at, -1])))
        walk.append(at)
    shifts = np.where(rng.random((frames, books)) < 0.7, 0, rng.integers(0, codes, (frames, books)))
    return ((np.asarray(walk)[:, None] + np.arange(books) + shifts) % codes).astype(np.uint16)


def write_pack(path, train, valid, *, spec=SPEC, tags=(), sources=None, shared=False):
    """Clips t0, t1, ... in the training split and v0, v1, ... in the other."""
    named = [(f"t{n}", "train", codes) for n, codes in enumerate(train)]
    named += [(f"v{n}", "valid", codes) for n, codes in enumerate(valid)]
    rows, at = [], 0
    for clip, split, codes_TK in named:
        source = "t0" if shared and clip == "v0" else clip
        samples = spec.samples(len(codes_TK))
        rows.append(ClipRow(clip, source, 0, at, len(codes_TK), samples, split, tags=tuple(tags)))
        at += len(codes_TK)
    made = shards.write(path, shard_file(0), [codes for _, _, codes in named], spec.cardinalities)
    return finish(path, spec, rows, [made], keep_splits=True)


def healthy_clips(count=24, first=0, **how):
    return [music(first + n, **how) for n in range(count)]


def make_run(tmp_path, pack, *, parameters=3000, hypothesis=None, log=(), **sections):
    """The record and the log of a run of this pack; `log` are (kind, step, values)."""
    tree = {
        "family": "rvq",
        "data": {"pack": str(pack.path), "window": 64},
        "model": {"width": 32, "layers": 2, "heads": 2},
        "optim": {"batch": 4, "warmup": 2},
        "train": {"steps": 400},
    }
    for name, values in sections.items():
        tree[name] |= values
    extra = {"identity": {"fingerprint": pack.fingerprint}, "parameters": parameters}
    run = Run.create(tmp_path / "runs", parse(tree), run_id="r", hypothesis=hypothesis, extra=extra)
    events = EventLog(run.events_path)
    for kind, step, values in log:
        events.append(kind, step, **values)
    return Patient.open(run.path)


def named(patient):
    """The disease of each finding, with its confidence."""
    return {one.disease: one.confidence for one in data.examine(patient).findings}


def likely(patient):
    return {name for name, confidence in named(patient).items() if confidence >= LIKELY}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pack"
    return write_pack(path, healthy_clips(), healthy_clips(12, 100), tags=["piano"])


def test_a_healthy_pack_is_said_to_be_fine(tmp_path, healthy):
    found = data.examine(make_run(tmp_path, healthy))
    assert found.findings == ()
    told = " ".join(found.fine)
    for word in ("no noise", "stand still", "one channel", "Training shows", "No source, file or passage", "all over"):
        assert word in told
    assert any("log" in one for one in found.missing)  # which has not a line


def test_uniform_codes_are_noise(tmp_path):
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, V, (500, K)).astype(np.uint16) for _ in range(24)]
    found = named(make_run(tmp_path, write_pack(tmp_path / "pack", clips[:16], clips[16:])))
    assert found["noise_data"] >= 0.9


def test_shuffled_frames_are_noise(tmp_path):
    """As frequent as in music, and without order."""
    rng = np.random.default_rng(0)
    clips = [rng.permutation(codes) for codes in healthy_clips(30)]
    assert "noise_data" in likely(make_run(tmp_path, write_pack(tmp_path / "pack", clips[:20], clips[20:])))


def test_some_clips_of_noise_are_named(tmp_path):
    rng = np.random.default_rng(0)
    clips = healthy_clips(20)
    for number in range(5):
        clips[number] = rng.integers(0, V, (500, K)).astype(np.uint16)
    patient = make_run(tmp_path, write_pack(tmp_path / "pack", clips, healthy_clips(6, 100)))
    (found,) = [one for one in data.examine(patient).findings if one.disease == "noise_data"]
    assert found.confidence >= LIKELY and found.where == "t0"


def test_the_log_alone_tells_noise(tmp_path, healthy):
    """The pack is gone; counting, the model and a guess cost the same."""
    guess = [math.log(V)] * K
    log = [
        ("baseline", 0, {"unigram_ce_K": guess, "bigram_ce_K": guess, "data_entropy_K": guess}),
        ("valid", 10, {"weights": "raw", "ce_K": guess, "bits_per_second": 50 * sum(guess) / math.log(2)}),
    ]
    patient = make_run(tmp_path, healthy, log=log)
    patient.__dict__["_pack"] = (None, "the pack is gone")
    patient.record.spec["cardinalities"] = [V] * K
    found = data.examine(patient)
    assert {one.disease for one in found.findings} == {"noise_data"}
    assert "doctor-noise" in found.findings[0].evidence[0].chart
    assert any("the pack is gone" in one and "silence" in one for one in found.missing)


def test_short_tunes_of_even_codes_are_no_noise(tmp_path):
    """Too short to deny an order, and even enough to look as if drawn alike: but their order is plain."""
    rng = np.random.default_rng(0)
    clips = [(np.arange(90)[:, None] * stride + rng.integers(V) + np.arange(K)) % V for stride in (1, 3, 5, 7, 9, 11)]
    assert "noise_data" not in named(make_run(tmp_path, write_pack(tmp_path / "a", clips[:4], clips[4:])))
    noisy = [rng.integers(0, V, (200, K)) if number < 3 else clip for number, clip in enumerate(clips)]
    assert "noise_data" in likely(make_run(tmp_path / "b", write_pack(tmp_path / "b" / "pack", noisy[:4], noisy[4:])))


@pytest.mark.parametrize(("share", "sure"), [(0.1, False), (0.5, True)])
def test_silence_in_the_data(tmp_path, share, sure):
    clips = healthy_clips()
    for codes in clips:
        codes[: int(share * len(codes))] = 7
    patient = make_run(tmp_path, write_pack(tmp_path / "pack", clips, healthy_clips(8, 100)))
    assert ("silent_share" in likely(patient)) == sure
    assert named(patient)["silent_share"] > 0


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("spec", [STEREO, SIDED], ids=["left-right", "mid-side"])
def test_copied_channels(tmp_path, spec, copied):
    clips = healthy_clips(20, books=4)
    if copied:
        for codes in clips:
            codes[:, 2:] = codes[:, :2] if spec is STEREO else 5
    patient = make_run(tmp_path, write_pack(tmp_path / "pack", clips[:14], clips[14:], spec=spec))
    assert ("copied_channels" in likely(patient)) == copied


def test_codes_that_training_never_shows(tmp_path):
    clips, held = healthy_clips(codes=48), healthy_clips(8, 100)
    patient = make_run(tmp_path, write_pack(tmp_path / "pack", clips, held))
    (found,) = [one for one in data.examine(patient).findings if one.disease == "unseen_codes"]
    assert found.confidence >= LIKELY and found.where.startswith("book")
    assert "<svg" in found.evidence[0].chart


def test_a_small_pack_that_shows_few_codes_is_a_remark(tmp_path):
    """Halves of its training clips have as many codes of their own."""
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, V, (25, K)).astype(np.uint16) for _ in range(4)]
    found = named(make_run(tmp_path, write_pack(tmp_path / "pack", clips[:3], clips[3:]), data={"window": 16}))
    assert 0 < found["unseen_codes"] < LIKELY


def test_three_sources_do_not_tell_what_is_usual(tmp_path):
    clips, held = healthy_clips(3, codes=48), healthy_clips(8, 100)
    patient = make_run(tmp_path, write_pack(tmp_path / "pack", clips, held))
    (found,) = [one for one in data.examine(patient).findings if one.disease == "unseen_codes"]
    assert found.confidence < LIKELY and "too few (3)" in found.evidence[1].text


def with_noise(codes, share, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(codes.shape) < share, rng.integers(0, V, codes.shape), codes).astype(np.uint16)


def test_near_copies_under_other_sources_leak(tmp_path):
    clips, held = healthy_clips(), healthy_clips(8, 100)
    for number in range(4):
        held[number] = with_noise(clips[2 * number], 0.05)[40:440]
    patient = make_run(tmp_path, write_pack(tmp_path / "pack", clips, held))
    (found,) = [one for one in data.examine(patient).findings if one.disease == "leaking_split"]
    assert found.confidence >= 0.8 and found.where in ("v0", "v1", "v2", "v3")
    assert "4 of them" in found.evidence[0].text


def test_a_source_on_both_sides_leaks(tmp_path):
    patient = make_run(tmp_path, write_pack(tmp_path / "pack", healthy_clips(), healthy_clips(8, 100), shared=True))
    assert named(patient)["leaking_split"] >= 0.9


def test_music_that_repeats_itself_everywhere_is_no_leak(tmp_path):
    loop = music(1, 50)
    clips = [with_noise(np.tile(loop, (10, 1)), 0.03, n) for n in range(32)]
    found = data.examine(make_run(tmp_path, write_pack(tmp_path / "pack", clips[:24], clips[24:])))
    assert "leaking_split" not in {one.disease for one in found.findings}
    assert any("stands out as a copy" in one for one in found.fine)


def alone(look, *args):
    """The confidences of one examiner."""
    return {one.disease: one.confidence for one in look(*args).findings}


def test_few_data_for_a_large_model(tmp_path, healthy):
    def found(folder, parameters, **how):
        return alone(amount.examine, Seen(make_run(tmp_path / folder, healthy, parameters=parameters, **how)))

    assert found("a", 5_000_000)["tiny_data"] >= LIKELY
    assert 0 < found("b", 5_000_000, hypothesis="It overfits one clip.")["tiny_data"] < LIKELY
    assert found("c", 100_000) == {}


def test_windows_that_all_begin_with_their_clip(tmp_path, healthy):
    patient = make_run(tmp_path, healthy, data={"begin_share": 1.0})
    (found,) = data.examine(patient).findings
    assert (found.disease, found.where) == ("fixed_crops", "step 0 of every clip")
    assert found.confidence >= 0.9 and "<svg" in found.evidence[0].chart
    for share in (0.5, 0.6, 0.8):
        chosen = Seen(make_run(tmp_path / str(share), healthy, data={"begin_share": share}))
        assert 0 < alone(crops.examine, chosen, healthy)["fixed_crops"] < LIKELY
    few = Seen(make_run(tmp_path / "c", healthy, data={"begin_share": 0.2}))
    assert alone(crops.examine, few, healthy) == {}


def test_clips_of_one_window_are_no_fixed_crops(tmp_path):
    clips = healthy_clips(20, frames=64)
    found = data.examine(make_run(tmp_path, write_pack(tmp_path / "pack", clips[:14], clips[14:])))
    assert "fixed_crops" not in {one.disease for one in found.findings}
    assert any("one window" in one for one in found.fine)


def trained(tmp_path, pack, **sections):
    config = codes_toy.config(pack, demo={"temperatures": []}, **sections)
    return Patient.open(train(config, runs=tmp_path / "runs").path)


def test_a_real_training_counts_the_targets_of_its_draw(tmp_path):
    pack = codes_toy.write_pack(tmp_path / "pack")
    patient = trained(tmp_path, pack, train={"steps": 24})
    found = data.examine(patient)
    assert not {one.disease for one in found.findings if one.confidence >= LIKELY}
    assert any("saw the windows that its draw gives" in one for one in found.fine)
    assert any("conditions were dropped as was asked" in one for one in found.fine)


def test_crops_at_frame_0_are_told_by_the_log_when_the_program_is_right_again(tmp_path, monkeypatch):
    """The defect is gone, its run is still there."""
    pack = codes_toy.write_pack(tmp_path / "pack")
    define = Places.define
    with monkeypatch.context() as patch:
        patch.setattr(Places, "define", lambda self, i, attempt=0: (define(self, i, attempt)[0], np.zeros_like(i)))
        patient = trained(tmp_path, pack, train={"steps": 24})
    (found,) = [one for one in data.examine(patient).findings if one.disease == "fixed_crops"]
    assert found.confidence >= 0.9 and "The log counts" in found.evidence[0].text


def test_dropped_conditions_are_held_against_what_was_asked_for(tmp_path, healthy):
    def lines(share):
        return [("train", step, {"loss": 3.0, "null_share": share}) for step in range(10, 401, 10)]

    def found(folder, share):
        return alone(nulls.examine, Seen(make_run(tmp_path / folder, healthy, log=lines(share))), healthy)

    assert found("a", 0.1) == {}
    assert found("b", 0.9)["null_share_off"] >= 0.8


def test_a_damaged_pack_is_missing_and_not_fine(tmp_path):
    pack = write_pack(tmp_path / "pack", healthy_clips(), healthy_clips(8, 100))
    file = pack.path / "shards" / "000000.bin"
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(bytes(content))
    found = data.examine(make_run(tmp_path, pack))
    assert sum("PACK004" in one for one in found.missing) >= 4
    assert not any("stand still" in one for one in found.fine)


def test_of_a_large_pack_a_bounded_amount_is_read(tmp_path, healthy, monkeypatch):
    monkeypatch.setattr("partimento.lab.doctor.data.seen.TRAIN_FRAMES", 2000)
    found = data.examine(make_run(tmp_path, healthy))
    assert found.findings == () and any("16 of 36 clips" in one for one in found.fine)


def test_what_was_not_searched_for_copies_is_missing(tmp_path, healthy, monkeypatch):
    monkeypatch.setattr("partimento.lab.doctor.data.leak.FRAMES", 4000)
    found = data.examine(make_run(tmp_path, healthy))
    assert any("in 8 of 24 training clips" in one for one in found.fine)
    assert any("copies of training clips: of 16 training clips" in one for one in found.missing)


def test_a_checkpoint_alone_is_held_against_its_pack(tmp_path):
    pack = codes_toy.write_pack(tmp_path / "pack")
    snapshot = trained(tmp_path, pack).newest
    found = data.examine(Patient.open(snapshot.path))
    assert not {one.disease for one in found.findings if one.confidence >= LIKELY}
    assert any("all over their clips" in one for one in found.fine)
    assert any("a checkpoint has no log" in one for one in found.missing)


def test_a_family_of_sound_has_no_pack(tmp_path):
    config = parse({"family": "codec"})
    run = Run.create(tmp_path, config, run_id="c", extra={"identity": {}})
    found = data.examine(Patient.open(run.path))
    assert found.findings == () and found.fine == ()
    assert any("no pack" in one for one in found.missing)
