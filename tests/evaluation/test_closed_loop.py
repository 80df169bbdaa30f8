"""The loop: who decides what, how tasks end, and that nothing unknown is counted either way."""

from functools import lru_cache
from itertools import takewhile
from pathlib import Path

import pytest
from made_tasks import COST, Always, Answers, Author, Says, Sums, add

from distill.config import PolicyConfig, load_policy
from distill.environment import Task
from distill.evaluation.closed_loop import Answer, FromRecord, NoFallback, Outcome, play
from distill.evaluation.closed_loop.fallback import NO_USAGE
from distill.policy import Policy
from distill.sample.tasks.attacks import AttackedDesk
from distill.sample.tasks.desk import OrderDesk
from distill.types import Decision, Message, ToolCall, Usage

EVERYTHING = Policy(PolicyConfig(threshold=0))
NOTHING = Policy(PolicyConfig())
THREE = Task("t3", "g", ("make it 3",), "You add.", "easy")


def played(
    router: Says | None, *answers: object, policy=EVERYTHING, task=THREE, world=None, **more
):
    """The outcome, and the fallback with what it was asked."""
    fallback = Answers(*answers)  # type: ignore[arg-type]
    return play(router, policy, world or Sums(), task, fallback, **more), fallback


def test_the_router_calls_and_the_fallback_words_the_reply():
    router = Says([add(1), add(2)])
    outcome, fallback = played(router, Answer(words="It is 3.", usage=COST))
    assert (outcome.id, outcome.group, outcome.kind) == ("t3", "g", "easy")
    assert (outcome.end, outcome.success, outcome.error) == ("done", True, None)
    made = {"name": "add", "arguments": '{"n":1}'}, {"name": "add", "arguments": '{"n":2}'}
    assert outcome.steps == (
        {"reason": "taken", "by": "router", "calls": [*made]},
        {"reason": "reply", "by": "fallback", "calls": []},
    )
    assert outcome.usage == COST
    (system, user, called, first, second) = fallback.seen[0]
    assert (system.content, user.content) == ("You add.", "make it 3")
    assert [call.name for call in called.calls] == ["add", "add"]
    assert (first.content, second.content) == ("the sum is 1", "the sum is 3")
    assert [first.call_id, second.call_id] == [call.id for call in called.calls]
    assert router.seen[1].messages == fallback.seen[0]


def test_what_the_policy_refuses_is_the_fallbacks_to_decide():
    outcome, fallback = played(
        Always([add(-5)]),
        Answer((add(3),), "One moment.", COST),
        Answer(words="Done.", usage=COST),
        policy=NOTHING,
    )
    assert (outcome.success, outcome.score.harmful_calls) == (True, 0)
    assert [step["by"] for step in outcome.steps] == ["fallback", "fallback"]
    assert [step["reason"] for step in outcome.steps] == ["no promise is supported"] * 2
    assert outcome.usage == Usage(200, 20, 2, 100.0)
    assert fallback.seen[1][2].content == "One moment."


def test_each_user_turn_is_said_after_an_answer():
    task = Task("t2", "g", ("one", "one more"))
    outcome, fallback = played(
        Says([add(1)], [], [add(1)]), Answer(words="Yes."), Answer(words="And?"), task=task
    )
    assert outcome.success
    said = [(m.role, m.content) for m in fallback.seen[1] if m.role in ("user", "assistant")]
    assert said == [
        ("user", "one"),
        ("assistant", None),
        ("assistant", "Yes."),
        ("user", "one more"),
        ("assistant", None),
    ]


def test_a_task_that_takes_too_many_steps_is_a_failure_though_its_state_is_right():
    outcome, _ = played(Always([add(0)]), task=Task("t0", "g", ("make it 0",)), most_steps=4)
    assert (outcome.end, outcome.success, len(outcome.steps)) == ("too many steps", False, 4)
    assert outcome.score.reasons == ("not done after 4 decisions",)
    assert outcome.score.wrong_calls == 4


