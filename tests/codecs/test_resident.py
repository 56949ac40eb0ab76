"""The codec in the package: its card, its size, its codebooks, exact lengths, and how it does on files it never saw."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from partimento.audio.spectra import mel7, si_sdr
from partimento.audio.synth import band
from partimento.codecs.codec import Codec, decode_whole, encode_whole, open_codec
from partimento.codecs.measure import low_pass, measure, usage
from partimento.codecs.resident import (
    CARD,
    HOME,
    RESIDENTS,
    WEIGHTS,
    from_weights,
    load_resident,
    pack_weights,
    read_card,
    read_network,
    start_from,
    write_codec,
)
from partimento.errors import PartimentoError
from partimento.keyed import torch_generator
from partimento.training.tasks.crops import gather
from partimento.waveform.autoencoder import Autoencoder, AutoencoderConfig

AUDIO = Path(__file__).parents[3] / "shared" / "audio"
RATE = 44100
needs_audio = pytest.mark.skipif(not AUDIO.is_dir(), reason="the recordings of ../shared/audio are not here")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return open_codec()


@pytest.fixture(scope="module")
def loops() -> list[NDArray[np.float32]]:
    """Loops of a book that the codec was not trained on."""
    return [band(900, index, seconds=4.0).wave_CN.mean(0) for index in range(4)]


@pytest.mark.parametrize("name", RESIDENTS)
def test_card_and_weights_belong_together(name: str) -> None:
    home = RESIDENTS[name]
    card, content = read_card(home), (home / WEIGHTS).read_bytes()
    assert card["name"] == name
    assert card["weights_sha256"] == hashlib.sha256(content).hexdigest()
    assert card["weights_bytes"] == len(content) <= 10_000_000
    assert sum(file.stat().st_size for file in home.iterdir()) <= 10_000_000
    assert {"name", "licence", "data", "recipe", "figures"} <= card.keys()
    assert open_codec(name).spec.codec == name
    assert card["figures"]["all"]["mel7"] <= 2.2
    assert "/" not in json.dumps(card["recipe"]["config"]["data"]["folders"])


def test_geometry_is_dac_s(codec: Codec) -> None:
    spec = codec.spec
    assert (spec.sample_rate, spec.hop, spec.cardinalities) == (44100, 512, (1024,) * 9)
    card = read_card()
    assert spec.weights == card.get("codes_sha256", card["weights_sha256"])


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    content = bytearray((HOME / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    (tmp_path / CARD).write_bytes((HOME / CARD).read_bytes())
    with pytest.raises(PartimentoError, match="damaged") as caught:
        load_resident(tmp_path)
    assert caught.value.code == "CODEC002"
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(PartimentoError) as caught:
        load_resident(tmp_path)
    assert caught.value.code == "CODEC002"


TINY = AutoencoderConfig(hop=24, width=16, encoder_layers=1, decoder_layers=1, latent=4, codebooks=2, cardinality=16)


def trained(seed: int = 0, **changes: Any) -> Autoencoder:
    """A tiny network whose weights are those of half precision, as an exported one's are."""
    torch.manual_seed(seed)
    network = Autoencoder(replace(TINY, **changes))
    wave = 0.1 * torch.randn(8, 32 * TINY.hop)
    network.set_statistics(wave)
    with torch.no_grad():
        network.quantizer.start(network.latent(wave).flatten(0, 1), torch_generator("start"))
        network.load_state_dict({name: t.half().float() for name, t in network.state_dict().items()})
    return network.eval()


def written(folder: Path, network: Autoencoder) -> Path:
    content = pack_weights(network.state_dict())
    card = {"name": "mine", "sample_rate": 44100, "network": network.config.to_json()}
    write_codec(folder, content, from_weights(content, card).card)
    return folder


def test_codes_are_named_by_what_decides_them(tmp_path: Path) -> None:
    network = trained()
    first = load_resident(written(tmp_path / "one", network))
    with torch.no_grad():
        for parameter in network.decoder.parameters():
            parameter.add_(0.25)
    better = load_resident(written(tmp_path / "two", network))
    assert better.spec == first.spec and better.card["weights_sha256"] != first.card["weights_sha256"]
    with torch.no_grad():
        network.quantizer.books_KVD[1, 3] += 0.25
    assert load_resident(written(tmp_path / "three", network)).spec.weights != first.spec.weights


