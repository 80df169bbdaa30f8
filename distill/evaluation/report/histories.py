"""The history experiment's figures as tables for the terminal and as CSV; reads its JSON."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from distill.evaluation.report import formats

Report = Mapping[str, Any]

_METRICS = ("nats_per_token", "nats_per_reply")
_COLUMNS = ["arm", "less", "metric", "value", "low", "high", "p_value", "p_value_holm"]


def arms_table(report: Report) -> Table:
    """Nats per token and per reply by arm, with intervals, and the prompt's mean length."""
    shown = _table("Arm", "Nats per token", "Nats per reply", "Prompt tokens")
    for arm in report["arms"]:
        cells = [formats.error(arm[metric]) for metric in _METRICS]
        shown.add_row(*map(Text, [arm["name"], *cells, f"{arm['prompt_tokens']:.0f}"]))
    return shown


def paired_table(report: Report) -> Table:
    """What one arm's nats per token are above another's, reply by reply."""
    shown = _table("Arm", "less", "Nats per token", "95% interval", "p", "p, adjusted")
    for pair in report["paired"]:
        if pair["metric"] == "nats_per_token":
            between = formats.error_interval(pair) or formats.MISSING
            values = [f"{pair['difference']:+.3f}", between]
            values += [formats.p_value(pair["p_value"]), formats.p_value(pair["p_value_holm"])]
            shown.add_row(*map(Text, [pair["a"], pair["b"], *values]))
    return shown


def counts(report: Report) -> str:
    """What was measured and what was not, in one line."""
    left_out = {**report["not_measured"], **report["left_out"]}
    reasons = "; ".join(f"{reason}: {n}" for reason, n in left_out.items() if n)
    return (
        f"{report['n_replies']} replies of {report['n_tokens']} tokens in {report['n_groups']} "
        f"groups, {report['n_cut']} after a shortened conversation; of {report['n_traces']} traces "
        f"not measured: {reasons or 'none'}"
    )


def to_csv(report: Report) -> str:
    """A row per arm and metric, and per pair and metric with `less`; full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for arm in report["arms"]:
        for metric in _METRICS:
            writer.writerow({"arm": arm["name"], "metric": metric, **arm[metric]})
    for pair in report["paired"]:
        row = {name: pair[name] for name in ("metric", "low", "high", "p_value", "p_value_holm")}
        writer.writerow({"arm": pair["a"], "less": pair["b"], "value": pair["difference"], **row})
    return text.getvalue()


def _table(*headings: str) -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, heading in enumerate(headings):
        shown.add_column(heading, justify="right" if i else "left", no_wrap=True)
    return shown
