"""The report's plots as inline SVG whose colours follow the page's light or dark theme.

Every function returns an `<svg>` element without size, so that it fills its box, or None where
there is nothing to draw. The same input gives the same bytes. It knows nothing of HTML around it.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from distill.evaluation.buckets import names as bucket_names
from distill.evaluation.calibration import calibration_bins
from distill.evaluation.cost import pareto
from distill.evaluation.metrics import score
from distill.evaluation.predictions import Prediction
from distill.evaluation.report.confusion import confusion
from distill.render import cut

SERIES = 6
"""Routers told apart in one plot; more would need more colours than a reader can tell apart."""

_WIDTH = 4.6  # inches; with 10-point text still legible where a phone shrinks the plot to 360 px
_NAME_CHARS = 20
_CONFUSED = 7
_MARKERS = "osD^vP"

# Stand-ins that become CSS variables of the page (see `_svg`): matplotlib wants real colours.
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_COLOURS = [f"#0{i}0505" for i in range(1, SERIES + 1)]
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _GRID: "--line",
    **{colour: f"--series-{i}" for i, colour in enumerate(_COLOURS, start=1)},
}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the layout is the same everywhere
    "font.size": 10,
    "svg.fonttype": "none",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "text.parse_math": False,  # names may hold dollar signs
}

Router = Mapping[str, Any]


def accuracy_plot(routers: Sequence[Router], agreement: float | None, with_whom: str) -> str:
    """Tool and call accuracy with intervals; the line is the agreement of `with_whom`."""
    with _figure(0.9 + 0.42 * len(routers)) as (figure, axes):
        rows = np.arange(len(routers))
        for metric, offset, marker, label in (
            ("tool_accuracy", -0.13, "o", "tool accuracy"),
            ("call_accuracy", 0.13, "D", "call accuracy (tools and arguments)"),
        ):
            figures = [router[metric] for router in routers]
            axes.errorbar(
                [100 * f["value"] for f in figures],
                rows + offset,
                xerr=_errors(figures),
                fmt=marker,
                color=_COLOURS[0] if marker == "o" else _COLOURS[1],
                markersize=5,
                label=label,
            )
        if agreement is not None:
            axes.axvline(100 * agreement, color=_INK, linestyle="--", linewidth=1, label=with_whom)
        axes.set_yticks(rows, [_short(router["name"]) for router in routers])
        axes.set_ylim(len(routers) - 0.5, -0.5)
        ends = [*_ends(routers, "tool_accuracy"), *_ends(routers, "call_accuracy")]
        axes.set_xlim(*_limits(ends if agreement is None else [*ends, 100 * agreement]))
        axes.grid(False, axis="y")
        axes.set_xlabel("decisions that match the teacher's, %")
        figure.legend(loc="outside upper left", ncols=1, fontsize=9, handlelength=1.6)
        return _svg(figure, "Accuracy of each router with 95% intervals")


def latency_plot(
    routers: Sequence[Router],
    agreement: float | None,
    teacher_ms: Mapping[str, float] | None,
) -> str:
    """Tool accuracy against median latency (log scale), and the teacher where its log says."""
    with _figure(3.3) as (figure, axes):
        figures = [router["tool_accuracy"] for router in routers]
        times = [router["latency_ms"]["p50"] for router in routers]
        values = [100 * f["value"] for f in figures]
        axes.errorbar(
            times, values, yerr=_errors(figures), fmt="o", color=_COLOURS[0], markersize=6
        )
        points = [
            (x, y, router["name"]) for x, y, router in zip(times, values, routers, strict=True)
        ]
        spans = [_span(f) for f in figures]
        lines = [(x, low, x, high) for x, (low, high) in zip(times, spans, strict=True)]
        ends = _ends(routers, "tool_accuracy")
        if agreement is not None:
            level = 100 * agreement
            axes.axhline(level, color=_INK, linestyle="--", linewidth=1)
            ends.append(level)
            if teacher_ms:
                latency = teacher_ms["p50"]
                axes.plot([latency], [level], "*", color=_INK, markersize=11)
                points.insert(0, (latency, level, "teacher"))
                times.append(latency)
            lines.append((min(times) / 3, level, max(times) * 3, level))
        axes.set_xscale("log")
        axes.set_xlim(min(times) / 2.5, max(times) * 2.5)
        axes.set_ylim(*_limits(ends))
        # Powers of ten alone would leave a short axis without a second number.
        wide = max(times) > 30 * min(times)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("median time of one decision, ms (logarithmic)")
        axes.set_ylabel("tool accuracy, %")
        _label_points(figure, axes, points, lines)
        return _svg(figure, "Tool accuracy against latency")


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
    with _figure(3.6) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=_MUTED, linestyle="--", linewidth=1)
        counts = np.array([scores.weights[m].sum() for m in members])
        confidence, correct = (
            [100 * np.average(values[m], weights=scores.weights[m]) for m in members]
            for values in (scores.confidence, scores.right)
        )
        axes.plot(confidence, correct, color=_COLOURS[0], linewidth=1)
        axes.scatter(confidence, correct, s=14 + 70 * counts / counts.max(), color=_COLOURS[0])
        axes.set_xlim(-3, 103)
        axes.set_ylim(-3, 103)
        axes.set_aspect("equal")
        axes.set_xlabel("mean confidence in the bin, %")
        axes.set_ylabel("right in the bin, %")
        axes.text(30, 72, "too modest", color=_MUTED, ha="center")
        axes.text(70, 28, "too confident", color=_MUTED, ha="center")
        return _svg(figure, "Reliability diagram")


def selective_plot(predictions: Mapping[str, Sequence[Prediction]]) -> str | None:
    """Share wrong among the most confident decisions, against how many these are.

    One line for each of the first `SERIES` routers; None where no router states a confidence.
    An example counts as often as the teacher decided it; equal confidences are taken together.
    """
    with _figure(3.3) as (figure, axes):
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
                color=_COLOURS[i],
                marker=_MARKERS[i],
                markevery=max(1, int(last.sum()) // 8),
                markersize=4.5,
                linewidth=1.2,
                label=_short(name),
            )
            drawn += 1
        if not drawn:
            return None
        axes.set_xlim(0, 103)
        axes.set_ylim(bottom=-1)
        axes.set_xlabel("decisions taken, most confident first, %")
        axes.set_ylabel("of these wrong, %")
        figure.legend(loc="outside upper left", ncols=3, fontsize=9, handlelength=1.6)
        return _svg(figure, "Share wrong against share taken")


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
    with _figure(3.3) as (figure, axes):
        for i, name, steps in lines:
            x, y = zip(*steps, strict=True)
            axes.plot(
                x[1:], y[1:], color=_COLOURS[i], marker=_MARKERS[i], markersize=4.5,
                linewidth=1.2, label=_short(name),
            )  # fmt: skip
        for x, y, _ in points:
            axes.plot([x], [y], "*", color=_INK, markersize=11)
        every = [(x, y) for x, y, _ in points] + [step for *_, s in lines for step in s[1:]]
        front = [every[i] for i in pareto(every)]
        axes.plot(*zip(*front, strict=True), color=_MUTED, linestyle="--", linewidth=1, zorder=1)
        widest = max(x for x, _ in every)
        axes.set_xlim(-0.03 * widest, 1.1 * widest if widest else 1)
        axes.set_ylim(*_limits([y for _, y in every]))
        unit = f"{cost['currency']} for the LLM" if priced else "LLM calls"
        axes.set_xlabel(f"{unit}, per 1,000 decisions")
        axes.set_ylabel("wrong, % of all decisions")
        _label_points(figure, axes, points, [])
        if lines:
            figure.legend(loc="outside upper left", ncols=3, fontsize=9, handlelength=1.6)
        return _svg(figure, "Share wrong against what the LLM is paid")


def confusion_plot(predictions: Sequence[Prediction]) -> str | None:
    """The most confused decisions: the teacher's in rows, the router's in columns."""
    found = confusion(predictions, _CONFUSED)
    if found is None:
        return None
    with _figure(1.7 + 0.3 * len(found.rows)) as (figure, axes):
        for i, row in enumerate(found.counts):
            total = sum(row)
            for j, count in enumerate(row):
                right = found.rows[i] == found.columns[j]
                colour = _COLOURS[2] if right else _COLOURS[3]
                if count:
                    # At most half opaque: text stays legible on it in either theme.
                    shade = 0.08 + 0.42 * count / total
                    axes.add_patch(Rectangle((j, i), 1, 1, color=colour, alpha=shade, linewidth=0))
                    axes.text(j + 0.5, i + 0.5, str(count), ha="center", va="center", fontsize=9)
        axes.set_xlim(0, len(found.columns))
        axes.set_ylim(len(found.rows), 0)
        axes.set_yticks(np.arange(len(found.rows)) + 0.5, [_short(name) for name in found.rows])
        axes.set_xticks(
            np.arange(len(found.columns)) + 0.5,
            [_short(name) for name in found.columns],
            rotation=40,
            ha="right",
            rotation_mode="anchor",
        )
        axes.tick_params(length=0)
        axes.grid(False)
        axes.set_ylabel("teacher")
        axes.set_xlabel("router")
        return _svg(figure, "Confusion of the most confused decisions")


def bucket_plot(routers: Sequence[Router], dimension: str, title: str) -> str | None:
    """Tool accuracy of each router in each bucket; None with fewer than two buckets."""
    shown = routers[:SERIES]
    sizes = _sizes(shown, dimension)
    names = list(sizes)
    if len(names) < 2:
        return None
    with _figure(2.7) as (figure, axes):
        for i, router in enumerate(shown):
            rows = router["by_bucket"][dimension]
            offset = (i - (len(shown) - 1) / 2) * 0.8 / SERIES
            figures = [row["tool_accuracy"] for row in rows]
            axes.errorbar(
                [names.index(row["bucket"]) + offset for row in rows],
                [100 * f["value"] for f in figures],
                yerr=_errors(figures),
                fmt=_MARKERS[i],
                color=_COLOURS[i],
                markersize=4.5,
                elinewidth=1.2,
            )
        axes.set_xticks(range(len(names)), [f"{name}\nn={sizes[name]}" for name in names])
        axes.set_xlim(-0.55, len(names) - 0.45)
        axes.set_ylim(-3, 103)
        axes.grid(False, axis="x")
        axes.set_ylabel("tool accuracy, %")
        return _svg(figure, f"Tool accuracy by: {title}")


def complexity_plot(routers: Sequence[Router]) -> str | None:
    """Tool accuracy of every router by complexity; None with fewer than two levels of it.

    Beyond `SERIES` routers, colours come again with broken lines.
    """
    sizes = _sizes(routers, "complexity")
    names = list(sizes)
    if len(names) < 2:
        return None
    with _figure(3.4 + 0.2 * ((len(routers) + 1) // 2)) as (figure, axes):
        for i, router in enumerate(routers):
            rows = router["by_bucket"]["complexity"]
            figures = [row["tool_accuracy"] for row in rows]
            offset = (i - (len(routers) - 1) / 2) * 0.5 / len(routers)
            axes.errorbar(
                [names.index(row["bucket"]) + offset for row in rows],
                [100 * f["value"] for f in figures],
                yerr=_errors(figures),
                fmt=_MARKERS[i % SERIES] + ("--" if i // SERIES else "-"),
                color=_COLOURS[i % SERIES],
                markersize=4.5,
                linewidth=1.2,
                elinewidth=1.0,
                label=_short(router["name"]),
            )
        axes.set_xticks(range(len(names)), [f"{name}\nn={sizes[name]}" for name in names])
        axes.set_xlim(-0.45, len(names) - 0.55)
        axes.set_ylim(-3, 103)
        axes.grid(False, axis="x")
        axes.set_xlabel("complexity of the decision")
        axes.set_ylabel("tool accuracy, %")
        figure.legend(loc="outside upper left", ncols=2, fontsize=9, handlelength=2.2)
        return _svg(figure, "Tool accuracy of each router by complexity")


def _sizes(routers: Sequence[Router], dimension: str) -> dict[str, int]:
    """How many decisions are in each bucket, at most over routers; the easiest first."""
    found = {
        name: [
            row["n"] for r in routers for row in r["by_bucket"][dimension] if row["bucket"] == name
        ]
        for name in bucket_names(dimension)
    }
    return {name: max(sizes) for name, sizes in found.items() if sizes}


def marker(i: int) -> str:
    """The marker of the i-th router in bucket plots, as a small SVG for a legend in HTML."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(0.2, 0.2))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.plot([0], [0], _MARKERS[i], color=_COLOURS[i], markersize=8)
        return _svg(figure, "")


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that DejaVu lacks: the browser draws the text, and has other fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def _svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element: no size, no metadata, theme colours, ids of its own."""
    text = io.StringIO()
    # Ids hash this salt; two plots in one page must not share them.
    with mpl.rc_context({"svg.hashsalt": label}):
        figure.savefig(
            text,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, "matplotlib writes a viewBox"
    body = re.sub(
        r"(?<=(?:fill|roke): )#[0-9a-f]{6}",
        lambda found: (
            f"var({_VARIABLES[found.group()]})" if found.group() in _VARIABLES else found.group()
        ),
        body,
    )
    role = f'role="img" aria-label={quoteattr(label)}' if label else 'aria-hidden="true"'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f"{box.group()} {role}>{body.strip()}"
    )


def _short(name: str) -> str:
    return cut("".join(c if c.isprintable() else "�" for c in name), _NAME_CHARS)


def _errors(figures: Sequence[Mapping[str, Any]]) -> Any:
    """Distances (2, n) to the interval's ends, in percent; 0, so no bar, where it is not known."""
    values = [100 * f["value"] for f in figures]
    spans = [_span(f) for f in figures]
    return np.array(
        [
            [value - low for value, (low, _) in zip(values, spans, strict=True)],
            [high - value for value, (_, high) in zip(values, spans, strict=True)],
        ]
    )


