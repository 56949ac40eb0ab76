"""Demos: what the model plays during training, with the ceiling that its codec sets beside it.

    demos/data.json                      the figures of held-out windows as long as the demos (`figures.Yardstick`)
    demos/step-000012000/
      demos.json                         what each file is, and all figures (`runs.demos`)
      original.flac                      a held-out recording, where their folder is known (`demo.recordings`)
      reconstruction.flac                its codes, decoded: nothing that the model plays can sound better
      ema_techno_t1_g3_seed0.flac ...    played from nothing: prompts x temperatures x guidance x seeds (`plan`)
      continuation_ema_t1_seed0.flac     the held-out clip's first seconds, then the model, told the clip's own words

Nothing here draws from the global generators, and the weights are put in and taken out by the engine's `using`. The
model plays on its device; sounds are decoded and measured on the CPU, meanwhile where these are two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from partimento import commit
from partimento.audio import files
from partimento.codecs.codec import Codec, decode_whole
from partimento.config import CodesConfig
from partimento.errors import PartimentoError
from partimento.runs import demos as sheet
from partimento.runs.checkpoint import step_name
from partimento.sampling.generate import Played
from partimento.sampling.guidance import Guidance
from partimento.tokens.pack import Pack
from partimento.tokens.text import NO_WORDS, Words
from partimento.training.demos import figures
from partimento.training.demos.figures import Yardstick
from partimento.training.demos.plan import Round, prompts, rounds, rules, usual_temperature
from partimento.training.player import Player
from partimento.training.task import Using

__all__ = ["PROMPT_SECONDS", "Demos", "prompts"]

PROMPT_SECONDS = 2.0
Entry = dict[str, Any]


class Demos:
    """Plays one run's demos. Of the clips held out, the first that is long enough is heard, else the longest.

    `words_of` tells what there is to tell of a clip. Raises what `plan.prompts` does, before anything is played.
    """

    def __init__(
        self,
        config: CodesConfig,
        pack: Pack,
        player: Player,
        codec: Codec,
        held_out: NDArray[np.integer],
        words_of: Callable[[int], Words],
    ) -> None:
        self.config, self.demo, self.pack, self.player, self.codec = config, config.demo, pack, player, codec
        self.averaged = config.optim.ema > 0
        self.rounds = rounds(self.demo, player, averaged=self.averaged)
        self.yardstick = Yardstick(pack, codec, held_out, self._frames(self.demo.seconds))
        wanted = self._frames(PROMPT_SECONDS + self.demo.seconds)
        lengths = pack.clips.frames[held_out]
        long_enough = np.flatnonzero(lengths >= wanted)
        self.clip = int(held_out[long_enough[0] if len(long_enough) else lengths.argmax()])
        self.words, self.not_continued = self._words(words_of(self.clip))

    def make(self, root: Path, step: int, using: Using) -> Path:
        """Write `root/step-N`."""
        path = root / step_name(step)
        data = self.yardstick.figures(root / "data.json")
        with commit.folder(path) as folder:
            ceiling, missing = self._ceiling(folder)
            with _beside(self.player.decoder.embedding.device) as submit:
                waiting = [*self._played(folder, using, submit), *self._continuation(folder, using, submit)]
                made = [entry.result() for entry in waiting]
            content = {
                "schema": sheet.SCHEMA,
                "step": step,
                "demos": [*ceiling, *made],
                "original_missing": missing,
                "continuation_missing": self.not_continued,
                "data": data,
                "figures": _aggregates(made),
            }
            commit.record(folder / sheet.NAME, content)
        return path

    def _words(self, words: Words) -> tuple[Words | None, str | None]:
        """What the held-out clip's continuation is told: its words, or as many of them as this model can be told."""
        known = self.player.coder.tags
        spelled = self.player.reads_text and not known
        tags = words.tags if spelled else tuple(tag for tag in words.tags if tag in known)
        why = None
        for told in (Words(tags, words.text), Words(tags), Words((), words.text), NO_WORDS):
            try:
                return self.player.require(told), None
            except PartimentoError as err:
                why = why or f"{err.message} ({err.code})"
        return None, why

    def _ceiling(self, folder: Path) -> tuple[list[Entry], str | None]:
        name, frames = self.pack.clips.clip[self.clip], self._frames(self.demo.seconds)
        codes_TK = self.pack.read(self.clip, 0, min(frames, int(self.pack.clips.frames[self.clip])))
        entry = {"kind": "reconstruction", "clip": name} | self._write(folder / "reconstruction.flac", codes_TK)
        original, missing = self._original()
        if original is None:
            return [entry], missing
        audio = files.read(original)
        wave_CN = audio.wave_CN[:, : round(len(codes_TK) / float(self.pack.spec.frame_rate) * audio.sample_rate)]
        metrics: Entry = {"peak": _peak(wave_CN), **figures.of_sound(wave_CN, audio.sample_rate)}
        metrics["clipped"] = files.write(folder / "original.flac", wave_CN, audio.sample_rate)
        return [{"kind": "original", "clip": name, "file": "original.flac", "metrics": metrics}, entry], None

    def _original(self) -> tuple[Path | None, str | None]:
        """The recording of the held-out clip, or why it is not shown."""
        if self.demo.recordings is None:
            return None, "demo.recordings does not say where the recordings are"
        path = Path(self.demo.recordings) / self.pack.clips.clip[self.clip]
        if not path.is_file():
            return None, f"{path} does not exist"
        if commit.sha256(path) != self.pack.clips.sha256[self.clip]:
            return None, f"{path} is not the file that was encoded"
        return path, None

    def _played(self, folder: Path, using: Using, submit: Submit) -> Iterator[Future[Entry]]:
        """What is played from nothing, batch by batch; each set of weights is put in once."""
        for weights in dict.fromkeys(round_.weights for round_ in self.rounds):
            with using(weights) as module:
                player = replace(self.player, module=cast(Any, module))
                for round_ in self.rounds:
                    if round_.weights == weights:
                        yield from self._play(folder, player, round_, submit)

    def _play(self, folder: Path, player: Player, round_: Round, submit: Submit) -> Iterator[Future[Entry]]:
        items = player.play(
            frames=self._frames(self.demo.seconds),
            seeds=[item.seed for item in round_.items],
            words=[item.words for item in round_.items],
            rules=rules(self.demo, round_.temperature),
            guidance=Guidance(round_.guidance, rule=self.player.rule),
        )
        for item, played in zip(round_.items, items, strict=True):
            file = folder / f"{round_.stem(item)}.flac"
            asked = self._asked("played", round_.weights, round_.temperature, round_.guidance, item.seed, item.words)
            yield submit(partial(self._entry, asked, file, played))

    def _continuation(self, folder: Path, using: Using, submit: Submit) -> list[Future[Entry]]:
        """The clip's own words and first seconds, then as long as a demo is, at the usual temperature."""
        if self.words is None:
            return []
        weights, seed = "ema" if self.averaged else "raw", self.demo.seeds[0]
        temperature = usual_temperature(self.demo.temperatures)
        prompt = min(self._frames(PROMPT_SECONDS), max(1, int(self.pack.clips.frames[self.clip]) // 2))
        prompt_TK = torch.from_numpy(self.pack.read(self.clip, 0, prompt).astype(np.int64))
        with using(weights) as module:
            (played,) = replace(self.player, module=cast(Any, module)).play(
                frames=prompt + self._frames(self.demo.seconds),
                seeds=[seed],
                words=self.words,
                rules=rules(self.demo, temperature),
                prompt_BTK=prompt_TK[None],
            )
        name, seconds = self.pack.clips.clip[self.clip], prompt / float(self.pack.spec.frame_rate)
        asked = self._asked("continuation", weights, temperature, 1.0, seed, self.words)
        asked |= {"clip": name, "prompt": f"{name}, first {seconds:.1f} s", "prompt_seconds": seconds}
        file = folder / f"continuation_{weights}_t{temperature:g}_seed{seed}.flac"
        return [submit(partial(self._entry, asked, file, played, prompt=prompt))]

    def _asked(self, kind: str, weights: str, temperature: float, guidance: float, seed: int, words: Words) -> Entry:
        return {
            "kind": kind,
            "weights": weights,
            "temperature": temperature,
            "guidance": guidance,
            "top_k": self.demo.top_k,
            "top_p": self.demo.top_p,
            "seed": seed,
            "words": words.to_json(),
            "prompt": None,
        }

    def _entry(self, asked: Entry, file: Path, played: Played, *, prompt: int = 0) -> Entry:
        entry = self._write(file, played.codes_TK.numpy(), prompt=prompt)
        entry["metrics"]["model_entropy_K"] = figures.numbers(played.entropy_K.tolist())
        return asked | {"ended": played.ended} | entry

    def _write(self, file: Path, codes_TK: NDArray[Any], *, prompt: int = 0) -> Entry:
        """Decode to `file`; its name, its lengths, and the figures of what comes after the prompt."""
        spec = self.pack.spec
        wave_CN = decode_whole(self.codec, codes_TK)
        metrics: Entry = {"peak": _peak(wave_CN), **figures.of_codes(codes_TK[prompt:], spec)}
        metrics |= figures.of_sound(wave_CN[:, spec.samples(prompt) :], spec.sample_rate)
        metrics["clipped"] = files.write(file, wave_CN, spec.sample_rate)
        return {"file": file.name, "frames": len(codes_TK), "seconds": spec.seconds(len(codes_TK)), "metrics": metrics}

    def _frames(self, seconds: float) -> int:
        return max(1, round(seconds * self.pack.spec.frame_rate))


Submit = Callable[[Callable[[], Entry]], Future[Entry]]


@contextlib.contextmanager
def _beside(device: torch.device) -> Iterator[Submit]:
    """A place for work of the CPU: a thread of its own, unless the model itself plays on the CPU; then it is done at
    once, since two would only take turns. What is left when an error comes is dropped, and no file is written after."""
    if device.type == "cpu":
        yield _at_once
        return
    worker = ThreadPoolExecutor(1, thread_name_prefix="demos")
    try:
        yield worker.submit
    finally:
        worker.shutdown(wait=True, cancel_futures=True)


def _at_once(work: Callable[[], Entry]) -> Future[Entry]:
    done: Future[Entry] = Future()
    done.set_result(work())
    return done


def _aggregates(entries: Sequence[Entry]) -> list[Entry]:
    """One row of figures for each (weights, temperature, guidance, told): what was told something or nothing apart."""
    groups: dict[tuple[str, float, float, bool], list[Entry]] = {}
    for entry in entries:
        if entry["kind"] == "played":
            told = bool(entry["words"]["tags"] or entry["words"]["text"])
            groups.setdefault((entry["weights"], entry["temperature"], entry["guidance"], told), []).append(entry)
    return [
        dict(zip(("weights", "temperature", "guidance", "told"), key, strict=True))
        | figures.together([entry["metrics"] for entry in group])
        | {"ended": sum(entry["ended"] for entry in group) / len(group)}
        for key, group in groups.items()
    ]


def _peak(wave_CN: NDArray[np.float32]) -> float:
    return float(np.abs(wave_CN).max(initial=0.0))
