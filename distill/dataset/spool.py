"""Examples on disk between reading and writing, so that memory does not grow with the traces.

One temporary SQLite file holds every verified example, the messages of each trace once, each
catalogue once, and the first requests by group key; iteration is always in an order that the order
of the traces cannot change. What SQLite sorts on the way it spills to files of its own, in the
folder that SQLITE_TMPDIR or TMPDIR names, else /var/tmp. It knows nothing of why an example is kept
or where it will go.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from distill.chat import decision_json, message_json, tool_json
from distill.dataset.parts import Part
from distill.dataset.points import (
    first_user,
    join_keys,
    label_key,
    message_key,
    n_arguments,
    step,
    tools_key,
)
from distill.types import Example, Trace

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE trace (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE catalogue (hash TEXT PRIMARY KEY, tools BLOB, used INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE TABLE message (id INTEGER PRIMARY KEY, json TEXT);
CREATE TABLE example (
    id INTEGER PRIMARY KEY, grp TEXT, trace TEXT, n INTEGER, teacher TEXT,
    context BLOB, conversation BLOB, tools BLOB, label BLOB, decision TEXT
);
CREATE TABLE payload (
    id INTEGER PRIMARY KEY, name TEXT, first_message INTEGER, n_messages INTEGER,
    catalogue TEXT, label TEXT, n_tools INTEGER, step INTEGER, n_calls INTEGER, n_arguments INTEGER
);
CREATE TABLE opening (text TEXT, grp TEXT, PRIMARY KEY (text, grp)) WITHOUT ROWID;
CREATE TABLE grp (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE component (root INTEGER, rank BLOB, grp INTEGER);
CREATE TABLE part (grp TEXT PRIMARY KEY, merged TEXT, part TEXT) WITHOUT ROWID;
"""

_ROW = """
SELECT name AS id, trace AS trace_id, merged AS "group", catalogue, payload.label AS label,
    n_messages, n_tools, step, n_calls, n_arguments
FROM payload JOIN example USING (id) JOIN part USING (grp) WHERE id = ?
"""


@dataclass(frozen=True)
class Key:
    """What stands for a spooled example in memory: hashes, equal for equal values.

    `decision` is the label's tool multiset as JSON.
    """

    id: int
    context: bytes
    tools: bytes
    label: bytes
    decision: str


@contextmanager
def open_spool(folder: Path) -> Iterator["Spool"]:
    """A fresh spool in `folder`; the caller removes the folder."""
    with closing(sqlite3.connect(folder / "spool.sqlite", isolation_level=None)) as connection:
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN")
        yield Spool(connection)


