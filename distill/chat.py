"""The OpenAI chat JSON form of the core types: the only parser and the only writer.

Readers of trace files, datasets on disk, the gateway and the decoder's chat template all meet
the same JSON; none of them parses it on its own. Faults name the place inside the JSON value
(`messages[3].tool_calls[0]`) and raise plain `ValueError`, to which the caller adds file and line.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from distill.types import Decision, Message, Outcome, Role, ToolCall, ToolSpec, Trace, Usage

Note = Callable[[str], None]
"""Told, with its place, what was read otherwise than it stands."""

# jsonschema spends some six stack frames a level, and Python has a thousand.
MAX_DEPTH = 64

MAX_AMOUNT = 2**53
"""Bound of a count of tokens or calls and of a duration in ms: exact in a double, and a sum of a
few hundred still fits 64 bits. No real figure comes near it."""

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


def parse_messages(value: Any, note: Note | None = None) -> tuple[Message, ...]:
    """Read a `messages` list; text parts are joined.

    Args:
        value: the list.
        note: with it, two faults cost less than the whole list and are told to it instead: content
            parts that are no text are left out, and a call whose arguments cannot be read becomes
            one that is not filled.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("messages: missing or empty")
    return tuple(parse_message(item, f"messages[{i}]", note) for i, item in enumerate(value))


def parse_message(value: Any, place: str = "message", note: Note | None = None) -> Message:
    """Read one chat message of any role; `note` as in `parse_messages`."""
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
    content = _parse_content(content, place, note)
    calls = _parse_calls(value, place, note) if role == "assistant" else ()
    if content is None and not calls and role != "assistant":
        raise ValueError(f"{place}: no content")
    return Message(role, content, calls)


def _parse_content(content: Any, place: str, note: Note | None) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = []
        for i, part in enumerate(content):
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                texts.append(part["text"])
            else:
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                fault = f"{place}.content[{i}]: {kind!r} parts are not supported"
                if note is None:
                    raise ValueError(fault)
                note(f"{fault}, left out")
        return "\n".join(texts)
    raise ValueError(f"{place}.content: neither text nor a list of parts")


