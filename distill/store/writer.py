"""One thread that writes: whatever waits goes into one transaction.

A commit costs the same for one record and for many, so that under load each waits for its share of
one. Where a transaction fails for the sake of one record, each of the group is tried by itself;
where the database is at fault, all of them have failed, and the next group tries again.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any
from uuid import uuid4

from sqlalchemy import delete

from distill.errors import StoreError
from distill.store.database import Database, explain, is_full, is_records_own
from distill.store.record import Record
from distill.store.rows import RecordRow

_GROUP = 256
"""Records of one transaction at most."""
_WAITING = 10_000
"""Records that wait at most; the gateway has long been refusing requests by then."""
_ROOM = " " * 16_384

Row = dict[str, Any]


@dataclass(frozen=True)
class _Waiting:
    """A record, or None for a probe, and what becomes of it: None, or why it was not kept."""

    record: Record | None
    kept: Future[StoreError | None]


class Writer:
    """Args:
    database: where to; this is its only writer of new rows in this process.
    to_row: called in the thread; whatever it raises is the record's own fault.
    wait_s: after which a transaction is taken to hang.
    """

    def __init__(self, database: Database, to_row: Callable[[Record], Row], wait_s: float) -> None:
        self._database, self._to_row, self._wait_s = database, to_row, wait_s
        self._queue: Queue[_Waiting | None] = Queue(_WAITING)
        self._lock = threading.Lock()
        self._closed = False
        self._failing = False
        self._begun: float | None = None
        self._probe: Future[StoreError | None] | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, record: Record | None) -> Future[StoreError | None]:
        """Queue a record (None: a probe); it is not written if the future is cancelled in time.

        Raises:
            StoreError: too many wait, or the writer is closed.
        """
        kept: Future[StoreError | None] = Future()
        with self._lock:
            if self._closed:
                raise StoreError("the store is closed")
            try:
                self._queue.put_nowait(_Waiting(record, kept))
            except Full:
                raise StoreError("too many records wait to be written") from None
        return kept

    def healthy(self) -> bool:
        """Whether the latest transaction did not fail, nor hangs; otherwise one is tried.

        It returns at once: what became of the trial is known to a later call.
        """
        begun = self._begun
        hangs = begun is not None and time.monotonic() - begun > self._wait_s
        if not self._closed and not self._failing and not hangs:
            return True
        if self._probe is None or self._probe.done():
            with suppress(StoreError):
                self._probe = self.submit(None)
        return False

    def close(self) -> None:
        """Write what waits, and end; a database that hangs is not waited for."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join(2 * self._wait_s)

    def _run(self) -> None:
        last = False
        while not last:
            group, last = self._next_group()
            self._write([item for item in group if item.kept.set_running_or_notify_cancel()])

    def _next_group(self) -> tuple[list[_Waiting], bool]:
        """What waits, at least one; and whether it is the last."""
        group: list[_Waiting] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) == _GROUP:
                return group, False
            try:
                item = self._queue.get_nowait()
            except Empty:
                return group, False
        return group, True

    def _write(self, group: Sequence[_Waiting]) -> None:
        rows: list[tuple[_Waiting, Row]] = []
        for item in group:
            try:
                rows.append((item, self._row(item.record)))
            except Exception as error:  # whatever it is, the others are not to suffer
                item.kept.set_result(StoreError(f"the record is no record: {explain(error)}"))
        if not rows:
            return
        fault = self._try(rows)
        alone = len(rows) > 1 and fault is not None and _is_of_one_record(fault)
        for item, row in rows:
            if alone:
                fault = self._try([(item, row)])
                alone = fault is None or _is_of_one_record(fault)
            why = None if fault is None else f"the record is not kept: {explain(fault)}"
            item.kept.set_result(None if why is None else StoreError(why))

    def _row(self, record: Record | None) -> Row:
        return _probe() if record is None else self._to_row(record)

    def _try(self, rows: Sequence[tuple[_Waiting, Row]]) -> Exception | None:
        """Write rows in one transaction, and take the probes out again; what went wrong."""
        probes = [row["id"] for item, row in rows if item.record is None]
        self._begun = time.monotonic()
        try:
            with self._database.begin() as connection:
                self._database.insert(connection, [row for _, row in rows])
                if probes:
                    connection.execute(delete(RecordRow).where(RecordRow.id.in_(probes)))
        except Exception as error:  # whatever it is, the thread must outlive it
            if not is_records_own(error):
                self._failing = True
            return error
        else:
            self._failing = False
            return None
        finally:
            self._begun = None


def _is_of_one_record(error: Exception) -> bool:
    """Whether another record may fare better."""
    return is_records_own(error) or is_full(error)


def _probe() -> Row:
    """A row that takes some room, and is never seen."""
    texts = {"session": "", "mode": "", "decided_by": "", "reason": ""}
    columns = dict.fromkeys(column.name for column in RecordRow.__table__.columns)
    return columns | texts | {"id": f"probe-{uuid4().hex}", "at": 0, "status": 0, "request": _ROOM}
