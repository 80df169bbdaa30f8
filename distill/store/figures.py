"""What a dashboard shows, summed up by the database: no body of a request leaves it.

Percentiles are nearest ranks, read off the sorted column, so that both databases agree.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, case, distinct, func, literal, select
from sqlalchemy.orm import InstrumentedAttribute

from distill.store.rows import RecordRow as Row
from distill.store.rows import from_instant, to_decision, to_instant
from distill.types import Decision

_HOUR = 3_600_000_000
_DISTINCT = 1000
"""Groups of a breakdown at most, the largest first: names may come from requests."""


@dataclass(frozen=True)
class Hour:
    """Requests of one hour, by who answered and why."""

    hour: datetime
    """Its beginning, in UTC."""
    decided_by: str
    reason: str
    requests: int
    compared: int
    """Those whose decision was compared with the upstream's answer."""
    agreed: int
    failed: int
    """Those with an error."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds over so many requests."""

    requests: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Spent:
    """What requests took, by who answered and by its model; sums over those that state it."""

    decided_by: str
    model: str | None
    requests: int
    stated: int
    """Requests whose usage is known."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Figures:
    """What happened in a span of time."""

    hours: list[Hour]
    """In order of time."""
    router: Latency | None
    """Of the router's decisions; None where there is none."""
    upstream: Latency | None
    """Of whole answers of the upstream."""
    spent: list[Spent]
    """Most requests first."""
    decided: Mapping[str, int]
    """Decisions of the router that call each tool, or reply."""
    answered: Mapping[str, int]
    """Answers of the upstream that call each tool, or reply."""


@dataclass(frozen=True)
class Instead:
    """What the upstream took where the router's decision would have done."""

    latency: Latency | None
    """Of whole answers; None where there are none."""
    spent: list[Spent]


@dataclass(frozen=True)
class Decided:
    """What the router was asked, for comparison with what it was trained on."""

    decisions: int
    sessions: int
    """Conversations that the decisions are of."""
    tools: Mapping[str, int]
    """Decisions that call each tool, or reply."""
    confidences: list[int]
    """Decisions whose confidence is below the first edge, from there to the second, and so on."""
    lengths: list[int]
    """The same of conversations' lengths in characters, the system prompt left out."""


@dataclass(frozen=True)
class Disagreement:
    """A request that the upstream answered otherwise than the router would have."""

    id: str
    at: datetime
    client: str | None
    mode: str
    decided_by: str
    decision: Decision | None
    """The router's."""
    answer: Decision | None
    """The upstream's; its words are in the record."""
    accepted: bool | None


def figures(connection: Connection, since: datetime, until: datetime | None) -> Figures:
    """Figures of the requests from `since` on and before `until`."""
    span = _span(since, until)
    whole = (*span, Row.decided_by == "upstream", Row.error.is_(None))
    return Figures(
        hours=list(_hours(connection, span)),
        router=_latency(connection, Row.router_ms, (*span, Row.decision.is_not(None))),
        upstream=_latency(connection, Row.upstream_ms, whole),
        spent=list(_spent(connection, span)),
        decided=_tools(connection, Row.tools, span),
        answered=_tools(connection, Row.answer_tools, whole),
    )


def instead(
    connection: Connection, since: datetime, until: datetime | None, reasons: Collection[str]
) -> Instead:
    """Of requests with one of these reasons that the upstream answered."""
    span = (*_span(since, until), Row.decided_by == "upstream", Row.reason.in_(reasons))
    whole = (*span, Row.error.is_(None))
    return Instead(_latency(connection, Row.upstream_ms, whole), list(_spent(connection, whole)))


def decided(
    connection: Connection,
    since: datetime,
    until: datetime | None,
    confidences: Sequence[float],
    lengths: Sequence[float],
) -> Decided:
    """Of requests that the router decided; the edges rise."""
    span = (*_span(since, until), Row.decision.is_not(None))
    counts = select(func.count(), func.count(distinct(Row.session))).where(*span)
    decisions, sessions = connection.execute(counts).one()
    return Decided(
        decisions,
        sessions,
        _tools(connection, Row.tools, span),
        _histogram(connection, Row.confidence, confidences, span),
        _histogram(connection, Row.length, lengths, span),
    )


