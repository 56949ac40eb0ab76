"""Checkpoints of other programs become folders of weights and go out again; rubbish ends in one coded error each."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from partimento.commit import record
from partimento.errors import PartimentoError
from partimento.models.dia import TextModel
from partimento.models.weights import export_nari
from partimento.runs import foreign, published, unpickled
from partimento.tokens.text import Words

transformers = pytest.importorskip("transformers")

KEEP = 12 + 1  # codes and the end; what else theirs has is never drawn


@pytest.fixture(scope="module")
def dia(tmp_path_factory):
    """A folder of save_pretrained, and the model in it."""
    torch.manual_seed(0)
    attention = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = transformers.DiaConfig(
        encoder_config={**attention, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24},
        decoder_config={
            **attention,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "intermediate_size": 32,
            "cross_hidden_size": 16,
            "cross_num_attention_heads": 2,
            "cross_num_key_value_heads": 2,
            "cross_head_dim": 8,
            "vocab_size": 16,
            "num_channels": 3,
            "max_position_embeddings": 64,
            "eos_token_id": 12,
            "pad_token_id": 13,
            "bos_token_id": 14,
        },
        delay_pattern=[0, 2, 3],
    )
    model = transformers.DiaForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    folder = tmp_path_factory.mktemp("hub") / "dia"
    model.save_pretrained(folder)
    (folder / "README.md").write_text("---\ntags:\n- audio\nlicense: apache-2.0\n---\n# Dia\n")
    return folder, model


@pytest.fixture(scope="module")
def musicgen(tmp_path_factory):
    """A stereo MusicGen with its tokenizer."""
    torch.manual_seed(1)
    tiny = {"model_type": "t5", "vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    codec = {"model_type": "encodec", "sampling_rate": 32000, "upsampling_ratios": [4, 2], "num_filters": 4}
    codec |= {
        "hidden_size": 8,
        "codebook_dim": 8,
        "codebook_size": 16,
        "num_lstm_layers": 1,
        "target_bandwidths": [32.0],
    }
    codes = {"vocab_size": 16, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    codes |= {"num_codebooks": 4, "audio_channels": 2, "pad_token_id": 16, "bos_token_id": 16}
    config = transformers.MusicgenConfig(text_encoder=tiny, audio_encoder=codec, decoder=codes)
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    folder = tmp_path_factory.mktemp("hub") / "musicgen"
    model.save_pretrained(folder)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in ("techno", "a", "dark", "pulse")]
    pieces += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz,.\u2581"]
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    return folder, model


def dia_logits(model, text, mask, grid):
    logits = model(input_ids=text, attention_mask=mask.long(), decoder_input_ids=grid).logits
    return logits.view(len(grid), grid.shape[2], grid.shape[1], -1).transpose(1, 2)[..., :KEEP]


def ours(model: TextModel, text, mask, grid):
    told = model.told(text, mask, torch.ones(len(text)).bool())
    return model.eval().decoder(grid, **told.arguments())


def inputs(length: int = 9, codes: int = 15, books: int = 3):
    drawn = torch.Generator().manual_seed(2)
    text = torch.randint(0, 60, (2, length), generator=drawn)
    mask = torch.arange(length) < torch.tensor([[length], [3]])
    return text, mask, torch.randint(0, codes, (2, 8, books), generator=drawn)


def failing(code: str, *arguments, **more) -> PartimentoError:
    """The import ends in this code, and leaves nothing behind."""
    to = arguments[1]
    with pytest.raises(PartimentoError) as caught:
        foreign.import_foreign(*arguments, **more)
    assert caught.value.code == code, caught.value
    assert not to.exists() and (not to.parent.exists() or not list(to.parent.glob(f"{to.name}*")))
    assert caught.value.next
    return caught.value


def test_dia_in_and_out_through_from_pretrained(dia, tmp_path: Path) -> None:
    folder, theirs = dia
    found, report = foreign.import_foreign(folder, tmp_path / "in", generation="0626")
    assert report.complete and len(report.loaded) == len(theirs.state_dict())
    again = published.read(tmp_path / "in")
    assert again == found and again.facts.licence == "apache-2.0" and again.null_trained
    assert (again.delays, again.guidance_rule, again.codebooks, again.cardinality) == ((0, 2, 3), "filter", 3, 12)
    assert (again.specials.eos, again.specials.pad, again.specials.bos) == (12, 13, 14)
    assert (again.ending.eos, again.ending.tail) == ("argmax", "end")
    with torch.inference_mode():
        expected = dia_logits(theirs, *inputs())
        torch.testing.assert_close(ours(again.module(), *inputs()), expected, rtol=0, atol=1e-5)
        done = foreign.export(again.module(), again, tmp_path / "out", "transformers")
        back, told = transformers.DiaForConditionalGeneration.from_pretrained(
            tmp_path / "out", output_loading_info=True
        )
        assert not told["missing_keys"] and not told["unexpected_keys"]
        assert torch.equal(dia_logits(back.eval(), *inputs()), expected)
    assert done["tensors"] == len(theirs.state_dict()) and done["layout"] == "transformers"
    assert (tmp_path / "out" / "generation_config.json").exists()


@pytest.mark.parametrize("generation", ["0626", "april"])
def test_nari_in_a_pickle_and_out(dia, tmp_path: Path, generation: str) -> None:
    """Also with the names that torch.compile and DistributedDataParallel leave, and in half precision."""
    first, _ = foreign.import_foreign(dia[0], tmp_path / "first", generation=generation)
    foreign.export(first.module(), first, tmp_path / "nari", "nari")
    state = load_file(tmp_path / "nari" / "model.safetensors")
    assert state.keys() == export_nari(first.module()).keys()
    source = tmp_path / "hub"
    source.mkdir()
    shutil.copy(tmp_path / "nari" / "config.json", source)
    half = {f"module._orig_mod.{name}": value.half() for name, value in state.items()}
    torch.save({"model": half, "step": 7}, source / "ckpt_step7.pth")
    second, report = foreign.import_foreign(source, tmp_path / "second", generation=generation)
    assert report.complete and second.facts.source["layout"] == "nari"
    assert second.facts.model == first.facts.model
    assert second.facts.model["decoder"]["cross_attention_rope"] == (generation == "april")
    for name, value in second.module().state_dict().items():
        torch.testing.assert_close(value, first.module().state_dict()[name], rtol=1e-3, atol=1e-3)
    assert not list(tmp_path.glob("*.tmp*"))


def test_musicgen_in_and_out_with_tokenizer_and_codec(musicgen, tmp_path: Path) -> None:
    folder, theirs = musicgen
    found, report = foreign.import_foreign(folder, tmp_path / "in")
    assert report.apart and set(report.loaded).isdisjoint(report.apart)
    codec = transformers.EncodecModel.from_pretrained(tmp_path / "in" / "codec")
    for name, value in codec.state_dict().items():
        assert torch.equal(value, theirs.audio_encoder.state_dict()[name]), name
    coder = found.coder(5)
    text, mask = coder.batch([Words(("techno",), "a dark pulse"), Words()])
    reference = transformers.AutoTokenizer.from_pretrained(folder)("techno. a dark pulse").input_ids
    assert len(reference) > 5 and text[0].tolist() == [*reference[:4], reference[-1]] and mask[0].all()
    assert not text[1].any() and not mask[1].any(), "no words: the null"
    assert coder.cut(Words((), "a dark pulse of techno")) and not coder.cut(Words((), "techno"))
    assert coder.from_json(coder.to_json()) == coder and coder.tags == ()
    assert found.coder().require(Words((" a  b ",), " c ")) == Words(("a b",), "c")
    for words, code in ((Words((), "a dark pulse of techno"), "TEXT001"), (Words((), "a\x01"), "TEXT002")):
        with pytest.raises(PartimentoError) as caught:
            coder.require(words)
        assert caught.value.code == code
    done = foreign.export(found.module(), found, tmp_path / "out", "transformers")
    state = load_file(tmp_path / "out" / "model.safetensors")
    original = load_file(folder / "model.safetensors")
    assert state.keys() == original.keys() and done["tensors"] == len(original)
    assert all(torch.equal(state[name], original[name]) for name in original)
    again, told = transformers.MusicgenForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("techno").input_ids
    text, mask, grid = inputs(5, 17, 4)
    order = [0, 2, 1, 3]  # left and right in turns, to channel by channel
    flat = grid.transpose(1, 2).reshape(8, -1)
    with torch.inference_mode():
        logits = again.eval()(input_ids=text, attention_mask=mask.long(), decoder_input_ids=flat).logits
        expected = logits.view(2, 4, 8, 16).transpose(1, 2)[:, :, order]
        torch.testing.assert_close(ours(found.module(), text, mask, grid[:, :, order]), expected, rtol=0, atol=1e-5)


def test_a_folder_goes_out_as_a_folder_and_is_the_same(musicgen, tmp_path: Path) -> None:
    found, _ = foreign.import_foreign(musicgen[0], tmp_path / "in")
    foreign.export(found.module(), found, tmp_path / "out", "partimento")
    again = published.read(tmp_path / "out")
    assert again.facts == found.facts and again.files == found.files


def test_several_files_with_an_index(dia, tmp_path: Path) -> None:
    folder, theirs = dia
    theirs.save_pretrained(tmp_path / "hub", max_shard_size="8KB")
    assert len(list((tmp_path / "hub").glob("*.safetensors"))) > 2
    found, report = foreign.import_foreign(tmp_path / "hub", tmp_path / "in", generation="0626")
    first, _ = foreign.import_foreign(folder, tmp_path / "first", generation="0626")
    assert report.complete and found.sha256 == first.sha256
    shards = sorted((tmp_path / "hub").glob("*.safetensors"))
    shards[1].unlink()
    assert "not beside it" in failing("WEIGHTS004", tmp_path / "hub", tmp_path / "x", generation="0626").why
    index = tmp_path / "hub" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    failing("WEIGHTS004", tmp_path / "hub", tmp_path / "x", generation="0626")


def test_module_has_the_dropout_that_is_asked_for_and_draws_nothing(dia, tmp_path: Path) -> None:
    found, _ = foreign.import_foreign(dia[0], tmp_path / "in", generation="0626")
    before = torch.get_rng_state()
    model = found.module(dropout=0.25)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.decoder.config.dropout == model.encoder.config.dropout == 0.25
    other = published.require(found.folder, found.sha256).module()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(PartimentoError) as caught:
        published.require(found.folder, "0" * 64)
    assert caught.value.code == "WEIGHTS002"
    with pytest.raises(PartimentoError) as caught:
        found.coder(2000)
    assert caught.value.code == "MODEL004"
    assert found.coder(20).length == 20


@pytest.mark.parametrize("generation", [None, "0627", "April", ""])
def test_the_generation_is_never_guessed(dia, tmp_path: Path, generation: str | None) -> None:
    err = failing("WEIGHTS005", dia[0], tmp_path / "x", generation=generation)
    assert "april" in err.next and "0626" in err.next


def test_musicgen_has_no_generation(musicgen, tmp_path: Path) -> None:
    failing("WEIGHTS005", musicgen[0], tmp_path / "x", generation="0626")


def rubbish(dia: Path, to: Path, what: str) -> Path:
    """A folder that is not what it should be."""
    shutil.copytree(dia, to)
    weights, config = to / "model.safetensors", json.loads((to / "config.json").read_text())
    state = load_file(weights)
    if what == "no files":
        weights.unlink()
    elif what == "no config":
        (to / "config.json").unlink()
    elif what == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "text":
        weights.write_text("this is a page that says that you must log in")
    elif what == "config is text":
        (to / "config.json").write_text("<html>")
    elif what == "two files":
        weights.rename(to / "a.safetensors")
        shutil.copy(to / "a.safetensors", to / "b.safetensors")
    elif what == "another family":
        save_file({"transformer.h.0.attn.c_attn.weight": torch.zeros(2, 2)}, weights)
    elif what == "decoder alone":
        save_file({"lm_heads.0.weight": torch.zeros(2, 2)}, weights)
    elif what == "activation":
        record(to / "config.json", {**config, "decoder_config": {**config["decoder_config"], "hidden_act": "gelu"}})
    elif what == "shapes":
        record(to / "config.json", {**config, "decoder_config": {**config["decoder_config"], "hidden_size": 32}})
    elif what == "huge":
        record(to / "config.json", {**config, "decoder_config": {**config["decoder_config"], "hidden_size": 2**20}})
    elif what == "missing tensor":
        save_file({name: value for name, value in state.items() if "norm" not in name}, weights)
    elif what == "nan":
        save_file({name: value * float("nan") for name, value in state.items()}, weights)
    return to


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("no files", "WEIGHTS003"),
        ("no config", "WEIGHTS003"),
        ("cut", "WEIGHTS004"),
        ("text", "WEIGHTS004"),
        ("config is text", "WEIGHTS004"),
        ("two files", "WEIGHTS003"),
        ("another family", "WEIGHTS003"),
        ("decoder alone", "WEIGHTS003"),
        ("activation", "MODEL030"),
        ("shapes", "MODEL002"),
        ("huge", "MODEL002"),
        ("missing tensor", "MODEL002"),
        ("nan", "MODEL002"),
    ],
)
def test_rubbish_is_refused_and_nothing_is_written(dia, tmp_path: Path, what: str, code: str) -> None:
    failing(code, rubbish(dia[0], tmp_path / "hub", what), tmp_path / "to", generation="0626")


def test_paths_that_are_nothing(dia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    failing("WEIGHTS003", tmp_path / "nowhere", tmp_path / "to", generation="0626")
    assert "hf download" in failing("WEIGHTS003", Path("nobody/nothing-here"), tmp_path / "to").why
    failing("WEIGHTS003", dia[0] / "config.json", tmp_path / "to", generation="0626")
    (tmp_path / "taken").mkdir()
    with pytest.raises(PartimentoError) as caught:
        foreign.import_foreign(dia[0], tmp_path / "taken", generation="0626")
    assert caught.value.code == "WEIGHTS008" and not list((tmp_path / "taken").iterdir())


class Runs:
    """Pickled, it makes a file of the reader's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_pickle_that_runs_code_does_not(dia, tmp_path: Path) -> None:
    source, ran = tmp_path / "hub", tmp_path / "ran"
    source.mkdir()
    shutil.copy(dia[0] / "config.json", source)
    torch.save({"a": torch.zeros(3), "b": Runs(ran)}, source / "model.pth")
    failing("WEIGHTS006", source, tmp_path / "to", generation="april")
    assert not ran.exists(), "what was in the pickle was run"


