"""Small traces made by hand or by number, for the dataset tests."""

import random
from collections.abc import Iterator

from distill.types import Message, Outcome, ToolCall, ToolSpec, Trace, Usage

SEARCH = ToolSpec(
    "search",
    "Searches.",
    {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)
BOOK = ToolSpec("book", "Books.", {"type": "object", "properties": {"seats": {"type": "integer"}}})
TOOLS = (SEARCH, BOOK)


def user(text: str) -> Message:
    return Message("user", text)


def says(text: str) -> Message:
    return Message("assistant", text)


def calls(*made: ToolCall, text: str | None = None) -> Message:
    return Message("assistant", text, made)


def search(query: str, call_id: str | None = None) -> ToolCall:
    return ToolCall("search", {"query": query}, call_id)


def trace(
    name: str,
    *messages: Message,
    group: str | None = None,
    tools: tuple[ToolSpec, ...] = TOOLS,
    success: bool | None = None,
    teacher: str = "teacher",
    usage: Usage | None = None,
) -> Trace:
    return Trace(
        name,
        group or name,
        teacher,
        "test",
        tools,
        messages,
        Outcome(success),
        usage or Usage(),
    )


def many(n: int, *, prefix: str = "t", group_size: int = 1) -> Iterator[Trace]:
    """`n` traces of three decisions each (search, book, reply) with requests unlike each other."""
    for i in range(n):
        draw = random.Random(f"{prefix}{i}")
        words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(6)]
        seats = ToolCall("book", {"seats": i % 3}, f"b{i}")
        yield trace(
            f"{prefix}{i:04}",
            Message("system", f"It is {i} o'clock."),
            user(" ".join(words)),
            calls(search(words[0], f"a{i}")),
            Message("tool", f"found {words[1]}", call_id=f"a{i}", name="search"),
            calls(seats),
            Message("tool", "booked", call_id=f"b{i}", name="book"),
            says(f"Done, {words[2]}."),
            group=f"{prefix}g{i // group_size:04}",
        )
