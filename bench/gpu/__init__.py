"""Checks that want a GPU; `bench/gpu.sh` runs them. Importing this makes the repository importable with torch alone."""

import importlib.util
import sys

if importlib.util.find_spec("torch") is None:
    print(f"{sys.executable} has no torch; name another interpreter: PYTHON=... bench/gpu.sh", file=sys.stderr)
    raise SystemExit(2)

from gpu.standins import install

MISSING, STAND_INS = install()
