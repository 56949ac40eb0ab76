"""Kill -9 during encode: no torn file is ever visible, and the pack ends byte-identical. See bench/kill_encode.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "kill_encode.py"


@pytest.mark.parametrize("kills, files", [(2, 16), pytest.param(50, 48, marks=pytest.mark.slow)])
def test_killed_encodes_end_in_the_same_pack(kills, files):
    """As many kills of a plain encode, and of one of two that share the work."""
    counts = ["--kills", str(kills), "--claim-kills", str(kills), "--files", str(files)]
    done = subprocess.run(
        [sys.executable, BENCH, *counts, "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == 2 * kills and result["completed"] >= 2
    assert result["identical"] and result["differing_files"] == 0
