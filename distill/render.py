"""Context -> text and chat messages: the only copy, used by training and serving alike.

Small models read short inputs. What is kept of a conversation is the first user message (the
task), the latest turns (where it stands) and the names of the tools called in between; each piece
has a budget of characters, and `fit` shrinks the budgets together until one of tokens holds. So
every server is sent the same text that training saw, and nothing is left to a tokenizer's
truncation. Routers in use depend on every character: a change here goes with a new `FORMAT` of
their folder (`distill.routers.folder`).

This module knows nothing of tokenizers or models: token counts come in as a function.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import orjson

from distill.chat import message_json, tool_json
from distill.config import RenderConfig
from distill.schemas import Place
from distill.types import Context, Decision, Message, ToolSpec

REPLY_COMPLETION = "reply"
"""What a decoder writes for "no tool": one short word that no tool call begins with."""
CALL_CLOSING = "}\n</tool_call>"
"""What it writes after a call's arguments."""
CALL_SEPARATOR = "\n"
"""What it writes between calls."""

T = TypeVar("T")

_SHORTEST = 8
"""Characters that every kept argument of a past call may take, however many there are."""
_TAG = re.compile(r"<(/?tool_call>)")
_FLAT_JSON = str.maketrans({'"': None, "{": None, "}": None, "\n": " "})


def cut(text: str, limit: int) -> str:
    """Keep at most `limit` characters: two thirds from the front, the rest from the back."""
    if len(text) <= limit:
        return text
    if limit < 1:
        return ""
    head = limit * 2 // 3
    tail = limit - head - 1
    return f"{text[:head]}…{text[len(text) - tail :]}"


@dataclass(frozen=True)
class Window:
    """What is kept of a conversation, in order."""

    system: str
    first: Message | None
    earlier: tuple[str, ...]
    latest: tuple[Message, ...]


def window(context: Context, config: RenderConfig, scale: float = 1.0) -> Window:
    """Choose and cut the messages; `scale` multiplies every character budget."""
    turns = [m for m in context.messages if m.role != "system"]
    first = next((i for i, m in enumerate(turns) if m.role == "user"), None)
    start = max(len(turns) - config.turns, 0 if first is None else first + 1)
    skipped = turns[(0 if first is None else first + 1) : start]
    chars = int(config.turn_chars * scale)

    def trim(message: Message, chars: int) -> Message:
        text = None if message.content is None else cut(message.content, int(chars * scale))
        return Message(message.role, text, message.calls, message.call_id, message.name)

    system = "\n".join(m.content or "" for m in context.messages if m.role == "system")
    return Window(
        system=cut(system, int(config.system_chars * scale)) if config.system_chars else "",
        first=None if first is None else trim(turns[first], config.first_chars),
        earlier=_latest([call.name for m in skipped for call in m.calls], chars),
        latest=tuple(trim(m, config.turn_chars) for m in turns[start:]),
    )


def _latest(names: Sequence[str], limit: int) -> tuple[str, ...]:
    """The last names that fit `limit` characters; a leading `…` stands for those left out."""
    kept, length = len(names), 0
    while kept and length + len(names[kept - 1]) + 2 <= limit:
        kept -= 1
        length += len(names[kept]) + 2
    return ("…", *names[kept:]) if kept else tuple(names)


def render_text(context: Context, config: RenderConfig, scale: float = 1.0) -> str:
    """One text per context, for encoders and baselines: `user: …`, `call: …`, `result: …` lines."""
    view = window(context, config, scale)
    lines = [f"system: {view.system}"] if view.system else []
    if view.first is not None:
        lines.append(f"user: {view.first.content or ''}")
    if view.earlier:
        lines.append(f"earlier: {', '.join(view.earlier)}")
    for message in view.latest:
        lines.extend(_text_lines(message, int(config.turn_chars * scale)))
    return "\n".join(lines if config.order == "oldest_first" else reversed(lines))


def _text_lines(message: Message, chars: int) -> Iterator[str]:
    if message.role == "tool":
        yield f"result: {(message.content or '').translate(_FLAT_JSON)}"
        return
    if message.content:
        yield f"{message.role}: {message.content}"
    for call in message.calls:
        arguments = orjson.dumps(call.arguments or {}).decode().translate(_FLAT_JSON)
        yield f"call: {call.name} {cut(arguments, chars)}"


