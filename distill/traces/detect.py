"""Which format a file has, told from its first rows."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Literal

from distill.traces.exchange import exchange_shape
from distill.traces.rows import LineTally, Row

HELD_ROWS = 1000
HELD_BYTES = 16 * 1024 * 1024
"""Rows that do not decide are held until one does, this many or with this many bytes of JSON."""


def detect_format(
    rows: Iterator[Row], tally: LineTally
) -> tuple[Literal["traces", "openai"], Iterator[Row]]:
    """The format of the first row that decides, and all the rows from the file's first on.

    A row with messages is a trace, or a row of a log when its response stands beside them. One
    whose response failed could be either: the next rows decide, and where none does, messages that
    an assistant ends are a trace. Rows that are neither are rejected; in a file of traces, so are
    rows of a log, whose answers would be lost without a word.
    """
    held: list[Row] = []
    for row in rows:
        shape = exchange_shape(row.value)
        if shape == "yes":
            return "openai", chain(held, [row], rows)
        if shape == "failed":
            held.append(row)
            if len(held) >= HELD_ROWS or sum(item.size for item in held) >= HELD_BYTES:
                break
        elif "messages" in row.value:
            return "traces", _without_logs(chain(held, [row], rows), tally)
        else:
            tally.reject(row.line, "neither a trace (messages) nor a request with its response")
    if all(_is_answered(row.value) for row in held):
        return "traces", _without_logs(chain(held, rows), tally)
    return "openai", chain(held, rows)


def _is_answered(value: Mapping[str, Any]) -> bool:
    messages = value.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _without_logs(rows: Iterator[Row], tally: LineTally) -> Iterator[Row]:
    for row in rows:
        if exchange_shape(row.value) == "yes":
            reason = "a request with its response in a file of traces (read logs with openai)"
            tally.reject(row.line, reason)
        else:
            yield row
