"""What the audit of who learns (`flow`) refuses a training for, with the names of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from partimento.errors import PartimentoError

NAMED = 5  # names in a message


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def unreached(without: list[str], zero: list[str], looks: int) -> PartimentoError:
    what = [f"{some(without)}: nothing of the loss depends on it"] if without else []
    what += [f"{some(zero)}: only zeros in {looks} batches"] if zero else []
    return PartimentoError(
        "TRAIN080",
        f"trained parameters get no gradient: {'; '.join(what)}",
        why="they would stay as they were drawn, and the rest would learn around them",
        next="partimento preflight CONFIG shows the same; freeze them, or undo the change of the model",
        names=[*without, *zero],
    )


def nothing() -> PartimentoError:
    return PartimentoError(
        "TRAIN080",
        "no parameter is trained",
        why="all of them are frozen, or the part that was to be trained was left out of the model",
        next="partimento plan CONFIG prints the weights and who trains them",
    )


def cut_off(cut: Mapping[str, str]) -> PartimentoError:
    first, what = next(iter(cut.items()))
    more = f" (and of {len(cut) - 1} more)" if len(cut) > 1 else ""
    return PartimentoError(
        "TRAIN081",
        f"the {what} of {first}{more} are cut off from the gradient",
        where=some(list(cut)),
        why="they are detached, or read out of a cache: attention would learn by its queries alone",
        next="undo the change of the model: no cache in training, no detach between projection and attention",
        names=list(cut),
    )


def apart(what: str, missed: Sequence[str], looks: int) -> PartimentoError:
    return PartimentoError(
        "TRAIN081",
        f"the loss of the {what} alone does not reach {some(missed)}",
        where=f"{looks} batches in which nothing else is learned",
        why="keys and values on the way there are detached, or read out of a cache; the other loss hides it",
        next="undo the change of the model: no cache in training, no detach between projection and attention",
        names=list(missed),
    )


def unseen(seen: int, wanted: int) -> PartimentoError:
    saw = f"only {seen} of {wanted} attentions" if seen else f"none of {wanted} attentions"
    return PartimentoError(
        "TRAIN085",
        f"the audit of the gradients saw {saw}",
        why="attention is computed in another way than by torch's function or ours, where it cannot be looked at",
        next="call functional.scaled_dot_product_attention, or teach training/attended.py the other function",
        seen=seen,
        wanted=wanted,
    )


def changed(names: list[str], what: str) -> PartimentoError:
    return PartimentoError(
        "TRAIN082",
        f"frozen, and {what}: {some(names)}",
        why="something writes to it beside the optimizer, or it was thawed after the optimizer was made",
        next="undo the change of the model; what is to be trained must not be frozen",
        names=names,
    )


def stuck(names: list[str], what: str, why: str) -> PartimentoError:
    return PartimentoError(
        "TRAIN083",
        f"trained, but {what}: {some(names)}",
        why=why,
        next="partimento preflight CONFIG; then freeze it, or undo the change of the model",
        names=names,
    )


def empty(names: list[str]) -> PartimentoError:
    return PartimentoError(
        "TRAIN084",
        f"frozen, and zero everywhere: {some(names)}",
        why="it was never filled, and can never learn",
        next="train it, or take it out of the model",
        names=names,
    )


def others(names: list[str]) -> PartimentoError:
    return PartimentoError(
        "TRAIN084",
        f"frozen, and other than when the run began: {some(names)}",
        why="frozen weights are in no checkpoint, and what these come from now gives others (random ones, most often)",
        next="give back the weights that the run began with, or train what is drawn at random",
        names=names,
    )
