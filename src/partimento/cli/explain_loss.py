"""`partimento explain-loss`: whether a loss is good, and how that is known."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, result


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@json_option
def command(run: Path, as_json: bool) -> None:
    """Say what the loss of RUN is a mean of, where it stands between guessing and what counting reaches, whether its
    data is noise, what of the model is trained and how much it has seen.

    From the files of the run alone: no model is loaded, and the data may be gone. RUN may still be training.
    """
    from partimento.lab.explainloss.explain import explain_loss
    from partimento.lab.explainloss.terminal import terminal

    found = explain_loss(run)
    result(found.to_json(), as_json, terminal(found))
