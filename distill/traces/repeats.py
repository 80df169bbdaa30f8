"""What came before in a file: rows that repeat, and ids that do.

A repeated row is no second decision of the teacher: a file concatenated with itself would
otherwise prove that the teacher always agrees with itself. What came before is kept on disk, so
that memory does not grow with the file.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace

import orjson

from distill.traces.rows import Found, LineTally, Row


class Repeats:
    """Tells a row that is equal, key by key, to an earlier one. To be closed."""

    def __init__(self) -> None:
        self._lines = _FirstLines()

    def check(self, row: Row) -> str:
        """The row's digest in 15 hex digits, whatever the order of its keys.

        Raises ValueError for a row that was checked before.
        """
        content = orjson.dumps(row.value, option=orjson.OPT_SORT_KEYS)
        key = _hash(content)
        earlier = self._lines.first(key, row.line)
        if earlier != row.line:
            raise ValueError(f"the same as line {earlier}, counted once")
        return f"{key:015x}"

    def close(self) -> None:
        self._lines.close()


def with_unique_ids(found: Iterable[Found], tally: LineTally) -> Iterator[Found]:
    """Append the line number to an id that came before.

    Only hashes are held; should two ids share one, the second gets a number it did not need.
    """
    with closing(_FirstLines()) as lines:
        for number, item in enumerate(found):
            trace_id = item.trace.id
            while lines.first(_hash(trace_id.encode()), number) != number:
                trace_id += f"#{item.line}"
            if trace_id == item.trace.id:
                yield item
            else:
                tally.note("an id that came before: the line number is appended")
                yield replace(item, trace=replace(item.trace, id=trace_id))


class _FirstLines:
    """The number that a key came with first, in a temporary file that nobody else sees."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE first (key INTEGER PRIMARY KEY, number INTEGER)")
        self._db.execute("BEGIN")

    def first(self, key: int, number: int) -> int:
        """Remember `number` for a new key; the number that an old one came with."""
        done = self._db.execute("INSERT OR IGNORE INTO first VALUES (?, ?)", (key, number))
        if done.rowcount:
            return number
        row = self._db.execute("SELECT number FROM first WHERE key = ?", (key,)).fetchone()
        return int(row[0])

    def close(self) -> None:
        self._db.close()


def _hash(content: bytes) -> int:
    # 60 bits fit SQLite's integers. Of a billion rows, two share one with even odds.
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 4
