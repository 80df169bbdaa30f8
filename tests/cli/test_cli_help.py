"""What the command line says of itself, and of a command line that is none."""

import re
import shlex

import pytest
import typer.main

from distill import cli

COMMANDS = [
    *("import", "build", "train", "calibrate", "evaluate", "compare", "learn", "run"),
    *("export", "histories", "simulate", "serve", "key", "push", "config"),
]


def test_every_command_is_known():
    assert sorted(typer.main.get_command(cli.app).commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(done, command: str):
    text = done(command, "--help")
    assert f"Example: distill {command} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_every_command_parses(command: str):
    described = typer.main.get_command(cli.app).commands[command]
    example = re.search(r"Example: `distill (.*)`", described.help or "")
    assert example is not None
    name, *arguments = shlex.split(example[1])
    assert name == command
    described.make_context(name, arguments)


def test_without_a_command_the_commands_are_listed(distill):
    code, out, err = distill()
    assert code == 2
    assert all(command in out + err for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'CONFIG'"),
        (["build", "x.jsonl"], "Missing option '-o'"),
        (["push", "a", "b/c", "--publc"], "No such option: --publc"),
    ],
)
def test_a_mistyped_command_line_is_one_line(fails, arguments: list[str], expected: str):
    assert expected in fails(*arguments)
