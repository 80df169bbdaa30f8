"""What is asked over HTTP ends in time, within bounds, and in one kind of error."""

import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from distill.errors import EngineError
from distill.serving.engine import client as module
from distill.serving.engine.client import Client, Written


def client_of(answer, request_s: float = 30, **settings) -> Client:
    transport = httpx.MockTransport(answer)
    return Client("http://127.0.0.1:1", "the-key", request_s, transport=transport, **settings)


def completion(request: httpx.Request) -> httpx.Response:
    choice = {"token_ids": [5, 0], "logprobs": {"token_logprobs": [-1, -0.25]}}
    return httpx.Response(200, json={"choices": [choice | {"finish_reason": "stop"}]})


def test_a_completion_is_read():
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return completion(request)

    client = client_of(answer)
    found = client.each(lambda prompt, text: client.write("a", prompt, 8, text), [[1], [2]], "xy")
    assert found == [Written([5, 0], [-1.0, -0.25], ended=True)] * 2
    assert {r.headers["Authorization"] for r in asked} == {"Bearer the-key"}


def test_a_score_is_of_what_was_written_alone():
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert (body["prompt"], body["echo"], body["max_tokens"]) == ([1, 2, 5, 0], True, 0)
        found = {"token_logprobs": [None, -3, -2, -1]}
        return httpx.Response(200, json={"choices": [{"logprobs": found}]})

    client = client_of(answer)
    assert client.score("a", [1, 2], [5, 0]) == [-2, -1]
    with pytest.raises(EngineError, match="do not fit"):
        client_of(answer_of({"token_logprobs": [None, -3]})).score("a", [1], [5, 0])


def answer_of(found):
    return lambda request: httpx.Response(200, json={"choices": [{"logprobs": found}]})


def test_an_answer_that_trickles_is_late():
    late = []
    stop = threading.Event()

    def drops() -> Iterator[bytes]:
        for _ in range(10_000):
            stop.wait(0.02)
            yield b" "

    client = client_of(
        lambda request: httpx.Response(200, content=drops()),
        0.1,
        on_timeout=lambda: late.append(True),
    )
    with pytest.raises(EngineError, match=r"no answer in 0\.1 s"):
        client.load("a", "folder")
    assert late == [True]


def test_an_answer_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 100)
    client = client_of(lambda request: httpx.Response(200, content=b"x" * 1000))
    with pytest.raises(EngineError, match="too long"):
        client.models()


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError])
def test_a_broken_connection_is_said(error):
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("gone")

    client = client_of(answer)
    assert not client.healthy()
    with pytest.raises(EngineError) as caught:
        client.write("a", [1], 8)
    assert caught.value.fault == "no connection (gone)"


def test_one_that_was_closed_answers_with_errors():
    client = client_of(completion)
    client.close()
    (found,) = client.each(lambda a, b: a + b, [1], [2])
    assert isinstance(found, EngineError)
    with pytest.raises(EngineError):
        client.models()


def test_a_faults_words_are_short_and_on_one_line():
    error = {"error": {"message": "a\nb " * 1000}}
    client = client_of(lambda request: httpx.Response(400, json=error))
    with pytest.raises(EngineError) as caught:
        client.unload("a")
    assert caught.value.fault.startswith("HTTP 400: a b a b")
    assert len(caught.value.fault) < 400
    assert "\n" not in str(caught.value)
