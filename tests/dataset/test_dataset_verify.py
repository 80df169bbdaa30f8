"""Verification: each reason has its case, and no schema can reach out or break the build."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import TOOLS, calls, search, trace, user

from distill.dataset.points import decision_points
from distill.dataset.verify import Reason, check_outcome, verify
from distill.types import Context, Decision, Example, Message, Outcome, ToolCall, ToolSpec


def example(call: ToolCall, *tools: ToolSpec) -> Example:
    (point,) = decision_points(trace("t", user("x"), calls(call), tools=tools or TOOLS))
    return point


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("any", [True, None, False]), ("not_failed", [True, None]), ("succeeded", [True])],
)
def test_outcomes(rule: Any, kept: list[bool | None]) -> None:
    verdicts = [v for v in (True, None, False) if check_outcome(Outcome(v), rule) is None]
    assert verdicts == kept


def test_a_failed_and_an_ungraded_trace_are_told_apart() -> None:
    assert check_outcome(Outcome(False), "succeeded") is Reason.FAILED
    assert check_outcome(Outcome(None), "succeeded") is Reason.NOT_GRADED


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (search("tea"), None),
        (ToolCall("search", None), None),
        (ToolCall("cancel", {}), Reason.NOT_OFFERED),
        (ToolCall("search", {}), Reason.INVALID_ARGUMENTS),
        (ToolCall("book", {"seats": "2"}), Reason.INVALID_ARGUMENTS),
    ],
)
def test_calls(call: ToolCall, reason: Reason | None) -> None:
    assert verify(example(call), "drop") is reason


def test_a_pattern_takes_no_exponential_time() -> None:
    """Python's own matching would take longer than the universe has lasted."""
    pattern = {"type": "string", "pattern": "^(a+)+$"}
    tool = ToolSpec("t", "", {"type": "object", "properties": {"x": pattern}})
    assert verify(example(ToolCall("t", {"x": "a" * 5000 + "b"}), tool), "drop") is not None
    assert verify(example(ToolCall("t", {"x": "a" * 5000}), tool), "drop") is None


def test_one_bad_call_of_several_is_enough() -> None:
    made = trace("t", user("x"), calls(search("a"), ToolCall("book", {"seats": "2"})))
    (point,) = decision_points(made)
    assert verify(point, "drop") is Reason.INVALID_ARGUMENTS


def test_keeping_invalid_arguments_still_asks_that_the_tool_is_offered() -> None:
    assert verify(example(ToolCall("book", {"seats": "2"})), "keep") is None
    assert verify(example(ToolCall("cancel", {})), "keep") is Reason.NOT_OFFERED


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"properties": []},
        {"properties": {"a": {"pattern": "("}}},
        {"$schema": 5},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.invalid/schema.json"},
        {"allOf": [{"$ref": "#"}]},
        {"properties": {"a": {"pattern": "a{99999999999}"}}},
        {"title": "x", "properties": {"a": {"$ref": "#/title"}}},
        {"required": ["a"], "properties": {"a": {"$ref": "#/required"}}},
        {"required": ["a"], "properties": {"a": {"$ref": "#/required/zz"}}},
        {"minProperties": 1, "properties": {"a": {"$ref": "#/minProperties"}}},
        {"minProperties": 1, "properties": {"a": {"$ref": "#/minProperties/x"}}},
    ],
)
def test_a_broken_schema_is_a_reason_of_its_own(schema: dict[str, Any]) -> None:
    tool = ToolSpec("odd", "", schema)
    assert verify(example(ToolCall("odd", {"a": "b"}), tool), "drop") is Reason.BROKEN_SCHEMA


KEYWORDS = [
    *("$defs", "$dynamicRef", "$id", "$ref", "$schema", "a", "additionalProperties", "allOf"),
    *("const", "enum", "items", "minProperties", "minimum", "multipleOf", "pattern"),
    *("patternProperties", "properties", "required", "title", "type"),
]
TEXTS = [
    *("", "a", "object", "string", "(", "a{99999999999}", "[[a", "#", "#/title", "#/required/zz"),
    *("#/properties/a", "#a", "http://[", "https://json-schema.org/draft/2020-12/schema"),
]
LEAVES = st.sampled_from([None, True, 0, 1, -1, 1e300, *TEXTS])
LOOSE = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYWORDS), LOOSE, max_size=4), LOOSE)
def test_whatever_a_schema_holds_it_ends_in_a_verdict(schema: dict[str, Any], value: Any) -> None:
    verdict = verify(example(ToolCall("odd", {"a": value}), ToolSpec("odd", "", schema)), "drop")
    assert verdict in {None, Reason.BROKEN_SCHEMA, Reason.INVALID_ARGUMENTS}


def test_a_schema_names_its_own_draft() -> None:
    pair = {"properties": {"p": {"items": [{"type": "string"}, {"type": "integer"}]}}}
    old = ToolSpec("old", "", {"$schema": "http://json-schema.org/draft-07/schema#", **pair})
    assert verify(example(ToolCall("old", {"p": ["a", 1]}), old), "drop") is None
    assert (
        verify(example(ToolCall("old", {"p": ["a", "b"]}), old), "drop") is Reason.INVALID_ARGUMENTS
    )


def test_a_tool_named_like_the_no_tool_label_teaches_nothing() -> None:
    tools = (ToolSpec("reply"), ToolSpec("search"))
    for label in (Decision("reply"), Decision("call", (ToolCall("search", {}),))):
        context = Context((Message("user", "hello"),), tools)
        fault = verify(Example("t#0", "t", "g", context, label), "drop")
        assert fault is Reason.RESERVED_NAME
