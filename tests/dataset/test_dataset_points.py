"""Decision points: which turns are one, what their context is, and what makes two the same."""

from dataclasses import replace

import pytest
from made_traces import BOOK, SEARCH, calls, many, says, search, trace, user

from distill.dataset.points import (
    TRIES,
    context_key,
    decision_points,
    final_reply,
    label_key,
    skipped_turns,
    step,
)
from distill.types import Context, Decision, Message, ToolCall, ToolSpec


def test_every_turn_is_labelled_with_what_came_before_it() -> None:
    (conversation,) = many(1)
    points = list(decision_points(conversation))
    assert [p.id for p in points] == ["t0000#0", "t0000#1", "t0000#2"]
    assert [p.label.tools for p in points] == [("search",), ("book",), ("reply",)]
    assert [len(p.context.messages) for p in points] == [2, 4, 6]
    assert [step(p.context) for p in points] == [0, 1, 2]
    for point in points:
        assert point.context.messages == conversation.messages[: len(point.context.messages)]
        assert point.context.tools == conversation.tools


def test_consecutive_assistant_messages_are_one_turn() -> None:
    made = trace(
        "t",
        user("two things"),
        says("Let me look."),
        calls(search("a")),
        calls(search("b")),
        Message("tool", "ok"),
        says("Here."),
    )
    first, last = decision_points(made)
    assert first.label == Decision("call", (search("a"), search("b")))
    assert first.context.messages == (user("two things"),)
    assert last.label == Decision("reply")
    assert len(last.context.messages) == 5
    assert step(last.context) == 1


def test_turns_that_decide_nothing_are_counted_not_yielded() -> None:
    made = trace(
        "t",
        Message("system", "s"),
        says("Hello, how can I help?"),
        user("hi"),
        Message("assistant", "  "),
        user("hello?"),
        Message("assistant"),
        Message("tool", "stray"),
        says("Yes."),
    )
    (only,) = decision_points(made)
    assert (only.id, len(only.context.messages)) == ("t#0", 7)
    assert skipped_turns(made) == {"no user message yet": 1, "empty assistant turn": 2}


def test_a_router_that_tried_has_replied_without_words() -> None:
    nothing = Message("assistant", "")
    asked = (user("hi"), nothing, user("a, then"), calls(search("a")), Message("tool", "ok"))
    made = replace(trace("t", *asked, nothing), source=TRIES)
    points = list(decision_points(made))
    assert [point.label.tools for point in points] == [("reply",), ("search",), ("reply",)]
    assert not skipped_turns(made)
    assert final_reply(made) is None


def test_without_a_user_there_is_no_decision() -> None:
    made = trace("t", Message("system", "work"), calls(search("a")), Message("tool", "x"))
    assert list(decision_points(made)) == []
    assert skipped_turns(made) == {"no user message yet": 1}


def test_only_recorded_answers_are_decisions() -> None:
    """A demonstration in the prompt is context; a prefilled beginning does not decide."""
    made = trace(
        "t",
        user("on"),
        calls(search("demonstration", "d")),
        Message("tool", "ok", call_id="d"),
        user("off"),
        calls(search("prefilled", "p")),
        calls(search("a", "c")),
        Message("tool", "ok", call_id="c"),
        says("Done."),
    )
    points = list(decision_points(replace(made, decisions=(5, 7))))
    assert [(p.id, len(p.context.messages)) for p in points] == [("t#0", 4), ("t#1", 7)]
    assert points[0].label == Decision("call", (search("a"),))
    assert points[0].context.messages == made.messages[:4]
    assert [step(p.context) for p in points] == [1, 2]
    assert skipped_turns(replace(made, decisions=(5, 7))) == {"not a recorded decision": 1}
    assert list(decision_points(replace(made, decisions=()))) == []
    assert len(list(decision_points(made))) == 3


ASKED = (
    Message("system", "It is noon."),
    user("find tea"),
    calls(search("tea", "c1")),
    Message("tool", "tea", call_id="c1", name="search"),
)


@pytest.mark.parametrize(
    "same",
    [
        Context((Message("system", "It is one."), *ASKED[1:]), (SEARCH, BOOK)),
        Context(ASKED[1:], (BOOK, SEARCH)),
        Context(ASKED, (SEARCH, ToolSpec("book", "Other words."))),
        Context(
            (*ASKED[:2], calls(search("tea", "c9")), Message("tool", "tea", call_id="c9")),
            (SEARCH, BOOK),
        ),
    ],
    ids=["clock", "order of tools", "wording of tools", "call ids"],
)
def test_contexts_that_ask_the_same_have_the_same_key(same: Context) -> None:
    assert context_key(same) == context_key(Context(ASKED, (SEARCH, BOOK)))


@pytest.mark.parametrize(
    "other",
    [
        Context((user("find coffee"), *ASKED[2:]), (SEARCH, BOOK)),
        Context(ASKED[:3], (SEARCH, BOOK)),
        Context(ASKED, (SEARCH,)),
        Context((*ASKED[:2], calls(search("Tea")), ASKED[3]), (SEARCH, BOOK)),
        Context((user("find tea"), says("find tea")), (SEARCH, BOOK)),
    ],
    ids=["request", "length", "tools", "arguments", "roles"],
)
def test_contexts_that_differ_have_different_keys(other: Context) -> None:
    assert context_key(other) != context_key(Context(ASKED, (SEARCH, BOOK)))


def test_labels_compare_on_calls_in_any_order() -> None:
    a, b = search("a", "1"), ToolCall("book", {"seats": 2.0})
    assert label_key(Decision("call", (a, b))) == label_key(
        Decision("call", (ToolCall("book", {"seats": 2}), search("a", "7")))
    )
    assert label_key(Decision("call", (a,))) != label_key(Decision("call", (a, a)))
    assert label_key(Decision("reply")) != label_key(Decision("call", (a,)))


def test_the_final_reply_is_all_that_the_last_turn_said() -> None:
    asked = (user("two things"), calls(search("a")), Message("tool", "ok"))
    made = trace("t", *asked, says("Here."), says("And there."), user("thanks"))
    reply = final_reply(made)
    assert reply == (Context(asked, made.tools), "Here.\nAnd there.")


def test_a_trace_that_ends_with_a_call_or_says_nothing_has_no_final_reply() -> None:
    asked = (user("two things"), says("Sure."))
    assert final_reply(trace("t", *asked, user("go"), calls(search("a")))) is None
    assert final_reply(trace("t", user("hello"))) is None
    # An answer that nobody recorded as the teacher's own is only context.
    recorded = replace(trace("t", *asked, user("and?"), says("Done.")), decisions=(1,))
    assert final_reply(recorded) == (Context(asked[:1], recorded.tools), "Sure.")
