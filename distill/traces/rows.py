"""From lines to JSON objects, and the tally of what became of each line.

What the objects mean is the formats' affair (`canonical`, `openai_log`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from distill.chat import MAX_DEPTH, Note, canonical, check_json
from distill.types import Message, Trace

OnReject = Callable[[int, str], None]
"""Told the number and the reason of a line that cannot be used."""

_MAX_REASON_CHARS = 160
# Reasons may quote a role or a tool's name; a hostile file must not make the tally grow for ever.
# Positions and line numbers are taken out, or every line would have a reason of its own.
_MAX_DISTINCT = 100


@dataclass
class LineTally:
    """What became of the lines: every one of them is used, filtered out or rejected."""

    on_reject: OnReject | None = None
    on_note: Note | None = None
    lines: int = 0
    filtered: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def reject(self, line: int, reason: str) -> None:
        """Count a line that cannot be used, under its reason without list positions."""
        reason = _short(reason)
        self.rejected += 1
        _count(self.reasons, reason, "other reasons")
        if self.on_reject is not None:
            self.on_reject(line, reason)

    def note(self, text: str) -> None:
        """Count something that was read in another way than it stands."""
        text = _short(text)
        _count(self.notes, text, "other notes")
        if self.on_note is not None:
            self.on_note(text)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_REASON_CHARS else text[:_MAX_REASON_CHARS] + "…"


def _count(counts: Counter[str], text: str, others: str) -> None:
    general = re.sub(r"\[\d+\]", "[]", re.sub(r"\bline \d+", "line N", text))
    if general not in counts and len(counts) >= _MAX_DISTINCT:
        general = others
    counts[general] += 1


@dataclass(frozen=True)
class Row:
    """One line's JSON object; `size` is the line's length in bytes."""

    line: int
    value: dict[str, Any]
    size: int


@dataclass(frozen=True)
class Found:
    """A trace, the line it began on, and what else its row held.

    `extra` are the row's keys that a `Trace` has no place for; `shared_tools` tells that the row
    named a catalogue file instead of listing its tools.
    """

    trace: Trace
    line: int
    extra: Mapping[str, Any] = field(default_factory=dict)
    shared_tools: bool = False


def read_rows(
    lines: Iterable[tuple[int, bytes | None]], where: Mapping[str, str], tally: LineTally
) -> Iterator[Row]:
    """Parse lines into objects whose top-level keys have the values of `where`.

    Blank lines are skipped. Values are compared as text: strings as they are, everything else as
    JSON (`true`, `3`, `null`); a row without the key does not match.
    """
    for number, line in lines:
        if line is not None and not line.strip():
            continue
        tally.lines += 1
        try:
            value = _parse(line)
        except ValueError as error:
            tally.reject(number, str(error))
            continue
        if all(key in value and text(value[key]) == wanted for key, wanted in where.items()):
            assert line is not None
            yield Row(number, value, len(line))
        else:
            tally.filtered += 1


def _parse(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise ValueError("the line is too long")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(_json_fault(line, error)) from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    check_json(value, line, "the line")
    return value


def _json_fault(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    if "surrogate" in error.msg:
        return "an unpaired surrogate in a string"
    if "infinity" in error.msg:
        return "a number beyond the range of a double"
    if "depth" in error.msg:
        return f"the line: nested deeper than {MAX_DEPTH} levels"
    return "not JSON"


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ValueError for a tool result without its call.

    A result without a `tool_call_id` (the legacy `function` role) answers any earlier call of its
    name, or any earlier call at all when it has no name.
    """
    ids: set[str] = set()
    names: set[str] = set()
    for i, message in enumerate(messages):
        if message.role == "tool":
            if message.call_id:
                answers = message.call_id in ids
            else:
                answers = message.name in names if message.name else bool(names)
            if not answers:
                raise ValueError(f"messages[{i}]: a tool result that answers no earlier call")
        for call in message.calls:
            names.add(call.name)
            ids.add(call.id or "")


def text(value: Any) -> str:
    """A JSON value as the text that filters and group keys are made of."""
    return value if isinstance(value, str) else canonical(value).decode()


def key_text(row: Mapping[str, Any], name: str) -> str | None:
    """A row's key as an identifier; None where it is missing, null or empty."""
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, dict | list):
        raise ValueError(f"{name}: neither text nor a number")
    return text(value)


def group_key(row: Mapping[str, Any], group_by: str | None, trace_id: str) -> str:
    """The key by which splits are made: `group_by`, or else `group`, `task_id`, the trace's id.

    Raises ValueError when `group_by` is given and the row lacks it.
    """
    if group_by is None:
        return key_text(row, "group") or key_text(row, "task_id") or trace_id
    found = key_text(row, group_by)
    if found is None:
        raise ValueError(f"{group_by}: missing, and traces are grouped by it")
    return found
