"""Grounding: what a conversation says supports a value, what it does not say does not."""

import json

import pytest
from chat_values import contexts, values
from hypothesis import assume, given
from hypothesis import strategies as st

from distill.routers.grounding import unsupported
from distill.types import Context, Message, ToolCall, ToolSpec

ANY = ToolSpec("act", "", {"type": "object"})


def places(text: str, value: object, role="user") -> list[str]:
    context = Context((Message(role, text),), (ANY,))
    return unsupported(ToolCall("act", {"a": value}), ANY, context)


def supported(text: str, value: object) -> bool:
    return places(text, value) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Cancel order C-101, please", "C-101"),
        ("cancel order c101", "C-101"),
        ("the total visits of May", "total_visits"),
        ("Straße  des\n17. Juni", "STRASSE DES 17 JUNI"),
        ("write to ann.o'hara@shop.example", "Ann.O'Hara@shop.example"),
        ("ﬁve", "five"),
        ("我要去北京明天", "北京"),
        ("give it a 👍", "👍"),
        ("nothing", ""),
        ("set it to 21.5 degrees", 21.5),
        ("it costs 1,200 euros", 1200),
        ("it costs 1.200,50 euros", 1200.5),
        ("seven of them", 7),
        ("Seven of them", "7"),
        ("fifty percent", 50.0),
        ("7 of them", 7.0),
        ("it is -4 outside", -4),
        ("about 1e-07", 1e-7),
        ("at 10.30", 10),
        ("on 30.11.2023", "2023-11-30"),
        ("on 11/30/2023", "2023-11-30"),
        ("2023/11/30", "2023-11-30"),
        ("on November 30th, 2023", "2023-11-30"),
        ("the 3rd of Sept 2023", "2023-09-03"),
        ("Today is 2023-11-01. Until Nov 30", "2023-11-30"),
        ("November 30, 2023 at 3 pm", "2023-11-30 15:00:00"),
        ("2023-11-30, 12:15am", "2023-11-30T00:15"),
        ("on 2023-11-30", "2023-11-30 00:00:00"),
        ("on 2023-11-30", "2023-11-30T23:59:59"),
        ("x", True),
        ("x", None),
    ],
)
def test_said_in_other_words_is_said(text, value):
    assert supported(text, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("cancel order C-101", "C-10"),
        ("cancel order C-101", "01"),
        ("ask Anna", "Ann"),
        ("order 13", "00000013"),
        ("order 00000013", "13"),
        ("blue and green", "blue green"),
        ("", "x"),
        ("order 4", 5),
        ("order 45", 4),
        ("it is 4 outside", -4),
        ("12.5 degrees", 125),
        ("on 30.11.2023", "2023-11-29"),
        ("Until Nov 30", "2023-11-30"),
        ("on 2023-11-30", "2023-11-30 15:00:00"),
        ("on 2023-11-30 at 3", "2023-11-30 15:00:00"),
        ("30 February 2023", "2023-02-30"),
        ("9" * 50, int("9" * 18)),
    ],
)
def test_what_was_not_said_is_unsupported(text, value):
    assert places(text, value) == ["a"]


def test_paths_lead_to_the_values():
    call = ToolCall("act", {"to": [{"name": "Eve"}, {"name": "Bob"}], "n": {"": [1, 2]}, "b": True})
    context = Context((Message("user", "Bob has 2"),), (ANY,))
    assert unsupported(call, ANY, context) == ["to[0].name", "n.[0]"]


def test_every_message_and_past_call_counts():
    messages = (
        Message("system", "House of Lund"),
        Message("assistant", "I am Max", (ToolCall("act", {"who": {"name": 'Ann "A" Lee'}}),)),
        Message("tool", json.dumps({"note": 'say\n"Zoë"', "ids": [4711]}), call_id="1"),
    )
    context = Context(messages, (ANY,))
    for value in ("lund", "Max", 'Ann "A" Lee', 'say\n"Zoë"', "4711", 4711):
        assert unsupported(ToolCall("act", {"a": value}), ANY, context) == []
    assert unsupported(ToolCall("act", {"a": "act"}), ANY, context) == ["a"]


def test_what_the_schema_lists_or_proposes_needs_no_support():
    properties = {
        "a": {"enum": ["red", 3]},
        "b": {"$ref": "#/$defs/unit"},
        "c": {"type": "string", "default": "none"},
        "d": {"type": "array", "items": {"anyOf": [{"const": 9}, {"type": "string"}]}},
    }
    schema = {"type": "object", "properties": properties, "$defs": {"unit": {"const": "celsius"}}}
    spec = ToolSpec("act", "", schema)

    def found(**arguments):
        return unsupported(ToolCall("act", arguments), spec, Context((), (spec,)))

    assert found(a="red", b="celsius", c="none", d=[9]) == []
    assert found(a=3) == []
    assert found(a="blue", b="kelvin", c="some", d=[8, "x"]) == ["a", "b", "c", "d[0]", "d[1]"]
    assert found(a=True) == []


@given(contexts, values, st.data())
def test_a_copied_value_is_always_supported(context, value, data):
    said = [m.content for m in context.messages if m.content and m.content.split()]
    assume(said)
    words = data.draw(st.sampled_from(said)).split()
    start = data.draw(st.integers(0, len(words) - 1))
    stop = data.draw(st.integers(start + 1, len(words)))
    assert unsupported(ToolCall("act", {"a": " ".join(words[start:stop])}), ANY, context) == []
    result = Message("tool", json.dumps({"found": value}), call_id="1")
    for message in (result, Message("assistant", None, (ToolCall("act", {"found": value}),))):
        grown = Context((*context.messages, message), context.tools)
        assert unsupported(ToolCall("act", {"a": value}), ANY, grown) == []


@given(contexts, st.dictionaries(st.text(max_size=4), values, max_size=3))
def test_any_call_is_judged(context, arguments):
    found = unsupported(ToolCall("act", arguments), ANY, context)
    assert len(set(found)) <= sum(1 for _ in json.dumps(arguments))


def test_a_megabyte_is_read_and_what_stands_before_it_is_not():
    long = Message("user", "the quick brown fox, 17 of them. " * 40_000)
    context = Context((Message("user", "order 4711"), long), (ANY,))
    call = ToolCall("act", {"a": "brown fox 17", "b": 17, "c": "4711"})
    assert unsupported(call, ANY, context) == ["c"]
