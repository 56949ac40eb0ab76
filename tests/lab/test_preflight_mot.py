"""The cheap checks of preflight for a mixture, and one clip learned by heart: a healthy configuration passes, and every
planted fault is named by the checks that are there for it, and by no other."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import torch
from lab_planted import OF_SOUND, make_pack

from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.lab.overfit import overfit
from partimento.lab.preflight import CHECKS, preflight
from partimento.lab.preflight.backbone import experts_taken
from partimento.lab.preflight.bench import Bench
from partimento.models import mixture_cache
from partimento.models.experts import FeedforwardExpert
from partimento.models.llama import Llama, LlamaBlock
from partimento.models.mixture import MixtureModel
from partimento.models.mixture_decoder import MixtureDecoder
from partimento.tokens.vocabulary import AudioVocabulary
from partimento.training import mixing

sys.path.append(str(Path(__file__).parents[1] / "runs"))
from small_models import write_llama, write_musicgen

SKIPPED = {"resume", "demos", "capacity", "attention"} | OF_SOUND


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return make_pack(tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_llama(folder / "llama")
    write_musicgen(folder / "musicgen")
    return folder


def config(pack, models, **overrides):
    tree = {
        "family": "mot",
        "data": {"pack": str(pack), "window": 32},
        "model": {"backbone": str(models / "llama"), "text_length": 24},
        "optim": {"lr": 3e-3, "batch": 4},
        "train": {"device": "cpu"},
        "demo": {"temperatures": []},
    }
    if "model__experts_from" in overrides:
        overrides["model__experts_from"] = str(models / overrides["model__experts_from"])
    elif "model__experts" not in overrides:
        tree["model"] |= {"expert_width": 8, "expert_inner": 16}
    for name, value in overrides.items():
        section, key = name.split("__")
        tree[section][key] = value
    return parse(tree)


def called(checks, *states):
    return {check.name for check in checks if check.status in states}


def one(checks, name):
    return next(check for check in checks if check.name == name)


FLAT = {"model__pattern": "flat", "data__window": 90}
KINDS = [
    {},
    {"model__experts_from": "musicgen", **FLAT},
    {"model__experts_from": "musicgen", "model__place": "instead", "model__vocabulary": "shared", **FLAT},
    {"model__experts": "bottleneck", "train__precision": "bf16"},
    {"model__experts": "lora", "model__dropout": 0.1, "data__text": "caption"},
    {"model__experts": "full"},
    {"model__experts": "feedforward_copy", "optim__name": "muon"},
    {"model__experts": "none", "model__train_backbone": "all"},
    {"model__caption_share": 0.3, "model__train_backbone": "head"},
]


@pytest.mark.parametrize("overrides", KINDS)
def test_a_healthy_configuration_passes(pack, models, tmp_path, overrides):
    found = preflight(config(pack, models, **overrides), runs=tmp_path / "runs")
    assert not called(found, "failed", "warn"), [check for check in found if check.status in ("failed", "warn")]
    whole = {"frozen"} if overrides.get("model__train_backbone") == "all" else set()
    assert called(found, "skipped") - whole - {"experts"} == SKIPPED
    taken = one(found, "experts")
    assert (taken.status == "ok") == any("up  " in line for line in taken.lines) == ("model__experts_from" in overrides)
    assert "stand instead" in one(found, "backbone").found or "instead" not in overrides.values()


def test_frozen_feedforwards_pass(pack, models, tmp_path):
    frozen = {"model__experts_from": "musicgen", "model__freeze": [r"experts\.\d+\.(up|down)\."]}
    found = preflight(config(pack, models, **frozen), runs=tmp_path / "runs")
    assert not called(found, "failed", "warn")
    assert "24 frozen parameters are unchanged" in one(found, "frozen").found


def test_long_captions_are_counted(pack, models, tmp_path):
    found = one(preflight(config(pack, models, model__text_length=6), runs=tmp_path / "runs"), "words")
    assert found.status == "warn" and "7 texts are cut at 6 ids" in found.found


def test_without_a_null_condition_guidance_is_refused(pack, models, tmp_path):
    found = one(preflight(config(pack, models, data__null_share=0.0), runs=tmp_path / "runs"), "guidance")
    assert found.status == "warn" and "guidance and playing without words" in found.found


def test_every_check_has_a_row_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "before_a_run.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|", page[page.index("| check | measures") :], re.MULTILINE)[1:]
    assert rows == list(CHECKS)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_experts_that_were_drawn_anew_are_named_and_no_others(pack, models, tmp_path, monkeypatch, precision):
    """Defect D4: a report that says what was copied, and weights that say otherwise."""
    copied = mixing.transplant
    made = config(pack, models, model__experts_from="musicgen", train__precision=precision, model__freeze=[r"\.up\."])
    assert experts_taken(Bench(made, tmp_path)).status == "ok"

    def drawn_again(decoder, donor):
        report = copied(decoder, donor)
        with torch.no_grad():
            decoder.experts[1].up.weight.normal_()
        return report

    monkeypatch.setattr(mixing, "transplant", drawn_again)
    found = experts_taken(Bench(made, tmp_path))
    assert found.status == "failed" and found.found.startswith("experts.1.up.weight is not ")
    assert "experts.0" not in found.found


def _pads_are_attended(patch):
    def seeing(self, *told):
        found = read(self, *told)
        return dataclasses.replace(found, mask_BM=torch.ones_like(found.mask_BM))

    read = MixtureModel._read
    patch.setattr(MixtureModel, "_read", seeing)
    return {"text": "behind the end of a text", "cache": "off those"}


def _audio_reaches_the_text(patch):
    """Its keys depend on the output rows of the codes."""
    read, initialise, beside = Llama.read, MixtureDecoder.initialise, []

    def leaking(self, ids_BM):
        keys_L, values_L = read(self, ids_BM)
        return [key + beside[0].sum() for key in keys_L], values_L

    def noting(self):
        initialise(self)
        beside[:] = [self.head.weight.detach()]

    patch.setattr(Llama, "read", leaking)
    patch.setattr(MixtureDecoder, "initialise", noting)
    return {"backbone": "keys or values of text move"}


def _experts_begin_with_noise(patch):
    initialise = FeedforwardExpert.initialise

    def noisy(self, block: LlamaBlock) -> None:
        initialise(self, block)
        with torch.no_grad():
            self.widen.weight.normal_(0.0, 0.5)

    patch.setattr(FeedforwardExpert, "initialise", noisy)
    return {"backbone": "before the first step", "init": "widen"}


def _other_positions_in_playing(patch):
    tell = mixture_cache.BehindWords.tell

    def padded(self, prefix):
        """As if the text were as long as its padding."""
        if prefix is not self.prefix:
            tell(self, prefix)
            count_B = torch.full_like(prefix.count_B, prefix.mask_BM.shape[1])
            self.prefix = dataclasses.replace(prefix, count_B=count_B)

    patch.setattr(mixture_cache.BehindWords, "tell", padded)
    return {"cache": "off those of teacher forcing"}


def _null_is_no_text_in_training(patch):
    """In training the dropped item keeps its text."""
    told = MixtureModel.told

    def keeping(self, text_BM, mask_BM, keep_B):
        return told(self, text_BM, mask_BM, torch.ones_like(keep_B) if self.training else keep_B)

    patch.setattr(MixtureModel, "told", keeping)
    return {"null condition": "is told something else"}


def _rows_see_the_future(patch):
    patch.setattr("partimento.models.mixture_decoder.behind", _everything)
    return {"causality": "differ", "cache": "off those"}


def _everything(mask_BP, steps):
    seen_BS = torch.ones(len(mask_BP), steps, dtype=torch.bool)
    return torch.cat([mask_BP, seen_BS], 1)[:, None, None].expand(-1, -1, steps, -1)


def _large_output_rows(patch):
    initialise = MixtureDecoder.initialise

    def large(self):
        initialise(self)
        with torch.no_grad():
            self.head.weight.mul_(10)

    patch.setattr(MixtureDecoder, "initialise", large)
    return {"init": "head", "initial loss": "ln 13"}


def _codes_are_read_book_by_book(patch):
    """[K, T] in place of [T, K]: ids stay legal in a shared block, and in one of its own none is."""
    codes = AudioVocabulary.codes

    def scrambled(self, ids):
        codes_TK = codes(self, ids)
        return codes_TK.reshape(codes_TK.shape[::-1]).T

    patch.setattr(AudioVocabulary, "codes", scrambled)
    return {"vocabulary": "are others when they come back"}


def _tables_without_room_for_specials(patch):
    """As wide as the codes, in the model alone: every book but the first reads rows of its neighbour."""
    init = MixtureDecoder.__init__

    def narrower(self, config):
        init(self, config)
        self.offsets_K -= torch.arange(config.codebooks)

    patch.setattr(MixtureDecoder, "__init__", narrower)
    return {"vocabulary": "the rows of the codebooks begin at"}


FAULTS = [
    _codes_are_read_book_by_book,
    _tables_without_room_for_specials,
    _pads_are_attended,
    _audio_reaches_the_text,
    _experts_begin_with_noise,
    _other_positions_in_playing,
    _null_is_no_text_in_training,
    _rows_see_the_future,
    _large_output_rows,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_program_is_named(pack, models, tmp_path, monkeypatch, fault):
    expected = fault(monkeypatch)
    found = preflight(config(pack, models), runs=tmp_path / "runs")
    assert called(found, "failed", "warn") == expected.keys(), [c for c in found if c.status in ("failed", "warn")]
    for check, word in expected.items():
        assert word in one(found, check).found and one(found, check).remedy


@pytest.mark.parametrize(
    "overrides",
    [{}, {"model__pattern": "flat", "model__vocabulary": "shared"}, {"model__experts": "lora", "model__rank": 4}],
)
def test_one_clip_is_learned_by_heart(pack, models, overrides):
    found = overfit(config(pack, models, optim__lr=1e-2, **overrides), seconds=1.0, minutes=1.0)
    assert found.equal == found.teacher_forced == 1 and found.words.startswith(("piano | clip", "drums, fast | clip"))


def test_playing_at_other_positions_does_not_give_the_clip_back(pack, models, monkeypatch):
    _other_positions_in_playing(monkeypatch)
    with pytest.raises(PartimentoError, match="LAB002"):
        overfit(config(pack, models, optim__lr=1e-2), seconds=1.0, minutes=0.3)
