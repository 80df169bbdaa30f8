"""How class probabilities become decisions: only what is on offer can win."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_shop import CANCEL, GET, LIST, ask

from distill.routers.labels import LabelSpace
from distill.types import REPLY, Decision, ToolCall, ToolSpec

SPECS = {tool.name: tool for tool in (GET, CANCEL, LIST)}
names = st.sampled_from(sorted(SPECS))
label = st.lists(names, max_size=3).map(
    lambda chosen: Decision("call" if chosen else "reply", tuple(ToolCall(n) for n in chosen))
)
spaces = st.lists(label, min_size=1, max_size=8).map(LabelSpace.of)


@st.composite
def decided(draw):
    """A label space, a probability row, the offered tools, and the decision made of them."""
    labels = draw(spaces)
    weights = draw(st.lists(st.floats(0.0, 1.0), min_size=len(labels), max_size=len(labels)))
    row = np.array(weights) / sum(weights) if sum(weights) > 0 else np.full(len(labels), 1.0)
    offered = draw(st.sets(names))
    context = ask("hello", tuple(SPECS[name] for name in sorted(offered)))
    (decision,) = labels.decide(row[None], [context])
    return labels, row, offered, decision


def allowed(labels: LabelSpace, offered: set[str]) -> list[int]:
    return [i for i, c in enumerate(labels.classes) if c == (REPLY,) or set(c) <= offered]


@given(decided())
def test_only_offered_tools_win(case):
    _, _, offered, decision = case
    assert {call.name for call in decision.calls} <= offered


@given(decided())
def test_confidence_is_the_share_among_the_offered_classes(case):
    labels, row, offered, decision = case
    open_to = allowed(labels, offered)
    total = row[open_to].sum()
    if total == 0:
        assert decision == Decision("reply", confidence=0.0)
        return
    best = labels.index(decision)
    assert best in open_to
    assert row[best] == max(row[open_to])
    assert decision.confidence == pytest.approx(row[best] / total)


@given(decided())
def test_a_tools_score_is_the_mass_of_all_classes_that_call_it(case):
    labels, row, offered, decision = case
    open_to = allowed(labels, offered)
    total = row[open_to].sum()
    if total == 0:
        assert decision.scores == {}
        return
    for name in {n for c in labels.classes for n in c}:
        mass = sum(row[i] for i in open_to if name in labels.classes[i])
        assert decision.scores[name] == pytest.approx(mass / total)


@given(st.lists(label, min_size=1), label)
def test_every_label_finds_its_class_and_no_other_multiset_does(known, other):
    labels = LabelSpace.of(known)
    assert all(labels.classes[labels.index(one)] == one.tools for one in known)
    seen = {one.tools for one in known}
    assert (labels.index(other) is None) == (other.tools not in seen)


def test_no_class_on_offer_is_a_reply_without_confidence():
    labels = LabelSpace.of([Decision("call", (ToolCall("get_order"),))])
    (decision,) = labels.decide(np.array([[1.0]]), [ask("where is it", (CANCEL,))])
    assert decision == Decision("reply", confidence=0.0)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_damaged_weights_never_seem_certain(broken: float):
    labels = LabelSpace.of([Decision("reply"), Decision("call", (ToolCall("get_order"),))])
    (decision,) = labels.decide(np.full((1, 2), broken), [ask("hello")])
    assert decision == Decision("reply", confidence=0.0)


def test_parallel_calls_of_one_tool_are_a_class_of_their_own():
    twice = Decision("call", (ToolCall("get_order"), ToolCall("get_order")))
    once = Decision("call", (ToolCall("get_order"),))
    labels = LabelSpace.of([once, twice])
    rows = np.array([[0.1, 0.9]])
    (decision,) = labels.decide(rows[:, [labels.index(once), labels.index(twice)]], [ask("both")])
    assert decision.tools == ("get_order", "get_order")
    assert decision.scores == {"get_order": pytest.approx(1.0)}


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (LIST, {}),
        (ToolSpec("list_orders"), {}),
        (GET, None),
        (CANCEL, None),
    ],
)
def test_arguments_are_filled_only_where_there_are_none(tool, arguments):
    labels = LabelSpace.of([Decision("call", (ToolCall(tool.name),))])
    (decision,) = labels.decide(np.array([[1.0]]), [ask("go", (tool,))])
    assert decision.calls[0].arguments == arguments