@pytest.mark.parametrize("what", ["list", "numbers", "nothing", "cut", "no zip", "compressed", "flipped"])
def test_a_pickle_is_read_as_tensors_or_not_at_all(tmp_path: Path, what: str) -> None:
    file = tmp_path / "model.pth"
    other = {"list": [torch.zeros(3)], "numbers": {"step": 3}, "nothing": {}}
    torch.save(other.get(what, {"a": torch.full((99,), 0.5)}), file)
    content = file.read_bytes()
    if what == "cut":
        file.write_bytes(content[:-200])
    elif what == "no zip":
        file.write_bytes(b"\x80\x02}q\x00.")
    elif what == "flipped":
        file.write_bytes(content.replace(b"\x00\x00\x00\x3f" * 9, b"\x00\x00\x00\x3e" * 9))
    elif what == "compressed":
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
    with pytest.raises(PartimentoError) as caught:
        unpickled.tensors(file)
    assert caught.value.code == ("WEIGHTS006" if what in other else "WEIGHTS004")


def test_no_tokenizer(musicgen, tmp_path: Path) -> None:
    source = tmp_path / "hub"
    shutil.copytree(musicgen[0], source)
    (source / "tokenizer.json").write_text('{"version": "1.0"}')
    failing("WEIGHTS007", source, tmp_path / "to")
    transformers.T5Tokenizer(vocab=[(f"p{n}", 0.0) for n in range(65)], extra_ids=0).save_pretrained(source)
    assert "64" in failing("WEIGHTS007", source, tmp_path / "to").why
    (source / "tokenizer.json").unlink()
    failing("WEIGHTS007", source, tmp_path / "to")
    found, _ = foreign.import_foreign(musicgen[0], tmp_path / "in")
    shutil.move(tmp_path / "in", tmp_path / "moved")
    with pytest.raises(PartimentoError) as caught:
        found.coder().require(Words((), "techno"))
    assert caught.value.code == "WEIGHTS007"


