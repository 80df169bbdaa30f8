"""Logs of OpenAI chat completions: one request with its response a line.

    request    under `request`, `body`, `input` or `kwargs`, or as the row's own keys; a list is
               taken for `messages` (with the row's `tools`)
    response   under `response` or `output`: a completion, a list of its stream's chunks, or the
               assistant's message alone

Either may be JSON in a string, or an HTTP record with the JSON under `body` (the Batch API's form).
A row may add `id` or `custom_id`, `group`, `task_id`, `source`, `outcome`, and `duration_ms` or
`latency_ms`.

Every request of a conversation repeats the messages before it, so a row whose messages extend
those of an open conversation (of the same group, where rows state one) continues that trace. The
latest `OPEN_CONVERSATIONS` are open, and fewer when their rows sum to more than `OPEN_BYTES`; the
one longest untouched is closed first. A conversation that goes on after that, or whose earlier
messages were edited or trimmed, starts a second trace. A trace offers all the tools that any of
its requests offered (the latest definition of a name), its usage sums over the rows (None where a
row does not say), and several models are joined by `+`. `tool_choice` is not read: a forced call
counts as the teacher's own.

Files and their lines are not known here.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from distill.chat import canonical, parse_message, parse_messages, parse_outcome, parse_usage
from distill.traces.catalogues import Catalogues
from distill.traces.rows import Found, Row, Tally, check_depth, check_messages, group_key, key_text
from distill.types import Message, Outcome, ToolSpec, Trace, Usage

OPEN_CONVERSATIONS = 4096
OPEN_BYTES = 256 * 1024 * 1024

_REQUEST_KEYS = ("request", "body", "input", "kwargs")
_RESPONSE_KEYS = ("response", "output")
_DURATION_KEYS = ("duration_ms", "latency_ms")


def is_log(value: dict[str, Any]) -> bool:
    """Whether a row looks like a request with its response."""
    if "messages" in value:
        # A trace may carry a key of such a name for itself; a completion in it tells the log.
        return any(_holds_choices(value.get(key)) for key in _RESPONSE_KEYS)
    response = any(value.get(key) is not None for key in _RESPONSE_KEYS)
    return response and any(value.get(key) is not None for key in _REQUEST_KEYS)


def _holds_choices(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and "choices" in first


def read_conversations(
    rows: Iterable[Row], *, name: str, catalogues: Catalogues, group_by: str | None, tally: Tally
) -> Iterator[Found]:
    """Join rows into conversations, each yielded when it is closed (all are, at the end)."""
    open_ = _OpenConversations()
    for row in rows:
        try:
            exchange = _exchange(row, catalogues, tally)
            group = group_key(row.value, group_by, "")
            latest = _conversation(row, exchange, group, name)
        except ValueError as error:
            tally.reject(row.line, str(error))
            continue
        keys = _prefix_keys(latest.trace.messages, group)
        earlier = open_.take(keys[:-1])
        yield from open_.put(latest if earlier is None else _joined(earlier, latest), keys[-1])
    yield from open_.close()


@dataclass(frozen=True)
class _Exchange:
    """One request and the assistant message that answered it."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    model: str
    response_id: str | None
    usage: Any


@dataclass(frozen=True)
class _Conversation:
    """A trace that may still grow; `size` is its latest row's length in bytes."""

    trace: Trace
    line: int
    size: int


def _exchange(row: Row, catalogues: Catalogues, tally: Tally) -> _Exchange:
    value = row.value
    request = _request(value)
    response = _response(value)
    messages = parse_messages(request.get("messages"))
    answer = parse_message(_answer(response), "response.message")
    if answer.role != "assistant":
        raise ValueError("response.message.role: not assistant")
    messages = (*messages, answer)
    check_messages(messages)
    tools = request.get("tools")
    exchange = _Exchange(
        messages=messages,
        tools=catalogues.parse(request.get("functions") if tools is None else tools),
        model=key_text(response, "model") or key_text(request, "model") or "unknown",
        response_id=key_text(response, "id"),
        usage=response.get("usage"),
    )
    if len(response["choices"]) > 1:
        tally.note("the response has several choices: the first is taken")
    return exchange


