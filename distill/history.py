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
    messages: Sequence[Message], calls: Sequence[ToolCall], results: Sequence[str | None]
) -> tuple[Message, ...]:
    """The conversation with calls that a router made and what the tools returned.

    Args:
        calls: each gets an id of its own where it has none, the same for the same conversation.
        results: of each call, in order; None where there is none, and then no message stands for
            it. APIs refuse a call without its result, so only a recorded conversation has that.
    """
    made = tuple(
        call if call.id is not None else replace(call, id=_id(len(messages), i, call))
        for i, call in enumerate(calls)
    )
    returned = (
        Message("tool", result, call_id=call.id, name=call.name)
        for call, result in zip(made, results, strict=True)
        if result is not None
    )
    return (*messages, Message("assistant", None, made), *returned)


def handed(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with every tool result as a user's text, and nothing else of the calls.

    Results with only calls between them become one message. What an assistant said beside its
    calls stays, as words alone.
    """
    return tuple(_handed(messages))


def as_if_called(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A recorded conversation as it were had a router made its calls.

    An assistant's turn that calls becomes one message of all its calls, without the words that led
    up to them, and ids are those that `synthetic` gives. A result belongs to the call that has its
    id, else to the next call without a result; what belongs to none stays as it is.
    """
    made: tuple[Message, ...] = ()
    turn: list[Message] = []
    for message in messages:
        spoken = message.role == "assistant" and any(m.role == "tool" for m in turn)
        if spoken or message.role not in ("assistant", "tool"):
            made, turn = _settled(made, turn), []
        if message.role in ("assistant", "tool"):
            turn.append(message)
        else:
            made = (*made, message)
    return _settled(made, turn)


def _settled(before: tuple[Message, ...], turn: Sequence[Message]) -> tuple[Message, ...]:
    """What `as_if_called` makes of a turn: assistant messages and then tools', either none."""
    calls = tuple(call for message in turn for call in message.calls)
    if not calls:
        return (*before, *turn)
    results = [message for message in turn if message.role == "tool"]
    own = [_take(results, call.id) for call in calls]
    found = [result or (results.pop(0) if results else None) for result in own]
    texts = [None if result is None else result.content or "" for result in found]
    made = synthetic(before, [replace(call, id=None) for call in calls], texts)
    last = max(i for i, message in enumerate(turn) if message.calls)
    after = (message for message in turn[last + 1 :] if message.role == "assistant")
    return (*made, *results, *after)


def _take(results: list[Message], call_id: str | None) -> Message | None:
    """The first result of that call, taken out of the list; None where there is none."""
    for i, result in enumerate(results):
        if call_id is not None and result.call_id == call_id:
            return results.pop(i)
    return None


def _handed(messages: Sequence[Message]) -> Iterator[Message]:
    heard = (message for message in messages if message.content or not message.calls)
    for role, run in groupby(heard, key=lambda message: message.role):
        if role == "tool":
            results = "\n".join(message.content or "" for message in run)
            yield Message("user", f"{HANDED}\n{results}")
        else:
            yield from (replace(message, calls=()) for message in run)


def _id(position: int, i: int, call: ToolCall) -> str:
    text = f"{position} {i} {call.name} ".encode() + canonical(dict(call.arguments or {}))
    return f"call_{sha256(text).hexdigest()[:24]}"
