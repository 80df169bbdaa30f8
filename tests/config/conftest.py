"""A file for a test to write a config into."""

from pathlib import Path

import pytest
from config_files import write


@pytest.fixture
def file(tmp_path: Path):
    """Writes a config file."""
    return lambda text: write(tmp_path / "job.yaml", text)
