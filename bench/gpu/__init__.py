"""Checks that want a GPU; `bench/gpu.sh` runs them. Importing this makes the repository importable with torch alone."""

from gpu.standins import install

STAND_INS = install()
