"""The API's JSON <-> contexts and decisions, and which requests may be decided locally.

A request may be decided locally only if everything that it says is known to hold for the answer
too: a key that this module does not know sends it upstream. Nothing here does I/O.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any

import orjson

from distill.chat import call_json, check_json, parse_messages, parse_tools
from distill.config import LimitsConfig
from distill.history import synthetic
from distill.types import Context, Decision, ToolCall


class Obstacle(StrEnum):
    """Why the router is not asked, or its decision not used, whatever it is."""

    NOT_JSON = "not a JSON object"
    NO_TOOLS = "no tools on offer"
    TOOL_CHOICE = "tool_choice leaves no choice"
    SEVERAL = "several choices wanted"
    FORMAT = "a response format"
    PARTS = "messages with parts that are no text"
    UNREADABLE = "messages or tools that cannot be read"
    PREFILLED = "the last message is the assistant's"
    UNKNOWN_KEY = "a key that only the LLM knows"
    PARALLEL = "several calls, and the request allows one"


_HARMLESS = frozenset(
    (
        *("model", "messages", "tools", "stream", "stream_options", "temperature", "top_p"),
        *("max_tokens", "max_completion_tokens", "seed", "user", "presence_penalty"),
        *("frequency_penalty", "reasoning_effort", "verbosity", "service_tier", "metadata"),
        *("prompt_cache_key", "safety_identifier", "parallel_tool_calls", "top_k", "min_p"),
        *("tool_choice", "n", "response_format"),  # looked at one by one
    )
)
"""Keys under which a router's tool call is as right as the LLM's."""

_SETTLED = {"logprobs": False, "store": False, "stop": None, "logit_bias": None}
"""Further keys, harmless at this value."""


class LimitError(ValueError):
    """A request beyond a limit: an HTTP status, and words for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """What a body says.

    `body` is its JSON, None where it holds no object. `context` is None exactly where there is an
    `obstacle`. `session` ties the requests of one conversation together.
    """

    body: dict[str, Any] | None
    context: Context | None
    obstacle: Obstacle | None
    session: str

    @property
    def model(self) -> str:
        model = (self.body or {}).get("model")
        return model if isinstance(model, str) else ""

    @property
    def stream(self) -> bool:
        return (self.body or {}).get("stream") is True

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with a chunk that states the usage."""
        options = (self.body or {}).get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def one_call(self) -> bool:
        return (self.body or {}).get("parallel_tool_calls") is False


def read_request(content: bytes, limits: LimitsConfig, session: str | None, client: str) -> Request:
    """Read a chat-completions body; only a limit makes it fail.

    Args:
        session: what the client calls its conversation; None: it is known by its messages up to the
            first of the user, and by the client's name.

    Raises:
        LimitError: more messages or tools, or deeper, than the limits allow.
    """
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        return Request(None, None, Obstacle.NOT_JSON, _session(session, client, []))
    _check_limits(body, limits)
    messages = body.get("messages")
    key = _session(session, client, messages if isinstance(messages, list) else [])
    try:
        # orjson has read a number beyond 64 bits as a double by now: no argument may hold it.
        check_json(body, content, "body")
        obstacle = _obstacle(body)
        context = Context(parse_messages(body.get("messages")), parse_tools(body.get("tools")))
    except (ValueError, RecursionError):
        return Request(body, None, Obstacle.UNREADABLE, key)
    if obstacle is None and context.messages[-1].role == "assistant":
        obstacle = Obstacle.PREFILLED
    return Request(body, None if obstacle else context, obstacle, key)


def _check_limits(body: Mapping[str, Any], limits: LimitsConfig) -> None:
    for key, most in (("messages", limits.messages), ("tools", limits.tools)):
        value = body.get(key)
        if isinstance(value, list) and len(value) > most:
            raise LimitError(413, f"more than {most} {key}")
    level: list[Any] = [body]
    for _ in range(limits.depth):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise LimitError(400, f"nested deeper than {limits.depth} levels")


def _obstacle(body: Mapping[str, Any]) -> Obstacle | None:
    """What keeps a request from being decided locally, before its messages are read."""
    messages = body.get("messages")
    unknown = (key for key, value in body.items() if key not in _HARMLESS and value is not None)
    obstacles = {
        Obstacle.UNKNOWN_KEY: any(body[key] != _SETTLED.get(key) for key in unknown),
        Obstacle.NO_TOOLS: not body.get("tools"),
        Obstacle.TOOL_CHOICE: body.get("tool_choice") not in (None, "auto", "required"),
        Obstacle.SEVERAL: body.get("n") not in (None, 1),
        Obstacle.FORMAT: body.get("response_format") not in (None, {"type": "text"}),
        Obstacle.PARTS: any(map(_has_parts, messages if isinstance(messages, list) else [])),
    }
    return next((obstacle for obstacle, there in obstacles.items() if there), None)


def _has_parts(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    return any(not isinstance(part, dict) or part.get("type") != "text" for part in parts)


def _session(stated: str | None, client: str, messages: Sequence[Any]) -> str:
    """Of a conversation: the same at each of its requests, and no text that could be read."""
    if stated is not None:
        return sha256(f"{client}\0{stated}".encode()).hexdigest()[:32]
    opening = []
    for message in messages:
        opening.append(message)
        if isinstance(message, dict) and message.get("role") == "user":
            break
    return sha256(client.encode() + b"\0" + orjson.dumps(opening)).hexdigest()[:32]


def made_calls(context: Context, decision: Decision) -> tuple[ToolCall, ...]:
    """The decision's calls with the ids under which the client's next request will carry them.

    They are those of the synthetic history, so the same request gets the same ids.
    """
    answer = synthetic(context.messages, decision.calls, [None] * len(decision.calls))[-1]
    return answer.calls


def completion(
    request: Request, calls: Sequence[ToolCall], request_id: str, created: int
) -> dict[str, Any]:
    """The calls as the completion that an LLM would have answered.

    Its usage is zero: no token was paid for.
    """
    message = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [call_json(call) for call in calls],
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}
    return _head(request, request_id, created, "chat.completion") | {
        "choices": [choice],
        "usage": _FREE,
    }


def chunks(
    request: Request, calls: Sequence[ToolCall], request_id: str, created: int
) -> Iterator[bytes]:
    """The same as the events of a stream, in the steps in which an LLM's arrive."""
    head = _head(request, request_id, created, "chat.completion.chunk")
    if request.with_usage:
        head["usage"] = None

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(head | {"choices": [choice]})

    for i, call in enumerate(calls):
        whole = call_json(call)
        arguments = whole["function"]["arguments"]
        opened = {"index": i, **whole, "function": whole["function"] | {"arguments": ""}}
        role = {} if i else {"role": "assistant", "content": None}
        yield event({**role, "tool_calls": [opened]})
        yield event({"tool_calls": [{"index": i, "function": {"arguments": arguments}}]})
    yield event({}, "tool_calls")
    if request.with_usage:
        yield _event(head | {"choices": [], "usage": _FREE})
    yield DONE


DONE = b"data: [DONE]\n\n"
"""How a stream of events ends."""

_FREE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _head(request: Request, request_id: str, created: int, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{request_id}",
        "object": kind,
        "created": created,
        "model": request.model,
    }


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def error_body(message: str, kind: str, code: str | None = None) -> bytes:
    """An error as the API words its own."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return orjson.dumps({"error": error})


def without_tools(request: Request) -> bytes:
    """The request for an LLM that is only to find words: the same without tool definitions.

    Calls and results stay in its history, where an LLM expects them.
    """
    assert request.body is not None
    kept = {k: v for k, v in request.body.items() if k not in _OF_TOOLS}
    return orjson.dumps(kept)


_OF_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