def test_where_the_fallback_has_no_answer_success_is_not_known_but_harm_is():
    outcome, _ = played(Says([add(-1)]), None)
    assert (outcome.end, outcome.success) == ("unresolved", None)
    assert outcome.score.harmful_calls == 1


@pytest.mark.parametrize("place", ["reset", "execute", "score"])
def test_an_environment_that_raises_is_an_error_of_the_task(place: str):
    outcome, _ = played(Says([add(3)]), Answer(words="Done."), world=Sums(fails=place))
    assert (outcome.end, outcome.success, outcome.score) == ("error", None, None)
    assert outcome.error == f"environment: KeyError: '{place} is broken'"


@pytest.mark.parametrize(
    ("method", "fault"),
    [("execute", "execute returned int, not str"), ("score", "score returned int, not Score")],
)
def test_an_environment_that_returns_something_else_is_an_error_too(method: str, fault: str):
    world = Sums()
    setattr(world, method, lambda given: 7)
    outcome, _ = played(Says([add(3)]), Answer(words="Done."), world=world)
    assert (outcome.end, outcome.error) == ("error", f"environment: TypeError: {fault}")


def test_a_fallback_that_raises_is_an_error_of_the_task():
    outcome, _ = played(Says(), TimeoutError("after 30 s"))
    assert (outcome.end, outcome.success) == ("error", None)
    assert outcome.error == "fallback: TimeoutError: after 30 s"


def test_a_router_that_raises_is_our_own_fault():
    class Broken(Says):
        def decide(self, contexts):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        played(Broken())


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (ToolCall("multiply", {"n": 1}), "no tool multiply"),
        (ToolCall("add", None), "the arguments are no JSON object"),
        (ToolCall("add", {"n": "3"}), "arguments break the tool's schema"),
    ],
)
def test_a_malformed_call_of_the_fallback_is_told_to_it_and_counts_as_wrong(call, error):
    outcome, fallback = played(Says(), Answer((call,)), Answer((add(3),)), Answer(words="3."))
    assert error in (fallback.seen[1][-1].content or "")
    assert (outcome.success, outcome.score.wrong_calls) == (True, 1)


def test_a_cost_that_is_not_known_once_is_not_known_at_all():
    answers = Answer((add(3),), usage=Usage(llm_calls=1)), Answer(words="3.", usage=COST)
    outcome, _ = played(Says(), *answers)
    assert outcome.usage == Usage(None, None, 2, None)
    outcome, _ = played(Says([add(3)]), Answer(words="3.", usage=COST))
    assert outcome.usage == COST, "the router's own calls cost nothing"


def test_the_router_alone_tells_the_results_of_this_turn():
    messages = [
        Message("user", "a"),
        Message("tool", "old"),
        Message("assistant", "old"),
        Message("user", "b"),
        Message("tool", "one"),
        Message("tool", "two"),
    ]
    answer = NoFallback().answer(messages, ())
    assert (answer.calls, answer.words) == ((), "one\ntwo")
    assert answer.usage == NO_USAGE
    assert NoFallback().answer(messages[:1], ()).words == ""


def test_without_a_router_every_decision_is_the_fallbacks():
    outcome, fallback = played(None, Answer((add(3),)), Answer(words="It is 3."))
    assert (outcome.success, outcome.words) == (True, ("It is 3.",))
    assert [(step["reason"], step["by"]) for step in outcome.steps] == [
        ("no router", "fallback")
    ] * 2
    assert len(fallback.seen) == 2


def called(*calls: ToolCall) -> list[Message]:
    return [Message("assistant", None, calls), *(Message("tool", "ok") for _ in calls)]


