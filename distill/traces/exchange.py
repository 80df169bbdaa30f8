"""One row of a log: a request and the assistant's message that answered it.

    request    under `request`, `body`, `input` or `kwargs`, or as the row's own keys; a list is
               taken for `messages` (with the row's `tools`)
    response   under `response` or `output`: a completion, a list of its stream's chunks, or the
               assistant's message alone

Either may be JSON in a string, or an HTTP record with the JSON under `body` (the Batch API's form).
How rows belong together is not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from distill.chat import check_json, parse_message, parse_messages
from distill.traces.catalogues import Catalogues
from distill.traces.rows import check_messages, key_text
from distill.traces.stream import assembled, refuse_error, stated_error
from distill.types import Message, ToolSpec

_REQUEST_KEYS = ("request", "body", "input", "kwargs")
_RESPONSE_KEYS = ("response", "output")
_FAULT_KEYS = ("error", "status_code")

EXCHANGE_KEYS = {*_REQUEST_KEYS, *_RESPONSE_KEYS, *_FAULT_KEYS, "messages", "tools", "functions"}
"""The keys of a row that hold the exchange itself."""


@dataclass(frozen=True)
class Exchange:
    """What was sent and what came back.

    The last of `messages` is the answer; `usage` is the API's, as logged; `notes` tell what of the
    request's history was read otherwise than it stands.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    model: str
    response_id: str | None
    usage: Any
    notes: frozenset[str]


def read_exchange(value: Mapping[str, Any], catalogues: Catalogues) -> Exchange:
    """Read a row of a log.

    The history of a request may hold what cannot be read: every later request of the conversation
    repeats it, and only its own row is lost for it. In the answer it is a fault.

    Raises ValueError for a row without a request or a usable answer.
    """
    request = _request(value)
    response = _response(value)
    notes: set[str] = set()
    messages = parse_messages(request.get("messages"), notes.add)
    answer = parse_message(_answer(response), "response.message")
    if answer.role != "assistant":
        raise ValueError("response.message.role: not assistant")
    messages = (*messages, answer)
    check_messages(messages)
    if len(response["choices"]) > 1:
        notes.add("the response has several choices: the first is taken")
    tools = request.get("tools")
    return Exchange(
        messages=messages,
        tools=catalogues.parse(request.get("functions") if tools is None else tools),
        model=key_text(response, "model") or key_text(request, "model") or "unknown",
        response_id=key_text(response, "id"),
        usage=response.get("usage"),
        notes=frozenset(notes),
    )


def exchange_shape(value: Mapping[str, Any]) -> Literal["yes", "failed", "no"]:
    """Whether a row looks like a request with its response.

    "failed": with none, or with an error in its place. That may as well be a trace with keys of
    such names for itself.
    """
    flat = "messages" in value
    if not flat and all(value.get(key) is None for key in _REQUEST_KEYS):
        return "no"
    key = _stated(value, _RESPONSE_KEYS)
    if key is None:
        missing = any(key in value for key in _RESPONSE_KEYS) or stated_error(value) is not None
        return "failed" if missing else "no"
    return _response_shape(value[key]) if flat else "yes"


def _response_shape(value: Any) -> Literal["yes", "failed", "no"]:
    """Beside `messages`, only a response that is unmistakable makes a row of a log."""
    record = value if isinstance(value, dict) else {}
    try:
        value = _body(value, "")
    except ValueError:
        return "no"
    if isinstance(value, dict) and ("choices" in value or value.get("role") == "assistant"):
        return "yes"
    parts = value if isinstance(value, list) else [value]
    objects_ = [part for part in parts if isinstance(part, dict)]
    if isinstance(value, list) and any("choices" in part for part in objects_):
        return "yes"
    nothing = value is None or value == []
    failed = nothing or any(stated_error(part) is not None for part in [record, *objects_])
    return "failed" if failed else "no"


def _stated(row: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of the keys that is there and not null."""
    return next((key for key in keys if row.get(key) is not None), None)


def _request(row: Mapping[str, Any]) -> dict[str, Any]:
    key = _stated(row, _REQUEST_KEYS)
    if key is None:
        if "messages" not in row:
            raise ValueError("no request")
        return dict(row)
    request = _body(row[key], key)
    if isinstance(request, list):
        return {"messages": request, "tools": row.get("tools"), "model": row.get("model")}
    if not isinstance(request, dict):
        raise ValueError(f"{key}: neither an object nor a list of messages")
    return request


def _response(row: Mapping[str, Any]) -> dict[str, Any]:
    """The response as a completion: an object with a non-empty list of `choices`."""
    refuse_error(row)
    key = _stated(row, _RESPONSE_KEYS)
    if key is None:
        raise ValueError("no response")
    if isinstance(row[key], dict):
        refuse_error(row[key])
    response = _body(row[key], key)
    if isinstance(response, list):
        return assembled(response)
    if not isinstance(response, dict):
        raise ValueError(f"{key}: neither an object nor a list of chunks")
    refuse_error(response)
    if "choices" not in response and "role" in response:
        return {"choices": [{"message": response}]}
    choices = response.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError("response.choices: missing or empty")
    return response


def _body(value: Any, place: str) -> Any:
    """Undo JSON in a string and the HTTP record around the JSON."""
    value = _from_text(value, place)
    if isinstance(value, dict) and "body" in value:
        return _from_text(value["body"], f"{place}.body")
    return value


def _from_text(value: Any, place: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise ValueError(f"{place}: text that is not JSON") from None
    check_json(parsed, value, place)
    return parsed


def _answer(response: Mapping[str, Any]) -> dict[str, Any]:
    choice = response["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError("response.choices[0].message: missing")
    return {"role": "assistant"} | message
