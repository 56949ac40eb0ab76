"""The memorisation audit on small packs with copies that were planted in samples, and without."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from memorised_fakes import RATE, SPEC, Levels, changed, music, write_pack

from partimento import commit
from partimento.audio import files
from partimento.cli.memorised import command
from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.lab.memorised import memorised
from partimento.lab.memorised.ears import Ears
from partimento.runs.run import Run
from partimento.tokens import npq

TRAIN, VALID, FRAMES = 30, 24, 500
COPY = 2 * RATE  # frames


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """30 training clips and 24 held-out clips of 5 s."""
    path = tmp_path_factory.mktemp("memorised") / "pack"
    return write_pack(path, [music(i, FRAMES) for i in range(TRAIN)], [music(1000 + i, FRAMES) for i in range(VALID)])


def played(folder, **samples):
    folder.mkdir(exist_ok=True)
    for name, codes_TK in samples.items():
        np.save(folder / f"{name}.npy", codes_TK)
    return folder


def with_copy(share=0.0, clip=7, first=120, at=60, length=COPY):
    codes_TK = music(99, 400)
    codes_TK[at : at + length] = changed(music(clip, FRAMES)[first : first + length], share)
    return codes_TK


def by_name(audit):
    return {one.name.removesuffix(".npy"): one for one in audit.samples}


def test_a_copy_of_two_seconds_is_found_with_clip_and_offset(tmp_path, pack):
    samples = played(tmp_path / "in", copied=with_copy(), own=music(50, 400), other=music(51, 400))
    audit = memorised(samples, against=pack.path)
    found = by_name(audit)
    for run in found["copied"].runs.values():
        assert (run.clip, run.clip_frame, run.sample_frame) == ("t7", 120, 60) or run.frames > COPY
        assert run.frames == pytest.approx(COPY, abs=3)
        assert run.clip_second == pytest.approx(1.2, abs=0.03)
    assert found["copied"].near.clip == "t7"
    assert found["copied"].memorised and found["copied"].holm < 1e-6
    assert not found["own"].memorised and not found["other"].memorised
    assert audit.verdict == "memorised"
    assert re.match(
        r"Memorised: 1 of 3 samples holds training music; copied.npy holds 2\.0. s of t7 from 0:01.", audit.sentence
    )


@pytest.mark.parametrize("share", [0.05, 0.15])
def test_a_copy_with_changed_codes_is_found_by_alignment(tmp_path, pack, share):
    audit = memorised(played(tmp_path / "in", copied=with_copy(share), own=music(50, 400)), against=pack.path)
    one = by_name(audit)["copied"]
    assert one.near.clip == "t7"
    assert one.near.clip_frame - one.near.sample_frame == 60
    assert one.near.seconds == pytest.approx(2.0, abs=0.1)
    assert one.near.clip_second == pytest.approx(1.2, abs=0.1)
    assert one.memorised and one.holm < 0.001
    assert one.runs["all books"].frames < COPY / 2


def test_a_copy_that_was_cut_and_shifted_is_one_alignment(tmp_path, pack):
    codes_TK = with_copy()
    codes_TK = np.concatenate([codes_TK[:150], codes_TK[153:]])  # three frames are left out in the middle
    audit = memorised(played(tmp_path / "in", copied=codes_TK), against=pack.path)
    (one,) = audit.samples
    assert one.near.clip == "t7" and one.near.path.count("d") == 3
    assert one.near.seconds == pytest.approx(1.97, abs=0.05)


def test_held_out_clips_are_not_memorised(tmp_path, pack):
    clips = {f"v{i}": music(1000 + i, FRAMES)[:400] for i in range(10)}
    audit = memorised(played(tmp_path / "in", **clips), against=pack.path)
    assert audit.verdict == "not" and audit.sentence.startswith("Not memorised")
    assert all(one.holm > 0.05 and not one.memorised for one in audit.samples)
    assert audit.null.clips == VALID and audit.null.frames == 400
    assert audit.warnings == []


def test_p_values_of_held_out_music_are_not_small_too_often(tmp_path, pack):
    """Music of the same kind that is in no split: the p-value of one sample is under 0.2 in about a fifth of them, and
    in no more than that where four figures share it."""
    samples = {f"s{i}": music(2000 + i, 400) for i in range(40)}
    audit = memorised(played(tmp_path / "in", **samples), against=pack.path)
    assert sum(one.p <= 0.2 for one in audit.samples) <= 14
    assert min(one.holm for one in audit.samples) > 0.05


def test_silence_is_no_copy(tmp_path):
    """All clips begin with 2 s of silence, and so does the sample."""

    def silent(seed):
        codes_TK = music(seed, FRAMES)
        codes_TK[:COPY] = 3
        return codes_TK

    train, valid = [silent(i) for i in range(20)], [silent(100 + i) for i in range(20)]
    pack = write_pack(tmp_path / "pack", train, valid)
    audit = memorised(played(tmp_path / "in", one=silent(500)[:400]), against=pack.path)
    (one,) = audit.samples
    assert audit.verdict == "not"
    assert max(one.values.values()) < 20
    assert one.informs < 0.5
    empty = memorised(played(tmp_path / "empty", one=np.full((300, 3), 3)), against=pack.path)
    assert any("silence" in text for text in empty.warnings)
    assert empty.verdict == "not"


def test_it_warns_where_the_null_is_not_a_null(tmp_path):
    train = [music(i, FRAMES) for i in range(20)]
    valid = [music(1000 + i, FRAMES) for i in range(6)]
    valid[2] = changed(train[3], 0.1)
    pack = write_pack(tmp_path / "pack", train, valid, shared=True)
    audit = memorised(played(tmp_path / "in", one=music(50, 400)), against=pack.path)
    assert audit.null.shared_sources == ["t0"] and audit.null.leaks == ["v2"]
    told = "\n".join(audit.warnings)
    assert "6 held-out clips, fewer than 20" in told
    assert "share 1 source(s)" in told and "t0" in told
    assert "near-duplicates" in told and "v2" in told


def test_without_held_out_clips_there_is_no_p_value(tmp_path):
    pack = write_pack(tmp_path / "pack", [music(i, FRAMES) for i in range(10)], [])
    audit = memorised(played(tmp_path / "in", one=with_copy()), against=pack.path)
    (one,) = audit.samples
    assert audit.verdict == "unknown" and audit.sentence.startswith("Cannot say")
    assert "2.0" in audit.sentence and "t7" in audit.sentence
    assert one.p is None and one.holm is None and one.memorised is None
    json.dumps(audit.to_json(), allow_nan=False)


def test_samples_longer_than_the_held_out_clips_are_judged_as_many_windows(tmp_path):
    train = [music(i, FRAMES) for i in range(20)]
    pack = write_pack(tmp_path / "pack", train, [music(1000 + i, 100) for i in range(30)])
    audit = memorised(played(tmp_path / "in", one=music(50, 900)), against=pack.path)
    (one,) = audit.samples
    assert audit.null.frames == 100
    for value in one.p_values.values():
        assert value.rank == pytest.approx(1 - (1 - (1 + value.reached) / (1 + value.n)) ** 9)
    assert any("more than twice as long" in text for text in audit.warnings)


def test_npq_files_are_samples_too(tmp_path, pack):
    file = npq.NpqFile(with_copy(), (64,) * 3, 100.0, 0.0, 3, 0, "mono", "npq1")
    npq.write(tmp_path / "a.npq", file, version="npq1")
    audit = memorised(tmp_path / "a.npq", against=pack.path)
    assert audit.samples[0].near.clip == "t7"


@pytest.fixture
def run(tmp_path, pack, monkeypatch):
    """A run with demos of two steps; only the newest hold a copy, one of them behind a prompt."""
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: Levels())
    tree = {"family": "rvq", "data": {"pack": str(pack.path)}}
    made = Run.create(tmp_path, parse(tree), run_id="demo_run", extra={"identity": {"fingerprint": pack.fingerprint}})
    for step in (10, 20):
        folder = made.demos_path / f"step-{step:09d}"
        folder.mkdir(parents=True)
        sounds = {"original": music(1000, 300), "a": with_copy() if step == 20 else music(60, 400), "b": music(61, 400)}
        sounds["c"] = np.concatenate([music(3, FRAMES)[:200], music(62, 400)])  # 2 s of t3 were given
        items = []
        for name, codes_TK in sounds.items():
            files.write(folder / f"{name}.flac", Ears(SPEC).sound(codes_TK), SPEC.sample_rate)
            item = {
                "file": f"{name}.flac",
                "kind": "played",
                "words": {"tags": ["jazz"], "text": ""},
                "temperature": 1.0,
            }
            item |= {"original": {"kind": "original"}, "c": {"kind": "continuation", "prompt_seconds": 2.0}}.get(
                name, {}
            )
            items.append(item)
        commit.record(folder / "demos.json", {"schema": 2, "step": step, "demos": items})
    return made


def test_a_run_is_audited_by_its_newest_demos_against_its_own_pack(run):
    audit = memorised(run.path)
    found = {one.name: one for one in audit.samples}
    assert set(found) == {"a.flac", "b.flac", "c.flac"}
    assert "step-000000020" in audit.what
    assert found["a.flac"].memorised and found["a.flac"].near.clip == "t7"
    assert found["a.flac"].prompt == "jazz"
    assert not found["c.flac"].memorised  # the prompt is not what was played
    assert found["c.flac"].frames == 400
    assert audit.null.heard and audit.null.kept_K == [1.0, 1.0, 1.0]


def test_a_run_of_another_pack_is_refused(run, tmp_path):
    record = json.loads((run.path / "run.json").read_text())
    record["identity"]["fingerprint"] = "ab" * 32
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(PartimentoError, match="LAB042"):
        memorised(run.path)
    assert memorised(run.path, against=record["config"]["data"]["pack"]).verdict == "memorised"


def test_what_cannot_be_audited_is_coded(tmp_path, pack, run):
    def refused(code, *paths, **options):
        with pytest.raises(PartimentoError) as err:
            memorised(*paths, **options)
        assert err.value.code == code

    one = played(tmp_path / "in", one=music(50, 400))
    refused("LAB041", one)  # no pack
    refused("LAB041", run.path, one, against=pack.path)
    refused("LAB041", (tmp_path / "in2").mkdir() or tmp_path / "in2", against=pack.path)
    refused("SYS004", tmp_path / "nothing", against=pack.path)
    empty = Run.create(tmp_path, parse({"family": "rvq", "data": {"pack": "x"}}), run_id="silent")
    refused("LAB043", empty.path)
    for name, codes in (
        ("books", np.zeros((400, 2), int)),
        ("high", np.full((400, 3), 64)),
        ("real", np.zeros((400, 3))),
    ):
        refused("LAB046", played(tmp_path / name, a=codes), against=pack.path)
    played(one, short=music(1, 20), high=np.full((400, 3), 64))
    audit = memorised(one, against=pack.path)
    assert {item["name"]: item["error"]["code"] for item in audit.failed} == {
        "short.npy": "LAB045",
        "high.npy": "LAB044",
    }
    assert len(audit.samples) == 1


def test_command_says_it_in_the_first_sentence(tmp_path, pack):
    samples = played(tmp_path / "in", copied=with_copy(), own=music(50, 400))
    out = CliRunner().invoke(command, [str(samples), "--against", str(pack.path), "-q"], catch_exceptions=False)
    assert out.exit_code == 0 and out.output.startswith("Memorised: 1 of 2 samples holds training music; copied.npy")
    found = CliRunner().invoke(command, [str(samples), "--against", str(pack.path), "-q", "--json"])
    tree = json.loads(found.stdout)
    assert tree["verdict"] == "memorised" and len(tree["samples"]) == 2
    assert tree["samples"][0]["p_values"]["near-copy"]["n"] == VALID


def test_page_names_clip_and_time_and_loads_nothing(tmp_path, run):
    memorised(run.path, to=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "t7" in page and "0:01.20" in page and "memorised, p" in page
    assert page.count("data:audio/flac") >= 2
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_the_same_audit_twice_is_the_same(tmp_path, pack):
    samples = played(tmp_path / "in", copied=with_copy(0.1), own=music(50, 900))
    one, two = (memorised(samples, against=pack.path).to_json() for _ in range(2))
    assert json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
