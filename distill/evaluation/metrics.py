"""Metrics of decisions against the teacher's, with intervals from a bootstrap over groups.

Every metric is a function of sums of columns over examples. Summed per group, these are sufficient
for a bootstrap that resamples whole groups (the cluster bootstrap; Davison & Hinkley 1997, section
3.8; Field & Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x): a resample is a vector of group
multiplicities, and all resamples of all metrics are one matrix product. Decisions of one
conversation are alike, so resampling rows would make the intervals too narrow.

Intervals are 95% percentile intervals. BCa (Efron 1987) is not used: its bias and acceleration
terms come from a jackknife that is unstable for the few, unequal and often faultless groups met
here. Known limits: with fewer than about 30 groups percentile intervals are somewhat too narrow;
training luck is not in them, because resamples hold the trained routers fixed.

An example counts as often as the teacher decided it (its weight, the number of equal decisions that
the dataset merged into it), so a figure is about the teacher's decisions, as its self-agreement is.

This module is numpy only. It knows nothing of files, routers or reports.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distill.chat import same_calls
from distill.evaluation.predictions import Prediction

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

LEVEL = 0.95
"""Confidence level of every interval."""

CALIBRATION_BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""

_TAIL = (1 - LEVEL) / 2
_SEED = 0
_CHUNK = 2_000_000  # multiplicities held at a time: 16 MB


class Estimate(NamedTuple):
    """A figure with its 95% interval; `low <= value <= high`."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A paired difference a - b, its 95% interval and the two-sided p-value of "no difference"."""

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Statistic:
    """A figure as a function of column sums.

    `columns` is (n, k); the last column counts the examples the figure is about. `value` maps
    sums (..., k) to figures (...), nan where a sum leaves it undefined. `bounds` are the figure's
    least and greatest possible values.
    """

    columns: Array
    value: Callable[[Array], Array]
    bounds: tuple[float, float] = (0.0, 1.0)
    centred: bool = False
    """Whether resampling itself shifts the figure, so that the shift is taken out again."""


@dataclass(frozen=True)
class Scores:
    """Predictions as arrays over n examples and the C tool names (`reply` included) of the labels.

    `groups` (n,) numbers the groups by sorted key; `weights` (n,) are the examples';
    `tool_correct`, `call_correct`, `label_reply`, `decision_reply` (n,) are 0 or 1;
    `label_counts`, `decision_counts` (n, C) are the multisets; `confidence` (n,) is nan where the
    router gave none.
    """

    groups: Indices
    weights: Array
    tool_correct: Array
    call_correct: Array
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


def number_groups(keys: Sequence[str]) -> Indices:
    """Number group keys 0..G-1 in sorted order, so that the rows' order changes no resample."""
    return np.unique(np.array(keys, dtype=np.str_), return_inverse=True)[1]


def _flags(values: Sequence[bool]) -> Array:
    return np.array(values, dtype=np.float64)


def ratio(numerator: Array, denominator: Array) -> Statistic:
    """Sum of `numerator` (n,) over sum of `denominator` (n,)."""
    return Statistic(np.stack([numerator, denominator], axis=1), lambda s: s[..., 0] / s[..., 1])


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


def calibration_bins(confidence: Array) -> Indices:
    """The bin of each confidence (n,); -1 where it is nan.

    `CALIBRATION_BINS` bins of equal mass, which bias the error less than bins of equal width
    (Roelofs et al. 2022, arXiv:2012.08668); equal confidences share a bin, so there may be fewer.
    """
    known = ~np.isnan(confidence)
    bins = np.full(len(confidence), -1, dtype=np.intp)
    if known.any():
        shares = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
        # Edges are confidences that occur: interpolated ones differ by rounding between equals.
        edges = np.unique(np.quantile(confidence[known], shares, method="higher"))
        bins[known] = np.searchsorted(edges, confidence[known], side="right")
    return bins


def calibration_error(scores: Scores) -> Statistic:
    """ECE: mean over bins, by size, of |tool accuracy - mean confidence| (arXiv:1706.04599, eq. 3).

    Only examples with a confidence count. The estimate is biased upwards, by about the noise of a
    bin; resampling adds the same noise once more, which the interval takes out (`centred`).
    """
    bins = calibration_bins(scores.confidence)
    known = bins >= 0
    columns = np.zeros((len(bins), CALIBRATION_BINS + 1))
    columns[known, bins[known]] = scores.tool_correct[known] - scores.confidence[known]
    columns[known, -1] = 1
    return Statistic(columns, lambda s: np.abs(s[..., :-1]).sum(axis=-1) / s[..., -1], centred=True)


def brier(scores: Scores) -> Statistic:
    """Mean of (confidence - tool correctness)², where there is a confidence (Brier 1950)."""
    known = ~np.isnan(scores.confidence)
    gap = np.where(known, scores.confidence, 0) - scores.tool_correct
    return ratio(known * gap**2, known.astype(np.float64))


