"""`partimento completion`: the script that makes TAB complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

HOW = {
    "bash": 'eval "$(partimento completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(partimento completion zsh)"     # in ~/.zshrc',
    "fish": "partimento completion fish | source     # in ~/.config/fish/config.fish",
}


@click.command(epilog="Use it as:  " + "  |  ".join(HOW.values()))
@click.argument("shell", type=click.Choice(list(HOW)))
def command(shell: str) -> None:
    """Print the completion script of a SHELL."""
    from partimento.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "partimento", "_PARTIMENTO_COMPLETE").source())
