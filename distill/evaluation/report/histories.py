"""The history experiment's figures as tables for the terminal and as CSV; reads its JSON."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from distill.evaluation import formats
from distill.evaluation.report import grid

Report = Mapping[str, Any]

_METRICS = ("nats_per_token", "nats_per_reply")


def arms_table(report: Report) -> Table:
    """Nats per token and per reply by arm, with intervals, and the prompt's mean length."""
    cells = [["Arm", "Nats per token", "Nats per reply", "Prompt tokens"]]
    for arm in report["arms"]:
        figures = [formats.error(arm[metric]) for metric in _METRICS]
        cells.append([arm["name"], *figures, f"{arm['prompt_tokens']:.0f}"])
    return grid.terminal(cells, whole=True)


def paired_table(report: Report) -> Table:
    """What one arm's nats per token are above another's, reply by reply."""
    cells = [["Arm", "less", "Nats per token", "95% interval", "p", "p, adjusted"]]
    for pair in report["paired"]:
        if pair["metric"] == "nats_per_token":
            between = formats.error_interval(pair) or formats.MISSING
            values = [f"{pair['difference']:+.3f}", between]
            values += [formats.p_value(pair["p_value"]), formats.p_value(pair["p_value_holm"])]
            cells.append([pair["a"], pair["b"], *values])
    return grid.terminal(cells, whole=True)


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
    """As `distill.evaluation.report.grid.arms_to_csv` has it."""
    return grid.arms_to_csv(report, _METRICS)
