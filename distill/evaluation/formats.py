"""Figures as a reader meets them: percent, intervals, times, counts.

The same text stands in the terminal, in Markdown and in HTML. It knows nothing of the report.
"""

from collections.abc import Mapping

MISSING = "–"
"""What stands for a figure that is not known."""

Figure = Mapping[str, float | None] | None


def percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f}%"


def value(figure: Figure) -> str:
    """The figure of `{value, low, high}` in percent."""
    return MISSING if figure is None else percent(figure["value"])


def interval(figure: Figure) -> str:
    """The interval of `{value, low, high}`, in percent without the sign: `88.9 to 93.1`."""
    low, high = _ends(figure)
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def estimate(figure: Figure) -> str:
    """Value and interval: `91.2% [88.9 to 93.1]`."""
    between = interval(figure)
    return f"{value(figure)} [{between}]" if between else value(figure)


def error(figure: Figure) -> str:
    """A calibration figure: `0.043 [0.031 to 0.058]`."""
    if figure is None:
        return MISSING
    between = error_interval(figure)
    return f"{number(figure['value'])} [{between}]" if between else number(figure["value"])


def error_interval(figure: Figure) -> str:
    """The interval of a calibration figure: `0.031 to 0.058`."""
    low, high = _ends(figure)
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def number(value: float | None) -> str:
    """A figure that is no share, to three decimals."""
    return MISSING if value is None else f"{value:.3f}"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    return MISSING if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def points_interval(low: float | None, high: float | None) -> str:
    return MISSING if low is None else f"{points(low)} to {points(high)}"


def p_value(p: float | None) -> str:
    if p is None:
        return MISSING
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


def amount(figure: Figure) -> str:
    """A number of things with its interval: `412 [371 to 452]`."""
    if figure is None:
        return MISSING
    low, high = _ends(figure)
    between = "" if low is None or high is None else f" [{count(low)} to {count(high)}]"
    return f"{count(figure['value'])}{between}"


def change(difference: float | None) -> str:
    """A difference of numbers of things, signed: `−340`."""
    if difference is None:
        return MISSING
    sign = "+" if difference > 0 else "−" if difference < 0 else ""
    return f"{sign}{count(abs(difference))}"


def money(sum_: float | None) -> str:
    """An amount of the table's currency, to its cents where these matter."""
    if sum_ is None:
        return MISSING
    return f"{sum_:.2f}" if sum_ >= 1 or sum_ == 0 else f"{sum_:.4f}"


def duration(s: float | None) -> str:
    """Seconds saved, or spent in addition: `−3.20 s`."""
    return MISSING if s is None else f"−{seconds(-s)}" if s < 0 else seconds(s)


def decisions(number: int | None) -> str:
    """After how many decisions; `never` is not told apart from not known."""
    return MISSING if number is None else f"{count(number)} decisions"


def _ends(figure: Figure) -> tuple[float | None, float | None]:
    """An interval's ends; None and None where the figure or its interval is not known."""
    return (None, None) if figure is None else (figure["low"], figure["high"])


def _significant(number: float) -> str:
    """Three significant figures without an exponent."""
    if number >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
