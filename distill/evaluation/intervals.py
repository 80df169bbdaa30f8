"""Intervals for figures and paired differences, from a bootstrap over groups.

Every figure is a function of sums of columns over examples. Summed per group, these are sufficient
for a bootstrap that resamples whole groups (the cluster bootstrap; Davison & Hinkley 1997, section
3.8; Field & Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x): a resample is a vector of group
multiplicities, and all resamples of all figures are one matrix product. Decisions of one
conversation are alike, so resampling rows would make the intervals too narrow.

One rule makes every interval, whether few groups or many, faultless or not:

- The bootstrap gives the figure's variance, times G/(G-1) for G groups (Hesterberg 2015,
  doi:10.1080/00031305.2015.1089789: percentile intervals of few groups are too narrow).
- Two made-up halves of a group, one at each end of the figure's range, are added to the G, as
  Agresti & Coull (1998, doi:10.1080/00031305.1998.10480550) and, for matched pairs, Agresti & Min
  (2005, doi:10.1002/sim.1781) add made-up observations: what nobody saw go wrong may still do so.
  For a difference the ends are one standard deviation of a single decision's difference.
- The interval is the shrunken figure plus and minus Student's t times its standard error, with
  the effective number of groups (sum w)²/(sum w²) (Kish 1965) less one as degrees of freedom, cut
  to the figure's bounds and widened to the figure itself.
- Fewer than `MIN_GROUPS` groups give no interval: they tell nothing about other groups.

Simulated coverage of 95% intervals (beta-binomial groups, 5 to 100 of them; true accuracy 0.6,
0.85 and 0.97; intraclass correlation 0.02, 0.2 and 0.6): 0.93 to 1 with groups of ten decisions,
0.89 to 1 where sizes are geometric; percentile intervals gave 0.26 to 0.96. Where groups are right
or wrong only as wholes it can fall to 0.81. Of equal routers at most 6% differed with p < 0.05.
Training luck is in none of this: resamples hold the trained routers fixed.

This module is numpy and scipy only. It knows nothing of predictions, files or reports.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

LEVEL = 0.95
"""Confidence level of every interval."""

MIN_GROUPS = 5
"""Groups below which no interval and no p-value is given."""

_TAIL = (1 - LEVEL) / 2
_SEED = 0
_CHUNK = 2_000_000  # multiplicities held at a time: 16 MB


class Estimate(NamedTuple):
    """A figure with its 95% interval, `low <= value <= high`; None and None with too few groups."""

    value: float
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """A paired difference a - b, its 95% interval and the two-sided p-value of "no difference".

    The p-value is below 0.05 exactly where the interval, before it is widened to the difference
    itself, leaves 0 out. All but the value are None with too few groups.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None


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


def number_groups(keys: Sequence[str]) -> Indices:
    """Number group keys 0..G-1 in sorted order, so that the rows' order changes no resample."""
    return np.unique(np.array(keys, dtype=np.str_), return_inverse=True)[1]


def ratio(numerator: Array, denominator: Array) -> Statistic:
    """Sum of `numerator` (n,) over sum of `denominator` (n,)."""
    return Statistic(np.stack([numerator, denominator], axis=1), lambda s: s[..., 0] / s[..., 1])


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
    sums = {
        name: _group_sums(statistic.columns * rows, groups)
        for name, statistic in statistics.items()
    }
    variances = _variances(statistics, sums, resamples)
    found: dict[str, Estimate | None] = {}
    for name, statistic in statistics.items():
        sizes = _sizes(sums[name])
        if not len(sizes):
            found[name] = None
            continue
        value = float(statistic.value(sums[name].sum(axis=0)))
        spread = _spread(value, variances[name], sizes, statistic.bounds)
        low, high = (None, None) if spread is None else spread.interval(value, statistic.bounds)
        found[name] = Estimate(value, low, high)
    return found


def mean(values: Array, groups: Indices, resamples: int, weights: Array | None = None) -> Estimate:
    """Weighted mean of amounts from 0 without an upper bound (n,): nats, tokens, milliseconds.

    The two ends at which halves of a group are made up are one standard deviation of the amounts
    from their mean.
    """
    ones = np.ones_like(values) if weights is None else weights
    statistic = Statistic(np.stack([values * ones, ones], axis=1), lambda s: s[..., 0] / s[..., 1])
    sums = _group_sums(statistic.columns, groups)
    value = float(statistic.value(sums.sum(axis=0)))
    deviation = float(np.sqrt(np.average((values - value) ** 2, weights=ones)))
    variance = _variances({"mean": statistic}, {"mean": sums}, resamples)["mean"]
    spread = _spread(value, variance, _sizes(sums), (value - deviation, value + deviation))
    low, high = (None, None) if spread is None else spread.interval(value, (0.0, np.inf))
    return Estimate(value, low, high)


