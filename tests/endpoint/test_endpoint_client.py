"""Waiting, order and bounds, where the wire does not matter; and answers of any shape."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fake_llm import calling, completion
from hypothesis import given
from hypothesis import strategies as st
from small_shop import TOOLS, ask

from distill.config import EndpointConfig
from distill.endpoint import Answer, Endpoint
from distill.endpoint.answer import is_completion, read_answer
from distill.endpoint.pace import Pace
from distill.endpoint.request import identified
from distill.types import Message, ToolCall

FINE = httpx.Response(200, json=completion({"content": "Fine."}))


def endpoint(
    answer: Callable[[httpx.Request], httpx.Response], waits: list[float], **settings: Any
) -> Endpoint:
    values: dict[str, Any] = {"model": "big", "base_url": "http://llm", "cache": None}
    return Endpoint(
        EndpointConfig(**values | settings),
        transport=httpx.MockTransport(answer),
        sleep=waits.append,
    )


def asked(one: Endpoint) -> Answer:
    context = ask("hello")
    return one.complete(context.messages, context.tools, max_tokens=8)


def scripted(*responses: httpx.Response) -> Callable[[httpx.Request], httpx.Response]:
    script = iter(responses)
    return lambda request: next(script)


@pytest.mark.parametrize("wanted", ["7", "date"])
def test_retry_after_is_honoured_in_seconds_or_as_a_date(wanted: str) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    after = {"Retry-After": at if wanted == "date" else wanted}
    waits: list[float] = []
    answer = asked(endpoint(scripted(httpx.Response(429, headers=after), FINE), waits))
    assert answer.words == "Fine."
    assert 5 < max(waits) <= 8


def test_a_wait_longer_than_the_bound_is_a_failure_at_once() -> None:
    busy = httpx.Response(429, headers={"Retry-After": "3600"})
    waits: list[float] = []
    answer = asked(endpoint(scripted(busy), waits, max_wait_s=60))
    assert answer.error == "HTTP 429 (asks to wait 3600 s, more than max_wait_s)"
    assert waits == []


@pytest.mark.parametrize("after", ["soon", "", "-3", "nan", "Thu, 99 Foo"])
def test_a_retry_after_that_says_nothing_is_passed_over(after: str) -> None:
    busy = httpx.Response(503, headers={"Retry-After": after})
    assert asked(endpoint(scripted(busy, FINE), [])).words == "Fine."


def test_attempts_and_the_waits_between_them_are_bounded() -> None:
    waits: list[float] = []
    answer = asked(endpoint(scripted(*[httpx.Response(500)] * 9), waits, retries=8, max_wait_s=9))
    assert answer.error == "HTTP 500"
    assert len(waits) == 8
    assert all(0 <= wait <= min(9, 2**i) for i, wait in enumerate(waits))


def test_starts_are_evenly_spaced_and_a_hold_is_for_everybody() -> None:
    clock = [100.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    pace = Pace(30, lambda: clock[0], sleep)
    starts = []
    for _ in range(3):
        pace.wait()
        starts.append(clock[0])
    assert starts == [100, 102, 104]
    pace.hold(10)
    pace.wait()
    assert clock[0] == 114
    clock[0] += 60  # a pause earns no burst
    for _ in range(2):
        pace.wait()
    assert clock[0] == 176


def test_contexts_are_answered_in_order_and_as_many_at_once_as_allowed() -> None:
    """The barrier opens only for four requests that are under way together."""
    together, lock = threading.Barrier(4), threading.Lock()
    under_way = most = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait(20)
        with lock:
            under_way -= 1
        text = orjson.loads(request.content)["messages"][-1]["content"]
        return httpx.Response(200, json=completion({"content": text.upper()}))

    contexts = [ask(f"request {i}") for i in range(12)]
    answers = endpoint(answer, [], concurrency=4).complete_all(contexts, max_tokens=8)
    assert [a.words for a in answers] == [f"REQUEST {i}" for i in range(12)]
    assert most == 4


def test_clients_share_a_cache_while_they_fill_it(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        contexts = [ask(f"request {i}") for i in range(8)]
        both = [endpoint(lambda request: FINE, [], cache=tmp_path) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(lambda one: one.complete_all(contexts, max_tokens=8), both))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)
    assert {answer.words for answers in made for answer in answers} == {"Fine."}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(contexts)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}
    assert all(answer.cached for answer in both[0].complete_all(contexts, max_tokens=8))


def test_an_interrupt_ends_what_waits() -> None:
    """Waits of an hour do not keep a killed evaluation alive."""
    settings = EndpointConfig(
        model="big", base_url="http://llm", cache=None, requests_per_minute=0.01, concurrency=2
    )

    def answer(request: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    one = Endpoint(settings, transport=httpx.MockTransport(answer))
    with pytest.raises(KeyboardInterrupt):
        one.complete_all([ask(str(i)) for i in range(6)], max_tokens=8)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "tool_calls", "function", "name", "arguments"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
messages = json_values | st.builds(
    lambda content, calls: {"content": content, "tool_calls": calls}, json_values, json_values
)


@given(json_values, messages, json_values)
def test_an_answer_of_any_shape_is_a_decision_or_an_error(
    anything: Any, message: Any, usage: Any
) -> None:
    response = {"choices": [{"message": message, "finish_reason": usage}], "usage": usage}
    for value in (anything, response):
        if is_completion(value):
            answer = read_answer(value, TOOLS, 1.0, cached=False)
            assert (answer.decision is None) == (answer.error is not None)


def test_null_arguments_are_none_given() -> None:
    message = calling(("list_orders", "{}"))
    message["tool_calls"][0]["function"]["arguments"] = None
    answer = read_answer(completion(message), TOOLS, 1.0, cached=False)
    assert answer.decision is not None
    assert answer.decision.calls == (ToolCall("list_orders", {}),)


ids = st.none() | st.sampled_from(["a", "b"])
names = st.none() | st.sampled_from(["get_order", "list_orders"])
logged = st.lists(
    st.builds(
        lambda calls: Message("assistant", None, tuple(calls)),
        st.lists(
            st.builds(ToolCall, st.sampled_from(["get_order", "list_orders"]), st.just({}), ids)
        ),
    )
    | st.builds(lambda i, name: Message("tool", "x", call_id=i, name=name), ids, names)
    | st.just(Message("user", "hi")),
    max_size=8,
)


@given(logged)
def test_ids_are_added_and_never_changed(given_messages: list[Message]) -> None:
    made = identified(given_messages)
    assert len(made) == len(given_messages)
    known: set[str | None] = set()
    for before, after in zip(given_messages, made, strict=True):
        assert (after.role, after.content, after.calls) == (
            before.role,
            before.content,
            before.calls,
        )
        for old, new in zip(before.calls, after.calls, strict=True):
            assert new.id == old.id if old.id else new.id
            known.add(new.id)
        if before.call_id is not None:
            assert after.call_id == before.call_id
        elif after.call_id is not None:
            assert after.call_id in known
