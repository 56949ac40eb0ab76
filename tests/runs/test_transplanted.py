"""The table of what experts were taken from: layers that are alike share a row, and others do not."""

from __future__ import annotations

from typing import Any

from partimento.runs.transplanted import HEAD, table


def row(layer: int, part: str, shape: tuple[int, int], origin: str | None, why: str = "") -> dict[str, Any]:
    return {"name": f"experts.{layer}.{part}.weight", "layer": layer, "shape": shape, "origin": origin, "why": why}


def told(rows: list[dict[str, Any]], unused: list[int], **other: Any) -> dict[str, Any]:
    report = {"source": "small", "rule": "the rule", "layers": 24, "rows": rows, "unused": unused}
    return {"folder": "models/small", "sha256": "0123456789abcdef", "replaced": 0, "report": report, **other}


def layers(count: int) -> list[dict[str, Any]]:
    rows = []
    for layer in range(count):
        rows.append(row(layer, "narrow", (1024, 2048), None, "random: no counterpart"))
        rows.append(row(layer, "up", (4096, 1024), f"decoder.layers.{layer}.fc1.weight"))
    return rows


def test_layers_that_are_alike_share_a_row() -> None:
    found = table(told(layers(16), list(range(16, 24))))
    assert found.rows == (
        ("0-15", "narrow", "1024 x 2048", "33.6 M", "random: no counterpart"),
        ("0-15", "up", "4096 x 1024", "67.1 M", "decoder.layers.0-15.fc1.weight"),
    )
    assert found.summary == (
        "16 of 32 tensors of the experts (67.1 M of 100.7 M numbers) are those of small; "
        "its layers 16-23 of 24 are not used"
    )
    assert found.prose == ("source: models/small, sha256 0123456789ab...", "rule: the rule")
    lines = found.lines()
    assert lines[2].split() == list(HEAD) and len(lines) == 5
    assert lines[2].index("shape") == lines[3].index("1024 x 2048") == lines[4].index("4096 x 1024")


def test_what_differs_stands_apart() -> None:
    rows = layers(6)
    rows[3]["origin"] = "decoder.layers.5.fc1.weight"  # layer 1 from another one
    rows[7] |= {"origin": None, "why": "missing"}  # layer 3
    rows[8]["shape"] = (1024, 4096)  # narrow of layer 4
    found = [(cells[0], cells[1], cells[-1]) for cells in table(told(rows, [])).rows]
    assert found == [
        ("0-3", "narrow", "random: no counterpart"),
        ("4", "narrow", "random: no counterpart"),
        ("5", "narrow", "random: no counterpart"),
        ("0", "up", "decoder.layers.0.fc1.weight"),
        ("1", "up", "decoder.layers.5.fc1.weight"),
        ("2", "up", "decoder.layers.2.fc1.weight"),
        ("3", "up", "missing"),
        ("4-5", "up", "decoder.layers.4-5.fc1.weight"),
    ]


def test_what_was_trained_before_is_said() -> None:
    assert "8 of these tensors" in table(told(layers(2), [], replaced=8)).prose[-1]
    assert "sha256" not in table(told(layers(2), [], sha256="")).prose[0]
