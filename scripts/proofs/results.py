"""What the proofs share: seeds, intervals over them, and where figures and plots go."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from scipy import stats

from distill.runs import hardware, write_json

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def options(description: str | None, output: str) -> argparse.ArgumentParser:
    """A parser with the options that every proof has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds, from 0 on")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/proofs") / output)
    return parser


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval over seeds, by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def words(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """`mean (low to high)`."""
    mean, low, high = (scale * x for x in interval(values))
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def panels(count: int) -> tuple[Figure, Sequence[Any]]:
    """A figure with so many plots side by side."""
    figure, axes = plt.subplots(1, count, figsize=(4.6 * count, 3.4), squeeze=False)
    return figure, axes[0]


def finish(output: Path, figure: Figure, text: str, result: Any) -> None:
    """Print the table; write it, the plot and all figures beside it."""
    output.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(output / "plot.svg")
    plt.close(figure)
    (output / "table.md").write_text(text + "\n")
    write_json(output / "figures.json", {"hardware": hardware(), "result": result})
    print(text)
    print(output)
