"""Figures say of the records what counting them one by one says."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from record_values import NOON, answer, record, says, switches

from distill.store import Figures, Record, Spent, Store
from distill.types import Decision, ToolCall, Usage

CALL = Decision("call", (ToolCall("switch", {}), ToolCall("dim", {})), 0.8)
REPLY = Decision("reply", (), 0.7)


def put(store: Store, items: Sequence[Record]) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*map(store.put, items))

    asyncio.run(all_at_once())


def made() -> list[Record]:
    """Four hours of requests, of several kinds."""
    items = []
    for i in range(240):
        item = record(i, router_ms=float(i % 100), upstream_ms=float(1000 + i))
        match i % 6:
            case 0:
                local = {"decided_by": "local", "agreed": None, "upstream_ms": None}
                item = replace(item, **local, usage=Usage())
            case 1:
                item = replace(item, decision=CALL, agreed=False, response=answer(says("No.")))
            case 2:
                item = replace(item, decision=REPLY, reason="reply", agreed=None)
            case 3:
                failed = {"error": "upstream cut off", "status": 502, "response": None}
                item = replace(item, **failed, agreed=None, usage=Usage())
            case 4:
                unasked = {"decision": None, "router_ms": None, "agreed": None}
                item = replace(item, **unasked, reason="router not asked")
        items.append(item)
    return items


def test_hours_are_counted_by_who_answered_and_why(url, open_store):
    store = open_store(url)
    items = made()
    put(store, items)
    counted = Counter((item.at.replace(minute=0), item.decided_by, item.reason) for item in items)
    hours = store.figures(NOON).hours
    assert {(h.hour, h.decided_by, h.reason): h.requests for h in hours} == counted
    assert [h.hour for h in hours] == sorted(h.hour for h in hours)
    assert sum(h.compared for h in hours) == sum(item.agreed is not None for item in items) == 80
    assert sum(h.agreed for h in hours) == 40
    assert sum(h.failed for h in hours) == 40


def test_latencies_are_nearest_ranks(url, open_store):
    store = open_store(url)
    items = made()
    put(store, items)
    figures = store.figures(NOON)
    known = sorted(
        item.router_ms for item in items if item.router_ms is not None and item.decision is not None
    )
    router = figures.router
    assert router is not None
    assert router.requests == len(known) == 200
    assert router.mean == sum(known) / 200
    assert (router.p50, router.p95, router.p99) == (known[99], known[189], known[197])
    assert figures.upstream is not None
    assert figures.upstream.requests == 160  # neither local answers nor failures
    put(store, [record(1000, upstream_ms=7.0)])
    (one,) = [store.figures(NOON + timedelta(minutes=1000)).upstream]
    assert one is not None
    assert (one.requests, one.mean, one.p50, one.p95, one.p99) == (1, 7, 7, 7, 7)


def test_tools_and_usage_are_summed(url, open_store):
    store = open_store(url)
    put(store, made())
    figures = store.figures(NOON)
    # 40 of each kind: 0, 3 and 5 decided `switch`, 1 both tools, 2 a reply, 4 was not asked.
    assert figures.decided == {"switch": 160, "dim": 40, "reply": 40}
    assert figures.answered == {"switch": 120, "reply": 40}
    assert figures.spent == [
        Spent("upstream", "large-1", 160, 160, 16_000, 1600, 0),
        Spent("local", "large-1", 40, 0, 0, 0, 0),
        Spent("upstream", "large", 40, 0, 0, 0, 0),
    ]
    big = Usage(2**53, 2**53, cached_tokens=2**53)
    put(store, [record(i, usage=big) for i in range(2000, 2003)])
    (spent,) = store.figures(NOON + timedelta(minutes=2000)).spent
    assert spent.input_tokens == spent.cached_tokens == 3 * 2**53


def test_a_span_counts_from_its_beginning_and_before_its_end(url, open_store):
    store = open_store(url)
    put(store, [record(i) for i in range(10)])
    span = store.figures(NOON + timedelta(minutes=2), NOON + timedelta(minutes=5))
    assert sum(hour.requests for hour in span.hours) == 3
    assert span.decided == {"switch": 3}
    nothing = store.figures(NOON + timedelta(days=1))
    assert nothing == Figures([], None, None, [], {}, {})


def test_the_latest_disagreements_have_both_sides(url, open_store):
    store = open_store(url)
    items = made()
    put(store, items)
    store.accept(items[235].id, True)
    found = store.disagreements(3)
    assert [item.at for item in found] == [items[i].at for i in (235, 229, 223)]
    assert found[0].accepted is True
    assert found[0].decision == CALL
    assert found[0].answer == Decision("reply")
    put(store, [record(999, agreed=False, response=answer(switches("c", on=False)))])
    (latest,) = store.disagreements(1)
    assert latest.answer == Decision("call", (ToolCall("switch", {"on": False}),))
    put(store, [record(1000, agreed=False, response={"choices": [{"message": "?"}]})])
    (latest,) = store.disagreements(1)
    assert latest.answer is None
