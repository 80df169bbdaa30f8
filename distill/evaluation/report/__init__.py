"""A report for people: the terminal's table, and report.json as Markdown, CSV and one HTML page.

Same report, same predictions: same bytes. It computes no figure of its own but what plots need.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.evaluation.predictions import Prediction
from distill.evaluation.report import outcomes
from distill.evaluation.report.outcomes import outcomes_table, paired_table
from distill.evaluation.report.page import page
from distill.evaluation.report.tables import promises, rows, table, to_csv, to_markdown
from distill.runs import write, write_json

__all__ = [
    "outcomes_table",
    "paired_table",
    "promises",
    "rows",
    "table",
    "write_outcomes",
    "write_report",
]


def write_report(
    report: Mapping[str, Any], predictions: Mapping[str, Sequence[Prediction]], out: Path
) -> None:
    """Write report.{html,md,csv,json} into `out`, each atomically, the JSON last.

    Args:
        report: what `distill.evaluation.compare.compare` returns.
        predictions: those of each router by name, for the confusion and calibration plots.
        out: a folder, made if it is not there; other files in it stay.
    """
    write(out / "report.html", page(report, predictions))
    write(out / "report.md", to_markdown(report))
    write(out / "report.csv", to_csv(report))
    write_json(out / "report.json", report)


def write_outcomes(loop: Mapping[str, Any], out: Path) -> None:
    """Write closed_loop.{md,csv,json} into `out`, each atomically, the JSON last.

    Args:
        loop: the figures of a simulation.
        out: a folder, made if it is not there; other files in it stay.
    """
    write(out / "closed_loop.md", outcomes.to_markdown(loop))
    write(out / "closed_loop.csv", outcomes.to_csv(loop))
    write_json(out / "closed_loop.json", loop)
