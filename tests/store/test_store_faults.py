"""Whatever happens to the process or the database: an acknowledged record is there, and a record
that is not kept is an error in time. Afterwards the store goes on."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from children import child
from record_values import record
from sqlalchemy import Engine, event, make_url

from distill.store import Reader, Store, StoreError

WAIT_S = 0.2

PUTS = """
import asyncio, sys
from itertools import count
from record_values import record
from distill.config import StoreConfig
from distill.store import Store

async def put(store, first, step):
    for number in count(first, step):
        item = record(number, request={"messages": "x" * (number % 50) * 1000})
        await store.put(item)
        print(item.id, flush=True)

async def main():
    store = Store(StoreConfig(url=sys.argv[1]))
    await asyncio.gather(*(put(store, first, 8) for first in range(8)))

asyncio.run(main())
"""


def put(store: Store, *numbers: int, **changes: Any) -> None:
    """Put records one after another."""

    async def one_by_one() -> None:
        for number in numbers:
            await store.put(record(number, **changes))

    asyncio.run(one_by_one())


def numbers(store: Store) -> list[int]:
    return [int(item.id, 16) for item in store.records()]


def recovers(store: Store) -> bool:
    """Whether the store finds that it works again, without a record being risked."""

    async def asked_until_it_says_yes() -> bool:
        async with asyncio.timeout(60):
            while not store.healthy():
                await asyncio.sleep(0.01)
        return True

    return asyncio.run(asked_until_it_says_yes())


def test_a_killed_process_loses_no_acknowledged_record(url, open_store):
    with child(PUTS, url) as process:
        assert process.stdout is not None
        acknowledged = [next(process.stdout).strip() for _ in range(200)]
        process.kill()
        acknowledged += process.stdout.read().split()
    if url.startswith("sqlite"):
        # As it was left, its log beside it; one who only reads needs no store to tidy up first.
        reader = Reader.of_file(Path(make_url(url).database or ""))
        assert reader.count() >= 200
        reader.close()
    store = open_store(url)
    found = [item.id for item in store.records()]
    assert len(acknowledged) >= 200
    assert set(acknowledged) <= set(found)
    assert len(set(found)) == len(found)
    put(store, 10**9)
    assert store.count() == len(found) + 1


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Somebody else has the table to himself."""
    if url.startswith("sqlite"):
        other = sqlite3.connect(make_url(url).database or "", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
    else:
        address = make_url(url).set(drivername="postgresql").render_as_string()
        other = psycopg.connect(address)
        other.execute("LOCK TABLE distill_records IN ACCESS EXCLUSIVE MODE")
    try:
        yield
        other.rollback() if url.startswith("postgres") else other.execute("ROLLBACK")
    finally:
        other.close()


def test_a_locked_database_is_an_error_and_then_it_goes_on(url, open_store):
    store = open_store(url, wait_s=WAIT_S)
    put(store, 0)
    with locked(url):
        for number in (1, 2):
            with pytest.raises(StoreError):
                put(store, number)
        assert not store.healthy()
    assert recovers(store)
    put(store, 3)
    kept = numbers(store)
    # What was not acknowledged may be there all the same.
    assert [number for number in kept if number not in (1, 2)] == [0, 3]


def test_what_waited_too_long_for_its_turn_is_not_written_later(postgres, open_store):
    url = postgres.new_database()
    store = open_store(url, wait_s=WAIT_S)

    async def put_many() -> list[BaseException | None]:
        first = asyncio.create_task(store.put(record(0)))
        await asyncio.sleep(WAIT_S / 4)  # it is in its transaction by now, which hangs
        later = (store.put(record(i)) for i in range(1, 5))
        return await asyncio.gather(first, *later, return_exceptions=True)

    with locked(url):
        assert [type(fault) for fault in asyncio.run(put_many())] == [StoreError] * 5
        assert not store.healthy()
    assert recovers(store)
    assert set(numbers(store)) <= {0}


def test_a_server_that_drops_its_connections_is_found_again(postgres, open_store):
    url = postgres.new_database()
    store = open_store(url)
    put(store, 0)
    with postgres.connect("postgres") as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [make_url(url).database],
        )
    put(store, 1)
    assert numbers(store) == [0, 1]


@contextmanager
def on_checkout(change: Callable[[Any], object]) -> Iterator[None]:
    """Do something with every connection when it is taken for use."""

    def changed(connection: Any, _: Any, __: Any) -> None:
        change(connection)

    event.listen(Engine, "checkout", changed)
    try:
        yield
    finally:
        event.remove(Engine, "checkout", changed)


