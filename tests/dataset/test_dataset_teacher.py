"""The teacher's figures on cases small enough to count by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_traces import says, trace, user

from distill.dataset.teacher import TeacherTally, agreement
from distill.types import Outcome, Usage


@pytest.mark.parametrize(
    ("observations", "value", "contexts"),
    [
        ([], None, 0),
        ([[1], [1]], None, 0),
        ([[2]], 1, 1),
        ([[1, 1]], 0, 1),
        ([[2, 1]], 1 / 3, 1),
        ([[3], [1, 1]], 3 / 5, 2),
        ([[2], [1], [1, 1, 1, 1]], 2 / 6, 2),
    ],
)
def test_agreement(observations: list[list[int]], value: float | None, contexts: int) -> None:
    got = agreement(observations)
    assert got["contexts"] == contexts
    assert got["value"] == (None if value is None else pytest.approx(value))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_agreement_is_the_share_of_agreeing_pairs(counts: list[int]) -> None:
    drawn = [kind for kind, count in enumerate(counts) for _ in range(count)]
    pairs = [(a, b) for i, a in enumerate(drawn) for j, b in enumerate(drawn) if i != j]
    got = agreement([counts])["value"]
    if pairs:
        assert got == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    else:
        assert got is None


def test_a_silent_log_says_nothing() -> None:
    tally = TeacherTally()
    tally.grade(Outcome())
    tally.observe(trace("t", user("x"), says("y"), teacher="gpt"), 1)
    assert tally.summary() == {
        "name": "gpt",
        "success_rate": None,
        "latency_ms": None,
        "tokens_per_decision": None,
        "input_tokens_per_decision": None,
        "output_tokens_per_decision": None,
    }


def test_rates_count_only_traces_that_say() -> None:
    tally = TeacherTally()
    for success in (True, True, False, None):
        tally.grade(Outcome(success))
    for name, decisions, usage in [
        ("b", 2, Usage(100, 20, 2, 1000)),
        ("a", 1, Usage(70, 10, 1, 700)),
        ("a", 9, Usage(None, 10, None, 700)),
        ("a", 9, Usage(duration_ms=700, llm_calls=0)),
    ]:
        tally.observe(trace("t", user("x"), teacher=name, usage=usage), decisions)
    got = tally.summary()
    assert got["name"] == "a, b"
    assert got["success_rate"] == pytest.approx(2 / 3)
    assert got["latency_ms"] == pytest.approx({"p50": 600, "p95": 690})
    assert got["tokens_per_decision"] == pytest.approx(200 / 3)
    assert got["input_tokens_per_decision"] == pytest.approx(170 / 3)
    assert got["output_tokens_per_decision"] == pytest.approx(30 / 3)
