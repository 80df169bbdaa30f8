"""Records as they were written, and figures of them, beside a gateway that goes on writing."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, func, select

from distill.config import StoreConfig
from distill.errors import ConfigError
from distill.store import figures as figures_
from distill.store.database import Database, address, told
from distill.store.figures import Decided, Disagreement, Figures, Instead
from distill.store.record import Record
from distill.store.rows import RecordRow, to_instant, to_record

_WAIT_S = 30.0
_PAGE = 20  # records held in memory at once; each repeats a whole conversation


class Reader:
    """Reads a database of records; its methods raise StoreError where the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def of_file(cls, path: Path) -> "Reader":
        """The records of an SQLite file, which is not written to.

        Raises:
            ConfigError: there is none, or it holds no records.
        """
        if not path.is_file():
            raise ConfigError(path, "no such file", "name the gateway's database")
        url = URL.create("sqlite", database=str(path))
        return cls(Database(url, _WAIT_S, str(path), read_only=True))

    @classmethod
    def of_variable(cls, name: str) -> "Reader":
        """The records of the database whose address is in an environment variable; as `of_file`."""
        url, place = address(StoreConfig(url_env=name))
        if url.get_backend_name() == "sqlite":
            return cls.of_file(Path(url.database or ""))
        return cls(Database(url, _WAIT_S, place, read_only=True))

    def records(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[Record]:
        """Records from `since` on and before `until`, in order of time, a few in memory at once.

        What is written meanwhile is not among them.
        """
        query = select(RecordRow.__table__).order_by(RecordRow.at, RecordRow.id)
        if since is not None:
            query = query.where(RecordRow.at >= to_instant(since))
        if until is not None:
            query = query.where(RecordRow.at < to_instant(until))
        query = query.execution_options(yield_per=_PAGE)
        # A caller that stops early closes the result, too, which is a cursor of the server's.
        with (
            told(),
            self._database.connect() as connection,
            connection.execute(query) as result,
        ):
            for row in result.mappings():
                yield to_record(row)

    def get(self, id: str) -> Record | None:  # noqa: A002
        """The record of this id; None where there is none."""
        query = select(RecordRow.__table__).where(RecordRow.id == id)
        with told(), self._database.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else to_record(row)

    def count(self) -> int:
        """Records in all."""
        with told(), self._database.connect() as connection:
            return connection.scalar(select(func.count()).select_from(RecordRow)) or 0

    def figures(self, since: datetime, until: datetime | None = None) -> Figures:
        """What happened from `since` on and before `until`."""
        with told(), self._database.connect() as connection:
            return figures_.figures(connection, since, until)

    def instead(
        self, since: datetime, reasons: Collection[str], until: datetime | None = None
    ) -> Instead:
        """What the upstream took for requests with one of these reasons."""
        with told(), self._database.connect() as connection:
            return figures_.instead(connection, since, until, reasons)

    def decided(
        self,
        since: datetime,
        *,
        confidences: Sequence[float],
        lengths: Sequence[float],
        until: datetime | None = None,
    ) -> Decided:
        """What the router decided, counted between these edges."""
        with told(), self._database.connect() as connection:
            return figures_.decided(connection, since, until, confidences, lengths)

    def disagreements(self, limit: int = 20) -> list[Disagreement]:
        """The latest requests that the upstream answered otherwise than the router would have."""
        with told(), self._database.connect() as connection:
            return figures_.disagreements(connection, limit)

    def close(self) -> None:
        """Close its connections."""
        self._database.close()
