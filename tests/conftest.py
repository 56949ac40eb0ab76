"""One thread a process: small models gain nothing from more, and the results of a test do not depend on the machine."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start

import torch

torch.set_num_threads(1)
