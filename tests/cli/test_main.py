"""The command line itself: help, errors, exit statuses, machine output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from partimento.cli import main as tree
from partimento.cli.main import COMMANDS, cli, main


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def leaves(group: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(group, click.Group):
        return [path]
    context = click.Context(group)
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += leaves(command, (*path, name))
    return found


@pytest.mark.parametrize("path", leaves(cli), ids=" ".join)
def test_every_command_has_help_and_json(capsys: pytest.CaptureFixture[str], path: tuple[str, ...]) -> None:
    status, out, _ = run(capsys, *path, "--help")
    assert status == 0 and "Usage: partimento " + " ".join(path) in out
    assert "--json" in out or path == ("completion",)  # a script is for the shell to read


def test_the_list_of_commands_tells_what_each_help_tells() -> None:
    for name, (module, line) in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None and module
        assert line.endswith(".") and len(line) < 80


def test_errors_go_to_stderr_in_one_shape(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "pack", "inspect", "nowhere")
    assert (status, out) == (3, "")
    lines = err.splitlines()
    assert lines[0].startswith("error[PACK001]: ") and lines[-1].endswith("partimento explain PACK001")


def test_a_misspelt_command_or_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'encode'?" in run(capsys, "encod")[2]
    assert "--quick" in run(capsys, "pack", "verify", "x", "--quik")[2]


@pytest.mark.parametrize(
    "options",
    ["--shard ¹/3", "--shard 4/3", "--tasks 2", "--hours 1", "--submit local --claim", "--submit local --shard 1/2"],
)
def test_encode_refuses_options_that_would_do_nothing(capsys: pytest.CaptureFixture[str], options: str) -> None:
    status, _, err = run(capsys, "encode", "music", "--to", "pack", *options.split())
    assert status == 2 and err.startswith("error[SYS006]")


def test_an_unexpected_fault_leaves_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(tree.cli, "main", broken)
    status, out, _ = run(capsys, "explain", "--json", "caf\udce9")  # an argument that is not UTF-8 is no second fault
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (70, "SYS001")
    assert "ZeroDivisionError: planted" in Path(error["where"]).read_text()


def test_ctrl_c_has_the_shells_status(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tree.cli, "main", interrupted)
    status, _, err = run(capsys, "explain")
    assert status == 130 and "error[SYS003]" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    status, out, _ = run(capsys, "completion", shell)
    assert status == 0 and "_PARTIMENTO_COMPLETE" in out


def test_completion_completes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from partimento.cli.main import main; main()"],
        env={"_PARTIMENTO_COMPLETE": "bash_complete", "COMP_WORDS": "partimento enc", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
    )
    assert "encode" in done.stdout


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m partimento explain | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == "" and "class" in done.stdout


def test_explain_lists_and_explains(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(run(capsys, "explain", "--json")[1])["codes"]
    assert len(listed) > 40
    assert "never ignored" in run(capsys, "explain", "CONFIG002")[1]
