"""What the core types promise: a decision's shape, and which differences do not count."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import Context, Decision, Message, Router, ToolCall

GET, LIST = ToolCall("get"), ToolCall("list")


def test_a_call_needs_calls_and_a_reply_has_none():
    with pytest.raises(ValueError, match="'call' decision with 0 calls"):
        Decision("call")
    with pytest.raises(ValueError, match="'reply' decision with 1 calls"):
        Decision("reply", (GET,))


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_decisions_tools_are_a_multiset(names: list[str]):
    forward = Decision("call", tuple(map(ToolCall, names)))
    backward = Decision("call", tuple(map(ToolCall, reversed(names))))
    assert forward.tools == backward.tools == tuple(sorted(names))
    assert forward.tool_counts.total() == len(names)


def test_how_often_a_tool_is_called_counts():
    assert Decision("call", (GET, GET, LIST)).tools != Decision("call", (GET, LIST, LIST)).tools


def test_no_tool_is_called_reply():
    assert Decision("reply").tools == ("reply",)


def test_the_id_of_a_call_does_not_count():
    assert ToolCall("get", {"n": 1}, "a") == ToolCall("get", {"n": 1}, "b")


def test_a_call_that_is_not_filled_differs_from_one_without_arguments():
    assert ToolCall("get", None) != ToolCall("get", {})


def test_values_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Message("user", "hi").content = "bye"  # type: ignore[misc]


def test_anything_with_its_three_members_is_a_router():
    class Silent:
        kind = "silent"

        def decide(self, contexts: list[Context]) -> list[Decision]:
            return [Decision("reply") for _ in contexts]

        def save(self, path: Path) -> None: ...

    assert isinstance(Silent(), Router)
    assert not isinstance(object(), Router)
