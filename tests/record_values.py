"""Records of a gateway: some made by hypothesis, some by hand."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from chat_values import calls, names, texts, values
from hypothesis import strategies as st

from distill.store import Record
from distill.types import Decision, ToolCall, Usage

NOON = datetime(2030, 5, 1, 12, tzinfo=UTC)
TOOL = {"type": "function", "function": {"name": "switch", "description": "", "parameters": {}}}


def ask(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"model": "large", "messages": list(messages), "tools": [TOOL]}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def switches(call_id: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": "switch", "arguments": orjson.dumps(arguments).decode()}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def result(call_id: str, content: str = "done") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def answer(message: dict[str, Any], **keys: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return {"id": "c", "model": "large-1", "choices": [choice], "usage": usage} | keys


def record(number: int = 0, **changes: Any) -> Record:
    """An answer of the upstream at noon and `number` minutes."""
    made = Record(
        id=f"{number:032x}",
        at=NOON + timedelta(minutes=number),
        client="shop",
        session="s",
        mode="shadow",
        decided_by="upstream",
        reason="taken",
        decision=Decision("call", (ToolCall("switch", {"on": True}),), 0.9, {"switch": 0.9}),
        request=ask(user(f"On, {number}.")),
        response=answer(switches(f"call-{number}", on=True)),
        status=200,
        agreed=True,
        router_ms=2.0,
        upstream_ms=500.0,
        usage=Usage(100, 10),
        error=None,
    )
    return replace(made, **changes)


_objects = st.dictionaries(texts, values, max_size=3)
_ms = st.none() | st.floats(0, 1e9, allow_nan=False)
_counts = st.none() | st.integers(0, 2**53)
_usages = st.builds(Usage, _counts, _counts, _counts, _ms, _counts)
_confidences = st.none() | st.floats(0, 1)
_scores = st.dictionaries(names, st.floats(0, 1), max_size=3)
_decisions = st.builds(
    Decision,
    st.just("call"),
    st.lists(calls, min_size=1, max_size=3).map(tuple),
    _confidences,
    _scores,
    st.none() | names,
) | st.builds(
    Decision,
    st.just("reply"),
    st.just(()),
    _confidences,
    _scores,
    st.none() | names,
    st.none() | texts,
    st.none() | _usages,
)
# NUL and halves of characters are replaced in these; see test_what_no_database_holds_is_replaced.
_plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
records = st.builds(
    Record,
    id=st.uuids().map(lambda uuid: uuid.hex),
    at=st.datetimes(
        min_value=datetime(1970, 1, 1),
        timezones=st.just(UTC) | st.timezones(),
    ),
    client=st.none() | _plain,
    session=_plain,
    mode=st.sampled_from(["off", "shadow", "canary", "on"]),
    decided_by=st.sampled_from(["local", "upstream"]),
    reason=_plain,
    decision=st.none() | _decisions,
    request=st.none() | _objects | st.just(ask(user("On."))),
    response=st.none() | _objects | st.just(answer(switches("c", on=True))),
    status=st.integers(100, 599),
    agreed=st.none() | st.booleans(),
    router_ms=_ms,
    upstream_ms=_ms,
    usage=_usages,
    error=st.none() | _plain,
    accepted=st.none() | st.booleans(),
)
