"""What a router reads: within its budgets, never without the task and the latest turns."""

import random
from typing import Any

import chat_values
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.chat import same_calls
from distill.config import RenderConfig
from distill.render import (
    TEXT_STEPS,
    completion,
    cut,
    fit,
    render_chat,
    render_text,
    shortened,
    whole_chat,
    window,
)
from distill.types import Context, Decision, Message, ToolCall, ToolSpec

settings = st.builds(
    RenderConfig,
    system_chars=st.integers(0, 40),
    first_chars=st.integers(16, 40),
    turn_chars=st.integers(16, 40),
    turns=st.integers(1, 5),
)
scales = st.sampled_from([1.0, 0.7, 0.24, 0.01])


def split(context: Context) -> tuple[Message | None, list[Message]]:
    """The first user message, and what follows it (everything, where there is none)."""
    turns = [m for m in context.messages if m.role != "system"]
    first = next((i for i, m in enumerate(turns) if m.role == "user"), None)
    return (None, turns) if first is None else (turns[first], turns[first + 1 :])


# --- cut


@given(st.text(), st.integers(0, 60))
def test_cut_never_exceeds_its_limit(text: str, limit: int):
    assert len(cut(text, limit)) <= limit


@given(st.text(min_size=4), st.data())
def test_cut_keeps_both_ends_and_marks_what_is_gone(text: str, data: st.DataObject):
    limit = data.draw(st.integers(3, len(text)))
    kept = cut(text, limit)
    if len(text) == limit:
        assert kept == text
    else:
        head, tail = kept[: limit * 2 // 3], kept[limit * 2 // 3 + 1 :]
        assert text.startswith(head)
        assert text.endswith(tail)
        assert kept == f"{head}…{tail}"
        assert len(kept) == limit


# --- window


@given(chat_values.contexts, settings, scales)
def test_the_first_request_and_the_latest_turns_are_always_in(
    context: Context, config: RenderConfig, scale: float
):
    first, after = split(context)
    view = window(context, config, scale)
    assert (view.first is None) == (first is None)
    if first is not None and view.first is not None:
        assert view.first.content == cut(first.content or "", int(config.first_chars * scale))
    expected = after[-config.turns :]
    assert [m.role for m in view.latest] == [m.role for m in expected]
    for kept, message in zip(view.latest, expected, strict=True):
        assert (kept.calls, kept.call_id, kept.name) == (
            message.calls,
            message.call_id,
            message.name,
        )
        if message.content is not None:
            assert kept.content == cut(message.content, int(config.turn_chars * scale))


@given(chat_values.contexts, settings, scales)
def test_the_latest_calls_since_the_request_are_named(
    context: Context, config: RenderConfig, scale: float
):
    _, after = split(context)
    earlier = window(context, config, scale).earlier
    names = [call.name for message in after[: -config.turns] for call in message.calls]
    shown = earlier[1:] if earlier[:1] == ("…",) else earlier
    assert list(shown) == names[len(names) - len(shown) :]
    assert sum(len(name) + 2 for name in shown) <= config.turn_chars * scale
    if len(shown) < len(names):
        left_out = names[len(names) - len(shown) - 1]
        assert sum(len(name) + 2 for name in (left_out, *shown)) > int(config.turn_chars * scale)


def test_where_a_long_conversation_stands_is_always_read():
    """Dozens of earlier calls must not push the latest turns out of a small model's window."""
    calls = [Message("assistant", None, (ToolCall("get_order_details", {}),)) for _ in range(60)]
    context = Context((Message("user", "hi"), *calls, Message("user", "Cancel it, please.")), ())
    text = fit(
        lambda scale: render_text(context, RenderConfig(), scale), len, 400, steps=TEXT_STEPS
    )
    assert len(text) <= 400
    assert "earlier: …, get_order_details" in text
    assert text.endswith("user: Cancel it, please.")


@given(chat_values.contexts, settings, scales)
def test_the_system_prompt_keeps_to_its_budget_and_is_left_out_at_zero(
    context: Context, config: RenderConfig, scale: float
):
    view = window(context, config, scale)
    assert len(view.system) <= config.system_chars
    assert window(context, config.model_copy(update={"system_chars": 0})).system == ""
    assert all(m.role != "system" for m in view.latest)


CALL = ToolCall("get_order", {"order": 7, "note": "x" * 50}, "c1")
LONG = Context(
    (
        Message("system", "You are a shop."),
        Message("user", "Where is my order?"),
        Message("assistant", None, (ToolCall("find_customer", {"name": "Ann"}, "c0"),)),
        Message("tool", '{"customer": 3}', call_id="c0"),
        Message("assistant", "One moment.", (CALL,)),
        Message("tool", '{"order": 7, "status": "shipped"}', call_id="c1"),
        Message("user", "And when?"),
    ),
    (ToolSpec("get_order"),),
)


def test_the_text_a_small_model_reads():
    assert render_text(LONG, RenderConfig(turns=3, turn_chars=30, system_chars=15)) == "\n".join(
        [
            "system: You are a shop.",
            "user: Where is my order?",
            "earlier: find_customer",
            "assistant: One moment.",
            "call: get_order order:7,note:xxxxxxx…xxxxxxxxx",
            "result: order: 7, status…shipped",
            "user: And when?",
        ]
    )


def test_newest_first_is_the_same_lines_turned_round():
    lines = render_text(LONG, RenderConfig()).splitlines()
    newest_first = render_text(LONG, RenderConfig(order="newest_first")).splitlines()
    assert newest_first == lines[::-1]
    assert newest_first[0] == "user: And when?"


def test_a_system_prompt_is_in_neither_rendering_by_default():
    assert "You are a shop" not in render_text(LONG, RenderConfig())
    assert all(m["role"] != "system" for m in render_chat(LONG, RenderConfig()).messages)


# --- chat


@given(chat_values.contexts, settings, scales)
def test_the_chat_keeps_roles_order_and_pairing(
    context: Context, config: RenderConfig, scale: float
):
    view = window(context, config, scale)
    chat = render_chat(context, config, scale)
    head = ["system"] * bool(view.system) + ["user"] * (view.first is not None)
    if not head and not view.latest:
        assert chat.messages == [{"role": "user", "content": ""}], "templates take no empty chat"
        return
    assert [m["role"] for m in chat.messages] == head + [m.role for m in view.latest]
    for value, message in zip(chat.messages[len(head) :], view.latest, strict=True):
        assert value["content"] == (message.content or "")
        assert value.get("tool_call_id") == message.call_id
        calls = value.get("tool_calls", [])
        assert [c["function"]["name"] for c in calls] == [c.name for c in message.calls]
        limit = int(config.turn_chars * scale)
        for shown, call in zip(calls, message.calls, strict=True):
            # Templates print objects; a string would be quoted a second time.
            arguments = shown["function"]["arguments"]
            assert isinstance(arguments, dict)
            if len(orjson.dumps(call.arguments or {})) <= limit:
                assert arguments == (call.arguments or {})
    assert [tool["function"]["name"] for tool in chat.tools] == [t.name for t in context.tools]
    orjson.dumps(chat.messages)


@given(st.dictionaries(st.text(), chat_values.values), st.sampled_from([16, 60, 240]))
def test_past_arguments_keep_to_a_budget(arguments: dict[str, Any], chars: int):
    big = arguments | {"body": "long " * 10_000, "rows": list(range(5000))}
    call = ToolCall("send", big, "c")
    context = Context((Message("user", "hi"), Message("assistant", None, (call,))), ())
    chat = render_chat(context, RenderConfig(turn_chars=chars))
    (shown,) = chat.messages[-1]["tool_calls"]
    written = shown["function"]["arguments"]
    # Keys and values in a share each, at least 8 characters, and quotes around them.
    assert sum(len(key) + len(str(value)) for key, value in written.items()) <= 3 * chars + 16
    assert len(written) <= max(1, chars // 8)


def test_a_cut_argument_keeps_its_name_and_both_ends():
    call = ToolCall("send", {"to": "ann", "body": "Dear Ann, " + "x" * 300 + " Yours"}, "c")
    context = Context((Message("user", "hi"), Message("assistant", None, (call,))), ())
    (shown,) = render_chat(context, RenderConfig(turn_chars=60)).messages[-1]["tool_calls"]
    arguments = shown["function"]["arguments"]
    assert arguments["to"] == "ann"
    assert len(arguments["body"]) == 30
    assert arguments["body"].startswith("Dear Ann, ")
    assert arguments["body"].endswith(" Yours")


def test_the_chat_names_skipped_calls_in_the_request():
    chat = render_chat(LONG, RenderConfig(turns=3))
    assert chat.messages[0] == {
        "role": "user",
        "content": "Where is my order?\n[called since: find_customer]",
    }


# --- fit


@given(chat_values.contexts, settings, st.integers(1, 400))
def test_fit_keeps_the_limit_wherever_the_smallest_rendering_can(
    context: Context, config: RenderConfig, limit: int
):
    rendered: list[str] = []

    def render(scale: float) -> str:
        rendered.append(render_text(context, config, scale))
        return rendered[-1]

    result = fit(render, len, limit)
    smallest = render_text(context, config, 0.7**4)
    assert len(result) <= limit or result == smallest
    if len(smallest) <= limit:
        assert len(result) <= limit
    assert all(len(text) > limit for text in rendered[:-1]), "a larger rendering fitted"


def test_fit_does_not_shrink_what_fits():
    assert fit(lambda scale: scale, lambda scale: 0, 0) == 1.0


# --- completion: what training writes, routing reads


@pytest.fixture(scope="module")
def parse_completion():
    from distill.routers.decoding import parse_completion  # noqa: PLC0415  (imports torch)

    return parse_completion


def offering(*names: str) -> Context:
    return Context((Message("user", "hi"),), tuple(map(ToolSpec, dict.fromkeys(names))))


@given(st.lists(chat_values.filled_calls, min_size=1, max_size=3))
def test_every_decision_that_is_written_is_read_back(parse_completion, calls: list[ToolCall]):
    label = Decision("call", tuple(calls))
    context = offering(*(call.name for call in calls))
    again = parse_completion(completion(label, context.tools), context)
    assert again is not None
    assert same_calls(again, label)
    assert [call.name for call in again.calls] == [call.name for call in calls]


def test_a_reply_is_read_back(parse_completion):
    text = completion(Decision("reply"), ())
    assert parse_completion(text, offering("get")) == Decision("reply")


@pytest.mark.parametrize("text", chat_values.NASTY)
def test_texts_that_look_like_calls_stay_arguments(parse_completion, text: str):
    label = Decision("call", (ToolCall("get", {text: {"deep": [text]}}), ToolCall("get", {})))
    written = completion(label, ())
    assert parse_completion(written, offering("get")) == label
    assert written.count("<tool_call>") == written.count("</tool_call>") == 2


def test_plain_arguments_are_written_as_hermes_does():
    label = Decision("call", (ToolCall("get", {"n": 1}), ToolCall("list", {})))
    assert completion(label, ()) == (
        '<tool_call>\n{"name":"get","arguments":{"n":1}}\n</tool_call>\n'
        '<tool_call>\n{"name":"list","arguments":{}}\n</tool_call>'
    )


@given(st.dictionaries(st.sampled_from("abcdef"), chat_values.values), st.randoms())
def test_one_call_has_one_spelling(arguments: dict[str, object], luck: random.Random):
    """Whatever order the teacher wrote the arguments in."""
    properties = {key: {} for key in "fedcba"}
    spec = ToolSpec("get", "", {"type": "object", "properties": properties})
    items = luck.sample(list(arguments.items()), len(arguments))
    there = Decision("call", (ToolCall("get", arguments),))
    back = Decision("call", (ToolCall("get", dict(items)),))
    assert completion(there, (spec,)) == completion(back, (spec,))


def test_nested_objects_have_one_spelling_too():
    person = {"type": "object", "properties": {"name": {}, "mail": {}}, "required": ["age"]}
    properties = {"to": {"type": "array", "items": {"$ref": "#/$defs/person"}}}
    spec = ToolSpec("send", "", {"properties": properties, "$defs": {"person": person}})
    to = [{"x": 1, "age": 3, "mail": "m", "name": "n"}, {"mail": "m", "name": "n"}]
    written = completion(Decision("call", (ToolCall("send", {"to": to}),)), (spec,))
    assert '[{"name":"n","mail":"m","age":3,"x":1},{"name":"n","mail":"m"}]' in written


# --- shortened


@given(chat_values.contexts, settings, scales)
def test_a_shortened_conversation_keeps_the_request_and_the_latest_turns_in_order(
    context: Context, config: RenderConfig, scale: float
):
    short = shortened(context, config, scale)
    view = window(context, config, scale)
    assert short.tools == context.tools
    first, _ = split(short)
    assert first == view.first
    kept = [(m.role, m.content, m.call_id) for m in short.messages]
    latest = [(m.role, m.content, m.call_id) for m in view.latest]
    assert kept[len(kept) - len(latest) :] == latest
    recorded = iter([(m.role, m.call_id) for m in context.messages if m.role != "system"])
    assert all(
        (m.role, m.call_id) in recorded for m in short.messages if m.role != "system"
    )  # a subsequence


def test_a_result_stays_with_its_call():
    asked = tuple(ToolCall("get", {"n": n}, f"c{n}") for n in range(3))
    messages = [
        Message("user", "all three, please"),
        *(Message("user", f"and {n}") for n in range(4)),
        Message("assistant", None, asked),
        *(Message("tool", str(n), call_id=f"c{n}") for n in range(3)),
    ]
    short = shortened(Context(tuple(messages), ()), RenderConfig(turns=2))
    assert short.messages == (messages[0], *messages[5:])


def test_a_conversation_that_is_short_is_left_as_it_is():
    asked = ToolCall("get", {"n": 1}, "c")
    messages = (
        Message("system", "You help."),
        Message("user", "hello"),
        Message("assistant", "One moment.", (asked,)),
        Message("tool", "1", call_id="c"),
    )
    context = Context(messages, (ToolSpec("get"),))
    assert shortened(context, RenderConfig(system_chars=99)) == context


def test_a_whole_chat_cuts_nothing_and_has_arguments_as_objects():
    long = {"text": "x" * 9999}
    messages = (Message("user", "y" * 9999), Message("assistant", None, (ToolCall("put", long),)))
    chat = whole_chat(Context(messages, (ToolSpec("put"),)))
    assert chat.messages[0]["content"] == "y" * 9999
    assert chat.messages[1]["tool_calls"][0]["function"]["arguments"] == long
    assert [tool["function"]["name"] for tool in chat.tools] == ["put"]
