"""Every code that the source raises is explained, every explanation is raised, and errors keep their shape."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest

import partimento
from partimento.errors import EXIT_STATUS, PartimentoError, explanations

SOURCE = Path(partimento.__file__).parent


def codes_in_source() -> set[str]:
    found: set[str] = set()
    for file in SOURCE.rglob("*.py"):
        found |= set(re.findall(r"[\"']([A-Z]{3,7}\d{3})[\"']", file.read_text()))
    return found


def test_codes_raised_are_the_codes_explained() -> None:
    raised, explained = codes_in_source(), set(explanations())
    assert raised - explained == set(), "raised but not explained"
    assert explained - raised == set(), "explained but never raised"


@pytest.mark.parametrize("code", sorted(explanations()))
def test_explanation_is_complete(code: str) -> None:
    entry = explanations()[code]
    assert entry.kind in EXIT_STATUS
    assert len(entry.title) > 10 and len(entry.text) > 60
    assert re.fullmatch(r"[A-Z]{3,7}\d{3}", code)


def test_an_error_has_one_shape() -> None:
    err = PartimentoError("SYS004", "no such folder", where="music/", why="it was moved", next="ls", folder="music")
    assert str(err).splitlines() == [
        "error[SYS004]: no such folder",
        "  where: music/",
        "  why:   it was moved",
        "  next:  ls",
        "  more:  partimento explain SYS004",
    ]
    assert json.loads(json.dumps(err.to_json()))["context"] == {"folder": "music"}
    assert err.exit_status == EXIT_STATUS["input"]


def test_an_error_crosses_process_borders() -> None:
    # multiprocessing sends exceptions by pickle; nothing of ours is ever stored in that form
    err = PartimentoError("SYS004", "no such folder", where="music/", next="ls", folder="music")
    back = pickle.loads(pickle.dumps(err))
    assert back.to_json() == err.to_json()