def paired_difference(
    a: Array,
    b: Array,
    groups: Indices,
    resamples: int,
    weights: Array | None = None,
    *,
    shares: bool = True,
) -> Difference:
    """Weighted mean of a - b over the same n examples: two routers' correctness, 0 or 1 each.

    With `shares=False` they are amounts of any size: nats, tokens, milliseconds.
    """
    columns = np.stack([a - b, (a - b) ** 2, np.ones_like(a)], axis=1)
    columns *= 1.0 if weights is None else weights[:, None]
    bounds = (-1.0, 1.0) if shares else (-np.inf, np.inf)
    statistic = Statistic(columns, lambda s: s[..., 0] / s[..., 2], bounds)
    sums = _group_sums(columns, groups)
    variance = _variances({"d": statistic}, {"d": sums}, resamples)["d"]
    value = float(statistic.value(sums.sum(axis=0)))
    sizes = _sizes(sums)
    # The mean square is the variance of one decision's difference (of shares: how many differ);
    # half a group more keeps that of shares above 0 where the two never differed.
    square = sums[:, 1].sum() / sizes.sum()
    if shares:
        square = (len(sizes) * square + 0.5) / (len(sizes) + 1)
    deviation = float(np.sqrt(square))
    spread = _spread(value, variance, sizes, (-deviation, deviation))
    if spread is None:
        return Difference(value, None, None, None)
    return Difference(value, *spread.interval(value, statistic.bounds), spread.p_value())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979) for a family of tests, in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


@dataclass(frozen=True)
class _Spread:
    """The shrunken figure, its standard error and its degrees of freedom."""

    centre: float
    error: float
    freedom: float

    def interval(self, value: float, bounds: tuple[float, float]) -> tuple[float, float]:
        reach = self.error * float(stdtrit(self.freedom, 1 - _TAIL))
        low, high = max(self.centre - reach, bounds[0]), min(self.centre + reach, bounds[1])
        return min(low, value), max(high, value)

    def p_value(self) -> float:
        """Of the hypothesis that the figure is 0; 1 where amounts never differed at all."""
        if not self.error:
            return 1.0
        return float(2 * stdtr(self.freedom, -abs(self.centre) / self.error))


def _spread(
    value: float, variance: float, sizes: Array, ends: tuple[float, float]
) -> _Spread | None:
    """From G groups and two halves of a group at the `ends`; None with too few groups."""
    n = len(sizes)
    if n < MIN_GROUPS:
        return None
    centre = (n * value + sum(ends) / 2) / (n + 1)
    halves = sum((end - centre) ** 2 / 4 for end in ends)
    error = np.sqrt(n**2 * variance * n / (n - 1) + halves) / (n + 1)
    effective = sizes.sum() ** 2 / (sizes**2).sum()
    return _Spread(centre, float(error), max(float(effective) - 1, 1.0))


def _sizes(sums: Array) -> Array:
    """How much each group that supports the figure counts, from its last column."""
    counts: Array = sums[:, -1]
    return counts[counts > 0]


def _group_sums(columns: Array, groups: Indices) -> Array:
    """Sums (G, k) of the columns (n, k) over each group."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    return np.add.reduceat(columns[order], starts, axis=0)


def _variances(
    statistics: Mapping[str, Statistic], sums: Mapping[str, Array], resamples: int
) -> dict[str, float]:
    """The bootstrap variance of each figure, over the resamples that leave it defined; else 0."""
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
    variances = {}
    for name, parts in replicates.items():
        values = np.concatenate(parts)
        defined = values[~np.isnan(values)]
        variances[name] = float(defined.var()) if len(defined) else 0.0
    return variances


def _resample(groups: int, resamples: int) -> Iterator[Array]:
    """Multiplicities (b, G) of each group in each resample, b resamples at a time."""
    rng = np.random.default_rng(_SEED)
    rows = max(1, _CHUNK // groups)
    for start in range(0, resamples, rows):
        b = min(rows, resamples - start)
        drawn = rng.integers(groups, size=(b, groups)) + groups * np.arange(b)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=b * groups)
        yield counts.reshape(b, groups).astype(np.float64)
