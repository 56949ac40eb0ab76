"""The pack's codec, opened when there is something to hear with it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from partimento.audio import files
from partimento.tokens.spec import CodecSpec

if TYPE_CHECKING:
    from partimento.codecs.codec import Codec

WaveCN = NDArray[np.float32]


class Ears:
    """Sound to codes of `spec` and back; `name` as in `codecs.codec.open_like`, which raises PACK009."""

    def __init__(self, spec: CodecSpec, name: str | None = None) -> None:
        self.spec, self._name = spec, name

    @cached_property
    def codec(self) -> Codec:
        from partimento.codecs.codec import open_like

        return open_like(self.spec, name=self._name)

    def hear(self, wave_CN: WaveCN, sample_rate: int) -> NDArray[np.uint16]:
        """Codes [T, K]."""
        from partimento.codecs.codec import encode_whole
        from partimento.codecs.layout import arrange

        heard_CN = files.resample(wave_CN, sample_rate, self.spec.sample_rate)
        return encode_whole(self.codec, arrange(heard_CN, self.spec.layout).wave_CN).astype(np.uint16)

    def sound(self, codes_TK: NDArray[np.uint16]) -> WaveCN:
        """As a file of 16 bits holds it."""
        from partimento.codecs.codec import decode_whole

        wave_CN = np.clip(decode_whole(self.codec, codes_TK), -1, 1 - 2.0**-15)
        return np.asarray(np.rint(wave_CN * 2.0**15) / 2.0**15, dtype=np.float32)

    def again(self, codes_TK: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """The codes of the sound of these codes, [T, K]: what a file that was played is when it is heard."""
        return self.hear(self.sound(codes_TK), self.spec.sample_rate)
