"""What texts mention: words, numbers and dates, whichever way they are written.

Router confidences, the policy's provenance rule and the scoring of replies look values up in a
conversation by it. It is pure, knows no model, and reads English number words and month names only.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Any

import orjson

from distill.types import Message

_MOST_CHARS = 1_000_000
"""Characters of a text that are read, from its end."""

_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts without spaces between words, where each character counts as one."""
_WORD = re.compile(rf"\d+|[{_SPACELESS}]|[^\W\d_{_SPACELESS}]+")

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
_ONES += " fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: n for n, word in enumerate(_ONES.split())}
_SMALL |= {word: 10 * n for n, word in enumerate(_TENS.split(), 2)}
_NUMBER = re.compile(r"(-?)([0-9]+(?:[.,][0-9]+)*)(e[+-]?[0-9]{1,3})?")
_PADDED = re.compile("0[0-9]{2}")
"""An identifier, and no number: 0013 is not 13."""
_MOST_DIGITS = 40
"""A longer run of digits is no number that anybody means, and Python is slow to read it."""

_MONTHS = ["january", "february", "march", "april", "may", "june", "july"]
_MONTHS += ["august", "september", "october", "november", "december"]
_MONTH = "(" + "|".join(f"{name[:3]}(?:{name[3:]})?" for name in _MONTHS) + "|sept)"
_DAY = "([0-9]{1,2})(?: (?:st|nd|rd|th))?"
_YEAR = "(?: ([0-9]{4}))?"
_YEAR_FIRST = re.compile(r"\b([0-9]{4}) ([0-9]{1,2}) ([0-9]{1,2})\b")
_YEAR_LAST = re.compile(r"\b([0-9]{1,2}) ([0-9]{1,2}) ([0-9]{4})\b")
_DAY_MONTH = re.compile(rf"\b{_DAY}(?: of)? {_MONTH}\b{_YEAR}\b")
_MONTH_DAY = re.compile(rf"\b{_MONTH} {_DAY}\b{_YEAR}\b")
_TIME = re.compile(r"\b([0-9]{1,2})(?::([0-9]{2}))?(?::[0-9]{2})?\s?([ap]m\b)?")
_ISO = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::[0-9]{2})?)?")
_WHOLE_DAY = {(0, 0), (23, 59)}


class Mentions:
    """What a text says, in the forms in which values are looked up, each made when asked for."""

    def __init__(self, text: str) -> None:
        self._text = text[-_MOST_CHARS:]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Mentions":
        """Of a conversation: texts and past calls; of JSON also the values, free of its escapes."""
        return cls("\n".join(_said(messages)))

    def supports(self, value: str | float) -> bool:
        """Whether the value stands in the text.

        A string does where its words stand together, whatever their case and punctuation; a number,
        and a string that is one, also where it is written out or otherwise; a date of ISO form also
        where another form of it stands, be it without the year (if that stands elsewhere), and then
        its time, too.
        """
        if not isinstance(value, str):
            return value in self._numbers
        words = _words(value)
        if not words:
            return value.strip() in self._text
        return (
            f" {words} " in self._words
            or self._supports_number(value.strip())
            or self._supports_date(value.strip())
        )

    def _supports_number(self, text: str) -> bool:
        whole = _NUMBER.fullmatch(text)
        return whole is not None and next(_readings(whole), None) in self._numbers

    def _supports_date(self, text: str) -> bool:
        match = _ISO.fullmatch(text)
        if match is None or match[1] not in self._dates:
            return False
        time = (int(match[2] or 0), int(match[3] or 0))
        return time in _WHOLE_DAY or time in self._times

    @cached_property
    def _words(self) -> str:
        return f" {_words(self._text)} "

    @cached_property
    def _numbers(self) -> set[float]:
        digits = (n for match in _NUMBER.finditer(self._text.casefold()) for n in _readings(match))
        return {*digits, *(_SMALL[word] for word in self._words.split() if word in _SMALL)}

    @cached_property
    def _dates(self) -> set[str]:
        """In ISO form. Of 3/4/2024 both readings."""
        years = {int(n) for n in self._numbers if 1900 <= n <= 2100}
        found = {(int(y), int(m), int(d)) for y, m, d in _YEAR_FIRST.findall(self._words)}
        for first, second, year in _YEAR_LAST.findall(self._words):
            found |= {(int(year), int(first), int(second)), (int(year), int(second), int(first))}
        named = [(day, month, y) for day, month, y in _DAY_MONTH.findall(self._words)]
        named += [(day, month, y) for month, day, y in _MONTH_DAY.findall(self._words)]
        for day, month, written in named:
            number = next(i for i, name in enumerate(_MONTHS, 1) if name[:3] == month[:3])
            found |= {(y, number, int(day)) for y in ([int(written)] if written else years)}
        return {f"{y:04}-{m:02}-{d:02}" for y, m, d in found if _is_date(y, m, d)}

    @cached_property
    def _times(self) -> set[tuple[int, int]]:
        """Hours and minutes; a bare number is no time."""
        found = set()
        for hour, minute, half in _TIME.findall(self._text.casefold()):
            if minute or half:
                found.add(
                    (int(hour) % 12 + 12 * (half == "pm") if half else int(hour), int(minute or 0))
                )
        return found


def _said(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        if message.content:
            yield message.content
            if message.content.lstrip()[:1] in ("{", "["):
                yield from _values(_parsed(message.content))
        for call in message.calls:
            yield from _values(call.arguments)


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _values(value: Any) -> Iterator[str]:
    """The leaves of a JSON value as text; its nesting is as bounded as orjson's parsing."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            waiting.extend(reversed(list(node.values())))
        elif isinstance(node, list | tuple):
            waiting.extend(reversed(node))
        elif node is not None and not isinstance(node, bool):
            yield node if isinstance(node, str) else orjson.dumps(node).decode()


def _words(text: str) -> str:
    """Words and numbers without case, form (NFKC) and punctuation, a space between them."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _readings(match: re.Match[str]) -> Iterator[float]:
    """The numbers that digits may stand for: first the whole, then with commas for points, then
    its parts (`10.30` may be half past ten), each with and without the sign (which may be a dash).
    """
    sign, digits, exponent = match.groups("")
    if len(digits) > _MOST_DIGITS or _PADDED.match(digits):
        return
    forms = [digits.replace(",", "")]
    if digits.count(",") == 1:
        forms.append(digits.replace(".", "").replace(",", "."))
    if not exponent:
        forms += re.split("[.,]", digits)
    for form in forms:
        if form.count(".") < 2:
            whole = "." not in form and not exponent
            number = int(form) if whole else float(form + exponent)
            if sign:
                yield -number
            yield number


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
