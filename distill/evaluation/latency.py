"""How fast a router decides, in process: one context at a time, and in batches.

It says nothing about quality, and nothing about a server's queue or network.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np

from distill.types import Context, Decision, Router

_WARM_UP = 3
_LEAST = {"p95": 20, "p99": 100}  # below, the percentile is the slowest sample, or beyond it


class Latency(TypedDict):
    """Percentiles of the time of one decision, in milliseconds; None where not known."""

    p50: float
    p95: float | None
    p99: float | None


class StageTime(TypedDict):
    """Median time of the timed decisions in which a stage had the last word, in milliseconds."""

    p50: float
    samples: int


class Timing(TypedDict):
    """What `measure` found."""

    latency_ms: Latency
    latency_samples: int
    decisions_per_s: float | None
    """None where decisions were had from an LLM, whose answers may be kept ones."""
    stages: dict[str, StageTime]
    """By the stages of a cascade; empty of any other router."""


def supported(timing: Timing) -> Timing:
    """The timing without the percentiles that its samples are too few to tell.

    p95 needs 20 samples and p99 needs 100: of fewer, less than one lies above the percentile.
    """
    latency, samples = timing["latency_ms"], timing["latency_samples"]
    return {
        **timing,
        "latency_ms": {
            "p50": latency["p50"],
            "p95": latency["p95"] if samples >= _LEAST["p95"] else None,
            "p99": latency["p99"] if samples >= _LEAST["p99"] else None,
        },
    }


def recorded(decisions: Sequence[Decision]) -> Timing | None:
    """The timing of decisions that requests to an LLM took; None where none was asked.

    Waits for a rate limit and failed attempts are not in it (`distill.endpoint.Answer`).
    """
    times = [
        d.usage.duration_ms
        for d in decisions
        if d.usage is not None and d.usage.duration_ms is not None
    ]
    if not times:
        return None
    p50, p95, p99 = (float(ms) for ms in np.percentile(times, [50, 95, 99]))
    return {
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
        "latency_samples": len(times),
        "decisions_per_s": None,
        "stages": {},
    }


def measure(router: Router, contexts: Iterable[Context], samples: int, batch_size: int) -> Timing:
    """Time `samples` single decisions, then about as many in full batches of `batch_size`.

    Contexts, at least one, are taken in turn, again from the first when they run out. A few untimed
    decisions of each sort come first, for lazy imports, caches and allocators. `decide` returns
    plain objects, so a GPU's work is done when the clock is read. All percentiles are given,
    however few the samples; `supported` takes out what they cannot tell.
    """
    turn = itertools.cycle(contexts)
    for _ in range(_WARM_UP):
        router.decide([next(turn)])
    seconds, by_stage = [], defaultdict(list)
    for _ in range(samples):
        one = [next(turn)]
        start = time.perf_counter()
        (decision,) = router.decide(one)
        seconds.append(time.perf_counter() - start)
        if decision.stage is not None:
            by_stage[decision.stage].append(1000 * seconds[-1])

    batches = [list(itertools.islice(turn, batch_size)) for _ in range(-(-samples // batch_size))]
    router.decide(batches[0])
    start = time.perf_counter()
    for batch in batches:
        router.decide(batch)
    elapsed = time.perf_counter() - start

    p50, p95, p99 = (float(ms) for ms in np.percentile(np.array(seconds) * 1000, [50, 95, 99]))
    return {
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
        "latency_samples": samples,
        "decisions_per_s": len(batches) * batch_size / elapsed,
        "stages": {
            stage: {"p50": float(np.median(times)), "samples": len(times)}
            for stage, times in sorted(by_stage.items())
        },
    }
