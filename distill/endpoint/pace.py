"""When the next request may go out, over all threads of a client."""

from collections.abc import Callable
from threading import Lock


class Pace:
    """Evenly spaced starts, and none before the time that an endpoint asked for.

    Args:
        per_minute: starts in a minute at most; None does not space them.
        now: seconds of a clock that never goes back.
        sleep: waits so many seconds.
    """

    def __init__(
        self, per_minute: float | None, now: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._now, self._sleep = now, sleep
        self._next = now()
        self._lock = Lock()

    def wait(self) -> None:
        """Return when the caller may start."""
        with self._lock:
            now = self._now()
            start = max(now, self._next)
            self._next = start + self._interval
        if start > now:
            self._sleep(start - now)

    def hold(self, seconds: float) -> None:
        """Let nobody start before so many seconds have passed."""
        with self._lock:
            self._next = max(self._next, self._now() + seconds)
