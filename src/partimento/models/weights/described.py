"""What a foreign config.json says, in our words: the architecture, and everything that gives the ids a meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from partimento.errors import PartimentoError


@dataclass(frozen=True)
class Described:
    """`model` is for TextModel.from_json; the rest is plain JSON, in the form that `weights.json` keeps it.

    delays          of the codebooks in our order
    specials        ids of eos (or None), pad and bos
    ending          eos and tail, as sampling.sheet.Ending
    guidance_rule   mix or filter, as sampling.guidance.Guidance
    words           what makes ids of a text
    codec           name (where it has one), sample_rate, frame_rate (a fraction), cardinality, codebooks; layout and
                    books where they are known
    """

    kind: str
    model: dict[str, Any]
    delays: tuple[int, ...]
    specials: dict[str, int | None]
    ending: dict[str, str]
    guidance_rule: str
    words: dict[str, Any]
    codec: dict[str, Any]


MOST_LAYERS, MOST_CODEBOOKS = 512, 256


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object in a config.json. Raises MODEL030."""
    found = config.get(name)
    if not isinstance(found, Mapping):
        raise unreadable(f"{name} is {'missing' if found is None else 'not an object'}")
    return found


def number(config: Mapping[str, Any], name: str, default: int | None = None, most: int = 2**20) -> int:
    """A whole number from 1 to `most` in a config.json, which leaves out what has its default. Raises MODEL030."""
    value = config.get(name, default)
    if type(value) is not int or not 1 <= value <= most:
        raise unreadable(f"{name} is {value!r}, where a whole number from 1 to {most} belongs")
    return value


def identifier(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """An id, 0 or above. Raises MODEL030."""
    value = config.get(name, default)
    if type(value) is not int or not 0 <= value < 2**31:
        raise unreadable(f"{name} is {value!r}, where an id belongs")
    return value


def real(config: Mapping[str, Any], name: str, default: float) -> float:
    """A number above 0. Raises MODEL030."""
    value = config.get(name, default)
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise unreadable(f"{name} is {value!r}, where a number above 0 belongs")
    return float(value)


def delays_of(value: Any, codebooks: int) -> tuple[int, ...]:
    """Raises MODEL030."""
    if not isinstance(value, list) or not all(type(one) is int and 0 <= one < 2**16 for one in value):
        raise unreadable(f"delay_pattern is {value!r}, where a list of delays belongs")
    if len(value) != codebooks:
        raise unreadable(f"delay_pattern has {len(value)} delays for {codebooks} codebooks")
    return tuple(value)


def require(fits: bool, name: str, value: Any, only: str) -> None:
    """Raises MODEL030 for a value of a field that our model has no counterpart of."""
    if not fits:
        raise unreadable(f"{name} is {value!r}; only {only} can be read")


def unreadable(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL030",
        "config.json does not describe a model that partimento can build",
        why=why,
        next="use the config.json that was published with the weights, unchanged",
    )
