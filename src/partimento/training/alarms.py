"""What a person should look at in a training that goes on: pure rules over the figures of the scheduled readings.

Guards act (they skip a step, or go back); alarms only tell, with what helps. Most are about two players: a
discriminator that wins or is blind, labels the wrong way round, a generator that hears nothing of it. Gradient norms of
every family are watched too. A rule is a function of figures that are logged alone, so every rank and every resume
comes to the same; what it remembers is plain numbers, saved with the counters.

The limits were chosen on healthy trainings, which docs/guards.md names, and planted faults (tests/faults).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, TypeGuard

from partimento.config import CodesConfig, Config

# An LSGAN's scores are to be 1 for recordings and 0 for what was made. At these accuracies and this distance of the
# means a discriminator's loss is under 0.1, where it has nothing left to learn, and its gradient nothing to tell.
ACCURATE, APART = 0.95, 0.6
ALIKE = 0.01  # distance of the mean scores under which nothing is told apart
TURNED = 0.1  # by which made ones are scored above recordings; noise of small batches stays far under it
CONTRADICTED = 0.3  # share of the least loss that the scores of what was made allow, under which labels are not alike
DEAD = 1e-6  # of the other parts' pull: float32 rounds away what is smaller
SPIKE = 10.0  # times the usual norm; the guard skips a step at some 11 times
GROWN, FALLEN = 2.0, 2 / 3
REST = 0.1  # of the norm that the training began with, added to what is compared: what is next to nothing may jump
OVER = 2.0  # times the clip
KNOWN = 8  # earlier readings without which there is no usual norm
USUAL = 64  # readings that are remembered for it
BLOCK, BLOCKS = 16, 64  # readings whose medians are compared over the whole run, and how many medians are kept
SETTLED = 4  # blocks at the beginning, in which an adversary's norm only finds its place
QUIET = 5  # readings without the condition after which its alarm may be raised anew

# (readings in a row that must all show it, steps from the first of them to the last). A reading is a mean over
# `train.log_every` steps; an adversary that begins knows nothing, and takes some hundred steps to find a difference.
WINS, BLIND, SWAPPED, UNHEARD, CLIPPED, AT_ONCE = (5, 20), (20, 500), (3, 2), (3, 2), (30, 100), (1, 0)

REMEDIES = {
    "adversary wins": "a lower adversary.lr (a tenth), adversary.every=2, smaller period_width and window_width, a "
    "longer data.crop with a smaller batch, or a larger loss.mel",
    "adversary is blind": "a higher adversary.lr, wider or more discriminators (adversary.periods, adversary.windows), "
    "adversary.every=1; if its gradient norm is 0, it is cut off from its loss",
    "labels swapped": "recordings are to be scored 1 and what was made 0, by both players: undo the change of the loss",
    "dead generator gradient": "look for a detach, a no_grad or an eval-only path between the generator and this loss; "
    "a weight of 0 (loss.adversarial, loss.features) is not heard either",
    "norm spike": "one such reading may be a hard item; when they come more often, a lower rate or a lower clip",
    "norms grow while the rate falls": "listen to the last demos against earlier ones; a lower adversary.lr, more "
    "weight decay (optim.weight_decay), or end the run here: the rate is no more what limits it",
    "clipped always": "the clip decides the size of each step, not the rate: a higher clip (optim.clip, "
    "adversary.clip), or a lower rate",
}
OPINIONS = ("adversarial", "features")
"""Parts of the generator's loss that come from the adversary."""
PLAYERS = {"": "the network", "adversary_": "the adversary"}
Seen = tuple[str, tuple[int, int], str | None]
"""(key, for how long, what was seen, or None) of a rule. A key is a kind and, after a colon, whose."""


@dataclass(frozen=True)
class Alarm:
    """`kind` is one of REMEDIES, `text` says what was measured and since when, `remedy` what helps."""

    kind: str
    text: str
    remedy: str


@dataclass
class _Watch:
    """How long a condition has held, or has been quiet, in readings."""

    held: int = 0
    since: int = 0
    quiet: int = QUIET
    raised: bool = False

    def over(self) -> bool:
        """Nothing is left to be remembered of it."""
        return self.held == 0 and not self.raised