class Spool:
    """See the module."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def is_new(self, trace_id: str) -> bool:
        """Whether this is the first call with the id."""
        done = self._db.execute("INSERT OR IGNORE INTO trace VALUES (?)", [trace_id])
        return done.rowcount == 1

    def add(self, trace: Trace, examples: Sequence[Example]) -> None:
        """Store a trace's examples that passed verification (at least one)."""
        tools_json = orjson.dumps([tool_json(tool) for tool in trace.tools])
        catalogue = hashlib.sha256(tools_json).hexdigest()
        self._db.execute(
            "INSERT OR IGNORE INTO catalogue (hash, tools) VALUES (?, ?)", [catalogue, tools_json]
        )
        names = tools_key(trace.tools)
        keys = [b"" if m.role == "system" else message_key(m) for m in trace.messages]
        first = self._add_messages(trace, max(len(e.context.messages) for e in examples))
        for example in examples:
            number, end = example.id.rpartition("#")[2], len(example.context.messages)
            calls = example.label.calls
            added = self._db.execute(
                "INSERT INTO example (grp, trace, n, teacher, context, conversation, tools, label,"
                " decision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    trace.group,
                    trace.id,
                    int(number),
                    trace.teacher,
                    join_keys(names, keys[:end]),
                    join_keys(b"", keys[:end]),
                    names,
                    label_key(example.label),
                    orjson.dumps(example.label.tools).decode(),
                ],
            )
            self._db.execute(
                "INSERT INTO payload VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    added.lastrowid,
                    example.id,
                    first,
                    end,
                    catalogue,
                    orjson.dumps(decision_json(example.label)).decode(),
                    len(trace.tools),
                    step(example.context),
                    len(calls),
                    n_arguments(calls),
                ],
            )
        opening = trace.messages[first_user(trace.messages)].content or ""
        # As `similar` compares them, so that exact copies need no signature of their own.
        flat = " ".join(opening.lower().split())
        self._db.execute("INSERT OR IGNORE INTO opening VALUES (?, ?)", [flat, trace.group])

    def _add_messages(self, trace: Trace, n: int) -> int:
        """Store the first `n` messages under numbers that follow one another; return the first."""
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM message").fetchone()
        texts = (orjson.dumps(message_json(message)).decode() for message in trace.messages[:n])
        self._db.executemany("INSERT INTO message VALUES (?, ?)", enumerate(texts, last + 1))
        return int(last) + 1

    def observations(self, *, by_teacher: bool) -> Iterator[list[int]]:
        """Per conversation so far: how often each distinct tool multiset was observed.

        Whatever else was on offer: some sets record one task under several tool lists.
        """
        keys = "teacher, conversation" if by_teacher else "'', conversation"
        rows = self._db.execute(
            f"SELECT {keys}, decision, count(*) FROM example GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        )
        for _, observed in groupby(rows, key=lambda row: row[:2]):
            yield [count for *_, count in observed]

    def number_groups(self) -> int:
        """Give every group key its number, from 1 in their order; return how many."""
        added = self._db.execute(
            "INSERT INTO grp (name) SELECT DISTINCT grp FROM opening ORDER BY grp"
        )
        return added.rowcount

    def groups(self) -> Iterator[tuple[int, str]]:
        """Every group key with its number, in order."""
        yield from self._db.execute("SELECT id, name FROM grp ORDER BY id")

    def openings(self) -> Iterator[tuple[str, list[int]]]:
        """Every distinct first request with the numbers of its group keys, in order."""
        rows = self._db.execute(
            "SELECT text, id FROM opening JOIN grp ON grp = name ORDER BY text, grp"
        )
        for text, held in groupby(rows, key=lambda row: row[0]):
            yield text, [number for _, number in held]

    def join(self, root: int, rank: bytes, group: int) -> None:
        """Put a group key into the component `root`."""
        self._db.execute("INSERT INTO component VALUES (?, ?, ?)", [root, rank, group])

    def components(self) -> Iterator[list[str]]:
        """The group keys of each component, the one of the lowest rank first."""
        rows = self._db.execute(
            "SELECT root, name FROM component JOIN grp ON grp = id ORDER BY root, rank"
        )
        for _, members in groupby(rows, key=lambda row: row[0]):
            yield [name for _, name in members]

    def assign(self, key: str, merged: str, part: Part) -> None:
        """Fix the merged group and the part of a group key."""
        self._db.execute("INSERT INTO part VALUES (?, ?, ?)", [key, merged, part])

    def by_group_key(self) -> Iterator[tuple[Part, str, list[Key]]]:
        """Part, merged group and examples of each group key.

        Ordered by merged group, group key, trace id and turn.
        """
        rows = self._db.execute(
            "SELECT grp, part, merged, id, context, tools, label, decision"
            " FROM example JOIN part USING (grp) ORDER BY merged, grp, trace, n"
        )
        for (_, part, merged), keys in groupby(rows, key=lambda row: row[:3]):
            yield part, merged, [Key(*key[3:]) for key in keys]

    def row(self, example: int) -> dict[str, Any]:
        """What the spool knows for an example's dataset row; marks its catalogue as used.

        That is the row's columns but weight, start and end, and `n_messages` of its context.
        """
        found = self._db.execute(_ROW, [example])
        values = found.fetchone()
        row = dict(zip((column[0] for column in found.description), values, strict=True))
        self._db.execute(
            "UPDATE catalogue SET used = 1 WHERE hash = ? AND NOT used", [row["catalogue"]]
        )
        return row

    def messages(self, example: int, skip: int = 0) -> Iterator[str]:
        """The JSON of each of an example's context messages, from number `skip` on."""
        found = self._db.execute(
            "SELECT json FROM payload JOIN message ON message.id"
            " BETWEEN first_message + ? AND first_message + n_messages - 1"
            " WHERE payload.id = ? ORDER BY message.id",
            [skip, example],
        )
        for (text,) in found:
            yield str(text)

    def catalogues(self) -> Iterator[tuple[str, bytes]]:
        """Hash and JSON tool list of every catalogue that a fetched row uses."""
        yield from self._db.execute("SELECT hash, tools FROM catalogue WHERE used ORDER BY hash")
