"""Who learns: looked at once before step 1, and once again after the first steps.

Before step 1, by one pass on the first batch whose gradients are dropped: every trained parameter gets a gradient, or
there is a reason why not yet (`reasons`); no frozen one gets one; every attention was seen, and its keys and values are
not cut off (`attended`). Where losses are added up, each alone reaches what it has to teach (`directions`). After STEPS
steps, by what is there anyway (moments, and fingerprints instead of copies): every trained parameter has had a gradient
and has moved, and the frozen ones are what they were to the last bit. No step does anything for it.

A part of a model that does not learn is hard to hear: the rest learns around it. Each of these cost the authors of
earlier systems weeks: a layer without an optimizer, keys read out of a detached cache, new rows that were frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from partimento.training import compiled, devices
from partimento.training import flow_errors as errors
from partimento.training.attended import Attended, attended
from partimento.training.directions import reached as reached_by
from partimento.training.fingerprints import fingerprints
from partimento.training.muon import local
from partimento.training.opponent import Opponent
from partimento.training.reach import NEVER, Reached, Unit, read, units
from partimento.training.reasons import explained, zeros
from partimento.training.state import State
from partimento.training.task import Direction

Inputs: TypeAlias = tuple[Tensor | None, ...]
STEPS = 20
LOOKS = 8  # batches in which a gradient that is missing without a reason is looked for
SPACING = 2.0**-24  # an element of float32 does not move by less than this share of it


@dataclass
class Side:
    """One player. `who` begins the names of its parameters; `due` is the step after which it has made STEPS steps."""

    who: str
    player: State | Opponent
    due: int

    def __post_init__(self) -> None:
        module = self.player.task.module if isinstance(self.player, State) else self.player.module
        claims = self.player.optimizer.claims
        self.units = units(claims, self.who)
        self.trained = {claim.name: claim.parameter for claim in claims}
        named = dict(module.named_parameters())
        self.frozen = {name: weight for name, weight in named.items() if not weight.requires_grad}
        self.start = self.prints()

    def prints(self) -> dict[str, int]:
        return fingerprints({**self.trained, **self.frozen})

    @property
    def skipped(self) -> int:
        return int(self.player.guard.figures()[0])


class Flow:
    """The audit of one call of `train`; to be made when all weights are what the next step finds."""

    def __init__(self, state: State) -> None:
        self.state, step = state, state.counters.step
        self.sides = [Side("", state, step + STEPS)]
        if state.opponent is not None:
            rival = state.opponent.rival
            self.sides.append(Side("adversary ", state.opponent, max(step, rival.start) + STEPS * rival.every))
        self._before = {side.who: side.skipped for side in self.sides}

    def before(self) -> dict[str, Any]:
        """The event of the pass before step 1. Raises TRAIN080 (a trained parameter without a gradient), TRAIN081 (keys
        and values cut off), TRAIN082 (a frozen one with a gradient), TRAIN084 (a frozen matrix of zeros), TRAIN085 (an
        attention that was not seen), TRAIN040."""
        matrices = {name: weight for name, weight in self._frozen().items() if weight.ndim > 1}
        if empty := zeros(matrices, self.state.parallel.sum_):
            raise errors.empty(sorted(empty))
        asleep = [zeros(side.trained, self.state.parallel.sum_) for side in self.sides]
        reached, found = [{unit.label: NEVER for unit in side.units} for side in self.sides], []
        looks = LOOKS if self.state.parallel.world == 1 else 1  # DDP ends at a parameter without a gradient
        for number in range(looks):
            seen = self._look(number, reached)
            found = [
                explained(side.units, of, self.state.task.unreached(), zero)
                for side, of, zero in zip(self.sides, reached, asleep, strict=True)
            ]
            if not any(one.without or one.zero for one in found):
                break
        without, zero = [n for one in found for n in one.without], [n for one in found for n in one.zero]
        if without or (zero and looks == LOOKS):
            raise errors.unreached(without, zero, looks)
        if seen.calls < (wanted := self.state.task.attentions):
            raise errors.unseen(seen.calls, wanted)
        for direction in self.state.task.directions:
            self._alone(direction)
        waiting = {name: why for one in found for name, why in one.waiting.items()}
        waiting |= dict.fromkeys(zero, "nothing but zeros in the first batch")
        event = {
            "when": "before",
            "trained": sum(len(side.trained) for side in self.sides),
            "frozen": len(self._frozen()),
            "attention": seen.calls,
            "waiting": _by_reason(waiting),
            "rows": {name: rows for one in found for name, rows in one.rows.items()},
        }
        if not self.state.sharded:  # else they are those of one rank's part
            event["prints"] = self._prints()
        return event

    def _look(self, number: int, reached: Sequence[dict[str, Reached]]) -> Attended:
        """One pass, on the batch of step `number`, added to what was reached before."""
        opponent, seen = self.state.opponent, Attended()

        def looked(inputs: Inputs) -> None:
            nonlocal seen
            if opponent is not None:
                opponent.forward_backward(inputs)
            with attended(self.state.task.module) as seen:
                self.state.forward_backward(inputs, recorded=False)
            for side, of in zip(self.sides, reached, strict=True):
                if given := [side.who + name for name, weight in side.frozen.items() if weight.grad is not None]:
                    raise errors.changed(given, "got a gradient in the first pass")
                gradients = {name: weight.grad for name, weight in side.trained.items()}
                for unit, now in zip(side.units, read(side.units, gradients, self.state.parallel.sum_), strict=True):
                    of[unit.label] = now.and_before(of[unit.label])

        self._pass(number, self.state.task.inputs, looked)
        if opponent is not None:
            opponent.optimizer.zero_grad()
        if seen.cut:
            raise errors.cut_off(seen.cut)
        return seen

    def _alone(self, direction: Direction) -> None:
        """One of the losses that are added up, until it has reached all that it has to teach."""
        state, missed = self.state, set(direction.reaches)

        def looked(inputs: Inputs) -> None:
            state.forward_backward(inputs, recorded=False)
            missed.difference_update(reached_by(direction, state.task.module, state.parallel.sum_))

        for number in range(LOOKS):
            self._pass(number, direction.inputs, looked)
            if not missed:
                return
        raise errors.apart(direction.what, [what for what in direction.reaches if what in missed], LOOKS)

    def _pass(self, number: int, inputs_of: Callable[[Any], Inputs], looked: Callable[[Inputs], None]) -> None:
        """`looked` with the inputs of the batch of step `number`, without a trace. Blocks run as they are written and
        nothing is recorded: a compiled block, or a graph that is replayed, calls nothing that can be looked at."""
        state = self.state
        attempt, step = divmod(number, state.config.train.steps)
        inputs = inputs_of(state.task.batch(step, 0, attempt))

        def plain(inputs: Inputs) -> None:
            devices.seed(state.device, state.dropout_key(step, 0))
            with torch.compiler.set_stance("force_eager"):
                looked(inputs)

        compiled.dry_run(state.task.module, plain, {"step 1": inputs}, state.device)

    def again(self, begun: Mapping[str, str] | None) -> None:
        """On a resume: frozen weights are those that the run began with (`prints` of its event), or TRAIN084: they are
        in no checkpoint, and what they come from gives others."""
        if begun is None or self.state.sharded:
            return
        now = self._prints()
        if other := sorted(name for name in now.keys() & begun.keys() if now[name] != begun[name]):
            raise errors.others(other)

    def due(self) -> list[Side]:
        """The sides that have made STEPS steps and were not looked at again yet. (Waits for the device.)"""
        step = self.state.counters.step
        return [s for s in self.sides if step >= s.due and step >= s.due + s.skipped - self._before[s.who]]

    def after(self, sides: Sequence[Side], rate: float) -> tuple[dict[str, Any], list[str]]:
        """The event of STEPS steps later, and notes. `rate` is the share of the peak rates that the last step had.

        Raises TRAIN082 (a frozen parameter changed) and TRAIN083 (a trained one had no gradient, or has not moved).
        """
        notes: list[str] = []
        moved = 0
        waiting: dict[str, str] = {}
        unreached = self.state.task.unreached()
        for side in sides:
            self.sides.remove(side)
            now = side.prints()
            if changed := [side.who + name for name in side.frozen if now[name] != side.start[name]]:
                raise errors.changed(changed, "was changed by the first steps")
            moments = side.player.optimizer.state()
            had = {name: moments.get(f"{name}.exp_avg_sq", moments.get(f"{name}.momentum")) for name in side.trained}
            found = read(side.units, had, self.state.parallel.sum_)
            missing = [unit for unit, one in zip(side.units, found, strict=True) if not one.any]
            waiting |= {u.label: unreached[u.claim.name] for u in missing if u.claim.name in unreached}
            missing = [unit for unit in missing if unit.claim.name not in unreached]
            if without := [unit.label for unit in missing if not unit.table]:
                raise errors.stuck(without, f"got no gradient in {STEPS} steps", "it is not connected to the loss")
            notes += [f"{unit.label} got no gradient in {STEPS} steps: no item named a row of it" for unit in missing]
            notes += _shrinking(side.units, found, had)
            had_any = {unit.claim.name for unit, one in zip(side.units, found, strict=True) if one.any}
            still = [name for name in had_any if now[name] == side.start[name]]
            still = self._on_all_ranks(still, sorted(had_any))
            claims = side.player.optimizer.claims
            slow = {one.name for one in claims if one.name in still and _slow(one.parameter, one.rate * rate)}
            if stuck := [side.who + name for name in sorted(set(still) - slow)]:
                raise errors.stuck(stuck, f"has not moved in {STEPS} steps", "nothing takes its gradient to it")
            moved += len(had_any) - len(slow)
            notes += [f"{side.who}{name} has not moved yet: its rate is still too low for it" for name in sorted(slow)]
        return {
            "when": "after",
            "moved": moved,
            "waiting": _by_reason(waiting),
            "kept": sum(len(side.frozen) for side in sides),
        }, notes

    def _on_all_ranks(self, still: Sequence[str], names: Sequence[str]) -> list[str]:
        """Those whose part has not moved on any rank."""
        flags = torch.tensor([float(name not in still) for name in names], device=self.state.device)
        moved = self.state.parallel.sum_(flags).tolist() if names else []
        return [name for name, count in zip(names, moved, strict=True) if not count]

    def _frozen(self) -> dict[str, Tensor]:
        return {side.who + name: weight for side in self.sides for name, weight in side.frozen.items()}

    def _prints(self) -> dict[str, str]:
        sides = self.sides
        return {s.who + name: f"{s.start[name] & 2**64 - 1:016x}" for s in sides for name in s.frozen}


def _slow(weight: Tensor, rate: float) -> bool:
    """Whether a step of this size is lost in the rounding of every element."""
    here = local(weight.detach())
    return not here.numel() or float(here.abs().min()) * SPACING > rate


@torch.no_grad()
def _shrinking(wanted: Sequence[Unit], found: Sequence[Reached], had: Mapping[str, Tensor | None]) -> list[str]:
    """Of heads and tables that decay: rows with something in them that no gradient holds."""
    notes = []
    for unit, one in zip(wanted, found, strict=True):
        decay, moment = unit.claim.weight_decay, had[unit.claim.name]
        if not decay or moment is None or not 0 < one.rows < one.of:
            continue
        if unit.table or "head" in unit.claim.name.split("."):
            without = unit.of(moment).flatten(1).eq(0).all(1) & unit.of(unit.claim.parameter).flatten(1).ne(0).any(1)
            if count := int(without.sum()):
                told = f"{unit.label}: {count} of {one.of} rows got no gradient in {STEPS} steps"
                notes.append(f"{told}, and weight decay ({decay:g}) pulls them to zero (see optim.groups)")
    return notes


def line(event: Mapping[str, Any]) -> str:
    """What the person reads where all is well."""
    kept = f", {event['kept']} frozen ones are as they were" if event["kept"] else ""
    return f"gradients: {event['moved']} trained parameters got theirs and have moved{kept}"


def _by_reason(waiting: Mapping[str, str]) -> dict[str, list[str]]:
    """{why: [names]}."""
    found: dict[str, list[str]] = {}
    for name, why in waiting.items():
        found.setdefault(why, []).append(name)
    return found
