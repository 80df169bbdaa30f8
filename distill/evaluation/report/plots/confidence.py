"""Whether confidence can be trusted, and what is wrong among what it lets through."""

from collections.abc import Mapping, Sequence

import numpy as np

from distill.evaluation.calibration import calibration_bins
from distill.evaluation.metrics import score
from distill.evaluation.predictions import Prediction
from distill.evaluation.report.plots.drawing import (
    COLOURS,
    MARKERS,
    MUTED,
    SERIES,
    canvas,
    short,
    svg,
)


def reliability_plot(predictions: Sequence[Prediction]) -> str | None:
    """Share right in each confidence bin against the bin's mean confidence; point size by number.

    An example counts as often as the teacher decided it, as in the calibration error.
    """
    scores = score(predictions)
    bins = calibration_bins(scores.confidence, scores.weights)
    found = sorted(set(bins.tolist()) - {-1})
    if not found:
        return None
    members = [bins == b for b in found]
    with canvas(3.6) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=MUTED, linestyle="--", linewidth=1)
        counts = np.array([scores.weights[m].sum() for m in members])
        confidence, correct = (
            [100 * np.average(values[m], weights=scores.weights[m]) for m in members]
            for values in (scores.confidence, scores.right)
        )
        axes.plot(confidence, correct, color=COLOURS[0], linewidth=1)
        axes.scatter(confidence, correct, s=14 + 70 * counts / counts.max(), color=COLOURS[0])
        axes.set_xlim(-3, 103)
        axes.set_ylim(-3, 103)
        axes.set_aspect("equal")
        axes.set_xlabel("mean confidence in the bin, %")
        axes.set_ylabel("right in the bin, %")
        axes.text(30, 72, "too modest", color=MUTED, ha="center")
        axes.text(70, 28, "too confident", color=MUTED, ha="center")
        return svg(figure, "Reliability diagram")


def selective_plot(predictions: Mapping[str, Sequence[Prediction]]) -> str | None:
    """Share wrong among the most confident decisions, against how many these are.

    One line for each of the first `SERIES` routers; None where no router states a confidence.
    An example counts as often as the teacher decided it; equal confidences are taken together.
    """
    with canvas(3.3) as (figure, axes):
        drawn = 0
        for i, (name, made) in enumerate(list(predictions.items())[:SERIES]):
            scores = score(made)
            order = np.argsort(-np.nan_to_num(scores.confidence, nan=-1), kind="stable")
            confidence, weights = scores.confidence[order], scores.weights[order]
            last = np.append(np.diff(confidence) != 0, True) & ~np.isnan(confidence)
            if not last.any():
                continue
            taken = np.cumsum(weights)
            wrong = np.cumsum(weights * (1 - scores.right[order]))
            axes.plot(
                100 * taken[last] / taken[-1],
                100 * wrong[last] / taken[last],
                color=COLOURS[i],
                marker=MARKERS[i],
                markevery=max(1, int(last.sum()) // 8),
                markersize=4.5,
                linewidth=1.2,
                label=short(name),
            )
            drawn += 1
        if not drawn:
            return None
        axes.set_xlim(0, 103)
        axes.set_ylim(bottom=-1)
        axes.set_xlabel("decisions taken, most confident first, %")
        axes.set_ylabel("of these wrong, %")
        figure.legend(loc="outside upper left", ncols=3, fontsize=9, handlelength=1.6)
        return svg(figure, "Share wrong against share taken")
