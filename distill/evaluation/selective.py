"""How thresholds' promises hold on the test part: coverage, and the share wrong among those taken.

Thresholds come from the calibration part (`distill.evaluation.risk`); nothing is fitted here. Under
several seeds each trained router takes by its own thresholds, and the figures are over all of them
pooled. This module knows nothing of files or routers.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from distill.evaluation import metrics
from distill.evaluation.intervals import Array, Statistic, estimate, ratio
from distill.evaluation.metrics import Scores
from distill.evaluation.predictions import Prediction
from distill.routers.confidence import Threshold

Taken = Sequence[tuple[Sequence[Prediction], Sequence[Threshold]]]
"""Of each seed's run: its predictions and its router's thresholds."""


def risk_entries(seeds: Sequence[int], runs: Taken, resamples: int) -> list[dict[str, Any]]:
    """`risk[]` of a router's entry, one for each alpha that all seeds have a threshold for.

    `threshold` is the median over the seeds whose data supports one (`supported` of them; null
    where none does), `coverage` the share of test decisions taken, 0 under the other seeds, and
    `error` the share of these that are wrong, null where none is taken. `by_seed` has each seed's
    own, with the bound that its calibration part gives. `by_tool` has the tools that any seed
    supports a threshold of their own for: of the decisions for the tool, the share taken.
    """
    keys = [{(t.alpha, t.delta) for t in thresholds} for _, thresholds in runs]
    scores = metrics.score([p for predictions, _ in runs for p in predictions])
    entries = []
    for alpha, delta in sorted(set.intersection(*keys)):
        chosen = [_at(thresholds, alpha, delta) for _, thresholds in runs]
        found = [t for one in chosen if (t := one[None].threshold) is not None]
        taken = taken_at(runs, alpha, delta)
        entries.append(
            {
                "alpha": alpha,
                "delta": delta,
                "threshold": median(found) if found else None,
                "supported": len(found),
                **_figures(scores, np.concatenate(taken), None, resamples),
                "by_seed": [
                    {
                        "seed": seed,
                        "threshold": one[None].threshold,
                        "bound": one[None].bound,
                        "n_calibration": one[None].n,
                        **_shares(metrics.score(predictions), here),
                    }
                    for seed, (predictions, _), one, here in zip(
                        seeds, runs, chosen, taken, strict=True
                    )
                ],
                "by_tool": _by_tool(scores, runs, chosen, resamples),
            }
        )
    return entries


def taken_at(runs: Taken, alpha: float, delta: float) -> list[Array]:
    """Of each run (n,), 1 where a decision is taken under this promise over all decisions."""
    return [
        _taken(predictions, _at(thresholds, alpha, delta)[None].threshold)
        for predictions, thresholds in runs
    ]


def _at(thresholds: Sequence[Threshold], alpha: float, delta: float) -> dict[str | None, Threshold]:
    return {t.tool: t for t in thresholds if (t.alpha, t.delta) == (alpha, delta)}


def _by_tool(
    scores: Scores,
    runs: Taken,
    chosen: Sequence[dict[str | None, Threshold]],
    resamples: int,
) -> list[dict[str, Any]]:
    supported = {
        tool
        for one in chosen
        for tool, threshold in one.items()
        if tool is not None and threshold.threshold is not None
    }
    rows = []
    for tool in sorted(supported):
        among, taken = [], []
        for (predictions, _), one in zip(runs, chosen, strict=True):
            here = np.array([tool in p.decision.tools for p in predictions], dtype=np.float64)
            threshold = one[tool].threshold if tool in one else None
            among.append(here)
            taken.append(here * _taken(predictions, threshold))
        figures = _figures(scores, np.concatenate(taken), np.concatenate(among), resamples)
        rows.append({"tool": tool, **figures})
    return rows


def _taken(predictions: Sequence[Prediction], threshold: float | None) -> Array:
    """(n,) 1 where a decision is confident enough to be taken."""
    if threshold is None:
        return np.zeros(len(predictions))
    return np.array([(p.decision.confidence or 0.0) >= threshold for p in predictions], dtype=float)


def _figures(
    scores: Scores, taken: Array, among: Array | None, resamples: int
) -> dict[str, dict[str, float | None] | None]:
    """`coverage` (of `among`) and `error` with intervals; None without support."""
    among = np.ones_like(taken) if among is None else among
    statistics: dict[str, Statistic] = {
        "coverage": ratio(taken, among),
        "error": ratio(taken * (1 - scores.right), taken),
    }
    found = estimate(statistics, scores.groups, resamples, scores.weights)
    return {name: None if value is None else value._asdict() for name, value in found.items()}


def _shares(scores: Scores, taken: Array) -> dict[str, float | None]:
    """`coverage` and `error` of one seed, without intervals."""
    weight = scores.weights * taken
    wrong = float((weight * (1 - scores.right)).sum())
    return {
        "coverage": float(weight.sum() / scores.weights.sum()),
        "error": wrong / float(weight.sum()) if weight.sum() else None,
    }
