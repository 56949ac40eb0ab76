"""Mutated files: whatever the damage, a read ends in a coded error or in sound that is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partimento.audio import files
from partimento.errors import PartimentoError, explanations

FUZZ = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CHECKED = ("flac", "flac24", "ogg", "opus")  # formats whose checksums cover the sound

mutation = st.one_of(
    st.tuples(
        st.just("flip"),
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=30),
    ),
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True)),
    st.tuples(st.just("fill"), st.floats(0, 1, exclude_max=True), st.integers(1, 2000), st.integers(0, 255)),
    st.tuples(st.just("remove"), st.floats(0, 1, exclude_max=True), st.integers(1, 2000)),
    st.tuples(st.just("insert"), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=100)),
    st.tuples(st.just("head"), st.integers(0, 120), st.binary(min_size=1, max_size=8)),
)


def mutated(content: bytes, how: tuple) -> bytes:
    out = bytearray(content)
    at = int(how[1] * len(out)) if isinstance(how[1], float) else 0
    match how:
        case ("flip", places):
            for share, bit in places:
                out[int(share * len(out))] ^= 1 << bit
        case ("cut", _):
            del out[at:]
        case ("fill", _, count, value):
            out[at : at + count] = bytes([value]) * len(out[at : at + count])
        case ("remove", _, count):
            del out[at : at + count]
        case ("insert", _, extra):
            out[at:at] = extra
        case ("head", place, extra):
            out[place : place + len(extra)] = extra
    return bytes(out)


@pytest.mark.parametrize("kind", ["wav", "float", "aiff", "flac", "flac24", "ogg", "opus", "mp3"])
@FUZZ
@given(how=mutation)
def test_mutated_file(good: dict[str, Path], tmp_path: Path, kind: str, how: tuple) -> None:
    whole = files.read(good[kind])
    path = tmp_path / f"mutated.{kind}"
    content = good[kind].read_bytes()
    path.write_bytes(mutated(content, how))
    try:
        found = files.read(path)
    except PartimentoError as err:
        assert err.code in explanations() and err.code.startswith("AUDIO")
        return
    assert np.isfinite(found.wave_CN).all() and np.abs(found.wave_CN).max() <= 4
    if kind == "mp3" and path.read_bytes()[:417] != content[:417]:
        # Without the encoder's record (the first frame) nothing is checked, nor the encoder's delay taken off.
        assert abs(found.wave_CN.shape[1] - whole.wave_CN.shape[1]) < 2 * 1152
    elif kind in CHECKED or kind == "mp3":
        np.testing.assert_array_equal(found.wave_CN, whole.wave_CN)
        assert found.sample_rate == whole.sample_rate
    elif how[0] in ("cut", "flip", "fill"):  # no checksum: other samples, but as many, unless the header says otherwise
        assert found.wave_CN.shape == whole.wave_CN.shape


HEADS = (b"", b"RIFF\x40\0\0\0WAVE", b"RF64\xff\xff\xff\xffWAVEds64", b"FORM\0\0\0\x30AIFF", b"fLaC", b"OggS\0\2")
HEADS += (b"ID3\4\0\0", b"\xff\xfb\x90\x64")


@FUZZ
@given(content=st.binary(max_size=300), head=st.sampled_from(HEADS))
def test_rubbish(tmp_path: Path, content: bytes, head: bytes) -> None:
    path = tmp_path / "rubbish.wav"
    path.write_bytes(head + content)
    with pytest.raises(PartimentoError) as caught:
        files.read(path)
    assert caught.value.code.startswith("AUDIO")
