"""Figures as a reader meets them: percent, intervals, times, counts.

The same text stands in the terminal, in Markdown and in HTML. It knows nothing of the report.
"""

from collections.abc import Mapping

MISSING = "–"
"""What stands for a figure that is not known."""

Figure = Mapping[str, float] | None


def percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f}%"


def value(figure: Figure) -> str:
    """The figure of `{value, low, high}` in percent."""
    return MISSING if figure is None else percent(figure["value"])


def interval(figure: Figure) -> str:
    """The interval of `{value, low, high}`, in percent without the sign: `88.9 to 93.1`."""
    return "" if figure is None else f"{100 * figure['low']:.1f} to {100 * figure['high']:.1f}"


def estimate(figure: Figure) -> str:
    """Value and interval: `91.2% [88.9 to 93.1]`."""
    return MISSING if figure is None else f"{value(figure)} [{interval(figure)}]"


def error(figure: Figure) -> str:
    """A calibration figure: `0.043 [0.031 to 0.058]`."""
    if figure is None:
        return MISSING
    return f"{figure['value']:.3f} [{figure['low']:.3f} to {figure['high']:.3f}]"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def milliseconds(ms: float | None) -> str:
    if ms is None:
        return MISSING
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{_significant(ms)} ms"


def seconds(s: float | None) -> str:
    if s is None:
        return MISSING
    if s < 90:
        return f"{_significant(s)} s"
    return f"{s / 60:.0f} min" if s < 5400 else f"{s / 3600:.1f} h"


def count(number: float | None) -> str:
    """A number to about three figures: `950`, `22.7M`."""
    if number is None:
        return MISSING
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            scale = 1e3 if unit == "k" else size
            return f"{_significant(number / scale)}{unit}"
    return f"{number:.0f}" if number >= 100 or number == int(number) else _significant(number)


def _significant(number: float) -> str:
    """Three significant figures without an exponent."""
    if number >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
