"""What the command line is given: a config file, a trace file that does not do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from small_shop import job_values

MERGE = "split.merge_jaccard=null"


def write_config(folder: Path, **changes: Any) -> Path:
    """The config file of a job of seconds; changes are its top-level keys."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job_values(folder, **changes), sort_keys=False))
    return path


def failing_build(fails: Callable[..., str], source: Path, *overrides: str) -> str:
    """A build that must fail and leave nothing: the one line that says why."""
    out = source.parent / "dataset"
    line = fails("build", source, "-o", out, MERGE, *overrides)
    assert not out.exists()
    return line
