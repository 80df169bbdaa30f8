"""Days named in words: resolved from the day that the system prompt tells, never from a clock."""

import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.routers.dates import resolved
from distill.types import Context, Message

THURSDAY = "Today's date is Thursday, 2023-11-30 and the time is 00:00:00."


def dates(request: str, prompt: str = THURSDAY, *, clock: bool = False) -> list[str]:
    """The resolved days, without the words."""
    said = (Message("system", prompt), Message("user", request))
    return re.findall(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d)?", resolved(Context(said, ()), clock))


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        ("visits since October 24", ["2023-10-24"]),
        ("on the 3rd of January", ["2024-01-03"]),
        ("by Dec 5th, 2025", ["2025-12-05"]),
        ("tomorrow", ["2023-12-01"]),
        ("what was yesterday", ["2023-11-29"]),
        ("Friday", ["2023-11-24", "2023-12-01", "2023-12-08"]),
        ("on Thursday", ["2023-11-30", "2023-12-07", "2023-12-14"]),
        ("in the last 3 weeks", ["2023-11-09"]),
        ("10 days ago", ["2023-11-20"]),
        ("in 2 days", ["2023-12-02"]),
        ("the past 9 months", ["2023-02-28"]),
        ("since the 5th I may be late", []),
        ("February 30", []),
        ("9 months", []),
        ("since 999 months ago", ["1940-08-30"]),
    ],
)
def test_expressions(request_text, expected):
    assert dates(request_text) == expected


def test_a_day_has_its_first_and_last_second_where_times_are_wanted():
    assert dates("today", clock=True) == [
        "2023-11-30",
        "2023-11-30 00:00:00",
        "2023-11-30 23:59:59",
    ]


@pytest.mark.parametrize("prompt", ["You help.", "Version 2023-99-99", "2023-11-301"])
def test_without_a_date_in_the_prompt_there_is_no_today(prompt):
    assert dates("tomorrow", prompt) == []


def test_the_words_stand_with_the_days():
    said = (Message("system", THURSDAY), Message("user", "from May 2 to May 2 or today"))
    assert resolved(Context(said, ()), clock=False) == "dates: May 2 2024-05-02; today 2023-11-30\n"


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_read(request_text: str, prompt: str):
    for day in (*dates(request_text, f"{THURSDAY} {prompt}"), *dates("in 99 weeks", prompt)):
        assert date.fromisoformat(day).isoformat() == day


@pytest.mark.parametrize(
    ("today", "left"), [("0001-01-15", "0020-03-09"), ("9999-01-15", "9979-11-23")]
)
def test_days_outside_the_calendar_are_left_out(today, left):
    assert dates("999 weeks ago or in 999 weeks", today) == [left]
