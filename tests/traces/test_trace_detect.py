"""A file's format is told from its rows, and an error in the first one does not tell it."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from distill.traces import detect, read
from distill.types import Trace

USER = {"role": "user", "content": "Off."}
ANSWER = {"role": "assistant", "content": "Done."}
COMPLETION = {"id": "r", "model": "m", "choices": [{"index": 0, "message": ANSWER}]}
CHUNKS = [
    {"choices": [], "prompt_filter_results": []},
    {"choices": [{"index": 0, "delta": {"content": "Done."}, "finish_reason": "stop"}]},
]

ANSWERED: dict[str, Any] = {
    "completion": COMPLETION,
    "message": ANSWER,
    "chunks": CHUNKS,
    "http": {"status_code": 200, "body": COMPLETION},
    "http with a message": {"body": ANSWER},
    "text": orjson.dumps(COMPLETION).decode(),
    "text of a message": orjson.dumps(ANSWER).decode(),
    "text in http": {"status_code": 200, "body": orjson.dumps(COMPLETION).decode()},
}
FAILED: dict[str, Any] = {
    "null": {"response": None},
    "error": {"response": {"error": {"code": "rate_limit"}}},
    "status": {"response": {"status_code": 500, "body": None}},
    "error in http": {"response": {"body": {"error": {"code": "rate_limit"}}}},
    "error in text": {"response": '{"error": {"code": "rate_limit"}}'},
    "error beside it": {"response": None, "error": {"code": "rate_limit"}},
    "error alone": {"error": {"code": "rate_limit"}},
    "no chunks": {"response": []},
    "broken stream": {"response": [{"error": {"code": "rate_limit"}}]},
}
OWN: dict[str, Any] = {
    "words": {"output": "off"},
    "a number": {"output": 1},
    "an object": {"response": {"a": 1}},
    "a list": {"output": [USER]},
    "a user": {"output": USER},
    "other keys": {"input": {"a": 1}, "output": "off"},
}
KEYS = pytest.mark.parametrize("key", ["response", "output"])


def flat(number: int, **keys: Any) -> dict[str, Any]:
    return {"id": str(number), "messages": [USER], "tools": []} | keys


def trace(number: int, **keys: Any) -> dict[str, Any]:
    return flat(number, messages=[USER, ANSWER], **keys)


def read_rows(folder: Path, *rows: Any) -> tuple[list[Trace], list[int]]:
    file = folder / "t.jsonl"
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    rejected: list[int] = []
    return list(read(file, on_reject=lambda line, _: rejected.append(line))), rejected


def contents(traces: list[Trace]) -> list[list[str | None]]:
    return [[message.content for message in one.messages] for one in traces]


@KEYS
@pytest.mark.parametrize("shape", ANSWERED)
@pytest.mark.parametrize("later", [False, True])
def test_an_answer_beside_the_messages_tells_a_log(tmp_path, key, shape, later):
    """Read as traces, such a file would lose every answer."""
    rows = [flat(0, **{key: ANSWERED[shape]})]
    rows += [flat(1, response=COMPLETION)] if later else []
    traces, rejected = read_rows(tmp_path, *rows)
    assert not rejected
    assert contents(traces) == [["Off.", "Done."]] * len(rows)


@pytest.mark.parametrize("first", FAILED)
@pytest.mark.parametrize("shape", ANSWERED)
def test_a_failed_request_leaves_the_format_to_the_next_row(tmp_path, first, shape):
    rows = [flat(0, **FAILED[first]), flat(1, response=ANSWERED[shape])]
    traces, rejected = read_rows(tmp_path, *rows)
    assert rejected == [1]
    assert contents(traces) == [["Off.", "Done."]]
    traces, rejected = read_rows(tmp_path, flat(0, **FAILED[first]), trace(1))
    assert not rejected
    assert contents(traces) == [["Off."], ["Off.", "Done."]]


@pytest.mark.parametrize("own", OWN)
def test_a_trace_may_have_keys_of_such_names(tmp_path, own):
    traces, rejected = read_rows(tmp_path, trace(0, **OWN[own]), trace(1))
    assert not rejected
    assert contents(traces) == [["Off.", "Done."]] * 2


def test_where_no_row_decides_answered_messages_are_traces(tmp_path):
    traces, rejected = read_rows(tmp_path, *(trace(i, response=None) for i in range(3)))
    assert (len(traces), rejected) == (3, [])
    traces, rejected = read_rows(tmp_path, *(flat(i, response=None) for i in range(3)))
    assert (traces, rejected) == ([], [1, 2, 3])


def test_a_logged_request_among_traces_is_rejected_not_stripped_of_its_answer(tmp_path):
    traces, rejected = read_rows(tmp_path, trace(0), flat(1, response=COMPLETION))
    assert (len(traces), rejected) == (1, [2])


def test_nested_requests_that_failed_are_no_other_format(tmp_path):
    request = {"messages": [USER]}
    failed = {"request": request, "response": None, "error": {"code": "rate_limit"}}
    traces, rejected = read_rows(tmp_path, failed, {"request": request, "response": COMPLETION})
    assert (contents(traces), rejected) == ([["Off.", "Done."]], [1])


@pytest.mark.parametrize("bound", ["HELD_ROWS", "HELD_BYTES"])
def test_only_so_many_rows_are_held(tmp_path, monkeypatch, bound):
    monkeypatch.setattr(detect, bound, 2)
    failed = [flat(i, response=None) for i in range(3)]
    traces, rejected = read_rows(tmp_path, *failed, flat(3, response=COMPLETION))
    assert (len(traces), rejected) == (1, [1, 2, 3])
