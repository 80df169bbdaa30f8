"""What an LLM is shown of a router's calls: nothing lost, nothing made up, ids that hold."""

from dataclasses import replace
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.history import HANDED, as_if_called, handed, synthetic
from distill.types import Message, ToolCall

USER = Message("user", "where are orders 1 and 2?")
ONE = ToolCall("get_order", {"order": 1}, "a")
TWO = ToolCall("get_order", {"order": 2}, "b")

words = st.text("xyz ", min_size=1, max_size=6)


@st.composite
def conversations(draw) -> tuple[Message, ...]:
    """Whole conversations: every call has its result, in any order, and ids may come again."""
    messages: list[Message] = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["user", "system", "assistant", "calls"]))
        if kind != "calls":
            messages.append(Message(kind, draw(words)))
            continue
        n = draw(st.integers(1, 3))
        ids = draw(st.permutations([f"id{i}" for i in range(3)]))[:n]
        names = draw(st.lists(st.sampled_from(["get", "put"]), min_size=n, max_size=n))
        calls = tuple(
            ToolCall(name, {"n": draw(st.integers(0, 2))}, key)
            for name, key in zip(names, ids, strict=True)
        )
        messages.append(Message("assistant", draw(st.none() | words), calls))
        order = draw(st.permutations(calls))
        messages += [Message("tool", draw(words), call_id=call.id) for call in order]
    return tuple(messages)


def turns(messages: tuple[Message, ...]) -> list[object]:
    """Who spoke, what was called and what came of each call, in order."""
    return [
        message.calls or (message.role, message.content)
        for message in messages
        if message.role != "tool"
    ]


def results(messages: tuple[Message, ...]) -> list[tuple[ToolCall, str | None]]:
    """Each call with its result, by ids alone; ids hold from one assistant turn to the next."""
    found, by_id = [], {}
    for message in messages:
        if message.calls:
            by_id = {call.id: call for call in message.calls}
        if message.role == "tool":
            found.append((by_id[message.call_id], message.content))
    return found


@given(conversations())
def test_made_calls_keep_roles_calls_and_results(messages: tuple[Message, ...]):
    made = as_if_called(messages)
    # Words followed by a message with calls are one answer, whose words a router would not say.
    kept = [
        message
        for i, message in enumerate(messages)
        if message.role != "assistant" or message.calls or _ends_the_turn(messages[i:])
    ]
    assert turns(made) == turns(tuple(kept))
    assert all(message.content is None for message in made if message.calls)
    assert results(made) == _by_call(messages)


def _ends_the_turn(messages: tuple[Message, ...]) -> bool:
    """Whether no call follows before somebody else speaks."""
    turn = takewhile(lambda message: message.role == "assistant", messages)
    return not any(message.calls for message in turn)


def _by_call(messages: tuple[Message, ...]) -> list[tuple[ToolCall, str | None]]:
    """Each call with its result, in the calls' order."""
    found: list[tuple[ToolCall, str | None]] = []
    for i, message in enumerate(messages):
        for call in message.calls:
            after = messages[i + 1 :]
            found.append((call, next(m.content for m in after if m.call_id == call.id)))
    return found


@given(conversations())
def test_made_calls_have_ids_of_their_own_that_do_not_vary(messages: tuple[Message, ...]):
    made = as_if_called(messages)
    ids = [call.id for message in made for call in message.calls]
    assert None not in ids
    assert len(set(ids)) == len(ids)
    assert as_if_called(messages) == made
    again = as_if_called(made)
    assert again == made
    assert [call.id for message in again for call in message.calls] == ids


