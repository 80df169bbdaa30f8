"""What a dashboard compares: with training, and with what the upstream took instead."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from record_values import NOON, answer, ask, record, says, user

from distill.types import Decision, ToolCall, Usage

SYSTEM = {"role": "system", "content": "Be brief. " * 100}
BEFORE = NOON - timedelta(days=1)


async def put(store, *records):
    for made in records:
        await store.put(made)


def decided(confidence, *tools):
    calls = tuple(ToolCall(name, {}) for name in tools)
    return Decision("call" if calls else "reply", calls, confidence)


async def keep_all(store):
    for i, (confidence, session, text, tools) in enumerate(
        [
            (0.05, "a", "x" * 9, ["switch"]),
            (0.5, "a", "x" * 10, ["switch", "switch"]),
            (0.95, "b", "x" * 99, []),
            (1.0, "c", "x" * 1000, ["dim"]),
            (None, "c", "x" * 1000, ["dim"]),
        ]
    ):
        made = record(i, decision=decided(confidence, *tools), session=session)
        await store.put(replace(made, request=ask(SYSTEM, user(text))))
    await store.put(record(9, decision=None, session="d"))


def test_decisions_are_counted_between_edges(open_store, url):
    store = open_store(url)
    asyncio.run(keep_all(store))
    found = store.decided(BEFORE, confidences=[0.5, 1.0], lengths=[10, 100])
    assert (found.decisions, found.sessions) == (5, 3)
    assert found.confidences == [1, 2, 1], "an edge belongs to what begins there"
    assert found.lengths == [1, 2, 2], "the system prompt does not count"
    assert found.tools == {"switch": 2, "dim": 2, "reply": 1}
    later = store.decided(NOON + timedelta(days=1), confidences=[0.5], lengths=[])
    assert (later.decisions, later.confidences, later.lengths) == (0, [0, 0], [0])


def test_what_the_upstream_took_instead_is_of_those_reasons_alone(open_store, url):
    store = open_store(url)
    asyncio.run(
        put(
            store,
            record(1, upstream_ms=100.0),
            record(2, upstream_ms=300.0, reason="over the budget", usage=Usage(50, 5)),
            record(3, upstream_ms=9000.0, reason="reply", response=answer(says("Hello."))),
            record(4, upstream_ms=9000.0, error="upstream cut off", response=None),
            record(5, decided_by="local", upstream_ms=None, usage=Usage()),
        )
    )
    found = store.instead(BEFORE, ["taken", "over the budget"])
    assert found.latency is not None
    assert (found.latency.requests, found.latency.mean) == (2, 200.0)
    (spent,) = found.spent
    assert (spent.requests, spent.input_tokens, spent.output_tokens) == (2, 150, 15)
    assert store.instead(BEFORE, ["sensitive tool"]).latency is None
