from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.evaluation import intervals
from distill.evaluation.intervals import Array, Estimate
from distill.evaluation.metrics import accuracy


def found(correct: Array, groups: object, resamples: int = 500) -> Estimate:
    figure = intervals.estimate({"a": accuracy(correct)}, groups, resamples)["a"]  # type: ignore[arg-type]
    assert figure is not None
    return figure


def width(figure: Estimate) -> float:
    assert figure.low is not None
    assert figure.high is not None
    return figure.high - figure.low


def test_groups_that_agree_within_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    correct = np.repeat(rng.random(40) < 0.7, 10).astype(float)
    statistic = {"a": accuracy(correct)}
    by_group = intervals.estimate(statistic, groups, 500)["a"]
    by_row = intervals.estimate(statistic, np.arange(400), 500)["a"]
    assert by_group is not None
    assert by_row is not None
    # Ten equal rows a group: the standard error is sqrt(10) times that of independent rows.
    assert by_group.high - by_group.low > 2.5 * (by_row.high - by_row.low)


def test_a_router_does_not_differ_from_itself() -> None:
    correct = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    found = intervals.paired_difference(correct, correct, np.arange(5), 200)
    assert found.value == 0
    assert found.p_value == 1
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=9, max_size=40))
@settings(max_examples=40)
def test_swapping_the_routers_mirrors_the_difference(rows: list[tuple[bool, bool]]) -> None:
    a, b = np.array(rows, dtype=float).T
    groups = np.arange(len(rows)) // 2
    forth = intervals.paired_difference(a, b, groups, 200)
    back = intervals.paired_difference(b, a, groups, 200)
    assert None not in (*forth, *back)
    assert forth.p_value == pytest.approx(back.p_value)
    assert (forth.value, forth.low, forth.high) == pytest.approx(
        (-back.value, -back.high, -back.low)  # type: ignore[operator]
    )
    assert -1 <= forth.low <= forth.value <= forth.high <= 1  # type: ignore[operator]


def test_pairing_finds_a_difference_that_intervals_of_the_parts_hide() -> None:
    rng = np.random.default_rng(4)
    hard = rng.random(200) < 0.5
    a = np.where(hard, 0.0, 1.0)
    b = a.copy()
    b[np.flatnonzero(~hard)[:12]] = 0.0
    groups = np.arange(200)
    parts = intervals.estimate({"a": accuracy(a), "b": accuracy(b)}, groups, 500)
    assert parts["a"] is not None
    assert parts["b"] is not None
    assert parts["a"].low < parts["b"].high
    assert intervals.paired_difference(a, b, groups, 500).low > 0


def test_holm_by_hand() -> None:
    assert intervals.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert intervals.holm([0.9, 0.8]) == [1.0, 1.0]
    assert intervals.holm([]) == []


def test_a_weight_counts_in_a_paired_difference() -> None:
    a, b, groups = np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), np.arange(3)
    found = intervals.paired_difference(a, b, groups, 200, np.array([3.0, 1.0, 4.0]))
    assert found.value == pytest.approx(2 / 8)


