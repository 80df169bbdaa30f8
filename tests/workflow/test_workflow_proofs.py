"""The proofs' commands, as small as they go: each writes a table, a plot and its figures."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.runs import read_json

PROOFS = Path(__file__).parents[2] / "scripts" / "proofs"


def proved(name: str, *options: str, output: Path) -> Any:
    """The figures of a proof."""
    command = [sys.executable, PROOFS / f"{name}.py", *options, "-o", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (output / "table.md").read_text().strip() in done.stdout
    assert "<svg" in (output / "plot.svg").read_text()
    return read_json(output / "figures.json")["result"]


def test_a_mixture_is_as_wrong_as_the_end_is_curved(tmp_path):
    small = ("--steps", "1", "3", "--samples", "2", "4", "--draws", "20")
    rows = proved("gradients", *small, output=tmp_path)
    of = {(row["end"], row["steps"], row["estimator"]): row for row in rows}
    for steps in (1, 3):
        assert of["linear", steps, "mixture"]["bias"] == pytest.approx(0, abs=1e-5)
        assert of["curved", steps, "mixture"]["bias"] > 0.01
    assert len(rows) == 2 * 2 * 5


def test_one_seed_of_the_threshold(tmp_path):
    found = proved("threshold", "--seeds", "1", "--epochs", "1", output=tmp_path)
    assert {way: len(runs) for way, runs in found.items()} == {"exact": 1, "score": 1}


def test_one_seed_of_wrong_labels(tmp_path):
    once = ("--epochs", "1", "--outcome-epochs", "1", "--samples", "2")
    job = ("--seeds", "1", "--steps", "2", "--shares", "0.2", "--kinds", "habit")
    found = proved("labels", *job, *once, output=tmp_path)
    assert found["2-habit-0.0"][0].keys() == {"distilled"}
    # Learning goes on from the distilled routers, and keeps them where it gains nothing.
    (noisy,) = found["2-habit-0.2"]
    assert noisy["outcomes"] >= noisy["distilled"] - 0.1
