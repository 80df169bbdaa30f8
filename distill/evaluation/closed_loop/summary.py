"""Outcomes of an arm -> figures with 95% intervals over tasks.

A task whose outcome is not known is never counted as either: those that ended in an error are left
out of every figure and counted (`ends`); those left unresolved stand beside `success`, the share
*shown* to succeed, as a share of their own. What would have come of them lies between the two.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from distill.evaluation.closed_loop.loop import Outcome
from distill.evaluation.intervals import Array, Statistic, estimate, number_groups

_SPENT = ("llm_calls", "input_tokens", "output_tokens")


def summarise(outcomes: Iterable[Outcome], resamples: int) -> dict[str, Any]:
    """The figures of one arm; a figure is `{value, low, high}`, or None where it is not known.

    Shares of tasks: `success`, `unresolved`, `harmful` (any harmful call was made), and of tasks
    with an attack `attack_followed`. Share of decisions: `taken` (by the router). Means per task:
    `wrong_calls`, `harmful_calls`, `steps`, `router_calls`, `fallback_calls` (of tools), and
    `llm_calls`, `input_tokens`, `output_tokens`, None where one task's are not known. Counts:
    `n_tasks`, `n_groups`, `ends`, `reasons` (the policy's), `attacks` (by kind).

    Args:
        outcomes: read once; only numbers are kept of each.
        resamples: of groups, behind every interval.
    """
    ends: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    attacks: dict[str, Counter[str]] = {}
    groups: list[str] = []
    rows: list[dict[str, float]] = []
    for outcome in outcomes:
        ends[outcome.end] += 1
        if outcome.score is None:
            continue
        groups.append(outcome.group)
        rows.append(_row(outcome))
        reasons.update(step["reason"] for step in outcome.steps)
        if outcome.score.attack is not None:
            attacks.setdefault(outcome.kind or "", Counter())[outcome.score.attack] += 1
    figures = _figures(rows, groups, resamples) if rows else {}
    return {
        "n_tasks": sum(ends.values()),
        "n_groups": len(set(groups)),
        "ends": dict(ends),
        **figures,
        "reasons": dict(reasons.most_common()),
        "attacks": {kind: dict(counts) for kind, counts in sorted(attacks.items())},
    }


def _row(outcome: Outcome) -> dict[str, float]:
    """The numbers of one task; nan: not known."""
    score = outcome.score
    assert score is not None, "an error has no figures"
    made = Counter({"router": 0, "fallback": 0})
    for step in outcome.steps:
        made[step["by"]] += len(step["calls"])
    spent = {name: getattr(outcome.usage, name) for name in _SPENT}
    return {
        "success": outcome.success is True,
        "unresolved": outcome.success is None,
        "harmful": score.harmful_calls > 0,
        "wrong_calls": score.wrong_calls,
        "harmful_calls": score.harmful_calls,
        "steps": len(outcome.steps),
        "taken": sum(step["by"] == "router" for step in outcome.steps),
        "router_calls": made["router"],
        "fallback_calls": made["fallback"],
        "attacked": score.attack is not None,
        "attack_followed": score.attack == "followed",
        **{name: np.nan if value is None else value for name, value in spent.items()},
    }


def _figures(
    rows: list[dict[str, float]], groups: list[str], resamples: int
) -> dict[str, Mapping[str, float | None] | None]:
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    tasks, attacked, steps = np.ones(len(rows)), columns.pop("attacked"), columns["steps"]
    per = dict.fromkeys(columns, tasks) | {"attack_followed": attacked, "taken": steps}
    known = {name: values for name, values in columns.items() if not np.isnan(values).any()}
    statistics = {name: _mean(values, per[name]) for name, values in known.items()}
    found = estimate(statistics, number_groups(groups), resamples)
    estimates = {name: found.get(name) for name in columns}
    return {name: e if e is None else e._asdict() for name, e in estimates.items()}


def _mean(values: Array, per: Array) -> Statistic:
    """Sum over sum. Beyond the greatest that any task has seen nothing is known: that bounds it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        greatest = float(np.nan_to_num(values / per, posinf=0.0).max())
    columns = np.stack([values, per], axis=1)
    return Statistic(columns, lambda s: s[..., 0] / s[..., 1], (0.0, max(greatest, 1.0)))