@given(conversations())
def test_handing_over_leaves_no_sign_of_a_tool_and_loses_no_result(messages: tuple[Message, ...]):
    text = handed(messages)
    assert not any(message.calls or message.call_id for message in text)
    assert {message.role for message in text} <= {"system", "user", "assistant"}
    for role in ("system", "assistant"):
        before = [m.content for m in messages if m.role == role and m.content]
        assert [m.content for m in text if m.role == role] == before
    over = "".join(m.content or "" for m in text if (m.content or "").startswith(f"{HANDED}\n"))
    expected = "".join(m.content or "" for m in messages if m.role == "tool")
    assert over.replace(f"{HANDED}\n", "").replace("\n", "") == expected
    assert handed(text) == text


def test_a_router_s_calls_read_as_an_assistant_s():
    made = synthetic([USER], [replace(ONE, id=None), TWO], ["shipped", "lost"])
    assert [message.role for message in made] == ["user", "assistant", "tool", "tool"]
    first, second = made[1].calls
    assert first.id is not None
    assert second.id == "b"
    assert [(m.call_id, m.name, m.content) for m in made[2:]] == [
        (first.id, "get_order", "shipped"),
        ("b", "get_order", "lost"),
    ]
    with pytest.raises(ValueError):
        synthetic([USER], [ONE], [])


def test_the_same_call_made_twice_gets_two_ids():
    call = ToolCall("get_order", {"order": 1})
    once = synthetic([USER], [call, call], ["a", "b"])
    twice = synthetic(once, [call], ["c"])
    ids = [call.id for message in twice for call in message.calls]
    assert len(set(ids)) == 3


def test_results_in_another_order_are_sorted_to_their_calls():
    recorded = [
        USER,
        Message("assistant", "Looking.", (ONE, TWO)),
        Message("tool", "second", call_id="b"),
        Message("tool", "first", call_id="a"),
    ]
    assert [message.content for message in as_if_called(recorded)[2:]] == ["first", "second"]


def test_results_without_ids_belong_to_the_calls_in_order():
    calls = (replace(ONE, id=None), replace(TWO, id=None))
    recorded = [USER, Message("assistant", None, calls), Message("tool", "1"), Message("tool", "2")]
    made = as_if_called(recorded)
    assert [message.content for message in made[2:]] == ["1", "2"]
    assert [message.call_id for message in made[2:]] == [call.id for call in made[1].calls]


def test_a_result_that_is_missing_is_not_made_up():
    recorded = [
        USER,
        Message("assistant", None, (ONE, TWO)),
        Message("tool", "second", call_id="b"),
        Message("user", "and?"),
    ]
    made = as_if_called(recorded)
    assert [message.role for message in made] == ["user", "assistant", "tool", "user"]
    assert made[2].call_id == made[1].calls[1].id
    assert as_if_called(made) == made


def test_a_result_that_belongs_to_no_call_is_not_lost():
    alone = Message("tool", "left over", call_id="z")
    recorded = [alone, USER, Message("assistant", None, (ONE,)), Message("tool", "1"), alone]
    made = as_if_called(recorded)
    assert [message.content for message in made if message.role == "tool"] == [
        *("left over", "1", "left over")
    ]
    assert as_if_called(made) == made


def test_calls_of_one_turn_become_one_message():
    """Several assistant messages in a row are one answer, as a decision point is."""
    recorded = [
        USER,
        Message("assistant", "Let me see."),
        Message("assistant", None, (ONE,)),
        Message("assistant", "And the other.", (TWO,)),
        Message("tool", "1", call_id="a"),
        Message("tool", "2", call_id="b"),
        Message("assistant", "Both are lost."),
    ]
    made = as_if_called(recorded)
    assert [message.role for message in made] == ["user", "assistant", "tool", "tool", "assistant"]
    assert made[1].calls == (ONE, TWO)
    assert made[1].content is None


def test_results_with_only_calls_between_them_are_handed_over_at_once():
    chain = [
        USER,
        Message("assistant", None, (ONE,)),
        Message("tool", "1", call_id="a"),
        Message("assistant", None, (TWO,)),
        Message("tool", "2", call_id="b"),
    ]
    assert handed(chain) == (USER, Message("user", f"{HANDED}\n1\n2"))
