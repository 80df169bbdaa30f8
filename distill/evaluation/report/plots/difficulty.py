"""Accuracy by difficulty: in buckets, and by complexity."""

from collections.abc import Sequence

from distill.evaluation.buckets import names as bucket_names
from distill.evaluation.report.plots.drawing import (
    COLOURS,
    MARKERS,
    SERIES,
    Router,
    canvas,
    error_bars,
    short,
    svg,
)


def bucket_plot(routers: Sequence[Router], dimension: str, title: str) -> str | None:
    """Tool accuracy of each router in each bucket; None with fewer than two buckets."""
    shown = routers[:SERIES]
    sizes = _sizes(shown, dimension)
    names = list(sizes)
    if len(names) < 2:
        return None
    with canvas(2.7) as (figure, axes):
        for i, router in enumerate(shown):
            rows = router["by_bucket"][dimension]
            offset = (i - (len(shown) - 1) / 2) * 0.8 / SERIES
            figures = [row["tool_accuracy"] for row in rows]
            axes.errorbar(
                [names.index(row["bucket"]) + offset for row in rows],
                [100 * f["value"] for f in figures],
                yerr=error_bars(figures),
                fmt=MARKERS[i],
                color=COLOURS[i],
                markersize=4.5,
                elinewidth=1.2,
            )
        axes.set_xticks(range(len(names)), [f"{name}\nn={sizes[name]}" for name in names])
        axes.set_xlim(-0.55, len(names) - 0.45)
        axes.set_ylim(-3, 103)
        axes.grid(False, axis="x")
        axes.set_ylabel("tool accuracy, %")
        return svg(figure, f"Tool accuracy by: {title}")


def complexity_plot(routers: Sequence[Router]) -> str | None:
    """Tool accuracy of every router by complexity; None with fewer than two levels of it.

    Beyond `SERIES` routers, colours come again with broken lines.
    """
    sizes = _sizes(routers, "complexity")
    names = list(sizes)
    if len(names) < 2:
        return None
    with canvas(3.4 + 0.2 * ((len(routers) + 1) // 2)) as (figure, axes):
        for i, router in enumerate(routers):
            rows = router["by_bucket"]["complexity"]
            figures = [row["tool_accuracy"] for row in rows]
            offset = (i - (len(routers) - 1) / 2) * 0.5 / len(routers)
            axes.errorbar(
                [names.index(row["bucket"]) + offset for row in rows],
                [100 * f["value"] for f in figures],
                yerr=error_bars(figures),
                fmt=MARKERS[i % SERIES] + ("--" if i // SERIES else "-"),
                color=COLOURS[i % SERIES],
                markersize=4.5,
                linewidth=1.2,
                elinewidth=1.0,
                label=short(router["name"]),
            )
        axes.set_xticks(range(len(names)), [f"{name}\nn={sizes[name]}" for name in names])
        axes.set_xlim(-0.45, len(names) - 0.55)
        axes.set_ylim(-3, 103)
        axes.grid(False, axis="x")
        axes.set_xlabel("complexity of the decision")
        axes.set_ylabel("tool accuracy, %")
        figure.legend(loc="outside upper left", ncols=2, fontsize=9, handlelength=2.2)
        return svg(figure, "Tool accuracy of each router by complexity")


def _sizes(routers: Sequence[Router], dimension: str) -> dict[str, int]:
    """How many decisions are in each bucket, at most over routers; the easiest first."""
    found = {
        name: [
            row["n"] for r in routers for row in r["by_bucket"][dimension] if row["bucket"] == name
        ]
        for name in bucket_names(dimension)
    }
    return {name: max(sizes) for name, sizes in found.items() if sizes}
