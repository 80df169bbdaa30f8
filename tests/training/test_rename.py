"""Meaningless names stand for the old ones everywhere, and change nothing else."""

from random import Random

import orjson
from hypothesis import given
from hypothesis import strategies as st
from small_shop import examples

from distill.chat import decision_json, message_json, tool_json
from distill.dataset.verify import verify
from distill.training.rename import renamed
from distill.types import Context, Decision, Example, Message, ToolCall, ToolSpec

MANY = examples(60)


def whole(example: Example) -> str:
    return orjson.dumps(
        [
            [message_json(message) for message in example.context.messages],
            [tool_json(tool) for tool in example.context.tools],
            decision_json(example.label),
        ]
    ).decode()


@given(st.sampled_from(MANY), st.integers(0, 2**32))
def test_putting_the_old_names_back_gives_the_example_back(example, seed):
    """So each old name has one new name wherever it stands, and nothing else was touched."""
    made = renamed(example, Random(seed))
    text = whole(made)
    pairs = [
        (new, old)
        for a, b in zip(example.context.tools, made.context.tools, strict=True)
        for old, new in [
            (a.name, b.name),
            *zip(a.parameters["properties"], b.parameters["properties"], strict=True),
        ]
    ]
    for new, old in pairs:
        text = text.replace(f'"{new}"', f'"{old}"').replace(f'\\"{new}\\"', f'\\"{old}\\"')
    assert text == whole(example)
    assert len({new for new, _ in pairs}) == len({old for _, old in pairs})
    assert not {new for new, _ in pairs} & {old for _, old in pairs}


@given(st.sampled_from(MANY), st.integers(0, 2**32))
def test_labels_stay_valid_calls_of_offered_tools(example, seed):
    assert verify(renamed(example, Random(seed)), "drop") is None


def test_past_calls_of_tools_no_longer_offered_are_renamed_too():
    past = ToolCall("old_tool", {"place": "Rome"}, "c1")
    result = Message("tool", "sunny", call_id="c1", name="old_tool")
    context = Context(
        (Message("user", "and old_tool?"), Message("assistant", None, (past,)), result),
        (ToolSpec("new_tool", "Uses old_tool."),),
    )
    example = Example("e", "t", "g", context, Decision("call", (ToolCall("new_tool"),)))
    made = renamed(example, Random(0))
    user, assistant, tool = made.context.messages
    (call,) = assistant.calls
    assert call.name == tool.name
    assert call.name not in ("old_tool", "new_tool")
    assert list(call.arguments.values()) == ["Rome"]
    assert "place" not in call.arguments
    assert (call.id, tool.call_id) == ("c1", "c1")
    assert made.label.calls == (ToolCall(made.context.tools[0].name),)
    # What people say in words stays.
    assert user.content == "and old_tool?"
    assert made.context.tools[0].description == "Uses old_tool."


def test_chance_alone_settles_the_names():
    assert renamed(MANY[0], Random(1)) == renamed(MANY[0], Random(1))
    assert renamed(MANY[0], Random(1)) != renamed(MANY[0], Random(2))
