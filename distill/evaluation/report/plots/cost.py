"""What the LLM is paid against what is wrong."""

from collections.abc import Mapping
from typing import Any

from distill.evaluation.cost import pareto
from distill.evaluation.report.plots.drawing import (
    COLOURS,
    INK,
    MARKERS,
    MUTED,
    SERIES,
    canvas,
    label_points,
    limits,
    short,
    svg,
)


def pareto_plot(report: Mapping[str, Any]) -> str | None:
    """What 1,000 decisions pay the LLM against the share of them that is wrong.

    In money where every LLM in it has a price and tokens are recorded, else in LLM calls. The
    teacher alone is right by definition; other LLMs decide everything themselves. One line for
    each of the first `SERIES` routers; None where there is nothing beside the teacher.
    """
    routers, cost = report["routers"], report["cost"]
    llms = [r for r in routers if r["spent"] is not None]
    paid = [cost["cost"] if cost["tokens"] == "recorded" else None]
    paid += [r["spent"]["cost"] for r in llms]
    priced = None not in paid
    alone = (cost["cost"] if priced else cost["decisions"], 0.0)
    points = [(*alone, "teacher")]
    lines: list[tuple[int, str, list[tuple[float, float]]]] = []
    for i, router in enumerate(routers[:SERIES]):
        if router["spent"] is not None:
            x = router["spent"]["cost"] if priced else cost["decisions"]
            points.append((x, 100 * (1 - router["call_accuracy"]["value"]), router["name"]))
            continue
        steps = [alone]
        for entry in router["risk"]:
            if entry["supported"]:
                saved = entry["savings"]
                less = saved["cost"] if priced else saved["llm_calls"]["value"]
                steps.append((alone[0] - less, 100 * saved["wrong"]["value"]))
        if len(steps) > 1:
            lines.append((i, router["name"], steps))
    if len(points) == 1 and not lines:
        return None
    with canvas(3.3) as (figure, axes):
        for i, name, steps in lines:
            x, y = zip(*steps, strict=True)
            axes.plot(
                x[1:], y[1:], color=COLOURS[i], marker=MARKERS[i], markersize=4.5,
                linewidth=1.2, label=short(name),
            )  # fmt: skip
        for x, y, _ in points:
            axes.plot([x], [y], "*", color=INK, markersize=11)
        every = [(x, y) for x, y, _ in points] + [step for *_, s in lines for step in s[1:]]
        front = [every[i] for i in pareto(every)]
        axes.plot(*zip(*front, strict=True), color=MUTED, linestyle="--", linewidth=1, zorder=1)
        widest = max(x for x, _ in every)
        axes.set_xlim(-0.03 * widest, 1.1 * widest if widest else 1)
        axes.set_ylim(*limits([y for _, y in every]))
        unit = f"{cost['currency']} for the LLM" if priced else "LLM calls"
        axes.set_xlabel(f"{unit}, per 1,000 decisions")
        axes.set_ylabel("wrong, % of all decisions")
        label_points(figure, axes, points, [])
        if lines:
            figure.legend(loc="outside upper left", ncols=3, fontsize=9, handlelength=1.6)
        return svg(figure, "Share wrong against what the LLM is paid")