@pytest.mark.parametrize("groups", [6, 12])
@pytest.mark.parametrize("skill", [0.6, 0.9])
def test_intervals_of_few_groups_cover_the_truth_as_often_as_they_say(
    groups: int, skill: float
) -> None:
    """Percentile intervals cover it in about 70 to 90 of 100 cases here."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        # Groups of eight with a success rate of their own, intraclass correlation 0.2.
        rates = rng.beta(4 * skill, 4 * (1 - skill), size=groups)
        correct = (rng.random((groups, 8)) < rates[:, None]).astype(float).ravel()
        figure = found(correct, np.repeat(np.arange(groups), 8), 100)
        assert figure.low is not None
        assert figure.high is not None
        covered += figure.low <= skill <= figure.high
    assert covered / 300 >= 0.93


def test_equal_routers_differ_significantly_in_about_one_of_twenty_cases() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(8), 6)
    significant = 0
    for _ in range(300):
        # In each group one of the two is better, by luck.
        lean = np.repeat(rng.normal(0, 0.15, 8), 6)
        a, b = (rng.random((2, 48)) < 0.7 + np.stack([lean, -lean])).astype(float)
        p_value = intervals.paired_difference(a, b, groups, 100).p_value
        assert p_value is not None
        significant += p_value < 0.05
    assert significant / 300 <= 0.07


def test_one_error_changes_an_interval_little_and_only_downwards() -> None:
    groups = np.repeat(np.arange(20), 10)
    faultless = found(np.ones(200), groups)
    one_error = found(np.r_[0.0, np.ones(199)], groups)
    two_errors = found(np.r_[0.0, np.ones(99), 0.0, np.ones(99)], groups)
    lows = [figure.low for figure in (faultless, one_error, two_errors)]
    assert None not in lows
    assert lows == sorted(lows, reverse=True)  # type: ignore[type-var]
    assert lows[0] - lows[2] < 0.03  # type: ignore[operator]
    assert 0.85 < lows[2] < lows[0] < 0.95  # type: ignore[operator]


def test_fewer_than_five_groups_give_no_interval() -> None:
    correct, groups = np.tile([1.0, 0.0], 20), np.arange(40) // 10
    assert found(correct, groups) == (0.5, None, None)
    assert found(correct, np.arange(40) // 8).low is not None
    assert intervals.paired_difference(correct, 1 - correct, groups, 200) == (0, None, None, None)


def test_many_independent_groups_give_the_textbooks_interval() -> None:
    rng = np.random.default_rng(1)
    correct = (rng.random(2000) < 0.7).astype(float)
    expected = 2 * 1.96 * sqrt(0.7 * 0.3 / 2000)
    assert width(found(correct, np.arange(2000), 1000)) == pytest.approx(expected, rel=0.1)


def test_a_large_group_among_small_ones_widens_the_interval() -> None:
    rng = np.random.default_rng(5)
    correct = (rng.random(120) < 0.7).astype(float)
    equal = np.arange(120) // 10
    lopsided = np.r_[np.zeros(98, dtype=np.intp), np.arange(22) // 2 + 1]
    assert equal.max() == lopsided.max()
    assert width(found(correct, lopsided)) > 1.5 * width(found(correct, equal))


def test_chunks_of_resamples_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = np.tile([1.0, 0.0, 1.0], 14)[:40]
    monkeypatch.setattr(intervals, "_CHUNK", 100)  # two resamples of 40 groups at a time
    in_chunks = found(correct, np.arange(40), 301)
    monkeypatch.undo()
    assert in_chunks == found(correct, np.arange(40), 301)


def test_a_p_value_says_what_the_interval_says() -> None:
    rng = np.random.default_rng(6)
    seen = set()
    for lead in np.linspace(0, 0.4, 30):
        a, b = (rng.random((2, 80)) < np.array([[0.5 + lead], [0.5]])).astype(float)
        figure = intervals.paired_difference(a, b, np.arange(80) // 4, 200)
        assert figure.low is not None
        assert figure.high is not None
        assert figure.p_value is not None
        outside = figure.low > 0 or figure.high < 0
        assert outside == (figure.p_value < 0.05)
        seen.add(outside)
    assert seen == {True, False}


def test_a_large_difference_over_many_groups_is_significant() -> None:
    many = intervals.paired_difference(np.ones(40), np.zeros(40), np.arange(40), 500)
    assert many.p_value is not None
    assert many.p_value < 1e-6


def test_an_amount_has_a_mean_between_its_ends_and_no_upper_bound() -> None:
    values = np.array([3.0, 4.0, 5.0, 900.0, 2.0, 6.0])
    found = intervals.mean(values, np.arange(6), 500, np.array([1.0, 1.0, 1.0, 1.0, 2.0, 0.5]))
    assert found.value == pytest.approx((3 + 4 + 5 + 900 + 4 + 3) / 6.5)
    assert found.low == 0
    assert found.high > 300
    steady = intervals.mean(values[:3].repeat(4) / 1000, np.arange(12), 500)
    assert 0 < steady.low < steady.value < steady.high < 0.005


def test_amounts_are_paired_in_their_own_unit() -> None:
    """A thousand times the amounts is a thousand times the difference and its interval."""
    luck = np.random.default_rng(0)
    hardness = luck.uniform(0, 50, 40)
    a, b = hardness + luck.normal(0.5, 0.2, 40), hardness
    small = intervals.paired_difference(a, b, np.arange(40), 500, shares=False)
    large = intervals.paired_difference(1000 * a, 1000 * b, np.arange(40), 500, shares=False)
    assert 0.3 < small.low < small.value < small.high < 0.7
    assert large[:3] == pytest.approx([1000 * figure for figure in small[:3]])
    assert large.p_value == pytest.approx(small.p_value)
    assert small.p_value < 0.001


def test_amounts_that_never_differed_have_a_difference_of_0() -> None:
    same = np.full(6, 2.5)
    found = intervals.paired_difference(same, same, np.arange(6), 200, shares=False)
    assert found == (0.0, 0.0, 0.0, 1.0)
