"""What is exported answers in transformers as the mixture does here, for every kind of experts; K heads are refused."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import WORDS, write_llama

from partimento.errors import PartimentoError
from partimento.models.experts import ExpertConfig
from partimento.models.mixture import MixtureConfig, MixtureModel
from partimento.runs import mixture_out
from partimento.runs.backbones import fill_llama, read_llama
from partimento.runs.mixture_out import export_mixture
from partimento.tokens import patterns
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import CodecSpec, Specials
from partimento.tokens.text import Words
from partimento.tokens.vocabulary import AudioVocabulary

transformers = pytest.importorskip("transformers")

NEVER = -1e30
K, CODES, FRAMES = 3, 7, 5
SPEC = CodecSpec("small", "0" * 64, 32000, Fraction(50), (CODES,) * K)
EXPERTS = {
    "feedforward": ExpertConfig("feedforward", "beside", width=6, inner=10),
    "feedforward instead": ExpertConfig("feedforward", "instead", width=6, inner=10),
    "bottleneck": ExpertConfig("bottleneck", rank=3),
    "lora": ExpertConfig("lora", rank=2, alpha=5.0),
    "feedforward_copy": ExpertConfig("feedforward_copy", "instead"),
    "full": ExpertConfig("full"),
    "none": ExpertConfig("none"),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """transformers copies the code of a directory into a cache before it imports it."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama") / "small"
    model = write_llama(folder)
    (folder / "LICENSE.txt").write_text("as it is\n")
    return folder, model


def mixture(folder, experts, vocabulary, specials, train_backbone="none", seed=0):
    """Every weight of the audio is drawn, also those that begin as zero."""
    found = read_llama(folder)
    config = MixtureConfig(
        llama=found.config,
        codebooks=K,
        rows=specials.rows,
        outputs=CODES + (specials.eos is not None),
        pad_row=specials.pad,
        vocabulary=vocabulary,
        max_positions=64,
        experts=experts,
    )
    torch.manual_seed(seed)
    module = MixtureModel(config, train_backbone).eval()
    fill_llama(module.llama, found)
    module.decoder.initialise()
    text = {id(weight) for weight in module.llama.parameters()}
    with torch.no_grad():
        for weight in module.parameters():
            if id(weight) not in text:
                weight.add_(0.3 * torch.randn_like(weight))
        module.decoder.embedding.view(config.blocks, config.rows, -1)[:, config.pad_row] = 0.0
    return module


def exported(module, folder, to, kind, specials, spec=SPEC):
    vocabulary = AudioVocabulary(WORDS, K, CODES, kind)
    flat = Pattern.named("flat", K)
    told = export_mixture(module, vocabulary, to, pattern=flat, specials=specials, backbone=folder, spec=spec)
    assert told["parameters"] == sum(weight.numel() for weight in module.parameters())
    return vocabulary, transformers.AutoModelForCausalLM.from_pretrained(to, trust_remote_code=True).eval()


def played(module, specials, seed=2):
    """(text ids [1, M], codes [1, T, K], logits [1, S, K, V]) as they are here."""
    draws = torch.Generator().manual_seed(seed)
    text_BM = torch.cat([torch.tensor([[WORDS - 2]]), torch.randint(40, (1, 4), generator=draws)], 1)
    codes_BTK = torch.randint(CODES, (1, FRAMES, K), generator=draws)
    grid_BSK = patterns.apply(codes_BTK, Pattern.named("flat", K), specials, ends=False)
    with torch.no_grad():
        told = module.told(text_BM, torch.ones_like(text_BM, dtype=torch.bool), torch.tensor([True]))
        return text_BM, codes_BTK, module.decoder(grid_BSK, **told.arguments())


def require_equal(vocabulary, specials, text_BM, ours_SKV, theirs_NV, stock_MV):
    """Every legal logit within 1e-5 of ours, and nothing else allowed; the text's are the stock Llama's."""
    M, size = text_BM.shape[1], vocabulary.size
    wanted_NV = torch.full_like(theirs_NV, NEVER)
    wanted_NV[:M, :WORDS] = stock_MV
    for step, logits_KV in enumerate(ours_SKV):
        legal = vocabulary.legal(step)
        wanted_NV[M + step, legal.start : legal.stop] = logits_KV[step % K, :CODES]
        if specials.eos is not None and step > 0 and step % K == 0:
            wanted_NV[M + step, size + 1] = logits_KV[0, CODES]
    assert theirs_NV.shape[1] == size + (1 if specials.eos is None else 2)
    assert torch.equal(wanted_NV == NEVER, theirs_NV == NEVER)
    torch.testing.assert_close(theirs_NV, wanted_NV, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["own", "shared"])
