"""What a client of the gateway sees, over real sockets: local answers, and bytes that pass."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stands import DONE, FIRST, HELLO, Stand, post
from wires import (
    REPLIES,
    Sent,
    Wire,
    body,
    calls,
    events,
    http,
)

from distill.chat import parse_messages
from distill.history import synthetic
from distill.serving.access import key_hash
from distill.types import Decision, ToolCall


@pytest.fixture(scope="module")
def shared() -> Iterator[Stand]:
    """One for many examples: its upstream says what `said` is, which each of them sets."""
    with ExitStack() as stack:
        stand = Stand(stack)
        stand.client = stand(lambda sent: stand.said)
        yield stand


def test_a_local_call_reaches_the_openai_client_as_an_llms(stand):
    stand(http(HELLO), calls("get_order", order=7))
    with stand.openai() as client:
        answer = client.chat.completions.create(**body())
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, orjson.loads(call.function.arguments)) == (
        "get_order",
        {"order": 7},
    )
    assert answer.usage.total_tokens == 0
    assert answer.model == "large"
    assert stand.upstream.requests == []


def test_a_streamed_local_call_is_the_same_call(stand):
    decided = Decision(
        "call", (ToolCall("get_order", {"order": 7}), ToolCall("cancel_order", {})), 0.9
    )
    stand(http(HELLO), decided)
    with stand.openai() as client:
        whole = client.chat.completions.create(**body()).choices[0].message
        with client.chat.completions.stream(
            **body(), stream_options={"include_usage": True}
        ) as stream:
            streamed = stream.get_final_completion()
    pairs = [
        (call.id, call.function.name, orjson.loads(call.function.arguments))
        for call in whole.tool_calls
    ]
    assert pairs == [
        (call.id, call.function.name, orjson.loads(call.function.arguments))
        for call in streamed.choices[0].message.tool_calls
    ]
    assert [name for _, name, _ in pairs] == ["get_order", "cancel_order"]
    assert streamed.usage.total_tokens == 0


def test_the_next_request_carries_the_call_as_synthetic_history(stand):
    client = stand(http(HELLO), calls("get_order", order=7))
    first = body()
    message = post(client, first).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sent"}
    post(client, body() | {"messages": [*first["messages"], message, result]})
    seen = stand.router.asked[1].messages
    asked = parse_messages(first["messages"])
    made = synthetic(asked, (ToolCall("get_order", {"order": 7}),), ["sent"])
    assert [(m.role, m.content, m.calls, m.call_id) for m in seen] == [
        (m.role, m.content, m.calls, m.call_id) for m in made
    ]
    assert seen[1].calls[0].id == made[1].calls[0].id


def test_the_headers_say_who_decided_and_how_surely(stand):
    client = stand(http(HELLO), calls("get_order", 0.75, order=7))
    local = post(client, body())
    assert local.headers["x-distill-decided-by"] == "local"
    assert local.headers["x-distill-confidence"] == "0.7500"
    assert local.headers["x-distill-request"] == stand.store.last().id


@given(st.binary(max_size=300), st.sampled_from(["200 OK", "400 Bad Request", "500 Oops"]))
def test_bodies_pass_byte_for_byte_in_both_directions(shared, content, status):
    """Whatever they are: JSON or not, an answer or an error."""
    shared.said = http(content[::-1], status, "x-up: yes")
    answer = shared.client.post("/v1/chat/completions", content=content)
    assert shared.upstream.requests[-1].body == content
    assert answer.content == content[::-1]
    assert answer.headers["x-up"] == "yes"
    assert f"{answer.status_code}" == status.split()[0]


def test_unknown_fields_of_request_and_answer_are_left_as_they_stand(stand):
    said = b'{"choices" :[], "novel": 1e400, "choices": null}'
    client = stand(http(said))
    sent = b'{ "model":"x","messages":[],"novel":{"a":1.0000000000000000000001},"n":2}'
    answer = client.post("/v1/chat/completions?a=%2Fb&a", content=sent)
    (request,) = stand.upstream.requests
    assert (request.body, answer.content) == (sent, said)
    assert request.line == b"POST /v1/chat/completions?a=%2Fb&a HTTP/1.1"


def test_a_stream_passes_event_by_event_before_it_ends(stand):
    """The first event is there while the upstream still waits to be let on."""
    go = threading.Event()

    def said(sent: Sent) -> Wire:
        class Pieces(list[Any]):
            def __iter__(self) -> Iterator[bytes]:  # type: ignore[override]
                yield from events(FIRST, whole=False).pieces
                assert go.wait(20)
                yield b"%x\r\n%s\r\n0\r\n\r\n" % (len(DONE), DONE)

        return Wire(Pieces())

    client = stand(said)
    with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == FIRST
        go.set()
        assert b"".join(pieces) == DONE
    assert stand.store.last().response["choices"][0]["message"]["content"] == "Hel"


@given(st.lists(st.integers(1, 200), max_size=8))
def test_a_stream_is_the_same_wherever_it_is_torn(shared, cuts):
    whole = FIRST + b'data: {"choices":[{"delta":{"content":"\\ndata: [DONE]"}}]}\n\n' + DONE
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    pieces = [whole[a:b] for a, b in pairwise(places)]
    shared.said = events(*pieces)
    answer = shared.client.post("/v1/chat/completions", json=body(stream=True))
    assert answer.content == whole
    message = shared.store.last().response["choices"][0]["message"]
    assert message["content"] == "Hel\ndata: [DONE]"


def test_the_clients_headers_go_upstream_and_the_connections_do_not(stand):
    client = stand(http(HELLO, "200 OK", "connection: x-private", "x-private: 1", "x-up: 2"))
    headers = {"authorization": "Bearer mine", "x-org": "o", "connection": "x-hop", "x-hop": "h"}
    answer = post(client, body(), **headers)
    (request,) = stand.upstream.requests
    assert request.header("authorization") == [b"Bearer mine"]
    assert request.header("x-org") == [b"o"]
    assert request.header("x-hop") == []
    assert request.header("accept-encoding") == [b"identity"]
    assert "x-private" not in answer.headers
    assert answer.headers["x-up"] == "2"


def test_one_clients_cookies_are_not_sent_with_anothers_request(stand):
    client = stand(http(HELLO, "200 OK", "set-cookie: one=1", "set-cookie: two=2"))
    answer = post(client, body())
    assert answer.headers.get_list("set-cookie") == ["one=1", "two=2"]
    client.cookies.clear()
    post(client, body(), cookie="mine=3")
    first, second = stand.upstream.requests
    assert (first.header("cookie"), second.header("cookie")) == ([], [b"mine=3"])


def test_a_large_body_passes_byte_for_byte(stand):
    client = stand(http(HELLO))
    content = orjson.dumps(body("ä" * 1_000_000))
    assert client.post("/v1/chat/completions", content=content).content == HELLO
    (request,) = stand.upstream.requests
    assert request.body == content
    assert request.header("content-length") == [b"%d" % len(content)]


def test_headers_go_upstream_as_they_came_and_no_others(stand):
    """Several of one name, in order, and text that is not ASCII; Latin-1 goes on as UTF-8."""
    stand(http(HELLO))
    value = orjson.dumps(body())
    lines = [
        *(b"host: gateway", b"content-length: %d" % len(value), b"connection: close"),
        *(b"x-many: 1", b"x-other: \xc3\xa9\xe2\x82\xac", b"x-many: 2", b"x-old: \xe9"),
        b"accept: a/b",
    ]
    place = httpx.URL(stand.url)
    with socket.create_connection((place.host, place.port), 20) as sent:
        head = b"\r\n".join([b"POST /v1/chat/completions?a=%2F HTTP/1.1", *lines, b"", b""])
        sent.sendall(head + value)
        assert sent.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
    (request,) = stand.upstream.requests
    assert request.line == b"POST /v1/chat/completions?a=%2F HTTP/1.1"
    there = [(name.lower(), value) for name, value in request.headers]
    own = ("host", "content-length", "accept-encoding")
    assert [(n, v) for n, v in there if n.decode() not in own] == [
        *((b"x-many", b"1"), (b"x-other", "é€".encode()), (b"x-many", b"2")),
        *((b"x-old", "é".encode()), (b"accept", b"a/b")),
    ]


def test_the_gateways_key_replaces_the_clients(stand, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "sk-theirs")
    access = {"clients": [{"name": "app", "sha256": key_hash("dk-ours")}]}
    client = stand(http(HELLO), upstream={"key_env": "UPSTREAM_KEY"}, access=access)
    assert post(client, body()).status_code == 401
    assert post(client, body(), authorization="Bearer dk-other").status_code == 401
    assert stand.upstream.requests == []
    assert post(client, body(), authorization="Bearer dk-ours").status_code == 200
    (request,) = stand.upstream.requests
    assert request.header("authorization") == [b"Bearer sk-theirs"]
    assert stand.store.last().client == "app"


def test_a_key_meant_for_the_gateway_never_goes_upstream(stand):
    access = {"clients": [{"name": "app", "sha256": key_hash("dk-ours")}]}
    client = stand(http(HELLO), access=access)
    post(client, body(), authorization="Bearer dk-ours")
    (request,) = stand.upstream.requests
    assert request.header("authorization") == []


OUTSIDE = [
    {"tool_choice": "none"},
    {"tool_choice": {"type": "function", "function": {"name": "get_order"}}},
    {"n": 2},
    {"response_format": {"type": "json_object"}},
    {"logprobs": True},
    {"stop": ["x"]},
    {"functions": []},
    {"tools": []},
    {"store": True},
    {"a_new_key": 1},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "I"}]},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": 5},
    {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
]


@pytest.mark.parametrize("change", OUTSIDE, ids=lambda c: orjson.dumps(c).decode()[:40])
def test_what_a_router_cannot_promise_goes_upstream(stand, change):
    client = stand(http(HELLO), calls("get_order", order=7))
    answer = post(client, body(**change))
    assert answer.content == HELLO
    assert answer.headers["x-distill-decided-by"] == "upstream"
    assert stand.router.asked == []
    assert stand.store.last().decision is None


@pytest.mark.parametrize(
    "change",
    [
        {"tool_choice": "auto"},
        {"tool_choice": "required"},
        {"tool_choice": None},
        {"n": 1},
        {"response_format": {"type": "text"}},
        {"logprobs": False},
        {"temperature": 0.7, "max_tokens": 100, "user": "u"},
        {"parallel_tool_calls": False},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "order 7"}]}]},
    ],
    ids=lambda c: orjson.dumps(c).decode()[:40],
)
def test_what_holds_for_a_local_call_is_decided_locally(stand, change):
    client = stand(http(HELLO), calls("get_order", order=7))
    assert post(client, body(**change)).headers["x-distill-decided-by"] == "local"


def test_several_calls_go_upstream_where_the_request_allows_one(stand):
    two = Decision("call", (ToolCall("get_order", {"order": 7}), ToolCall("cancel_order", {})), 0.9)
    client = stand(http(HELLO), two)
    answer = post(client, body(parallel_tool_calls=False))
    assert answer.headers["x-distill-decided-by"] == "upstream"


@pytest.mark.parametrize(
    ("decided", "reason"),
    [
        (REPLIES, "reply"),
        (calls("get_order", 0.4, order=7), "confidence below the threshold"),
        (calls("get_order", None, order=7), "no confidence"),
        (calls("get_order", order="7"), "arguments break the tool's schema"),
        (calls("refund"), "tool not offered"),
    ],
)
def test_what_the_policy_refuses_goes_upstream_with_its_reason(stand, decided, reason):
    client = stand(http(HELLO), decided)
    answer = post(client, body())
    assert (answer.content, answer.headers["x-distill-reason"]) == (HELLO, reason)
    record = stand.store.last()
    assert (record.reason, record.decision, record.decided_by) == (reason, decided, "upstream")


def test_a_sure_reply_may_be_asked_for_without_tools(stand):
    client = stand(http(HELLO), REPLIES, reply_without_tools=True)
    post(client, body(temperature=0.5, tool_choice="auto", parallel_tool_calls=True))
    sent = orjson.loads(stand.upstream.requests[0].body)
    assert sent == {"model": "large", "messages": body()["messages"], "temperature": 0.5}
    assert stand.store.last().reason == "reply, asked for without tools"


def test_an_unsure_reply_is_asked_for_with_its_tools(stand):
    client = stand(http(HELLO), Decision("reply", (), 0.4), reply_without_tools=True)
    post(client, body())
    assert orjson.loads(stand.upstream.requests[0].body) == body()


def test_other_paths_pass_and_the_api_is_not_left(stand):
    client = stand(http(b'{"object":"list"}'))
    assert client.get("/v1/models").content == b'{"object":"list"}'
    assert client.post("/v1/embeddings", content=b"\x00\xff").status_code == 200
    assert [r.line.split()[1] for r in stand.upstream.requests] == [
        b"/v1/models",
        b"/v1/embeddings",
    ]
    assert stand.upstream.requests[1].body == b"\x00\xff"
    for path in ("/v1/%2e%2e/admin", "/v1/x/..%2f..%2fadmin", "/v1/%252e%252e/admin"):
        assert client.get(path).status_code in (400, 404), path
    assert len(stand.upstream.requests) == 2


def test_a_client_that_leaves_ends_the_upstreams_work_and_is_on_record(stand):
    client = stand(events(FIRST, 15.0))
    with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        assert next(answer.iter_raw()) == FIRST
    assert stand.upstream.left.wait(10)
    assert stand.store.last().error == "client left"


def test_requests_beyond_the_limits_are_refused_in_the_apis_words(stand):
    limits = {"body_bytes": 2000, "messages": 3, "tools": 2, "depth": 8}
    client = stand(http(HELLO), limits=limits)
    user = {"role": "user", "content": "x"}
    deep: Any = 1
    for _ in range(9):
        deep = [deep]
    for status, change in [
        (413, {"messages": [user] * 4}),
        (413, {"tools": body()["tools"] * 2}),
        (400, {"metadata": deep}),
        (413, {"user": "x" * 3000}),
    ]:
        answer = post(client, body(**change))
        assert (answer.status_code, answer.json()["error"]["type"]) == (
            status,
            "invalid_request_error",
        )
    chunked = client.post("/v1/chat/completions", content=iter([b"x" * 1500] * 2))
    assert chunked.status_code == 413
    assert stand.upstream.requests == []


def test_too_many_requests_at_once_are_told_to_come_again(stand):
    client = stand(Wire([], hangs=True), limits={"concurrency": 1}, upstream={"read_s": 1})
    with ExitStack() as stack:
        first = threading.Thread(target=lambda: post(client, body()))
        first.start()
        stack.callback(first.join)
        while not stand.upstream.requests:
            pass
        second = post(client, body())
    assert (second.status_code, second.headers["retry-after"]) == (503, "1")
    assert stand.gateway.open == 0
