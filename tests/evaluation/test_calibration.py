import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import call, predictions

from distill.evaluation import calibration, metrics
from distill.evaluation.intervals import estimate
from distill.evaluation.predictions import Prediction


def figure(made: list[Prediction], name: str) -> float:
    scores = metrics.score(made)
    found = estimate({"it": getattr(calibration, name)(scores)}, scores.groups, 100, scores.weights)
    assert found["it"] is not None
    return found["it"].value


def calibrated(n: int, seed: int) -> list[Prediction]:
    """A router whose confidence is the probability of being right."""
    rng = np.random.default_rng(seed)
    return predictions(
        [
            (call("a"), call("a" if rng.random() < c else "b", confidence=float(c)))
            for c in rng.uniform(0.3, 1, n)
        ]
    )


def test_calibration_of_a_case_worked_by_hand() -> None:
    right = [(call("a"), call("a", confidence=0.8))] * 3 + [(call("a"), call("a", confidence=0.4))]
    wrong = [(call("a"), call("b", confidence=0.8))] + [(call("a"), call("b", confidence=0.4))] * 3
    made = predictions((right + wrong) * 8)
    # At 0.8 three of four are right, at 0.4 one of four.
    assert figure(made, "calibration_error") == pytest.approx((4 * 0.05 + 4 * 0.15) / 8)
    brier = (3 * 0.04 + 0.36 + 0.64 + 3 * 0.16) / 8
    assert figure(made, "brier") == pytest.approx(brier)


@pytest.mark.parametrize("n", [120, 600])
def test_a_calibrated_router_gets_about_the_error_that_is_told_beside(n: int) -> None:
    made = [calibrated(n, seed) for seed in range(40)]
    errors = [figure(m, "calibration_error") for m in made]
    told = [calibration.error_if_calibrated(metrics.score(m)) for m in made]
    assert None not in told
    assert np.mean(errors) == pytest.approx(np.mean(np.array(told, dtype=float)), rel=0.15)
    assert np.mean(errors) < 0.07


def test_an_overconfident_router_lies_far_above_that_error() -> None:
    made = predictions(
        [(call("a"), call("a" if i % 2 else "b", confidence=0.95)) for i in range(200)]
    )
    told = calibration.error_if_calibrated(metrics.score(made))
    assert told is not None
    assert figure(made, "calibration_error") > 10 * told


def test_without_confidence_there_is_no_such_error() -> None:
    assert calibration.error_if_calibrated(metrics.score(predictions([(call(), call())]))) is None


def test_equal_confidences_share_a_bin() -> None:
    confidence = np.array([0.1] * 500 + [0.7] * 90 + [np.nan])
    bins = calibration.calibration_bins(confidence, np.ones(591))
    assert len(set(bins[:500])) == len(set(bins[500:590])) == 1
    assert bins[0] != bins[500]
    assert bins[590] == -1


def test_few_decisions_make_few_bins() -> None:
    confidence = np.random.default_rng(0).random(2000)
    bins = {
        n: len(set(calibration.calibration_bins(confidence[:n], np.ones(n)).tolist()))
        for n in (20, 120, 2000)
    }
    assert bins == {20: 1, 120: 4, 2000: 15}


def test_a_weight_makes_bins_like_that_many_copies() -> None:
    confidence = np.random.default_rng(1).random(80).round(2)
    weights = 1 + np.arange(80) % 7
    of_copies = calibration.calibration_bins(np.repeat(confidence, weights), np.ones(weights.sum()))
    of_heavy = calibration.calibration_bins(confidence, weights.astype(float))
    assert np.repeat(of_heavy, weights).tolist() == of_copies.tolist()


def test_a_weight_counts_in_the_error_like_that_many_copies() -> None:
    made = calibrated(60, 0)
    weights = [1 + i % 5 for i in range(60)]
    heavy = [dataclasses.replace(p, weight=w) for p, w in zip(made, weights, strict=True)]
    copies = [p for p, w in zip(made, weights, strict=True) for _ in range(w)]
    assert figure(heavy, "calibration_error") == pytest.approx(figure(copies, "calibration_error"))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=600))
def test_bins_follow_the_order_of_confidences(values: list[float]) -> None:
    bins = calibration.calibration_bins(np.array(values), np.ones(len(values)))
    assert bins.min() >= 0
    assert bins.max() < 15
    assert (np.diff(bins[np.argsort(values, kind="stable")]) >= 0).all()
