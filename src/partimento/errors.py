"""Coded errors: one shape for every failure that a user can meet.

An error has a stable code (`PACK004`), one sentence, where it happened, why, and the one command to run next.
The long explanation of each code is data, in `explanations/*.toml`, and `partimento explain CODE` prints it.
The letters of a code name the floor that raised it; the class of failure decides the process's exit status.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

# Exit status by class of failure; 0 is success and 130 is the shell's status for Ctrl-C.
EXIT_STATUS = {
    "usage": 2,  # the command or the configuration is wrong
    "input": 3,  # the data given cannot be used
    "integrity": 4,  # something stored is damaged, or does not belong together
    "resources": 5,  # disk, memory, a missing program
    "training": 6,  # a run or a check ended without reaching its aim
    "internal": 70,  # a fault of partimento itself
    "interrupted": 130,
}


@dataclass(frozen=True)
class Explanation:
    """What `explanations/*.toml` says of one code."""

    code: str
    kind: str
    title: str
    text: str


class PartimentoError(Exception):
    """A failure with a code.

    `where` names the file, line, key or clip; `why` the cause as far as it is known;
    `next` the one command (or action) that helps. All are plain text.
    Raising a code that has no explanation is a fault of the program and fails in the tests.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: str | None = None,
        why: str | None = None,
        next: str | None = None,
        **context: Any,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.where = where
        self.why = why
        self.next = next
        self.context = context

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.why:
            lines.append(f"  why:   {self.why}")
        if self.next:
            lines.append(f"  next:  {self.next}")
        lines.append(f"  more:  partimento explain {self.code}")
        return "\n".join(lines)

    # Errors cross process borders (encode workers); the default reduction would drop the keyword fields.
    def __reduce__(self) -> tuple[Any, ...]:
        state = {"where": self.where, "why": self.why, "next": self.next, **self.context}
        return (_rebuild, (self.code, self.message, state))

    def to_json(self) -> dict[str, Any]:
        """The same error for machines: {code, message, where, why, next, context}."""
        return {
            "code": self.code,
            "message": self.message,
            "where": self.where,
            "why": self.why,
            "next": self.next,
            "context": self.context,
        }

    @property
    def exit_status(self) -> int:
        known = explanations().get(self.code)
        return EXIT_STATUS[known.kind if known else "internal"]


def _rebuild(code: str, message: str, state: dict[str, Any]) -> PartimentoError:
    return PartimentoError(code, message, **state)


@cache
def explanations() -> dict[str, Explanation]:
    """All codes with their explanations, read once from the package's `explanations/*.toml`."""
    found: dict[str, Explanation] = {}
    for file in sorted(resources.files("partimento.explanations").iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".toml"):
            continue
        for code, entry in tomllib.loads(file.read_text(encoding="utf-8")).items():
            found[code] = Explanation(code, entry["kind"], entry["title"], entry["text"].strip())
    return found
