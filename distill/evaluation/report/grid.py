"""Rows of cells as a table for the terminal and as Markdown, and arms as CSV.

The first row is the heading. What the cells say is for others to know.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

Cells = Sequence[Sequence[str]]


def terminal(cells: Cells, *, whole: bool = False) -> Table:
    """The first column to the left, the others to the right; `whole`: no cell is broken."""
    heading, *body = cells
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, head in enumerate(heading):
        shown.add_column(head, justify="right" if i else "left", no_wrap=whole)
    for row in body:
        shown.add_row(*map(Text, row))  # Text: names are no markup
    return shown


def stacked(cell: str) -> str:
    """An estimate with its interval under its value, so that more fit in a line."""
    return cell.replace(" [", "\n").rstrip("]").replace(" to ", "–")


def to_markdown(cells: Cells) -> str:
    """A Markdown table."""
    heading, *body = [f"| {' | '.join(markdown(cell) for cell in row)} |" for row in cells]
    rule = "|" + "---|" * len(cells[0])
    return "\n".join([heading, rule, *body])


def markdown(text: str) -> str:
    """Escape what Markdown or inline HTML would read as markup."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", flat)


def arms_to_csv(
    report: Mapping[str, Any], metrics: Sequence[str], counts: Sequence[str] = ()
) -> str:
    """A row per arm and metric, and per pair and metric with `less`; full precision.

    Args:
        report: `arms`, each with a `name`, and what `distill.evaluation.paired` says of them.
        metrics: estimates of an arm; a metric that is missing or null has no row.
        counts: what else stands in a row, of its arm or pair, empty where these have it not.
    """
    columns = ["arm", "less", "metric", "value", "low", "high", "p_value", "p_value_holm", *counts]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for arm in report["arms"]:
        for metric in metrics:
            if arm.get(metric) is not None:
                writer.writerow({**arm, "arm": arm["name"], "metric": metric, **arm[metric]})
    for pair in report["paired"]:
        names = {"arm": pair["a"], "less": pair["b"]}
        writer.writerow({**pair, **names, "value": pair["difference"]})
    return text.getvalue()
