"""What is put comes back as it was, from either database, whoever puts it."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from record_values import NOON, record, records

from distill.config import StoreConfig
from distill.store import Record, Store, StoreError


async def put(store: Store, *items: Record) -> list[BaseException | None]:
    """Put all at once; what became of each."""
    return await asyncio.gather(*map(store.put, items), return_exceptions=True)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("store")
    store = Store(StoreConfig(url=f"sqlite:///{folder}/gateway.db"))
    yield store
    store.close()


@given(made=records)
def test_a_record_comes_back_as_it_was(shared_store, made):
    item = replace(made, id=uuid4().hex)  # made by chance alone, ids would repeat
    asyncio.run(shared_store.put(item))
    found = shared_store.get(item.id)
    # Times of two zones are never equal where a clock is turned back (PEP 495).
    assert found == replace(item, at=item.at.astimezone(UTC))
    assert found.at.tzinfo is UTC
    # What equality leaves out: ids of calls, stage, error and usage.
    assert repr(found.decision) == repr(item.decision)


def test_records_outlive_the_store(url, open_store):
    items = [record(i) for i in range(3)]
    store = open_store(url)
    asyncio.run(put(store, *items))
    store.close()
    assert list(open_store(url).records()) == items


def test_either_database_keeps_all_that_a_record_holds(url, open_store):
    store = open_store(url)
    items = [record(i) for i in range(5)]
    items[1] = replace(items[1], decision=None, request=None, response=None, client=None)
    odd = {"big": 10**30, "nul": "\0", "half": "\ud800", "tiny": 1e-300}
    items[2] = replace(items[2], request=odd)
    items[3] = replace(items[3], agreed=None, router_ms=None, error="upstream cut off", status=502)
    assert asyncio.run(put(store, *reversed(items))) == [None] * 5
    assert list(store.records()) == items
    assert [store.get(item.id) for item in items] == items
    assert store.count() == 5
    assert store.get("other") is None


def test_what_no_database_holds_is_replaced(url, open_store):
    store = open_store(url)
    response = {"model": "a\0b", "choices": "\0"}
    asyncio.run(put(store, record(session="\0s", error="\ud800", response=response)))
    (found,) = store.records()
    assert (found.session, found.error) == ("\ufffds", "?")
    assert found.response == response


def test_records_come_in_order_of_time_and_of_a_span(url, open_store):
    store = open_store(url)
    items = [record(i) for i in range(60)]
    asyncio.run(put(store, *items[::2], *items[1::2]))
    assert list(store.records()) == items
    span = store.records(since=NOON + timedelta(minutes=3), until=NOON + timedelta(minutes=7))
    assert list(span) == items[3:7]
    # A reader that stops early leaves nothing behind that would hinder.
    next(iter(store.records()))
    assert store.accept(items[0].id, True)


def test_the_same_id_again_is_no_second_row(url, open_store):
    store = open_store(url)
    first = record()
    assert asyncio.run(put(store, first, first, replace(first, session="other"))) == [None] * 3
    asyncio.run(store.put(replace(first, session="other")))
    assert list(store.records()) == [first]


def test_threads_with_loops_of_their_own_lose_nothing(url, open_store):
    store = open_store(url)

    def work(first: int) -> None:
        done = asyncio.run(put(store, *(record(first + i) for i in range(100))))
        assert done == [None] * 100

    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {item.id for item in store.records()} == {
        record(1000 * i + k).id for i in range(4) for k in range(100)
    }


@pytest.mark.parametrize(
    "poison",
    [
        {"request": {"messages": object()}},
        {"at": NOON.replace(tzinfo=None)},
        {"status": 2**70},
        {"id": None},
        {"id": "\ud800"},
    ],
)
def test_one_bad_record_costs_no_other(url, open_store, poison: dict[str, Any]):
    store = open_store(url)
    items = [record(i) for i in range(20)]
    bad = replace(record(99), **poison)
    done = asyncio.run(put(store, *items[:10], bad, *items[10:]))
    assert [type(fault) for fault in done] == [*[type(None)] * 10, StoreError, *[type(None)] * 10]
    assert list(store.records()) == items
    assert store.healthy()


def test_a_person_judges_a_record(url, open_store):
    store = open_store(url)
    asyncio.run(put(store, record(0), record(1)))
    assert store.accept(record(0).id, True)
    assert store.accept(record(1).id, False)
    assert [item.accepted for item in store.records()] == [True, False]
    assert store.accept(record(0).id, None)
    assert [item.accepted for item in store.records()] == [None, False]
    assert not store.accept("no such id", True)


def test_old_records_go_and_accepted_ones_stay(url, open_store):
    store = open_store(url, keep_days=1)
    items = [record(i, at=NOON + timedelta(minutes=i), accepted=None) for i in range(450)]
    items[3] = replace(items[3], accepted=True)
    items[4] = replace(items[4], accepted=False)
    asyncio.run(put(store, *items))
    now = NOON + timedelta(days=1, minutes=440)
    assert store.prune(now) == 439
    assert list(store.records()) == [items[3], *items[440:]]
    assert store.prune(now) == 0


def test_without_a_limit_nothing_goes(sqlite_url, open_store):
    store = open_store(sqlite_url, keep_days=None)
    asyncio.run(put(store, record()))
    assert store.prune(NOON + timedelta(days=10_000)) == 0
    assert store.count() == 1


def test_what_is_deleted_is_no_longer_in_the_file(sqlite_url, open_store, tmp_path):
    store = open_store(sqlite_url, keep_days=1)
    asyncio.run(put(store, record(request={"messages": "a word to forget" * 1000})))
    store.prune(NOON + timedelta(days=2))
    store.close()
    assert b"forget" not in (tmp_path / "gateway.db").read_bytes()


def test_a_record_is_kept_although_its_sender_was_cancelled(sqlite_url, open_store):
    store = open_store(sqlite_url)

    async def cancelled() -> None:
        sending = asyncio.create_task(store.put(record()))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(cancelled())
    store.close()
    assert open_store(sqlite_url).count() == 1


def test_closing_writes_what_waits_and_then_refuses(sqlite_url, open_store):
    store = open_store(sqlite_url)

    async def close_at_once() -> list[BaseException | None]:
        sending = [asyncio.create_task(store.put(record(i))) for i in range(50)]
        await asyncio.sleep(0)
        store.close()
        return await asyncio.gather(*sending, return_exceptions=True)

    assert asyncio.run(close_at_once()) == [None] * 50
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(store.put(record(99)))
    assert open_store(sqlite_url).count() == 50
