"""The report is one page that works offline, hides nothing that is missing, and trusts no text."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from lab_fakes import finish_run, log_training, make_run, music, write_demos

from partimento.errors import PartimentoError
from partimento.lab import facts
from partimento.lab import report as report_module
from partimento.lab.report import report
from partimento.runs.events import EventLog
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter

VOID = {"meta", "img", "br", "link", "hr"}
ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Checks that tags nest; collects attributes and the text of each element."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.stack, self.attributes, self.texts, self.tags = [], [], [], []
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, (tag, self.stack[-3:])

    def handle_data(self, data):
        if data.strip() and self.stack[-1:] not in (["script"], ["style"]):
            self.texts.append(data.strip())

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def page(run):
    return Page(report(run.path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The report of a finished run, made once: (run, path of the page)."""
    run = finish_run(tmp_path_factory.mktemp("finished"))
    return run, report(run.path)


def test_everything_is_in_it(finished):
    run, path = finished
    assert path == run.path / "report.html"
    found = Page(path.read_text(encoding="utf-8"))
    for words in (
        "20260315_rvq_004_delay",
        "Delays help.",
        "6 layers of width 256, delay pattern, trained on the pack band.pack",
        "beats the bigram baseline",
        "At step 600 the averaged (EMA) weights need 5,390.1 bits for one second of held-out audio",
        "Original",
        "Codec reconstruction",
        "Temperature 0.5",
        "Temperature 1 raw weights guidance 1",
        "techno, 128 bpm",
        "band-0007, first 2 s",
        "a slow walk",
        "mean of 8 held-out windows of the same length entropy 4.80 used 19 % repeats 6.2 % silent 12 %",
        "T 0.5 · g 3",
        "Entropy of what was played, per codebook",
        "repeats itself",
        "low coverage",
        "clipping",
        "Cross entropy per codebook",
        "Output entropy per codebook",
        "Gradient norm",
        "Learning rate",
        "frames/s",
        "ab" * 32,
        "resident-44k",
        "threads",
        "step-000000600",
        "best on held-out windows",
        "step-000000500 is damaged",
        "partimento train",
        "partimento pack verify band.pack",
    ):
        assert words in found.text, words
    kinds = [tag for tag in found.tags if tag in ("audio", "svg", "img")]
    assert kinds.count("audio") == 9 and kinds.count("img") == 9 and kinds.count("svg") > 15


