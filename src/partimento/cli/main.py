"""The command line: a tree of commands, each imported only when it runs, so that `--help` stays quick.

Results go to stdout, everything else to stderr. Every failure has one shape (see `errors`) and an exit status by class.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from partimento import __version__
from partimento.cli.lazy import group_of
from partimento.errors import PartimentoError

# Command -> (module under partimento.cli, its one line of help). The help stands here too, so that listing the commands
# imports none of them.
COMMANDS = {
    "demo": ("demo", "The whole road on the built-in band: encode, train, play, report."),
    "band": ("band", "Render loops of the built-in band, labelled, to try things with."),
    "encode": ("encode", "Turn folders of audio into a pack of codec codes."),
    "pairs": ("pairs", "Shift recordings in pitch and write pairs to train a restorer on."),
    "decode": ("decode", "Turn a pack, or a file through the codec, back into audio."),
    "pack": ("pack", "Inspect, verify, mend and measure packs."),
    "convert": ("convert", "Turn one NPQ or NPQ text file into another."),
    "tags": ("tags", "List tags, find missing prompts, rebuild lost ones."),
    "plan": ("plan", "Say what a training will need: memory, hours, disk, and what each option costs."),
    "preflight": ("preflight", "Check a configuration before training; --overfit learns one clip by heart."),
    "train": ("train", "Train a model; resumes the run if it exists."),
    "sample": ("sample", "Let a trained run play."),
    "restore": ("restore", "Clean recordings with a trained restorer."),
    "shift": ("shift", "Shift the pitch of recordings, and clean what that leaves behind."),
    "evaluate": ("evaluate", "Judge a trained restorer on held-out recordings: figures, artifacts, one page."),
    "memorised": ("memorised", "Search the training clips for copies in what was played, with p-values."),
    "score": ("score", "Measure audio files, also against a pack."),
    "explain-loss": ("explain_loss", "Say what a run's loss is made of, and whether it is good."),
    "log": ("log", "Write the research log: a day's page, or a run's, from what the runs left."),
    "watch": ("watch", "Look at a run while it trains, in the terminal."),
    "track": ("track", "Send a run to TensorBoard, trackio or W&B."),
    "doctor": ("doctor", "Say what is wrong with a run or a checkpoint, and what to try first."),
    "report": ("report", "Write a run's report: one HTML page that works offline."),
    "compare": ("compare", "Compare runs: seeds together, the same clips, intervals, a verdict a pair."),
    "rank": ("rank", "Rank checkpoints over runs, and say which cannot be told apart."),
    "ablate": ("ablate", "Train every combination of what varies, with seeds, and compare them."),
    "codec": ("codec", "List, check and export codecs."),
    "weights": ("weights", "Import published weights (Dia, MusicGen), export those of a run."),
    "config": ("config", "Show a configuration resolved, or the schema of all keys."),
    "explain": ("explain", "Explain an error code."),
    "completion": ("completion", "Print the shell completion script."),
}


@click.command(cls=group_of("partimento.cli", COMMANDS), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="partimento")
def cli() -> None:
    """Train music models on codec codes: from a folder of music to a model that plays.

    Start with `partimento demo`, or with your own music: `partimento encode MUSIC --to packs/mine`.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and exit with the status of its class of failure."""
    args = list(sys.argv[1:] if args is None else args)
    status = _run(args)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _run(args: list[str]) -> int:
    as_json = "--json" in args
    try:
        status = cli.main(args=args, prog_name="partimento", standalone_mode=False)
        return status if isinstance(status, int) else 0  # of click's Exit
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as err:
        context = getattr(err, "ctx", None)
        path = context.command_path if context else "partimento"
        return _tell(PartimentoError("SYS006", err.format_message(), next=f"{path} --help"), as_json)
    except PartimentoError as err:
        return _tell(err, as_json)
    except (KeyboardInterrupt, click.Abort):
        return _tell(
            PartimentoError(
                "SYS003",
                "interrupted",
                next="run the same command again; it continues from what was committed",
            ),
            as_json,
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as err:
        return _tell(_crash(err, args), as_json)


def _tell(err: PartimentoError, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": err.to_json()}, default=str))
    if not as_json or sys.stderr.isatty():
        colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        head, _, rest = str(err).partition("\n")
        click.echo((click.style(head, fg="red", bold=True) if colour else head) + "\n" + rest, err=True)
    return err.exit_status


def _crash(err: Exception, args: list[str]) -> PartimentoError:
    """Write the trace to a file, so that the terminal shows one error and nothing of it is lost."""
    import platform
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="partimento-crash-", suffix=".txt", errors="backslashreplace", delete=False
    ) as file:
        file.write(f"partimento {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        file.write(f"command: partimento {' '.join(args)}\n\n")
        traceback.print_exception(err, file=file)
    return PartimentoError(
        "SYS001",
        f"an unexpected fault: {type(err).__name__}: {err}",
        where=file.name,
        why="this is a defect in partimento; the file named above holds the trace",
        next=f"cat {Path(file.name)}",
    )
