"""What an LLM is shown of tool calls that it did not make: synthetic history and its alternative.

Once a router has called tools, the LLM that words the reply must learn of the results. Either it
sees a **synthetic history**, an assistant message with the router's calls as though it had made
them and the tools' messages, which is what it saw in training; or it is **handed** the results as
plain text, with no sign of a tool. This is the only copy of both: the experiment that compares
them, the gateway and the integrations use it. Knows no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import groupby

from distill.chat import canonical
from distill.types import Message, ToolCall

HANDED = "Looked up for you:"
"""How a message begins that hands over results."""


def synthetic(
    messages: Sequence[Message], calls: Sequence[ToolCall], results: Sequence[str]
) -> tuple[Message, ...]:
    """The conversation with calls that a router made and what the tools returned.

    Args:
        calls: each gets an id of its own where it has none, the same for the same conversation.
        results: of each call, in order.
    """
    made = tuple(
        call if call.id is not None else replace(call, id=_id(len(messages), i, call))
        for i, call in enumerate(calls)
    )
    returned = (
        Message("tool", result, call_id=call.id, name=call.name)
        for call, result in zip(made, results, strict=True)
    )
    return (*messages, Message("assistant", None, made), *returned)


def handed(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with every tool result as a user's text, and nothing else of the calls.

    Results that follow each other become one message. What an assistant said beside its calls
    stays, as words alone.
    """
    return tuple(_handed(messages))


def as_if_called(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A recorded conversation as it were had a router made its calls: no words beside them, and ids
    as `synthetic` gives them."""
    made: tuple[Message, ...] = ()
    results: list[Message] = []
    calls: tuple[ToolCall, ...] = ()

    def settle() -> None:
        nonlocal made, calls
        if calls:
            by_id = {message.call_id: message.content or "" for message in results}
            fresh = tuple(replace(call, id=None) for call in calls)
            made = synthetic(made, fresh, [by_id.get(call.id, "") for call in calls])
        calls = ()
        results.clear()

    for message in messages:
        if message.role == "tool":
            results.append(message)
            continue
        settle()
        if message.calls:
            calls = message.calls
        else:
            made = (*made, message)
    settle()
    return made


def _handed(messages: Sequence[Message]) -> Iterator[Message]:
    for role, run in groupby(messages, key=lambda message: message.role):
        if role == "tool":
            results = "\n".join(message.content or "" for message in run)
            yield Message("user", f"{HANDED}\n{results}")
            continue
        for message in run:
            if not message.calls:
                yield message
            elif message.content:
                yield Message(message.role, message.content)


def _id(position: int, i: int, call: ToolCall) -> str:
    text = f"{position} {i} {call.name} ".encode() + canonical(dict(call.arguments or {}))
    return f"call_{sha256(text).hexdigest()[:24]}"
