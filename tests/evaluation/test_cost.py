"""What is saved of the LLM, by hand on small cases and as properties of any."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import call, example, predictions

from distill.config import PriceConfig
from distill.evaluation.cost import (
    BYTES_PER_TOKEN,
    PER,
    Demand,
    Llm,
    amounts,
    break_even,
    money,
    pareto,
    savings,
    spares,
    spent,
)
from distill.evaluation.predictions import Prediction, Size
from distill.types import Decision, ToolCall, Usage

PRICE = PriceConfig(input=2.0, output=8.0, cached=0.5, date=date(2025, 1, 1))
RECORDED = Llm(input_tokens=900.0, output_tokens=50.0, latency_ms=2000.0, price=PRICE)
FILLED = call("get_order", arguments={"order_id": 7})
NAMED = Decision("call", (ToolCall("get_order", None),))


def sized(pairs: Sequence[tuple[Decision, Decision]], sizes: Sequence[Size]) -> list[Prediction]:
    made = predictions(pairs)
    return [replace(p, size=size) for p, size in zip(made, sizes, strict=True)]


def saved(made: Sequence[Prediction], taken: Sequence[float], llm: Llm, **changes: Any) -> Any:
    settings: dict[str, Any] = {"latency_ms": 10.0, "training_cost": 1.0, "resamples": 100}
    return savings(made, np.array(taken, dtype=float), llm, **settings | changes)


def test_only_a_filled_call_that_is_taken_spares_the_llm() -> None:
    made = sized([(FILLED, FILLED), (FILLED, NAMED), (call(), call()), (FILLED, FILLED)],
                 [Size(400, 800, 40)] * 4)  # fmt: skip
    found = saved(made, [1, 1, 1, 0], Llm())
    assert found["llm_calls"]["value"] == 250
    assert found["prompt_tokens"] == 250 * 1200 / BYTES_PER_TOKEN
    assert found["tool_tokens"] == 250 * 800 / BYTES_PER_TOKEN
    assert found["output_tokens"] == 250 * 40 / BYTES_PER_TOKEN
    assert (found["cost"], found["seconds"], found["break_even"]) == (None, None, None)


def test_recorded_tokens_are_shared_among_requests_by_their_length() -> None:
    made = sized([(FILLED, FILLED), (call(), call())], [Size(100, 200, 9), Size(500, 1000, 0)])
    found = saved(made, [1, 1], RECORDED)
    assert found["prompt_tokens"] == pytest.approx(500 * 300)  # a third of the mean of 900
    assert found["tool_tokens"] == pytest.approx(500 * 200)
    assert found["output_tokens"] == pytest.approx(500 * 50)
    assert found["cost"] == pytest.approx((500 * 300 * 2 + 500 * 50 * 8) / 1e6)
    assert found["seconds"] == pytest.approx(500 * 2.0 - 1000 * 0.01)
    assert found["break_even"] == 2000  # 0.5 in 1,000 decisions pays for 1.0
    alone = amounts(Demand.of(made, RECORDED), RECORDED)
    assert alone["prompt_tokens"] == pytest.approx(900 * PER)
    assert alone["cost"] == pytest.approx(900 * PER * 2e-6 + 50 * PER * 8e-6)


def test_a_wrong_call_that_is_taken_is_stated_beside_what_it_saves() -> None:
    other = call("refund", arguments={"order_id": 7})
    found = saved(predictions([(FILLED, other), (FILLED, FILLED)]), [1, 1], Llm())
    assert found["wrong"]["value"] == 0.5
    assert found["llm_calls"]["value"] == PER


def test_a_decision_counts_as_often_as_the_teacher_made_it() -> None:
    once = sized([(FILLED, FILLED), (call(), call())], [Size(100, 200, 9), Size(500, 1000, 0)])
    thrice = [replace(once[0], weight=3.0), once[1]]
    copies = [*[replace(once[0], id=f"x{i}") for i in range(3)], once[1]]
    for key, value in saved(thrice, [1, 1], RECORDED).items():
        assert value == pytest.approx(saved(copies, [1, 1, 1, 1], RECORDED)[key])


def test_of_runs_older_than_sizes_calls_are_known_and_tokens_are_not() -> None:
    found = saved(predictions([(FILLED, FILLED)]), [1], RECORDED)
    assert found["llm_calls"]["value"] == PER
    assert (found["prompt_tokens"], found["cost"], found["break_even"]) == (None, None, None)


@pytest.mark.parametrize(
    ("training", "saving", "decisions"),
    [(1.0, 0.5, 2000), (0.0, 0.5, 0), (1.0, 0.0, None), (None, 0.5, None), (1.0, None, None)],
)
def test_training_pays_when_what_is_saved_reaches_it(
    training: float | None, saving: float | None, decisions: int | None
) -> None:
    assert break_even(training, saving) == decisions


def test_kept_prompt_tokens_have_their_own_price_or_the_others() -> None:
    assert money(PRICE, 1e6, 0, cached=4e5) == pytest.approx(0.6 * 2 + 0.4 * 0.5)
    without = PRICE.model_copy(update={"cached": None})
    assert money(without, 1e6, 0, cached=4e5) == pytest.approx(2)


def asked(*usages: Usage | None) -> list[Prediction]:
    return [
        replace(p, decision=replace(p.decision, usage=usage))
        for p, usage in zip(predictions([(FILLED, FILLED)] * len(usages)), usages, strict=True)
    ]


def test_what_an_llm_took_is_of_the_requests_that_say_so() -> None:
    made = asked(Usage(100, 10, cached_tokens=40), Usage(300, 30), Usage(llm_calls=1))
    found = spent(made, PRICE)
    assert found is not None
    assert (found["requests"], found["n"]) == (3, 2)
    assert (found["prompt_tokens"], found["cached_tokens"]) == (200_000, 20_000)
    assert found["cost"] == pytest.approx(0.18 * 2 + 0.02 * 0.5 + 0.02 * 8)
    silent = spent(asked(Usage(llm_calls=1)), PRICE)
    assert silent is not None
    assert (silent["n"], silent["prompt_tokens"], silent["cost"]) == (0, None, None)
    priceless = spent(made, None)
    assert priceless is not None
    assert (priceless["prompt_tokens"], priceless["cost"]) == (200_000, None)
    assert spent(asked(None), PRICE) is None


def test_a_size_is_of_the_request_as_it_is_sent() -> None:
    size = Size.of(example(1, FILLED))
    longer = Size.of(example(1, FILLED, turns=2))
    assert longer.messages > size.messages > len('{"role":"user","content":"request 1"}') - 1
    assert (longer.tools, longer.answer) == (size.tools, size.answer)
    assert Size.of(example(1, call())).answer == 0


# --- of any router


decisions = st.sampled_from([FILLED, NAMED, call(), call("refund", "cancel_order")])
sizes = st.builds(Size, st.integers(1, 999), st.integers(0, 999), st.integers(0, 99))
rows = st.lists(st.tuples(decisions, decisions, sizes, st.floats(0, 1)), min_size=1, max_size=9)
prices = st.builds(
    PriceConfig,
    input=st.floats(0, 50),
    output=st.floats(0, 50),
    date=st.just(date(2025, 1, 1)),
)
llms = st.builds(
    lambda tokens, price: Llm(*tokens, price=price),
    st.sampled_from([(None, None), (800.0, 30.0)]),
    prices,
)
AMOUNTS = ("prompt_tokens", "tool_tokens", "output_tokens", "cost")


def made_of(drawn: Sequence[tuple[Decision, Decision, Size, float]]) -> list[Prediction]:
    return sized([(label, decided) for label, decided, *_ in drawn], [row[2] for row in drawn])


@given(rows, llms)
def test_nothing_taken_saves_nothing_and_risks_nothing(drawn: Any, llm: Llm) -> None:
    found = saved(made_of(drawn), [0] * len(drawn), llm)
    assert found["llm_calls"]["value"] == found["wrong"]["value"] == 0
    assert [found[name] for name in AMOUNTS] == [0] * 4
    assert found["break_even"] is None


@given(rows, llms, st.floats(0, 1), st.floats(0, 1))
def test_a_lower_threshold_never_saves_less(drawn: Any, llm: Llm, a: float, b: float) -> None:
    made = made_of(drawn)
    strict, loose = (
        saved(made, [float(row[3] >= threshold) for row in drawn], llm)
        for threshold in (max(a, b), min(a, b))
    )
    assert strict["llm_calls"]["value"] <= loose["llm_calls"]["value"] + 1e-9
    assert strict["wrong"]["value"] <= loose["wrong"]["value"] + 1e-12
    for name in AMOUNTS:
        assert strict[name] <= loose[name] * (1 + 1e-9)


@given(rows, llms)
def test_no_more_is_saved_than_the_llm_alone_takes(drawn: Any, llm: Llm) -> None:
    made = made_of(drawn)
    found, alone = saved(made, [1] * len(drawn), llm), amounts(Demand.of(made, llm), llm)
    for name in AMOUNTS:
        assert 0 <= found[name] <= alone[name] * (1 + 1e-9)  # type: ignore[operator]
    assert found["tool_tokens"] <= found["prompt_tokens"]
    spare = sum(spares(p.decision) for p in made)
    assert found["llm_calls"]["value"] == pytest.approx(PER * spare / len(made))


@given(rows, llms, st.floats(0.01, 100))
def test_money_is_linear_in_prices(drawn: Any, llm: Llm, factor: float) -> None:
    made, taken = made_of(drawn), [1] * len(drawn)
    price = llm.price
    assert price is not None
    changes = {"input": price.input * factor, "output": price.output * factor}
    dearer = replace(llm, price=price.model_copy(update=changes))
    assert saved(made, taken, dearer)["cost"] == pytest.approx(
        factor * saved(made, taken, llm)["cost"]
    )


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(points)
def test_what_is_off_the_front_is_beaten_by_the_front(every: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    front = [every[i] for i in pareto(every)]
    assert not any(beats(a, b) for a in every for b in front)
    assert set(front) == {b for b in every if not any(beats(a, b) for a in every)}
    assert len(set(front)) == len(front)
