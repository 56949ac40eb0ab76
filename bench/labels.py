"""Fit the band's ear (`partimento.lab.labels`), and measure how often it is right on loops that it was not fitted on.

    python bench/labels.py            the ear in the package: some 2 minutes on one core
    python bench/labels.py --fit      fit another one on loops of other seeds and measure that: some 6 minutes
    python bench/labels.py --write    the same, and put it into the package

Every loop is heard four times: whole and as a piece of 5 to 8 s that begins anywhere, each as it was played and as the
resident codec gives it back. Tempo is right within 4 % (an octave off is wrong), key and style exactly. The same loops
give the same weights. Prints a table with 95 % intervals (Wilson, over loops) and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from scipy.optimize import minimize

from intervals import wilson
from partimento import commit, keyed
from partimento.audio.styles import STYLES
from partimento.audio.synth import Labels, band
from partimento.codecs.codec import Codec, decode_whole, encode_whole, open_codec
from partimento.lab import labels
from partimento.lab.labels import FITTED, Estimate, Judge, key, style, tempo
from partimento.lab.labels.features import Array, Heard, listen

FIT_SEEDS, HELD_OUT_SEED = (1001, 1002), 2001  # never the bands that models are trained on: 0 and up
FIT_LOOPS, HELD_OUT_LOOPS = 320, 160
SETTINGS = ("played, whole", "played, 5 to 8 s", "codec, whole", "codec, 5 to 8 s")
WITHIN = 0.04
WEIGHT_DECAY = {"tempo": 1e-4, "key": 3e-5, "style": 1e-2}
STYLE_NAMES = tuple(one.name for one in STYLES)


@dataclass(frozen=True)
class Example:
    labels: Labels
    setting: str
    heard: Heard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="fit a judge instead of measuring the package's")
    parser.add_argument("--write", action="store_true", help="fit, and put it into the package")
    parser.add_argument("--loops", type=int, default=HELD_OUT_LOOPS, help="held-out loops that are measured")
    options = parser.parse_args()
    codec = open_codec("resident-44k")
    if options.fit or options.write:
        judge = fit([one for seed in FIT_SEEDS for one in examples(codec, seed, FIT_LOOPS)])
    else:
        judge = labels.shipped()
    results = measure(judge, list(examples(codec, HELD_OUT_SEED, options.loops)))
    if options.write:
        write(judge, Path(labels.__file__).with_name(FITTED))
    print(json.dumps({"bench": "labels", "loops": options.loops, "right": results}))


def examples(codec: Codec, seed: int, count: int) -> Iterator[Example]:
    """Each loop in the four settings."""
    for index in range(count):
        loop = band(seed, index)
        rate, whole_CN = loop.sample_rate, loop.wave_CN
        back_CN = decode_whole(codec, encode_whole(codec, whole_CN), whole_CN.shape[1])
        rng = keyed.numpy_rng("labels", seed, index)
        length = round(rng.uniform(5, 8) * rate)
        start = int(rng.integers(whole_CN.shape[1]))
        waves = [part for wave in (whole_CN, back_CN) for part in (wave, np.roll(wave, -start, axis=1)[:, :length])]
        for setting, wave_CN in zip(SETTINGS, waves, strict=True):
            yield Example(loop.labels, setting, listen(wave_CN, rate))


def measure(judge: Judge, held_out: list[Example]) -> dict[str, dict[str, float]]:
    head = "".join(f"{name:<24}" for name in ("tempo", "key", "style"))
    print(f"\n{'':<20}{'loops':<9}{head}")
    results: dict[str, dict[str, float]] = {}
    for setting in SETTINGS:
        chosen = [one for one in held_out if one.setting == setting]
        rights = [right(one.labels, labels.judged(one.heard, judge)) for one in chosen]
        line = f"{setting:<20}{len(chosen):<9}"
        results[setting] = {}
        for name in ("tempo", "key", "style"):
            hits = sum(one[name] for one in rights)
            low, high = wilson(hits, len(rights))
            results[setting][name] = hits / len(rights)
            line += f"{hits / len(rights):.3f} [{low:.3f}, {high:.3f}]".ljust(24)
        print(line, flush=True)
    return results


def right(truth: Labels, found: Estimate) -> dict[str, bool]:
    return {
        "tempo": abs(found.tempo / truth.tempo - 1) <= WITHIN,
        "key": found.key == truth.key,
        "style": found.style == truth.style,
    }


def fit(given: list[Example]) -> Judge:
    """Multinomial logistic regression with a ridge, for each of the three; the problem is convex."""
    tempi = np.stack([tempo.features(one.heard) for one in given])
    # All candidates within 1.5 % of the tempo are right; their probabilities add.
    right_tempi = np.stack([np.abs(tempo.BPM_C / one.labels.tempo - 1) < 0.015 for one in given])
    keys = np.stack([key.features(one.heard) for one in given])
    right_keys = np.stack([np.array([name == one.labels.key for name in key.KEYS]) for one in given])
    styles = np.stack([style.features(one.heard) for one in given])
    centre_F, scale_F = styles.mean(0), styles.std(0) + 1e-6
    target_N = np.array([STYLE_NAMES.index(one.labels.style) for one in given])
    style_FC, style_C = _classes((styles - centre_F) / scale_F, target_N)
    return Judge(
        _candidates(tempi, right_tempi, WEIGHT_DECAY["tempo"]),
        _candidates(keys, right_keys, WEIGHT_DECAY["key"]),
        style_FC,
        style_C,
        centre_F,
        scale_F,
        STYLE_NAMES,
    )


def _candidates(features_NCF: Array, right_NC: NDArray[np.bool_], decay: float) -> Array:
    """Weights [F] under which the right candidates of an example have the greatest share of its softmax (conditional
    logit, McFadden 1974)."""

    def loss(weights_F: Array) -> tuple[float, Array]:
        share_NC = _softmax(features_NCF @ weights_F)
        among_NC = share_NC * right_NC
        total_N = among_NC.sum(1)
        slope_NC = share_NC - among_NC / total_N[:, None]
        gradient = np.einsum("nc,ncf->f", slope_NC, features_NCF) / len(share_NC)
        return float(-np.log(total_N).mean() + decay * weights_F @ weights_F), gradient + 2 * decay * weights_F

    return _least(loss, features_NCF.shape[-1])


def _classes(features_NF: Array, target_N: NDArray[np.intp]) -> tuple[Array, Array]:
    """Weights [F, C] and biases [C] of a softmax over classes."""
    (N, F), C = features_NF.shape, len(STYLE_NAMES)
    target_NC = np.eye(C)[target_N]

    def loss(flat: Array) -> tuple[float, Array]:
        weights_FC, bias_C = flat[: F * C].reshape(F, C), flat[F * C :]
        share_NC = _softmax(features_NF @ weights_FC + bias_C)
        slope_NC = (share_NC - target_NC) / N
        value = -np.log((share_NC * target_NC).sum(1)).mean() + WEIGHT_DECAY["style"] * (weights_FC**2).sum()
        gradient_FC = features_NF.T @ slope_NC + 2 * WEIGHT_DECAY["style"] * weights_FC
        return float(value), np.concatenate([gradient_FC.ravel(), slope_NC.sum(0)])

    flat = _least(loss, (F + 1) * C)
    return flat[: F * C].reshape(F, C), flat[F * C :]


def _least(loss: Callable[[Array], tuple[float, Array]], size: int) -> Array:
    return np.asarray(minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B", options={"maxiter": 150}).x)


def _softmax(scores_NC: Array) -> Array:
    shares = np.exp(scores_NC - scores_NC.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True))


def write(judge: Judge, path: Path) -> None:
    names = ("tempo_F", "key_F", "style_FC", "style_C", "centre_F", "scale_F")
    arrays = {name: np.ascontiguousarray(getattr(judge, name), dtype=np.float32) for name in names}
    metadata: dict[str, Any] = {"styles": json.dumps(judge.styles), "fitted": f"band, seeds {FIT_SEEDS}"}
    commit.data(path, save(arrays, metadata=metadata))


if __name__ == "__main__":
    main()
