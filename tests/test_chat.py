"""The chat JSON: what is written is read back, and a fault names its place."""

import random
from typing import Any

import chat_values
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import chat
from distill.types import Decision, Message, Outcome, ToolCall, ToolSpec, Trace, Usage


def through_bytes(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


@given(chat_values.messages)
def test_a_message_is_read_back_as_it_was(message: Message):
    again = chat.parse_message(through_bytes(chat.message_json(message)))
    assert again == message
    assert [call.id for call in again.calls] == [call.id for call in message.calls]


@given(chat_values.traces)
def test_a_trace_is_read_back_as_it_was(trace: Trace):
    value = through_bytes(chat.trace_json(trace))
    again = Trace(
        value["id"],
        value["group"],
        value["model"],
        value["source"],
        chat.parse_tools(value["tools"]),
        chat.parse_messages(value["messages"]),
        chat.parse_outcome(value["outcome"]),
        chat.parse_usage(value["usage"]),
        chat.parse_decisions(value.get("decisions"), trace.messages),
    )
    assert again == trace


@given(
    st.lists(chat_values.calls, max_size=3).map(tuple),
    st.none() | st.floats(0, 1),
    st.dictionaries(chat_values.names, st.floats(0, 1), max_size=3),
)
def test_a_decision_is_read_back_as_it_was(calls, confidence, scores):
    decision = Decision("call" if calls else "reply", calls, confidence, scores)
    assert chat.parse_decision(through_bytes(chat.decision_json(decision))) == decision


def test_legacy_function_calls_and_results_are_read():
    said = chat.parse_message(
        {"role": "assistant", "function_call": {"name": "get", "arguments": '{"n": 1}'}}
    )
    assert said.calls == (ToolCall("get", {"n": 1}),)
    result = chat.parse_message({"role": "function", "name": "get", "content": "found"})
    assert (result.role, result.name, result.content) == ("tool", "get", "found")


def test_developers_speak_as_the_system():
    assert chat.parse_message({"role": "developer", "content": "Be brief."}).role == "system"


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]
    assert chat.parse_message({"role": "user", "content": parts}).content == "one\ntwo"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("as it is", "as it is"),
        ({"status": "shipped"}, '{"status":"shipped"}'),
        ([1, 2], "[1,2]"),
        (0, "0"),
        (False, "false"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
    ],
)
def test_a_tools_result_becomes_text_whatever_was_logged(content: Any, text: str):
    assert chat.parse_message({"role": "tool", "content": content}).content == text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"n": 1}', {"n": 1}),
        ({"n": 1}, {"n": 1}),
        ("{}", {}),
        ("", {}),
        (" ", {}),
        (None, None),
    ],
)
def test_arguments_come_as_text_or_object_and_none_means_not_filled(arguments: Any, expected: Any):
    call = chat.parse_call({"function": {"name": "get", "arguments": arguments}})
    assert call.arguments == expected


def test_only_what_an_assistant_says_has_calls():
    spoof = [{"function": {"name": "get", "arguments": "{}"}}]
    assert chat.parse_message({"role": "user", "content": "x", "tool_calls": spoof}).calls == ()


