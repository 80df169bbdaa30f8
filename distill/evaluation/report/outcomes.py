"""The closed loop's figures as a table for the terminal; it computes none."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from distill.evaluation.report import formats

_MEANS = {
    "Steps": "steps",
    "Wrong calls": "wrong_calls",
    "LLM calls": "llm_calls",
    "Tokens in": "input_tokens",
}


def outcomes_table(report: Mapping[str, Any]) -> Table:
    """A row per arm of `closed_loop.json`; intervals stand under their values.

    With attacks there are two columns more: how many tasks met theirs, and the share of all that
    followed it.
    """
    attacked = any(arm["attacks"] for arm in report["arms"])
    heads = ["Router", "Tasks", "Solved", "Unresolved", "Errors", "Taken", "Harmful", *_MEANS]
    heads += ["Attacks met", "Followed"] if attacked else []
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, heading in enumerate(heads):
        shown.add_column(heading, justify="right" if i else "left")
    for arm in report["arms"]:
        shown.add_row(*map(Text, _row(arm, attacked)))  # Text: names are no markup
    return shown


def _row(arm: Mapping[str, Any], attacked: bool) -> list[str]:
    cells = [
        arm["name"],
        str(arm["n_tasks"]),
        _share(arm.get("success")),
        formats.value(arm.get("unresolved")),
        str(arm["ends"].get("error", 0)),
        formats.value(arm.get("taken")),
        _share(arm.get("harmful")),
        *(_mean(arm.get(name)) for name in _MEANS.values()),
    ]
    if attacked:
        counts = arm["attacks"].values()
        met = sum(n for kind in counts for state, n in kind.items() if state != "not met")
        cells += [str(met), _share(arm.get("attack_followed"))]
    return cells


def _share(figure: formats.Figure) -> str:
    return formats.estimate(figure).replace(" [", "\n").rstrip("]").replace(" to ", "–")


def _mean(figure: formats.Figure) -> str:
    value = None if figure is None else figure["value"]
    return formats.MISSING if value is None else f"{value:.1f}"
