"""Codecs that tests open by module:function, in this process and in encode's workers."""

import os
import time
from fractions import Fraction

import torch

from partimento.tokens.spec import CodecSpec


class ToyCodec:
    """8 kHz, hop 160: book 0 is the mean level of a frame, book 1 its first sample, both in 64 steps."""

    context_frames = 0

    def __init__(self, weights="0" * 64, cardinalities=(64, 64)):
        self.spec = CodecSpec("toycodec:open_toy", weights, 8000, Fraction(50), cardinalities)

    def encode(self, wave_BCN):
        frames = self.spec.frames(wave_BCN.shape[-1])
        padded = torch.nn.functional.pad(wave_BCN[:, 0], (0, frames * 160 - wave_BCN.shape[-1]))
        cut = padded.reshape(len(wave_BCN), frames, 160)
        values = torch.stack([cut.abs().mean(-1), cut[..., 0]], dim=-1).clamp(-1, 1)
        return ((values + 1) * 31.5).round().long()

    def decode(self, codes_BTK):
        level = codes_BTK[..., 1].float() / 31.5 - 1
        return level[:, None, :, None].expand(-1, 1, -1, 160).reshape(len(codes_BTK), 1, -1)


def open_toy():
    return ToyCodec()


def open_other():
    return ToyCodec(weights="1" * 64)


class _Trap(ToyCodec):
    """Ends or hangs its process at recordings whose first sample says so."""

    def encode(self, wave_BCN):
        mark = round(float(wave_BCN[0, 0, 0]) * 10)
        if mark == 5:
            os.abort()
        if mark == -5:
            raise RuntimeError("a fault inside of the codec")
        return super().encode(wave_BCN)


def open_trap():
    return _Trap()


class _Slow(ToyCodec):
    def encode(self, wave_BCN):
        time.sleep(0.02)
        return super().encode(wave_BCN)


def open_slow():
    return _Slow()


class _Wild(ToyCodec):
    """Gives codes that its books do not have."""

    def encode(self, wave_BCN):
        return super().encode(wave_BCN) + 64


def open_wild():
    return _Wild()


def open_broken():
    raise ImportError("no such weights")


def dies_at_the_start():
    os._exit(3)


class _Hang(ToyCodec):
    """Never comes back from a recording of 0.61 s."""

    def encode(self, wave_BCN):
        if wave_BCN.shape[-1] == 4880:
            time.sleep(600)
        return super().encode(wave_BCN)


def open_hang():
    return _Hang()


class _Drifted(ToyCodec):
    """Says that it is the toy, and rounds otherwise."""

    def encode(self, wave_BCN):
        return (super().encode(wave_BCN) + 1) % 64


def open_drifted():
    return _Drifted()