def estimate(
    statistics: Mapping[str, Statistic],
    groups: Indices,
    resamples: int,
    weights: Array | None = None,
) -> dict[str, Estimate | None]:
    """Each figure with its interval, all from the same resamples; None without support.

    Args:
        statistics: figures by name, all over the same n examples.
        groups: (n,) group numbers from `number_groups`.
        resamples: bootstrap resamples B; memory is bounded whatever B and the number of groups.
        weights: (n,) how often each example counts; once where not given.
    """
    if not statistics:
        return {}
    # Every figure is a function of column sums, so weighting the rows weights every figure.
    rows = 1.0 if weights is None else weights[:, None]
    sums = {name: _group_sums(s.columns * rows, groups) for name, s in statistics.items()}
    replicates = _bootstrap(statistics, sums, resamples)
    return {
        name: _interval(statistic, sums[name], replicates[name])
        for name, statistic in statistics.items()
    }


def paired_difference(
    a: Array, b: Array, groups: Indices, resamples: int, weights: Array | None = None
) -> Difference:
    """Weighted mean of a - b over the same n examples, e.g. the correctness of two routers.

    The p-value inverts the percentile interval: twice the smaller share of resampled differences
    on either side of 0, counting ties on both, with one added to both counts (Davison & Hinkley
    1997, eq. 4.11). It is at least 2^(1-D) for D groups that differ at all, the finest p-value of
    a sign-flip test on them: a bootstrap of two or three groups would claim more.
    """
    columns = np.stack([a - b, np.ones_like(a)], axis=1)
    columns *= 1.0 if weights is None else weights[:, None]
    statistic = Statistic(columns, lambda s: s[..., 0] / s[..., 1], bounds=(-1.0, 1.0))
    sums = _group_sums(columns, groups)
    replicates = _bootstrap({"d": statistic}, {"d": sums}, resamples)["d"]
    interval = _interval(statistic, sums, replicates)
    assert interval is not None
    tail = min(np.count_nonzero(replicates <= 0), np.count_nonzero(replicates >= 0))
    finest = 2.0 ** (1 - int(np.count_nonzero(sums[:, 0])))
    p_value = min(1.0, max(2 * (tail + 1) / (resamples + 1), finest))
    return Difference(*interval, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979) for a family of tests, in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def _group_sums(columns: Array, groups: Indices) -> Array:
    """Sums (G, k) of the columns (n, k) over each group."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    return np.add.reduceat(columns[order], starts, axis=0)


def _bootstrap(
    statistics: Mapping[str, Statistic], sums: Mapping[str, Array], resamples: int
) -> dict[str, Array]:
    """Replicates (B,) of each figure, nan where a resample leaves it undefined."""
    stacked = np.hstack(list(sums.values()))
    replicates: dict[str, list[Array]] = {name: [] for name in statistics}
    with np.errstate(invalid="ignore", divide="ignore"):
        for multiplicities in _resample(len(stacked), resamples):
            drawn = multiplicities @ stacked
            start = 0
            for name, statistic in statistics.items():
                stop = start + statistic.columns.shape[1]
                replicates[name].append(statistic.value(drawn[:, start:stop]))
                start = stop
    return {name: np.concatenate(parts) for name, parts in replicates.items()}


def _resample(groups: int, resamples: int) -> Iterator[Array]:
    """Multiplicities (b, G) of each group in each resample, b resamples at a time."""
    rng = np.random.default_rng(_SEED)
    rows = max(1, _CHUNK // groups)
    for start in range(0, resamples, rows):
        b = min(rows, resamples - start)
        drawn = rng.integers(groups, size=(b, groups)) + groups * np.arange(b)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=b * groups)
        yield counts.reshape(b, groups).astype(np.float64)


def _interval(statistic: Statistic, sums: Array, replicates: Array) -> Estimate | None:
    support = int(np.count_nonzero(sums[:, -1]))
    if not support:
        return None
    value = float(statistic.value(sums.sum(axis=0)))
    low_bound, high_bound = statistic.bounds
    defined = replicates[~np.isnan(replicates)]
    if np.ptp(defined) < 1e-12:
        # All resamples agree (one group, or all alike), which is no certainty. With 97.5%
        # confidence at most this share of groups is unlike the `support` seen (Clopper & Pearson
        # 1934), and each of them moves the figure to a bound at worst.
        unseen = 1 - _TAIL ** (1 / support)
        low, high = value - unseen * (value - low_bound), value + unseen * (high_bound - value)
        return Estimate(value, low, high)
    if statistic.centred:
        defined = defined - (defined.mean() - value)
    low, high = np.clip(np.quantile(defined, [_TAIL, 1 - _TAIL]), low_bound, high_bound)
    return Estimate(value, min(float(low), value), max(float(high), value))