def test_a_damaged_folder_is_not_believed(dia, tmp_path: Path) -> None:
    found, _ = foreign.import_foreign(dia[0], tmp_path / "in", generation="0626")
    folder = found.folder
    facts = json.loads((folder / "weights.json").read_text())

    def refused(code: str) -> str:
        with pytest.raises(PartimentoError) as caught:
            published.read(folder)
        assert caught.value.code == code and caught.value.next
        return str(caught.value)

    for change in (
        {"schema": 2},
        {"delays": [-1]},
        {"delays": []},
        {"guidance_rule": "lerp"},
        {"specials": {"eos": 1, "pad": 2}},
        {"more": 1},
        {"codec": {**facts["codec"], "frame_rate": [1]}},
        {"files": {**facts["files"], "../x": {"bytes": 1, "sha256": "0"}}},
    ):
        record(folder / "weights.json", {**facts, **change})
        refused("WEIGHTS001")
    (folder / "weights.json").write_text("[]")
    refused("WEIGHTS001")
    (folder / "weights.json").unlink()
    assert "weights import" in refused("WEIGHTS001")
    record(folder / "weights.json", facts)
    assert published.read(folder) == found
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "sha256" in refused("WEIGHTS002")
    weights.unlink()
    refused("WEIGHTS002")