def test_a_full_disk_costs_only_what_does_not_fit(sqlite_url, open_store):
    big = {"messages": "x" * 500_000}
    with on_checkout(lambda connection: connection.execute("PRAGMA max_page_count = 100")):
        store = open_store(sqlite_url, keep_days=1)
        put(store, 0, request={"messages": "x" * 200_000})

        async def at_once() -> list[BaseException | None]:
            large, small = record(1, request=big), record(2)
            return await asyncio.gather(store.put(large), store.put(small), return_exceptions=True)

        fault, nothing = asyncio.run(at_once())
        assert isinstance(fault, StoreError)
        assert "full" in str(fault)
        assert nothing is None
        with pytest.raises(StoreError, match="full"):
            put(store, 3, request={"messages": "x" * 250_000})
        assert not store.healthy()
        # Retention makes room.
        assert store.prune(record(0).at.replace(year=2031)) == 2
        assert recovers(store)
        put(store, 4, request={"messages": "x" * 250_000})
    assert numbers(store) == [4]


def test_a_disk_that_turns_read_only_is_an_error(sqlite_url, open_store):
    store = open_store(sqlite_url)
    put(store, 0)
    with on_checkout(lambda connection: connection.execute("PRAGMA query_only = ON")):
        with pytest.raises(StoreError, match="readonly"):
            put(store, 1)
        with pytest.raises(StoreError, match="readonly"):
            store.accept(record(0).id, True)
        assert numbers(store) == [0]
    with on_checkout(lambda connection: connection.execute("PRAGMA query_only = OFF")):
        put(store, 2)
    assert numbers(store) == [0, 2]


def test_a_deleted_file_is_made_anew(sqlite_url, open_store, tmp_path):
    store = open_store(sqlite_url)
    put(store, 0)
    for file in tmp_path.iterdir():
        file.unlink()
    put(store, 1)
    assert numbers(store) == [1]
    # Into the file of that name, not into one that nobody finds.
    assert numbers(open_store(sqlite_url)) == [1]


def test_a_file_that_was_moved_away_is_whole(sqlite_url, open_store, tmp_path):
    store = open_store(sqlite_url)
    put(store, 0)
    (tmp_path / "gateway.db").rename(tmp_path / "old.db")
    put(store, 1)
    assert numbers(open_store(f"sqlite:///{tmp_path}/old.db")) == [0]
    assert numbers(store) == [1]


def test_a_folder_that_is_gone_is_an_error_until_it_is_back(open_store, tmp_path):
    folder = tmp_path / "volume"
    folder.mkdir()
    store = open_store(f"sqlite:///{folder}/gateway.db")
    put(store, 0)
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match="No such file"):
        put(store, 1)
    with pytest.raises(StoreError):
        store.count()
    assert not store.healthy()
    folder.mkdir()
    assert recovers(store)
    put(store, 2)
    assert numbers(store) == [2]


def test_a_probe_leaves_nothing(url, open_store):
    store = open_store(url, wait_s=WAIT_S)
    with locked(url), pytest.raises(StoreError):
        put(store, 0)
    assert recovers(store)
    assert all(not item.id.startswith("probe") for item in store.records())


def test_too_many_that_wait_are_refused_at_once(sqlite_url, open_store, monkeypatch):
    monkeypatch.setattr("distill.store.writer._WAITING", 5)
    store = open_store(sqlite_url, wait_s=WAIT_S)

    async def flood() -> list[BaseException | None]:
        return await asyncio.gather(
            *(store.put(record(i)) for i in range(20)), return_exceptions=True
        )

    with locked(sqlite_url):
        faults = asyncio.run(flood())
    assert all(isinstance(fault, StoreError) for fault in faults)
    assert sum("too many" in str(fault) for fault in faults) >= 10
    assert recovers(store)


def test_an_error_repeats_nothing_of_the_record(sqlite_url, open_store):
    store = open_store(sqlite_url)
    read_only = on_checkout(lambda connection: connection.execute("PRAGMA query_only = ON"))
    with read_only, pytest.raises(StoreError) as caught:
        put(store, 0, request={"messages": "a word to keep"}, session="a session")
    assert "word" not in str(caught.value)
    assert "session" not in str(caught.value)
    assert "\n" not in str(caught.value)
