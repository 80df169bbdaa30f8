"""What every plot is drawn with: figures, colours, intervals, names beside points."""

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

from distill.render import cut

SERIES = 6
"""Routers told apart in one plot; more would need more colours than a reader can tell apart."""

_WIDTH = 4.6  # inches; with 10-point text still legible where a phone shrinks the plot to 360 px
_NAME_CHARS = 20
MARKERS = "osD^vP"

# Stand-ins that become CSS variables of the page (see `svg`): matplotlib wants real colours.
INK, MUTED, _GRID = "#010101", "#020202", "#030303"
COLOURS = [f"#0{i}0505" for i in range(1, SERIES + 1)]
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    _GRID: "--line",
    **{colour: f"--series-{i}" for i, colour in enumerate(COLOURS, start=1)},
}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the layout is the same everywhere
    "font.size": 10,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "text.parse_math": False,  # names may hold dollar signs
}

Router = Mapping[str, Any]


def look(i: int) -> tuple[str, str]:
    """Colour and marker of the i-th; beyond `SERIES`, colours come again with other markers."""
    return COLOURS[i % SERIES], MARKERS[(i + i // SERIES) % SERIES]


def marker(i: int) -> str:
    """How the i-th router looks in a plot, as a small SVG for a legend in HTML."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(0.2, 0.2))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        colour, shape = look(i)
        axes.plot([0], [0], shape, color=colour, markersize=8)
        return svg(figure, "")


@contextmanager
def canvas(height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of the page's width and so many inches, in the page's style."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that DejaVu lacks: the browser draws the text, and has other fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def svg(figure: Figure, label: str) -> str:
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
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    head, body = drawn.split(">", 1)
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


def short(name: str) -> str:
    """A name as a plot has room for."""
    return cut("".join(c if c.isprintable() else "�" for c in name), _NAME_CHARS)


def error_bars(figures: Sequence[Mapping[str, Any]], scale: float = 100) -> Any:
    """Distances (2, n) to the interval's ends, in percent; 0, so no bar, where it is not known."""
    values = [scale * f["value"] for f in figures]
    spans = [span(f, scale) for f in figures]
    return np.array(
        [
            [value - low for value, (low, _) in zip(values, spans, strict=True)],
            [high - value for value, (_, high) in zip(values, spans, strict=True)],
        ]
    )


def span(figure: Mapping[str, Any], scale: float = 100) -> tuple[float, float]:
    """The interval in percent; the figure itself at both ends where there is none."""
    ends = (figure[end] if figure[end] is not None else figure["value"] for end in ("low", "high"))
    low, high = (scale * end for end in ends)
    return low, high


def limits(percents: Sequence[float]) -> tuple[float, float]:
    """An axis in percent around the data, of at least 20 points, without what cannot be."""
    low, high = min(percents), max(percents)
    margin = max(3.0, (20 - (high - low)) / 2)
    return max(-3.0, low - margin), min(103.0, high + margin)


def label_points(
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
        text = short(name)
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