def _ends(routers: Sequence[Router], metric: str) -> list[float]:
    return [end for router in routers for end in _span(router[metric])]


def _span(figure: Mapping[str, Any]) -> tuple[float, float]:
    """The interval in percent; the figure itself at both ends where there is none."""
    ends = (figure[end] if figure[end] is not None else figure["value"] for end in ("low", "high"))
    low, high = (100 * end for end in ends)
    return low, high


def _limits(percents: Sequence[float]) -> tuple[float, float]:
    """An axis in percent around the data, of at least 20 points, without what cannot be."""
    low, high = min(percents), max(percents)
    margin = max(3.0, (20 - (high - low)) / 2)
    return max(-3.0, low - margin), min(103.0, high + margin)


def _label_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float, str]],
    lines: Sequence[tuple[float, float, float, float]],
) -> None:
    """Write each point's name beside it, where it covers no point, no line and no earlier name.

    `lines` (x0, y0, x1, y1) are the error bars and the agreement, in data coordinates. Where no
    spot is free, the name stands to the point's right.
    """
    figure.draw_without_rendering()  # settles the layout, and with it the data's place
    box = axes.get_window_extent()
    unit = figure.dpi / 72
    place = axes.transData.transform
    taken = [_around(place((x, y)), place((x, y)), 5 * unit) for x, y, _ in points]
    taken += [_around(place((x0, y0)), place((x1, y1)), unit) for x0, y0, x1, y1 in lines]
    spots = [
        (dx, dy, ha)
        for dy in (0, 12, -12, 24, -24, 36, -36)
        for dx, ha in ((8, "left"), (-8, "right"), (0, "center"))
        if dx or dy
    ]
    for x, y, name in points:
        text = _short(name)
        px, py = place((x, y))
        width, height = 6 * unit * len(text), 11 * unit
        chosen = spots[0]
        for dx, dy, ha in spots:
            left = px + dx * unit - width * {"left": 0, "center": 0.5, "right": 1}[ha]
            middle = py + dy * unit
            area = (left, middle - height / 2, left + width, middle + height / 2)
            inside = area[0] > box.x0 and area[2] < box.x1 and box.y0 < area[1] < box.y1 - height
            if inside and not any(_overlap(area, other) for other in taken):
                chosen = (dx, dy, ha)
                taken.append(area)
                break
        axes.annotate(
            text,
            (x, y),
            xytext=chosen[:2],
            textcoords="offset points",
            ha=chosen[2],
            va="center",
            fontsize=9,
        )


def _around(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], margin: float
) -> tuple[float, float, float, float]:
    return (low[0] - margin, low[1] - margin, high[0] + margin, high[1] + margin)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
