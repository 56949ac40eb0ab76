"""The walls of the house: a floor imports only from the floors under it, and showing a run never imports a model."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import partimento

SOURCE = Path(partimento.__file__).parent
# From the ground up. Names without a folder are modules.
FLOORS = [
    {"errors", "keyed", "commit", "progress", "isolated", "explanations"}
    | {"config", "settings", "code_settings", "sound_settings"},
    {"models"},
    {"audio"},
    {"tokens"},
    {"waveform"},
    {"sampling"},
    {"runs"},
    {"codecs"},
    {"training"},
    {"play"},
    {"lab"},
    {"road"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PURE = {"models", "waveform", "sampling"}


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("partimento"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("partimento.")}
    return found & set(FLOOR)


def test_a_floor_imports_only_from_floors_under_it() -> None:
    wrong = []
    for file in SOURCE.rglob("*.py"):
        room = file.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in {"__init__", "__main__"}:
            continue
        assert room in FLOOR, f"{file} is in no floor of the house"
        wrong += [f"{file.name}: {room} -> {o}" for o in imports(file) if FLOOR[o] > FLOOR[room]]
    assert wrong == []


def test_models_know_no_files_and_no_configuration() -> None:
    wrong = []
    for room in PURE:
        for file in (SOURCE / room).rglob("*.py"):
            forbidden = {"config", "settings", "code_settings", "sound_settings", "commit", "runs", "codecs"}
            wrong += [f"{room}/{file.name} -> {o}" for o in imports(file) & forbidden]
    assert wrong == []


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(m for m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    loaded = loaded_after("from partimento.cli.main import cli; cli.main(['--help'], standalone_mode=False)")
    assert not loaded & {"torch", "numpy", "pyarrow", "pydantic", "matplotlib", "soundfile", "rich"}


def test_a_report_never_imports_a_model() -> None:
    loaded = loaded_after("import partimento.lab.report, partimento.runs.run, partimento.runs.events")
    assert "torch" not in loaded and not any(m.startswith("partimento.models") for m in loaded)


def test_nothing_pickles() -> None:
    wrong = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                names = [f"torch.{node.attr}"]
            wrong += [
                f"{file.name}: {n}" for n in names if n in {"pickle", "dill", "cloudpickle", "torch.save", "torchaudio"}
            ]
    assert wrong == []
