"""What the gateway writes to standard error: JSON lines, and nothing of a conversation in them."""

import json
import logging
import logging.config
import os
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from stands import HELLO, post
from wires import TOOL, answer_of, body, calls, events, http

from distill.config import TelemetryConfig
from distill.serving.access import key_hash
from distill.serving.logs import Dropping, JsonLines, log_config
from distill.types import Decision, Message, ToolCall

SECRET = "sw0rdfish"
"""Put wherever a client, an upstream or a fault can put text."""

CONFIG = log_config(TelemetryConfig(log_level="debug"))


class Lines:
    """What was written since the test began."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture, self.text = capture, ""

    def all(self) -> list[dict[str, Any]]:
        self.text += self._capture.readouterr().err
        return [json.loads(line) for line in self.text.splitlines()]

    def requests(self, count: int) -> list[dict[str, Any]]:
        """The lines of so many requests; each is written before its client has the whole answer."""
        found = [line for line in self.all() if line["logger"] == "distill.serving.requests"]
        assert len(found) == count
        return found


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    logging.config.dictConfig(CONFIG)
    yield Lines(capsys)
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_a_request_is_one_line_that_says_what_became_of_it(stand, lines):
    client = stand(http(HELLO), calls("get_order", order=7), log_config=CONFIG)
    answer = post(client, body())
    stand.close()
    (line,) = lines.requests(1)
    assert line["request_id"] == answer.headers["x-distill-request"] == stand.store.last().id
    expected = {
        "level": "INFO",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "client": "anybody",
        "mode": "on",
        "decided_by": "local",
        "reason": "taken",
        "kept": True,
        "error": None,
    }
    assert {key: line[key] for key in expected} == expected
    assert line["ms"] > 0
    assert {line["logger"] for line in lines.all()} >= {"uvicorn.error", "distill.serving.requests"}


def test_a_refused_request_has_a_line_too(stand, lines):
    access = {"clients": [{"name": "app", "sha256": key_hash("c")}]}
    client = stand(http(HELLO), access=access, log_config=CONFIG)
    assert post(client, body(), authorization=f"Bearer {SECRET}").status_code == 401
    stand.close()
    (line,) = lines.requests(1)
    assert (line["status"], line["route"]) == (401, "/v1/chat/completions")
    assert "decided_by" not in line
    assert SECRET not in lines.text


def test_an_answer_that_broke_off_is_a_warning(stand, lines):
    client = stand(events(b"data: {}\n\n", whole=False), log_config=CONFIG)
    with pytest.raises(httpx.RemoteProtocolError):
        post(client, body(stream=True))
    stand.close()
    (line,) = lines.requests(1)
    assert (line["level"], line["error"]) == ("WARNING", "upstream cut off")


def test_a_client_that_leaves_has_one_line(stand, lines):
    first = b'data: {"choices": []}\n\n'
    client = stand(events(first, 15.0), log_config=CONFIG)
    with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        assert next(answer.iter_raw()) == first
    stand.store.last()
    stand.close()
    (line,) = lines.requests(1)
    assert (line["level"], line["error"], line["status"]) == ("WARNING", "client left", 200)


def test_nothing_secret_is_logged_whatever_happens(stand, lines):
    """At the most talkative level: keys, texts, arguments, tools, paths, and what faults quote."""
    decided: list[Decision | Exception] = []
    said = [http(HELLO)]

    def decide(context: object) -> Decision:
        (answer,) = decided[-1:]
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = stand(lambda sent: said[-1], decide, log_config=CONFIG)
    tool = orjson.loads(orjson.dumps(TOOL).replace(b"get_order", SECRET.encode()))
    asked = body(SECRET, user=SECRET, model=SECRET, tools=[tool])
    headers = {
        "authorization": f"Bearer {SECRET}",
        "x-session-id": SECRET,
        "x-api-key": SECRET,
        "traceparent": SECRET,
        "cookie": SECRET,
    }
    decisions = [
        Decision("call", (ToolCall(SECRET, {"order": 7}),), 0.9),
        Decision("call", (ToolCall(SECRET, {"order": SECRET}),), 0.9),
        Decision("call", (ToolCall(f"not_{SECRET}", {}),), 0.9),
        ValueError(SECRET),
    ]
    unknown = Message("assistant", None, (ToolCall(f"un{SECRET}", {"x": SECRET}),))
    for answer in [http(HELLO), http(answer_of(unknown)), http(SECRET.encode(), "500 Oops")]:
        said.append(answer)
        for decision in decisions:
            decided.append(decision)
            post(client, asked, **headers)
    client.get(f"/v1/{SECRET}?key={SECRET}", headers=headers)
    client.get(f"/{SECRET}?key={SECRET}", headers=headers)
    client.put(f"/admin/rollout?key={SECRET}", headers=headers, json={"mode": SECRET})
    client.post("/v1/chat/completions", content=f'{{"model": "{SECRET}'.encode(), headers=headers)

    async def fails(record: object) -> None:
        raise RuntimeError(SECRET) from KeyError(SECRET)

    stand.store.put = fails
    assert post(client, asked, **headers).status_code == 500
    stand.close()
    requests = lines.requests(3 * len(decisions) + 5)
    assert SECRET not in lines.text
    assert {line["reason"] for line in requests if "reason" in line} >= {"taken", "router failed"}
    assert requests[-1]["error"] == "internal error: RuntimeError"
    (failure,) = [line for line in lines.all() if "exc_info" in line]
    assert "RuntimeError" in failure["exc_info"]
    assert "answering.py" in failure["exc_info"], "where it happened can be found"


def test_no_request_waits_for_a_reader_of_logs_that_hangs(tmp_path):
    """A pipe holds some hundred lines; what came after them is counted when it is read again."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as reader, os.fdopen(writing, "w") as stderr:
        handler = Dropping()
        handler.setStream(stderr)
        handler.setFormatter(JsonLines())
        for i in range(1000):
            handler.emit(logging.makeLogRecord({"msg": "x" * 1000, "number": i}))
        before = b""
        while not before.endswith(b"\n") or before.count(b"\n") < 10:
            before += reader.read(100_000)
        handler.emit(logging.makeLogRecord({"msg": "again"}))
        written = [json.loads(line) for line in (before + reader.read(100_000)).splitlines()]
    assert written[-1]["message"] == "again"
    assert written[-1]["dropped"] == 1000 - (len(written) - 1)


def test_probes_are_logged_only_where_everything_is(stand, lines):
    client = stand(http(HELLO), log_config=log_config(TelemetryConfig()))
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200
    stand.close()
    assert lines.requests(0) == []


def test_a_level_leaves_out_what_is_below_it(stand, lines):
    client = stand(http(HELLO), log_config=log_config(TelemetryConfig(log_level="warning")))
    post(client, body())
    stand.close()
    assert lines.all() == []