class Alarms:
    """`read` at every scheduled reading; `state` goes into the checkpoint.

    Without a clip there is no alarm of it. `heard` are the parts from the adversary whose weight is not 0.
    """

    def __init__(
        self,
        clip: float | None = None,
        adversary_clip: float | None = None,
        heard: Collection[str] = OPINIONS,
    ) -> None:
        self.clips, self.heard = {"": clip, "adversary_": adversary_clip}, set(heard)
        self._watches: dict[str, _Watch] = {}
        self._norms: dict[str, list[float]] = {}
        self._recent: dict[str, list[list[float]]] = {}  # [rate, norm] of the block that is being filled
        self._rests: dict[str, float] = {}
        self._blocks: dict[str, list[list[float]]] = {}  # medians of blocks, over the whole run
        self._skipped: float | None = None
        self._playing = False

    @classmethod
    def of(cls, config: Config) -> Alarms:
        """Those of a configuration: clips as they are set (per-tensor clipping has none), parts by their weights."""
        clip = None if config.optim.adagc else config.optim.clip
        if isinstance(config, CodesConfig):
            return cls(clip)
        return cls(clip, config.adversary.clip, [part for part in OPINIONS if getattr(config.loss, part) > 0])

    def read(self, step: int, figures: Mapping[str, Any], rate: float) -> list[Alarm]:
        """The alarms of this reading: `figures` of the event "train", `rate` the factor of the schedule.

        Figures that are missing or not finite say nothing. An alarm is raised once when its condition has held for so
        many readings in a row, and again only after QUIET readings without it.
        """
        if not self._playing and _numbers(figures.get("score_real_S")):
            self.forget()  # the adversary begins: its pull is added to the gradient
            self._playing = True
        found = [*self._of_two_players(figures), *self._of_skips(figures), *self._of_norms(figures, rate)]
        raised = [alarm for key, needed, text in found if (alarm := self._judge(key, needed, text, step))]
        self._watches = {key: watch for key, watch in self._watches.items() if not watch.over()}
        return raised

    def forget(self) -> None:
        """Norms are no more what they were: a stage of the curriculum, or a second player."""
        self._norms, self._rests, self._recent, self._blocks = {}, {}, {}, {}

    def state(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "watches": {key: vars(watch).copy() for key, watch in self._watches.items()},
            "norms": {player: list(norms) for player, norms in self._norms.items()},
            "rests": dict(self._rests),
            "recent": {player: [list(pair) for pair in pairs] for player, pairs in self._recent.items()},
            "blocks": {player: [list(pair) for pair in pairs] for player, pairs in self._blocks.items()},
            "skipped": self._skipped,
            "playing": self._playing,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; of {} (a checkpoint from before there were alarms) the beginning."""
        self._watches = {key: _Watch(**values) for key, values in state.get("watches", {}).items()}
        self._norms = {player: list(norms) for player, norms in state.get("norms", {}).items()}
        self._rests = dict(state.get("rests", {}))
        self._recent, self._blocks = (
            {player: [list(pair) for pair in pairs] for player, pairs in state.get(name, {}).items()}
            for name in ("recent", "blocks")
        )
        self._skipped = state.get("skipped")
        self._playing = bool(state.get("playing", False))

    def _judge(self, key: str, needed: tuple[int, int], text: str | None, step: int) -> Alarm | None:
        watch = self._watches.setdefault(key, _Watch())
        if text is None:
            watch.held, watch.quiet = 0, watch.quiet + 1
            watch.raised = watch.raised and watch.quiet < QUIET
            return None
        watch.since = step if watch.held == 0 else watch.since
        watch.held, watch.quiet = watch.held + 1, 0
        if watch.raised or watch.held < needed[0] or step - watch.since < needed[1]:
            return None
        watch.raised = True
        since = f", in each of the last {watch.held} readings, since step {watch.since}" if needed != AT_ONCE else ""
        kind = key.partition(":")[0]
        return Alarm(kind, text + since, REMEDIES[kind])

    def _of_two_players(self, figures: Mapping[str, Any]) -> Iterator[Seen]:
        real_S, fake_S = _numbers(figures.get("score_real_S")), _numbers(figures.get("score_fake_S"))
        if not real_S or not fake_S:
            return
        real, fake = fmean(real_S), fmean(fake_S)
        seen = f"mean scores {real:.2f} for recordings and {fake:.2f} for what was made"
        right = _numbers([figures.get("accuracy_real"), figures.get("accuracy_fake")])
        if right:
            told = f"{seen}, right about {100 * right[0]:.0f} % and {100 * right[1]:.0f} % of them"
            wins = fmean(right) >= ACCURATE and real - fake > APART
            blind = abs(real - fake) < ALIKE and 0.9 < sum(right) < 1.1
            yield "adversary wins", WINS, told if wins else None
            yield "adversary is blind", BLIND, told if blind else None
        yield "labels swapped", SWAPPED, seen if real < fake - TURNED else None
        yield "labels swapped:generator", SWAPPED, _contradiction(fake_S, figures.get("adversarial"))
        yield from self._of_pulls(figures)

    def _of_skips(self, figures: Mapping[str, Any]) -> Iterator[Seen]:
        """Steps of the adversary that its guard skipped are in no mean (those of the network have a note)."""
        skipped = figures.get("adversary_skipped")
        if _finite(skipped):
            more = skipped - (skipped if self._skipped is None else self._skipped)
            self._skipped = skipped
            text = f"the guard skipped {more:.0f} steps of the adversary: loss or gradient norm stood far out"
            yield "norm spike:skipped", AT_ONCE, text if more > 0 else None

    def _of_pulls(self, figures: Mapping[str, Any]) -> Iterator[Seen]:
        pulls = {name[5:]: pull for name, pull in figures.items() if name.startswith("pull_") and _finite(pull)}
        strongest = max((pull for part, pull in pulls.items() if part not in OPINIONS), default=0.0)
        for part in sorted(self.heard & pulls.keys()):
            text = f"the {part} loss pulls with {pulls[part]:.2g}, the strongest distance with {strongest:.2g}"
            dead = pulls[part] == 0 or pulls[part] < DEAD * strongest
            yield f"dead generator gradient:{part}", UNHEARD, text if dead else None
        norm = figures.get("grad_norm")
        if _finite(norm):
            still = "the gradient of all weights is 0"
            yield "dead generator gradient:weights", UNHEARD, still if norm == 0 else None

    def _of_norms(self, figures: Mapping[str, Any], rate: float) -> Iterator[Seen]:
        for player, name in PLAYERS.items():
            norm = figures.get(f"{player}grad_norm")
            if not _finite(norm):
                continue
            earlier = self._norms.setdefault(player, [])
            if len(earlier) == KNOWN and player not in self._rests:
                self._rests[player] = REST * median(earlier)
            if player in self._rests:
                usual, rest = median(earlier), self._rests[player]
                text = f"a gradient norm of {norm:.3g} in {name}, where {usual:.3g} is usual"
                yield f"norm spike:{player}", AT_ONCE, text if norm + rest > SPIKE * (usual + rest) else None
            if norm > 0:
                self._norms[player] = [*earlier, norm][-USUAL:]
            clip = self.clips[player]
            above = clip is not None and norm > OVER * clip
            text = f"the mean gradient norm of {name} is {norm:.3g}, its clip {clip}"
            yield f"clipped always:{player}", CLIPPED, text if above else None
            self._recent.setdefault(player, []).append([rate, norm])
            if len(self._recent[player]) == BLOCK:
                yield f"norms grow while the rate falls:{player}", AT_ONCE, self._growth(player, name)

    def _growth(self, player: str, name: str) -> str | None:
        """The median norm of the block that is full now, and of the one before it (a hard stretch of data is none),
        against earlier ones that had so much more rate. Norms that only come back to where they began are none."""
        now = [median(column) for column in zip(*self._recent.pop(player), strict=True)]
        blocks = self._blocks.setdefault(player, [])
        self._blocks[player] = _thinned([*blocks, now])
        if len(blocks) <= SETTLED:
            return None
        rate, norm = max(now[0], blocks[-1][0]), min(now[1], blocks[-1][1])
        earlier = [one for one in blocks[SETTLED:-1] if rate <= FALLEN * one[0] and norm >= GROWN * one[1]]
        if not earlier or norm < blocks[0][1]:
            return None
        was = min(earlier, key=lambda block: block[1])
        return (
            f"the gradient norm of {name} has grown from {was[1]:.3g} to {norm:.3g}, while the rate fell from "
            f"{was[0]:.2g} to {rate:.2g} of its peak (medians of {BLOCK} readings)"
        )


def _contradiction(fake_S: Sequence[float], adversarial: Any) -> str | None:
    """The generator's loss is a mean of (1 - score)^2, which is at least (1 - mean score)^2 (Jensen). Far under it, it
    counts the distance from another label than the adversary's."""
    least = sum((1 - score) ** 2 for score in fake_S)
    if not _finite(adversarial) or least < 0.25 * len(fake_S) or adversarial >= CONTRADICTED * least:
        return None
    return f"the adversarial loss is {adversarial:.3g}, and scores like those allow no less than {least:.3g}"


def _thinned(blocks: list[list[float]]) -> list[list[float]]:
    """Neighbours become one when there are too many: the run is remembered whole, and coarser."""
    if len(blocks) <= BLOCKS:
        return blocks
    pairs = zip(blocks[0:-1:2], blocks[1:-1:2], strict=True)  # the last one stays as it is, and is compared next
    return [[fmean(column) for column in zip(*pair, strict=True)] for pair in pairs] + [blocks[-1]]


def _numbers(value: Any) -> list[float]:
    """A list of finite numbers, or nothing."""
    return list(value) if isinstance(value, list | tuple) and value and all(_finite(v) for v in value) else []


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
