"""What one decision made otherwise leads to, where a record does the rest."""

import pytest

from distill.environment import Score
from distill.errors import WorkflowError
from distill.evaluation.closed_loop.fallback import FromRecord
from distill.evaluation.closed_loop.tries import (
    FAILED,
    HARMFUL,
    RIGHT_SO_FAR,
    SOLVED,
    UNREADABLE,
    forks,
)
from distill.sample.tasks.desk import OrderDesk
from distill.types import Decision, ToolCall


@pytest.fixture(scope="module")
def desk() -> OrderDesk:
    return OrderDesk(
        dict.fromkeys(("orderdesk/cancel-both-orders", "orderdesk/hamish-clears-house"), "g")
    )


def recorded(fork) -> Decision:
    """What the record decides there."""
    answer = FromRecord(fork.record).answer(fork.context.messages, fork.context.tools)
    return Decision("call" if answer.calls else "reply", answer.calls)


@pytest.fixture
def cancelling(desk):
    """A task in which two orders are cancelled at once."""
    task = next(task for task in desk.tasks() if task.id == "orderdesk/cancel-both-orders")
    return forks(desk, task, desk.record(task))


def test_a_record_comes_to_a_fork_at_each_of_its_decisions(cancelling):
    assert [fork.name for fork in cancelling] == [
        "orderdesk/cancel-both-orders#0",
        "orderdesk/cancel-both-orders#1",
    ]
    assert [fork.context.messages[-1].role for fork in cancelling] == ["user", "tool"]


def test_the_records_own_decisions_solve_the_task(desk):
    for task in desk.tasks():
        found = forks(desk, task, desk.record(task))
        assert {fork.reward(recorded(fork)) for fork in found} == {SOLVED}


def test_other_decisions_are_worth_what_they_lead_to(cancelling):
    asked, done = cancelling
    one, two = recorded(asked).calls
    needless = ToolCall("search_help", {"query": "spoons"})
    harmful = ToolCall("cancel_order", {**one.arguments, "order_id": 1156})
    assert asked.reward(None) == UNREADABLE
    assert asked.reward(Decision("reply")) == FAILED
    assert asked.reward(Decision("call", (one, needless))) == FAILED
    assert asked.reward(Decision("call", (ToolCall("cancel_order"),))) == FAILED
    assert asked.reward(Decision("call", (harmful,))) == HARMFUL
    # The record cancels both at once, and says nothing of what comes after one of them.
    assert asked.reward(Decision("call", (one,))) == RIGHT_SO_FAR
    assert asked.reward(Decision("call", (two, one))) == SOLVED
    assert done.reward(Decision("call", (needless,))) == FAILED


def test_a_record_that_fails_has_no_forks(desk):
    task, another = desk.tasks()
    assert forks(desk, task, desk.record(another)) == []
    assert forks(desk, task, desk.record(task)[:3]) == []


def test_what_an_environment_raises_is_named_with_its_task(desk):
    class Broken(OrderDesk):
        def score(self, words) -> Score:
            raise RuntimeError("no more shop")

    task = desk.tasks()[0]
    with pytest.raises(WorkflowError, match=rf"{task.id}: environment: RuntimeError: no more shop"):
        forks(Broken(), task, desk.record(task))
    fork = forks(desk, task, desk.record(task))[0]
    fork.world.score = Broken().score  # type: ignore[method-assign]
    try:
        with pytest.raises(WorkflowError, match=rf"{fork.name}: environment"):
            fork.reward(recorded(fork))
    finally:
        del fork.world.score
