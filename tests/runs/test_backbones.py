"""A Llama is read whole or refused, a MusicGen gives its feed-forwards, and a prompt has its BOS exactly once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_models import BOS, LETTERS, WORDS, write_llama, write_musicgen, write_tokenizer

from partimento.errors import PartimentoError
from partimento.runs import backbones
from partimento.runs.backbones import SHAPES, read_llama, read_musicgen_feedforwards, require_llama
from partimento.runs.directories import open_directory
from partimento.tokens.subwords import SubwordText, tokenizer
from partimento.tokens.text import NO_WORDS, Words

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama") / "small"
    return folder, write_llama(folder)


@pytest.fixture
def copied(llama, tmp_path):
    return Path(shutil.copytree(llama[0], tmp_path / "copy"))


@functools.cache
def read_llama_once(folder):
    return read_llama(folder)


def refused(code, call):
    with pytest.raises(PartimentoError) as caught:
        call()
    assert caught.value.code == code, caught.value
    return caught.value


def change(folder, name, make):
    """Rewrites the weights with one tensor changed; None takes it out."""
    state = load_file(folder / WEIGHTS)
    value = make(state.get(name))
    state = {**state, name: value} if value is not None else {n: v for n, v in state.items() if n != name}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def test_a_llama_is_read_whole(llama):
    folder, model = llama
    found = read_llama(folder)
    config = found.config
    assert (config.vocabulary, config.width, config.layers, config.heads, config.kv_heads) == (WORDS, 16, 2, 4, 2)
    assert config.tied and config.bos == WORDS - 2 and config.rope_scaling["factor"] == 8.0
    assert found.sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    state = {n: v for n, v in model.state_dict().items() if n != "lm_head.weight"}
    assert set(found.tensors) == set(state) and found.apart == ()
    assert all(torch.equal(found.tensors[name], value) for name, value in state.items())


def test_several_files_are_read_by_their_index(tmp_path, llama):
    folder = tmp_path / "sharded"
    model = write_llama(folder, shard="4KB", tie_word_embeddings=False)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2
    found = read_llama(folder)
    assert not found.config.tied and torch.equal(found.tensors["lm_head.weight"], model.lm_head.weight)
    assert set(found.tensors) == set(model.state_dict())
    printed = "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)
    assert found.sha256 == hashlib.sha256(printed.encode()).hexdigest()

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    first, other = files[0].name, files[1].name
    moved = {name: other if place == first else place for name, place in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": moved}))
    assert "is not in it" in refused("WEIGHTS021", lambda: read_llama(folder)).why
    with_two = next(f.name for f in files if list(index["weight_map"].values()).count(f.name) > 1)
    tensor = next(name for name, place in index["weight_map"].items() if place == with_two)
    moved = {**index["weight_map"], tensor: next(f.name for f in files if f.name != with_two)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": moved}))
    assert f"{tensor} is not" in refused("WEIGHTS021", lambda: read_llama(folder)).why
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    files[0].unlink()
    assert "not beside it" in refused("WEIGHTS021", lambda: read_llama(folder)).why


@pytest.mark.parametrize(
    ("name", "make", "why"),
    [
        ("model.layers.1.mlp.up_proj.weight", lambda value: None, "is missing"),
        ("model.layers.1.mlp.up_proj.bias", lambda value: torch.zeros(24), "is left over"),
        ("model.layers.2.input_layernorm.weight", lambda value: torch.ones(16), "is left over"),
        ("model.layers.0.self_attn.k_proj.weight", lambda value: value.T.contiguous(), "[16, 8] where [8, 16]"),
        ("model.norm.weight", lambda value: value * float("nan"), "finite"),
        ("model.norm.weight", lambda value: value.to(torch.int8), "quantized"),
        ("lm_head.weight", lambda value: torch.ones(WORDS, 16), "differ"),
    ],
)
def test_what_is_not_this_llama_is_refused_whole(copied, name, make, why):
    change(copied, name, make)
    assert why in refused("WEIGHTS021", lambda: read_llama(copied)).why


def test_tables_of_old_checkpoints_and_second_names_are_told(copied):
    change(copied, "model.layers.0.self_attn.rotary_emb.inv_freq", lambda value: torch.ones(2))
    embedding = load_file(copied / WEIGHTS)["model.embed_tokens.weight"]
    change(copied, "lm_head.weight", lambda value: embedding.clone())
    found = read_llama(copied)
    assert set(found.apart) == {"model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"}
    assert not set(found.apart) & set(found.tensors)


def test_what_is_no_directory(tmp_path, copied, llama):
    refused("WEIGHTS020", lambda: read_llama(tmp_path / "none"))
    err = refused("WEIGHTS020", lambda: read_llama("nobody-of-that-name/no-llama"))
    assert err.next == "hf download nobody-of-that-name/no-llama"
    refused("WEIGHTS020", lambda: read_llama("Llama-3.2-1B"))  # a shape plans, and has no weights
    whole = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(whole[:-8])
    refused("WEIGHTS021", lambda: read_llama(copied))
    (copied / WEIGHTS).rename(copied / "pytorch_model.bin")
    assert "pickles" in refused("WEIGHTS020", lambda: read_llama(copied)).why
    (copied / "config.json").write_text("{")
    refused("WEIGHTS004", lambda: read_llama(copied))
    (copied / "config.json").unlink()
    refused("WEIGHTS020", lambda: read_llama(copied))


def test_a_name_of_the_hub_is_looked_up_in_the_cache(llama, monkeypatch):
    import huggingface_hub

    asked = []

    def cached(name, file):
        asked.append((name, file))
        return str(llama[0] / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert read_llama("somebody/small-llama").folder == llama[0]
    assert asked == [("somebody/small-llama", "config.json")]


def test_another_backbone_is_refused_by_its_hash(llama, copied):
    sha256 = read_llama(llama[0]).sha256
    assert require_llama(copied, sha256).sha256 == sha256
    change(copied, "model.norm.weight", lambda value: value + 1)
    assert sha256[:12] in refused("WEIGHTS022", lambda: require_llama(copied, sha256)).why


@pytest.mark.parametrize("tied", [True, False])
def test_a_filled_llama_is_the_stock_model_bit_for_bit(tmp_path, tied):
    from partimento.models.llama import Llama

    model = write_llama(tmp_path / "llama", tie_word_embeddings=tied, attn_implementation="sdpa")
    found = read_llama(tmp_path / "llama")
    ours = Llama(found.config)
    report = backbones.fill_llama(ours, found)
    assert report.complete and sorted(report.loaded) == sorted(found.tensors)
    ids_BM = torch.randint(WORDS, (2, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(ours(ids_BM), model(ids_BM).logits)

    other = Llama(dataclasses.replace(found.config, layers=1))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    refused("MODEL002", lambda: backbones.fill_llama(other, found))
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_a_head_of_its_own_starts_as_the_tied_one(llama):
    from partimento.models.llama import Llama

    found = read_llama(llama[0])
    ours = Llama(dataclasses.replace(found.config, tied=False))
    assert backbones.fill_llama(ours, found).complete
    assert torch.equal(ours.head.weight, llama[1].lm_head.weight)
    assert ours.head.weight is not ours.embedding.weight


def test_shapes_are_the_published_counts():
    counts = {"Llama-3.2-1B": 1_235_814_400, "Llama-3.2-3B": 3_212_749_824, "Llama-3.1-8B": 8_030_261_248}
    with torch.device("meta"):
        for name, numbers in counts.items():
            found = read_llama(name)
            shapes = backbones.expected(found.config).values()
            assert sum(int(torch.Size(shape).numel()) for shape in shapes) == numbers
            assert found.config.rope_scaling["factor"] == (8.0 if name.endswith("8B") else 32.0)
        small = read_musicgen_feedforwards("musicgen-small")
    assert (small.layers, small.width, small.inner, small.up_L) == (24, 1024, 4096, ())
    assert len(SHAPES) == 6


def test_on_the_meta_device_shapes_are_all_that_is_read(llama):
    with torch.device("meta"):
        found = read_llama(llama[0])
        assert found.sha256 == "" and require_llama(llama[0], "anything").config == found.config


@pytest.mark.parametrize("whole", [True, False])
def test_the_feed_forwards_of_a_musicgen(tmp_path, whole):
    model = write_musicgen(tmp_path / "musicgen", whole=whole)
    found = read_musicgen_feedforwards(tmp_path / "musicgen")
    layers = (model.decoder if whole else model).model.decoder.layers
    assert (found.source, found.width, found.inner, found.layers) == ("musicgen", 8, 12, 3)
    for layer, up, down, names in zip(layers, found.up_L, found.down_L, found.names_L, strict=True):
        assert torch.equal(up, layer.fc1.weight) and torch.equal(down, layer.fc2.weight)
        assert all(name in model.state_dict() for name in names)


@pytest.mark.parametrize("place", ["beside", "instead"])
def test_feed_forwards_become_experts_and_every_tensor_is_reported(llama, tmp_path, place):
    """Bit for bit, from the layer of the same number; what has no counterpart in MusicGen says so."""
    from partimento.models.experts import ExpertConfig
    from partimento.models.mixture import MixtureConfig, MixtureModel
    from partimento.models.transplant import transplant

    musicgen = write_musicgen(tmp_path / "musicgen").decoder.model.decoder.layers
    found, donor = read_llama(llama[0]), read_musicgen_feedforwards(tmp_path / "musicgen")
    experts = ExpertConfig("feedforward", place, width=donor.width, inner=donor.inner)
    model = MixtureModel(MixtureConfig(found.config, codebooks=2, rows=19, outputs=17, pad_row=17, experts=experts))
    backbones.fill_llama(model.llama, found)
    model.decoder.initialise()
    report = transplant(model.decoder, donor)
    named = {name: tuple(weight.shape) for name, weight in model.decoder.experts.named_parameters(prefix="experts")}
    assert {row.name: row.shape for row in report.rows} == named and report.unused == (2,)
    for layer, expert in enumerate(model.decoder.experts):
        assert torch.equal(expert.up.weight, musicgen[layer].fc1.weight)
        assert torch.equal(expert.down.weight, musicgen[layer].fc2.weight)
    for row in report.rows:
        if row.name.split(".")[2] in ("up", "down"):
            assert row.origin in donor.names_L[row.layer]
        else:
            assert row.origin is None and row.why
    assert report.source == "musicgen" and len(report.taken) == 4 and report.layers == 3


def test_what_is_no_musicgen_of_such_parts(tmp_path, llama):
    refused("WEIGHTS024", lambda: read_musicgen_feedforwards(llama[0]))
    folder = tmp_path / "musicgen"
    write_musicgen(folder, whole=False)
    kept = load_file(folder / WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    for name, make, code in (
        ("model.decoder.layers.1.fc1.bias", lambda value: torch.zeros(12), "WEIGHTS024"),  # defect D4
        ("model.decoder.layers.1.fc2.weight", lambda value: None, "WEIGHTS024"),
        ("model.decoder.layers.7.fc2.weight", lambda value: torch.zeros(8, 12), "WEIGHTS024"),
        ("model.decoder.layers.1.fc2.weight", lambda value: value.T.contiguous(), "WEIGHTS021"),
        ("model.decoder.layers.1.fc2.weight", lambda value: value / 0, "WEIGHTS021"),
    ):
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
        change(folder, name, make)
        refused(code, lambda: read_musicgen_feedforwards(folder))
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "activation_function": "relu"}))
    refused("WEIGHTS024", lambda: read_musicgen_feedforwards(folder))


@pytest.mark.parametrize("adds_bos", [True, False])
def test_bos_stands_once_before_every_prompt_and_alone_for_no_words(copied, adds_bos):
    write_tokenizer(copied, adds_bos=adds_bos)
    tokenizer.cache_clear()
    coder = read_llama(copied).coder(8)
    bos = WORDS - 2
    plain = tokenizer(str(copied), marks=False).encode("a waltz", add_special_tokens=False).ids
    assert coder.ids(Words(text="a waltz")) == [bos, *plain] and len(plain) == 7
    assert coder.ids(NO_WORDS) == [bos]
    for said in ("<|begin_of_text|>ab", "a<|begin_of_text|>", "<|end_of_text|>"):  # spelled, not obeyed
        ids = coder.ids(Words(text=said))
        assert ids.count(bos) == 1 and ids[0] == bos and WORDS - 1 not in ids
    text_BM, mask_BM = coder.batch([Words(text="a waltz"), NO_WORDS, Words(("techno",), "a dark pulse")])
    assert text_BM[:, 0].tolist() == [bos] * 3 and mask_BM.sum(1).tolist() == [8, 1, 8]
    assert text_BM[2].tolist() == coder.ids(Words(("techno",), "a dark pulse"))[:8]  # cut at its end
    assert SubwordText.from_json(json.loads(json.dumps(coder.to_json()))) == coder


pieces = st.lists(st.sampled_from(["a", "waltz", " ", ",", BOS, "<|end_of_text|>", "<|reserved_3|>", "é"]), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces, st.integers(1, 12))
def test_no_text_brings_a_mark_of_its_own(llama, said, length):
    coder = read_llama_once(llama[0]).coder(length)
    text_BM, mask_BM = coder.batch([Words(text="".join(said))])
    ids = text_BM[0, mask_BM[0]].tolist()
    assert ids[0] == WORDS - 2 and max(ids[1:], default=0) < len(LETTERS) and len(ids) <= length
    assert not text_BM[0, len(ids) :].any() and mask_BM[0, : len(ids)].all()


def test_what_t5_gets_is_as_it_was(llama):
    """Without `bos` the marks are the tokenizer's own, also those that a text spells, and no words are no ids."""
    coder = SubwordText(str(llama[0]), 6)
    assert coder.ids(NO_WORDS) == [] and coder.ids(Words(text="ab"))[0] == WORDS - 2
    assert coder.ids(Words(text=BOS)) == [WORDS - 2, WORDS - 2]
    text_BM, mask_BM = coder.batch([Words(text="a long text"), NO_WORDS])
    assert mask_BM.sum(1).tolist() == [6, 0] and text_BM[0, -1] == coder.ids(Words(text="a long text"))[-1]
    assert coder.to_json() == {"kind": "subwords", "folder": str(llama[0]), "length": 6}


