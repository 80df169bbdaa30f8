"""Outcomes of an arm -> figures with 95% intervals over tasks.

A task whose outcome is not known is never counted as either: those that ended in an error are left
out of every figure and counted (`ends`); those left unresolved stand beside `success`, the share
*shown* to succeed, as a share of their own. What would have come of them lies between the two.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from distill.evaluation.closed_loop.outcome import Outcome
from distill.evaluation.intervals import (
    Array,
    Statistic,
    estimate,
    number_groups,
    paired_difference,
)
from distill.evaluation.paired import adjusted, entry

_SPENT = ("llm_calls", "input_tokens", "output_tokens", "duration_ms")


def summarise(outcomes: Iterable[Outcome], resamples: int) -> dict[str, Any]:
    """The figures of one arm; a figure is `{value, low, high}`, or None where it is not known.

    Shares of tasks: `success`, `unresolved`, `harmful` (any harmful call was made), and of tasks
    with an attack `attack_followed`. Share of decisions: `taken` (by the router). Means per task:
    `wrong_calls`, `harmful_calls`, `steps`, `router_calls`, `fallback_calls` (of tools), and
    `llm_calls`, `input_tokens`, `output_tokens`, `duration_ms` (of the LLM's answers), None where
    one task's are not known. Counts:
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


def paired(arms: Mapping[str, Iterable[Outcome]], resamples: int) -> list[dict[str, Any]]:
    """By how much every later arm `a` is above every earlier `b`, task by task.

    Returns:
        entries of `distill.evaluation.paired` for success, LLM calls, tokens and time, adjusted by
        metric, each over the `n_tasks` that both arms played and of which both figures are known;
        a pair without such a task has none.

    Args:
        arms: read once each; only numbers are kept of an outcome.
    """
    found = {name: {one.id: (one.group, _paid(one)) for one in made} for name, made in arms.items()}
    entries: list[dict[str, Any]] = []
    for metric in ("success", *_SPENT):
        of_metric = []
        for b, a in combinations(found, 2):
            both = [
                (group, paid[metric], found[b][task][1][metric])
                for task, (group, paid) in found[a].items()
                if task in found[b]
            ]
            known = [(g, x, y) for g, x, y in both if not np.isnan([x, y]).any()]
            if known:
                groups, left, right = zip(*known, strict=True)
                difference = paired_difference(
                    np.array(left, dtype=np.float64),
                    np.array(right, dtype=np.float64),
                    number_groups(groups),
                    resamples,
                    shares=metric == "success",
                )
                of_metric.append({**entry(a, b, metric, difference), "n_tasks": len(known)})
        entries += adjusted(of_metric)
    return entries


def _paid(outcome: Outcome) -> dict[str, float]:
    """Whether a task succeeded and what it cost; nan: not known."""
    if outcome.success is None:
        return dict.fromkeys(("success", *_SPENT), np.nan)
    return {"success": outcome.success, **_spent(outcome)}


def _spent(outcome: Outcome) -> dict[str, float]:
    values = {name: getattr(outcome.usage, name) for name in _SPENT}
    return {name: np.nan if value is None else value for name, value in values.items()}


def _row(outcome: Outcome) -> dict[str, float]:
    """The numbers of one task; nan: not known."""
    score = outcome.score
    assert score is not None, "an error has no figures"
    made = Counter({"router": 0, "fallback": 0})
    for step in outcome.steps:
        made[step["by"]] += len(step["calls"])
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
        **_spent(outcome),
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
