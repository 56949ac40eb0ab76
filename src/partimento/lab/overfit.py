"""`preflight --overfit`: one clip is learned by heart and must come back, code for code, from a greedy playing.

It uses the owners that training and sampling use (window, loss, model, condition, cache): a shifted pattern, a
condition that differs or a cache that disagrees does not give the clip back, nor does a model that leaned on a future
which playing does not have. (That the mask is causal is a cheap check of its own, see `preflight`.)
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partimento.config import CodesConfig, DiaConfig, Optim, RvqConfig, parse
from partimento.errors import PartimentoError
from partimento.keyed import key
from partimento.models.conditions import Told
from partimento.models.loss import code_loss
from partimento.progress import Progress, Quiet
from partimento.sampling.generate import generate
from partimento.sampling.rules import Rules
from partimento.tokens.pack import Pack
from partimento.tokens.patterns import Pattern, window
from partimento.tokens.tagtable import tag_table
from partimento.tokens.text import NO_WORDS, Words
from partimento.training import building, devices
from partimento.training.objective import tell
from partimento.training.optim import Optimizers
from partimento.training.player import Player
from partimento.training.schedule import shape

CANDIDATES = 32  # clips looked at, to take the most varied: a clip of silence is learned by any model
LEARNING = Optim(lr=1e-3, warmup=10, weight_decay=0.0, min_lr=1.0, ema=0.0)
TRIES = 5  # playings that may fail after every code is known, before the cause cannot be a near tie any more
BETWEEN_TRIES = 20  # steps


@dataclass(frozen=True)
class OverfitResult:
    """Of a success `equal` is 1 and `first_mismatch` None; the error of a failure carries one in its context."""

    clip: str
    words: str
    audio_seconds: float
    frames: int
    codebooks: int
    steps: int
    seconds: float
    loss: float
    teacher_forced: float
    equal: float
    first_mismatch: tuple[int, int] | None  # frame, codebook (both from 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def overfit(
    config: CodesConfig | str | Path, *, seconds: float = 5.0, minutes: float = 5.0, progress: Progress | None = None
) -> OverfitResult:
    """Learn the first `seconds` of one clip of the pack by heart and play them greedily from BOS alone.

    `config` is a configuration of the `rvq`, `dia` or `mot` family, or the folder of a pack (then with the default
    `rvq` model). Dropout, weight decay and tag dropout are off, and the whole crop is one window. A model that reads
    text is told the words of the clip, any other one the null condition, in learning and playing. Ends as soon as the
    playing equals the clip in every code of every book.

    Raises LAB001 (not learned within `minutes`), LAB002 (learned, but the playing differs), and the errors of the pack.
    """
    progress = progress or Quiet()
    if isinstance(config, str | Path):
        parsed = parse({"family": "rvq", "data": {"pack": str(config)}})
        assert isinstance(parsed, RvqConfig)
        config = parsed
    pack = Pack.open(config.data.pack)
    device = devices.pick(config.train.device)
    with devices.reproducible(device):
        torch.manual_seed(key(config.train.seed, "weights"))
        return _Attempt(config, pack, seconds, device).run(minutes, progress)


class _Attempt:
    """One clip, one model, and what is known of both."""

    def __init__(self, config: CodesConfig, pack: Pack, seconds: float, device: torch.device) -> None:
        self.spec = pack.spec
        tells = not isinstance(config, RvqConfig)
        self.clip, self.codes_TK = _varied_crop(pack, max(1, round(seconds * float(pack.spec.frame_rate))), tells)
        self.clip_id = str(pack.clips.clip[self.clip])
        self.words = _words_of(pack, self.clip) if tells else NO_WORDS
        frames = len(self.codes_TK)
        calm = {"dropout": 0.0, **({"lora_dropout": 0.0} if isinstance(config, DiaConfig) else {})}
        still = config.model_copy(update={"model": config.model.model_copy(update=calm)})
        # (Weights from elsewhere have positions and, it may be, a pattern of their own.)
        pattern = Pattern.named(config.model.pattern or "delay", pack.spec.codebooks, pack.spec.books)
        positions = pattern.steps(frames, ends=False)
        built = building.build(still, pack.spec, _tags(config, pack), positions)
        self.pattern, self.specials, self.coder = built.pattern, built.specials, built.coder
        self.module = built.module.to(device).train()
        # The rows of the whole clip's grid, as a training window has them: after the last frame of the crop the early
        # codebooks hold what really follows.
        grid_SK = window(
            lambda first, last: pack.read(self.clip, first, last),
            int(pack.clips.frames[self.clip]),
            self.pattern,
            self.specials,
            start=0,
            steps=self.pattern.steps(frames, ends=False),
            ends=self.specials.eos is not None,
        )
        self.grid_1SK = torch.from_numpy(grid_SK)[None].to(device)
        self.player = Player.of(built, pack.spec, len(grid_SK), null_share=1.0)
        condition = self.coder.batch([self.words])
        self.condition = [tensor.to(device) for tensor in condition]
        self.keep_1 = torch.tensor([bool(self.words)], device=device)
        rate = LEARNING.lr if built.how.get("base") is None else config.optim.lr
        self.optim = LEARNING.model_copy(update={"lr": rate})
        self.steps = 0
        self.loss = self.teacher_forced = float("nan")

    def run(self, minutes: float, progress: Progress) -> OverfitResult:
        progress.stage("overfit", f"learning {self.clip_id} by heart: {self.codes_TK.size:,} codes must all come back")
        began = time.monotonic()
        optimizer = Optimizers(self.module, self.optim)
        tries, next_try, mismatch = 0, 0, None
        while True:
            self._step(optimizer)
            spent = time.monotonic() - began
            progress.update(self.teacher_forced, 1.0, step=self.steps, loss=round(self.loss, 3))
            if self.teacher_forced == 1 and self.steps >= next_try:
                played_TK = self._play(progress)
                equal, mismatch = compare(self.codes_TK, played_TK)
                if mismatch is None:
                    return self._result(time.monotonic() - began, equal, None)
                tries, next_try = tries + 1, self.steps + BETWEEN_TRIES
                if tries == TRIES:
                    raise self._differs(self._result(spent, equal, mismatch))
            if spent > 60 * minutes:
                if mismatch is not None:
                    raise self._differs(self._result(spent, equal, mismatch))
                raise self._not_learned(self._result(spent, 0.0, None), minutes)

    def _step(self, optimizer: Optimizers) -> None:
        """One step, and how many codes the argmax gets right while every earlier code is given."""
        targets_1SK = self.grid_1SK[:, 1:]
        logits_1SKV = self.player.decoder(self.grid_1SK[:, :-1], **self._told().arguments())
        loss = code_loss(logits_1SKV, targets_1SK, self.spec.cardinality)
        codes_1SK = targets_1SK < self.spec.cardinality
        with torch.no_grad():
            right = (logits_1SKV[..., : self.spec.cardinality].argmax(-1) == targets_1SK) & codes_1SK
            self.teacher_forced = float(right.sum() / codes_1SK.sum())
        mean = loss.total / loss.count
        optimizer.zero_grad(set_to_none=True)
        mean.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.optim.clip)
        optimizer.step(~torch.isfinite(norm), shape(self.steps, self.optim, steps=10**9))
        self.loss = float(mean.detach())
        self.steps += 1

    def _told(self) -> Told:
        """The condition as a training batch makes it; playing makes its own by the player."""
        return tell(self.module, self.condition, self.keep_1)

    def _play(self, progress: Progress) -> NDArray[np.int64]:
        progress.stage("play", "every code is known when the earlier ones are given; now from BOS alone")
        played = generate(
            self.player.decoder,
            self.pattern,
            self.specials,
            frames=len(self.codes_TK),
            seeds=[0],
            rules=Rules(temperature=0.0),
            context=self.grid_1SK.shape[1] - 1,
            told=self.player.told([self.words])[0],
            progress=progress,
        )
        return played[0].codes_TK.numpy()

    def _result(self, spent: float, equal: float, mismatch: tuple[int, int] | None) -> OverfitResult:
        return OverfitResult(
            clip=self.clip_id,
            words=str(self.words),
            audio_seconds=self.spec.seconds(len(self.codes_TK)),
            frames=len(self.codes_TK),
            codebooks=self.spec.codebooks,
            steps=self.steps,
            seconds=spent,
            loss=self.loss,
            teacher_forced=self.teacher_forced,
            equal=equal,
            first_mismatch=mismatch,
        )

    def _not_learned(self, result: OverfitResult, minutes: float) -> PartimentoError:
        return PartimentoError(
            "LAB001",
            f"after {result.steps} steps in {minutes:g} minutes the model knows {100 * result.teacher_forced:.2f} % of "
            f"the codes of one clip, not all",
            where=f"clip {result.clip}, loss {result.loss:.3f}",
            why="the machine is too slow for this model, or its gradient does not reach every weight",
            next="give it less to learn (--seconds 2) or more time (--minutes 15); try partimento preflight CONFIG",
            result=result.to_json(),
        )

    def _differs(self, result: OverfitResult) -> PartimentoError:
        frame, book = result.first_mismatch or (0, 0)
        return PartimentoError(
            "LAB002",
            f"the model knows every code, but its greedy playing equals only {100 * result.equal:.2f} % of them",
            where=f"clip {result.clip}, first difference at frame {frame}, codebook {book + 1}",
            why=_cause(frame, book, self.pattern),
            next="partimento explain LAB002",
            result=result.to_json(),
        )


def compare(codes_TK: NDArray[Any], played_TK: NDArray[Any]) -> tuple[float, tuple[int, int] | None]:
    """(share of equal codes, first (frame, book) that differs or is missing, by frames; None if all are equal)."""
    frames = min(len(codes_TK), len(played_TK))
    same_TK = np.zeros(codes_TK.shape, dtype=bool)
    same_TK[:frames] = codes_TK[:frames] == played_TK[:frames]
    wrong = np.argwhere(~same_TK)
    if not len(wrong) and len(played_TK) == len(codes_TK):
        return 1.0, None
    frame, book = (int(i) for i in wrong[0]) if len(wrong) else (len(codes_TK), 0)
    return float(same_TK.mean()), (frame, book)


def _cause(frame: int, book: int, pattern: Pattern) -> str:
    """What a first difference at this place speaks for."""
    if frame == 0 and book == 0:
        return "the very first code differs: the condition or the BOS row is not what was trained"
    if pattern.step_of(frame, book) <= pattern.max_delay + 1:
        return "it differs while books still wait for their first frame: pattern and specials do not match training"
    return "the beginning is right: cached positions disagree with teacher forcing, or the mask showed later codes"


def _tags(config: CodesConfig, pack: Pack) -> tuple[str, ...]:
    """Those that the model has a place for."""
    match config:
        case RvqConfig():
            wanted = config.model.tags
        case DiaConfig():
            wanted = config.model.tag_tokens
        case _:
            wanted = False  # they are spelled
    return tuple(tag_table(pack.clips).vocabulary(pack.split("train"))) if wanted else ()


def _words_of(pack: Pack, clip: int) -> Words:
    return Words(tuple(tag_table(pack.clips).of(clip)), (pack.clips.caption[clip] or "").strip())


def _varied_crop(pack: Pack, frames: int, tells: bool) -> tuple[int, NDArray[np.int64]]:
    """The beginning (up to `frames` frames) of the clip with the most different codes among the longest few; `tells`:
    among those that have words, if any has."""
    clips = pack.split("train")
    lengths = np.minimum(pack.clips.frames[clips], frames)
    candidates = clips[lengths == lengths.max()]
    if tells:
        worded = [clip for clip in candidates.tolist() if _words_of(pack, clip)]
        candidates = np.asarray(worded) if worded else candidates
    crops = [
        (int(clip), np.asarray(pack.read(int(clip), 0, int(lengths.max())), dtype=np.int64))
        for clip in candidates[:CANDIDATES]
    ]
    return max(crops, key=lambda crop: sum(len(np.unique(book)) for book in crop[1].T))
