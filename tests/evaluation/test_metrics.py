import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import TOOLS, call, predictions

from distill.evaluation import calibration, metrics
from distill.evaluation.intervals import MIN_GROUPS, Estimate, estimate
from distill.evaluation.predictions import Prediction

ALL = {
    "tool_accuracy": lambda s: metrics.accuracy(s.tool_correct),
    "call_accuracy": lambda s: metrics.accuracy(s.call_correct),
    "macro_f1": metrics.macro_f1,
    "no_call_precision": metrics.no_call_precision,
    "no_call_recall": metrics.no_call_recall,
    "ece": calibration.calibration_error,
    "brier": calibration.brier,
}


def figures(made: Sequence[Prediction], resamples: int = 200) -> dict[str, Estimate | None]:
    scores = metrics.score(made)
    statistics = {k: f(scores) for k, f in ALL.items()}
    return estimate(statistics, scores.groups, resamples, scores.weights)


decisions = st.builds(
    lambda names, confidence: call(*names, confidence=confidence),
    st.lists(st.sampled_from(TOOLS[:3]), max_size=3),
    st.none() | st.floats(0, 1),
)
made_predictions = st.lists(
    st.tuples(decisions, decisions, st.sampled_from("ghijklm")), min_size=1, max_size=30
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
@settings(max_examples=60)
def test_every_interval_is_within_bounds_and_contains_its_value(made: list[Prediction]) -> None:
    for figure in figures(made, resamples=100).values():
        if figure is not None and len({p.group for p in made}) < MIN_GROUPS:
            assert figure.low is figure.high is None
        elif figure is not None and figure.low is not None:
            assert figure.high is not None
            assert 0 <= figure.low <= figure.value <= figure.high <= 1


@given(made_predictions, st.randoms())
@settings(max_examples=40)
def test_the_order_of_examples_does_not_matter(made: list[Prediction], random: object) -> None:
    shuffled = list(made)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before, after = figures(made, 100), figures(shuffled, 100)
    for name, figure in before.items():
        assert figure == (None if figure is None else pytest.approx(after[name], abs=1e-9))


@given(st.lists(decisions, min_size=5, max_size=20))
@settings(max_examples=40)
def test_a_perfect_router_scores_one_without_certainty(labels: list[object]) -> None:
    found = figures(predictions([(label, label) for label in labels]), 100)  # type: ignore[misc]
    for name in ("tool_accuracy", "call_accuracy", "macro_f1"):
        assert value(found[name]) == 1
        assert found[name].low < 1  # type: ignore[union-attr]


def test_a_weight_counts_like_that_many_copies() -> None:
    made = predictions(
        [(call("a"), call("a")), (call("a"), call()), (call(), call("b", confidence=0.7))] * 3
    )
    weights = [1 + i % 4 for i in range(len(made))]
    heavy = [dataclasses.replace(p, weight=w) for p, w in zip(made, weights, strict=True)]
    copies = [p for p, w in zip(made, weights, strict=True) for _ in range(w)]
    expected = figures(copies)
    for name, found in figures(heavy).items():
        wanted = expected[name]
        assert (found is None) == (wanted is None), name
        assert found is None or found == pytest.approx(wanted), name
