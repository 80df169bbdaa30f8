"""What is known of one HTTP request when it is over, and who is told: metrics, logs and spans.

It stands around the app, so that a request which is refused or fails is told like any other.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distill.serving.words import CLIENT_LEFT, OTHER
from distill.store.record import Record

_KEY = "distill.seen"
_LEFT = 499  # as nginx has it: the client left before there was a status


@dataclass
class Seen:
    """One HTTP request."""

    method: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    route: str = OTHER
    """The app's pattern that its path fits; `other` until it is routed, and where none does."""
    status: int = _LEFT
    whole: bool = False
    """Whether the last piece of the answer was sent."""
    error: str | None = None
    """What the answer's record does not say: that it broke off, or the app failed."""
    record: Record | None = None
    """Of a chat completion, once there is one."""
    kept: bool | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def ms(self) -> float:
        """Milliseconds until now."""
        return 1000 * (time.perf_counter() - self.started)


def seen_of(scope: Mapping[str, Any]) -> Seen:
    """What is known of the request so far."""
    known = scope.get(_KEY)
    return known if isinstance(known, Seen) else Seen(scope["method"])


class Watching:
    """The app with somebody watching.

    Args:
        span: entered for as long as a request lasts.
        over: told every request that is over.
    """

    def __init__(
        self,
        app: ASGIApp,
        span: Callable[[Scope, Seen], AbstractContextManager[object]],
        over: Callable[[Seen], object],
    ) -> None:
        self._app, self._span, self._over = app, span, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = scope[_KEY] = Seen(scope["method"])

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                seen.whole = True

        try:
            with self._span(scope, seen):
                try:
                    await self._app(scope, receive, noting)
                except Exception as error:
                    seen.status, seen.error = 500, f"internal error: {type(error).__name__}"
                    raise
                finally:
                    seen.route = getattr(scope.get("route"), "path", OTHER)
                    if not seen.whole and seen.error is None and not _has_error(seen):
                        seen.error = CLIENT_LEFT
        finally:
            self._over(seen)


def _has_error(seen: Seen) -> bool:
    return seen.record is not None and seen.record.error is not None
