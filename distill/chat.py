"""The OpenAI chat JSON form of the core types: the only parser and the only writer.

Readers of trace files, datasets on disk, the gateway and the decoder's chat template all meet
the same JSON; none of them parses it on its own. Faults name the place inside the JSON value
(`messages[3].tool_calls[0]`) and raise plain `ValueError`, to which the caller adds file and line.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from distill.types import Decision, Message, Outcome, Role, ToolCall, ToolSpec, Trace, Usage

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def parse_tools(value: Any) -> tuple[ToolSpec, ...]:
    """Read a request's `tools` (or legacy `functions`) list."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError("tools: not a list")
    tools = []
    for i, item in enumerate(value):
        spec = item.get("function", item) if isinstance(item, dict) else None
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str) or not spec["name"]:
            raise ValueError(f"tools[{i}]: not a function with a name")
        parameters = spec.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f"tools[{i}].parameters: not a JSON Schema object")
        tools.append(ToolSpec(spec["name"], str(spec.get("description") or ""), parameters))
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"tools: {twice!r} is offered twice")
    return tuple(tools)


def parse_messages(value: Any) -> tuple[Message, ...]:
    """Read a `messages` list; text parts are joined, other content parts are refused."""
    if not isinstance(value, list) or not value:
        raise ValueError("messages: missing or empty")
    return tuple(parse_message(item, f"messages[{i}]") for i, item in enumerate(value))


def parse_message(value: Any, place: str = "message") -> Message:
    """Read one chat message of any role."""
    if not isinstance(value, dict):
        raise ValueError(f"{place}: not an object")
    role = _ROLES.get(str(value.get("role")))
    if role is None:
        raise ValueError(f"{place}.role: unknown role {value.get('role')!r}")
    if role == "tool":
        name, call_id = value.get("name"), value.get("tool_call_id")
        return Message(
            role,
            _parse_result(value.get("content")),
            name=name if isinstance(name, str) else None,
            call_id=call_id if isinstance(call_id, str) else None,
        )
    content = value.get("content")
    if role == "assistant" and isinstance(content, bool | int | float | dict):
        content = _parse_result(content)  # a final answer that a framework logged as a bare value
    content = _parse_content(content, place)
    calls = _parse_calls(value, place) if role == "assistant" else ()
    if content is None and not calls and role != "assistant":
        raise ValueError(f"{place}: no content")
    return Message(role, content, calls)


def _parse_content(content: Any, place: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = []
        for i, part in enumerate(content):
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                texts.append(part["text"])
            else:
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise ValueError(f"{place}.content[{i}]: {kind!r} parts are not supported")
        return "\n".join(texts)
    raise ValueError(f"{place}.content: neither text nor a list of parts")


def _parse_result(content: Any) -> str:
    """A tool's result as text: frameworks also log the bare JSON value the tool returned."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and "text" in p for p in content):
        return "\n".join(str(part["text"]) for part in content)
    return "" if content is None else orjson.dumps(content).decode()


def _parse_calls(message: dict[str, Any], place: str) -> tuple[ToolCall, ...]:
    raw = message.get("tool_calls") or []
    if not raw and message.get("function_call"):
        raw = [{"function": message["function_call"]}]
    if not isinstance(raw, list):
        raise ValueError(f"{place}.tool_calls: not a list")
    return tuple(parse_call(item, f"{place}.tool_calls[{i}]") for i, item in enumerate(raw))


def parse_call(value: Any, place: str = "tool call") -> ToolCall:
    """Read one tool call; arguments may be a JSON string (as the API sends them) or an object."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{place}: not a function call with a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments) if arguments.strip() else {}
        except orjson.JSONDecodeError:
            raise ValueError(f"{place}.arguments: not JSON") from None
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError(f"{place}.arguments: not a JSON object")
    call_id = value.get("id")
    return ToolCall(function["name"], arguments, call_id if isinstance(call_id, str) else None)


def tool_json(tool: ToolSpec) -> dict[str, Any]:
    """The tool as a request offers it."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        },
    }


def call_json(call: ToolCall) -> dict[str, Any]:
    """The call as the API returns it, arguments as a JSON string (null when not filled)."""
    arguments = None if call.arguments is None else orjson.dumps(call.arguments).decode()
    function = {"name": call.name, "arguments": arguments}
    return {"type": "function", "function": function} | ({"id": call.id} if call.id else {})


def message_json(message: Message) -> dict[str, Any]:
    """The message as a request carries it; fields that are not set are left out."""
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        value["tool_calls"] = [call_json(call) for call in message.calls]
    if message.name is not None:
        value["name"] = message.name
    if message.call_id is not None:
        value["tool_call_id"] = message.call_id
    return value


def decision_json(decision: Decision) -> dict[str, Any]:
    """The decision for files of ours: action, calls, confidence, scores."""
    return {
        "action": decision.action,
        "calls": [call_json(call) for call in decision.calls],
        "confidence": decision.confidence,
        "scores": dict(decision.scores),
    }


def parse_decision(value: Mapping[str, Any]) -> Decision:
    """Inverse of `decision_json`."""
    return Decision(
        value["action"],
        tuple(parse_call(call) for call in value["calls"]),
        value.get("confidence"),
        value.get("scores") or {},
    )


def trace_json(trace: Trace) -> dict[str, Any]:
    """The trace as one line of a trace file."""
    return {
        "id": trace.id,
        "group": trace.group,
        "model": trace.teacher,
        "source": trace.source,
        "tools": [tool_json(tool) for tool in trace.tools],
        "messages": [message_json(message) for message in trace.messages],
        "outcome": {"success": trace.outcome.success, "reward": trace.outcome.reward},
        "usage": {
            "input_tokens": trace.usage.input_tokens,
            "output_tokens": trace.usage.output_tokens,
            "llm_calls": trace.usage.llm_calls,
            "duration_ms": trace.usage.duration_ms,
        },
    }


def parse_outcome(value: Any) -> Outcome:
    """Read `outcome`; anything but a clear verdict is "not graded"."""
    if not isinstance(value, dict):
        return Outcome()
    success, reward = value.get("success"), value.get("reward")
    return Outcome(
        success if isinstance(success, bool) else None,
        float(reward) if isinstance(reward, int | float) else None,
    )


def parse_usage(value: Any) -> Usage:
    """Read `usage` under our names or the API's (`prompt_tokens`, `completion_tokens`)."""
    if not isinstance(value, dict):
        return Usage()

    def number(*names: str) -> Any:
        found = (value.get(name) for name in names)
        return next((v for v in found if isinstance(v, int | float)), None)

    return Usage(
        cast(int | None, number("input_tokens", "prompt_tokens")),
        cast(int | None, number("output_tokens", "completion_tokens")),
        cast(int | None, number("llm_calls")),
        cast(float | None, number("duration_ms")),
    )


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, whole floats as integers (`5.0` equals `5`)."""
    return orjson.dumps(_normal(value), option=orjson.OPT_SORT_KEYS)


def _normal(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value) if abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(key): _normal(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_normal(item) for item in value]
    return value


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def same_calls(a: Decision, b: Decision) -> bool:
    """Whether two decisions call the same tools with the same arguments, in any order."""
    return call_keys(a) == call_keys(b)


def call_keys(decision: Decision) -> list[bytes]:
    """The decision's calls as sorted canonical JSON: equal exactly for `same_calls`."""
    return sorted(canonical([call.name, call.arguments]) for call in decision.calls)
