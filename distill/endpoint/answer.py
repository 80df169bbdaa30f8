"""What an endpoint answered, read as a decision or as the reason why there is none.

A reason begins with its kind, before the first colon, so that reasons can be counted. It knows
nothing of the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill.chat import parse_message, parse_usage
from distill.types import Decision, ToolSpec, Usage


@dataclass(frozen=True)
class Answer:
    """One request's outcome: a decision with the words beside it, or an `error`, never both.

    `usage` is what the endpoint stated, all None where it stated nothing. `latency_ms` is the time
    of the request that was answered, waits and failed attempts not counted; of a `cached` answer,
    what it took when it was had. `finish_reason` is the endpoint's: a reply that ends by `length`
    is a decision to reply whose words are cut off.
    """

    decision: Decision | None
    words: str | None
    usage: Usage
    latency_ms: float | None
    finish_reason: str | None
    cached: bool
    error: str | None

    @property
    def spent(self) -> Usage:
        """The usage of this one request, and its time."""
        return replace(self.usage, llm_calls=1, duration_ms=self.latency_ms)


def failed(reason: str) -> Answer:
    """The answer of a request that got none."""
    return Answer(None, None, Usage(), None, None, cached=False, error=reason)


def is_completion(response: Any) -> bool:
    """Whether a JSON value is the API's answer, usable or not: what is worth keeping."""
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    return isinstance(choices[0].get("message"), dict)


def read_answer(
    response: Mapping[str, Any], tools: Sequence[ToolSpec], latency_ms: float, *, cached: bool
) -> Answer:
    """Read a completion (`is_completion`)."""
    choice = response["choices"][0]
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else None
    usage = parse_usage(response.get("usage"))
    found = _decide(choice["message"], finish, {tool.name for tool in tools})
    if isinstance(found, str):
        return Answer(None, None, usage, latency_ms, finish, cached, found)
    decision, words = found
    return Answer(decision, words, usage, latency_ms, finish, cached, None)


def _decide(
    message: Mapping[str, Any], finish: str | None, offered: set[str]
) -> tuple[Decision, str | None] | str:
    """The decision and its words, or why there is none."""
    try:
        said = parse_message({**message, "role": "assistant"}, "message")
    except ValueError as error:
        return f"malformed answer: {error}"
    if finish == "content_filter":
        return "content filter"
    if finish == "length" and (said.calls or not (said.content or "").strip()):
        return "cut off: the answer is longer than max_tokens"
    unknown = [call.name for call in said.calls if call.name not in offered]
    if unknown:
        return f"unknown tool: {unknown[0][:100]!r}"
    # A server that sends null for a call without arguments means none, not that it left them open.
    calls = tuple(
        call if call.arguments is not None else replace(call, arguments={}) for call in said.calls
    )
    return Decision("call" if calls else "reply", calls), said.content
