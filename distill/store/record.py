"""One request with what became of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from distill.types import Decision, Usage

TOOLS_LEFT_OUT = "reply, asked for without tools"
"""The reason of a record whose request went upstream without the tools it offers: that the LLM
called none is no decision of its own."""


@dataclass(frozen=True)
class Record:
    """One request to the gateway."""

    id: str
    """Unique among all records, those of other processes too: 32 hex digits."""
    at: datetime
    """When it came; aware, kept to the microsecond and in UTC."""
    client: str | None
    """The client's name in `AccessConfig.clients`."""
    session: str
    """What ties the requests of one conversation together."""
    mode: str
    """That of `RolloutConfig` at the time: off, shadow, canary or on."""
    decided_by: Literal["local", "upstream"]
    """Whose answer the client got."""
    reason: str
    """What became of the decision, as `distill.policy.Reason` has it, or why there is none."""
    decision: Decision | None
    """The router's; None where it was not asked, or failed."""
    request: dict[str, Any] | None
    """The request's JSON as the client sent it; None where it was none."""
    response: dict[str, Any] | None
    """The completion that was answered, a stream assembled into one; None where there was none."""
    status: int
    """The HTTP status that the client was told."""
    agreed: bool | None
    """Whether the upstream's answer equals the decision; None where they were not compared."""
    router_ms: float | None
    """Milliseconds until the router had decided."""
    upstream_ms: float | None
    """Milliseconds until the upstream's answer was whole."""
    usage: Usage
    """As the upstream stated it."""
    error: str | None
    """What went wrong with the answer, e.g. `upstream cut off`; None: nothing."""
    accepted: bool | None = None
    """Whether a person takes it for a training example; None: nobody has said."""
