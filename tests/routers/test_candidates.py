"""How the scores of offered tools become decisions: the most probable ones, in any order."""

from itertools import combinations_with_replacement
from math import comb, factorial, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_shop import CANCEL, GET, LIST, TOOLS, ask

from distill.errors import InputError
from distill.routers.candidates import (
    MAX_CALLS,
    choose,
    decide,
    most_probable,
    offered,
    probability,
)
from distill.types import REPLY, ToolSpec

logits = st.floats(-6, 6)
repeats = st.floats(0.01, 1.0)
SURE_OF_ONE = np.array([1.0])


@st.composite
def shares(draw, most=5):
    weights = draw(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=most))
    return np.array(weights) / sum(weights)


@st.composite
def numbers(draw, most=4):
    weights = draw(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=most))
    return np.array(weights) / sum(weights)


def multisets(tools: int, n: int) -> list[np.ndarray]:
    drawn = combinations_with_replacement(range(tools), n)
    return [np.bincount(chosen, minlength=tools) for chosen in drawn]


def weight(p: np.ndarray, counts: np.ndarray, repeat: float) -> float:
    return prod(
        share**k / factorial(k) * repeat ** max(k - 1, 0)
        for share, k in zip(p.tolist(), counts.tolist(), strict=True)
    )


@given(shares(), st.integers(1, 5), repeats)
def test_no_other_multiset_is_more_probable(p, n, repeat):
    found = most_probable(p, n, repeat)
    assert found.sum() == n
    best = max(weight(p, other, repeat) for other in multisets(len(p), n))
    assert weight(p, found, repeat) == pytest.approx(best)


@given(shares(), st.integers(1, 5), repeats)
def test_the_multisets_of_a_size_share_out_all_probability(p, n, repeat):
    every = multisets(len(p), n)
    assert len(every) == comb(len(p) + n - 1, n)
    assert sum(probability(p, k, repeat) for k in every) == pytest.approx(1)
    total = sum(weight(p, k, repeat) for k in every)
    for k in every:
        assert probability(p, k, repeat) == pytest.approx(weight(p, k, repeat) / total)


@given(shares(), st.integers(1, 5))
def test_without_a_price_on_repeats_it_is_the_multinomial(p, n):
    counts = most_probable(p, n, 1.0)
    expected = factorial(n) * weight(p, counts, 1.0)
    assert probability(p, counts, 1.0) == pytest.approx(expected)


def test_where_repeats_are_rare_five_calls_are_five_tools():
    p = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    assert most_probable(p, 5, 0.02).tolist() == [1] * 5
    assert most_probable(p, 5, 1.0).tolist() == [3, 1, 1, 0, 0]


@given(st.permutations(TOOLS), st.lists(logits, min_size=4, max_size=4), numbers(), repeats)
def test_the_order_of_offered_tools_decides_nothing(order, values, n, repeat):
    by_name = dict(zip((REPLY, *sorted(tool.name for tool in TOOLS)), values, strict=True))

    def decision(tools):
        found = offered(ask("hello", tuple(tools)))
        scores = np.array([by_name[REPLY], *(by_name[tool.name] for tool in found)])
        return decide(found, scores, n, repeat)

    assert decision(order) == decision(TOOLS)


@given(st.lists(logits, min_size=1, max_size=6), numbers(), repeats)
def test_a_decision_is_a_reply_or_calls_never_both(values, n, repeat):
    tools = [ToolSpec(f"t{i}") for i in range(len(values) - 1)]
    scores = np.array(values)
    decision = decide(tools, scores, n, repeat)
    assert 0 <= decision.confidence <= 1
    assert REPLY not in {call.name for call in decision.calls}
    assert {call.name for call in decision.calls} <= {tool.name for tool in tools}
    assert len(decision.calls) in (0, 1 + n.argmax())
    assert decision.scores.keys() == {REPLY, *(tool.name for tool in tools)}
    assert all(0 <= value <= 1 + 1e-9 for value in decision.scores.values())
    assert choose(scores, n, repeat).sum() == len(decision.calls)


def test_confidence_is_that_something_is_called_so_often_and_just_this():
    scores = np.log([0.2, 0.6, 0.2])
    decision = decide([GET, LIST], scores, np.array([0.3, 0.7]), 1.0)
    assert decision.tools == ("get_order", "get_order")
    assert decision.confidence == pytest.approx(0.8 * 0.7 * 0.75**2)
    assert decision.scores["list_orders"] == pytest.approx(0.8 * (0.3 * 0.25 + 0.7 * (1 - 0.75**2)))


def test_a_reply_is_as_confident_as_it_is_probable():
    decision = decide([GET], np.log([0.9, 0.1]), SURE_OF_ONE, 1.0)
    assert decision.action == "reply"
    assert decision.confidence == pytest.approx(0.9)


def test_nothing_on_offer_leaves_a_reply():
    decision = decide([], np.array([-3.0]), np.array([0.5, 0.5]), 0.1)
    assert (decision.action, decision.confidence) == ("reply", 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["scores", "numbers"])
def test_damaged_numbers_never_look_certain(bad, where):
    scores, n = np.array([0.0, 5.0]), np.array([0.5, 0.5])
    {"scores": scores, "numbers": n}[where][1] = bad
    decision = decide([GET], scores, n, 1.0)
    assert (decision.action, decision.confidence) == ("reply", 0.0)


def test_thousands_of_tools_and_the_most_calls():
    tools = [ToolSpec(f"t{i:04}") for i in range(2000)]
    scores = np.linspace(0, 9, 2001)
    n = np.zeros(MAX_CALLS)
    n[-1] = 1.0
    decision = decide(tools, scores, n, 0.01)
    assert decision.tools == tuple(f"t{i}" for i in range(2000 - MAX_CALLS, 2000))
    assert 0 < decision.confidence < 1e-3


def test_only_a_tool_without_properties_is_filled():
    for tool, arguments in ((LIST, {}), (CANCEL, None), (ToolSpec("bare"), {})):
        (call,) = decide([tool], np.array([-9.0, 9.0]), SURE_OF_ONE, 1.0).calls
        assert (call.name, call.arguments) == (tool.name, arguments)


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ((GET, LIST, GET), "'get_order' is offered twice; offer each name once"),
        ((GET, ToolSpec(REPLY)), "a tool named 'reply' cannot be told from replying; rename it"),
    ],
)
def test_tools_that_cannot_be_told_apart_are_refused(tools, words):
    with pytest.raises(InputError, match=words):
        offered(ask("hello", tools))


def test_names_that_differ_in_case_are_two_tools():
    tools = offered(ask("hello", (ToolSpec("getOrder"), ToolSpec("getorder"))))
    assert [tool.name for tool in tools] == ["getOrder", "getorder"]
    (call,) = decide(tools, np.array([-9.0, 3.0, 4.0]), SURE_OF_ONE, 1.0).calls
    assert call.name == "getorder"
