"""Ranks on this machine: how `--nproc` starts them, what reaches them, and how they end.

PyTorch's own launcher (torchrun) works as well; both set the same environment. `spawn` differs where a training wants
more than it gives: every signal reaches the ranks, and there is no limit on the time of the save that follows (torchrun
kills after 30 seconds, and passes no SIGUSR1 and SIGUSR2 on, unless it is told to); a failure is told once, by the rank
that failed first; ranks whose launcher was killed notice it, save and end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from partimento.errors import PartimentoError
from partimento.training.ranks import place_here

REPORT = "PARTIMENTO_RANK_REPORT"  # file in which a rank that `spawn` started says why it ended
COMMAND = (sys.executable, "-m", "partimento")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE_SECONDS = 5.0  # after a failure: to the other ranks for ending by themselves, and again after SIGTERM


class reported:
    """Around the work of a rank: what ends it goes to the launcher, which shows it once, and not to the terminal.

    In a process that `spawn` did not start this does nothing.
    """

    def __init__(self) -> None:
        self.path = os.environ.get(REPORT)

    def __enter__(self) -> None:
        if self.path:
            Path(self.path).with_suffix(".here").touch()
            threading.Thread(target=_end_with_the_launcher, daemon=True).start()

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, _: TracebackType | None) -> None:
        if not self.path or not isinstance(err, Exception | KeyboardInterrupt):
            return
        if isinstance(err, KeyboardInterrupt):
            err = PartimentoError("SYS003", "interrupted", next="run the same command again")
        elif not isinstance(err, PartimentoError):
            trace = Path(self.path).with_suffix(".txt")
            trace.write_text("".join(traceback.format_exception(err)), encoding="utf-8", errors="backslashreplace")
            err = PartimentoError(
                "SYS001",
                f"an unexpected fault: {type(err).__name__}: {err}",
                where=str(trace),
                why="this is a defect in partimento; the file named above holds the trace",
            )
        text = json.dumps({"time": time.time(), **err.to_json()}, default=str)
        Path(self.path).write_text(text, encoding="utf-8")
        raise SystemExit(err.exit_status)


def _end_with_the_launcher() -> None:
    """Its end of our standard input closes when it is gone, however it died: then as if by SIGTERM, with a save."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def arguments(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    run: str | None = None,
    hypothesis: str | None = None,
    quiet: bool = False,
    as_json: bool = False,
) -> list[str]:
    """What follows `partimento` on the command line of a rank."""
    argv = ["train", str(config), *overrides, "--runs", str(runs)]
    argv += ["--run", run] if run is not None else []
    argv += ["--hypothesis", hypothesis] if hypothesis is not None else []
    return argv + ["--quiet"] * quiet + ["--json"] * as_json


def spawn(nproc: int, argv: Sequence[str], *, nodes: int = 1, node: int = 0, address: str = "", port: int = 0) -> int:
    """Run `partimento ARGV` in `nproc` ranks here, wait for all of them, and return 0.

    ARGV says no --nproc. Of several `nodes`, this is number `node`; they meet at address and port, on node 0. Rank 0
    has this terminal; what the others print goes to files, one of which is kept where it tells why something failed.

    Raises the error of the rank that failed first, as if this process had: coded ones as they are, SYS001 (a defect),
    SYS003 (after Ctrl-C, SIGTERM or SIGUSR2, when every rank has saved and ended), TRAIN034 (a rank was killed).
    """
    from datetime import timedelta

    if place_here() is not None:
        raise PartimentoError(
            "TRAIN030",
            "ranks cannot start ranks",
            why="the environment says that a launcher started this process as one of several",
            next="leave --nproc away under torchrun or srun",
        )
    from torch.distributed import TCPStore

    # The meeting point is held by this process, so no port has to be guessed and none can be taken in between.
    host = address or "127.0.0.1"
    store = (
        TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=15))
        if not node
        else None
    )
    folder = Path(tempfile.mkdtemp(prefix="partimento-ranks-"))
    shared = {
        "WORLD_SIZE": nodes * nproc,
        "LOCAL_WORLD_SIZE": nproc,
        "MASTER_ADDR": host,
        "MASTER_PORT": store.port if store else port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", max(1, len(os.sched_getaffinity(0)) // nproc)),
    }
    ranks = _Ranks(folder, [node * nproc + local for local in range(nproc)])
    with ranks.signals():
        for local, rank in enumerate(ranks.numbers):
            own = {"RANK": rank, "LOCAL_RANK": local, REPORT: ranks.report(rank)}
            ranks.start(rank, argv, {name: str(value) for name, value in {**shared, **own}.items()})
        ranks.wait()
    err = ranks.error()
    if err is None or str(folder) not in str(err.where):
        shutil.rmtree(folder)
    if err is not None:
        raise err
    return 0


