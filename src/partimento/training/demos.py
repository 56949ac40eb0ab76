"""Demos: what the model plays during training, with the ceiling that its codec sets beside it.

    demos/step-000012000/
      demos.json                    {"step", "demos": [entry, ...], "original_missing": why or null}
      original.flac                 a held-out recording, where the folder of recordings is known (`demo.recordings`)
      reconstruction.flac           its codes, decoded: nothing that the model plays can sound better
      ema_t1_seed0.flac ...         played from nothing, at each temperature and seed, with fixed seeds
      continuation_....flac         the held-out clip's first seconds, then the model

Nothing here draws from the global generators, and the weights are put in and taken out by the engine's `using`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from partimento import commit
from partimento.audio import files
from partimento.codecs.codec import Codec, decode_whole
from partimento.config import RvqConfig
from partimento.models.decoder import CodeDecoder
from partimento.runs.checkpoint import step_name
from partimento.sampling import probe
from partimento.sampling.generate import Played
from partimento.sampling.rules import Rules
from partimento.tokens.pack import Pack
from partimento.training.player import Player
from partimento.training.task import Using

PROMPT_SECONDS = 2.0


class Demos:
    """Plays one run's demos. Of the clips held out, the first that is long enough is heard, else the longest."""

    def __init__(
        self, config: RvqConfig, pack: Pack, player: Player, codec: Codec, held_out: NDArray[np.integer]
    ) -> None:
        self.config, self.pack, self.player, self.codec = config, pack, player, codec
        wanted = self._frames(PROMPT_SECONDS + config.demo.seconds)
        lengths = pack.clips.frames[held_out]
        long_enough = np.flatnonzero(lengths >= wanted)
        self.clip = int(held_out[long_enough[0] if len(long_enough) else lengths.argmax()])

    def make(self, root: Path, step: int, using: Using) -> Path:
        """Write `root/step-N`."""
        path = root / step_name(step)
        with commit.folder(path) as folder:
            ceiling, missing = self._ceiling(folder)
            entries = [*ceiling, *self._played(folder, using), self._continuation(folder, using)]
            commit.record(folder / "demos.json", {"step": step, "demos": entries, "original_missing": missing})
        return path

    def _ceiling(self, folder: Path) -> tuple[list[dict[str, Any]], str | None]:
        name, frames = self.pack.clips.clip[self.clip], self._frames(self.config.demo.seconds)
        codes_TK = self.pack.read(self.clip, 0, min(frames, int(self.pack.clips.frames[self.clip])))
        entry = {"kind": "reconstruction", "clip": name} | self._write(folder / "reconstruction.flac", codes_TK)
        original, missing = self._original()
        if original is None:
            return [entry], missing
        audio = files.read(original)
        wave_CN = audio.wave_CN[:, : round(len(codes_TK) / float(self.pack.spec.frame_rate) * audio.sample_rate)]
        metrics: dict[str, Any] = {"peak": _peak(wave_CN)}
        metrics["clipped"] = files.write(folder / "original.flac", wave_CN, audio.sample_rate)
        return [{"kind": "original", "clip": name, "file": "original.flac", "metrics": metrics}, entry], None

    def _original(self) -> tuple[Path | None, str | None]:
        """The recording of the held-out clip, or why it is not shown."""
        if self.config.demo.recordings is None:
            return None, "demo.recordings does not say where the recordings are"
        path = Path(self.config.demo.recordings) / self.pack.clips.clip[self.clip]
        if not path.is_file():
            return None, f"{path} does not exist"
        if commit.sha256(path) != self.pack.clips.sha256[self.clip]:
            return None, f"{path} is not the file that was encoded"
        return path, None

    def _played(self, folder: Path, using: Using) -> list[dict[str, Any]]:
        """Every temperature with the averaged weights; the raw ones at 1 (or the highest) for comparison."""
        demo, averaged = self.config.demo, self.config.optim.ema > 0
        common = 1.0 if 1.0 in demo.temperatures else max(demo.temperatures)
        plan = [("ema" if averaged else "raw", temperature) for temperature in demo.temperatures]
        if averaged:
            plan.append(("raw", common))
        entries = []
        for weights, temperature in plan:
            seeds = demo.seeds if temperature > 0 else demo.seeds[:1]  # greedy is the same for every seed
            with using(weights) as module:
                items = replace(self.player, decoder=cast(CodeDecoder, module)).play(
                    frames=self._frames(demo.seconds), seeds=seeds, rules=self._rules(temperature), tags=demo.tags
                )
            for seed, played in zip(seeds, items, strict=True):
                file = folder / f"{weights}_t{temperature:g}_seed{seed}.flac"
                entries.append(self._entry("played", file, played, weights, temperature, seed, demo.tags))
        return entries

    def _continuation(self, folder: Path, using: Using) -> dict[str, Any]:
        """The clip's own tags and first seconds, then as long as a demo is, at temperature 1 (or the highest)."""
        demo, weights = self.config.demo, "ema" if self.config.optim.ema > 0 else "raw"
        temperature = 1.0 if 1.0 in demo.temperatures else max(demo.temperatures)
        prompt = min(self._frames(PROMPT_SECONDS), max(1, int(self.pack.clips.frames[self.clip]) // 2))
        prompt_TK = torch.from_numpy(self.pack.read(self.clip, 0, prompt).astype(np.int64))
        tags = [tag for tag in self.pack.clips.tags[self.clip] if tag in self.player.tags]
        seed = demo.seeds[0]
        with using(weights) as module:
            (played,) = replace(self.player, decoder=cast(CodeDecoder, module)).play(
                frames=prompt + self._frames(demo.seconds),
                seeds=[seed],
                rules=self._rules(temperature),
                tags=tags,
                prompt_TK=prompt_TK,
            )
        file = folder / f"continuation_{weights}_t{temperature:g}_seed{seed}.flac"
        entry = self._entry("continuation", file, played, weights, temperature, seed, tags, prompt=prompt)
        seconds = prompt / float(self.pack.spec.frame_rate)
        return entry | {
            "clip": self.pack.clips.clip[self.clip],
            "prompt": self._prompt_text(seconds),
            "prompt_seconds": seconds,
        }

    def _prompt_text(self, seconds: float) -> str:
        return f"{self.pack.clips.clip[self.clip]}, first {seconds:.1f} s"

    def _entry(
        self,
        kind: str,
        file: Path,
        played: Played,
        weights: str,
        temperature: float,
        seed: int,
        tags: Sequence[str],
        *,
        prompt: int = 0,
    ) -> dict[str, Any]:
        codes_TK = played.codes_TK.numpy()
        entry = self._write(file, codes_TK, prompt=prompt)
        entry["metrics"]["model_entropy_K"] = _numbers(played.entropy_K.tolist())
        return {
            "kind": kind,
            "weights": weights,
            "temperature": temperature,
            "guidance": 1.0,
            "top_k": self.config.demo.top_k,
            "top_p": self.config.demo.top_p,
            "seed": seed,
            "tags": list(tags),
            "prompt": None,
            "ended": played.ended,
        } | entry

    def _write(self, file: Path, codes_TK: NDArray[Any], *, prompt: int = 0) -> dict[str, Any]:
        """Decode to `file`; its name, its lengths, and metrics of the codes after the prompt.

        The sound itself is measured by who reads it (`lab.measures`), from the file.
        """
        spec = self.pack.spec
        wave_CN = decode_whole(self.codec, codes_TK)
        new = probe.probe(codes_TK[prompt:], spec.cardinality)
        metrics = {
            "peak": _peak(wave_CN),
            "entropy_K": _numbers(new.entropy_K),
            "coverage_K": new.coverage_K,
            "repetition": _numbers(new.repetition_K),
        }
        metrics["clipped"] = files.write(file, wave_CN, spec.sample_rate)
        return {"file": file.name, "frames": len(codes_TK), "seconds": spec.seconds(len(codes_TK)), "metrics": metrics}

    def _frames(self, seconds: float) -> int:
        return max(1, round(seconds * self.pack.spec.frame_rate))

    def _rules(self, temperature: float) -> Rules:
        return Rules(temperature=temperature, top_k=self.config.demo.top_k, top_p=self.config.demo.top_p)


def _peak(wave_CN: NDArray[np.float32]) -> float:
    return float(np.abs(wave_CN).max(initial=0.0))


def _numbers(values: Sequence[float]) -> list[float | None]:
    """JSON has no NaN: what nothing was measured on is null."""
    return [value if math.isfinite(value) else None for value in values]
