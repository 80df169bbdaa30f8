"""Risk control: from which confidence on decisions may be taken without asking the teacher.

The promise of a threshold: among decisions of at least this confidence at most `alpha` are wrong,
with probability at least 1 - `delta` over the draw of the calibration part. It is found by
Learn-then-Test (Angelopoulos et al. 2021, arXiv:2110.01052): every threshold of a grid that is
fixed in advance is a hypothesis "more than alpha are wrong above it", tested with the exact
binomial tail (Clopper & Pearson 1934), and all tests together err with probability delta at most.
They go from the highest threshold down by Wiens' (2003) fallback procedure: a part of delta is
given to a few places on the way, a test may use what the place above it was given and has
not lost, and so a stretch of thresholds costs no more than its first. Of those that pass, the
lowest is kept. Where to begin depends on how many decisions lie above a threshold, never on whether
they are right.

Decisions of one conversation are right or wrong together, so n of them tell less than n
independent ones. The tests count the effective n, (sum w)² / (sum w² + rho * sum over pairs of one
group w w'), w being how often the teacher decided an example and rho the correlation within groups,
measured on the calibration part (Korn & Graubard 1998; the design effect of Kish 1965). With
rho = 0 every example counts as one, with rho = 1 every group.

Where the promise ends: later decisions must be exchangeable with the calibration part's, group by
group; another user, tool or wording is another draw. That rho is measured makes it approximate
where there are few groups: `scripts/bench/risk.py` draws the parts again and again and counts how
often the promise is broken. It is about the share over many decisions; a few may have more.

Numpy and scipy only; it knows nothing of routers or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincc, betaincinv

from distill.config import RiskConfig
from distill.evaluation.intervals import Array, Indices, number_groups
from distill.evaluation.metrics import right
from distill.evaluation.predictions import Prediction
from distill.routers.confidence import Calibration, Threshold, log_odds

Mask = npt.NDArray[np.bool_]

_GRID = np.arange(16, -16.01, -0.05)
"""Thresholds tested, as log-odds of the raw confidence: 0.9999999 to 0.0000001."""

_FIRST = {1.0: 0.25, 2.0: 0.25}
"""Shares of delta by the effective number of decisions they are given at: as many as one test at
that share of delta needs to pass without an error, and twice as many."""

_PLACES = {0.25: 0.125, 0.5: 0.125, 0.75: 0.125, 1.0: 0.125}
"""Shares of delta by the share of all decisions they are given at."""


@dataclass(frozen=True)
class Judged:
    """n decisions of the calibration part, judged.

    `odds` (n,) are the log-odds of the raw confidences, `wrong` (n,) 0 or 1, `weights` (n,) how
    often the teacher decided each, `groups` (n,) numbers of their groups.
    """

    odds: Array
    wrong: Array
    weights: Array
    groups: Indices

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> "Judged":
        """Those predictions that have a confidence."""
        known = [p for p in predictions if p.decision.confidence is not None]
        return cls(
            np.array([log_odds(p.decision.confidence or 0.0) for p in known], dtype=np.float64),
            np.array([not right(p.decision, p.label) for p in known], dtype=np.float64),
            np.array([p.weight for p in known], dtype=np.float64),
            number_groups([p.group for p in known]),
        )

    def __len__(self) -> int:
        return len(self.odds)

    def where(self, rows: Mask) -> "Judged":
        """The decisions of a mask (n,)."""
        return Judged(
            self.odds[rows], self.wrong[rows], self.weights[rows], _renumbered(self.groups[rows])
        )


@dataclass(frozen=True)
class _Above:
    """What lies at or above each threshold of the grid: sums of weights, and the effective n."""

    taken: Array
    wrong: Array
    effective: Array


def fit_thresholds(
    predictions: Sequence[Prediction], calibration: Calibration, risk: RiskConfig
) -> list[Threshold]:
    """One threshold for each alpha, of all decisions and then of each tool that was decided for.

    A tool's promise is about the decisions that call it (`reply`: that call none), and each errs
    with probability delta by itself. Tools have the correlation within groups of all decisions.

    Args:
        predictions: of the calibration part, with raw confidences, not calibrated ones.
        calibration: by which thresholds are given; it rises, so it moves no decision past another.
        risk: alphas and delta.
    """
    judged = Judged.of(predictions)
    if not len(judged):
        return []
    rho = correlation(judged)
    decided = [set(p.decision.tools) for p in predictions if p.decision.confidence is not None]
    parts: dict[str | None, Judged] = {None: judged}
    for tool in sorted(set().union(*decided)):
        parts[tool] = judged.where(np.array([tool in tools for tools in decided]))
    found = []
    for name, part in parts.items():
        above = _above(part, rho)
        errors, hits = _errors(above)
        for alpha in risk.alphas:
            place = lowest_passing(above, alpha, risk.delta)
            facts: dict[str, float | None] = {"threshold": None, "error": None, "bound": None}
            if place is not None:
                bound = betaincinv(errors[place] + 1, hits[place], 1 - risk.delta)
                facts = {
                    "threshold": calibration.of_odds(float(_GRID[place])),
                    "error": float(above.wrong[place] / above.taken[place]),
                    "bound": float(bound),
                }
            found.append(
                Threshold(
                    alpha,
                    risk.delta,
                    name,
                    coverage=0.0 if place is None else float(above.taken[place] / above.taken[-1]),
                    n=round(float(part.weights.sum())),
                    n_groups=len(np.unique(part.groups)),
                    **facts,
                )
            )
    return found


def correlation(judged: Judged) -> float:
    """The correlation of "wrong" within groups, 0 to 1: rho of the module's text.

    The mean product of two decisions' deviations from the overall error, over all pairs of one
    group, by the mean squared deviation; 0 where no group has two decisions. Two made-up halves of
    a group of mean size are counted in, one all right and one all wrong, as in
    `distill.evaluation.intervals`: a few groups that did well tell little of one that would not.
    """
    weights, groups = judged.weights, judged.groups
    pairs = _pairs(groups, weights)
    if pairs <= 0:
        return 0.0
    size = weights.sum() / (int(groups.max()) + 1)
    total = weights.sum() + size
    error = ((weights * judged.wrong).sum() + size / 2) / total
    gap = judged.wrong - error
    ends = (1 - error) ** 2 + error**2  # of the two halves together
    product = (_pairs(groups, weights * gap) + size**2 / 2 * ends) / (pairs + size**2)
    spread = ((weights * gap**2).sum() + size / 2 * ends) / total
    return float(np.clip(product / spread, 0, 1))


def _pairs(groups: Indices, values: Array) -> float:
    """Sum of v v' over all ordered pairs of two rows of one group."""
    return float((np.bincount(groups, values) ** 2).sum() - (values**2).sum())


