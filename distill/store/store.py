"""The gateway's end of the store: records are put, judged by people, and deleted in time."""

import asyncio
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import delete, select, update

from distill.config import StoreConfig
from distill.errors import StoreError
from distill.store.database import Database, address, told
from distill.store.reading import Reader
from distill.store.record import Record
from distill.store.redact import Redaction
from distill.store.rows import RecordRow, SettingRow, to_instant, to_row
from distill.store.writer import Writer

_DELETED_AT_ONCE = 200  # so that records that are put wait for no long deletion


class Store(Reader):
    """Keeps records in the config's database; one for each process, and made after any fork.

    `put` and `healthy` are for the event loop. The other methods wait for the database: call them
    in a thread (`asyncio.to_thread`).

    Raises:
        ConfigError: the address is wrong, or there is no database that may be written to.
    """

    def __init__(self, config: StoreConfig) -> None:
        url, place = address(config)
        super().__init__(Database(url, config.wait_s, place))
        self._config = config
        to_redacted = partial(to_row, redaction=Redaction(config.redact))
        self._writer = Writer(self._database, to_redacted, config.wait_s)

    async def put(self, record: Record) -> None:
        """Keep a record; returns once it is committed. One whose id is there changes nothing.

        It must not be changed meanwhile. If the caller is cancelled, it is kept all the same.

        Raises:
            StoreError: it is not kept; or not within `wait_s`, and then may be, later.
        """
        waiting = asyncio.wrap_future(self._writer.submit(record))
        done, _ = await asyncio.wait([waiting], timeout=self._config.wait_s)
        if not done:
            waiting.cancel()
            raise StoreError("the record is not kept: the database takes too long")
        error = waiting.result()
        if error is not None:
            raise error

    def accept(self, id: str, accepted: bool | None) -> bool:  # noqa: A002
        """Note what a person says of a record as a training example; False: no such record."""
        change = update(RecordRow).where(RecordRow.id == id).values(accepted=accepted)
        with told(), self._database.begin() as connection:
            return connection.execute(change).rowcount == 1

    def setting(self, name: str) -> str | None:
        """What `set_setting` of any process stored last; None: nothing."""
        query = select(SettingRow.value).where(SettingRow.name == name)
        with told(), self._database.connect() as connection:
            return connection.scalar(query)

    def set_setting(self, name: str, value: str) -> None:
        """Store a value for all processes, in place of the one before."""
        with told(), self._database.begin() as connection:
            self._database.put_setting(connection, name, value)

    def prune(self, now: datetime) -> int:
        """Delete records older than `keep_days`, but none that a person accepted; how many."""
        if self._config.keep_days is None:
            return 0
        limit = to_instant(now - timedelta(days=self._config.keep_days))
        old = (
            select(RecordRow.id)
            .where(RecordRow.at < limit, RecordRow.accepted.is_not(True))
            .order_by(RecordRow.at)
            .limit(_DELETED_AT_ONCE)
            .with_for_update(skip_locked=True)  # another process deletes others (PostgreSQL)
        )
        total = 0
        while True:
            with told(), self._database.begin() as connection:
                ids = connection.scalars(old).all()
                # Looked at again: SQLite locks no row, and one may have been accepted by now.
                still = (RecordRow.id.in_(ids), RecordRow.accepted.is_not(True))
                total += connection.execute(delete(RecordRow).where(*still)).rowcount
            if len(ids) < _DELETED_AT_ONCE:
                return total

    def healthy(self) -> bool:
        """Whether records can be kept, as far as the latest attempt tells; returns at once.

        After a failure each call has the database tried again, for a later call to know.
        """
        return self._writer.healthy()

    def close(self) -> None:
        """Write what waits, and close."""
        self._writer.close()
        super().close()
