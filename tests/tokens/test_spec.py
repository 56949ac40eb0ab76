from fractions import Fraction

import pytest

from partimento.tokens.spec import CodecSpec, Specials

DAC = CodecSpec("x", "00", 44100, Fraction(44100, 512), (1024,) * 9)


def test_lengths_are_exact():
    assert DAC.hop == 512 and DAC.codebooks == 9
    assert [DAC.frames(n) for n in (0, 1, 512, 513)] == [0, 1, 1, 2]
    assert DAC.samples(3) == 1536
    # A frame rate that is no divisor of the sample rate: 25 Hz at 44.1 kHz is 1764; 12.5 Hz at 24 kHz 1920.
    odd = CodecSpec("x", "00", 44100, Fraction(172, 3), (4,))
    assert odd.frames(44100 * 3) == 172 and odd.samples(172) == 44100 * 3


def test_json_round_trip():
    assert CodecSpec.from_json(DAC.to_json()) == DAC


def test_codes_that_uint16_cannot_hold_are_refused():
    with pytest.raises(ValueError):
        CodecSpec("x", "00", 44100, Fraction(50), (70000,))


def test_specials():
    assert Specials.after(1024) == Specials(1024, 1025, 1026)
    assert Specials.after(1024).rows == 1027
    assert Specials.musicgen(2048).rows == 2049
