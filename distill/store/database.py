"""SQLite or PostgreSQL: opened, its table made, and what its errors mean.

SQLite runs with a write-ahead log and `synchronous=NORMAL`: what is committed outlives a process
that is killed at any moment; a power cut may take the latest commits, never the file. It is for
one process; several share a PostgreSQL.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import QueuePool

from distill.config import StoreConfig
from distill.errors import ConfigError, StoreError
from distill.store.rows import Base, RecordRow, SettingRow

log = logging.getLogger(__name__)

_ADDRESSES = "use sqlite:///gateway.db or postgresql+psycopg://…"
# Whose turn it is to make the table; any number that no other program takes for another purpose.
_PG_LOCK = 0x6469_7374_696C_6C00
_RETRY_S = 0.02

DATABASE_ERRORS = (SQLAlchemyError, OSError)
"""What a database raises here, a file that cannot be opened included."""


class Database:
    """One database, with its table. Its own errors come through as they are; see `told`.

    Args:
        url: its address, as `address` checked it.
        wait_s: seconds to wait for a lock or a connection.
        place: its name in errors.
        read_only: neither make a file or a table nor write to one.

    Raises:
        ConfigError: it cannot be opened, or is none of ours.
    """

    def __init__(self, url: URL, wait_s: float, place: str, *, read_only: bool = False) -> None:
        self._wait_s, self._read_only = wait_s, read_only
        self._path = Path(url.database).absolute() if _is_sqlite(url) and url.database else None
        self._file: tuple[int, int] | None = None
        self._opening = Lock()
        self.engine = self._engine(url)
        try:
            self._open()
            with self.engine.connect() as connection:
                fault = _foreign(connection)
        except DATABASE_ERRORS as error:
            self.close()
            cure = "check that the folder or the server is there, and may be written to"
            raise ConfigError(place, f"cannot be opened ({explain(error)})", cure) from None
        if fault is not None:
            self.close()
            raise ConfigError(place, fault, "name another database")

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection to read with."""
        self._reopen_another_file()
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction, committed at the block's end."""
        self._reopen_another_file()
        with self.engine.begin() as connection:
            yield connection

    def insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows; one whose id is there is left out."""
        dialect = sqlite if self._path is not None else postgresql
        connection.execute(dialect.insert(RecordRow).on_conflict_do_nothing(), rows)

    def put_setting(self, connection: Connection, name: str, value: str) -> None:
        """Add a setting, or change it."""
        dialect = sqlite if self._path is not None else postgresql
        row = {"name": name, "value": value}
        added = dialect.insert(SettingRow).values(row)
        connection.execute(added.on_conflict_do_update(index_elements=["name"], set_=row))

    def close(self) -> None:
        self.engine.dispose()

    def _engine(self, url: URL) -> Engine:
        # `hide_parameters`: they are conversations, and errors get logged.
        if self._path is None:
            return create_engine(
                url,
                connect_args={
                    "connect_timeout": max(2, ceil(self._wait_s)),
                    "tcp_user_timeout": ceil(self._wait_s * 1000),
                },
                pool_pre_ping=True,
                pool_timeout=self._wait_s,
                hide_parameters=True,
            )
        if self._read_only:
            query = {"mode": "ro", "uri": "true"}
            url = URL.create("sqlite", database=f"file:{quote(str(self._path))}", query=query)
        else:
            url = URL.create("sqlite", database=str(self._path))
        engine = create_engine(url, connect_args={"timeout": self._wait_s}, hide_parameters=True)
        if not self._read_only:
            event.listen(engine, "connect", _set_pragmas)
        return engine

    def _open(self) -> None:
        if self._read_only:
            return
        if self._path is not None:
            # For its owner alone, and SQLite gives its log the same permissions.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            with self.engine.connect() as connection:
                self._log_ahead(connection)
        with self.engine.begin() as connection:
            # One process at a time looks whether the table is there, and makes it.
            if self._path is not None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(select(func.pg_advisory_xact_lock(_PG_LOCK)))
            Base.metadata.create_all(connection)
        if self._path is not None:
            self._file = _identity(self._path)

    def _finish_log(self) -> None:
        """Move what the log holds into the file it belongs to, wherever that is by now."""
        pool = self.engine.pool
        # A connection of before: a new one would open the new file.
        if isinstance(pool, QueuePool) and pool.checkedin():
            with suppress(SQLAlchemyError), self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def _log_ahead(self, connection: Connection) -> None:
        """Switch to the write-ahead log; while another does the same, SQLite does not wait."""
        until = time.monotonic() + self._wait_s
        while True:
            try:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            except OperationalError as error:
                if time.monotonic() > until or not _is_busy(error):
                    raise
                time.sleep(_RETRY_S)
            else:
                return

    def _reopen_another_file(self) -> None:
        """SQLite would go on writing to a file that was deleted or moved, and nobody would know."""
        if self._path is None or self._read_only:
            return
        with self._opening:
            there = _identity(self._path)
            if there is None or there != self._file:
                log.warning("%s is gone or another file: opened anew", self._path.name)
                self._file = None
                self._finish_log()
                self.engine.dispose()
                self._open()


def address(config: StoreConfig) -> tuple[URL, str]:
    """The database's address, and what errors call it.

    Raises:
        ConfigError: it is none, or of a kind that is not supported; its text is not repeated, since
            it may hold a password.
    """
    place, text = "store.url", config.url
    if config.url_env is not None:
        place = f"environment variable {config.url_env}"
        text = os.environ.get(config.url_env, "")
        if not text:
            raise ConfigError(place, "not set", "set it to the database's address")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(place, "not a database's address", _ADDRESSES) from None
    if _is_sqlite(url):
        # Memory would forget, and a URI could ask for anything.
        if not url.database or url.database.startswith((":memory:", "file:")) or url.query:
            raise ConfigError(place, "not a plain file", "use sqlite:///gateway.db")
    elif url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise ConfigError(place, "a database of another kind", _ADDRESSES)
    else:
        url = url.set(drivername="postgresql+psycopg")
    return url, place


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has the name now; None where none has."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _is_sqlite(url: URL) -> bool:
    return url.drivername in ("sqlite", "sqlite+pysqlite")


@contextmanager
def told() -> Iterator[None]:
    """Database errors in the block become StoreErrors."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise StoreError(f"the store: {explain(error)}") from None


