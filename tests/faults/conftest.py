"""A pack and small models for the planted faults of the mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mot_planting import codes_toy, write_llama, write_musicgen, write_pack


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    """And the toy's codec, wherever one is opened."""
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: codes_toy.ToyCodec())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("data") / "pack")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder)
    return folder


@pytest.fixture(scope="session")
def musicgen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("musicgen")
    write_musicgen(folder, whole=False)
    return folder
