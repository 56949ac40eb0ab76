"""Ablations: the grid, what is repeated and what goes on, one failure among others, a kill in between."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from partimento.config import load
from partimento.errors import PartimentoError
from partimento.lab.ablation import state
from partimento.lab.ablation.ablate import ablate
from partimento.lab.ablation.grid import budget_of, grid, varied
from partimento.lab.ablation.local import Local

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import codes_toy

EXPERIMENTS = Path(__file__).parents[2] / "configs" / "experiments"


@pytest.fixture
def config(tmp_path):
    pack = codes_toy.write_pack(tmp_path / "pack")
    made = codes_toy.config(pack, demo={"temperatures": []}, train={"valid_items": 1000, "steps": 8})
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(made.model_dump(mode="json")))
    return path


def test_values_are_toml_words_or_null():
    assert varied("model.pattern=delay,[0, 0, 1],'a,b'") == ("model.pattern", ["delay", [0, 0, 1], "a,b"])
    assert varied("adversary.start=null,0") == ("adversary.start", [None, 0])
    assert varied("optim.lr=1e-3, 2e-3")[1] == [0.001, 0.002] and varied("optim.adagc=true,false")[1] == [True, False]
    for wrong in ("model.pattern", "pattern=a", "model.pattern=a,,b", "model.pattern=[0,1", "model.width=8,8", "=a"):
        with pytest.raises(PartimentoError, match="LAB074"):
            varied(wrong)


def test_the_grid_is_every_combination_with_every_seed_and_names_say_the_change():
    file = EXPERIMENTS / "ablation_gan.toml"
    vary = ["optim.name=adamw,muon", "adversary.start=null,0", "train.precision=fp32,bf16"]
    made = grid(file, vary, range(3), ["train.steps=50"], {})
    assert len(made) == len({one.name for one in made}) == 24
    assert made[0].name == "name-adamw_start-none_precision-fp32_seed-0"
    last = made[-1].config
    assert (last.optim.name, last.adversary.start, last.train.precision, last.train.seed) == ("muon", 0, "bf16", 2)
    assert made[0].config.adversary.start is None and last.train.steps == 50
    assert [one.seed for one in made[:8]] == [0] * 8  # whole comparisons early


def test_the_delays_of_the_ablation_are_its_cells():
    patterns = "model.pattern=delay,dia,[0, 0, 1, 1, 2, 2, 3, 3, 4],parallel"
    made = grid(EXPERIMENTS / "ablation_delay.toml", [patterns], range(2), (), budget_of("20"))
    assert [one.config.model.pattern for one in made[:4]] == ["delay", "dia", [0, 0, 1, 1, 2, 2, 3, 3, 4], "parallel"]
    assert all(one.config.train.steps == 20 for one in made)
    assert load(EXPERIMENTS / "ablation_delay.toml").train.valid_items == 1_000_000


def test_names_stay_apart_and_what_is_wrong_is_refused(config):
    long = [f"[{', '.join(['0'] * 40)}, {last}]" for last in (1, 2)]
    names = [one.name for one in grid(config, [f"loss.codebook_weights={','.join(long)}"], range(1), (), {})]
    assert len(set(names)) == 2 and all(len(name) < 80 for name in names)
    signs = [one.name for one in grid(config, ["demo.prompts=['a b'],['a_b']"], range(1), (), {})]
    assert len(set(signs)) == 2
    for vary, code in (("train.seed=1,2", "LAB074"), ("model.widht=8", "CONFIG002"), ("optim.lr=fast", "CONFIG003")):
        with pytest.raises(PartimentoError, match=code):
            grid(config, [vary], range(1), (), {})
    with pytest.raises(PartimentoError, match="varied twice"):
        grid(config, ["optim.lr=1.0", "optim.lr=2.0"], range(1), (), {})


def test_budgets():
    assert budget_of("400") == budget_of("400 steps") == {"train.steps": 400}
    assert budget_of("1.5min") == {"train.max_minutes": 1.5} and budget_of(None) == {}
    for wrong in ("0", "1.5", "fast", "3 hours", "-4"):
        with pytest.raises(PartimentoError, match="LAB075"):
            budget_of(wrong)


def test_a_dry_run_plans_and_leaves_nothing(config, tmp_path):
    made = ablate(config, vary=["model.width=32,64"], seeds=2, to=tmp_path / "abl", dry_run=True)
    assert set(made.status.values()) == {"waiting"} and not (tmp_path / "abl").exists()
    assert [plan.runs for plan in made.plans] == [2, 2]
    assert made.plans[1].parameters > made.plans[0].parameters and all(plan.disk_bytes for plan in made.plans)


def test_threads_and_gpus_are_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    four = Local(tmp_path, 4, ["0", "GPU-b"])
    assert [four.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["0", "GPU-b", "0", "GPU-b"]
    assert four.environment(0)["OMP_NUM_THREADS"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in Local(tmp_path, 1).environment(0)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """In place of `partimento`: a process that does what its run is called."""
    script = tmp_path / "work.py"
    script.write_text(
        "import json, os, signal, sys, time\n"
        "name = sys.argv[1]\n"
        "if 'bad' in name:\n"
        "    json.dump({'code': 'SYS002', 'message': 'full'}, open(os.environ['PARTIMENTO_RANK_REPORT'], 'w'))\n"
        "    sys.exit(4)\n"
        "if 'held' in name and not os.path.exists('free'):\n"
        "    json.dump({'code': 'RUN003', 'message': 'trained'}, open(os.environ['PARTIMENTO_RANK_REPORT'], 'w'))\n"
        "    if name == 'held': open('free', 'w').close()\n"
        "    sys.exit(2)\n"
        "if 'dead' in name: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if 'slow' in name:\n"
        "    open(name + '.here', 'w').close(); time.sleep(60)\n"
        "open(name, 'w').close()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("partimento.lab.ablation.local.COMMAND", (sys.executable, str(script)))
    (tmp_path / "logs").mkdir()
    return tmp_path


class Named:
    def __init__(self, name):
        self.name = name


def test_one_failure_leaves_the_others_alone(work):
    told = {}
    local = Local(work, 2, told=lambda one, error: told.update({one.name: error}))
    local.all([Named(name) for name in ("good1", "bad", "dead", "good2")], lambda one: [one.name])
    assert told["good1"] is told["good2"] is None and (work / "good1").exists() and (work / "good2").exists()
    assert local.failed.keys() == {"bad", "dead"}
    assert "full (SYS002)" in local.failed["bad"] and "SIGKILL" in local.failed["dead"]


def test_a_run_that_a_killed_ablation_still_saves_is_waited_for(work, monkeypatch):
    """Its process lives a little longer than the ablation that started it, and has the run's lock."""
    monkeypatch.setattr("partimento.lab.ablation.local.AGAIN_SECONDS", 0.1)
    told, notes = [], []
    local = Local(work, 1, told=lambda one, error: told.append((one.name, error)), note=notes.append)
    local.all([Named("held"), Named("good")], lambda one: [one.name])
    assert sorted(told) == [("good", None), ("held", None)] and not local.failed and len(notes) == 1
    monkeypatch.setattr("partimento.lab.ablation.local.HELD_SECONDS", 0.0)
    (work / "free").unlink()
    local.all([Named("held2"), Named("good2")], lambda one: [one.name])
    assert local.failed.keys() == {"held2"} and "RUN003" in local.failed["held2"] and (work / "good2").exists()


