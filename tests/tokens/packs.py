"""Packs of synthetic codes for tests."""

import json
from fractions import Fraction

import numpy as np

from partimento import commit
from partimento.tokens import manifest
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter

SPEC = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (16, 16, 12))


def codes(frames, seed, spec=SPEC):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, v, frames) for v in spec.cardinalities], axis=1)


def write_pack(folder, lengths=(40, 7, 25, 60, 33, 1, 50, 12, 80, 21), *, spec=SPEC, clips_per_shard=4, tags=None):
    writer = PackWriter(folder, spec, clips_per_shard=clips_per_shard)
    for i, frames in enumerate(lengths):
        named = tags[i] if tags else (["piano"] if i % 2 else ["drums", "120 bpm"])
        writer.add(codes(frames, i, spec), tags=named)
    return writer.finish()


def resealed(folder, change):
    """pack.json with a change, and with fingerprint and checksum made right again."""
    content = json.loads((folder / "pack.json").read_text())
    change(content)
    content["fingerprint"] = manifest.fingerprint(content)
    content["checksum"] = manifest.checksum(content)
    commit.record(folder / "pack.json", content)
