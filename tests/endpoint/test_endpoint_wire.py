"""A real server on loopback that misbehaves: an answer comes of it, and never the key."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from fake_llm import FakeLlm, Says, calling, says
from small_shop import CANCEL, GET, TOOLS, ask, call

from distill.config import EndpointConfig
from distill.endpoint import Answer, Endpoint
from distill.errors import ConfigError
from distill.types import Decision, Message, ToolCall, Usage

FINE = says({"content": "Fine."})
KEY = 'sk-test-"0123456789"'
NO_WAIT = {"sleep": lambda seconds: None}


@contextmanager
def asking(*script: Says, **settings: Any) -> Iterator[tuple[Endpoint, FakeLlm]]:
    """An endpoint and its server, which plays the script and then repeats its last response."""
    responses = chain(script, repeat(script[-1]))
    with FakeLlm(lambda request: next(responses)) as llm:
        values = {"model": "big", "base_url": llm.url, "cache": None, "retries": 0} | settings
        endpoint = Endpoint(EndpointConfig(**values), **NO_WAIT)
        try:
            yield endpoint, llm
        finally:
            endpoint.close()


def asked(endpoint: Endpoint, text: str = "where is order 7") -> Answer:
    context = ask(text)
    return endpoint.complete(context.messages, context.tools, max_tokens=64)


def test_a_call_comes_back_with_its_usage() -> None:
    with asking(says(calling(("get_order", '{"order": 7}')))) as (endpoint, llm):
        answer = asked(endpoint)
    assert answer.decision == Decision("call", (call("get_order", order=7),))
    assert answer.error is None
    assert (answer.usage, answer.cached) == (Usage(100, 20, cached_tokens=40), False)
    assert answer.finish_reason == "tool_calls"
    assert answer.latency_ms is not None
    (request,) = llm.requests
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("big", 64, 0)
    assert request["messages"] == [{"role": "user", "content": "where is order 7"}]
    assert request["tools"][0]["function"]["parameters"] == GET.parameters
    assert request["tool_choice"] == "auto"
    assert "seed" not in request


def test_a_reply_has_words_and_a_request_without_tools_speaks_of_none() -> None:
    with asking(FINE) as (endpoint, llm):
        answer = endpoint.complete([Message("user", "hi")], (), max_tokens=8, seed=3)
    assert (answer.decision, answer.words) == (Decision("reply"), "Fine.")
    assert llm.requests[0].keys() == {"model", "messages", "max_tokens", "temperature", "seed"}


def test_a_named_tool_and_keys_of_the_users_own() -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 9}
    with asking(FINE, extra=extra) as (endpoint, llm):
        endpoint.complete([Message("user", "hi")], TOOLS, max_tokens=8, tool_choice="get_order")
    (request,) = llm.requests
    assert request["tool_choice"] == {"type": "function", "function": {"name": "get_order"}}
    assert request["max_completion_tokens"] == 9
    assert "max_tokens" not in request


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (Says(b"", hangs=True), "timeout: ReadTimeout"),
        (Says(b" " * 10_000, trickles=0.05), "timeout: more than total_s"),
        (Says(b"<html>busy</html>"), "not JSON"),
        (Says(b'{"choices": [{"mess'), "not JSON"),
        (Says(FINE.body, lacks=10), "connection: "),
        (Says(b"[1, 2]"), "no choices"),
        (Says(b'{"choices": []}'), "no choices"),
        (Says(b'{"error": {"message": "too\\nlong"}}'), "no choices: too long"),
        (Says(b'{"error": {"message": "who?"}}', 401), "HTTP 401: who?"),
        (Says(b"gone", 404), "HTTP 404"),
        (Says(b" " * 5000 + FINE.body), "too long: more than max_answer_bytes"),
        (Says(b"no gzip", headers={"Content-Encoding": "gzip"}), "not readable: "),
        (Says(b"", 302, {"Location": "http://127.0.0.1:9/v1"}), "HTTP 302"),
        (says(calling(("get_order", '{"order": '))), "malformed answer: message.tool_calls[0]"),
        (says(calling(("get_order", "[7]"))), "malformed answer: message.tool_calls[0]"),
        (says({"tool_calls": "get_order"}), "malformed answer: message.tool_calls"),
        (says(calling(("burn_down", "{}"))), "unknown tool: 'burn_down'"),
        (says(calling(("get_order", "{}")), finish_reason="length"), "cut off: "),
        (says({"content": " "}, finish_reason="length"), "cut off: "),
        (says({"content": "no"}, finish_reason="content_filter"), "content filter"),
    ],
)
def test_what_is_no_decision_is_a_failure_with_its_reason(response: Says, reason: str) -> None:
    bounds: dict[str, Any] = {"max_answer_bytes": 4096}
    if reason.startswith("timeout"):  # the others are to have their time on a busy machine
        bounds |= {"read_s": 0.3, "total_s": 0.2}
    with asking(response, **bounds) as (endpoint, llm):
        answer = asked(endpoint)
    assert answer.error is not None
    assert answer.error.startswith(reason)
    assert (answer.decision, answer.words) == (None, None)
    assert len(llm.requests) == 1


def test_an_answer_that_is_no_decision_was_paid_for() -> None:
    with asking(says(calling(("burn_down", "{}")))) as (endpoint, _):
        answer = asked(endpoint)
    assert answer.usage == Usage(100, 20, cached_tokens=40)
    assert answer.latency_ms is not None


@pytest.mark.parametrize("usage", [None, "much", {"prompt_tokens": -1}, {"total_tokens": 5}])
def test_usage_that_is_not_stated_is_not_known(usage: object) -> None:
    with asking(says({"content": "Fine."}, usage=usage)) as (endpoint, _):
        answer = asked(endpoint)
    assert (answer.decision, answer.usage) == (Decision("reply"), Usage())


@pytest.mark.parametrize(
    "first",
    [
        Says(b"", hangs=True),
        Says(FINE.body, lacks=10),
        *(Says(b"{}", status) for status in (408, 409, 429, 500, 503, 529)),
    ],
)
def test_what_may_pass_is_asked_again(first: Says) -> None:
    with asking(first, first, FINE, retries=2, read_s=0.2) as (endpoint, llm):
        assert asked(endpoint).words == "Fine."
    assert len(llm.requests) == 3
    assert llm.requests[0] == llm.requests[2]


def test_a_server_that_is_not_there_is_a_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        settings = EndpointConfig(model="big", base_url=url, cache=None, retries=1)
        answer = asked(Endpoint(settings, **NO_WAIT))
    assert answer.error is not None
    assert answer.error.startswith("connection: ")


# --- the cache


def test_after_a_restart_nothing_is_asked_twice(tmp_path: Path) -> None:
    with asking(says(calling(("get_order", '{"order": 7}'))), cache=tmp_path) as (endpoint, llm):
        first = asked(endpoint)
        again = asked(Endpoint(endpoint.settings))
        assert len(llm.requests) == 1
        asked(endpoint, "where is order 8")
        assert len(llm.requests) == 2
    assert (first.cached, again.cached) == (False, True)
    assert (again.decision, again.usage) == (first.decision, first.usage)
    assert again.latency_ms == first.latency_ms


def test_a_kept_answer_is_read_against_the_tools_of_its_request(tmp_path: Path) -> None:
    with asking(says(calling(("get_order", "{}"))), cache=tmp_path) as (endpoint, llm):
        messages = ask("where is order 7").messages
        assert endpoint.complete(messages, [GET], max_tokens=8).error is None
        other = endpoint.complete(messages, [CANCEL], max_tokens=8)
    assert (other.error, other.cached) == ("unknown tool: 'get_order'", False)
    assert len(llm.requests) == 2


@pytest.mark.parametrize("fault", [Says(b"<html>"), Says(b'{"choices": []}'), Says(b"{}", 400)])
def test_what_is_no_completion_is_not_kept(tmp_path: Path, fault: Says) -> None:
    with asking(fault, FINE, cache=tmp_path) as (endpoint, _):
        assert asked(endpoint).error is not None
        assert asked(endpoint).words == "Fine."


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 99}'])
def test_a_damaged_kept_answer_is_had_again(tmp_path: Path, damage: bytes) -> None:
    with asking(FINE, cache=tmp_path) as (endpoint, llm):
        asked(endpoint)
        (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
        file.write_bytes(damage)
        assert asked(endpoint).words == "Fine."
        assert asked(endpoint).cached
    assert len(llm.requests) == 2


# --- the key


def test_the_key_is_sent_and_found_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where the server repeats it, in an answer or in an error."""
    monkeypatch.setenv("BIG_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    telling = [
        says({"content": f"you are {KEY}"}),
        says(calling(("get_order", '{"order": "' + KEY.replace('"', "'") + '"}'))),
        Says(b'{"error": "bad key ' + KEY.replace('"', '\\"').encode() + b'"}', 401),
    ]
    with asking(*telling, key_env="BIG_KEY", cache=tmp_path) as (endpoint, llm):
        answers = [asked(endpoint, text) for text in ("a", "b", "c")]
        answers.append(asked(endpoint, "a"))
    assert llm.keys == [f"Bearer {KEY}"] * 3
    assert answers[0].words == answers[3].words == "you are ***"
    assert answers[2].error == "HTTP 401: bad key ***"
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"you are" in kept
    told = f"{answers} {endpoint.settings} {caplog.text} {kept.decode()}"
    assert KEY not in told
    assert KEY.replace('"', '\\"') not in told


