"""Jobs of seconds on the small shop, and what a test does to them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_shop import job_values

from distill import config as configs
from distill.config import RunConfig
from distill.pipeline.plan import steps
from distill.progress import Progress, silent
from distill.runs import RunDir

CONTRACT = [
    "calibration.jsonl",
    "config.yaml",
    "manifest.json",
    "predictions.jsonl",
    "report.json",
]
"""The files of a finished run, beside `router/`."""

ONE = {"majority": {"kind": "majority"}}


def job_at(folder: Path, **changes: Any) -> RunConfig:
    """A job of seconds on the traces in `folder`; changes are top-level keys of the config."""
    return configs.parse(job_values(folder, **changes), "test", RunConfig)


def do(job: RunConfig) -> None:
    """All steps of a job."""
    for step in steps(job):
        step.do(silent)


def majority(folder: Path) -> RunDir:
    """The baseline's run of the job in `folder`."""
    return RunDir(folder / "runs/shop/majority-s0")


def times(folder: Path) -> dict[str, int]:
    """Every file's modification time, but those of the comparison, which is always made anew."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and "comparison" not in path.parts
    }


def append(path: Path, *lines: bytes) -> None:
    """Add lines to a trace file."""
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line in lines)


def refuse(*args: object, **kwargs: object) -> None:
    """Stands in for what must not be called."""
    raise AssertionError("this work was done already")


def killed_at(decisions: int) -> Progress:
    """A `Progress` at which the process dies after so many decisions."""

    def told(stage: str, done: int, total: int | None = None) -> None:
        if stage.startswith(("evaluating", "calibrating")) and done >= decisions:
            raise KeyboardInterrupt

    return told


def interrupt(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, hit: Callable[..., bool]
) -> None:
    """Make a function that a module of the pipeline calls die like a killed process when `hit`
    says so."""
    real = getattr(module, name)

    def dies(*args: Any, **kwargs: Any) -> Any:
        if hit(*args):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, dies)
