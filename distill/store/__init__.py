"""What the gateway recorded: every request, the decision and the answer, in a database.

    record      one request with what became of it
    redact      values that are never written
    rows        a record <-> a row of the table
    database    SQLite or PostgreSQL: opened, its schema, its faults
    writer      one thread that commits all records that wait at once
    reading     records, and figures for a dashboard
    figures     those figures, computed by the database
    store       the gateway's end: put, judge, prune

SQLite and PostgreSQL hold the same table through the same code. Nothing here knows HTTP.
"""

from distill.errors import MissingExtraError, StoreError
from distill.store.record import TOOLS_LEFT_OUT, Record

try:
    import sqlalchemy as _  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "sqlalchemy":
        raise
    raise MissingExtraError("serve", "distill.store") from None

from distill.store.figures import (
    Decided,
    Disagreement,
    Figures,
    Hour,
    Instead,
    Latency,
    Spent,
)
from distill.store.reading import Reader
from distill.store.store import Store

__all__ = [
    "TOOLS_LEFT_OUT",
    "Decided",
    "Disagreement",
    "Figures",
    "Hour",
    "Instead",
    "Latency",
    "Reader",
    "Record",
    "Spent",
    "Store",
    "StoreError",
]
