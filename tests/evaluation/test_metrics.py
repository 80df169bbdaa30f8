import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import TOOLS, call, predictions

from distill.evaluation import metrics
from distill.evaluation.metrics import Estimate
from distill.evaluation.predictions import Prediction

ALL = {
    "tool_accuracy": lambda s: metrics.accuracy(s.tool_correct),
    "call_accuracy": lambda s: metrics.accuracy(s.call_correct),
    "macro_f1": metrics.macro_f1,
    "no_call_precision": metrics.no_call_precision,
    "no_call_recall": metrics.no_call_recall,
    "ece": metrics.calibration_error,
    "brier": metrics.brier,
}


def figures(made: Sequence[Prediction], resamples: int = 200) -> dict[str, Estimate | None]:
    scores = metrics.score(made)
    statistics = {k: f(scores) for k, f in ALL.items()}
    return metrics.estimate(statistics, scores.groups, resamples, scores.weights)


decisions = st.builds(
    lambda names, confidence: call(*names, confidence=confidence),
    st.lists(st.sampled_from(TOOLS[:3]), max_size=3),
    st.none() | st.floats(0, 1),
)
made_predictions = st.lists(
    st.tuples(decisions, decisions, st.sampled_from(["g", "h", "i", "j"])), min_size=1, max_size=30
).map(lambda rows: predictions([(a, b) for a, b, _ in rows], [g for *_, g in rows]))


def value(figure: Estimate | None) -> float:
    assert figure is not None
    return figure.value


def test_the_figures_of_a_case_worked_by_hand() -> None:
    made = predictions(
        [
            (call("a", "a"), call("a")),  # a: one hit of two; no false positive
            (call("a"), call("a", "b")),  # a: hit; b: false positive
            (call("b"), call("b")),  # b: hit
            (call(), call()),  # reply: hit
            (call(), call("b")),  # reply missed; b: false positive
            (call("b"), call()),  # b missed; reply: false positive
        ]
    )
    found = figures(made)
    assert value(found["tool_accuracy"]) == pytest.approx(2 / 6)
    f1_a, f1_b, f1_reply = 2 * 2 / (3 + 2), 2 * 1 / (2 + 3), 2 * 1 / (2 + 2)
    assert value(found["macro_f1"]) == pytest.approx((f1_a + f1_b + f1_reply) / 3)
    assert value(found["no_call_precision"]) == pytest.approx(1 / 2)
    assert value(found["no_call_recall"]) == pytest.approx(1 / 2)


def test_arguments_count_for_calls_and_not_for_tools() -> None:
    label = call("a", arguments={"x": 1})
    made = predictions([(label, call("a", arguments={"x": 2})), (label, label)])
    found = figures(made)
    assert value(found["tool_accuracy"]) == 1
    assert value(found["call_accuracy"]) == 0.5


def test_the_order_of_parallel_calls_does_not_matter_but_their_number_does() -> None:
    made = predictions(
        [(call("a", "b"), call("b", "a")), (call("a", "a", "b"), call("a", "b", "b"))]
    )
    assert value(figures(made)["tool_accuracy"]) == 0.5


def test_calibration_of_a_case_worked_by_hand() -> None:
    right = [(call("a"), call("a", confidence=0.8))] * 3 + [(call("a"), call("a", confidence=0.4))]
    wrong = [(call("a"), call("b", confidence=0.8))] + [(call("a"), call("b", confidence=0.4))] * 3
    found = figures(predictions(right + wrong))
    # At 0.8 three of four are right, at 0.4 one of four.
    assert value(found["ece"]) == pytest.approx((4 * 0.05 + 4 * 0.15) / 8)
    assert value(found["brier"]) == pytest.approx((3 * 0.04 + 0.36 + 0.64 + 3 * 0.16) / 8)


