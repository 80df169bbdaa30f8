"""The API's JSON: whatever comes is read or refused, and what goes out reads back the same."""

from typing import Any

import orjson
import pytest
from chat_values import filled_calls
from hypothesis import given
from hypothesis import strategies as st
from wires import body

from distill.chat import parse_message
from distill.config import LimitsConfig
from distill.serving import wire
from distill.serving.wire import LimitError, Obstacle, Request
from distill.traces.stream import assembled
from distill.types import Context, Decision, Message

LIMITS = LimitsConfig()

leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
keys = st.sampled_from(
    [*body(), "stream", "n", "role", "content", "type", "function", "name", "tool_calls"]
)
json = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(keys | st.text(), inner, max_size=6)
    ),
    max_leaves=30,
)


def read(content: bytes, session: str | None = None, client: str = "anybody") -> Request:
    return wire.read_request(content, LIMITS, session, client)


@given(json | st.dictionaries(keys, json))
def test_any_json_is_read_or_has_an_obstacle(value):
    request = read(orjson.dumps(value))
    assert (request.context is None) == (request.obstacle is not None)
    assert request.body == (orjson.loads(orjson.dumps(value)) if isinstance(value, dict) else None)
    assert isinstance(request.model, str)
    assert isinstance(request.stream, bool)


@given(st.binary())
def test_any_bytes_are_read_or_have_an_obstacle(content):
    assert isinstance(read(content), Request)


@given(st.lists(filled_calls, min_size=1, max_size=3), st.booleans())
def test_a_stream_holds_what_the_whole_answer_does(calls, with_usage):
    value = body(stream=True, stream_options={"include_usage": with_usage})
    request = read(orjson.dumps(value))
    assert request.context is not None
    made = wire.made_calls(request.context, Decision("call", tuple(calls)))
    whole = wire.completion(request, made, "x", 1)
    parts = b"".join(wire.chunks(request, made, "x", 1)).split(b"\n\n")
    assert parts[-2:] == [b"data: [DONE]", b""]
    streamed = [orjson.loads(part.removeprefix(b"data: ")) for part in parts[:-2]]
    a = parse_message(assembled(streamed)["choices"][0]["message"])
    b = parse_message(whole["choices"][0]["message"])
    assert a == b == Message("assistant", None, tuple(calls))
    assert [call.id for call in a.calls] == [call.id for call in b.calls]
    assert len({call.id for call in a.calls}) == len(calls)
    assert ("usage" in streamed[0]) == with_usage
    assert any(chunk.get("usage") for chunk in streamed) == with_usage


@given(st.integers(65, 200))
def test_what_nests_too_deep_is_refused_at_once(depth):
    with pytest.raises(LimitError):
        read(b'{"a":' + b"[" * depth + b"]" * depth + b"}")


def test_a_number_that_json_libraries_would_round_is_left_to_the_llm():
    """It would reach a tool as another number."""
    content = orjson.dumps(body("Order 7")).replace(
        b'"large"', b'"large","seed":123456789012345678901'
    )
    assert read(content).obstacle == Obstacle.UNREADABLE


def session(messages: list[dict[str, Any]], name: str | None = None, client: str = "a") -> str:
    return read(orjson.dumps(body() | {"messages": messages}), name, client).session


def test_sessions_are_told_by_their_opening_or_their_name():
    opening = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    later = [*opening, {"role": "assistant", "content": "a"}, {"role": "user", "content": "v"}]
    other = [opening[0], {"role": "user", "content": "w"}]
    assert session(opening) == session(later)
    assert session(opening) != session(other)
    assert session(opening) != session(opening, client="b")
    assert session(opening, "n") == session(other, "n")
    assert session(opening, "n") != session(opening, "n", client="b")


def test_a_request_without_tools_keeps_its_history():
    value = body() | {"messages": [{"role": "user", "content": "u"}], "tool_choice": "auto"}
    request = read(orjson.dumps(value))
    assert orjson.loads(wire.without_tools(request)) == {
        "model": "large",
        "messages": value["messages"],
    }


def test_the_tool_that_was_offered_is_what_the_router_reads():
    context = read(orjson.dumps(body("Where is order 7?"))).context
    assert isinstance(context, Context)
    assert context.messages == (Message("user", "Where is order 7?"),)
    assert [tool.name for tool in context.tools] == ["get_order", "cancel_order"]