def _request(row: Mapping[str, Any]) -> dict[str, Any]:
    key = next((key for key in _REQUEST_KEYS if row.get(key) is not None), None)
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
    _refuse_error(row)
    key = next((key for key in _RESPONSE_KEYS if row.get(key) is not None), None)
    if key is None:
        raise ValueError("no response")
    if isinstance(row[key], dict):
        _refuse_error(row[key])
    response = _body(row[key], key)
    if isinstance(response, list):
        return _assembled(response)
    if not isinstance(response, dict):
        raise ValueError(f"{key}: neither an object nor a list of chunks")
    _refuse_error(response)
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
    check_depth(parsed, place)
    return parsed


def _refuse_error(value: Mapping[str, Any]) -> None:
    """Raise ValueError with the API's code for a call that failed."""
    error, status = value.get("error"), value.get("status_code")
    if error:
        details = error if isinstance(error, dict) else {}
        code = details.get("code") or details.get("type")
        raise ValueError(f"response: an error ({code if isinstance(code, str) else 'no code'})")
    if isinstance(status, int) and status >= 400:
        raise ValueError(f"response: an error (status {status})")


def _answer(response: Mapping[str, Any]) -> dict[str, Any]:
    choice = response["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError("response.choices[0].message: missing")
    return {"role": "assistant"} | message


def _assembled(chunks: list[Any]) -> dict[str, Any]:
    """One completion from the chunks of its stream.

    The deltas' text and arguments are concatenated; of a call's other fields the first that is
    not empty counts (some servers repeat the name in every chunk). `usage` is the last stated.
    """
    whole: dict[str, Any] = {"choices": []}
    texts: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    finished = False
    indices: set[int] = set()
    for i, chunk in enumerate(chunks):
        if not isinstance(chunk, dict):
            raise ValueError(f"response[{i}]: a chunk that is not an object")
        _refuse_error(chunk)
        for key in ("id", "model", "usage"):
            whole[key] = chunk.get(key) or whole.get(key)
        for choice in _objects(chunk.get("choices"), f"response[{i}].choices"):
            index = choice.get("index", 0)
            if not isinstance(index, int):
                raise ValueError(f"response[{i}].choices: an index that is no number")
            indices.add(index)
            if index != 0:
                continue
            finished = finished or choice.get("finish_reason") is not None
            delta = choice.get("delta") or {}
            place = f"response[{i}].delta"
            if not isinstance(delta, dict):
                raise ValueError(f"{place}: not an object")
            texts.append(_string(delta.get("content"), f"{place}.content"))
            for part in _call_deltas(delta, place):
                _add_delta(calls, part, place)
    if not indices:
        raise ValueError("response: chunks without choices")
    if not finished:
        raise ValueError("response: a stream that ends early")
    message = {
        "role": "assistant",
        "content": "".join(texts) or None,
        "tool_calls": [calls[index] for index in sorted(calls)],
    }
    whole["choices"] = [{"message": message}] * len(indices)
    return whole


def _call_deltas(delta: dict[str, Any], place: str) -> list[dict[str, Any]]:
    parts = _objects(delta.get("tool_calls"), f"{place}.tool_calls")
    legacy = delta.get("function_call")
    return [*parts, {"index": 0, "function": legacy}] if legacy else parts


def _add_delta(calls: dict[int, dict[str, Any]], part: dict[str, Any], place: str) -> None:
    index, function = part.get("index", 0), part.get("function") or {}
    if not isinstance(index, int) or not isinstance(function, dict):
        raise ValueError(f"{place}.tool_calls: not calls with an index and a function")
    call = calls.setdefault(index, {"id": None, "function": {"name": "", "arguments": ""}})
    call["id"] = call["id"] or part.get("id")
    whole = call["function"]
    whole["name"] = whole["name"] or function.get("name") or ""
    whole["arguments"] += _string(function.get("arguments"), f"{place}.arguments")


def _objects(value: Any, place: str) -> list[dict[str, Any]]:
    items = value or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"{place}: not a list of objects")
    return items


