"""The command line in process, on traces of seconds; little but the two baselines is trained."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from job_files import write_config
from small_shop import write_traces

from distill import cli
from distill.config import load
from distill.pipeline.plan import steps


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what the command line sets for the libraries."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def distill(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command: exit code, what it printed, what it said on stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            cli.main([str(argument) for argument in arguments])
            code: Any = 0
        except SystemExit as done:
            code = done.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def done(distill) -> Callable[..., str]:
    """Runs a command that must succeed: what it printed."""

    def run(*arguments: object) -> str:
        code, out, err = distill(*arguments)
        assert code == 0, err
        return out

    return run


@pytest.fixture
def fails(distill) -> Callable[..., str]:
    """Runs a command that must fail for the user's fault: the one line that says so."""

    def run(*arguments: object) -> str:
        code, _, err = distill(*arguments)
        assert code == 2
        assert "Traceback" not in err
        # Steps of a job are lines of their own; the fault is the last and only other one.
        lines = [line for line in err.splitlines() if not re.match(r"\[\d+/\d+\] ", line)]
        assert len(lines) == 1, err
        return lines[0]

    return run


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    return write_traces(tmp_path / "traces.jsonl")


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_traces(folder / "traces.jsonl")
    job = load(write_config(folder))
    for step in steps(job):
        step.do(lambda stage, done, total=None: None)
    return folder / "runs/shop"


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Path:
    """The folder of a finished job that a test may change."""
    return Path(shutil.copytree(_finished, tmp_path / "finished/shop"))
