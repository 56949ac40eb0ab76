"""Checkpoints by folder, short name and hub name; every way in which one can be broken is one coded error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from tinydac import save, tiny_dac

from partimento.codecs.codec import Codec, open_codec, open_like
from partimento.codecs.pretrained import CONFIG, SHORT, weights_hash
from partimento.errors import PartimentoError, explanations
from partimento.runs import hub


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dac")
    save(tiny_dac(44100), folder)
    return folder


def fails(code: str, call: Callable[[], object]) -> PartimentoError:
    with pytest.raises(PartimentoError) as caught:
        call()
    assert caught.value.code == code and code in explanations()
    assert caught.value.next
    return caught.value


def test_a_folder(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    codec = open_codec(str(checkpoint))
    assert codec.spec.codec == "dac-44k" and str(checkpoint) not in json.dumps(codec.spec.to_json())
    assert open_like(codec.spec, name=str(checkpoint)).spec == codec.spec
    assert capfd.readouterr() == ("", "")


def test_the_hash_is_of_names_shapes_and_numbers(checkpoint: Path, tmp_path: Path) -> None:
    found = open_codec(str(checkpoint)).spec.weights
    assert found == weights_hash(tiny_dac(44100)) and len(found) == 64
    one, two = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
    two.weight.data, two.bias.data = one.weight.data.reshape(2, 3), one.bias.data[:2]
    assert weights_hash(one) != weights_hash(two)
    other = tiny_dac(44100)
    other.decoder.conv2.bias.data[0] += 1e-6
    assert open_codec(save(other, tmp_path / "other")).spec.weights != found
    half = tiny_dac(44100).half()
    as_half = open_codec(save(half, tmp_path / "half"))
    assert as_half.spec.weights == weights_hash(half.float())  # read as float32, whatever is stored


def in_cache(home: Path, hub: str, checkpoint: Path) -> Path:
    repository = home / f"models--{hub.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    return Path(shutil.copytree(checkpoint, repository / "snapshots" / "0123abcd"))


def test_hub_names_come_from_the_cache(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    for name in ("dac-44k", "descript/dac_44khz", "someone/else"):
        error = fails("CODEC014", lambda name=name: open_codec(name))  # type: ignore[misc]
        assert f"hf download {SHORT[name].hub if name in SHORT else name}" in str(error.next)
    folder = in_cache(tmp_path, "descript/dac_44khz", checkpoint)
    assert hub.cached("descript/dac_44khz", CONFIG) == folder
    assert open_codec("dac-44k").spec == open_codec("descript/dac_44khz").spec == open_codec(str(checkpoint)).spec
    (folder / "model.safetensors").unlink()
    fails("CODEC016", lambda: open_codec("dac-44k"))


def test_names() -> None:
    assert hub.is_name("descript/dac_44khz")
    paths = ("dac-44k", "/abs/olute", "./here", "a/b/c", "~/x", "../x/y", "module:function", "a--b/c", "x.git/x.git")
    assert not any(map(hub.is_name, paths))


def test_published_rates() -> None:
    kbps = {name: round(one.kbps, 2) for name, one in SHORT.items()}
    assert kbps == {
        "dac-16k": 6.0,
        "dac-24k": 24.0,
        "dac-44k": 7.75,
        "encodec-24k": 6.0,
        "encodec-32k": 2.2,
        "mimi-24k": 1.1,
    }


def config(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def cut(size: int) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])

    return change


def only_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {"a": "b.safetensors"}}')


BROKEN = {
    "no config": ("CODEC013", lambda d: (d / "config.json").unlink()),
    "another kind of model": ("CODEC013", config(model_type="bert")),
    "no kind": ("CODEC013", config(model_type=["dac"])),
    "config is cut": ("CODEC015", lambda d: (d / "config.json").write_text("{")),
    "config is a list": ("CODEC015", lambda d: (d / "config.json").write_text("[]")),
    "config is not text": ("CODEC015", lambda d: (d / "config.json").write_bytes(b"\xff\xfe{}")),
    "config is deep": ("CODEC015", lambda d: (d / "config.json").write_text("[" * 100000)),
    "config is endless": ("CODEC015", lambda d: (d / "config.json").write_text(" " * 2_000_000)),
    "wider": ("CODEC015", config(encoder_hidden_size=8)),
    "beyond all memory": ("CODEC015", config(encoder_hidden_size=10**5, decoder_hidden_size=2**22)),
    "negative": ("CODEC015", config(encoder_hidden_size=-8)),
    "words": ("CODEC015", config(encoder_hidden_size="wide")),
    "no strides": ("CODEC015", config(downsampling_ratios=[])),
    "a stride of 0": ("CODEC015", config(downsampling_ratios=[2, 4, 8, 0])),
    "more books": ("CODEC015", config(n_codebooks=5)),
    "fewer books": ("CODEC015", config(n_codebooks=3)),
    "odd book": ("CODEC015", config(codebook_size=63)),
    "no rate": ("CODEC015", config(sampling_rate=0)),
    "weights belong to another family": ("CODEC015", config(model_type="encodec")),
    "weights are missing": ("CODEC016", lambda d: (d / "model.safetensors").unlink()),
    "a pickle": ("CODEC016", lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin")),
    "an index without its files": ("CODEC015", only_index),
    "no byte": ("CODEC017", cut(0)),
    "4 bytes": ("CODEC017", cut(4)),
    "half a header": ("CODEC017", cut(2000)),
    "all but the last byte": ("CODEC017", cut(-1)),
    "noise": ("CODEC017", lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 5000)),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_checkpoint_is_one_error(fault: str, checkpoint: Path, tmp_path: Path) -> None:
    code, damage = BROKEN[fault]
    folder = Path(shutil.copytree(checkpoint, tmp_path / "dac"))
    damage(folder)
    error = fails(code, lambda: open_codec(str(folder)))
    assert str(folder) in str(error.where)
    if fault == "a pickle":
        assert "save_pretrained" in str(error.next)


def test_a_damaged_number_is_another_codec(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "dac"))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert open_codec(str(folder)).spec.weights != open_codec(str(checkpoint)).spec.weights


def test_layout_and_books_of_a_checkpoint(checkpoint: Path) -> None:
    codec: Codec = open_codec(str(checkpoint), layout="mid-side", books=(4, 2))
    assert (codec.spec.layout, codec.spec.books, codec.spec.codebooks) == ("mid-side", (4, 2), 6)
    assert open_codec(str(checkpoint), books=(2,)).spec.cardinalities == (64, 64)
    fails("CODEC012", lambda: open_codec(str(checkpoint), books=(5,)))


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta", ""])
def test_unknown_device(device: str) -> None:
    fails("CODEC010", lambda: open_codec("resident-44k", device))
