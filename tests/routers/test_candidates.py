"""How the scores of offered tools become decisions: the most probable ones, in any order."""

from itertools import combinations_with_replacement
from math import exp, inf, lgamma, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_shop import CANCEL, GET, LIST, TOOLS, ask

from distill.errors import InputError
from distill.routers.candidates import MAX_CALLS, Beliefs, decide, offered
from distill.types import REPLY, ToolSpec

logits = st.floats(-6, 6)
priors = st.lists(st.floats(-4, 4), min_size=1, max_size=4)
prices = st.floats(-5, 0)


def beliefs(scores, numbers=(0.0,), again=0.0) -> Beliefs:
    """Of one context; the reply's score comes first."""
    row = torch.tensor([list(scores)], dtype=torch.double)
    prior = torch.tensor(list(numbers), dtype=torch.double)
    price = torch.tensor(again, dtype=torch.double)
    return Beliefs(row, torch.ones_like(row, dtype=torch.bool), prior, price)


def every_decision(tools: int, most: int) -> list[list[int]]:
    """All counts of calls, the reply first."""
    sizes = range(most + 1 if tools else 1)
    chosen = [c for n in sizes for c in combinations_with_replacement(range(tools), n)]
    return [[c.count(tool) for tool in range(tools)] for c in chosen]


def log_weight(scores, numbers, again, counts) -> float:
    """The module's formula, less log Z."""
    if not sum(counts):
        return scores[0]
    each = (
        k * s + max(k - 1, 0) * again - lgamma(k + 1)
        for s, k in zip(scores[1:], counts, strict=True)
    )
    return numbers[sum(counts) - 1] + sum(each)


few = st.lists(logits, min_size=1, max_size=5)


@given(few, priors, prices)
def test_all_decisions_share_out_all_probability(scores, numbers, again):
    found = beliefs(scores, numbers, again)
    every = every_decision(len(scores) - 1, len(numbers))
    weights = [log_weight(scores, numbers, again, counts) for counts in every]
    total = log(sum(map(exp, weights)))
    assert float(found.log_total()) == pytest.approx(total)
    for counts, weight in zip(every, weights, strict=True):
        loss = float(found.losses(torch.tensor([counts]).reshape(1, -1)))
        assert loss == pytest.approx(total - weight, abs=1e-9)


@given(few, priors, prices)
def test_no_other_decision_is_more_probable(scores, numbers, again):
    (counts,) = beliefs(scores, numbers, again).most_probable().tolist()
    every = every_decision(len(scores) - 1, len(numbers))
    best = max(log_weight(scores, numbers, again, other) for other in every)
    assert counts in every
    assert log_weight(scores, numbers, again, counts) == pytest.approx(best)


@given(few, priors, prices)
def test_confidence_and_scores_are_the_distributions_own(scores, numbers, again):
    tools = [ToolSpec(f"t{i}") for i in range(len(scores) - 1)]
    decision = decide(tools, beliefs(scores, numbers, again))
    every = every_decision(len(tools), len(numbers))
    weights = [exp(log_weight(scores, numbers, again, counts)) for counts in every]
    chances = [weight / sum(weights) for weight in weights]
    taken = [sum(call.name == tool.name for call in decision.calls) for tool in tools]
    assert decision.confidence == pytest.approx(chances[every.index(taken)])
    assert decision.scores.keys() == {REPLY, *(tool.name for tool in tools)}
    assert decision.scores[REPLY] == pytest.approx(chances[0])
    for i, tool in enumerate(tools):
        expected = sum(chance * counts[i] for chance, counts in zip(chances, every, strict=True))
        assert decision.scores[tool.name] == pytest.approx(min(1, expected), abs=1e-9)


@given(st.lists(st.lists(logits, min_size=1, max_size=5), min_size=2, max_size=3), priors, prices)
def test_a_row_is_as_it_is_alone(rows, numbers, again):
    """A loss, and so a step of training, does not depend on the rows beside it."""
    width = max(map(len, rows))
    padded = [row + [inf] * (width - len(row)) for row in rows]
    scores = torch.tensor(padded, dtype=torch.double)
    alone = [beliefs(row, numbers, again) for row in rows]
    together = Beliefs(scores, scores.isfinite(), alone[0].numbers, alone[0].again)
    counts = together.most_probable()
    losses = together.losses(counts)
    assert losses.isfinite().all()
    for i, one in enumerate(alone):
        own = one.most_probable()
        assert counts[i].tolist() == own[0].tolist() + [0] * (width - len(rows[i]))
        torch.testing.assert_close(losses[i : i + 1], one.losses(own))