@pytest.mark.parametrize("experts", EXPERTS)
def test_logits_are_those_of_the_mixture(llama, tmp_path, kind, experts):
    specials = Specials.after(CODES)
    module = mixture(llama[0], EXPERTS[experts], kind, specials)
    vocabulary, model = exported(module, llama[0], tmp_path / "out", kind, specials)
    text_BM, codes_BTK, ours_BSKV = played(module, specials)
    start = torch.tensor([[vocabulary.size]])
    ids_BN = torch.cat([text_BM, start, vocabulary.ids(codes_BTK)], 1)
    with torch.no_grad():
        theirs_BNV, stock_BMV = model(ids_BN).logits, llama[1](text_BM).logits
    require_equal(vocabulary, specials, text_BM, ours_BSKV[0], theirs_BNV[0], stock_BMV[0])
    assert torch.equal(model.codes(ids_BN[0]), codes_BTK[0])


@pytest.mark.parametrize("train", ["head", "all"])
def test_what_was_trained_of_the_llama_goes_along(llama, tmp_path, train):
    """Its head is a matrix of its own then; MusicGen's specials have no end, and one row for BOS and PAD."""
    specials = Specials.musicgen(CODES)
    module = mixture(llama[0], EXPERTS["feedforward"], "shared", specials, train)
    with torch.no_grad():
        for weight in module.llama.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    vocabulary, model = exported(module, llama[0], tmp_path / "out", "shared", specials)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (train == "all")
    text_BM, codes_BTK, ours_BSKV = played(module, specials)
    ids_BN = torch.cat([text_BM, torch.tensor([[vocabulary.size]]), vocabulary.ids(codes_BTK)], 1)
    with torch.no_grad():
        theirs_BNV, stock_BMV = model(ids_BN).logits, module.llama(text_BM)
    require_equal(vocabulary, specials, text_BM, ours_BSKV[0], theirs_BNV[0], stock_BMV[0])


