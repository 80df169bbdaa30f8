"""Promised error rates: kept over many draws, and refused where the data does not support them."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import call, example

from distill.config import RiskConfig
from distill.evaluation.calibrate import fit_calibration
from distill.evaluation.difficulty import Difficulty
from distill.evaluation.predictions import Prediction
from distill.evaluation.risk import Judged, correlation, fit_thresholds
from distill.routers.confidence import Calibration, Threshold, log_odds
from distill.types import Decision, ToolCall

RISK = RiskConfig(alphas=[0.1], delta=0.1)
AS_IT_IS = Calibration(slope=1, offset=0, n=1, n_groups=1)


def decided(
    confidence: float | None, correct: bool, group: str, weight: float = 1.0, tool: str = "refund"
) -> Prediction:
    label = call(tool)
    decision = Decision("call", (ToolCall(tool if correct else "cancel_order", {}),), confidence)
    e = example(0, label, group)
    return Prediction(e.id, group, label, decision, weight, Difficulty.of(e))


def population(
    seed: int, groups: int, size: int = 6, together: float = 0.0, skill: float = 4.0
) -> list[Prediction]:
    """The surer, the less often wrong; decisions of a group share a part of their luck."""
    random = Random(seed)
    made = []
    for g in range(groups):
        shared = random.random()
        for _ in range(size):
            sure = random.random()
            chance = min(1.0, 0.02 + 0.9 * (1 - sure) ** skill)
            luck = shared if random.random() < together else random.random()
            made.append(decided(0.001 + 0.998 * sure, luck > chance, f"g{g}"))
    return made


def overall(thresholds: Sequence[Threshold]) -> Threshold:
    (found,) = (t for t in thresholds if t.tool is None)
    return found


@pytest.mark.parametrize("together", [0.0, 0.5])
def test_the_promise_is_broken_in_at_most_delta_of_draws(together: float) -> None:
    """Fresh calibration parts of one population; decisions of a group may be wrong together."""
    everything = Judged.of(population(0, groups=2000, together=together))
    broken = supported = 0
    for draw in range(100):
        made = population(1 + draw, groups=60, together=together)
        threshold = overall(fit_thresholds(made, AS_IT_IS, RISK)).threshold
        if threshold is not None:
            supported += 1
            broken += everything.wrong[everything.odds >= log_odds(threshold)].mean() > 0.1
    assert supported > 60
    # 100 draws: more than 16 would have a probability below 2% if 10% were the truth.
    assert broken <= 16


def test_a_laxer_promise_takes_more() -> None:
    risk = RiskConfig(alphas=[0.08, 0.15, 0.3], delta=0.1)
    found = [t for t in fit_thresholds(population(3, 200), AS_IT_IS, risk) if t.tool is None]
    assert [t.alpha for t in found] == [0.08, 0.15, 0.3]
    assert found[0].coverage <= found[1].coverage <= found[2].coverage
    for t in found:
        assert t.bound is not None
        assert t.error is not None
        assert t.error <= t.bound <= t.alpha


def test_too_little_data_supports_no_promise() -> None:
    faultless = [decided(0.99, True, f"g{i}") for i in range(20)]
    none = overall(fit_thresholds(faultless, AS_IT_IS, RISK))
    assert (none.threshold, none.coverage, none.error, none.bound) == (None, 0, None, None)
    assert (none.n, none.n_groups) == (20, 20)


def test_faultless_decisions_of_one_group_count_as_little_as_they_tell() -> None:
    """A hundred decisions right together are not a hundred observations."""
    alike = [decided(0.9, g != 0, f"g{g}") for g in range(5) for _ in range(20)]
    assert correlation(Judged.of(alike)) == pytest.approx(1, abs=0.05)
    assert overall(fit_thresholds(alike, AS_IT_IS, RISK)).threshold is None
    apart = [decided(0.9, True, f"g{g}") for g in range(100)]
    assert overall(fit_thresholds(apart, AS_IT_IS, RISK)).threshold is not None


def test_a_wrong_router_promises_nothing() -> None:
    wrong = [decided(0.99, False, f"g{i}") for i in range(500)]
    assert overall(fit_thresholds(wrong, AS_IT_IS, RISK)).threshold is None


def test_each_tool_has_a_promise_of_its_own() -> None:
    good = [decided(0.9, True, f"a{i}") for i in range(200)]
    bad = [decided(0.9, i % 2 == 0, f"b{i}", tool="list_products") for i in range(200)]
    found = {t.tool: t for t in fit_thresholds(good + bad, AS_IT_IS, RISK)}
    assert set(found) == {None, "refund", "list_products", "cancel_order"}
    assert found["refund"].coverage == 1
    assert found["cancel_order"].threshold is None, "what was decided wrongly was this tool"
    assert found[None].threshold is None


def test_without_confidence_there_is_nothing_to_promise() -> None:
    assert fit_thresholds([decided(None, True, "g")], AS_IT_IS, RISK) == []


@settings(max_examples=40)
@given(slope=st.floats(0.1, 5), offset=st.floats(-3, 3))
def test_a_calibration_moves_no_decision_past_a_threshold(slope: float, offset: float) -> None:
    calibration = Calibration(slope, offset, n=1, n_groups=1)
    made = population(5, 100)
    raw, mapped = (overall(fit_thresholds(made, c, RISK)) for c in (AS_IT_IS, calibration))
    assert raw.coverage == mapped.coverage
    assert raw.threshold is not None
    assert mapped.threshold is not None
    for p in made:
        confidence = p.decision.confidence or 0.0
        assert (confidence >= raw.threshold) == (calibration(confidence) >= mapped.threshold)


@settings(max_examples=60)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 20), st.floats(-20, 20))
def test_a_calibration_keeps_the_order_and_the_range(
    a: float, b: float, slope: float, offset: float
) -> None:
    calibration = Calibration(slope, offset, n=1, n_groups=1)
    low, high = sorted((a, b))
    assert 0 <= calibration(low) <= calibration(high) <= 1
    assert calibration(0.0) == 0.0


def test_overconfidence_is_fitted_away() -> None:
    random = Random(0)
    made = []
    for i in range(3000):
        truth = random.random()
        odds = 3 * np.log(truth / (1 - truth)) + 1  # three times too sure, and one-sided
        made.append(decided(float(1 / (1 + np.exp(-odds))), random.random() < truth, f"g{i}"))
    fitted = fit_calibration(made)
    assert fitted is not None
    assert fitted.slope == pytest.approx(1 / 3, rel=0.1)
    assert fitted.offset == pytest.approx(-1 / 3, abs=0.15)
    assert (fitted.n, fitted.n_groups) == (3000, 3000)


@pytest.mark.parametrize("correct", [True, False])
def test_few_decisions_of_one_sort_make_no_certainty(correct: bool) -> None:
    fitted = fit_calibration([decided(0.8, correct, f"g{i}") for i in range(10)])
    assert fitted is not None
    assert fitted(0.8) == pytest.approx(11 / 12 if correct else 1 / 12, abs=0.02)


def test_answers_that_are_no_decision_calibrate_nothing() -> None:
    assert fit_calibration([decided(0.0, False, "g"), decided(None, True, "h")]) is None


def test_weights_count_as_repeated_decisions() -> None:
    def made(weight: float) -> list[Prediction]:
        return [decided(0.3 + 0.005 * i, i % 3 > 0, f"g{i}", weight) for i in range(100)]

    once, twice = fit_calibration(made(2)), fit_calibration([*made(1), *made(1)])
    assert once is not None
    assert twice is not None
    assert once.n == twice.n == 200
    assert once.slope == pytest.approx(twice.slope, rel=1e-3)
