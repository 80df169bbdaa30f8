"""What the traces say about the teacher: how far it agrees with itself, and what it costs.

Every figure is None where the traces do not say. Agreement is counted over verified decisions
before duplicates are merged, which would hide how often the teacher repeats itself. This module
knows nothing of examples or files.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distill.types import Outcome, Trace


class TeacherTally:
    """Counts over traces, in 8 bytes a trace."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._graded = self._successes = 0
        self._latencies_ms = array("d")
        self._input = self._output = self._token_decisions = 0

    def grade(self, outcome: Outcome) -> None:
        """Count one trace towards the success rate, whatever the outcome filter says."""
        if outcome.success is not None:
            self._graded += 1
            self._successes += outcome.success

    def observe(self, trace: Trace, decisions: int) -> None:
        """Count one trace that passed the outcome filter and holds `decisions` decision points."""
        usage = trace.usage
        self._names.add(trace.teacher)
        if usage.duration_ms is not None and usage.llm_calls:
            self._latencies_ms.append(usage.duration_ms / usage.llm_calls)
        if usage.input_tokens is not None and usage.output_tokens is not None:
            self._input += usage.input_tokens
            self._output += usage.output_tokens
            self._token_decisions += decisions

    def summary(self) -> dict[str, Any]:
        """name, success_rate (of graded traces), latency_ms per LLM call, tokens_per_decision and
        what these are the sum of."""
        latency = None
        if self._latencies_ms:
            p50, p95 = np.percentile(np.frombuffer(self._latencies_ms), [50, 95])
            latency = {"p50": float(p50), "p95": float(p95)}
        decisions = self._token_decisions
        return {
            "name": ", ".join(sorted(self._names)) or None,
            "success_rate": self._successes / self._graded if self._graded else None,
            "latency_ms": latency,
            "tokens_per_decision": _share(self._input + self._output, decisions),
            "input_tokens_per_decision": _share(self._input, decisions),
            "output_tokens_per_decision": _share(self._output, decisions),
        }


def _share(tokens: int, decisions: int) -> float | None:
    return tokens / decisions if decisions else None


def agreement(observations: Iterable[Sequence[int]]) -> dict[str, Any]:
    """The probability that two observations of one context carry the same decision.

    Args:
        observations: per context, how often each distinct decision was observed. A context occurs
            at most once in a trace, so the observations are of different traces.

    Returns:
        `value`: for counts c_k with sum n the unbiased estimate is sum c_k(c_k-1) / n(n-1), the
        complement of Simpson's diversity (Simpson 1949, Nature 163:688), averaged over contexts
        with n >= 2 weighted by n; None without any. `contexts`: how many those are.
    """
    weighted, total, contexts = 0.0, 0, 0
    for counts in observations:
        n = sum(counts)
        if n >= 2:
            contexts += 1
            total += n
            weighted += sum(c * (c - 1) for c in counts) / (n - 1)
    return {"value": weighted / total if total else None, "contexts": contexts}