def _string(value: Any, place: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: not text")
    return value or ""


def _conversation(row: Row, exchange: _Exchange, group: str, name: str) -> _Conversation:
    value = row.value
    stated = key_text(value, "custom_id") or key_text(value, "id") or exchange.response_id
    trace_id = stated or f"line-{row.line}"
    tokens = parse_usage(exchange.usage)
    durations = (value.get(key) for key in _DURATION_KEYS)
    duration = next((item for item in durations if isinstance(item, int | float)), None)
    trace = Trace(
        id=trace_id,
        group=group or trace_id,
        teacher=exchange.model,
        source=key_text(value, "source") or f"{name}:{row.line}",
        tools=exchange.tools,
        messages=exchange.messages,
        outcome=parse_outcome(value.get("outcome")),
        usage=Usage(tokens.input_tokens, tokens.output_tokens, 1, duration),
    )
    return _Conversation(trace, row.line, row.size)


def _joined(earlier: _Conversation, latest: _Conversation) -> _Conversation:
    """The earlier conversation's identity with the latest row's messages."""
    a, b = earlier.trace, latest.trace
    teachers = a.teacher.split("+")
    trace = Trace(
        id=a.id,
        group=a.group,
        teacher=a.teacher if b.teacher in teachers else f"{a.teacher}+{b.teacher}",
        source=a.source,
        tools=_all_tools(a.tools, b.tools),
        messages=b.messages,
        outcome=a.outcome if b.outcome == Outcome() else b.outcome,
        usage=_summed(a.usage, b.usage),
    )
    return _Conversation(trace, earlier.line, latest.size)


def _all_tools(a: tuple[ToolSpec, ...], b: tuple[ToolSpec, ...]) -> tuple[ToolSpec, ...]:
    if a is b or not b:
        return a
    return tuple({tool.name: tool for tool in (*a, *b)}.values())


def _summed(a: Usage, b: Usage) -> Usage:
    def total(x: Any, y: Any) -> Any:
        return None if x is None or y is None else x + y

    return Usage(
        total(a.input_tokens, b.input_tokens),
        total(a.output_tokens, b.output_tokens),
        total(a.llm_calls, b.llm_calls),
        total(a.duration_ms, b.duration_ms),
    )


def _prefix_keys(messages: tuple[Message, ...], seed: str) -> list[bytes]:
    """A hash of the first 1, 2, … n messages, equal for equal conversations.

    Clients repeat an assistant's `content: null` as an empty text and respell its arguments;
    neither makes another conversation.
    """
    key = seed.encode()
    keys = []
    for message in messages:
        calls = [[call.name, call.arguments, call.id] for call in message.calls]
        value = canonical([message.role, message.content or "", message.call_id, calls])
        key = hashlib.blake2b(key + value, digest_size=16).digest()
        keys.append(key)
    return keys


class _OpenConversations:
    """The conversations that may still grow, the one longest untouched first."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[bytes, _Conversation]] = {}
        self._by_key: dict[bytes, list[int]] = {}
        self._next = 0
        self._bytes = 0

    def take(self, keys: list[bytes]) -> _Conversation | None:
        """Remove and return the conversation that most of these prefixes, shortest first, hold.

        Of equal conversations the latest is taken.
        """
        number = next(
            (self._by_key[key][-1] for key in reversed(keys) if key in self._by_key), None
        )
        return None if number is None else self._remove(number)

    def put(self, conversation: _Conversation, key: bytes) -> Iterator[Found]:
        """Keep a conversation open; yields those that are closed to make room."""
        self._open[self._next] = (key, conversation)
        self._by_key.setdefault(key, []).append(self._next)
        self._next += 1
        self._bytes += conversation.size
        while len(self._open) > OPEN_CONVERSATIONS or (
            self._bytes > OPEN_BYTES and len(self._open) > 1
        ):
            yield self._closed()

    def close(self) -> Iterator[Found]:
        """Close all."""
        while self._open:
            yield self._closed()

    def _closed(self) -> Found:
        conversation = self._remove(next(iter(self._open)))
        return Found(conversation.trace, conversation.line)

    def _remove(self, number: int) -> _Conversation:
        key, conversation = self._open.pop(number)
        self._by_key[key].remove(number)
        if not self._by_key[key]:
            del self._by_key[key]
        self._bytes -= conversation.size
        return conversation