class _Ranks:
    """The processes of one `spawn`."""

    def __init__(self, folder: Path, numbers: Sequence[int]) -> None:
        self.folder, self.numbers = folder, numbers
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.asked: list[str] = []  # signals that came to us
        self.ended_by_us: set[int] = set()

    def report(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.json"

    def log(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.log"

    def start(self, rank: int, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        with contextlib.ExitStack() as files:
            out = None if rank == 0 else files.enter_context(self.log(rank).open("wb"))
            # A session of its own, so that the terminal's Ctrl-C comes to us alone and is passed on once.
            self.processes[rank] = subprocess.Popen(
                [*COMMAND, *argv],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._pass_on_missed(rank)

    def _pass_on_missed(self, rank: int) -> None:
        if any(name != "SIGUSR1" for name in self.asked):
            self.processes[rank].terminate()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Pass signals on to the ranks. (In the main thread; elsewhere Python delivers none.)"""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # SIGUSR1 asks for a save only, and would end a rank that is still importing: ranks begin by ignoring it.
        before: dict[int, Any] = {number: signal.signal(number, self._on_signal) for number in FORWARDED}
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: Any) -> None:
        name = signal.Signals(number).name
        self.asked.append(name)
        kill = self.asked.count("SIGINT") >= 3  # the second drops the save; the third does not ask any more
        for rank, process in self.processes.items():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if kill else self._fit(rank, number))

    def _fit(self, rank: int, number: int) -> int:
        """A rank that is still importing has nothing to save, and a Ctrl-C would only make it print a trace."""
        return number if self.report(rank).with_suffix(".here").exists() else signal.SIGTERM

    def wait(self) -> None:
        """Until all have ended. A failed one leaves the others GRACE_SECONDS to notice by themselves, then they are
        ended; after a request to stop they have all the time that their save takes."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, self._on_signal)
        failed_at: float | None = None
        steps = [(GRACE_SECONDS, signal.SIGTERM), (2 * GRACE_SECONDS, signal.SIGKILL)]
        while any(process.poll() is None for process in self.processes.values()):
            if failed_at is None and any(self._failed(rank) for rank in self.numbers):
                failed_at = time.monotonic()
            while failed_at is not None and steps and time.monotonic() - failed_at > steps[0][0]:
                _, number = steps.pop(0)
                for rank, process in self.processes.items():
                    if process.poll() is None:
                        self.ended_by_us.add(rank)
                        process.send_signal(number)
            time.sleep(0.05)

    def _failed(self, rank: int) -> bool:
        status = self.processes[rank].poll()
        if status in (None, 0):
            return False
        report = self._read(rank)
        return report["code"] != "SYS003" if report else not self._by_request(rank)

    def _by_request(self, rank: int) -> bool:
        """Whether a rank died of a signal that we passed on, before it could handle it."""
        status = self.processes[rank].poll() or 0
        return -status in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2) and bool(self.asked)

    def error(self) -> PartimentoError | None:
        """The cause, from what the ranks said or did not say: an error of its own before a death, before a defect,
        before a stop, before the loss of another rank; of the same kind the first."""
        found: list[tuple[int, float, PartimentoError]] = []
        for rank, process in self.processes.items():
            if not process.returncode:
                continue
            report = self._read(rank)
            if report:
                code = report["code"]
                order = {"SYS001": 2, "SYS003": 3, "TRAIN038": 4}.get(code, 0)
                fields = {name: report[name] for name in ("where", "why", "next")}
                context = {**report["context"], "signals": self.asked}
                if code == "SYS003":
                    if (fields["next"] or "").startswith("partimento train "):
                        fields["next"] += f" --nproc {len(self.numbers)}"
                    report["time"] = rank  # all say it, and the first knows what was saved
                found.append((order, report["time"], PartimentoError(code, report["message"], **fields, **context)))
            elif self._by_request(rank):
                next_ = "run the same command again"
                found.append((3, 1e9, PartimentoError("SYS003", "interrupted", next=next_, signals=self.asked)))
            elif rank not in self.ended_by_us:
                found.append((1, 0.0, self._died(rank, process.returncode)))
        return min(found, key=lambda entry: entry[:2])[2] if found else None

    def _died(self, rank: int, status: int) -> PartimentoError:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        log = self.log(rank)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
        why = "the system kills what uses more memory than there is" if status == -signal.SIGKILL else None
        return PartimentoError(
            "TRAIN034",
            f"rank {rank} {how}",
            where=str(log) if lines else None,
            why=lines[-1] if lines and status > 0 else why,
            next="run the same command again; it continues from the last checkpoint",
        )

    def _read(self, rank: int) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self.report(rank).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