USER = {"role": "user", "content": "hello"}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, **fields}


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        (None, "messages: missing or empty"),
        ([], "messages: missing or empty"),
        ("hello", "messages: missing or empty"),
        ([USER, "hello"], "messages[1]: not an object"),
        ([USER, {"content": "x"}], "messages[1].role: unknown role None"),
        ([{"role": "robot", "content": "x"}], "messages[0].role: unknown role 'robot'"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role: unknown role ['user']"),
        ([{"role": "user"}], "messages[0]: no content"),
        ([{"role": "user", "content": 7}], "messages[0].content: neither text nor a list"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "messages[0].content[0]: 'image_url' parts are not supported",
        ),
        (
            [{"role": "user", "content": [{"text": "a"}, "b"]}],
            "messages[0].content[1]: 'str' parts are not supported",
        ),
        ([assistant(tool_calls={"name": "x"})], "messages[0].tool_calls: not a list"),
        ([assistant(tool_calls=["get"])], "messages[0].tool_calls[0]: not a function call"),
        (
            [assistant(tool_calls=[{"name": "a"}, {"function": {"name": 7}}])],
            "messages[0].tool_calls[1]: not a function call with a name",
        ),
        (
            [USER, assistant(tool_calls=[{"name": "a", "arguments": "{oops"}])],
            "messages[1].tool_calls[0].arguments: not JSON",
        ),
        (
            [assistant(tool_calls=[{"name": "a", "arguments": "[1]"}])],
            "messages[0].tool_calls[0].arguments: not a JSON object",
        ),
        (
            [assistant(tool_calls=[{"name": "a", "arguments": '{"n": NaN}'}])],
            "messages[0].tool_calls[0].arguments: not JSON",
        ),
        (
            [assistant(tool_calls=[{"name": "a", "arguments": '{"n": 18446744073709551616}'}])],
            "messages[0].tool_calls[0].arguments: a whole number beyond 64 bits",
        ),
        ([assistant(function_call={"arguments": "{}"})], "messages[0].tool_calls[0]: not a func"),
    ],
)
def test_a_bad_message_is_refused_with_its_place(messages: Any, fault: str):
    with pytest.raises(ValueError) as caught:
        chat.parse_messages(messages)
    assert str(caught.value).startswith(fault)


@pytest.mark.parametrize(
    ("tools", "fault"),
    [
        ({"name": "get"}, "tools: not a list"),
        ([{"name": "get"}, "list"], "tools[1]: not a function with a name"),
        ([{"type": "function", "function": {}}], "tools[0]: not a function with a name"),
        ([{"name": ""}], "tools[0]: not a function with a name"),
        ([{"name": "get", "parameters": "n"}], "tools[0].parameters: not a JSON Schema object"),
        ([{"name": "get"}, {"name": "get"}], "tools: 'get' is offered twice"),
    ],
)
def test_a_bad_tool_list_is_refused_with_its_place(tools: Any, fault: str):
    with pytest.raises(ValueError) as caught:
        chat.parse_tools(tools)
    assert str(caught.value) == fault


def test_tools_may_stand_bare_as_legacy_functions_do():
    assert chat.parse_tools([{"name": "get", "description": None}]) == (ToolSpec("get"),)
    assert chat.parse_tools(None) == ()


def test_with_a_listener_what_cannot_be_read_costs_itself_alone():
    cut = {"id": "c", "function": {"name": "get", "arguments": '{"n": '}}
    parts = [{"type": "text", "text": "What is"}, {"type": "image_url"}, {"text": "this?"}]
    told: list[str] = []
    asked, called = chat.parse_messages(
        [{"role": "user", "content": parts}, assistant(tool_calls=[cut])], told.append
    )
    assert asked.content == "What is\nthis?"
    assert called.calls == (ToolCall("get", None),)
    assert told == [
        "messages[0].content[1]: 'image_url' parts are not supported, left out",
        "messages[1].tool_calls[0].arguments: not JSON, read as not filled",
    ]


def test_usage_has_our_names_or_the_apis():
    assert chat.parse_usage({"prompt_tokens": 3, "completion_tokens": 4}) == Usage(3, 4)
    assert chat.parse_usage({"latency_ms": 7.5}) == Usage(duration_ms=7.5)
    assert chat.parse_usage(None) == Usage()
    kept = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}}
    assert chat.parse_usage(kept) == Usage(9, cached_tokens=8)
    assert chat.parse_usage({"prompt_tokens": 9, "prompt_tokens_details": "all"}) == Usage(9)


@pytest.mark.parametrize("amount", ["many", True, -1, 0.5, 2**53 + 1, 2**63, 1e300, [3], None])
def test_an_amount_that_cannot_be_one_is_not_known(amount: Any):
    assert chat.parse_usage({"input_tokens": amount, "llm_calls": 2}) == Usage(llm_calls=2)


