"""A conversation and its tools as a chat-completions request carries them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distill.chat import message_json, tool_json
from distill.config import EndpointConfig
from distill.types import Message, ToolSpec


def request_body(
    settings: EndpointConfig,
    messages: Sequence[Message],
    tools: Sequence[ToolSpec],
    *,
    tool_choice: str,
    max_tokens: int,
    temperature: float,
    seed: int | None,
) -> dict[str, Any]:
    """The request's JSON; without tools it speaks of none, since the API refuses an empty list.

    Args:
        tool_choice: `auto`, `none` or `required`, else the name of the tool to call.
    """
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [message_json(message) for message in identified(messages)],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    if tools:
        named = {"type": "function", "function": {"name": tool_choice}}
        body["tools"] = [tool_json(tool) for tool in tools]
        body["tool_choice"] = tool_choice if tool_choice in _CHOICES else named
    return {key: value for key, value in (body | settings.extra).items() if value is not None}


_CHOICES = ("auto", "none", "required")


def identified(messages: Sequence[Message]) -> list[Message]:
    """The messages with an id for every call and every result.

    Logs need not have them, and the API does. A result without one answers the first call of its
    name (of any, where it has none) that no other has answered.
    """
    made = []
    waiting: list[tuple[str, str]] = []  # id and name of the calls without a result
    for i, message in enumerate(messages):
        if message.calls:
            calls = tuple(
                replace(call, id=call.id or f"call_{i}_{j}") for j, call in enumerate(message.calls)
            )
            waiting += [(call.id or "", call.name) for call in calls]
            made.append(replace(message, calls=calls))
        elif message.role == "tool":
            fitting = (
                (call_id, name)
                for call_id, name in waiting
                if message.call_id in (None, call_id) and message.name in (None, name)
            )
            found = next(fitting, None)
            if found is not None:
                waiting.remove(found)
                message = replace(message, call_id=found[0])  # noqa: PLW2901
            made.append(message)
        else:
            made.append(message)
    return made