def test_with_one_call_at_most_it_is_the_softmax():
    found = beliefs([0.5, 1.0, 2.0])
    expected = -torch.tensor([0.5, 1.0, 2.0], dtype=torch.double).log_softmax(0)
    losses = found.losses(torch.tensor([[0, 0]])), found.losses(torch.tensor([[0, 1]]))
    torch.testing.assert_close(torch.cat(losses), expected[[0, 2]])


def test_with_a_flat_prior_each_tool_is_wanted_by_itself():
    """Then no tool's chance depends on another's score."""
    for other in (-3.0, 3.0):
        decision = decide([GET, LIST], beliefs([0.0, 1.0, other], [0.0, 0.0], -40.0))
        assert decision.scores["get_order"] == pytest.approx(1 / (1 + exp(-1.0)))


def test_where_calling_again_is_dear_five_calls_are_five_tools():
    numbers = [-99.0] * 4 + [9.0]
    scores = [0.0, 3.0, 2.5, 2.0, 1.5, 1.0]
    assert beliefs(scores, numbers, -9.0).most_probable().tolist() == [[1] * 5]
    assert beliefs(scores, numbers, 0.0).most_probable().tolist() == [[3, 1, 1, 0, 0]]


def test_a_label_of_more_calls_than_are_known_teaches_nothing():
    scores = torch.tensor([[0.0, 1.0]], dtype=torch.double, requires_grad=True)
    found = Beliefs(scores, scores > -1, beliefs([0.0]).numbers, beliefs([0.0]).again)
    loss = found.losses(torch.tensor([[2]]))
    assert loss.tolist() == [0.0]
    loss.sum().backward()
    assert scores.grad.tolist() == [[0.0, 0.0]]


@given(st.permutations(TOOLS), st.lists(logits, min_size=4, max_size=4), priors, prices)
def test_the_order_of_offered_tools_decides_nothing(order, values, numbers, again):
    by_name = dict(zip((REPLY, *sorted(tool.name for tool in TOOLS)), values, strict=True))

    def decision(tools):
        found = offered(ask("hello", tuple(tools)))
        scores = [by_name[REPLY], *(by_name[tool.name] for tool in found)]
        return decide(found, beliefs(scores, numbers, again))

    assert decision(order) == decision(TOOLS)


def test_nothing_on_offer_leaves_a_reply():
    decision = decide([], beliefs([-3.0], [0.5, 0.5]))
    assert (decision.action, decision.confidence) == ("reply", 1.0)


@pytest.mark.parametrize("bad", [float("nan"), inf])
@pytest.mark.parametrize("where", ["scores", "numbers", "again"])
def test_damaged_numbers_never_look_certain(bad, where):
    values = {"scores": [0.0, 5.0], "numbers": [0.5, 0.5], "again": -1.0}
    values[where] = bad if where == "again" else [0.5, bad]
    decision = decide([GET], beliefs(**values))
    assert (decision.action, decision.confidence) == ("reply", 0.0)


def test_thousands_of_tools_and_the_most_calls():
    tools = [ToolSpec(f"t{i:04}") for i in range(2000)]
    scores = torch.linspace(0, 9, 2001).tolist()
    numbers = [-1e3] * (MAX_CALLS - 1) + [0.0]
    decision = decide(tools, beliefs(scores, numbers, -9.0))
    assert decision.tools == tuple(f"t{i}" for i in range(2000 - MAX_CALLS, 2000))
    assert 0 < decision.confidence < 1e-3


def test_only_a_tool_without_properties_is_filled():
    for tool, arguments in ((LIST, {}), (CANCEL, None), (ToolSpec("bare"), {})):
        (call,) = decide([tool], beliefs([-9.0, 9.0])).calls
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
    (call,) = decide(tools, beliefs([-9.0, 3.0, 4.0])).calls
    assert call.name == "getorder"
