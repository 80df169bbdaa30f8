"""Fit the map from raw confidence to the probability of being right, on the calibration part.

It knows nothing of routers or files; `distill.routers.confidence` says what the map means.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from distill.evaluation.intervals import Array
from distill.evaluation.metrics import right
from distill.evaluation.predictions import Prediction
from distill.routers.confidence import Calibration, log_odds

_SLOPES = (0.02, 50.0)
_PULL = 0.5
"""Decisions' worth of belief that raw confidence needs no stretching: it settles the slope where
all confidences are equal, and bounds it where right and wrong ones do not overlap."""


def fit_calibration(predictions: Sequence[Prediction]) -> Calibration | None:
    """Platt scaling by weighted maximum likelihood; None without a usable confidence.

    Targets are Platt's (1999, section 2.2): of N right and M wrong decisions (N+1)/(N+2) and
    1/(M+2) in place of 1 and 0, so that few faultless decisions do not make certainty. Each
    example weighs as often as the teacher decided it. Answers that are no decision (raw confidence
    0) are left out: their confidence stays 0.
    """
    known = [p for p in predictions if p.decision.confidence]
    if not known:
        return None
    odds = np.array([log_odds(p.decision.confidence or 0.0) for p in known], dtype=np.float64)
    weights = np.array([p.weight for p in known], dtype=np.float64)
    hits = np.array([right(p.decision, p.label) for p in known], dtype=np.float64)
    n_right, n_wrong = float((weights * hits).sum()), float((weights * (1 - hits)).sum())
    targets = np.where(hits == 1, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    slope, offset = _fit(odds, targets, weights)
    n_groups = len({p.group for p in known})
    return Calibration(slope, offset, n=round(float(weights.sum())), n_groups=n_groups)


def _fit(odds: Array, targets: Array, weights: Array) -> tuple[float, float]:
    """Slope and offset with the least cross-entropy; the slope is sought by its logarithm."""

    def loss(parameters: Array) -> tuple[float, Array]:
        slope, x = np.exp(parameters[0]), np.exp(parameters[0]) * odds + parameters[1]
        nll = -(weights * (targets * log_expit(x) + (1 - targets) * log_expit(-x))).sum()
        gap = weights * (expit(x) - targets)
        pull = _PULL * parameters[0] ** 2
        gradient = [slope * (gap * odds).sum() + 2 * _PULL * parameters[0], gap.sum()]
        return float(nll + pull), np.array(gradient)

    bounds = [tuple(np.log(_SLOPES)), (None, None)]
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds)
    return float(np.exp(found.x[0])), float(found.x[1])