def test_a_tokenizer_of_another_model_is_refused(copied):
    found = read_llama(copied)
    (copied / "tokenizer.json").unlink()
    refused("WEIGHTS023", lambda: found.coder(8))
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"a": 0, "b": WORDS}, [])).save(str(copied / "tokenizer.json"))
    tokenizer.cache_clear()
    assert str(WORDS) in refused("WEIGHTS023", lambda: found.coder(8)).why


def test_a_directory_is_read_tensor_by_tensor(llama):
    found = open_directory(llama[0])
    assert found.tensors.numbers() == sum(value.numel() for value in load_file(llama[0] / WEIGHTS).values())


@pytest.mark.parametrize("name", ["../lama", "weights/.llama", "a--b/llama", "x.git/x.git", "models/llama-", "./a/b/c"])
def test_a_mistyped_folder_that_looks_like_a_name_of_the_hub(name: str) -> None:
    with pytest.raises(PartimentoError) as caught:
        backbones.read_llama(name)
    assert caught.value.code == "WEIGHTS020" and str(Path(name).resolve()) in str(caught.value)


def test_a_name_of_the_hub_that_was_not_fetched() -> None:
    with pytest.raises(PartimentoError) as caught:
        backbones.read_llama("nobody/nothing")
    assert caught.value.next == "hf download nobody/nothing"
