"""DSPy's signatures, tools and histories <-> the core types: the only copy.

A program's inputs become the same messages where they are recorded and where they are routed, so
that what a router was trained on is what it is asked.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import dspy
import orjson
from dspy.utils.exceptions import format_error_for_lm
from pydantic_core import to_jsonable_python

from distill import history
from distill.chat import parse_tools
from distill.types import Message, ToolCall, ToolSpec


def tool_specs(tools: Iterable[dspy.Tool]) -> tuple[ToolSpec, ...]:
    """The tools as a request offers them; an argument without a default is required.

    Raises:
        ValueError: two of one name, or one that is no function with a name.
    """
    return parse_tools([tool.format_as_litellm_function_call() for tool in tools])


def as_text(value: Any) -> str:
    """A field's value or a tool's result as a message carries it: text as it is, else JSON, and
    what cannot be JSON as Python prints it."""
    if not isinstance(value, str):
        try:
            value = json.dumps(to_jsonable_python(value, fallback=str), ensure_ascii=False)
        except (ValueError, RecursionError):  # it holds itself
            value = str(value)
    # Half a surrogate pair is valid in a Python string, but in no file and no request.
    return str(value).encode("utf-8", "replace").decode()


def as_arguments(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A call's arguments as files hold them; None, not filled, where they cannot be JSON."""
    try:
        found = orjson.loads(orjson.dumps(to_jsonable_python(value, fallback=str)))
    except (TypeError, ValueError, RecursionError):  # whole numbers beyond 64 bits, half surrogates
        return None
    return found if isinstance(found, dict) else None


def failed(name: str, error: BaseException) -> str:
    """A call's result where its tool raised: DSPy's words, without the traceback, which is of no
    use to a router and names the paths of a machine."""
    return f"Execution error in {name}: {format_error_for_lm(error)}"


def asked(signature: type[dspy.Signature] | None, inputs: Mapping[str, Any]) -> tuple[Message, ...]:
    """What a program is asked, as a conversation.

    The signature's instructions are the system message, the turns of a `dspy.History` are earlier
    messages, and the other inputs are one user message: the only one's text, or a line for each.

    Args:
        signature: None where a program has none; then every input counts.
        inputs: as the program was called with; what is None, is a tool or, beside a signature, no
            field of it is left out.
    """
    known = signature.input_fields if signature else inputs
    fields = {
        name: value
        for name, value in inputs.items()
        if name in known and value is not None and not tools_in(value)
    }
    messages: tuple[Message, ...] = ()
    if signature:
        messages = (Message("system", signature.instructions),)
    for value in fields.values():
        for event in value.messages if isinstance(value, dspy.History) else ():
            messages = _with_event(messages, event, signature)
    request = {n: value for n, value in fields.items() if not isinstance(value, dspy.History)}
    return (*messages, Message("user", _lines(request)))


def replied(signature: type[dspy.Signature] | None, outputs: Mapping[str, Any]) -> str:
    """A program's outputs as the words of a reply; beside a signature its fields alone."""
    known = signature.output_fields if signature else outputs
    return _lines({name: value for name, value in outputs.items() if name in known})


def tools_in(value: Any) -> list[dspy.Tool]:
    """The tools that a value is or holds, as inputs and attributes of programs do."""
    if isinstance(value, Mapping):
        value = list(value.values())
    items = value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, dspy.Tool)]


def _with_event(
    messages: tuple[Message, ...], event: Mapping[str, Any], signature: type[dspy.Signature] | None
) -> tuple[Message, ...]:
    """The conversation with one event of a history: a request, calls made, a reply, or several."""
    answers = signature.output_fields if signature else {}
    request: dict[str, Any] = {}
    reply: dict[str, Any] = {}
    for name, value in event.items():
        if not isinstance(value, dspy.ToolCalls):
            (reply if name in answers else request)[name] = value
    if request:
        messages = (*messages, Message("user", _lines(request)))
    for value in event.values():
        if isinstance(value, dspy.ToolCalls):
            calls = [ToolCall(call.name, call.args, call.id) for call in value.tool_calls]
            found = value.tool_call_results.tool_call_results if value.tool_call_results else ()
            results = [as_text(result.value) for result in found] or [""] * len(calls)
            messages = history.synthetic(messages, calls, results)
    return (*messages, Message("assistant", _lines(reply))) if reply else messages


def _lines(fields: Mapping[str, Any]) -> str:
    if len(fields) == 1:
        return as_text(next(iter(fields.values())))
    return "\n".join(f"{name}: {as_text(value)}" for name, value in fields.items())