def test_confidence_counts_where_there_is_one() -> None:
    half = [(call("a"), call("a", confidence=0.5)), (call("a"), call("b"))]
    assert value(figures(predictions(half))["brier"]) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("label", "decision", "without_support"),
    [
        (call("a"), call("a"), {"no_call_precision", "no_call_recall", "ece", "brier"}),
        (call("a"), call(), {"no_call_precision", "no_call_recall", "ece", "brier"}),
        (call(), call("a", confidence=1.0), {"no_call_precision"}),
        (call(), call(confidence=1.0), set()),
    ],
)
def test_a_metric_without_support_is_none_not_zero(
    label: object, decision: object, without_support: set[str]
) -> None:
    found = figures(predictions([(label, decision)] * 3))  # type: ignore[list-item]
    assert {name for name, figure in found.items() if figure is None} == without_support


@given(made_predictions)
@settings(max_examples=60, deadline=None)
def test_every_interval_is_within_bounds_and_contains_its_value(made: list[Prediction]) -> None:
    for figure in figures(made, resamples=100).values():
        if figure is not None:
            assert 0 <= figure.low <= figure.value <= figure.high <= 1


@given(made_predictions, st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_examples_does_not_matter(made: list[Prediction], random: object) -> None:
    shuffled = list(made)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before, after = figures(made, 100), figures(shuffled, 100)
    for name, figure in before.items():
        assert figure == (None if figure is None else pytest.approx(after[name], abs=1e-9))


@given(st.lists(decisions, min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_a_perfect_router_scores_one_without_certainty(labels: list[object]) -> None:
    found = figures(predictions([(label, label) for label in labels]), 100)  # type: ignore[misc]
    for name in ("tool_accuracy", "call_accuracy", "macro_f1"):
        assert value(found[name]) == 1
        assert found[name].low < 1  # type: ignore[union-attr]


def test_a_faultless_interval_is_that_of_clopper_and_pearson() -> None:
    found = figures(predictions([(call("a"), call("a"))] * 20))["tool_accuracy"]
    assert found == pytest.approx((1.0, 0.025 ** (1 / 20), 1.0))


def test_one_group_says_next_to_nothing() -> None:
    made = predictions([(call("a"), call("a")), (call("a"), call("b"))] * 50, ["only"] * 100)
    found = figures(made)["tool_accuracy"]
    assert found is not None
    assert found.low < 0.05
    assert found.high > 0.95


def test_groups_that_agree_within_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    correct = np.repeat(rng.random(40) < 0.7, 10).astype(float)
    statistic = {"a": metrics.accuracy(correct)}
    by_group = metrics.estimate(statistic, groups, 500)["a"]
    by_row = metrics.estimate(statistic, np.arange(400), 500)["a"]
    assert by_group is not None
    assert by_row is not None
    # Ten equal rows a group: the standard error is sqrt(10) times that of independent rows.
    assert by_group.high - by_group.low > 2.5 * (by_row.high - by_row.low)


def test_the_bootstrap_is_that_of_literally_resampled_groups() -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 12, 80)
    groups = np.unique(groups, return_inverse=True)[1]
    correct = (rng.random(80) < 0.6).astype(float)
    found = metrics.estimate({"a": metrics.accuracy(correct)}, groups, 4000)["a"]
    by_group = [correct[groups == g] for g in range(groups.max() + 1)]
    drawn = [
        np.concatenate([by_group[g] for g in rng.integers(0, len(by_group), len(by_group))]).mean()
        for _ in range(4000)
    ]
    assert found is not None
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)


def test_chunks_of_resamples_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = metrics.score(predictions([(call("a"), call("a")), (call("a"), call())] * 20))
    monkeypatch.setattr(metrics, "_CHUNK", 100)  # two resamples of 40 groups at a time
    in_chunks = metrics.estimate({"a": metrics.macro_f1(scores)}, scores.groups, 301)["a"]
    monkeypatch.undo()
    at_once = metrics.estimate({"a": metrics.macro_f1(scores)}, scores.groups, 301)["a"]
    assert in_chunks == at_once


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        # Groups of three with a success rate of their own: mean 0.75, strongly clustered.
        rates = rng.beta(3, 1, size=50)
        correct = (rng.random((50, 3)) < rates[:, None]).astype(float).ravel()
        groups = np.repeat(np.arange(50), 3)
        found = metrics.estimate({"a": metrics.accuracy(correct)}, groups, 200)["a"]
        assert found is not None
        covered += found.low <= 0.75 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_interval_of_a_calibrated_routers_error_is_near_its_value() -> None:
    """Resampling alone would push it up: the interval would not reach down to the value."""
    rng = np.random.default_rng(3)
    confidence = rng.random(600)
    made = predictions(
        [
            (call("a"), call("a" if rng.random() < c else "b", confidence=float(c)))
            for c in confidence
        ]
    )
    found = figures(made, 500)["ece"]
    assert found is not None
    assert found.low < found.value < found.high


def test_equal_confidences_share_a_bin() -> None:
    confidence = np.array([0.1] * 50 + [0.7] * 9 + [np.nan])
    bins = metrics.calibration_bins(confidence)
    assert len(set(bins[:50])) == len(set(bins[50:59])) == 1
    assert bins[0] != bins[50]
    assert bins[59] == -1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_bins_follow_the_order_of_confidences(values: list[float]) -> None:
    bins = metrics.calibration_bins(np.array(values))
    assert bins.min() >= 0
    assert bins.max() < metrics.CALIBRATION_BINS
    assert (np.diff(bins[np.argsort(values, kind="stable")]) >= 0).all()


def test_a_router_does_not_differ_from_itself() -> None:
    correct = np.array([1.0, 0.0, 1.0, 1.0])
    found = metrics.paired_difference(correct, correct, np.arange(4), 200)
    assert found.value == 0
    assert found.p_value == 1
    assert found.low < 0 < found.high


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
@settings(max_examples=40, deadline=None)
def test_swapping_the_routers_mirrors_the_difference(rows: list[tuple[bool, bool]]) -> None:
    a, b = np.array(rows, dtype=float).T
    groups = np.arange(len(rows)) // 2
    forth = metrics.paired_difference(a, b, groups, 200)
    back = metrics.paired_difference(b, a, groups, 200)
    assert forth.p_value == back.p_value
    assert (forth.value, forth.low, forth.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )
    assert -1 <= forth.low <= forth.value <= forth.high <= 1


def test_a_large_difference_over_many_groups_is_significant_and_over_two_is_not() -> None:
    many = metrics.paired_difference(np.ones(40), np.zeros(40), np.arange(40), 500)
    two = metrics.paired_difference(np.ones(40), np.zeros(40), np.arange(40) // 20, 500)
    assert many.p_value == pytest.approx(2 / 501)
    assert two.p_value == 0.5


def test_pairing_finds_a_difference_that_intervals_of_the_parts_hide() -> None:
    rng = np.random.default_rng(4)
    hard = rng.random(200) < 0.5
    a = np.where(hard, 0.0, 1.0)
    b = a.copy()
    b[np.flatnonzero(~hard)[:12]] = 0.0
    groups = np.arange(200)
    parts = metrics.estimate({"a": metrics.accuracy(a), "b": metrics.accuracy(b)}, groups, 500)
    assert parts["a"] is not None
    assert parts["b"] is not None
    assert parts["a"].low < parts["b"].high
    assert metrics.paired_difference(a, b, groups, 500).low > 0


def test_holm_by_hand() -> None:
    assert metrics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert metrics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert metrics.holm([]) == []


def test_a_weight_counts_like_that_many_copies() -> None:
    made = predictions([(call("a"), call("a")), (call("a"), call()), (call(), call("b"))] * 3)
    weights = [1 + i % 4 for i in range(len(made))]
    heavy = [dataclasses.replace(p, weight=w) for p, w in zip(made, weights, strict=True)]
    copies = [p for p, w in zip(made, weights, strict=True) for _ in range(w)]
    expected = figures(copies)
    for name, found in figures(heavy).items():
        wanted = expected[name]
        assert (found is None) == (wanted is None), name
        assert found is None or found == pytest.approx(wanted), name


def test_a_weight_counts_in_a_paired_difference() -> None:
    a, b, groups = np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), np.arange(3)
    found = metrics.paired_difference(a, b, groups, 200, np.array([3.0, 1.0, 4.0]))
    assert found.value == pytest.approx(2 / 8)
