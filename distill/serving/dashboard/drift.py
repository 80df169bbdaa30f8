"""Whether what the router decides today is like what it decided on its calibration part.

The measure is the population stability index, the sum over bins of (p - q) ln(p / q) for the shares
p and q of the two samples, which is Jeffreys' divergence. By custom (Siddiqi 2006, Credit Risk
Scorecards) below 0.1 is no drift to speak of and above 0.25 is much. But two samples of one
population differ, too: their index is then distributed about as (1/n + 1/m) times chi-squared with
a degree of freedom less than there are bins (Yurdakul and Naranjo 2020, Statistical properties of
the population stability index, Journal of Risk Model Validation 14(4)). An index below that
distribution's 95% quantile is called chance here. n and m count conversations and not decisions,
since those of one conversation are alike; that errs towards chance.

Pure functions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import chdtri

LEAST = 30
"""Conversations in each sample from which on the index is told."""

_LEAST_EXPECTED = 5
"""Conversations to be expected in a bin; smaller ones are put together (Cochran's rule)."""

OTHERS = "others"


@dataclass(frozen=True)
class Bar:
    """One bin, with its share in either sample; None of an empty one."""

    label: str
    before: float | None
    now: float | None


@dataclass(frozen=True)
class Drift:
    """How far two samples are apart; `index` is None where one of them is too small."""

    bars: list[Bar]
    index: float | None
    chance: float | None
    """What the index is below in 95% of cases where nothing has drifted."""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.index is None or self.chance is None:
            return "too few to tell"
        if self.index <= self.chance:
            return "no more than chance"
        if self.index < 0.1:
            return "slight"
        return "moderate" if self.index <= 0.25 else "large"


def drift(
    labels: Sequence[str],
    before: Sequence[float],
    now: Sequence[float],
    sizes: tuple[int, int],
) -> Drift:
    """Compare counts in the same bins.

    Args:
        labels: the bins' names.
        before, now: decisions in each bin, then and today.
        sizes: conversations that these are of.
    """
    totals = sum(before), sum(now)
    shares = [
        [count / total if total else None for count in counts]
        for counts, total in zip((before, now), totals, strict=True)
    ]
    bars = [Bar(*bar) for bar in zip(labels, *shares, strict=True)]
    if min(sizes) < LEAST or not all(totals) or len(bars) < 2:
        return Drift(bars, None, None)
    # Half a decision more in each bin, so that none is empty.
    p, q = (
        [(count + 0.5) / (total + 0.5 * len(bars)) for count in counts]
        for counts, total in zip((before, now), totals, strict=True)
    )
    index = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    scale = sum(1 / size for size in sizes)
    return Drift(bars, index, scale * float(chdtri(len(bars) - 1, 0.05)))


def drift_of_names(
    before: Mapping[str, float], now: Mapping[str, float], sizes: tuple[int, int]
) -> Drift:
    """Compare how often names come; rare ones are put together, most frequent ones come first."""
    total, least = sum(before.values()), _LEAST_EXPECTED / max(1, min(sizes))
    frequent = [name for name, count in before.items() if total and count / total >= least]
    frequent.sort(key=lambda name: (-before[name], name))

    def column(counts: Mapping[str, float]) -> list[float]:
        rest = sum(count for name, count in counts.items() if name not in frequent)
        return [*(counts.get(name, 0.0) for name in frequent), rest]

    then, today, labels = column(before), column(now), [*frequent, OTHERS]
    if then[-1] == today[-1] == 0:
        then, today, labels = then[:-1], today[:-1], labels[:-1]
    return drift(labels, then, today, sizes)