def _parse_result(content: Any) -> str:
    """A tool's result as text: frameworks also log the bare JSON value the tool returned."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and "text" in p for p in content):
        return "\n".join(str(part["text"]) for part in content)
    return "" if content is None else orjson.dumps(content).decode()


def _parse_calls(message: dict[str, Any], place: str, note: Note | None) -> tuple[ToolCall, ...]:
    raw = message.get("tool_calls") or []
    if not raw and message.get("function_call"):
        raw = [{"function": message["function_call"]}]
    if not isinstance(raw, list):
        raise ValueError(f"{place}.tool_calls: not a list")
    return tuple(parse_call(item, f"{place}.tool_calls[{i}]", note) for i, item in enumerate(raw))


def parse_call(value: Any, place: str = "tool call", note: Note | None = None) -> ToolCall:
    """Read one tool call; arguments may be a JSON string (as the API sends them) or an object.

    `note` as in `parse_messages`.
    """
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{place}: not a function call with a name")
    try:
        arguments = _parse_arguments(function.get("arguments"), f"{place}.arguments")
    except ValueError as error:
        if note is None:
            raise
        note(f"{error}, read as not filled")
        arguments = None
    call_id = value.get("id")
    return ToolCall(function["name"], arguments, call_id if isinstance(call_id, str) else None)


def _parse_arguments(value: Any, place: str) -> dict[str, Any] | None:
    if isinstance(value, str):
        text = value if value.strip() else "{}"
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ValueError(f"{place}: not JSON") from None
        check_json(value, text, place)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{place}: not a JSON object")
    return value


def check_json(value: Any, text: str | bytes, place: str) -> None:
    """Raise ValueError where `value`, parsed from the JSON `text`, cannot be relied on.

    Lists and objects must not nest deeper than schema validation can follow, and orjson would read
    a whole number beyond 64 bits as the nearest double: another card number, say.
    """
    level: list[Any] = [[value]]
    huge = False
    for _ in range(MAX_DEPTH + 2):
        inside = []
        for node in level:
            for child in node.values() if type(node) is dict else node:
                kind = type(child)
                if kind is dict or kind is list:
                    inside.append(child)
                elif kind is float and not -(2**63) < child < 2**63:
                    huge = True
        level = inside
        if not level:
            break
    else:
        raise ValueError(f"{place}: nested deeper than {MAX_DEPTH} levels")
    if huge:
        # Written with a point or an exponent it is a double, and stands for no other number.
        json.loads(text, parse_int=lambda digits: _check_digits(digits, place))


def _check_digits(digits: str, place: str) -> None:
    # The length first: Python refuses to convert thousands of digits, in words of its own.
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"{place}: a whole number beyond 64 bits")


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
    """The decision for files of ours; `error` and `usage` only where there is one."""
    value: dict[str, Any] = {
        "action": decision.action,
        "calls": [call_json(call) for call in decision.calls],
        "confidence": decision.confidence,
        "scores": dict(decision.scores),
        "stage": decision.stage,
    }
    if decision.error is not None:
        value["error"] = decision.error
    if decision.usage is not None:
        value["usage"] = usage_json(decision.usage)
    return value


def parse_decision(value: Mapping[str, Any]) -> Decision:
    """Inverse of `decision_json`."""
    return Decision(
        value["action"],
        tuple(parse_call(call) for call in value["calls"]),
        value.get("confidence"),
        value.get("scores") or {},
        value.get("stage"),
        value.get("error"),
        None if value.get("usage") is None else parse_usage(value["usage"]),
    )


def usage_json(usage: Usage) -> dict[str, Any]:
    """The usage under our names; `cached_tokens` only where it is known."""
    value = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "llm_calls": usage.llm_calls,
        "duration_ms": usage.duration_ms,
    }
    cached = usage.cached_tokens
    return value if cached is None else value | {"cached_tokens": cached}


def trace_json(trace: Trace) -> dict[str, Any]:
    """The trace as one line of a trace file; `decisions` only where the trace states them."""
    value = {
        "id": trace.id,
        "group": trace.group,
        "model": trace.teacher,
        "source": trace.source,
        "tools": [tool_json(tool) for tool in trace.tools],
        "messages": [message_json(message) for message in trace.messages],
        "outcome": {"success": trace.outcome.success, "reward": trace.outcome.reward},
        "usage": usage_json(trace.usage),
    }
    return value if trace.decisions is None else value | {"decisions": list(trace.decisions)}


def parse_decisions(value: Any, messages: Sequence[Message]) -> tuple[int, ...] | None:
    """Read `decisions`: the positions of the recorded decisions among the messages, ascending."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(_is_assistants(item, messages) for item in value):
        raise ValueError("decisions: not a list of positions of assistant messages")
    return tuple(sorted(set(value)))


def _is_assistants(item: Any, messages: Sequence[Message]) -> bool:
    inside = type(item) is int and 0 <= item < len(messages)
    return inside and messages[item].role == "assistant"


def parse_outcome(value: Any) -> Outcome:
    """Read `outcome`: an object with `success`, `reward` or both, or the bare verdict.

    A verdict is true or false, 1 or 0; null is "not graded". A word for it is refused, since a
    failure taken for "not graded" would teach.
    """
    if not isinstance(value, dict):
        return Outcome(_verdict(value, "outcome"))
    if value and not value.keys() & {"success", "reward"}:
        raise ValueError("outcome: neither success nor reward in it")
    reward = value.get("reward")
    if reward is not None and not _is_number(reward):
        raise ValueError("outcome.reward: not a number")
    return Outcome(
        _verdict(value.get("success"), "outcome.success"), None if reward is None else float(reward)
    )


def _verdict(value: Any, place: str) -> bool | None:
    if value is None:
        return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{place}: neither true nor false")


def parse_usage(value: Any) -> Usage:
    """Read `usage` under our names or the API's (`prompt_tokens`, `completion_tokens`,
    `prompt_tokens_details.cached_tokens`).

    What is no number from 0 to `MAX_AMOUNT` is not known, and so is a count with a fraction.
    """
    if not isinstance(value, dict):
        return Usage()

    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    stated = {"cached_tokens": cached, **value}

    def amount(*names: str) -> float | None:
        numbers = (stated.get(name) for name in names)
        found = next((number for number in numbers if _is_number(number)), None)
        return found if found is not None and 0 <= found <= MAX_AMOUNT else None

    def count(*names: str) -> int | None:
        found = amount(*names)
        return int(found) if found is not None and found == int(found) else None

    return Usage(
        count("input_tokens", "prompt_tokens"),
        count("output_tokens", "completion_tokens"),
        count("llm_calls"),
        amount("duration_ms", "latency_ms"),
        count("cached_tokens"),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