def test_a_record_of_another_model_does_not_load(dia, tmp_path: Path) -> None:
    """Hashes match, and yet the weights are not of the architecture that stands beside them."""
    found, _ = foreign.import_foreign(dia[0], tmp_path / "in", generation="0626")
    for part, change in (("decoder", {"layers": 3}), ("decoder", {"feedforward": 40})):
        model = {**found.facts.model, part: {**found.facts.model[part], **change}}
        other = published.Published(found.folder, found.facts.model_copy(update={"model": model}), found.files)
        with pytest.raises(PartimentoError) as caught:
            other.module()
        assert caught.value.code == "WEIGHTS002"


def test_what_a_layout_cannot_say(dia, musicgen, tmp_path: Path) -> None:
    april, _ = foreign.import_foreign(dia[0], tmp_path / "april", generation="april")
    sound, _ = foreign.import_foreign(musicgen[0], tmp_path / "musicgen")

    def refused(found: published.Published, layout: str, code: str, **change) -> None:
        told = published.Published(found.folder, found.facts.model_copy(update=change), found.files)
        with pytest.raises(PartimentoError) as caught:
            foreign.export(told.module(), told, tmp_path / "to", layout)
        assert caught.value.code == code and not (tmp_path / "to").exists()

    refused(april, "transformers", "MODEL002")
    refused(april, "nari", "WEIGHTS009", stride=3)
    refused(april, "nari", "WEIGHTS009", words=april.facts.words.model_copy(update={"tags": ["techno"]}))
    refused(sound, "nari", "WEIGHTS009")
    refused(sound, "transformers", "WEIGHTS009", delays=[0, 1, 2, 3])
    refused(sound, "transformers", "WEIGHTS009", codec=sound.facts.codec.model_copy(update={"layout": "mid-side"}))
    shutil.rmtree(sound.folder / "codec")
    refused(sound, "transformers", "WEIGHTS009")
    (tmp_path / "to").mkdir()
    with pytest.raises(PartimentoError) as caught:
        foreign.export(sound.module(), sound, tmp_path / "to", "partimento")
    assert caught.value.code == "WEIGHTS008"
