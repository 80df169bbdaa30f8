"""What routers solve in whole tasks, against what it takes."""

from collections.abc import Mapping
from typing import Any

from distill.evaluation.report.plots.drawing import (
    canvas,
    error_bars,
    limits,
    look,
    span,
    svg,
)

_AGAINST = {
    "attack_followed": (100, "hidden instructions followed, % of attacked tasks"),
    "llm_calls": (1, "LLM calls per task"),
    "wrong_calls": (1, "wrong calls per task"),
}
"""The first that is known of every arm, and not the same of all, is the horizontal axis."""


def outcomes_plot(loop: Mapping[str, Any]) -> str | None:
    """Tasks solved against attacks followed, or LLM calls, or wrong calls, with intervals.

    The markers are those of `marker`, by the place of an arm among all. None where there are not
    two arms whose outcomes are known, or where these differ in none of the three.
    """
    arms = [(i, arm) for i, arm in enumerate(loop["arms"]) if arm.get("success") is not None]
    metric = next((name for name in _AGAINST if _differ([arm.get(name) for _, arm in arms])), None)
    if metric is None:
        return None
    scale, label = _AGAINST[metric]
    with canvas(3.3) as (figure, axes):
        for i, arm in arms:
            colour, marker = look(i)
            axes.errorbar(
                [scale * arm[metric]["value"]],
                [100 * arm["success"]["value"]],
                xerr=error_bars([arm[metric]], scale),
                yerr=error_bars([arm["success"]]),
                fmt=marker,
                color=colour,
                markersize=6,
                elinewidth=1.2,
            )
        widest = max(span(arm[metric], scale)[1] for _, arm in arms)
        axes.set_xlim(-0.04 * widest, 1.06 * widest)
        axes.set_ylim(*limits([end for _, arm in arms for end in span(arm["success"])]))
        axes.set_xlabel(label)
        axes.set_ylabel("tasks solved, %")
        return svg(figure, f"Tasks solved against {label}: {loop['path']}")


def _differ(figures: list[Any]) -> bool:
    return None not in figures and len({figure["value"] for figure in figures}) > 1
