"""One vocabulary of text and audio: golden ids, the exact inverse, and what must be refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.errors import PartimentoError
from partimento.tokens import patterns
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials
from partimento.tokens.vocabulary import AudioVocabulary

LLAMA = 128_256

vocabularies = st.builds(
    AudioVocabulary,
    st.integers(0, 200_000),
    st.integers(1, 9),
    st.integers(1, 3000),
    st.sampled_from(["own", "shared"]),
)


def codes(vocabulary: AudioVocabulary, T: int, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary.cardinality, (T, vocabulary.codebooks), generator=draws)


def slow_ids(vocabulary: AudioVocabulary, codes_TK: torch.Tensor) -> list[int]:
    """The definition, code by code."""
    ids = []
    for frame in codes_TK.tolist():
        for book, code in enumerate(frame):
            ids.append(vocabulary.text + (book * vocabulary.cardinality if vocabulary.kind == "own" else 0) + code)
    return ids


@settings(max_examples=200, deadline=None)
@given(vocabularies, st.integers(0, 30), st.integers(0, 5))
def test_ids_are_the_definition_and_codes_their_inverse(vocabulary, T, seed):
    given_TK = codes(vocabulary, T, seed)
    ids = vocabulary.ids(given_TK)
    assert ids.tolist() == slow_ids(vocabulary, given_TK) and ids.dtype == torch.int64
    assert torch.equal(vocabulary.codes(ids), given_TK)
    assert all(int(one) in vocabulary.legal(place) for place, one in enumerate(ids))
    assert all(vocabulary.text <= int(one) < vocabulary.size for one in ids)
    both = torch.stack([given_TK, given_TK.flip(0)])
    assert torch.equal(vocabulary.codes(vocabulary.ids(both)), both)


@settings(max_examples=100, deadline=None)
@given(vocabularies, st.integers(0, 40))
def test_legal_blocks_are_all_that_there_is_of_audio(vocabulary, place):
    blocks = [vocabulary.block(book) for book in range(vocabulary.codebooks)]
    assert vocabulary.legal(place) == blocks[place % vocabulary.codebooks]
    assert len(vocabulary.legal(place)) == vocabulary.cardinality
    held = set().union(*blocks) if vocabulary.size < 5000 else {b[0] for b in blocks} | {b[-1] for b in blocks}
    assert min(held) == vocabulary.text and max(held) == vocabulary.size - 1
    assert len(set(blocks)) == (1 if vocabulary.kind == "shared" else vocabulary.codebooks)


def test_golden_sizes_and_ids():
    system_d = AudioVocabulary(LLAMA, 4, 2048, "shared")
    assert (system_d.size, system_d.audio) == (130_304, 2048)
    assert system_d.ids(torch.tensor([[0, 1, 2, 2047], [5, 0, 0, 0]])).tolist() == [
        *(128_256, 128_257, 128_258, 130_303),
        *(128_261, 128_256, 128_256, 128_256),
    ]
    own = AudioVocabulary(LLAMA, 4, 2048, "own")
    assert (own.size, own.audio) == (LLAMA + 8192, 8192)
    assert own.ids(torch.tensor([[0, 1, 2, 2047]])).tolist() == [128_256, 130_305, 132_354, 136_447]
    assert own.legal(0) == range(128_256, 130_304) and own.legal(7) == range(134_400, 136_448)
    assert system_d.legal(6) == range(128_256, 130_304)


def test_the_places_are_those_of_the_flat_pattern():
    """Place p of the audio is the one code of row 1 + p of the flat grid: models and exports count alike."""
    vocabulary, pattern = AudioVocabulary(100, 3, 10, "own"), Pattern.named("flat", 3)
    given_TK = codes(vocabulary, 5)
    grid_SK = patterns.apply(given_TK[None], pattern, Specials.after(10), ends=False)[0]
    for place, one in enumerate(vocabulary.ids(given_TK).tolist()):
        book = place % 3
        assert grid_SK[1 + place, book] == one - vocabulary.block(book).start


def scrambled(vocabulary: AudioVocabulary, ids: torch.Tensor) -> torch.Tensor:
    """Defect D2, as system D decoded: (K, T) read out of what is (T, K)."""
    first = torch.tensor([vocabulary.block(book).start for book in range(vocabulary.codebooks)])
    return (ids.view(vocabulary.codebooks, -1) - first[:, None]).T


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_the_scrambled_reshape_is_not_the_inverse_and_is_refused(kind):
    vocabulary = AudioVocabulary(LLAMA, 4, 2048, kind)
    given_TK = codes(vocabulary, 6)
    ids = vocabulary.ids(given_TK)
    wrong_TK = scrambled(vocabulary, ids)
    assert wrong_TK.shape == given_TK.shape and not torch.equal(wrong_TK, given_TK)
    with pytest.raises(PartimentoError) as caught:  # the [K, T] that such a reader holds in its hands
        vocabulary.ids(given_TK.T)
    assert caught.value.code == "TOKEN021"
    if kind == "own":  # book after book instead of frame by frame: every id tells its book
        with pytest.raises(PartimentoError) as caught:
            vocabulary.codes(ids.view(-1, 4).T.flatten())
        assert caught.value.code == "TOKEN022" and "place 1 " in caught.value.where
        with pytest.raises(PartimentoError):
            vocabulary.ids(wrong_TK)


@settings(max_examples=100, deadline=None)
@given(vocabularies, st.integers(1, 8), st.data())
def test_one_illegal_id_is_found_at_its_place(vocabulary, T, data):
    ids = vocabulary.ids(codes(vocabulary, T))
    place = data.draw(st.integers(0, len(ids) - 1))
    other = data.draw(st.integers(-1, vocabulary.size + 3).filter(lambda one: one not in vocabulary.legal(place)))
    ids[place] = other
    with pytest.raises(PartimentoError) as caught:
        vocabulary.codes(ids)
    assert caught.value.code == "TOKEN022" and f"place {place} of" in caught.value.where
    assert f"id {other} " in caught.value.message


def test_what_is_no_code_no_frame_and_no_vocabulary():
    vocabulary = AudioVocabulary(10, 2, 4, "own")
    for wrong, code in (
        (lambda: vocabulary.ids(torch.tensor([[0, 4]])), "TOKEN021"),
        (lambda: vocabulary.ids(torch.tensor([[0, -1]])), "TOKEN021"),
        (lambda: vocabulary.ids(torch.tensor([0, 1])), "TOKEN021"),
        (lambda: vocabulary.codes(torch.tensor([10, 14, 11])), "TOKEN022"),
        (lambda: AudioVocabulary(10, 0, 4), "TOKEN020"),
        (lambda: AudioVocabulary(-1, 2, 4), "TOKEN020"),
        (lambda: AudioVocabulary(10, 2, 4, "mine"), "TOKEN020"),
    ):
        with pytest.raises(PartimentoError) as caught:
            wrong()
        assert caught.value.code == code
    with pytest.raises(IndexError):
        vocabulary.legal(-1)