@dataclass(frozen=True)
class Chat:
    """A request's `messages` and `tools` as OpenAI-style JSON, ready for a chat template."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


def render_chat(context: Context, config: RenderConfig, scale: float = 1.0) -> Chat:
    """The windowed conversation as chat messages, for decoders; the template words the tools."""
    view = window(context, config, scale)
    messages: list[dict[str, Any]] = []
    if view.system:
        messages.append({"role": "system", "content": view.system})
    if view.first is not None:
        text = view.first.content or ""
        if view.earlier:
            text += f"\n[called since: {', '.join(view.earlier)}]"
        messages.append({"role": "user", "content": text})
    messages.extend(_chat_json(message, int(config.turn_chars * scale)) for message in view.latest)
    if not messages:  # a system prompt alone, which is left out: templates take no empty chat
        messages.append({"role": "user", "content": ""})
    return Chat(messages, [tool_json(tool) for tool in context.tools])


def whole_chat(context: Context) -> Chat:
    """A conversation as it stands as chat messages; `shortened` makes it a short one."""
    messages = [_chat_json(message, None) for message in context.messages]
    return Chat(messages, [tool_json(tool) for tool in context.tools])


def shortened(context: Context, config: RenderConfig, scale: float = 1.0) -> Context:
    """The windowed conversation as messages again, for whoever renders it in another way.

    Results stay with their calls: where the latest messages would begin with a result, more of them
    are kept, back to its call. Of what is left out in between nothing is said.
    """
    said = [message for message in context.messages if message.role != "system"]
    turns = min(config.turns, len(said))
    while turns < len(said) and said[-turns].role == "tool":
        turns += 1
    view = window(context, config.model_copy(update={"turns": max(turns, 1)}), scale)
    chars = int(config.turn_chars * scale)
    system = [Message("system", view.system)] if view.system else []
    first = [] if view.first is None else [view.first]
    return Context((*system, *first, *(_shorter(m, chars) for m in view.latest)), context.tools)


def _shorter(message: Message, chars: int) -> Message:
    calls = (
        call
        if call.arguments is None
        else replace(call, arguments=_short(dict(call.arguments), chars))
        for call in message.calls
    )
    return replace(message, calls=tuple(calls))


def _chat_json(message: Message, chars: int | None) -> dict[str, Any]:
    """The message with its calls' arguments as objects, in about `chars` characters each."""
    value = message_json(message)
    value["content"] = value["content"] or ""
    for call in value.get("tool_calls", ()):
        # Templates print arguments with `tojson`; vLLM parses the string form to this same object.
        function = call["function"]
        arguments = orjson.loads(function["arguments"] or "{}")
        function["arguments"] = arguments if chars is None else _short(arguments, chars)
    return value


def _short(arguments: dict[str, Any], limit: int) -> dict[str, Any]:
    """A past call's arguments in about `limit` characters: too long values are cut as text."""
    if not arguments or len(orjson.dumps(arguments)) <= limit:
        return arguments
    kept = list(arguments.items())[: max(1, limit // _SHORTEST)]
    share = max(_SHORTEST, limit // len(kept))
    return {cut(key, share): _short_value(value, share) for key, value in kept}


def _short_value(value: Any, limit: int) -> Any:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return value if len(text) <= limit else cut(text, limit)


def fit(render: Callable[[float], T], count: Callable[[T], int], limit: int, steps: int = 5) -> T:
    """Render at ever smaller scales until `count` (tokens) is at most `limit`.

    Args:
        steps: scales tried, each 0.7 of the one before. The default keeps a quarter of the
            conversation, since beside a tool list that alone is too long, less would not help.

    The last and smallest rendering is returned even when it is still too long.
    """
    for step in range(steps):
        rendered = render(0.7**step)
        if count(rendered) <= limit:
            break
    return rendered


TEXT_STEPS = 12
"""`fit`'s steps for `render_text`, which holds no tools: down to a few characters a message, so
that even a script of one token a character is never left to a tokenizer's truncation."""


def completion(label: Decision, tools: Sequence[ToolSpec]) -> str:
    """What a decoder is taught to write: Hermes-style `<tool_call>` objects, or `reply`.

    Keys follow the schema's order, so that one call has one spelling
    (NousResearch/Hermes-Function-Calling; vLLM's `hermes` tool parser reads it). A tag within an
    argument is escaped, so that it cannot end the call.
    """
    places = {tool.name: Place.of(tool.parameters) for tool in tools}
    calls = []
    for call in label.calls:
        arguments = _in_order(call.arguments or {}, places.get(call.name, Place.of({})))
        calls.append(f"{call_opening(call.name)}{_json(arguments)}{CALL_CLOSING}")
    return CALL_SEPARATOR.join(calls) or REPLY_COMPLETION


def call_opening(name: str) -> str:
    """What a decoder writes of a call up to its arguments."""
    return f'<tool_call>\n{{"name":{_json(name)},"arguments":'


def _json(value: Any) -> str:
    """Compact JSON without tags; the delete character is escaped as other control characters."""
    return _TAG.sub(r"\\u003c\1", orjson.dumps(value).decode()).replace("\x7f", r"\u007f")


def _in_order(value: Any, place: Place) -> Any:
    if isinstance(value, Mapping):
        rank = {name: i for i, name in enumerate(place.keys)}
        names = sorted(value, key=lambda name: rank.get(name, len(rank)))
        return {name: _in_order(value[name], place.key(name)) for name in names}
    if isinstance(value, list | tuple):
        return [_in_order(item, place.item(i)) for i, item in enumerate(value)]
    return value
