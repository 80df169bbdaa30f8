"""A gateway's records as rows of a log.

They are named `gateway://PATH`, an SQLite file, or `gateway://env:VARIABLE`, with the database's
address in an environment variable. A row has the request and the answer as the log reader takes
them (`openai_log`), the record's `id`, the session as its `group`, and `session`, `client`, `mode`
and `accepted` for filters and groups. A record is left out, and counted with the reason, where its
answer is no decision of the teacher:

    the router answered           later requests repeat what it said: there it is context
    a person rejected it          as a training example; what came after it still counts
    it had no tools to call       because the gateway sent the request without them
    a status other than 200, an error, no answer, or one that ends early

What a person accepted is one decision like any other, and no outcome: nobody has said how the
conversation ended. `where: {accepted: "true"}` takes such decisions alone.

A record's number, where files count lines, is its place in order of time.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from distill.errors import TraceError
from distill.store import TOOLS_LEFT_OUT, Reader, Record, StoreError
from distill.traces import GATEWAY
from distill.traces.files import OnBytes
from distill.traces.rows import LineTally, Row, read_rows

_VARIABLE = "env:"
_LEFT_OUT = "left_out"
_PROGRESS_RECORDS = 256


def read_records(
    source: str,
    where: Mapping[str, str],
    tally: LineTally,
    max_line_bytes: int,
    progress: OnBytes | None = None,
) -> Iterator[Row]:
    """The rows of the teacher's decisions; `progress` is told records, done and in all.

    Raises:
        InputError: there is no such database, or it fails on the way.
    """
    lines = _lines(source, max_line_bytes, progress)
    for row in read_rows(lines, where, tally):
        reason = row.value.get(_LEFT_OUT)
        if reason is None:
            yield row
        else:
            tally.reject(row.line, reason)


def _lines(
    source: str, max_line_bytes: int, progress: OnBytes | None
) -> Iterator[tuple[int, bytes | None]]:
    with closing(_open(source)) as reader:
        try:
            total = reader.count() if progress else 0
            for number, record in enumerate(reader.records(), start=1):
                # Not orjson: a request may hold what it cannot write, for which it is rejected.
                line = json.dumps(_row(record)).encode()
                yield number, line if len(line) <= max_line_bytes else None
                if progress and number % _PROGRESS_RECORDS == 0:
                    progress(number, total)
            if progress:
                progress(total, total)
        except StoreError as error:
            raise TraceError(source, str(error), "see to the database, and try again") from None


def _open(source: str) -> Reader:
    place = source.removeprefix(GATEWAY)
    if place.startswith(_VARIABLE):
        return Reader.of_variable(place.removeprefix(_VARIABLE))
    if not place or "://" in place:
        # Not repeated: such an address may hold a password.
        cure = "use gateway://gateway.db, or gateway://env:VARIABLE with the address in VARIABLE"
        raise TraceError(GATEWAY, "not followed by a file's path", cure)
    return Reader.of_file(Path(place))


def _row(record: Record) -> dict[str, Any]:
    keys = {
        "id": record.id,
        "source": f"gateway:{record.id}",
        "group": record.session,
        "session": record.session,
        "client": record.client,
        "mode": record.mode,
        "accepted": record.accepted,
    }
    row: dict[str, Any] = {key: value for key, value in keys.items() if value is not None}
    reason = _fault(record)
    if reason is not None:
        return row | {_LEFT_OUT: reason}
    exchange = {"request": record.request, "response": record.response}
    return row | exchange | {"duration_ms": record.upstream_ms}


def _fault(record: Record) -> str | None:
    """Why the answer is no decision of the teacher, as far as the record says."""
    if record.decided_by != "upstream":
        return "answered by the router: context only"
    if record.accepted is False:
        return "rejected by a person"
    if record.reason == TOOLS_LEFT_OUT:
        return "asked for without tools: no free decision"
    if record.status != 200:
        return f"status {record.status}"
    if record.error is not None:
        return f"an error: {record.error}"
    return "an answer that ends early" if _ends_early(record.response) else None


def _ends_early(response: Mapping[str, Any] | None) -> bool:
    choices = (response or {}).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and first.get("finish_reason", "") is None
