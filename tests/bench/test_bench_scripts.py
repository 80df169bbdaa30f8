"""The benchmark scripts say what they measure, and are explained."""

import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "dataset",
        "streaming",
        "training",
        "latency",
        "gateway",
        "gpu",
        "oracle",
        "peers",
        "open_peers",
        "served",
        "workflow",
    ],
)
def test_help_says_what_is_measured_and_shows_a_command(
    name: str, script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        script(name).main()
    assert stop.value.code == 0
    assert f"python scripts/bench/{name}.py" in capsys.readouterr().out


def test_every_script_is_explained(script: Any):
    folder = Path(script("machine").__file__).parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    scripts = [path.name for path in folder.glob("*.py") if "__main__" in path.read_text()]
    assert scripts
    assert [name for name in scripts if f"`{name}" not in text] == []


def test_the_peaks_are_rates(script: Any):
    assert script("machine").matmul_peak("float32", 64, repeats=2) > 0
    assert script("machine").int8_peak(64, repeats=2) > 0
