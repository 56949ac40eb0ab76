"""A trained run plays: checkpoint -> codes -> audio files, each with everything that made it beside it.

A run is played without the pack that it was trained on: what gives the ids a meaning is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import partimento
from partimento import commit
from partimento.audio import files
from partimento.codecs.codec import Codec, decode_whole, encode_whole, open_like
from partimento.codecs.layout import arrange
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.runs import checkpoint
from partimento.runs.run import Run
from partimento.sampling import probe
from partimento.sampling.generate import Played
from partimento.sampling.rules import Rules
from partimento.training.player import Player


def sample(
    run: str | Path,
    to: str | Path,
    *,
    tags: Sequence[str] = (),
    seconds: float = 10.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    seed: int = 0,
    count: int = 1,
    prompt: str | Path | None = None,
    weights: Literal["ema", "raw"] = "ema",
    codec: str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Play `count` samples of `seconds`, seeds from `seed` on, from the run's best checkpoint (else its newest).

    `prompt` is an audio file that is played on from; `seconds` then counts what is added. Writes into `to` FLAC
    files and beside each a JSON file with all that made it; returns what those hold. The same request, the same audio.
    `codec` names the codec where the name that the run's pack gives does not find it (a folder, say).

    Raises RUN001 (not a run), CKPT003 (nothing to play yet), CKPT001, CKPT004, TOKEN003 (unknown tag), SAMPLE001,
    SAMPLE002 (guidance without a condition), PACK009 (the codec here is not the run's), SAMPLE005 (the null condition
    was never trained), AUDIO... (the prompt).
    """
    progress = progress or Quiet()
    to, opened = Path(to), Run.open(run)
    path = checkpoint.best(opened.checkpoints_path) or checkpoint.newest(opened.checkpoints_path, note=progress.note)
    if path is None:
        raise PartimentoError(
            "CKPT003",
            f"the run {opened.id} has no checkpoint yet",
            where=str(opened.path),
            next=f"partimento train {opened.path}/config.json --runs {opened.path.parent} --run {opened.id}",
        )
    progress.stage("load", f"{path.name} of {opened.id}, {weights} weights")
    player = Player.from_checkpoint(path, weights)
    heard_by = open_like(player.spec, name=codec or opened.record["config"]["data"].get("codec"))
    prompt_TK = None if prompt is None else _prompt(Path(prompt), heard_by)
    frames = max(1, round(seconds * float(player.spec.frame_rate))) + (0 if prompt_TK is None else len(prompt_TK))
    seeds = [seed + number for number in range(count)]

    progress.stage("play", f"{count} x {seconds:g} s at temperature {temperature:g}")
    played = player.play(
        frames=frames,
        seeds=seeds,
        rules=Rules(temperature=temperature, top_k=top_k, top_p=top_p),
        tags=tags,
        prompt_TK=prompt_TK,
        guidance=guidance,
        progress=progress,
    )

    progress.stage("decode", "codes become audio")
    made_by = {
        "run": opened.id,
        "checkpoint": path.name,
        "weights": weights,
        "weights_sha256": commit.sha256(path / f"{'ema' if weights == 'ema' else 'model'}.safetensors"),
        "codec": player.spec.to_json(),
        "partimento": partimento.__version__,
        "tags": list(tags),
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "guidance": guidance,
        "prompt": None if prompt is None else {"file": Path(prompt).name, "sha256": commit.sha256(Path(prompt))},
        "prompt_seconds": 0.0 if prompt_TK is None else player.spec.seconds(len(prompt_TK)),
    }
    entries = []
    for number, (item_seed, item) in enumerate(zip(seeds, played, strict=True), 1):
        file = to / _name(prompt, tags, temperature, guidance, item_seed)
        entry = {"file": file.name, "seed": item_seed, **_write(file, item, heard_by, prompt_TK)}
        commit.record(file.with_suffix(".json"), {**made_by, **entry})
        entries.append({**made_by, **entry})
        progress.update(number, count)
    return entries


def _write(file: Path, item: Played, codec: Codec, prompt_TK: torch.Tensor | None) -> dict[str, Any]:
    """Decode one item into `file`; its length and what was measured of the codes that the model added."""
    codes_TK = item.codes_TK.numpy()
    clipped = files.write(file, decode_whole(codec, codes_TK), codec.spec.sample_rate)
    added = probe.probe(codes_TK[0 if prompt_TK is None else len(prompt_TK) :], codec.spec.cardinality)
    return {
        "seconds": codec.spec.seconds(len(codes_TK)),
        "ended": item.ended,
        "clipped": clipped,
        "coverage_K": added.coverage_K,
        "entropy_K": [float(value) if np.isfinite(value) else None for value in added.entropy_K],
    }


def _prompt(path: Path, codec: Codec) -> torch.Tensor:
    audio = files.read_isolated(path)
    wave_CN = arrange(audio.wave_CN, codec.spec.layout).wave_CN
    wave_CN = files.resample(wave_CN, audio.sample_rate, codec.spec.sample_rate)
    # A last frame that is not full would be heard as a short silence before what is played on.
    whole = wave_CN.shape[1] - wave_CN.shape[1] % int(codec.spec.hop)
    if whole == 0:
        raise PartimentoError(
            "SAMPLE001",
            "the prompt is shorter than one frame",
            where=str(path),
            next=f"give at least {float(codec.spec.hop) / codec.spec.sample_rate:.3f} s of audio",
        )
    return torch.from_numpy(encode_whole(codec, wave_CN[:, :whole]))


def _name(prompt: str | Path | None, tags: Sequence[str], temperature: float, guidance: float, seed: int) -> str:
    parts = [Path(prompt).stem + " continued" if prompt else "", *tags, f"t{temperature:g}"]
    parts += [f"g{guidance:g}"] if guidance != 1 else []
    parts.append(f"seed{seed}")
    text = "_".join("".join(c if c.isalnum() or c in ".-#" else "-" for c in part) for part in parts if part)
    return text[-120:] + ".flac"