def explain(error: BaseException) -> str:
    """An error in one line, without what was to be written."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


def is_full(error: BaseException) -> bool:
    """Whether there was no room: a smaller record may still find some."""
    cause = getattr(error, "orig", None)
    code = getattr(cause, "sqlite_errorname", "") or getattr(cause, "sqlstate", "")
    return code in ("SQLITE_FULL", "53100")


def is_records_own(error: BaseException) -> bool:
    """Whether the rows are at fault, and not the database."""
    return isinstance(error, DataError | IntegrityError) or not isinstance(error, DATABASE_ERRORS)


def _is_busy(error: DBAPIError) -> bool:
    return str(getattr(error.orig, "sqlite_errorname", "")).startswith("SQLITE_BUSY")


def _set_pragmas(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")
    # What retention deletes is overwritten, not left in the file for whoever looks.
    connection.execute("PRAGMA secure_delete = ON")


def _foreign(connection: Connection) -> str | None:
    """Why the table is none of this version's; None where it is."""
    inspector = inspect(connection)
    if not inspector.has_table(RecordRow.__tablename__):
        return "holds no records of a gateway"
    there = {column["name"] for column in inspector.get_columns(RecordRow.__tablename__)}
    missing = sorted({column.name for column in RecordRow.__table__.columns} - there)
    return f"another version's: no column {missing[0]!r}" if missing else None
