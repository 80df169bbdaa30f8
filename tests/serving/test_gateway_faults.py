"""What a client sees when the upstream, the router or the store fails: right, or a plain error."""

import socket
import threading
from collections.abc import Callable

import httpx
import openai
import orjson
import pytest
from stands import DONE, FIRST, HELLO, post, streamed
from wires import REPLIES, Wire, body, calls, events, http

from distill.types import Context, Decision

SURE = calls("get_order", order=7)


def failing(context: Context) -> Decision:
    raise RuntimeError("out of memory")


def test_an_upstream_that_is_not_there_is_a_502(stand):
    client = stand(http(HELLO), upstream={"base_url": "http://127.0.0.1:9/v1"})
    answer = post(client, body())
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    assert stand.store.last().error == "upstream not reached"


@pytest.mark.parametrize(
    ("said", "status", "error"),
    [
        (Wire([], hangs=True), 504, "upstream too late"),
        (Wire([]), 502, "upstream not reached"),
        (Wire([b"\x00garbage\r\n\r\n"]), 502, "upstream not reached"),
        (Wire([b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"]), 502, "upstream cut off"),
        (Wire([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", 3.0]), 504, "upstream too late"),
    ],
    ids=["hangs", "closes", "garbage", "cut", "stalls"],
)
def test_an_answer_that_does_not_come_whole_is_an_error(stand, said, status, error):
    client = stand(said, upstream={"read_s": 0.3})
    answer = post(client, body())
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "upstream_error")
    record = stand.store.last()
    assert (record.status, record.error) == (status, error)


def test_a_request_that_finds_no_free_connection_is_a_503_and_the_next_finds_one(stand):
    go = threading.Event()

    def said(sent: object) -> Wire:
        assert go.wait(20)
        return http(HELLO)

    client = stand(said, upstream={"connections": 1, "connect_s": 0.3, "read_s": 20})
    first = threading.Thread(target=post, args=(client, body()))
    first.start()
    while not stand.upstream.requests:
        pass
    assert post(client, body()).status_code == 503
    assert stand.store.last().error == "upstream connections all in use"
    go.set()
    first.join()
    assert [post(client, body()).status_code for _ in range(3)] == [200] * 3


def test_an_upstream_that_takes_no_request_is_a_504(stand):
    """It accepts the connection and reads nothing, so that the request is never sent whole."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        limits = {"body_bytes": 100_000_000}
        upstream = {"base_url": url, "connect_s": 0.2, "read_s": 0.2}
        client = stand(http(HELLO), upstream=upstream, limits=limits)
        answer = post(client, body("x" * 30_000_000))
    assert answer.status_code == 504
    assert stand.store.last().error == "upstream too late"


def test_an_upstream_that_closes_idle_connections_is_asked_on_a_new_one(stand):
    """No completion is lost to a connection that was closed between two requests."""
    client = stand(Wire([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"], closes=True))
    assert [post(client, body()).status_code for _ in range(20)] == [200] * 20


@pytest.mark.parametrize("status", ["429 Too Many", "500 Oops", "503 Busy", "401 No"])
def test_the_upstreams_own_errors_pass(stand, status):
    said = b'{"error": {"message": "theirs", "novel": 1}}'
    client = stand(http(said, status, "retry-after: 17"))
    answer = post(client, body())
    assert (answer.status_code, answer.content) == (int(status[:3]), said)
    assert answer.headers["retry-after"] == "17"
    record = stand.store.last()
    assert (record.status, record.error) == (int(status[:3]), None)


@pytest.mark.parametrize("said", [b"", b"<html>", b"[1]", b'{"choices":[]}', b"\xff"])
def test_an_answer_that_is_no_completion_passes_and_is_on_record_as_none(stand, said):
    client = stand(http(said))
    assert post(client, body()).content == said
    assert stand.store.last().agreed is None


@pytest.mark.parametrize("hangs", [False, True], ids=["cut", "stalls"])
def test_a_stream_that_breaks_off_breaks_off(stand, hangs):
    """It never looks like a whole one: the client's library raises."""
    stand(events(FIRST, hangs=hangs, whole=False), upstream={"read_s": 0.3})
    with httpx.Client(trust_env=False) as client, pytest.raises(httpx.RemoteProtocolError):
        streamed(client, f"{stand.url}/v1/chat/completions")
    record = stand.store.last()
    assert record.error == ("upstream too late" if hangs else "upstream cut off")
    assert record.response is None


def test_an_answer_that_is_too_long_is_cut(stand):
    client = stand(http(b"x" * 3000), upstream={"max_answer_bytes": 2000})
    assert post(client, body()).status_code == 502
    assert stand.store.last().error == "upstream answer too long"


def test_a_stream_that_is_too_long_is_cut(stand):
    stand(events(*[FIRST] * 50), upstream={"max_answer_bytes": 2000})
    with httpx.Client(trust_env=False) as client, pytest.raises(httpx.RemoteProtocolError):
        streamed(client, f"{stand.url}/v1/chat/completions")


def test_an_openai_client_goes_on_after_an_upstream_came_back(stand):
    answers = iter([Wire([]), http(b"{}", "503 Busy"), http(HELLO)])
    stand(lambda sent: next(answers))
    with openai.OpenAI(base_url=f"{stand.url}/v1", api_key="k", max_retries=3) as client:
        said = client.chat.completions.create(**body()).choices[0].message
    assert said.content == "Hello."


def test_a_router_that_fails_leaves_the_request_to_the_upstream(stand):
    client = stand(http(HELLO), failing)
    answer = post(client, body())
    assert (answer.status_code, answer.content) == (200, HELLO)
    assert stand.store.last().reason == "router failed: RuntimeError"


def test_a_router_that_hangs_costs_one_request_its_time(stand):
    """The others are not kept waiting, and once it is back it is asked again."""
    go = threading.Event()

    def decide(context: Context) -> Decision:
        assert go.wait(20)
        return SURE

    client = stand(http(HELLO), decide, limits={"decide_s": 0.3})
    assert post(client, body()).headers["x-distill-reason"] == "router too late"
    assert post(client, body()).headers["x-distill-reason"] == "router hangs"
    go.set()
    answers = (post(client, body()).headers["x-distill-decided-by"] for _ in range(100))
    assert "local" in answers


def test_a_client_that_leaves_while_the_router_decides_is_on_record(stand):
    go = threading.Event()

    def decide(context: Context) -> Decision:
        assert go.wait(20)
        return SURE

    stand(http(HELLO), decide, limits={"decide_s": 20})
    with httpx.Client(trust_env=False, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{stand.url}/v1/chat/completions", json=body())
    assert stand.store.last().error == "client left"
    go.set()


def test_a_fault_of_our_own_leaves_the_request_to_the_upstream(stand):
    client = stand(http(HELLO), SURE)

    def faulty(decision: Decision, context: Context) -> None:
        raise KeyError

    stand.gateway.answering.policy = faulty
    assert post(client, body()).content == HELLO
    assert stand.store.last().reason == "router failed: KeyError"


def test_one_bad_context_spoils_no_other_of_its_batch(stand):
    def decide(context: Context) -> Decision:
        return failing(context) if context.messages[0].content == "bad" else SURE

    client = stand(http(HELLO), decide)
    reasons = {}

    def ask(text: str) -> None:
        reasons[text] = post(client, body(text)).headers["x-distill-reason"]

    threads = [threading.Thread(target=ask, args=(text,)) for text in ("bad", "a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reasons.pop("bad") == "router failed: RuntimeError"
    assert set(reasons.values()) == {"taken"}


@pytest.mark.parametrize("decided", [SURE, REPLIES], ids=["local", "upstream"])
def test_without_a_record_there_is_no_answer(stand, decided):
    client = stand(http(HELLO), decided)
    stand.store.broken = True
    answer = post(client, body())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert stand.upstream.requests == [], "the LLM was paid for nothing"
    assert client.get("/readyz").status_code == 503
    stand.store.broken = False
    assert post(client, body()).status_code == 200


def test_a_store_that_breaks_meanwhile_withholds_the_answer(stand):
    def said(sent: object) -> Wire:
        stand.store.broken = True
        return http(HELLO)

    client = stand(said)
    answer = post(client, body())
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "record_not_kept"


def test_a_stream_ends_only_when_it_is_on_record(stand):
    def said(sent: object) -> Wire:
        stand.store.broken = True
        return events(FIRST, DONE)

    stand(said)
    with httpx.Client(trust_env=False) as client, pytest.raises(httpx.RemoteProtocolError):
        streamed(client, f"{stand.url}/v1/chat/completions")


@pytest.mark.parametrize("decided", [SURE, REPLIES], ids=["local", "upstream"])
def test_records_may_be_given_up_for_answers(stand, decided):
    lost = []
    client = stand(
        http(HELLO),
        decided,
        store={"on_failure": "serve"},
        observe=lambda record, kept: lost.append(kept),
    )
    stand.store.broken = True
    assert post(client, body()).status_code == 200
    assert lost == [False]
    assert client.get("/readyz").json() == {"ready": True, "store": False}


def test_what_is_answered_is_on_record_before_the_client_has_it(stand):
    """Of 200 requests at once, half of them local."""
    client = stand(http(HELLO), lambda c: SURE if "1" in (c.messages[0].content or "") else REPLIES)
    missing: list[str] = []

    def ask(i: int) -> None:
        answer = post(client, body(f"order {i % 2}"))
        known = {record.id for record in list(stand.store.kept)}
        if answer.headers["x-distill-request"] not in known:
            missing.append(answer.headers["x-distill-request"])

    run_all([lambda i=i: ask(i) for i in range(200)])
    assert missing == []
    assert len({record.id for record in stand.store.kept}) == 200


def run_all(jobs: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


MALFORMED = [
    b"",
    b"{",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff\xfe",
    b"nul",
    b'{"messages": 1e999}',
    orjson.dumps({"messages": None, "tools": None}),
    orjson.dumps({"messages": [[]], "tools": [[]]}),
    orjson.dumps({"messages": [{}], "tools": [{"function": {"name": ""}}]}),
    orjson.dumps({"messages": [{"role": []}], "tools": [{"function": []}], "stream": "yes"}),
    b'{"messages":[{"role":"user","content":"x"}],"tools":[{"name":"a"}],"seed":'
    + b"9" * 400
    + b"}",
]


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_bodies_are_the_upstreams_to_judge(stand, content):
    client = stand(http(b'{"error":{}}', "400 Bad"), SURE)
    answer = client.post("/v1/chat/completions", content=content)
    assert answer.status_code == 400
    assert stand.upstream.requests[0].body == content
