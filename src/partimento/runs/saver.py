"""Saving beside the training: what a step waits for is the copy to host memory; hashing and writing happen meanwhile.

The state is copied into memory that no step touches, since training goes on changing the weights while they are
written. One thread then commits as `checkpoint.save` does. A process that ends normally waits for it; one that is
killed leaves a temporary folder that no reader looks at. The copies are kept from save to save, so a run needs host
memory for its state once more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partimento import commit
from partimento.runs import checkpoint
from partimento.runs.events import plain

Done = Callable[[Path], None]


class Saver:
    """Saves checkpoints below `folder`, one at a time, in a thread of its own. To be used by one thread.

    A save that failed is told by the next `submit`, `settle` or `wait`, with the very error of `checkpoint.save`
    (SYS002 for a full disk); after that the saver goes on as if it had not been asked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")  # joined when the interpreter ends
        self._going: tuple[Future[Path], Done | None] | None = None
        self._finished: list[Path] = []
        self._host: dict[tuple[str, str], Tensor] = {}

    def submit(
        self,
        step: int,
        parts: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        done: Done | None = None,
        after: Done | None = None,
    ) -> None:
        """Copy what is to be saved, and return while it is written; an earlier save is waited for first.

        `after(path)` runs in the thread once the checkpoint is committed: work on files that the training need not wait
        for (archives, pruning). `done(path)` runs later, on the thread that calls `submit`, `settle` or `wait`.
        Raises what an earlier save raised; nothing is copied then, and the call can be made again.
        """
        self.wait()
        now = json.loads(commit.record_bytes(plain(state)))  # the counters go on counting
        self._going = self._thread.submit(self._commit, step, self._copied(parts), now, after), done

    def wait(self) -> None:
        """Return when nothing is being written any more. A Ctrl-C in here loses nothing: the thread writes on."""
        if self._going is None:
            return
        future, done = self._going
        while wait([future], timeout=1).not_done:
            pass  # the main thread has to wake up for a signal that another thread received
        self._going = None
        path = future.result()
        self._finished.append(path)
        if done is not None:
            done(path)

    def settle(self) -> list[Path]:
        """What was finished since the last call, without waiting for a save under way."""
        if self._going is not None and self._going[0].done():
            self.wait()
        finished, self._finished = self._finished, []
        return finished

    def _commit(
        self, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], after: Done | None
    ) -> Path:
        path = checkpoint.save(self.folder, step, parts, state)
        if after is not None:
            after(path)
        return path

    @torch.no_grad()
    def _copied(self, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Every tensor in host memory of its own: that of the save before, where it fits."""
        host: dict[tuple[str, str], Tensor] = {}
        devices: set[torch.device] = set()
        for part, tensors in parts.items():
            for name, tensor in tensors.items():
                own = self._host.get((part, name))
                if own is None or own.shape != tensor.shape or own.dtype != tensor.dtype:
                    own = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
                # From a GPU into pinned memory the copies run one after another without the host, waited for below.
                own.copy_(tensor, non_blocking=tensor.is_cuda)
                host[part, name] = own
                if tensor.is_cuda:
                    devices.add(tensor.device)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        self._host = host
        return {part: {name: host[part, name] for name in tensors} for part, tensors in parts.items()}
