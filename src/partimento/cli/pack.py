"""`partimento pack`: what can be done with packs, one module a command in `cli/packs/`."""

from __future__ import annotations

import click

from partimento.cli.lazy import group_of

# Command -> (module under partimento.cli.packs, its one line of help).
COMMANDS = {
    "inspect": ("inspect", "Print what PACK says of itself, without reading its codes."),
    "verify": ("verify", "Check every file of PACK against its recorded hash and list all that is wrong."),
    "repair": ("repair", "List what is damaged in PACK; drop it or make it anew."),
    "copy": ("copy", "Copy a pack between folders and far stores (s3://...), hashing every byte."),
    "labels": ("labels", "Write the tags, captions, licences and origins of PACK as JSON lines."),
    "edit": ("edit", "Change tags, captions, licences and origins in PACK; codes are not touched."),
    "select": ("select", "Write a new pack of the clips in PACK that have these tags and licences."),
    "stats": ("stats", "What is in PACK, what is wrong with it, and the baselines that a model must beat."),
    "import": ("import_", "Make a pack of codes that another program made, a file or a folder."),
    "export": ("export", "Write the clips of PACK as files that other programs read."),
}


@click.group(cls=group_of("partimento.cli.packs", COMMANDS))
def command() -> None:
    """Inspect, verify, mend and measure packs."""