def test_whole_counts_may_be_spelled_as_floats():
    tokens = chat.parse_usage({"input_tokens": 12.0}).input_tokens
    assert (tokens, type(tokens)) == (12, int)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (None, Outcome()),
        ({}, Outcome()),
        ({"success": None, "reward": None}, Outcome()),
        ({"success": True, "reward": 1}, Outcome(True, 1.0)),
        ({"success": 0}, Outcome(False)),
        ({"success": 1.0}, Outcome(True)),
        ({"success": False, "score": "low"}, Outcome(False)),
        ({"reward": 0.0}, Outcome(None, 0.0)),
        (False, Outcome(False)),
        (1, Outcome(True)),
    ],
)
def test_a_verdict_is_a_boolean_or_zero_or_one(value: Any, outcome: Outcome):
    assert chat.parse_outcome(value) == outcome


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("failed", "outcome: neither true nor false"),
        (2, "outcome: neither true nor false"),
        ([], "outcome: neither true nor false"),
        ({"success": "false"}, "outcome.success: neither true nor false"),
        ({"success": 0.5}, "outcome.success: neither true nor false"),
        ({"reward": "high"}, "outcome.reward: not a number"),
        ({"reward": True}, "outcome.reward: not a number"),
        ({"verdict": "failed"}, "outcome: neither success nor reward in it"),
    ],
)
def test_a_verdict_that_is_not_understood_is_never_not_graded(value: Any, fault: str):
    """Traces that nobody graded teach by default; a failure among them would teach as well."""
    with pytest.raises(ValueError) as caught:
        chat.parse_outcome(value)
    assert str(caught.value) == fault


@pytest.mark.parametrize("value", [[0], [2], [-1], [True], [1.0], "1", {"1": 1}])
def test_decisions_are_positions_of_assistant_messages(value: Any):
    messages = chat.parse_messages([USER, assistant(content="hi")])
    assert chat.parse_decisions([1], messages) == (1,)
    with pytest.raises(ValueError, match="decisions: not a list of positions"):
        chat.parse_decisions(value, messages)


def shuffled(value: Any, luck: random.Random) -> Any:
    """The same JSON value with its keys in another order and whole numbers as floats."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, luck)) for key, item in value.items()]
        return dict(luck.sample(items, len(items)))
    if isinstance(value, list):
        return [shuffled(item, luck) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


@given(chat_values.values, st.randoms(use_true_random=False))
def test_canonical_json_forgets_key_order_and_float_spelling(value: Any, luck: random.Random):
    other = shuffled(value, luck)
    assert chat.canonical(other) == chat.canonical(value)
    assert chat.digest(other) == chat.digest(value)


@given(chat_values.values)
def test_canonical_json_is_json_of_the_same_value(value: Any):
    assert orjson.loads(chat.canonical(value)) == value


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (5, "5"),
        (1, True),
        (0, None),
        (0, False),
        (5, 5.5),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 1, "b": None}),
    ],
)
def test_canonical_json_keeps_what_differs_apart(a: Any, b: Any):
    assert chat.canonical(a) != chat.canonical(b)


@given(st.lists(chat_values.calls, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_parallel_calls_does_not_count(calls: list[ToolCall], luck: random.Random):
    shuffled_calls = luck.sample(calls, len(calls))
    a, b = Decision("call", tuple(calls)), Decision("call", tuple(shuffled_calls))
    assert chat.same_calls(a, b)
    assert not chat.same_calls(a, Decision("call", (*calls, calls[0])))
    assert not chat.same_calls(a, Decision("reply"))


def test_calls_differ_by_name_arguments_and_whether_they_are_filled():
    def one(name: str, arguments: Any) -> Decision:
        return Decision("call", (ToolCall(name, arguments),))

    assert chat.same_calls(one("get", {"n": 5, "m": 1}), one("get", {"m": 1.0, "n": 5.0}))
    assert not chat.same_calls(one("get", {"n": 5}), one("got", {"n": 5}))
    assert not chat.same_calls(one("get", {"n": 5}), one("get", {"n": 6}))
    assert not chat.same_calls(one("get", {}), one("get", None))
