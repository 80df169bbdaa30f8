"""Tool accuracy by how hard an example is (`distill.evaluation.difficulty`).

Edges are fixed, so that the buckets of two reports can be laid side by side. This module knows
nothing of routers.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.evaluation.difficulty import KINDS, Difficulty
from distill.evaluation.intervals import estimate
from distill.evaluation.metrics import accuracy, score
from distill.evaluation.predictions import Prediction

_STARTS: dict[str, tuple[int, ...]] = {
    "complexity": (0, 1, 2, 3, 4),
    "n_tools": (0, 1, 2, 6, 11, 21, 51),
    "step": (0, 1, 2, 3, 5, 10),
    "n_calls": (0, 1, 2, 3),
    "n_arguments": (0, 1, 2, 3, 5),
    "dependent_steps": (0, 1, 2, 3),
    "branches": (0, 1, 2),
    "length": (0, 200, 1000, 4000, 16000),
}
"""The least value in each bucket; the last is open-ended."""

TITLES = {
    "complexity": "Complexity",
    "n_tools": "Tools on offer",
    "step": "Step in the conversation",
    "n_calls": "Calls in the decision",
    "n_arguments": "Arguments to fill",
    "dependent_steps": "Earlier calls that arguments depend on",
    "argument_kind": "Most demanding argument",
    "branches": "Branches in the request",
    "length": "Characters of conversation",
}
"""What each breakdown is by, in words; the order of reports."""


def names(dimension: str) -> list[str]:
    """The buckets of a breakdown, the easiest first."""
    if dimension == "argument_kind":
        return list(KINDS)
    starts = _STARTS[dimension]
    return [_name(starts, i) for i in range(len(starts))]


def by_bucket(predictions: Sequence[Prediction], resamples: int) -> dict[str, list[dict[str, Any]]]:
    """Tool accuracy in each bucket that has examples, in the order of its values.

    Returns `{"step": [{"bucket": "0", "n": 120, "n_groups": 31, "tool_accuracy": {value, low,
    high}}, …], …}`. `n` counts an example as often as the teacher decided it. What is about
    arguments leaves the teacher's replies out: they have none to fill. Examples of which a property
    was not recorded are in none of its buckets. Resamples are of all groups, as for the whole: how
    many of a bucket's examples a resample has, varies too.
    """
    scores = score(predictions)
    report: dict[str, list[dict[str, Any]]] = {}
    for dimension in TITLES:
        buckets = np.array([_bucket(dimension, p.buckets) for p in predictions])
        if dimension == "n_arguments":
            buckets[scores.label_reply == 1] = -1
        members = {
            name: (buckets == i).astype(np.float64)
            for i, name in enumerate(names(dimension))
            if (buckets == i).any()
        }
        statistics = {name: accuracy(scores.tool_correct, among) for name, among in members.items()}
        estimates = estimate(statistics, scores.groups, resamples, scores.weights)
        rows = []
        for name, among in members.items():
            figure = estimates[name]
            assert figure is not None, "a bucket without examples"
            rows.append(
                {
                    "bucket": name,
                    "n": round(float((among * scores.weights).sum())),
                    "n_groups": len(np.unique(scores.groups[among == 1])),
                    "tool_accuracy": figure._asdict(),
                }
            )
        report[dimension] = rows
    return report


def _bucket(dimension: str, difficulty: Difficulty) -> int:
    """The number of its bucket; -1 where the property is not known."""
    value = getattr(difficulty, dimension)
    if value is None:
        return -1
    if dimension == "argument_kind":
        return KINDS.index(value)
    return bisect_right(_STARTS[dimension], value) - 1


def _name(starts: Sequence[int], i: int) -> str:
    if i == len(starts) - 1:
        return f"{starts[i]}+"
    last = starts[i + 1] - 1
    return str(last) if last == starts[i] else f"{starts[i]}-{last}"