def test_a_key_is_of_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EndpointConfig(model="big", base_url="http://127.0.0.1:9", key_env="BIG_KEY")
    monkeypatch.delenv("BIG_KEY", raising=False)
    with pytest.raises(ConfigError, match="BIG_KEY is not set; export it"):
        Endpoint(settings)
    monkeypatch.setenv("BIG_KEY", "sk-one\nsk-two")
    with pytest.raises(ConfigError, match="characters that no key has") as caught:
        Endpoint(settings)
    assert "sk-" not in str(caught.value)


def test_a_redirect_does_not_carry_the_key_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)
    with FakeLlm(lambda request: FINE) as other:
        moved = Says(b"", 307, {"Location": f"{other.url}/chat/completions"})
        with asking(moved, key_env="BIG_KEY") as (endpoint, _):
            assert asked(endpoint).error == "HTTP 307"
    assert other.keys == []


# --- what is sent


def test_calls_and_results_are_paired_by_ids_where_the_log_has_none() -> None:
    messages = [
        Message("system", "You are a shop."),
        Message("user", "orders 7 and 8"),
        Message("assistant", None, (call("get_order", order=7), call("list_orders"))),
        Message("tool", "[]", name="list_orders"),
        Message("tool", "{}"),
        Message("assistant", "", (ToolCall("get_order", {"order": 8}, "own"),)),
        Message("tool", "{}", call_id="own"),
    ]
    with asking(FINE) as (endpoint, llm):
        endpoint.complete(messages, TOOLS, max_tokens=8)
    sent = llm.requests[0]["messages"]
    calls = [made["id"] for message in sent for made in message.get("tool_calls", ())]
    results = [message["tool_call_id"] for message in sent if message["role"] == "tool"]
    assert len(set(calls)) == 3
    assert results == [calls[1], calls[0], "own"]
    assert sent[0] == {"role": "system", "content": "You are a shop."}