def disagreements(connection: Connection, limit: int) -> list[Disagreement]:
    """The latest, the very latest first."""
    columns = (
        *(Row.id, Row.at, Row.client, Row.mode, Row.decided_by),
        *(Row.decision, Row.answer, Row.accepted),
    )
    latest = select(*columns).where(Row.agreed.is_(False)).order_by(Row.at.desc(), Row.id.desc())
    return [
        Disagreement(
            id=row.id,
            at=from_instant(row.at),
            client=row.client,
            mode=row.mode,
            decided_by=row.decided_by,
            decision=to_decision(row.decision),
            answer=to_decision(row.answer),
            accepted=row.accepted,
        )
        for row in connection.execute(latest.limit(limit))
    ]


def _span(since: datetime, until: datetime | None) -> tuple[ColumnElement[bool], ...]:
    begun = Row.at >= to_instant(since)
    return (begun,) if until is None else (begun, Row.at < to_instant(until))


_Span = tuple[ColumnElement[bool], ...]


def _hours(connection: Connection, span: _Span) -> Iterator[Hour]:
    hour = Row.at // _HOUR
    counts = (
        func.count(),
        func.count(Row.agreed),
        func.count(case((Row.agreed.is_(True), 1))),
        func.count(Row.error),
    )
    key = (hour, Row.decided_by, Row.reason)
    query = select(*key, *counts).where(*span).group_by(*key).order_by(*key)
    for number, decided_by, reason, *sums in connection.execute(query):
        yield Hour(from_instant(number * _HOUR), decided_by, reason, *sums)


def _latency(
    connection: Connection, column: InstrumentedAttribute[float | None], span: _Span
) -> Latency | None:
    known = (*span, column.is_not(None))
    count, mean = connection.execute(select(func.count(), func.avg(column)).where(*known)).one()
    if not count:
        return None

    def rank(share: float) -> Any:
        place = ceil(share * count) - 1
        ordered = select(column).where(*known).order_by(column)
        return connection.scalar(ordered.offset(place).limit(1))

    return Latency(count, float(mean), rank(0.5), rank(0.95), rank(0.99))


def _spent(connection: Connection, span: _Span) -> Iterator[Spent]:
    key = (Row.decided_by, Row.model)
    count = func.count()
    sums = (Row.input_tokens, Row.output_tokens, Row.cached_tokens)
    totals = (func.coalesce(func.sum(column), 0) for column in sums)
    stated = func.count(Row.input_tokens)
    query = select(*key, count, stated, *totals).where(*span).group_by(*key)
    for decided_by, model, *numbers in connection.execute(
        query.order_by(count.desc(), *key).limit(_DISTINCT)
    ):
        yield Spent(decided_by, model, *map(int, numbers))


def _histogram(
    connection: Connection, column: InstrumentedAttribute[Any], edges: Sequence[float], span: _Span
) -> list[int]:
    """How many values lie below the first edge, from there to the second, …, from the last on."""
    passed: ColumnElement[int] = literal(0)
    for edge in edges:
        passed = passed + case((column >= edge, 1), else_=0)
    places = select(passed.label("place")).where(*span, column.is_not(None)).subquery()
    counts = [0] * (len(edges) + 1)
    query = select(places.c.place, func.count()).group_by(places.c.place)
    for place, count in connection.execute(query):
        counts[place] = count
    return counts


def _tools(
    connection: Connection, column: InstrumentedAttribute[str | None], span: _Span
) -> Mapping[str, int]:
    count = func.count()
    query = select(column, count).where(*span, column.is_not(None)).group_by(column)
    tally: Counter[str] = Counter()
    for names, requests in connection.execute(query.order_by(count.desc()).limit(_DISTINCT)):
        for name in set(orjson.loads(names or "[]")):
            tally[name] += requests
    return dict(tally.most_common())
