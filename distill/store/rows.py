"""A record <-> a row of the table.

Requests, answers and decisions are JSON in text columns. What figures are made of stands in columns
of its own, so that no figure reads a body: the decided tools, the answer's calls, the model, the
usage. Times are whole microseconds since 1970, which either database holds and divides exactly.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import BigInteger, Boolean, Double, Index, Integer, RowMapping, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from distill.chat import decision_json, parse_decision, parse_message, parse_messages
from distill.store.record import Record
from distill.store.redact import Redaction
from distill.types import Decision, Usage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MODEL_CHARS = 200


class Base(DeclarativeBase):
    """Of the tables."""


class SettingRow(Base):
    """What all processes of a gateway share besides records: a name and its value."""

    __tablename__ = "distill_settings"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class RecordRow(Base):
    """One request. The bodies come last: SQLite then reads past none that it is not asked for."""

    __tablename__ = "distill_records"
    __table_args__ = (Index("distill_records_at", "at", "id"),)

    id: Mapped[str] = mapped_column(String, primary_key=True)
    at: Mapped[int] = mapped_column(BigInteger)
    client: Mapped[str | None] = mapped_column(Text)
    session: Mapped[str] = mapped_column(Text)
    mode: Mapped[str] = mapped_column(Text)
    decided_by: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    status: Mapped[int] = mapped_column(Integer)
    agreed: Mapped[bool | None] = mapped_column(Boolean)
    accepted: Mapped[bool | None] = mapped_column(Boolean)
    router_ms: Mapped[float | None] = mapped_column(Double)
    upstream_ms: Mapped[float | None] = mapped_column(Double)
    error: Mapped[str | None] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(Text)
    """Who answered, by its own account, else who was asked for."""
    input_tokens: Mapped[int | None] = mapped_column(BigInteger)
    output_tokens: Mapped[int | None] = mapped_column(BigInteger)
    llm_calls: Mapped[int | None] = mapped_column(BigInteger)
    duration_ms: Mapped[float | None] = mapped_column(Double)
    cached_tokens: Mapped[int | None] = mapped_column(BigInteger)
    tools: Mapped[str | None] = mapped_column(Text)
    """`Decision.tools` of the router's decision, as JSON."""
    answer_tools: Mapped[str | None] = mapped_column(Text)
    """The same of the answer; null where it cannot be read."""
    confidence: Mapped[float | None] = mapped_column(Double)
    """The router's decision's."""
    length: Mapped[int | None] = mapped_column(BigInteger)
    """Of a conversation that the router decided in: characters, the system prompt left out."""
    decision: Mapped[str | None] = mapped_column(Text)
    answer: Mapped[str | None] = mapped_column(Text)
    """The answer as a decision."""
    request: Mapped[str | None] = mapped_column(Text)
    response: Mapped[str | None] = mapped_column(Text)


def to_row(record: Record, redaction: Redaction) -> dict[str, Any]:
    """The record's columns, redacted.

    Raises ValueError or TypeError for a record that is not what `Record` says.
    """
    request = None if record.request is None else redaction.request(record.request)
    response = None if record.response is None else redaction.value(record.response)
    decision = None if record.decision is None else redaction.decision(record.decision)
    answer = _answer(response)
    usage = record.usage
    return {
        "id": record.id,
        "at": to_instant(record.at),
        "client": _plain(record.client),
        "session": _plain(record.session),
        "mode": _plain(record.mode),
        "decided_by": record.decided_by,
        "reason": _plain(record.reason),
        "status": record.status,
        "agreed": record.agreed,
        "accepted": record.accepted,
        "router_ms": record.router_ms,
        "upstream_ms": record.upstream_ms,
        "error": _plain(record.error),
        "model": _model(response, request),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "llm_calls": usage.llm_calls,
        "duration_ms": usage.duration_ms,
        "cached_tokens": usage.cached_tokens,
        "tools": None if decision is None else _dumps(decision.tools),
        "answer_tools": None if answer is None else _dumps(answer.tools),
        "confidence": None if decision is None else decision.confidence,
        "length": None if decision is None else _length(record.request),
        "decision": None if decision is None else _dumps(decision_json(decision)),
        "answer": None if answer is None else _dumps(decision_json(answer)),
        "request": None if request is None else _dumps(request),
        "response": None if response is None else _dumps(response),
    }


def to_record(row: RowMapping) -> Record:
    """Inverse of `to_row`, but for what was redacted."""
    return Record(
        id=row["id"],
        at=from_instant(row["at"]),
        client=row["client"],
        session=row["session"],
        mode=row["mode"],
        decided_by=row["decided_by"],
        reason=row["reason"],
        decision=to_decision(row["decision"]),
        request=_loads(row["request"]),
        response=_loads(row["response"]),
        status=row["status"],
        agreed=row["agreed"],
        router_ms=row["router_ms"],
        upstream_ms=row["upstream_ms"],
        usage=Usage(
            row["input_tokens"],
            row["output_tokens"],
            row["llm_calls"],
            row["duration_ms"],
            row["cached_tokens"],
        ),
        error=row["error"],
        accepted=row["accepted"],
    )


def to_decision(text: str | None) -> Decision | None:
    """What stands in `decision` or `answer`."""
    value = _loads(text)
    return None if value is None else parse_decision(value)


def to_instant(at: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_instant(instant: int) -> datetime:
    """Inverse of `to_instant`, in UTC."""
    return _EPOCH + timedelta(microseconds=instant)


def _answer(response: Mapping[str, Any] | None) -> Decision | None:
    """The first choice of a completion as a decision; None where there is none to be read."""
    try:
        message = parse_message(response["choices"][0]["message"])  # type: ignore[index]
    except (LookupError, TypeError, ValueError):
        return None
    return Decision("call" if message.calls else "reply", message.calls)


def _length(request: Mapping[str, Any] | None) -> int | None:
    """As `distill.evaluation.difficulty` counts it; None where there are no messages to be read."""
    try:
        messages = parse_messages(request["messages"])  # type: ignore[index]
    except (LookupError, TypeError, ValueError):
        return None
    return sum(len(message.content or "") for message in messages if message.role != "system")


def _model(*bodies: Mapping[str, Any] | None) -> str | None:
    names = (body.get("model") for body in bodies if body is not None)
    name = next((name for name in names if isinstance(name, str)), None)
    return None if name is None else _plain(name[:_MODEL_CHARS])


def _plain(text: str | None) -> str | None:
    """The text with U+FFFD or `?` for what the databases cannot hold: NUL, lone surrogates."""
    if text is None:
        return None
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _dumps(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # A number beyond 64 bits, or half a character: JSON all the same.
        return json.dumps(value)


def _loads(text: str | None) -> Any:
    # orjson would read a number beyond 64 bits as the nearest double.
    return None if text is None else json.loads(text)
