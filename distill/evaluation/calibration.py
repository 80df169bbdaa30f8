"""How far a router's confidence is from being right: calibration error and Brier score.

A confidence is about the decision as it stands (`distill.evaluation.metrics.right`).
It works on `distill.evaluation.metrics.Scores` and knows nothing of routers or plots.
"""

import numpy as np

from distill.evaluation.intervals import Array, Indices, Statistic, ratio
from distill.evaluation.metrics import Scores

_MOST_BINS = 15  # as in Guo et al. 2017 (arXiv:1706.04599)
_PER_BIN = 30  # decisions a bin should have; the error of fewer is mostly noise
_DRAWS = 200
_SEED = 0


def calibration_bins(confidence: Array, weights: Array) -> Indices:
    """The bin of each confidence (n,), examples counting as `weights` (n,); -1 where it is nan.

    Bins of equal mass, which bias the error less than bins of equal width (Roelofs et al. 2022,
    arXiv:2012.08668): one for each 30 decisions, from 1 to 15. Equal confidences share a bin, so
    there may be fewer.
    """
    known = ~np.isnan(confidence)
    bins = np.full(len(confidence), -1, dtype=np.intp)
    if known.any():
        order = np.argsort(confidence[known], kind="stable")
        mass = np.cumsum(weights[known][order])
        n = int(np.clip(mass[-1] // _PER_BIN, 1, _MOST_BINS))
        starts = np.searchsorted(mass, mass[-1] * np.arange(1, n) / n, side="right")
        # Edges are confidences that occur: interpolated ones differ by rounding between equals.
        edges = np.unique(confidence[known][order][starts])
        bins[known] = np.searchsorted(edges, confidence[known], side="right")
    return bins


def calibration_error(scores: Scores) -> Statistic:
    """ECE: mean over bins, by size, of |share right - mean confidence| (arXiv:1706.04599, eq. 3).

    Only examples with a confidence count. The estimate is biased upwards by the noise of the bins:
    `error_if_calibrated` says what a perfectly calibrated router would get.
    """
    bins = calibration_bins(scores.confidence, scores.weights)
    known = bins >= 0
    columns = np.zeros((len(bins), _MOST_BINS + 1))
    columns[known, bins[known]] = scores.right[known] - scores.confidence[known]
    columns[known, -1] = 1
    return Statistic(columns, lambda s: np.abs(s[..., :-1]).sum(axis=-1) / s[..., -1])


def error_if_calibrated(scores: Scores) -> float | None:
    """The mean ECE of these confidences if each were exactly the probability of being right.

    Whether an example is right is drawn anew 200 times, each on its own (consistency resampling,
    Bröcker & Smith 2007, doi:10.1175/WAF993.1). Where decisions of a group are right or wrong
    together the true value is larger. None where no example has a confidence.
    """
    bins = calibration_bins(scores.confidence, scores.weights)
    known = bins >= 0
    if not known.any():
        return None
    confidence, weights, bins = scores.confidence[known], scores.weights[known], bins[known]
    rng = np.random.default_rng(_SEED)
    total = 0.0
    for _ in range(_DRAWS):
        right = rng.random(len(confidence)) < confidence
        total += float(np.abs(np.bincount(bins, weights * (right - confidence))).sum())
    return total / _DRAWS / float(weights.sum())


def brier(scores: Scores) -> Statistic:
    """Mean of (confidence - right or not)², where there is a confidence (Brier 1950)."""
    known = ~np.isnan(scores.confidence)
    gap = np.where(known, scores.confidence, 0) - scores.right
    return ratio(known * gap**2, known.astype(np.float64))