def test_ceiling_comes_first_and_temperatures_rise(finished):
    _, path = finished
    text = Page(path.read_text(encoding="utf-8")).text
    order = ["Original", "Codec reconstruction", "Temperature 0 EMA", "Temperature 0.5 EMA", "Temperature 1 EMA"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_it_reaches_for_nothing_outside(finished):
    _, path = finished
    text = path.read_text(encoding="utf-8")
    found = Page(text)
    for tag, name, value in found.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "poster"):
            assert value.startswith(("data:", "#")), (tag, name, value[:60])
        assert not name.startswith("on"), (tag, name)
    assert not re.search(r"https?://|//cdn|@import|fetch\(|XMLHttpRequest|type=.module", text)
    policy = next(v for t, n, v in found.attributes if n == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_sounds_are_the_files(finished):
    run, path = finished
    text = path.read_text(encoding="utf-8")
    inside = [base64.b64decode(code) for code in re.findall(r'src="data:audio/flac;base64,([^"]+)"', text)]
    files = [path.read_bytes() for path in run.demos_path.glob("*/*.flac")]
    assert sorted(inside) == sorted(files)


def test_no_torch_is_needed(run):
    code = (
        "import sys; from partimento.lab.report import report; "
        f"report({str(run.path)!r}); assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_no_text_becomes_markup(tmp_path):
    made = make_run(tmp_path, hypothesis=ATTACK, data={"pack": f"p{ATTACK}"}, demo={"prompts": [ATTACK]})
    (made.path / "notes.md").write_text(f"# {ATTACK}")
    log = EventLog(made.events_path)
    log.append("note", 1, text=ATTACK)
    log.append("end", 1, reason=ATTACK)
    folder = made.demos_path / "step-000000001"
    folder.mkdir(parents=True)
    soundfile.write(folder / "<marquee>a.flac", music(1, 0.5), 44100)
    entry = {
        "kind": "played",
        "file": "<marquee>a.flac",
        "words": {"tags": [ATTACK], "text": ATTACK},
        "weights": ATTACK,
        "temperature": 1.0,
        "seed": ATTACK,
        "clip": ATTACK,
    }
    continued = {**entry, "kind": "continuation", "prompt": ATTACK, "file": "none.flac"}
    missing = {"kind": ATTACK, "file": f"../../{ATTACK}.flac", "clip": ATTACK}
    (folder / "demos.json").write_text(json.dumps({"demos": [entry, continued, missing], "original_missing": ATTACK}))
    found = page(made)
    assert found.tags.count("script") == 1 and found.tags.count("img") == 1 and "marquee" not in found.tags
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert found.text.count("alert('x')") >= 6


def test_a_demo_cannot_name_a_file_outside_of_its_folder(tmp_path):
    made = make_run(tmp_path)
    secret = made.path / "secret.flac"
    soundfile.write(secret, music(1, 0.5), 44100)
    folder = made.demos_path / "step-000000001"
    folder.mkdir(parents=True)
    (folder / "demos.json").write_text(json.dumps({"demos": [{"kind": "played", "file": "../../secret.flac"}]}))
    found = page(made)
    assert "audio" not in found.tags and "the file secret.flac is missing" in found.text


def test_an_empty_run_says_what_is_missing(tmp_path):
    made = make_run(tmp_path, hypothesis=None)
    (made.path / "notes.md").unlink()
    text = page(made).text
    for words in (
        "no verdict",
        "No held-out measurement was logged",
        "has left no demos yet",
        "Not logged: no training step was recorded",
        "There are no checkpoints",
        "notes.md is missing",
        "none yet",
        "Hours, clips and tags are not shown",
    ):
        assert words in text, words
    assert "0.0 bit" not in text and "None" not in text and "nan" not in text.lower().split()


def test_missing_and_broken_parts_of_demos_are_named(run, monkeypatch):
    folder = run.demos_path / "step-000000600"
    (folder / "t0-ema.flac").unlink()
    (folder / "t0-raw.flac").write_bytes(b"fLaC no more")
    broken = run.demos_path / "step-000000500"
    broken.mkdir()
    (broken / "demos.json").write_text("{")
    (run.demos_path / "step-000000400").mkdir()
    (run.demos_path / "step-000000700.tmp").mkdir()
    found = page(run)
    assert "the file t0-ema.flac is missing" in found.text
    assert re.search(r"Nothing to hear: .*\(AUDIO\d{3}\)", found.text)
    assert "step-000000500/demos.json cannot be read" in found.text
    assert "step-000000400/demos.json cannot be read: it is missing" in found.text
    assert "step-000000700" not in found.text and "step 700" not in found.text
    assert found.tags.count("audio") == 7


def test_audio_over_the_budget_is_named(run, monkeypatch):
    size = (run.demos_path / "step-000000600" / "original.flac").stat().st_size
    write_demos(run, 300)
    monkeypatch.setattr(report_module, "AUDIO_BUDGET", 3 * size)
    found = page(run)
    assert 0 < found.tags.count("audio") < 9
    assert "left out for its size" in found.text and "step-000000300/original.flac" in found.text


def test_the_size_is_stated(finished):
    run, path = finished
    total = sum(path.stat().st_size for path in run.demos_path.glob("*/*.flac"))
    assert f"{total / 1e6:.1f} MB of audio inside" in Page(path.read_text(encoding="utf-8")).text


def test_a_run_that_is_behind_says_so(tmp_path):
    made = make_run(tmp_path)
    log_training(made, goal=0.99)
    text = page(made).text
    assert "does not beat the bigram baseline" in text and "beats neither" in text


def test_codebooks_table_has_the_last_numbers(finished):
    _, path = finished
    text = Page(path.read_text(encoding="utf-8")).text
    assert "9 5.300 6.200 6.640 14.5 % 5.150 6.540" in text


def test_skipped_steps_are_counted_once(finished):
    _, path = finished
    assert "skipped steps 1 " in Page(path.read_text(encoding="utf-8")).text  # the log carries a running count


def test_facts_of_a_pack_are_shown_only_if_it_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = CodecSpec("resident-44k", "0" * 64, 44100, Fraction(44100, 512), (1024,) * 9)
    writer = PackWriter(tmp_path / "band.pack", spec)
    for number in range(4):
        writer.add(np.full((861, 9), number), tags=[ATTACK, "piano"][: 1 + number % 2])
    pack = writer.finish()
    other = page(make_run(tmp_path / "other"))
    assert "is not the one of this run" in other.text and "piano" not in other.text
    found = page(make_run(tmp_path / "runs", fingerprint=pack.fingerprint))
    for words in (
        "0 min 40 s, 4 clips of 4 sources",
        "piano (2)",
        "9 books of 1024, 86.13 frames a second",
        "44,100 Hz",
    ):
        assert words in found.text, words
    assert found.tags.count("script") == 1


def test_another_family_shows_what_it_logged(tmp_path):
    made = make_run(tmp_path, family="codec", data={"band_loops": 400}, train={})
    log = EventLog(made.events_path)
    for step in (100, 200):
        log.append("train", step, loss=3.0 - step / 100, lr=1e-3, grad_norm=1.0, seconds=0.1, frames_per_second=100.0)
        log.append("valid", step, weights="ema", mel7=2.5 - step / 1000, used_share=0.9)
    text = page(made).text
    assert "mel distance 2.300" in text and "used share" in text and "400 loops of the synthetic band" in text
    assert "Cross entropy per codebook" not in text


def test_a_torn_log_and_a_gap_do_not_stop_it(run):
    log = EventLog(run.events_path)
    log.append("train", 610, loss=float("nan"), grad_norm=float("inf"), lr=1e-4, frames_per_second=1.0, skipped=2)
    with run.events_path.open("a") as stream:
        stream.write('{"kind": "train", "st\n{"kind": "tr')
    text = page(run).text
    assert "events.jsonl was torn" in text and "Log lines without a finite norm: 2" in text


def test_not_a_run(tmp_path):
    with pytest.raises(PartimentoError) as err:
        report(tmp_path)
    assert err.value.code == "RUN001"


def test_another_place(tmp_path):
    made, target = make_run(tmp_path / "runs"), tmp_path / "somewhere" / "page.html"
    assert report(made.path, target) == target and target.exists()
    assert not (made.path / "report.html").exists()


def test_a_silent_demo_is_flagged_and_has_no_made_up_level(tmp_path):
    made = make_run(tmp_path)
    folder = made.demos_path / "step-000000001"
    folder.mkdir(parents=True)
    soundfile.write(folder / "a.flac", np.zeros(44100, np.float32), 44100)
    (folder / "demos.json").write_text(json.dumps({"demos": [{"kind": "played", "file": "a.flac"}]}))
    text = page(made).text
    assert "silent 100 %" in text and "loudness undefined" in text and "peak silent" in text
    assert "Temperature not recorded" in text and "weights not recorded" in text and "guidance not recorded" in text


def test_what_was_trained_is_said_of_dia_and_of_published_weights(tmp_path) -> None:
    """Their pattern may be none in the configuration, and with weights its sizes are not those of the model."""
    made = facts.what(make_run(tmp_path / "a", family="dia"))
    assert "6 layers of width 256, delay pattern" in made and "None" not in made
    begun = facts.what(make_run(tmp_path / "b", family="dia", model={"weights": "w/musicgen"}))
    assert begun == "A code model that began as the weights musicgen, trained on the pack band.pack"
