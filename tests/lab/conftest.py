from __future__ import annotations

from pathlib import Path

import pytest
from lab_fakes import finish_run

from partimento.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run with everything in it, to be changed by the test."""
    return finish_run(tmp_path / "runs")
