"""Groups of commands that import a command only when it runs, so that `--help` stays quick."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import click

Commands = Mapping[str, tuple[str, str]]
"""Command -> (module under `package`, its one line of help); the module has the click command as `command`."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it or to show its help."""

    table: ClassVar[Commands] = {}
    package: ClassVar[str] = "partimento.cli"

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.table:
            return None
        module = importlib.import_module(f"{self.package}.{self.table[name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.table and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.table, n=1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in self.table.items()])


def group_of(package: str, table: Commands) -> type[LazyGroup]:
    """The class of a group with these commands, whose modules lie in `package`."""
    return type("Group", (LazyGroup,), {"table": table, "package": package})