def test_a_request_to_stop_reaches_every_process_and_starts_no_other(work):
    import threading

    def stop():
        while not (work / "slow1.here").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    local = Local(work, 1)
    with pytest.raises(PartimentoError, match="SYS003"):
        local.all([Named("slow1"), Named("next")], lambda one: [one.name])
    thread.join()
    assert not local.failed and not (work / "next").exists()


@pytest.mark.slow
def test_a_killed_ablation_goes_on_repeats_nothing_and_compares(config, tmp_path):
    root, vary = tmp_path / "abl", "model.pattern=delay,parallel"
    options = ["--vary", vary, "--seeds", "2", "--to", str(root), "--quiet", "--json"]
    argv = [sys.executable, "-m", "partimento", "ablate", str(config), "train.save_every=2", *options]
    first = subprocess.Popen(argv, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    ended = root / "pattern-delay_seed-0" / "events.jsonl"
    while not (ended.exists() and '"end"' in ended.read_text()):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.1)
    first.kill()  # its processes notice, save and end
    first.wait()
    before = ended.read_bytes()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {run["status"] for run in found["runs"]} == {"finished"} and not found["failed"]
    assert ended.read_bytes() == before
    (pair,) = found["comparison"]["pairs"]
    assert pair["basis"] == "clips and seeds" and pair["interval"]["seeds"] == 2
    cells = found["comparison"]["cells"]
    assert [cell["changes"] for cell in cells] == [{"model.pattern": "delay"}, {"model.pattern": "parallel"}]
    for name in ("compare.html", "compare.csv", "compare.pairs.csv", "compare.json", "ablation.json"):
        assert (root / name).is_file()
    with pytest.raises(PartimentoError, match="LAB076"):
        ablate(config, ["optim.lr=0.5"], vary=[vary], seeds=2, to=root, dry_run=True)


def test_where_a_run_is_from_its_folder(config, tmp_path, monkeypatch):
    from partimento.runs.events import EventLog
    from partimento.runs.run import Run

    monkeypatch.setattr("os.fsync", lambda handle: None)
    (planned,) = grid(config, ["optim.lr=0.5"], range(1), (), {})
    assert state.status(tmp_path, planned) == ("waiting", None)
    log = EventLog(Run.create(tmp_path, planned.config, run_id=planned.name).events_path)
    log.append("start", 0)
    assert state.status(tmp_path, planned) == ("interrupted", None)  # killed
    for reason, want in (("TRAIN004", "failed"), ("interrupted", "interrupted"), ("finished", "finished")):
        log.append("end", 4, reason=reason)
        assert state.status(tmp_path, planned) == (want, reason)
    log.append("resume", 4)
    assert state.status(tmp_path, planned)[0] == "interrupted"
    (other,) = grid(config, ["optim.lr=0.5"], range(1), ["optim.warmup=3"], {})
    with pytest.raises(PartimentoError, match="LAB076"):
        state.status(tmp_path, other)