def _above(judged: Judged, rho: float) -> _Above:
    """Decisions join one by one, the most confident first, and each threshold finds its number."""
    joined = np.argsort(-judged.odds, kind="stable")
    weights, groups = judged.weights[joined], judged.groups[joined]
    of_group = np.zeros(int(groups.max()) + 1)
    pairs = np.empty(len(judged))  # what each adds to the sum of w w' over ordered pairs of a group
    for i, (weight, group) in enumerate(zip(weights, groups, strict=True)):
        pairs[i] = 2 * of_group[group] * weight
        of_group[group] += weight
    number = np.searchsorted(-judged.odds[joined], -_GRID, side="right")
    taken, wrong, own, alike = (
        np.concatenate([[0.0], np.cumsum(values)])[number]
        for values in (weights, weights * judged.wrong[joined], weights**2, pairs)
    )
    spread = own + rho * alike
    effective = np.divide(taken**2, spread, out=np.zeros_like(taken), where=spread > 0)
    return _Above(taken, wrong, effective)


def lowest_passing(above: _Above, alpha: float, delta: float) -> int | None:
    """The last place of the grid whose test passes; None where none does.

    A place's level is what it was given itself and what the place before it has not lost
    (Wiens 2003). The test: had `alpha` been wrong, so few errors would have had a probability of
    at most the level.
    """
    given = np.zeros(len(_GRID))
    least = np.log(_FIRST[1.0] * delta) / np.log1p(-alpha)
    for multiple, share in _FIRST.items():
        enough = above.effective >= multiple * least
        given[enough.argmax() if enough.any() else -1] += share * delta
    for covered, share in _PLACES.items():
        given[(above.taken >= covered * above.taken[-1]).argmax()] += share * delta
    tail = _tail(above, alpha)
    level, last = 0.0, None
    for place in range(len(_GRID)):
        level += given[place]
        if tail[place] <= level:
            last = place
        else:
            level = 0.0
    return last


def _errors(above: _Above) -> tuple[Array, Array]:
    """Effective errors, and effective n less these."""
    share = np.ones_like(above.wrong)
    np.divide(above.wrong, above.taken, out=share, where=above.taken > 0)
    return share * above.effective, (1 - share) * above.effective


def _tail(above: _Above, alpha: float) -> Array:
    """Probability of at most the errors seen if `alpha` were wrong, at each threshold.

    The binomial tail as a beta distribution, which takes fractions (Korn & Graubard 1998).
    """
    errors, hits = _errors(above)
    return np.where(hits > 0, betaincc(errors + 1, np.maximum(hits, 1e-12), alpha), 1.0)


def _renumbered(groups: Indices) -> Indices:
    return np.unique(groups, return_inverse=True)[1]
