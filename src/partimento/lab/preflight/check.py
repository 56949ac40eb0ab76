"""What a check says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One finding. `found` says what was measured, in every state; `remedy` what helps, where it is "warn" or "failed".
    `lines` are more of it, such as a table.

    failed    the run would be lost, or worth nothing
    warn      the run goes, but likely not to where it is wanted
    skipped   does not apply to this configuration, or could not be tried because an earlier check failed
    """

    name: str
    status: Status
    found: str
    remedy: str | None = None
    code: str | None = None
    lines: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def passed(name: str, found: str, lines: Sequence[str] = ()) -> Check:
    return Check(name, "ok", found, lines=tuple(lines))


def warned(name: str, found: str, remedy: str) -> Check:
    return Check(name, "warn", found, remedy)


def failed(name: str, found: str, remedy: str, code: str | None = None) -> Check:
    return Check(name, "failed", found, remedy, code)


def skipped(name: str, found: str) -> Check:
    return Check(name, "skipped", found)


def some(names: list[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
