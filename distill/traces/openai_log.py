"""Logs of OpenAI chat completions: one request with its response a line, as `exchange` reads them.

A row may add `id` or `custom_id`, `group`, `task_id`, `source`, `outcome`, and `duration_ms` or
`latency_ms`. Of the keys beside these, a trace keeps those on which all its rows agree.

Every request of a conversation repeats the messages before it, so a row whose messages extend
those of an open conversation (of the same group, where rows state one) continues that trace. Only
the logged responses are the teacher's decisions (`Trace.decisions`): other assistant messages are
demonstrations in a prompt, or answers that are decisions of another trace. A turn that was
regenerated, a fork, a conversation whose earlier messages were edited or trimmed, and one that goes
on after it was closed start another trace, which only a group key can tie to the first.

A trace offers all the tools that any of its requests offered (the latest definition of a name), its
usage sums over the rows (None where a row does not say), and several models are joined by `+`.
`tool_choice` is not read: a forced call counts as the teacher's own.

The latest `OPEN_CONVERSATIONS` are open, and fewer when the rows they were last extended by sum to
more than `OPEN_BYTES`; the one longest untouched is closed first. Parsed, they take one to eight
times those bytes: long texts least, arguments logged as objects most.

Files and their lines are not known here.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from distill.chat import MAX_AMOUNT, canonical, parse_outcome, parse_usage
from distill.traces.catalogues import Catalogues
from distill.traces.exchange import EXCHANGE_KEYS, Exchange, read_exchange
from distill.traces.repeats import Repeats
from distill.traces.rows import Found, LineTally, Row, group_key, key_text
from distill.types import Message, Outcome, ToolSpec, Trace, Usage

OPEN_CONVERSATIONS = 4096
OPEN_BYTES = 256 * 1024 * 1024

_DURATION_KEYS = ("duration_ms", "latency_ms")
# `decisions` and `tools_ref` are a trace's own words: a log's key of that name means another thing.
_OWN_KEYS = EXCHANGE_KEYS | {
    *("id", "custom_id", "group", "source", "outcome", "model", "usage", "decisions", "tools_ref"),
    *_DURATION_KEYS,
}

_UNRECORDED = "assistant turns without a logged response (a fork, trimmed, demonstrations): context"
_UNTIED = f"{_UNRECORDED}; tie pieces of one conversation with --group-by"


def read_conversations(
    rows: Iterable[Row],
    *,
    name: str,
    catalogues: Catalogues,
    group_by: str | None,
    tally: LineTally,
) -> Iterator[Found]:
    """Join rows into conversations, each yielded when it is closed (all are, at the end)."""
    open_ = _OpenConversations()
    with closing(Repeats()) as repeats:
        for row in rows:
            try:
                exchange = read_exchange(row.value, catalogues)
                group = group_key(row.value, group_by, "")
                latest = _conversation(row, exchange, group, name, repeats)
            except ValueError as error:
                tally.reject(row.line, str(error))
                continue
            for note in exchange.notes:
                tally.note(note)
            keys = _prefix_keys(latest.trace.messages, group)
            earlier = open_.take(keys[:-1])
            if earlier is None and any(m.role == "assistant" for m in exchange.messages[:-1]):
                tally.note(_UNRECORDED if group else _UNTIED)
            yield from open_.put(latest if earlier is None else _joined(earlier, latest), keys[-1])
    yield from open_.close()


@dataclass(frozen=True)
class _Conversation:
    """A trace that may still grow.

    `size` is its latest row's length in bytes; `extra` are the keys on which its rows agree.
    """

    trace: Trace
    line: int
    size: int
    extra: Mapping[str, Any]


def _conversation(
    row: Row, exchange: Exchange, group: str, name: str, repeats: Repeats
) -> _Conversation:
    """A conversation of one row; raises ValueError for a row that came before."""
    value = row.value
    stated = key_text(value, "custom_id") or key_text(value, "id") or exchange.response_id
    source = key_text(value, "source") or f"{name}:{row.line}"
    outcome = parse_outcome(value.get("outcome"))
    tokens = parse_usage(exchange.usage)
    duration = parse_usage({key: value.get(key) for key in _DURATION_KEYS}).duration_ms
    # The last check, so that a row is only ever the same as one that was used.
    digest = repeats.check(row)
    trace_id = stated or f"row-{digest}"
    trace = Trace(
        id=trace_id,
        group=group or trace_id,
        teacher=exchange.model,
        source=source,
        tools=exchange.tools,
        messages=exchange.messages,
        outcome=outcome,
        usage=replace(tokens, llm_calls=1, duration_ms=duration),
        decisions=(len(exchange.messages) - 1,),
    )
    extra = {key: item for key, item in value.items() if key not in _OWN_KEYS}
    return _Conversation(trace, row.line, row.size, extra)


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
        # The earlier messages are a prefix of the latest's, so their positions stand.
        decisions=(*(a.decisions or ()), *(b.decisions or ())),
    )
    extra = {k: v for k, v in earlier.extra.items() if k in latest.extra and latest.extra[k] == v}
    return _Conversation(trace, earlier.line, latest.size, extra)


def _all_tools(a: tuple[ToolSpec, ...], b: tuple[ToolSpec, ...]) -> tuple[ToolSpec, ...]:
    if a is b or not b:
        return a
    return tuple({tool.name: tool for tool in (*a, *b)}.values())


def _summed(a: Usage, b: Usage) -> Usage:
    def total(x: Any, y: Any) -> Any:
        return None if x is None or y is None or x + y > MAX_AMOUNT else x + y

    return Usage(
        total(a.input_tokens, b.input_tokens),
        total(a.output_tokens, b.output_tokens),
        total(a.llm_calls, b.llm_calls),
        total(a.duration_ms, b.duration_ms),
        total(a.cached_tokens, b.cached_tokens),
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
        return Found(conversation.trace, conversation.line, conversation.extra)

    def _remove(self, number: int) -> _Conversation:
        key, conversation = self._open.pop(number)
        self._by_key[key].remove(number)
        if not self._by_key[key]:
            del self._by_key[key]
        self._bytes -= conversation.size
        return conversation
