"""Logs: JSON lines on standard error, one for each HTTP request, uvicorn's and ours alike.

They never hold a message, an argument or a key: of a request its route is told and not its path, of
an exception where it was raised and of what kind, and not its text. Libraries that log addresses or
headers are held at `warning`.
"""

import logging
import select
import sys
import traceback
from typing import Any, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from distill.config import TelemetryConfig
from distill.serving import words
from distill.serving.watching import Seen

_log = logging.getLogger("distill.serving.requests")
_QUIET = ("httpx", "httpcore", "aiohttp", "urllib3", "opentelemetry", "asyncio", "websockets")
_PROBES = frozenset(("/healthz", "/readyz", "/metrics"))


def log_config(config: TelemetryConfig) -> dict[str, Any]:
    """What `logging.config.dictConfig`, and so `uvicorn.Config(log_config=…)`, takes."""
    level = config.log_level.upper()
    least = logging.getLevelName(max(getattr(logging, level), logging.WARNING))
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}},
        "handlers": {
            "stderr": {"()": Dropping, "formatter": "json"},
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "uvicorn": {"level": level, "handlers": [], "propagate": True},
            # It would log paths with their queries; every request has a line of ours.
            "uvicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
            **{name: {"level": least} for name in _QUIET},
        },
    }


class Dropping(logging.StreamHandler[TextIO]):
    """Writes to standard error, and drops lines while nobody reads them, for no request to wait.

    The lines that were dropped are counted in the next one that is not.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if not _takes(self.stream):
            self._dropped += 1
            return
        if self._dropped:
            record.__dict__["dropped"], self._dropped = self._dropped, 0
        super().emit(record)


def _takes(stream: TextIO) -> bool:
    """Whether a line can be written at once: of a pipe, that it has room for a page."""
    try:
        place = stream.fileno()
    except (OSError, ValueError):
        return True  # no file: a test's
    poll = select.poll()
    poll.register(place, select.POLLOUT)
    return bool(poll.poll(0))


class JsonLines(JsonFormatter):
    """One JSON object a line: `timestamp`, `level`, `logger`, `message`, and what else is known."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp=True,
            # uvicorn repeats its messages with colours.
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging's name)
        """Kinds and places of an exception and its causes, without their texts."""
        parts: list[str] = []
        error: BaseException | None = ei[1]
        while error is not None and len(parts) < 10:
            frames = traceback.extract_tb(error.__traceback__)
            places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
            parts.append("\n".join([type(error).__qualname__, *places]))
            error = error.__cause__ or error.__context__
        return "\n".join(parts)


def log_request(seen: Seen) -> None:
    """The line of an HTTP request that is over."""
    fields: dict[str, Any] = {
        "request_id": seen.id,
        "method": seen.method,
        "route": seen.route,
        "status": seen.status,
        "ms": round(seen.ms, 1),
        "error": seen.error,
    }
    record = seen.record
    if record is not None:
        fields |= {
            "client": record.client,
            "mode": record.mode,
            "decided_by": record.decided_by,
            "reason": words.reason(record.reason),
            "agreed": record.agreed,
            "router_ms": _rounded(record.router_ms),
            "upstream_ms": _rounded(record.upstream_ms),
            "kept": seen.kept,
            "error": seen.error or words.error(record.error),
        }
    wrong = fields["error"] is not None or seen.kept is False or seen.status >= 500
    level = logging.WARNING if wrong else logging.INFO
    if seen.route in _PROBES and not wrong:
        level = logging.DEBUG
    _log.log(level, "request", extra=fields)


def log_rollback(reason: str) -> None:
    """The gateway went back to shadow by itself; `reason` is made of its own figures."""
    _log.warning("rollback", extra={"reason": reason})


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)
