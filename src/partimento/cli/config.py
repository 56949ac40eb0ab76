"""`partimento config`: the schema of all keys, and a configuration with everything resolved."""

from __future__ import annotations

import json

import click

from partimento import config as configuration
from partimento.cli.terminal import json_option, result


@click.group()
def command() -> None:
    """Show a configuration resolved, or the schema of all keys."""


@command.command()
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of a configuration file, for editors.

    The schema is JSON either way; --json puts it on one line.
    """
    found = configuration.json_schema()
    result(found, as_json, json.dumps(found, indent=1))


@command.command()
@click.argument("file", type=click.Path())
@click.argument("overrides", nargs=-1)
@json_option
def show(file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print FILE with OVERRIDES (section.key=value) laid over it and every default filled in."""
    config = configuration.load(file, overrides)
    values = {**config.model_dump(mode="json"), "hash": configuration.config_hash(config)}
    result(values, as_json, json.dumps(values, indent=1))