def test_older_cards_name_codes_by_all_weights(tmp_path: Path) -> None:
    folder = written(tmp_path / "mine", trained())
    card = json.loads((folder / CARD).read_text())
    del card["codes_sha256"]
    for name in ("encoder", "decoder", "lookup", "factor"):
        del card["network"][name]
    (folder / CARD).write_text(json.dumps(card))
    assert load_resident(folder).spec.weights == card["weights_sha256"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"codes_sha256": "0" * 64}, "its codes are"),
        ({"network": {**TINY.to_json(), "wings": 2}}, "wings"),
        ({"network": {**TINY.to_json(), "hop": 25}}, "even hop"),
        ({"network": {**TINY.to_json(), "decoder": "stft"}}, "tensors are not"),
        ({"sample_rate": None}, "does not describe"),
    ],
)
def test_a_card_of_something_else_is_refused(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    folder = written(tmp_path / "mine", trained())
    (folder / CARD).write_text(json.dumps({**json.loads((folder / CARD).read_text()), **changed}))
    with pytest.raises(PartimentoError) as caught:
        load_resident(folder)
    assert caught.value.code == "CODEC002" and why in str(caught.value.why)


@torch.no_grad()
def test_a_training_begins_with_a_codec(tmp_path: Path) -> None:
    theirs = trained()
    folder, wave = written(tmp_path / "mine", theirs), 0.1 * torch.randn(2, 700)
    config, tensors, card = read_network(folder)
    assert config == TINY and card["name"] == "mine"
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    mine = trained(seed=1)
    start_from(mine, folder, freeze_codes=False)
    assert torch.equal(mine(wave).wave_BN, theirs(wave).wave_BN)
    assert all(parameter.requires_grad for parameter in mine.parameters())


@pytest.mark.parametrize("changes", [{}, {"decoder": "stft"}, {"decoder_layers": 2}, {"decoder": "dac"}], ids=str)
@torch.no_grad()
def test_codes_are_kept_under_any_decoder(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = trained()
    folder, wave = written(tmp_path / "mine", theirs), 0.1 * torch.randn(2, 700)
    mine = trained(seed=1, **changes)
    before = {name: tensor.clone() for name, tensor in mine.decoder.state_dict().items()}
    start_from(mine, folder, freeze_codes=True)
    assert torch.equal(mine.encode(wave), theirs.encode(wave))
    assert all(parameter.requires_grad == name.startswith("decoder.") for name, parameter in mine.named_parameters())
    kept = all(torch.equal(tensor, before[name]) for name, tensor in mine.decoder.state_dict().items())
    assert kept == bool(changes)
    assert load_resident(written(tmp_path / "next", mine)).spec == load_resident(folder).spec


@pytest.mark.parametrize(
    ("changes", "freeze"), [({"latent": 5}, True), ({"encoder": "dac"}, True), ({"decoder": "stft"}, False)], ids=str
)
def test_a_training_of_another_network_is_refused(tmp_path: Path, changes: dict[str, Any], freeze: bool) -> None:
    folder, mine = written(tmp_path / "mine", trained()), trained(seed=1, **changes)
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    with pytest.raises(PartimentoError) as caught:
        start_from(mine, folder, freeze_codes=freeze)
    assert caught.value.code == "CODEC040"
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())


@settings(max_examples=15, deadline=None)
@given(samples=st.one_of(st.integers(1, 1537), st.integers(1, 20000)))
def test_lengths_are_exact(codec: Codec, samples: int) -> None:
    wave_1N = band_noise(samples)
    codes_TK = encode_whole(codec, wave_1N)
    assert codes_TK.shape == (math.ceil(samples / 512), 9)
    assert codes_TK.min() >= 0 and codes_TK.max() < 1024
    assert decode_whole(codec, codes_TK, samples=samples).shape == (1, samples)


def band_noise(samples: int) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(samples).standard_normal((1, samples))).astype(np.float32)


def test_chunked_equals_whole(codec: Codec, loops: list[NDArray[np.float32]]) -> None:
    wave_1N = np.concatenate(loops[:2])[None]
    whole = encode_whole(codec, wave_1N, chunk_seconds=1000.0)
    chunked = encode_whole(codec, wave_1N, chunk_seconds=1.0)
    assert int((whole != chunked).sum()) == 0
    np.testing.assert_allclose(
        decode_whole(codec, whole, chunk_seconds=1.0), decode_whole(codec, whole, chunk_seconds=1000.0), atol=1e-5
    )


def test_batch_equals_single(codec: Codec, loops: list[NDArray[np.float32]]) -> None:
    waves = torch.from_numpy(np.stack([wave[:60000] for wave in loops[:3]]))[:, None]
    codes = codec.encode(waves)
    decoded = codec.decode(codes)
    for b in range(3):
        assert torch.equal(codec.encode(waves[b : b + 1])[0], codes[b])
        assert torch.allclose(codec.decode(codes[b : b + 1])[0], decoded[b], atol=1e-5)


def test_silence_stays_silent(codec: Codec) -> None:
    silence = np.zeros((1, 44100), np.float32)
    back = decode_whole(codec, encode_whole(codec, silence), samples=44100)
    assert float(np.sqrt(np.square(back).mean())) < 10 ** (-70 / 20)


def test_every_codebook_is_used_on_music_it_never_heard(codec: Codec, loops: list[NDArray[np.float32]]) -> None:
    measured = measure(codec, loops)
    assert min(measured.entropy_K) > 0.4 * 10
    assert measured.mel7 < 2.2 < measured.mel7_low_pass


def test_coarse_codes_are_a_coarse_rendering(codec: Codec, loops: list[NDArray[np.float32]]) -> None:
    wave = torch.from_numpy(loops[0])[None]
    codes = codec.encode(wave[:, None])
    distances = [float(mel7(codec.decode(codes[..., :k])[:, 0, : wave.shape[1]], wave, RATE)) for k in (1, 3, 9)]
    assert distances[0] > distances[1] > distances[2]


@needs_audio
def test_recordings_it_never_saw(codec: Codec) -> None:
    from partimento.config import SoundData

    held_out = gather(SoundData(folders=[str(AUDIO / "loops"), str(AUDIO / "tunes")], band_loops=0), RATE).held_out
    assert len(held_out) >= 20
    by_kind = {
        kind: measure(codec, [r.wave_N[: 2 * RATE] for r in held_out if r.kind == kind]) for kind in ("loops", "tunes")
    }
    assert all(measured.mel7 <= 2.2 for measured in by_kind.values())
    assert all(min(measured.entropy_K) > 0.4 * 10 for measured in by_kind.values())


def test_usage_closed_form() -> None:
    codes = np.array([[0, 1], [1, 1], [2, 1], [3, 1]])
    entropy, used = usage(codes, (4, 8))
    assert entropy == [2.0, 0.0] and used == [1.0, 0.125]


def test_low_pass_keeps_what_is_below() -> None:
    time = torch.arange(44100) / RATE
    low, high = torch.sin(2 * math.pi * 500 * time)[None], torch.sin(2 * math.pi * 5000 * time)[None]
    assert float(si_sdr(low_pass(low + high, RATE), low)) > 60
