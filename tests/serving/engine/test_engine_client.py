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
    return httpx.Response(200, json={"choices": [choice]})


def test_a_completion_is_read():
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return completion(request)

    client = client_of(answer)
    found = client.each(lambda prompt, most: client.write("a", prompt, most), [[1], [2]], [8, 2])
    assert found == [Written([5, 0], [-1.0, -0.25])] * 2
    assert {r.headers["Authorization"] for r in asked} == {"Bearer the-key"}


def step_of(top: dict[str, float] | None, asked: list[dict] | None = None):
    def answer(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(json.loads(request.content))
        found = {"token_logprobs": [-2.5], "top_logprobs": None if top is None else [top]}
        return httpx.Response(200, json={"choices": [{"token_ids": [7], "logprobs": found}]})

    return client_of(answer)


def test_of_few_allowed_tokens_vllm_is_told():
    asked: list[dict] = []
    assert step_of(None, asked).step("a", [1], {7, 8}) == (7, -2.5)
    assert set(asked[0]["allowed_token_ids"]) == {7, 8}
    assert step_of(None).step("a", [1], {8, 9}) is None  # it did not heed


def test_of_many_allowed_tokens_the_likeliest_is_found():
    asked: list[dict] = []
    many = set(range(1000, 3000))
    top = {"token_id:7": -0.1, "token_id:1500": -3.0, "token_id:1400": -2.9, "token_id:5": -1.0}
    assert step_of(top, asked).step("a", [1], many) == (1400, -2.9)
    assert asked[0]["logprobs"] == 20
    assert "allowed_token_ids" not in asked[0]
    assert step_of({"token_id:7": -0.1}).step("a", [1], many) is None


@pytest.mark.parametrize("top", [{"token_id:7": 1.0}, {"token_id:x": -1.0}])
def test_a_step_that_cannot_be_is_a_fault(top):
    with pytest.raises(EngineError, match="answered with"):
        step_of(top).step("a", [1], {7})


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
