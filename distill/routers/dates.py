"""Days that a request names in words, written out, so that they can be pointed at.

"Since October 24" has no date to copy. Where the application's system prompt says what day it is,
such expressions in the latest user message are resolved to ISO dates, and a reader chooses among
them like among anything else in the text. English only, and days only: months, weekdays, today and
its neighbours, and so many days, weeks or months away. A weekday is given in each of its likely
readings.

This module knows nothing of models, and has no clock: where the prompt tells no date, no day is
resolved.
"""

import re
from calendar import monthrange
from datetime import date, timedelta

from distill.types import Context

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NEAR = {"yesterday": -1, "today": 0, "tomorrow": 1}
_MOST = 3
"""Expressions of one request that are resolved."""
_CHARS = 2000
"""Characters of a message that are looked at."""

_ISO = re.compile(r"(?<!\d)(\d{4})-(\d\d)-(\d\d)(?!\d)")
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})[a-z]*"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,?\s+(?P<year>\d{4}))?"
_EXPRESSIONS = [
    re.compile(rf"\b{pattern}\b", re.IGNORECASE)
    for pattern in (
        rf"{_MONTH}\s+{_DAY}{_YEAR}",
        rf"{_DAY}\s+(?:of\s+)?{_MONTH}{_YEAR}",
        rf"(?P<near>{'|'.join(_NEAR)})",
        rf"(?P<weekday>{'|'.join(_WEEKDAYS)})(?:s?day|nesday|rsday|urday)",
        r"(?P<back>last|past|previous|next|in)\s+(?P<count>\d{1,3})\s+(?P<unit>day|week|month)s?",
        r"(?P<count>\d{1,3})\s+(?P<unit>day|week|month)s?\s+(?P<back>ago)",
    )
]


def resolved(context: Context, clock: bool) -> str:
    """The request's days as a line `dates: October 24 2023-10-24; …`; empty where there are none.

    Args:
        clock: give each day's first and last second, too, for parameters that want a time.
    """
    now = _today(context)
    users = (m.content or "" for m in reversed(context.messages) if m.role == "user")
    request = next(users, "")[:_CHARS]
    if now is None:
        return ""
    matches = (match for pattern in _EXPRESSIONS for match in pattern.finditer(request))
    parts: dict[str, None] = {}
    for match in sorted(matches, key=lambda match: match.start()):
        days = _days(match, now)
        if days and len(parts) < _MOST:
            parts[" ".join([match[0], *(_written(day, clock) for day in days)])] = None
    return f"dates: {'; '.join(parts)}\n" if parts else ""


def _today(context: Context) -> date | None:
    for message in context.messages:
        if message.role == "system":
            for match in _ISO.finditer((message.content or "")[:_CHARS]):
                try:
                    return date(*map(int, match.groups()))
                except ValueError:
                    continue
    return None


def _written(day: date, clock: bool) -> str:
    return f"{day} {day} 00:00:00 {day} 23:59:59" if clock else str(day)


def _days(match: re.Match[str], now: date) -> list[date]:
    """The likely readings of an expression."""
    parts = match.groupdict()
    try:
        if parts.get("month"):
            return [_nearest(parts["month"].lower(), int(parts["day"]), parts["year"], now)]
        if parts.get("near"):
            return [now + timedelta(_NEAR[parts["near"].lower()])]
        if parts.get("weekday"):
            ahead = (_WEEKDAYS.index(parts["weekday"].lower()) - now.weekday() - 1) % 7 + 1
            return [now + timedelta(ahead + week) for week in (-7, 0, 7)]
        count = int(parts["count"]) * (1 if parts["back"].lower() in ("next", "in") else -1)
        return [_moved(now, count, parts["unit"].lower())]
    except (ValueError, OverflowError):  # February 30; before the year 1
        return []


def _nearest(month: str, day: int, year: str | None, now: date) -> date:
    number = _MONTHS.index(month) + 1
    years = [int(year)] if year else [now.year - 1, now.year, now.year + 1]
    valid = [y for y in years if 1 <= day <= monthrange(y, number)[1]]
    return min((date(y, number, day) for y in valid), key=lambda d: abs(d - now))


def _moved(now: date, count: int, unit: str) -> date:
    if unit != "month":
        return now + timedelta(count * (7 if unit == "week" else 1))
    months = now.year * 12 + now.month - 1 + count
    year, month = months // 12, months % 12 + 1
    return date(year, month, min(now.day, monthrange(year, month)[1]))
