"""Claims: one unit, one process; what a dead one held is free at once here, and after the lease elsewhere."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from partimento.codecs import claims
from partimento.codecs.claims import Claims


@pytest.fixture
def pack(tmp_path):
    (tmp_path / "pack").mkdir()
    return tmp_path / "pack"


def names(pack):
    return sorted(path.name for path in (pack / "claims").iterdir())


def test_a_unit_is_claimed_once_and_free_after_its_release(pack):
    with Claims(pack) as one, Claims(pack) as other:
        assert one.take(3) and not other.take(3) and other.take(4)
        assert names(pack) == ["000003", "000004"]
        other.release(3)  # not its own
        assert not other.take(3)
        one.release(3)
        assert other.take(3)
    assert not (pack / "claims").exists()


def test_of_many_that_ask_at_once_one_gets_it(pack):
    got, ready = [], threading.Barrier(8)

    def ask():
        with Claims(pack) as mine:
            for number in range(40):
                ready.wait()
                if mine.take(number):
                    got.append(number)
            ready.wait()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(40))


def other_process(pack, number, then):
    script = f"""
from pathlib import Path
from partimento.codecs.claims import Claims
claims = Claims(Path({str(pack)!r})).__enter__()
print(claims.take({number}), flush=True)
{then}
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "True"
    return process


@pytest.mark.parametrize("reaped", [True, False])
def test_what_a_killed_process_held_is_free_at_once(pack, reaped):
    process = other_process(pack, 7, "import time; time.sleep(600)")
    with Claims(pack) as mine:
        assert not mine.take(7)
        process.send_signal(signal.SIGKILL)
        if reaped:
            process.wait()
        else:  # a zombie is as dead
            while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
        assert mine.take(7)
        process.wait()
    assert not (pack / "claims").exists()


def write_claim(pack, number, content, age):
    (pack / "claims").mkdir(exist_ok=True)
    path = pack / "claims" / f"{number:06d}"
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))


@pytest.mark.parametrize(
    ("age", "free"), [(0, False), (claims.LEASE_SECONDS - 20, False), (claims.LEASE_SECONDS + 20, True)]
)
def test_another_machines_claim_holds_for_the_lease(pack, age, free):
    owner = {"host": "elsewhere", "pid": os.getpid(), "began": "1", "token": "x"}
    write_claim(pack, 1, json.dumps(owner).encode(), age)
    with Claims(pack) as mine:
        assert mine.take(1) is free


def test_a_living_process_that_was_silent_loses_its_claim_and_a_reused_pid_too(pack):
    with Claims(pack) as mine, Claims(pack) as other:
        assert other.take(1) and other.take(2)
        old = time.time() - claims.LEASE_SECONDS - 20
        os.utime(pack / "claims/000001", (old, old))
        assert mine.take(1) and not mine.take(2)
        other.release(1)  # it is not its own any more
        assert names(pack) == ["000001", "000002"]
        owner = json.loads((pack / "claims/000002").read_text())
        (pack / "claims/000002").write_text(json.dumps({**owner, "began": "long ago"}))
        assert mine.take(2)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 3}'])
def test_a_claim_that_names_nobody_is_soon_free(pack, content):
    write_claim(pack, 1, content, 0)
    write_claim(pack, 2, content, 10)
    with Claims(pack) as mine:
        assert not mine.take(1) and mine.take(2)


def test_claims_are_kept_alive_and_a_finished_pack_needs_none(pack, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with Claims(pack) as mine:
        mine.take(1)
        path = pack / "claims/000001"
        os.utime(path, (1, 1))
        while path.stat().st_mtime < time.time() - 60:
            time.sleep(0.01)
        path.unlink()
        (pack / "claims").rmdir()  # the one who finished the pack cleans up
        assert mine.take(2)


def test_a_thief_that_is_too_late_puts_the_claim_back(pack, monkeypatch):
    """Between its judgement and its rename, another process took the dead claim over."""
    write_claim(pack, 1, b'{"host": "elsewhere", "pid": 1, "began": "1", "token": "x"}', 600)
    with Claims(pack) as mine, Claims(pack) as other:
        judge = mine._is_dead

        def slowly(claim, silent):
            assert other.take(1)
            return judge(claim, silent)

        monkeypatch.setattr(mine, "_is_dead", slowly)
        assert not mine.take(1)
        monkeypatch.undo()
        assert json.loads((pack / "claims/000001").read_text())["token"] == other._token
        assert names(pack) == ["000001"]
