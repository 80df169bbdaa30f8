"""Metrics of decisions against the teacher's, as functions of sums over examples.

An example counts as often as the teacher decided it (its weight, the number of equal decisions that
the dataset merged into it), so a figure is about the teacher's decisions, as its self-agreement is.
`distill.evaluation.intervals` makes figures of these statistics. This module knows nothing of
files, routers or reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.chat import same_calls
from distill.evaluation.intervals import Array, Indices, Statistic, number_groups, ratio
from distill.evaluation.predictions import Prediction
from distill.types import Decision


@dataclass(frozen=True)
class Scores:
    """Predictions as arrays over n examples and the C tool names (`reply` included) of the labels.

    `groups` (n,) numbers the groups by sorted key; `weights` (n,) are the examples';
    `tool_correct`, `call_correct`, `right` (as it stands, `right`), `label_reply` and
    `decision_reply` (n,) are 0 or 1;
    `label_counts`, `decision_counts` (n, C) are the multisets; `confidence` (n,) is nan where the
    router gave none.
    """

    groups: Indices
    weights: Array
    tool_correct: Array
    call_correct: Array
    right: Array
    label_counts: Array
    decision_counts: Array
    label_reply: Array
    decision_reply: Array
    confidence: Array


def score(predictions: Sequence[Prediction]) -> Scores:
    """Compare each decision with its label; `predictions` must not be empty."""
    assert predictions, "nothing to score"
    names = sorted({name for p in predictions for name in p.label.tools})
    column = {name: i for i, name in enumerate(names)}
    label_counts = np.zeros((len(predictions), len(names)))
    decision_counts = np.zeros_like(label_counts)
    for row, prediction in enumerate(predictions):
        for name in prediction.label.tools:
            label_counts[row, column[name]] += 1
        for name in prediction.decision.tools:
            if name in column:
                decision_counts[row, column[name]] += 1
    return Scores(
        groups=number_groups([p.group for p in predictions]),
        weights=np.array([p.weight for p in predictions], dtype=np.float64),
        tool_correct=_flags([p.decision.tools == p.label.tools for p in predictions]),
        call_correct=_flags([same_calls(p.decision, p.label) for p in predictions]),
        right=_flags([right(p.decision, p.label) for p in predictions]),
        label_counts=label_counts,
        decision_counts=decision_counts,
        label_reply=_flags([p.label.action == "reply" for p in predictions]),
        decision_reply=_flags([p.decision.action == "reply" for p in predictions]),
        confidence=np.array(
            [
                np.nan if p.decision.confidence is None else p.decision.confidence
                for p in predictions
            ]
        ),
    )


def right(decision: Decision, label: Decision) -> bool:
    """Whether a decision is right as it stands: what its confidence is about.

    Its tools are the label's and, where it calls with all arguments filled in, these are, too.
    """
    return same_calls(decision, label) if decision.filled else decision.tools == label.tools


def _flags(values: Sequence[bool]) -> Array:
    return np.array(values, dtype=np.float64)


def accuracy(correct: Array, among: Array | None = None) -> Statistic:
    """The share of correct examples, of all or of those where `among` (n,) is 1."""
    among = np.ones_like(correct) if among is None else among
    return ratio(correct * among, among)


def macro_f1(scores: Scores) -> Statistic:
    """The mean over tools (and `reply`) of F1, every tool weighing the same.

    Decisions are multisets: of a tool the label has l times and the decision d times, min(l, d)
    are true positives, d - min false positives, l - min false negatives, and
    F1 = 2 sum(min) / (sum(l) + sum(d)) over all examples. The mean runs over the tools in the
    labels (the "averaged F1" of Opitz & Burst 2019, arXiv:1911.03347), so that all routers are
    judged on the same tools; deciding for any other still costs the recall of the tool missed.
    """
    true = np.minimum(scores.label_counts, scores.decision_counts)
    n, tools = true.shape
    columns = np.hstack([true, scores.label_counts, scores.decision_counts, np.ones((n, 1))])

    def value(sums: Array) -> Array:
        hits, labels, decisions = (sums[..., i * tools : (i + 1) * tools] for i in range(3))
        f1 = 2 * hits / np.maximum(labels + decisions, 1)
        # A resample may miss a tool altogether; its mean is over the tools it has.
        present = labels > 0
        return np.asarray((f1 * present).sum(axis=-1) / present.sum(axis=-1))

    return Statistic(columns, value)


def no_call_precision(scores: Scores) -> Statistic:
    """Of the decisions to reply, the share where the teacher replied.

    Without support (and so null) also where no label is a reply: then it could only be 0.
    """
    decided = scores.decision_reply * scores.label_reply.max()
    return ratio(scores.label_reply * decided, decided)


def no_call_recall(scores: Scores) -> Statistic:
    """Of the labels to reply, the share where the router replied."""
    return ratio(scores.label_reply * scores.decision_reply, scores.label_reply)
