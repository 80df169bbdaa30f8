"""stub."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from distill.types import Decision, Usage


@dataclass(frozen=True)
class Record:
    id: str
    at: datetime
    client: str | None
    session: str
    mode: str
    decided_by: Literal["local", "upstream"]
    reason: str
    decision: Decision | None
    request: dict[str, Any] | None
    response: dict[str, Any] | None
    status: int
    agreed: bool | None
    router_ms: float | None
    upstream_ms: float | None
    usage: Usage
    error: str | None
    accepted: bool | None = None
