"""What holds of every config class: documented, frozen, and imported without heavy libraries."""

import subprocess
import sys
import tomllib
from typing import get_args

import pytest
from config_files import ROOT

from distill import config as configs
from distill.config import RenderConfig, RunConfig


def test_every_field_is_documented():
    undocumented = [
        f"{kind.__name__}.{name}"
        for kind in configs.Config.__subclasses__()
        for name, field in kind.model_fields.items()
        if name != "kind" and not field.description
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, configs.Config))
    ]
    assert undocumented == []


def test_configs_cannot_be_changed_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        RenderConfig().turns = 3  # type: ignore[misc]


def test_every_tracker_is_an_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (trackers,) = get_args(RunConfig.model_fields["trackers"].annotation)
    assert set(get_args(trackers)) <= set(extras["optional-dependencies"])


@pytest.mark.parametrize(
    "code",
    [
        "import distill.config",
        "import distill.cli",
        "from distill.cli import main; main(['--help'])",
        "from distill.cli import main; main(['config', 'configs/run/quickstart.yaml'])",
    ],
)
def test_configs_and_help_cost_no_heavy_import(code: str):
    heavy = ["torch", "transformers", "datasets", "sklearn", "scipy", "pyarrow", "matplotlib"]
    report = f"import sys; print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {report}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == "[]"