@pytest.mark.parametrize("experts", ["feedforward", "full", "lora", "bottleneck"])
def test_generate_goes_on_with_legal_ids_and_its_cache_changes_nothing(llama, tmp_path, experts):
    specials = Specials.after(CODES)
    module = mixture(llama[0], EXPERTS[experts], "own", specials)
    with torch.no_grad():
        module.decoder.head.weight.view(K, CODES + 1, -1)[:, CODES] *= 0.01  # an end is not likely
    vocabulary, model = exported(module, llama[0], tmp_path / "out", "own", specials)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    ours = read_llama(llama[0]).coder(8).ids(Words(text="a waltz"))
    assert tokens("a waltz").input_ids == ours
    prompt = torch.tensor([[*ours, vocabulary.size]])
    torch.manual_seed(5)
    kept = {"return_dict_in_generate": True, "output_logits": True}
    ids_BN = model.generate(prompt, max_new_tokens=4 * K, do_sample=True, **kept)
    new = ids_BN.sequences[0, prompt.shape[1] :]
    ended = (new == vocabulary.size + 1).nonzero()
    whole = new[: int(ended[0])] if len(ended) else new
    assert len(whole) >= K and all(int(one) in vocabulary.legal(place) for place, one in enumerate(whole))
    assert torch.equal(model.codes(ids_BN.sequences[0]), vocabulary.codes(whole[: len(whole) // K * K]))
    with torch.no_grad():
        at_once = model(ids_BN.sequences).logits[0, prompt.shape[1] - 1 : -1]
    torch.testing.assert_close(torch.cat(ids_BN.logits), at_once, atol=1e-5, rtol=1e-5)


def test_shorter_texts_are_padded_in_front(llama, tmp_path):
    specials = Specials.after(CODES)
    module = mixture(llama[0], EXPERTS["feedforward"], "own", specials)
    vocabulary, model = exported(module, llama[0], tmp_path / "out", "own", specials)
    start = vocabulary.size
    long, short = [WORDS - 2, 3, 4, 5, start], [WORDS - 2, 9, start]
    both = torch.tensor([long, [0, 0, *short]])
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    one = model.generate(torch.tensor([short]), max_new_tokens=6, do_sample=False)
    two = model.generate(both, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert torch.equal(two[1, 5:][: one.shape[1] - 3], one[0, 3:])


def test_ids_may_come_in_pieces_behind_a_cache(llama, tmp_path):
    specials = Specials.after(CODES)
    module = mixture(llama[0], EXPERTS["feedforward"], "own", specials)
    vocabulary, model = exported(module, llama[0], tmp_path / "out", "own", specials)
    codes_BTK = torch.arange(2 * K).view(1, 2, K) % CODES
    ids_BN = torch.cat([torch.tensor([[WORDS - 2, 4, vocabulary.size]]), vocabulary.ids(codes_BTK)], 1)
    with torch.no_grad():
        whole, past, pieces = model(ids_BN), None, []
        for first, last in ((0, 1), (1, 4), (4, 5), (5, 9)):
            found = model(ids_BN[:, first:last], past_key_values=past, use_cache=True)
            past = found.past_key_values
            pieces.append(found.logits)
        torch.testing.assert_close(torch.cat(pieces, 1), whole.logits, atol=1e-5, rtol=1e-5)
        past.crop(-4)
        with pytest.raises(ValueError, match="this cache does not say"):
            model(ids_BN[:, 5:], past_key_values=past)
        with pytest.raises(ValueError, match="not legal"):
            model(torch.cat([ids_BN[:, :3], ids_BN[:, 4:5]], 1))


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_the_end_is_read_as_the_end_of_the_first_book(llama, tmp_path, kind):
    specials = Specials.after(CODES)
    module = mixture(llama[0], EXPERTS["feedforward"], kind, specials)
    vocabulary, model = exported(module, llama[0], tmp_path / "out", kind, specials)
    codes_BTK, bos = torch.arange(2 * K).view(1, 2, K) % CODES, torch.tensor([[WORDS - 2]])
    grid_BSK = patterns.apply(codes_BTK, Pattern.named("flat", K), specials, ends=True)[:, : 2 + 2 * K]
    start, end = torch.tensor([[vocabulary.size], [vocabulary.size + 1]])[:, :, None]
    with torch.no_grad():
        told = module.told(bos, torch.ones_like(bos).bool(), torch.tensor([True]))
        ours_V = module.decoder(grid_BSK, **told.arguments())[0, -1, 1, :CODES]
        theirs_V = model(torch.cat([bos, start, vocabulary.ids(codes_BTK), end], 1)).logits[0, -1]
    legal = vocabulary.block(1)
    torch.testing.assert_close(theirs_V[legal.start : legal.stop], ours_V, atol=1e-5, rtol=1e-5)


def test_loss_is_of_the_legal_ids(llama, tmp_path):
    specials = Specials.after(CODES)
    module = mixture(llama[0], EXPERTS["feedforward"], "own", specials)
    with torch.no_grad():
        module.decoder.head.weight.zero_()
    vocabulary, model = exported(module, llama[0], tmp_path / "out", "own", specials)
    ids_BN = torch.cat([torch.tensor([[WORDS - 2, vocabulary.size]]), vocabulary.ids(torch.zeros(1, 1, K))], 1)
    labels = ids_BN.masked_fill(torch.arange(ids_BN.shape[1]) < 2, -100)
    assert model(ids_BN, labels=labels).loss.item() == pytest.approx(math.log(CODES), abs=1e-5)


def test_guidance_of_generate_is_ours(llama, tmp_path):
    """u + s (c - u) with BOS alone as the text of u: the likeliest ids are those of the two logits here."""
    specials, scale = Specials.musicgen(CODES), 2.5
    module = mixture(llama[0], EXPERTS["feedforward"], "own", specials)
    vocabulary, model = exported(module, llama[0], tmp_path / "out", "own", specials)
    text_BM = torch.tensor([[WORDS - 2, 3, 4, 5]])
    nothing = torch.tensor([[WORDS - 2, vocabulary.size]])
    prompt = torch.cat([text_BM, nothing[:, 1:]], 1)
    told = {"guidance_scale": scale, "negative_prompt_ids": nothing, "max_new_tokens": 4 * K, "do_sample": False}
    codes_BTK = model.codes(model.generate(prompt, **told)[0])[None]
    grid_BSK = patterns.apply(codes_BTK, Pattern.named("flat", K), specials, ends=False)
    with torch.no_grad():
        c_BSKV, u_BSKV = (
            module.decoder(grid_BSK, **module.told(text_BM, torch.ones_like(text_BM).bool(), keep_B).arguments())
            for keep_B in (torch.tensor([True]), torch.tensor([False]))
        )
    likeliest = (u_BSKV + scale * (c_BSKV - u_BSKV))[0].argmax(-1)
    assert [int(likeliest[step, step % K]) for step in range(4 * K)] == codes_BTK[0].flatten().tolist()
    alone = c_BSKV[0].argmax(-1)
    assert [int(alone[step, step % K]) for step in range(4 * K)] != codes_BTK[0].flatten().tolist()


def test_books_of_fewer_codes_play_no_more(llama, tmp_path):
    specials, spec = Specials.after(CODES), dataclasses.replace(SPEC, cardinalities=(CODES, 3, 5))
    module = mixture(llama[0], EXPERTS["feedforward"], "own", specials)
    vocabulary, model = exported(module, llama[0], tmp_path / "out", "own", specials, spec)
    ids_BN = torch.cat([torch.tensor([[WORDS - 2, vocabulary.size]]), vocabulary.ids(torch.zeros(1, 2, K))], 1)
    with torch.no_grad():
        possible_NV = model(ids_BN).logits[0, 1:] > NEVER
    assert possible_NV[:, WORDS : vocabulary.size].sum(1).tolist() == [7, 3, 5, 7, 3, 5, 7]


def test_the_llama_alone_is_still_in_the_directory(llama, tmp_path):
    specials = Specials.after(CODES)
    module = mixture(llama[0], EXPERTS["full"], "own", specials)
    exported(module, llama[0], tmp_path / "out", "own", specials)
    state = load_file(tmp_path / "out" / "model.safetensors")
    theirs = {name: value for name, value in llama[1].state_dict().items() if name != "lm_head.weight"}
    assert all(torch.equal(state[name], value) for name, value in theirs.items())
    assert all("audio" in name for name in state.keys() - theirs.keys())
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "as it is\n"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert CodecSpec.from_json(config["audio"]["codec"]) == SPEC and config["audio"]["start"] == WORDS + K * CODES


def test_the_modeling_file_needs_transformers_and_torch_alone():
    tree = ast.parse(Path(mixture_out.__file__).with_name(mixture_out.MODELING).read_text())
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(name).split(".")[0] for name in froms | names} == {"torch", "transformers", "typing"}


@pytest.mark.parametrize("pattern", ["delay", "parallel"])
def test_what_has_no_one_id_a_place_is_refused(llama, tmp_path, pattern):
    specials = Specials.after(CODES)
    module = mixture(llama[0], EXPERTS["feedforward"], "own", specials)
    told = {"specials": specials, "backbone": llama[0], "spec": SPEC}
    for vocabulary, grid, why in (
        (AudioVocabulary(WORDS, K, CODES, "own"), Pattern.named(pattern, K), "one position"),
        (AudioVocabulary(WORDS, K, CODES, "shared"), Pattern.named("flat", K), "and not"),
    ):
        with pytest.raises(PartimentoError) as caught:
            export_mixture(module, vocabulary, tmp_path / "out", pattern=grid, **told)
        assert caught.value.code == "WEIGHTS025" and why in caught.value.why
    assert not (tmp_path / "out").exists()


def test_there_must_be_room_and_a_tokenizer(llama, tmp_path):
    specials = Specials.after(CODES)
    module = mixture(llama[0], EXPERTS["none"], "own", specials)
    told = {"pattern": Pattern.named("flat", K), "specials": specials, "spec": SPEC}
    vocabulary = AudioVocabulary(WORDS, K, CODES, "own")
    for to, backbone, code in ((tmp_path, llama[0], "WEIGHTS008"), (tmp_path / "out", tmp_path, "WEIGHTS023")):
        with pytest.raises(PartimentoError) as caught:
            export_mixture(module, vocabulary, to, backbone=backbone, **told)
        assert caught.value.code == code
    assert not (tmp_path / "out").exists()
