"""What the tests of imports and exports share."""

from __future__ import annotations

import json

import numpy as np
import pytest

from partimento.errors import PartimentoError, explanations


def codes(frames, books=9, seed=0, cardinality=1024):
    return np.random.default_rng([seed, frames, books]).integers(0, cardinality, (frames, books))


def raises(code):
    assert code in explanations()
    return pytest.raises(PartimentoError, match=code)


def rejects(pack):
    lines = (pack / "rejects.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row["code"] in explanations() and row["reason"] for row in rows)
    return {row["file"]: row["code"] for row in rows}


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
