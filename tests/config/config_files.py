"""Config files of a few lines, and what is said of the bad ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill import config as configs
from distill.errors import ConfigError

ROOT = Path(__file__).parents[2]
BASE = "name: job\nrouters:\n  m: {kind: majority}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def with_router(settings: dict[str, Any]) -> str:
    return yaml.safe_dump({"name": "job", "routers": {"mine": settings}})


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        configs.load(path, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line
