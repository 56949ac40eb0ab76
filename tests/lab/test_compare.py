"""Comparisons of runs whose truth is known: who is better, how sure that is, and what may not be compared."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from compare_fakes import make
from scipy import stats

from partimento.errors import PartimentoError
from partimento.lab.compared.cells import Cell
from partimento.lab.compared.compare import compare
from partimento.lab.compared.pairs import pairs
from partimento.runs import judged
from partimento.runs.events import EventLog
from partimento.runs.run import Run


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Hundreds of small files; what they hold is tested, not that they are durable."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def two(root, *, adds=0.0, noise=0.0, seeds=(0, 1, 2), **changes):
    given = changes or {"optim__lr": 0.002}
    runs = [make(root, f"a{seed}", seed=seed, noise=noise) for seed in seeds]
    return runs + [make(root, f"b{seed}", seed=seed, adds=adds, noise=noise, **given) for seed in seeds]


def test_a_difference_that_is_there_is_found_and_told(tmp_path):
    found = compare(two(tmp_path, adds=-12.0, noise=3.0))
    (pair,) = found.pairs
    assert [cell.name for cell in found.cells] == ["lr 0.001", "lr 0.002"]
    assert pair.basis == "clips and seeds" and pair.decided and pair.more_seeds == 0
    assert pair.interval.low < -12 < pair.interval.high
    assert re.fullmatch(r"lr 0.002 is better by 1\d\.\d+ ± \d\.\d+ bits/s: decided", pair.verdict)
    assert (pair.interval.n, pair.interval.seeds) == (8, 3)


def test_clips_and_seeds_that_both_have_take_their_own_differences_away(tmp_path):
    """Clips are 60 bits/s apart and seeds 50, which is much more than the difference."""
    runs = [make(tmp_path, f"a{seed}", seed=seed, seeds=50.0, noise=1.0) for seed in range(3)]
    runs += [make(tmp_path, f"b{seed}", seed=seed, seeds=50.0, noise=1.0, adds=5.0, optim__lr=0.1) for seed in range(3)]
    (pair,) = compare(runs).pairs
    assert pair.decided and pair.verdict.startswith("lr 0.001 is better by")


def in_memory(name, rng, adds=0.0, seeds=3, sources=8):
    """A cell of runs that are nowhere: seeds and clips that are apart, alike for all cells, and noise of each run."""
    cell = Cell({"x": name}, name=name)
    for seed in range(seeds):
        bits = 1000 + 40 * np.random.default_rng(seed).normal() + 30 * np.arange(sources) + adds
        bits = bits + rng.normal(0, 6) + rng.normal(0, 10, sources)
        who = [str(source) for source in range(sources)]
        items = judged.Items(
            who, who, [0] * sources, [1] * sources, {"bits_per_second": bits.tolist()}, {"bits_per_second": 1.0}
        )
        figures = SimpleNamespace(score="bits_per_second", values={"score": float(bits.mean())})
        kept = judged.Judged(1, "ema", "", items)
        cell.runs[seed] = SimpleNamespace(figures=figures, items=kept, unpaired=None, identity={}, settings={})
    return cell


@pytest.mark.parametrize(("adds", "least", "most"), [(0.0, 0, 4), (40.0, 20, 24)])
def test_what_is_decided_is_true_and_what_is_true_and_large_is_decided(adds, least, most):
    rng = np.random.default_rng(0)
    decided = 0
    for _ in range(24):
        (pair,) = pairs([(in_memory("a", rng), in_memory("b", rng, adds))])
        assert pair.decided == (pair.p < 0.05) == pair.interval.excludes_zero
        decided += pair.decided
    assert least <= decided <= most


def test_it_says_how_many_more_seeds_would_decide(tmp_path):
    runs = [make(tmp_path, f"a{seed}", seed=seed) for seed in (0, 1, 2)]
    runs += [make(tmp_path, f"b{seed}", seed=seed, adds=adds, optim__lr=0.1) for seed, adds in enumerate((-1, -9, -14))]
    (pair,) = compare(runs).pairs
    assert not pair.decided and pair.more_seeds >= 1
    assert pair.verdict.endswith(f"not decided; {pair.more_seeds} more seed" + "s" * (pair.more_seeds > 1))
    differences = np.array([-1, -9, -14])
    assert pair.spread.seeds == pytest.approx(differences.var(ddof=1), rel=1e-3)
    n, effect = pair.more_seeds + 3, differences.mean() / differences.std(ddof=1)
    bound, shift = stats.t.isf(0.025, n - 1), abs(effect) * np.sqrt(n)
    assert stats.nct.sf(bound, n - 1, shift) >= 0.79
    assert pair.effect_of_seeds.d == pytest.approx(effect, rel=1e-3)


def test_one_seed_decides_nothing(tmp_path):
    (pair,) = compare(two(tmp_path, adds=-30.0, noise=1.0, seeds=(0,))).pairs
    assert pair.basis == "clips" and not pair.decided and pair.adjusted is None and "second seed" in pair.verdict
    assert pair.effect.d < -5 and pair.signed_ranks == pytest.approx(2 / 2**8)


def test_without_figures_of_clips_whole_runs_are_paired_by_seed(tmp_path):
    runs = [make(tmp_path, f"a{seed}", seed=seed, kept=False, noise=9) for seed in range(4)]
    runs += [make(tmp_path, f"b{seed}", seed=seed, kept=False, noise=9, adds=3, optim__lr=0.1) for seed in range(4)]
    found = compare(runs)
    (pair,) = found.pairs
    assert pair.basis == "seeds" and "not kept" in pair.why
    theirs = stats.ttest_rel(found.cells[1].figure("score"), found.cells[0].figure("score"))
    assert pair.p == pytest.approx(theirs.pvalue) and pair.effect is None


def test_other_codes_of_the_same_clips_are_not_paired(tmp_path):
    runs = [make(tmp_path, "a"), make(tmp_path, "b", size=300.0, model__pattern="parallel")]
    found = compare(runs)
    (pair,) = found.pairs
    assert pair.basis == "seeds" and "train.valid_items" in pair.why and found.apart
    assert not {"loss", "spread", "entropy"} & set(found.shown)  # nats of other patterns say nothing


@pytest.mark.parametrize(
    ("other", "why"), [({"fingerprint": "cd"}, "held against different"), ({"codec": "x"}, "codecs differ")]
)
def test_other_data_and_other_codecs_get_no_verdict(tmp_path, other, why):
    runs = [
        make(tmp_path, f"{name}{seed}", seed=seed, **more)
        for seed in range(3)
        for name, more in (("a", {}), ("b", {"adds": -90.0, **other}))
    ]
    (pair,) = compare(runs).pairs
    assert (
        pair.basis == "apart"
        and why in pair.verdict
        and not pair.decided
        and "better" not in pair.verdict.split(",")[0]
    )


def test_three_cells_are_corrected_and_two_keys_are_held_apart(tmp_path):
    grid = [(lr, width) for lr in (0.1, 0.2) for width in (64, 128)]
    runs = [
        make(tmp_path, f"r{lr}-{width}-{seed}", seed=seed, optim__lr=lr, model__width=width, adds=width / 8, noise=2.0)
        for lr, width in grid
        for seed in range(3)
    ]
    found = compare(runs)
    assert len(found.pairs) == 4  # of six, those of one change
    assert all(pair.adjusted >= pair.p for pair in found.pairs)
    assert [pair.decided for pair in found.pairs] == [True, False, False, True]
    by = compare(runs, by="model.width")
    assert [pair.title for pair in by.pairs] == [
        f"width 128, lr {lr} against width 64, lr {lr}" for lr in (0.1, 0.2)
    ] or len(by.pairs) == 2
    with pytest.raises(PartimentoError, match="LAB073"):
        compare(runs, by="optim.warmup")


def test_a_seed_that_one_side_alone_has_is_left_out(tmp_path):
    runs = two(tmp_path, adds=-12.0, noise=2.0)
    (pair,) = compare(runs[:-1]).pairs
    assert pair.interval.seeds == 2 and "left out: 2" in pair.why


def test_what_cannot_be_compared_is_refused(tmp_path):
    restorer = make(tmp_path, "r", family="restore")
    run = make(tmp_path, "a")
    for given, code in (([run, restorer], "LAB071"), ([run], "LAB072"), ([tmp_path / "a" / "checkpoints"], "LAB070")):
        with pytest.raises(PartimentoError, match=code):
            compare(given)
    with pytest.raises(PartimentoError, match="RUN001"):
        compare([run, tmp_path / "nothing"])


def test_damaged_figures_of_clips_are_said_and_the_rest_compared(tmp_path):
    runs = two(tmp_path, adds=-12.0)
    judged.steps(runs[0])[100].write_text("{}")
    found = compare(runs)
    assert found.pairs[0].basis == "seeds" and any("RUN006" in note for note in found.notes)


def test_the_same_run_twice_is_one_and_a_repetition_is_noted(tmp_path):
    runs = two(tmp_path)
    again = make(tmp_path, "again", seed=0, steps=(50,))
    record = json.loads((again / "run.json").read_text())
    record["config"] = Run.open(runs[0]).record["config"]
    (again / "run.json").write_text(json.dumps(record))
    found = compare([*runs, runs[0], again])
    assert [len(cell.runs) for cell in found.cells] == [3, 3] and any(
        "again is left out" in note for note in found.notes
    )


def test_page_tables_and_document(tmp_path):
    runs = two(tmp_path / "runs", adds=-12.0, noise=3.0)
    compare([tmp_path / "runs"], to=tmp_path / "c.html", csv=tmp_path / "c.csv", docs=tmp_path / "c.md", command="it")
    page = (tmp_path / "c.html").read_text()
    assert "lr 0.002 is better by" in page.replace("Lr", "lr") and page.count("<svg") >= 3
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert len(rows) == len(runs) and {row["optim.lr"] for row in rows} == {"0.001", "0.002"}
    (pair,) = csv.DictReader((tmp_path / "c.pairs.csv").open())
    assert pair["decided"] == "True" and float(pair["low"]) < -12 < float(pair["high"])
    text = (tmp_path / "c.md").read_text()
    assert "## Lr 0.002 against lr 0.001" in text and "```\nit\n```" in text
    assert all(len(line) <= 120 for line in text.splitlines() if line[:1] != "|")


def test_what_a_hand_wrote_into_the_document_is_kept(tmp_path):
    page = tmp_path / "page.md"
    runs = [make(tmp_path, "a"), make(tmp_path, "b", adds=9.0, optim__lr=0.1)]
    compare(runs, docs=page)
    made = page.read_text()
    by_hand = f"\n\nThe question was  *whether*:\n\n- one\n    - two {'and so on ' * 20}\n\n"
    page.write_text(made.replace("again -->\n<!-- end", f"again -->{by_hand}<!-- end"))
    for _ in range(2):
        compare(runs, docs=page, command="another")
        text = page.read_text()
        assert f"again -->{by_hand}<!-- end" in text and "```\nanother\n```" in text and text.count("<!--") == 2
    page.write_text("# My own page")
    with pytest.raises(PartimentoError) as caught:
        compare(runs, docs=page)
    assert caught.value.code == "LAB079" and page.read_text() == "# My own page"


def test_what_is_the_same_in_every_run_stands_in_no_column(tmp_path):
    runs = [make(tmp_path, "a"), make(tmp_path, "b", adds=9.0, optim__lr=0.1)]
    found = compare(runs, docs=tmp_path / "page.md")
    assert found.alike["skipped"] == 0 and "skipped" not in found.varied and "score" in found.varied
    page = (tmp_path / "page.md").read_text()
    assert "The same in every run:" in page and "| skipped |" not in page


def test_models_that_are_no_better_than_counting_are_called_so(tmp_path):
    runs = [make(tmp_path, "a", seeds=0.0), make(tmp_path, "b", seeds=0.0, adds=-300.0, optim__lr=0.1)]
    assert not any("counting" in note for note in compare(runs).notes)  # nobody counted
    for run in runs:
        EventLog(run / "events.jsonl").append("baseline", 0, bigram_bits_per_second=850.0)
    (note,) = [note for note in compare(runs).notes if "counting" in note]
    assert "no cell" not in note and note.startswith(compare(runs).cells[0].name)
    for run in runs:
        EventLog(run / "events.jsonl").append("baseline", 0, bigram_bits_per_second=400.0)
    assert any(note.startswith("no cell is better than counting") for note in compare(runs).notes)
