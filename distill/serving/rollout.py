"""How much is decided locally: modes, sessions, budget, and the way back to shadow.

Knows decisions only by whether they agreed or failed, and neither HTTP nor models.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from distill.config import RolloutConfig

Mode = Literal["off", "shadow", "canary", "on"]


@dataclass(frozen=True)
class Plan:
    """What may happen to one request.

    `ask`: the router is asked. `answer`: a decision that the policy takes is answered. Where it is
    asked and may not answer, its decision is compared with the upstream's.
    """

    mode: Mode
    ask: bool
    answer: bool


class Rollout:
    """The mode, and what it allows; one for each process.

    Args:
        config: where it begins.
        on_rollback: told the reason when it goes back to shadow by itself.
        on_switch: told every mode, the first one too.
        clock: seconds, for the budget.
        chance: the source of chance, for what is compared.
    """

    def __init__(
        self,
        config: RolloutConfig,
        on_rollback: Callable[[str], object] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
        on_switch: Callable[[Mode], object] = lambda mode: None,
    ) -> None:
        self.config, self._on_rollback, self._on_switch = config, on_rollback, on_switch
        self._clock, self._chance = clock, chance or random.Random()
        self._answered: deque[float] = deque()
        self.switch(config.mode)

    def plan(self, session: str) -> Plan:
        """For a request of that session (hex, as `wire` makes them)."""
        if self.mode == "off":
            return Plan(self.mode, ask=False, answer=False)
        share = {"on": 1.0, "canary": self.config.share}.get(self.mode, 0.0)
        compared = self._chance.random() < self.config.compare
        return Plan(self.mode, ask=True, answer=_place(session) < share and not compared)

    def spend(self) -> bool:
        """Whether the budget allows one more local answer now, which is then spent."""
        if self.config.per_minute is None:
            return True
        now = self._clock()
        while self._answered and self._answered[0] <= now - 60:
            self._answered.popleft()
        if len(self._answered) >= self.config.per_minute:
            return False
        self._answered.append(now)
        return True

    def switch(self, mode: Mode) -> None:
        """Set the mode; what was counted for the rollback is forgotten."""
        self.mode: Mode = mode
        self._agreements, self._failures = self._windows()
        self._on_switch(mode)

    def compared(self, agreed: bool) -> None:
        """The upstream answered what the policy would have taken: alike, or not."""
        self._agreements.append(agreed)
        rollback = self.config.rollback
        if rollback is None or rollback.agreement is None:
            return
        share = sum(self._agreements) / len(self._agreements)
        if len(self._agreements) >= rollback.least and share < rollback.agreement:
            self._back(f"agreement {share:.2f} is below {rollback.agreement:.2f}")

    def asked(self, failed: bool) -> None:
        """The router was asked, and gave a decision or failed."""
        self._failures.append(failed)
        rollback = self.config.rollback
        if rollback is None or rollback.errors is None:
            return
        share = sum(self._failures) / len(self._failures)
        if len(self._failures) >= rollback.least and share > rollback.errors:
            self._back(f"share of failures {share:.2f} is above {rollback.errors:.2f}")

    def _back(self, reason: str) -> None:
        if self.mode in ("canary", "on"):
            self.switch("shadow")
            self._on_rollback(reason)

    def _windows(self) -> tuple[deque[bool], deque[bool]]:
        rollback = self.config.rollback
        length = rollback.window if rollback else 1
        return deque(maxlen=length), deque(maxlen=length)


def _place(session: str) -> float:
    """Where a session stands between 0 and 1, always the same."""
    return int(session[:8], 16) / 2**32
