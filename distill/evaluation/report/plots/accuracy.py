"""How often each router is right, and how fast it decides."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from distill.evaluation.report.plots.drawing import (
    COLOURS,
    INK,
    Router,
    canvas,
    error_bars,
    label_points,
    limits,
    short,
    span,
    svg,
)


def accuracy_plot(routers: Sequence[Router], agreement: float | None, with_whom: str) -> str:
    """Tool and call accuracy with intervals; the line is the agreement of `with_whom`."""
    with canvas(0.9 + 0.42 * len(routers)) as (figure, axes):
        rows = np.arange(len(routers))
        for metric, offset, marker, label in (
            ("tool_accuracy", -0.13, "o", "tool accuracy"),
            ("call_accuracy", 0.13, "D", "call accuracy (tools and arguments)"),
        ):
            figures = [router[metric] for router in routers]
            axes.errorbar(
                [100 * f["value"] for f in figures],
                rows + offset,
                xerr=error_bars(figures),
                fmt=marker,
                color=COLOURS[0] if marker == "o" else COLOURS[1],
                markersize=5,
                label=label,
            )
        if agreement is not None:
            axes.axvline(100 * agreement, color=INK, linestyle="--", linewidth=1, label=with_whom)
        axes.set_yticks(rows, [short(router["name"]) for router in routers])
        axes.set_ylim(len(routers) - 0.5, -0.5)
        ends = [*_ends(routers, "tool_accuracy"), *_ends(routers, "call_accuracy")]
        axes.set_xlim(*limits(ends if agreement is None else [*ends, 100 * agreement]))
        axes.grid(False, axis="y")
        axes.set_xlabel("decisions that match the teacher's, %")
        figure.legend(loc="outside upper left", ncols=1, fontsize=9, handlelength=1.6)
        return svg(figure, "Accuracy of each router with 95% intervals")


def latency_plot(
    routers: Sequence[Router],
    agreement: float | None,
    teacher_ms: Mapping[str, float] | None,
) -> str:
    """Tool accuracy against median latency (log scale), and the teacher where its log says."""
    with canvas(3.3) as (figure, axes):
        figures = [router["tool_accuracy"] for router in routers]
        times = [router["latency_ms"]["p50"] for router in routers]
        values = [100 * f["value"] for f in figures]
        axes.errorbar(
            times, values, yerr=error_bars(figures), fmt="o", color=COLOURS[0], markersize=6
        )
        points = [
            (x, y, router["name"]) for x, y, router in zip(times, values, routers, strict=True)
        ]
        spans = [span(f) for f in figures]
        lines = [(x, low, x, high) for x, (low, high) in zip(times, spans, strict=True)]
        ends = _ends(routers, "tool_accuracy")
        if agreement is not None:
            level = 100 * agreement
            axes.axhline(level, color=INK, linestyle="--", linewidth=1)
            ends.append(level)
            if teacher_ms:
                latency = teacher_ms["p50"]
                axes.plot([latency], [level], "*", color=INK, markersize=11)
                points.insert(0, (latency, level, "teacher"))
                times.append(latency)
            lines.append((min(times) / 3, level, max(times) * 3, level))
        axes.set_xscale("log")
        axes.set_xlim(min(times) / 2.5, max(times) * 2.5)
        axes.set_ylim(*limits(ends))
        # Powers of ten alone would leave a short axis without a second number.
        wide = max(times) > 30 * min(times)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("median time of one decision, ms (logarithmic)")
        axes.set_ylabel("tool accuracy, %")
        label_points(figure, axes, points, lines)
        return svg(figure, "Tool accuracy against latency")


def _ends(routers: Sequence[Router], metric: str) -> list[float]:
    return [end for router in routers for end in span(router[metric])]
