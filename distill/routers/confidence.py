"""What a router's confidence is worth: its calibration, and the thresholds it may be trusted from.

Both are fitted after training, on the calibration part alone (`distill.evaluation.calibrate`,
`distill.evaluation.risk`), and stand in `router.json`. Every router passes its decisions through
`calibrated` last.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from distill.types import Decision

_LEAST = 1e-9
"""Raw confidences are taken to be at least this far from 0 and 1, whose log-odds are infinite."""


def log_odds(confidence: float) -> float:
    """log(p / (1 - p)), finite for every p from 0 to 1."""
    p = min(max(confidence, _LEAST), 1 - _LEAST)
    return math.log(p) - math.log1p(-p)


@dataclass(frozen=True)
class Calibration:
    """Raw confidence -> probability that the decision is right as it stands.

    A decision is right if its tools are the teacher's, and, where all its calls have arguments,
    these are, too (`distill.evaluation.metrics.right`). The map is Platt's (1999) on the
    confidence's log-odds, p = sigmoid(slope * log_odds(raw) + offset), which with offset 0 is
    temperature scaling of a two-class decision (Guo et al. 2017, arXiv:1706.04599). It rises
    strictly (`slope` > 0), so it changes no order, and a threshold means the same before and after.
    """

    slope: float
    offset: float
    n: int
    """Decisions it was fitted on."""
    n_groups: int
    """Groups these are from."""

    def __call__(self, raw: float) -> float:
        """A raw 0 stays 0: it marks an answer that is no decision."""
        return self.of_odds(log_odds(raw)) if raw > 0 else 0.0

    def of_odds(self, odds: float) -> float:
        """The same of a raw confidence's log-odds."""
        x = self.slope * odds + self.offset
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0  # exp overflows beyond 709


@dataclass(frozen=True)
class Threshold:
    """Decisions of at least this confidence are wrong at most `alpha` of the time.

    So says the calibration part with probability 1 - `delta`; how, and where the promise ends,
    `distill.evaluation.risk` says.
    """

    alpha: float
    delta: float
    tool: str | None
    """Of decisions that call this tool (`reply`: that call none) alone; None: of all."""
    threshold: float | None
    """A calibrated confidence; None: the data does not support the promise at any."""
    coverage: float
    """Share of the calibration decisions (of this tool) at or above the threshold."""
    error: float | None
    """Share of these that are wrong; None where there are none."""
    bound: float | None
    """Upper confidence bound of that share at level 1 - `delta`."""
    n: int
    """Calibration decisions (of this tool), above the threshold or not."""
    n_groups: int
    """Groups these are from."""


def calibrated(decisions: list[Decision], calibration: Calibration | None) -> list[Decision]:
    """The decisions with probabilities for confidences; as they are without a calibration."""
    if calibration is None:
        return decisions
    return [
        decision
        if decision.confidence is None
        else replace(decision, confidence=calibration(decision.confidence))
        for decision in decisions
    ]


def calibration_json(value: Calibration | None) -> dict[str, Any] | None:
    """For `router.json`."""
    return None if value is None else asdict(value)


def parse_calibration(value: Any) -> Calibration | None:
    """Inverse of `calibration_json`.

    Raises:
        ValueError, TypeError: it is something else.
    """
    if value is None:
        return None
    found = Calibration(**value)
    if not (0 < found.slope < math.inf and math.isfinite(found.offset)):
        raise ValueError("calibration: not a rising, finite map")
    return found
