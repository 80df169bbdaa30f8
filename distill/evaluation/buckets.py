"""Tool accuracy by how hard an example is: tools on offer, step, calls and arguments.

Edges are fixed, so that the buckets of two reports can be laid side by side. This module knows
nothing of routers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.evaluation.intervals import estimate
from distill.evaluation.metrics import accuracy, score
from distill.evaluation.predictions import Prediction

_STARTS: dict[str, tuple[int, ...]] = {
    "n_tools": (0, 1, 2, 6, 11, 21, 51),
    "step": (0, 1, 2, 3, 5, 10),
    "n_calls": (0, 1, 2, 3),
    "n_arguments": (0, 1, 2, 3, 5),
}
"""The least value in each bucket; the last is open-ended."""

TITLES = {
    "n_tools": "Tools on offer",
    "step": "Step in the conversation",
    "n_calls": "Calls in the decision",
    "n_arguments": "Arguments to fill",
}
"""What each breakdown is by, in words; the order of reports."""


def by_bucket(predictions: Sequence[Prediction], resamples: int) -> dict[str, list[dict[str, Any]]]:
    """Tool accuracy in each bucket that has examples, in the order of its values.

    Returns `{"step": [{"bucket": "0", "n": 120, "n_groups": 31, "tool_accuracy": {value, low,
    high}}, …], …}`. `n` counts an example as often as the teacher decided it. `n_arguments` leaves
    the teacher's replies out: they have no arguments to fill. Resamples are of all groups, as for
    the whole: how many of a bucket's examples a resample has, varies too.
    """
    scores = score(predictions)
    report: dict[str, list[dict[str, Any]]] = {}
    for dimension, starts in _STARTS.items():
        values = np.array([getattr(p.buckets, dimension) for p in predictions])
        bucket = np.searchsorted(starts, values, side="right") - 1
        if dimension == "n_arguments":
            bucket[scores.label_reply == 1] = -1
        members = {
            _name(starts, i): (bucket == i).astype(np.float64)
            for i in range(len(starts))
            if (bucket == i).any()
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


def _name(starts: Sequence[int], i: int) -> str:
    if i == len(starts) - 1:
        return f"{starts[i]}+"
    last = starts[i + 1] - 1
    return str(last) if last == starts[i] else f"{starts[i]}-{last}"
