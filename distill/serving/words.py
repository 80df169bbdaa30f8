"""The words that metrics, logs and spans say of a record: of a fixed set, whatever a request holds.

A record's reason and error may quote: a tool's name, an error's class, a part of an answer. What is
counted or logged is the kind alone, so that the number of time series stays small and nothing of a
conversation leaves the store.
"""

from distill.policy import Reason
from distill.serving.wire import Obstacle
from distill.store.record import TOOLS_LEFT_OUT

NOT_ASKED = "router not asked"
"""The reason of a record in mode `off`."""
OVER_BUDGET = "over the budget"
CLIENT_LEFT = "client left"
"""The error of a record, and its reason where the router had not answered by then."""
OTHER = "other"

REASONS = frozenset(
    (
        *(*Reason, *Obstacle, NOT_ASKED, OVER_BUDGET, TOOLS_LEFT_OUT, CLIENT_LEFT),
        *("router failed", "router closed", "router hangs", "router too late"),
    )
)
"""`Record.reason` up to its first colon."""

ERRORS = frozenset(
    (
        *(CLIENT_LEFT, "upstream cut off", "upstream too late", "upstream answer too long"),
        *("upstream not reached", "upstream not connected in time"),
        *("upstream connections all in use", "path leaves the API"),
        *("malformed answer", "content filter", "cut off", "unknown tool"),
    )
)
"""`Record.error` up to its first colon, after `answer: ` where it begins so."""


def reason(text: str) -> str:
    """What became of a decision, or why there is none."""
    return _kind(text, REASONS)


def error(text: str | None) -> str | None:
    """What went wrong with an answer; None: nothing."""
    return None if text is None else _kind(text.removeprefix("answer: "), ERRORS)


def status_class(status: int) -> str:
    """`2xx` and so on."""
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER


def _kind(text: str, known: frozenset[str]) -> str:
    if text in known:
        return str(text)
    kind = text.partition(":")[0]
    return kind if kind in known else OTHER