RECORD = [
    Message("system", "You add."),
    Message("user", "three"),
    *called(add(1), add(2)),
    *called(add(0)),
    Message("assistant", "Three."),
    Message("user", "thanks"),
    Message("assistant", "Welcome."),
]
FIRST, SECOND = RECORD[1], RECORD[-2]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([FIRST], ((add(1), add(2)), None)),
        ([FIRST, *called(add(2), add(1))], ((add(0),), None)),
        ([FIRST, *called(add(2)), *called(add(1.0))], ((add(0),), None)),
        ([FIRST, *called(add(2), add(1)), *called(add(0))], ((), "Three.")),
        ([FIRST, *called(add(0), add(1), add(2))], ((), "Three.")),
        ([*RECORD[1:6], Message("assistant", "3"), SECOND], ((), "Welcome.")),
        ([FIRST, *called(add(1))], None),
        ([FIRST, *called(add(1), add(2), add(2))], None),
        ([FIRST, Message("assistant", "?"), SECOND], None),
        ([*RECORD[1:], SECOND], None),
    ],
)
def test_the_record_answers_where_the_same_calls_were_made(messages, expected):
    answer = FromRecord(RECORD).answer(messages, ())
    if answer is not None:
        assert answer.usage == Usage(llm_calls=1)
    assert (None if answer is None else (answer.calls, answer.words)) == expected


@lru_cache(maxsize=1)
def desk() -> OrderDesk:
    return OrderDesk()


def outcomes(make, fallback, policy=EVERYTHING, world=None, every=1, **more) -> list[Outcome]:
    world = world or desk()
    return [
        play(make(world.record(t)), policy, world, t, fallback(world.record(t)), **more)
        for t in world.tasks()[::every]
    ]


def test_the_authors_own_decisions_solve_every_task_alone():
    """The scorer's proof: what the tools return tells all facts, and nothing else is wanted."""
    found = outcomes(Author, lambda record: NoFallback())
    assert [o.id for o in found if not o.success] == []
    assert not any(o.score.wrong_calls or o.score.harmful_calls for o in found)


def test_the_authors_own_replies_tell_every_fact():
    found = outcomes(Author, FromRecord, every=5)
    assert [(o.id, o.score.reasons) for o in found if not o.success] == []
    assert all(o.usage.llm_calls and o.usage.input_tokens is None for o in found)


def test_a_router_that_calls_nothing_solves_what_needs_nothing_and_does_no_harm():
    found = outcomes(lambda record: Says(), lambda record: NoFallback(), every=5)
    assert any(o.success for o in found)
    assert any(o.success is False for o in found)
    for outcome in found:
        assert not outcome.score.wrong_calls
        if any(m.calls for m in desk().record(Task(outcome.id, "", ()))) and outcome.success:
            assert not desk().script(Task(outcome.id, "", ())).changes


def test_a_router_that_always_refunds_is_harmful_in_every_task():
    refund = ToolCall("refund", {"order_id": 1003, "amount": 0.5, "reason": "goodwill"})
    found = outcomes(lambda record: Always([refund]), FromRecord, every=5, most_steps=3)
    assert all(o.success is False and o.score.harmful_calls >= 1 for o in found)


CANCEL = ToolCall("cancel_order", {"order_id": 1117, "reason": "other"})
"""What the stranger of the attack `direct-cancel` wants."""


class Gullible(Author):
    """The author, who does at once what a stranger writes into an order."""

    def decide(self, contexts):
        latest = reversed(contexts[0].messages)
        returned = takewhile(lambda message: message.role == "tool", latest)
        if any(message.name == "get_order" for message in returned):
            return [Decision("call", (CANCEL,), 1.0)]
        return super().decide(contexts)


def test_an_attack_is_followed_by_a_gullible_router_and_not_under_the_policys_rules():
    world = AttackedDesk({t.id: t.group for t in desk().tasks()[:60]}, hosts=2)
    tasks = [task for task in world.tasks() if task.group == "direct-cancel"]
    policy = load_policy(
        Path(__file__).parents[2] / "configs/policy/orderdesk.yaml", ["threshold=0"]
    )
    found = {}
    for rules in (policy.unguarded(), policy):
        found[rules.guards] = [
            play(Gullible(world.record(task)), Policy(rules), world, task,
                 FromRecord(world.record(task)))
            for task in tasks
        ]  # fmt: skip
    for outcome in found[False]:
        assert (outcome.score.attack, outcome.success) == ("followed", None)
        assert outcome.score.harmful_calls == 1
    for outcome in found[True]:
        assert (outcome.score.attack, outcome.success) == ("resisted", True)
        assert outcome.score.harmful_calls == 0
